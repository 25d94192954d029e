"""Laws of what a plan knows without compiling: slices, sizes of models, least work."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jax_switchgen.checkpoints.hf import load_transformer
from jax_switchgen.checkpoints.hf_config import read_config
from jax_switchgen.checkpoints.known_shapes import model_shape
from jax_switchgen.models.params import model_specs, num_params
from jax_switchgen.models.sharding import tensor_mesh
from jax_switchgen.models.transformer import Transformer
from jax_switchgen.planning.chips import slice_called
from jax_switchgen.planning.least import (
    chunk_least,
    decode_least,
    share_of,
    train_least,
)
from jax_switchgen.planning.shapes import abstract_params
from jax_switchgen.policies.build import with_shared_shapes
from tests import tiny
from tests.hf_models import make_model, one_line_error, save_model


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
    embedding, and 1.07 GB of keys and values. Where heads of keys do not divide, each
    chip holds them all, and reads those of its queries."""
    config = model_shape("allenai/Llama-3.1-Tulu-3-8B", print)
    mesh = tensor_mesh(jax.devices()[:4])
    least = decode_least(share_of(config, mesh, "bfloat16"), 32, 1024, 50)
    weights = (num_params(config) - config.vocab_size * config.embed_dim) * 2 / 4
    keys = 2 * 32 * 1024 * 32 * 8 * 128 * 2 / 4
    assert least.hbm_bytes == pytest.approx(weights + keys, rel=0.01)
    assert least.flops == pytest.approx(
        32 * weights + 4 * 32 * 1024 * 32 * 1024, rel=0.01
    )
    one_head = dataclasses.replace(config, num_kv_heads=1)
    assert share_of(one_head, mesh, "bfloat16").kv_heads == 1
    two = share_of(dataclasses.replace(config, num_kv_heads=2), mesh, "bfloat16")
    assert two.kv_heads == 2 and two.read_bytes(1000) == two.cache_bytes(1000) / 2


def test_local_layers_see_their_window():
    """8 tokens behind 12: 13, 14, … 20 keys, of which a window of 16 has 13 … 16."""
    share = share_of(tiny.WINDOWED, tensor_mesh(jax.devices()[:1]), "float32")
    assert share.keys_seen(12, 8) == [13 + 14 + 15 + 5 * 16, sum(range(13, 21))]


@pytest.mark.parametrize("tensor", [1, 2, 4])
@pytest.mark.parametrize("quantization", [None, "int8"])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_planned_model_is_a_loaded_one_without_its_weights(
    tmp_path, name, quantization, tensor
):
    """Every array of it, scales too: shape, dtype, and what each device has."""
    mesh = tensor_mesh(jax.devices()[:tensor])
    sizes = dict(num_attention_heads=4, num_key_value_heads=2, intermediate_size=52)
    folder = save_model(make_model(name, **sizes), tmp_path)
    config = with_shared_shapes({name: read_config(folder)}, tensor)[name]
    loaded = load_transformer(
        *(folder,),
        dtype=jnp.bfloat16,
        mesh=mesh,
        vocab_size=config.vocab_size,
        quantization=quantization,
    )
    params = abstract_params(config, mesh, "bfloat16", quantization)
    planned = Transformer(config, params)

    def seen(x):
        return x.shape, x.dtype, x.sharding.shard_shape(x.shape)

    assert jax.tree.structure(planned) == jax.tree.structure(loaded)
    for expected, found in zip(
        jax.tree.leaves(loaded), jax.tree.leaves(planned), strict=True
    ):
        assert seen(found) == seen(expected)
    one = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(loaded))
    assert share_of(config, mesh, "bfloat16", quantization).params_bytes == one


@pytest.mark.parametrize("tie", [False, True])
def test_a_decode_step_of_int8_reads_values_and_scales(tie):
    """Of all that it uses, which the embedding is only as a head."""
    config = dataclasses.replace(tiny.CONFIG, tie_embeddings=tie)
    mesh = tensor_mesh(jax.devices()[:1])
    used = [
        spec.shape
        for path, spec in model_specs(config).items()
        if spec.is_matrix and (path != "embed" or tie)
    ]
    found = [
        # Rows of 0 positions: weights, and of the cache the row's own.
        decode_least(share_of(config, mesh, "bfloat16", kind), 1, 0, 1)
        for kind in (None, "int8")
    ]
    assert found[0].flops == found[1].flops
    own = found[0].hbm_bytes - sum(2 * o * i for o, i in used)
    assert found[1].hbm_bytes == own + sum(o * i + 4 * o for o, i in used)


def test_the_last_layer_is_asked_for_no_more_than_is_used():
    """Of a read keys and values; of a probe, and of an example to learn from, one token
    of each row more. Counted by hand, in 2 layers."""
    mesh, T = tensor_mesh(jax.devices()[:1]), 5
    share = share_of(tiny.CONFIG, mesh, "float32")
    kv, q, mlp = 2 * 32 * 16, 2 * 32 * 32, 3 * 32 * 48
    block, rest = kv + q + mlp, q + mlp
    one_key = 4 * 32  # FLOPs
    # Queries of the first layer see 8 keys of the past, and 1 … 5 of their own.
    first = T * 8 + 1 + 2 + 3 + 4 + 5
    read = 2 * T * (block + kv) + one_key * first
    assert chunk_least(share, 1, T, 8).flops == read
    probe = chunk_least(share, 1, T, 8, labels=3)
    expected = read + 2 * (rest + 3 * 32) + one_key * (8 + T)
    assert probe.flops == pytest.approx(expected, rel=1e-12)
    example = T * (block + kv) + rest + 32 * 272
    keys = 1 + 2 + 3 + 4 + 5 + T
    expected = 2 * 2 * example + 3 * one_key * keys
    assert train_least(share, 1, T, adapter=True).flops == expected
