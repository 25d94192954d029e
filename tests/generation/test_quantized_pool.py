"""Candidates of int8 weights speak like any other: in a pool, adapted, on a mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_switchgen.checkpoints.hf import export_transformer, load_transformer
from jax_switchgen.checkpoints.peft import merge
from jax_switchgen.checkpoints.safetensors_file import StoredTensor
from jax_switchgen.checkpoints.store import (
    restore_transformer,
    save_checkpoint,
    save_transformer,
)
from jax_switchgen.generation.engine import Engine
from jax_switchgen.models.lora import Lora, LoraPair
from jax_switchgen.models.quantization import Int8Matrix
from jax_switchgen.policies.build import (
    CandidateOptions,
    PolicyOptions,
    SwitcherSource,
    build_engine,
)
from jax_switchgen.policies.simple import Schedule
from jax_switchgen.training.build import build_learner
from jax_switchgen.training.options import TrainingOptions
from tests import tiny
from tests.hf_models import one_line_error
from tests.launch.conftest import save_checkpoint as save_tiny

QUERIES = ["hello", "a longer prompt than that", "why?"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two checkpoints `a` and `b`, and `a` as an Orbax folder."""
    root = tmp_path_factory.mktemp("pool")
    for seed, name in enumerate("ab"):
        save_tiny(root / name, seed=seed)
    save_checkpoint(
        load_transformer(root / "a", dtype=jnp.float32), root / "a", root / "store"
    )
    return root


def load(folder, **options):
    return load_transformer(folder, dtype=jnp.float32, **options)


def texts(engine):
    return [
        [i for s in r.segments for i in s.token_ids] for r in engine.generate(QUERIES)
    ]


def test_a_pool_of_int8_and_float_candidates(folders):
    """Through the config's field; greedy, it is the loop that reads all again."""
    engine = build_engine(
        [
            CandidateOptions(
                name="a",
                path=str(folders / "a"),
                prompt_format="raw",
                quantization="int8",
            ),
            CandidateOptions(name="b", path=str(folders / "b"), prompt_format="raw"),
        ],
        PolicyOptions(name="round_robin"),
        SwitcherSource(path=str(folders / "a")),
        tiny.generation(max_new_tokens=16),
        dtype="float32",
    )
    models = [speaker.model for speaker in engine.speakers]
    assert [model.quantization for model in models] == ["int8", None]
    for query, found in zip(QUERIES, texts(engine), strict=True):
        prompt = tiny.byte_tokenizer().encode(query)
        expected: list[int] = []
        for model in models:
            new = tiny.greedy(model, prompt + expected, 8)
            expected += new
            if len(new) < 8:
                break
        assert found == expected


def test_an_adapted_candidate_on_a_mesh_writes_the_same_tokens(folders):
    """Eight devices; loaded onto them, a share of each matrix is read on each."""
    kinds = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=kinds)
    keys = jax.random.split(jax.random.key(5), 2)
    pair = LoraPair(
        jax.random.normal(keys[0], (4, 32)), jax.random.normal(keys[1], (32, 4)), 0.05
    )
    lora = Lora(({"q": pair}, {"o": pair}))

    def engine(**options):
        models = [load(folders / n, quantization="int8", **options) for n in "ab"]
        speakers = [
            tiny.speaker("a", models[0], lora=lora),
            tiny.speaker("b", models[1]),
        ]
        return Engine(speakers, Schedule((0, 1)), tiny.generation())

    one = texts(engine())
    with jax.set_mesh(mesh):
        assert texts(engine(mesh=mesh)) == one
    plain = Engine(
        [tiny.speaker(n, load(folders / n, quantization="int8")) for n in "ab"],
        Schedule((0, 1)),
        tiny.generation(),
    )
    assert texts(plain) != one


def test_folders_of_both_kinds_are_the_same_model(folders):
    """Whatever the dtype of the rest, weights are rounded once, from what is stored."""
    found = load(folders / "a", quantization="int8").arrays()
    for dtype in ("float32", "bfloat16"):
        other = restore_transformer(
            folders / "store", dtype=jnp.dtype(dtype), quantization="int8"
        )
        assert other.dtype == dtype and other.quantization == "int8"
        for path, x in other.arrays().items():
            if isinstance(x, Int8Matrix):
                jax.tree.map(np.testing.assert_array_equal, x, found[path])
            else:
                assert x.dtype == dtype and x.ndim == 1


def test_a_tensor_is_quantized_before_the_next_is_read(folders, monkeypatch):
    """So that no more than one of them is in memory as it was stored."""
    alive: list[int] = []
    read = StoredTensor.read

    def counted(self, index=(slice(None),)):
        alive.append(sum(x.nbytes for x in jax.live_arrays() if x.ndim == 2))
        return read(self, index)

    monkeypatch.setattr(StoredTensor, "read", counted)
    before = sum(x.nbytes for x in jax.live_arrays() if x.ndim == 2)
    model = load(folders / "a", quantization="int8")
    weights = sum(
        x.values_OI.nbytes for x in model.arrays().values() if isinstance(x, Int8Matrix)
    )
    assert weights / 2 < max(alive) - before <= weights


def test_what_needs_the_trained_weights_is_refused(folders, tmp_path):
    model = load(folders / "a", quantization="int8")
    with one_line_error("'int8'", "exported", "quantization=None"):
        export_transformer(model, tmp_path / "out", folders / "a")
    with one_line_error("'int8'", "saved"):
        save_transformer(model, tmp_path / "out")
    with one_line_error("'int8'", "merged"):
        merge(model, Lora(({}, {})))
    assert not (tmp_path / "out").exists()


def test_config_errors_are_one_line(folders):
    candidate = CandidateOptions(name="a", path=str(folders / "a"))
    switcher = SwitcherSource(path=str(folders / "a"), quantization="int8")

    def build(candidate, switcher):
        build_engine(
            [candidate],
            PolicyOptions(name="random"),
            switcher,
            tiny.generation(),
            dtype="float32",
        )

    with one_line_error("candidates[0].quantization='int4'", "'int8', None"):
        build(dataclasses.replace(candidate, quantization="int4"), switcher)
    with one_line_error("switcher.quantization='fp8'", "'int8', None"):
        build(candidate, dataclasses.replace(switcher, quantization="fp8"))
    options = TrainingOptions(rollouts=("none.jsonl",), output="out", lora_rank=0)
    with one_line_error("switcher.quantization='int8'", "lora_rank=0", "adapter"):
        build_learner([candidate], switcher, options, mesh=None)
