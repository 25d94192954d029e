"""Laws of what a plan knows without compiling: slices, sizes of models, least work."""

import dataclasses

import jax
import pytest

from jax_switchgen.checkpoints.known_shapes import model_shape
from jax_switchgen.models.sharding import tensor_mesh
from jax_switchgen.models.transformer import num_params
from jax_switchgen.planning.chips import slice_called
from jax_switchgen.planning.least import decode_least, share_of
from tests.hf_models import one_line_error


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("meta-llama/Llama-3.1-8B", 8.030),
        ("allenai/Llama-3.1-Tulu-3-8B-SFT", 8.030),
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.494),
        ("Qwen/Qwen2.5-7B", 7.616),
        ("bunsenfeng/yuru_qw_oasst1", 7.616),
        ("allenai/OLMo-2-1124-7B-Instruct", 7.299),
    ],
)
def test_known_models_have_their_published_sizes(name, billions, monkeypatch):
    """Parameters as the models' cards give them; nothing is fetched."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert num_params(model_shape(name, print)) / 1e9 == pytest.approx(
        billions, abs=6e-4
    )


def test_an_unknown_model_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with one_line_error("nobody/nothing", "not known", "config.json"):
        model_shape("nobody/nothing", lambda line: None)


@pytest.mark.parametrize(
    ("name", "chips", "per_host"),
    [
        *(("v4-8", 4, 4), ("v4-32", 16, 4), ("v5p-8", 4, 4)),
        *(("v5e-1", 1, 1), ("v5e-8", 8, 8), ("v5e-16", 16, 4), ("v6e-4", 4, 4)),
    ],
)
def test_slices_have_the_chips_that_their_names_say(name, chips, per_host):
    """Names count cores on v4 and v5p, chips elsewhere; 8 of those are one host."""
    found = slice_called(name)
    assert (found.num_chips, found.chips_per_host) == (chips, per_host)


def test_an_unknown_slice_is_one_line():
    with one_line_error("'v9-8'", "v4", "v6e"):
        slice_called("v9-8")
    with one_line_error("'v4-7'", "8, 16, 32"):
        slice_called("v4-7")


def test_the_least_of_a_decode_step_is_weights_and_keys():
    """8B on 4 chips, 32 rows of 1,024 positions: 3.75 GB of weights, all but the
    embedding, and 1.07 GB of keys and values; half of that where heads of keys do not
    divide, only for the weights."""
    config = model_shape("allenai/Llama-3.1-Tulu-3-8B", print)
    mesh = tensor_mesh(jax.devices()[:4])
    least = decode_least(share_of(config, mesh), 32, 1024, 50, 2)
    weights = (num_params(config) - config.vocab_size * config.embed_dim) * 2 / 4
    keys = 2 * 32 * 1024 * 32 * 8 * 128 * 2 / 4
    assert least.hbm_bytes == pytest.approx(weights + keys, rel=0.01)
    assert least.flops == pytest.approx(
        32 * weights + 4 * 32 * 1024 * 32 * 1024, rel=0.01
    )
    one_head = dataclasses.replace(config, num_kv_heads=1)
    assert share_of(one_head, mesh).kv_heads == 1
