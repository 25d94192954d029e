"""Laws of building an engine from a config's sections, on eight fake devices."""

import dataclasses

import pytest

from jax_switchgen.models.sharding import MeshOptions
from jax_switchgen.policies.build import (
    CandidateOptions,
    PolicyOptions,
    SwitcherSource,
    build_engine,
    with_shared_shapes,
)
from tests import tiny
from tests.hf_models import one_line_error
from tests.launch.conftest import save_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    save_checkpoint(folder / "p", seed=0)
    save_checkpoint(folder / "a", seed=1)
    return folder


def built(folder, tensor: int):
    return build_engine(
        [
            CandidateOptions(name=n, path=str(folder / n), prompt_format="raw")
            for n in ("p", "a")
        ],
        PolicyOptions(name="switcher"),
        SwitcherSource(path=str(folder / "a")),
        tiny.generation(),
        dtype="float32",
        mesh=MeshOptions(tensor=tensor),
    )


def test_a_pool_is_loaded_onto_the_mesh_of_its_config(folder):
    """Candidates and the switcher, every matrix split; and the text is that of one
    device."""
    alone, shared = built(folder, 1), built(folder, 2)
    models = [speaker.model for speaker in shared.speakers]
    for model in [*models, shared.policy.reader.model]:
        matrices = [x for x in model.arrays().values() if x.ndim == 2]
        assert all(len(x.devices()) == 2 for x in matrices)
        assert not any(x.is_fully_replicated for x in matrices)
    (expected,), (found,) = (engine.generate(["Why?"]) for engine in (alone, shared))
    assert found.output_tokens == 40
    assert [s.token_ids for s in found.segments] == [
        s.token_ids for s in expected.segments
    ]


def test_heads_that_do_not_divide_are_one_line(folder):
    with one_line_error("'heads'", "size 4", "'tensor'", "size 8", "1 or 2 or 4"):
        built(folder, 8)


def test_vocabularies_are_filled_up_to_one_size_that_divides():
    """Siblings of 270 and 271 tokens over 4 devices have 272; a model of another shape
    its own size, and one device adds nothing."""
    wide = dataclasses.replace(tiny.CONFIG, mlp_dim=64, vocab_size=301)
    sizes = {"p": 270, "a": 271}
    configs = {
        n: dataclasses.replace(tiny.CONFIG, vocab_size=v) for n, v in sizes.items()
    }
    found = with_shared_shapes({**configs, "wide": wide}, 4)
    assert {n: c.vocab_size for n, c in found.items()} == {
        "p": 272,
        "a": 272,
        "wide": 304,
    }
    assert found["p"] == found["a"]
    assert with_shared_shapes({"wide": wide}, 1) == {"wide": wide}
