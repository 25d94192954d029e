"""int8 weights: rounded by half a step at most, and a model that is nearly the same."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jax_switchgen.models.config import ModelConfig, NormPlacement, QKNorm, Rope
from jax_switchgen.models.lora import Lora, LoraPair
from jax_switchgen.models.matmul import linear, rows
from jax_switchgen.models.params import model_specs
from jax_switchgen.models.quantization import (
    Int8Matrix,
    check_quantization,
    quantize,
)
from jax_switchgen.models.sharding import param_shardings
from jax_switchgen.models.transformer import Transformer, init_transformer
from tests import tiny
from tests.hf_models import one_line_error, relative_error, some_tokens

_GEMMA = dict(
    activation="gelu_tanh",
    norm_plus_one=True,
    norm_in_float32=True,
    norm_placement=NormPlacement.BOTH,
    embed_scale=32**0.5,
    tie_embeddings=True,
    sliding_window=16,
    local_layers=(True, False),
)
FAMILIES = {
    "llama": {},
    "smollm2": dict(tie_embeddings=True),
    "mistral": dict(sliding_window=16, local_layers=(True, True)),
    "qwen2": dict(qkv_bias=True),
    "qwen3": dict(qk_norm=QKNorm.HEAD),
    "gemma2": _GEMMA | dict(attn_softcap=50.0, final_softcap=30.0),
    "gemma3": _GEMMA | dict(qk_norm=QKNorm.HEAD, rope_local=Rope(theta=1e3)),
    "olmo2": dict(qk_norm=QKNorm.ALL, norm_placement=NormPlacement.POST),
}

forward: Callable[..., jax.Array] = jax.jit(lambda model, t, lora=None: model(t, lora))


def config_of(family: str) -> ModelConfig:
    return dataclasses.replace(tiny.CONFIG, family=family, **FAMILIES[family])


def quantized(model: Transformer) -> Transformer:
    """As loading it with quantization="int8" leaves it."""
    specs = model_specs(model.config)
    params = model.arrays()
    return Transformer(
        model.config,
        {p: quantize(x) if specs[p].is_matrix else x for p, x in params.items()},
    )


def dequantized(model: Transformer) -> Transformer:
    params = model.arrays()
    return Transformer(
        model.config,
        {
            p: x.dequantized("float32") if isinstance(x, Int8Matrix) else x
            for p, x in params.items()
        },
    )


MATRICES = arrays.arrays(
    np.float32,
    (4, 6),
    elements=st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False),
)


@given(MATRICES)
def test_no_weight_moves_by_more_than_half_a_step(w_OI):
    """A step is 1/127 of the largest weight of the row, whatever the others hold."""
    matrix = quantize(jnp.asarray(w_OI))
    assert matrix.values_OI.dtype == jnp.int8
    step_O = np.maximum(np.abs(w_OI).max(1) / 127, np.finfo(np.float32).tiny)
    np.testing.assert_allclose(matrix.scale_O, step_O, rtol=1e-6)
    error_OI = np.abs(np.float64(matrix.dequantized("float32")) - w_OI)
    assert (error_OI <= 0.5001 * step_O[:, None]).all()


@given(MATRICES)
def test_the_largest_is_127_and_signs_are_equal(w_OI):
    matrix = quantize(jnp.asarray(w_OI))
    negated = quantize(jnp.asarray(-w_OI))
    assert (np.array(matrix.values_OI) == -np.array(negated.values_OI)).all()
    largest_O = np.abs(np.int32(matrix.values_OI)).max(1)
    assert (largest_O[np.abs(w_OI).max(1) > 1e-30] == 127).all()


@pytest.mark.parametrize("count", [1, 7, 65])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_linear_is_that_of_the_dequantized_matrix(dtype, count):
    """Few rows and many take different paths."""
    rng = np.random.default_rng(count)
    matrix = quantize(jnp.asarray(rng.normal(size=(24, 40)), dtype))
    x_BTI = jnp.asarray(rng.normal(size=(count, 1, 40)), dtype)
    found = linear(matrix, x_BTI)
    assert found.dtype == x_BTI.dtype
    expected = np.float32(x_BTI) @ np.array(matrix.dequantized("float32")).T
    tolerance = 1e-5 if dtype == "float32" else 2**-7
    assert relative_error(np.float32(found), expected) < tolerance


def test_rows_are_those_of_the_dequantized_matrix():
    matrix = quantize(jax.random.normal(jax.random.key(0), (20, 8)))
    ids = np.array([[3, 3, 19], [0, 7, 1]])
    expected = np.array(matrix.dequantized("float32"))[ids]
    np.testing.assert_array_equal(rows(matrix, ids, jnp.float32), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_every_family_are_close(family):
    """To the float model's; and the same as if the rounded weights were floats."""
    model = init_transformer(config_of(family), jax.random.key(0))
    other = quantized(model)
    assert (model.quantization, other.quantization) == (None, "int8")
    assert other.dtype == model.dtype == jnp.float32
    tokens = some_tokens(8, 40)
    exact, found = forward(model, tokens), forward(other, tokens)
    assert relative_error(forward(dequantized(other), tokens), found) < 1e-5
    error = np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2))
    assert 1e-4 < error < 0.03
    assert np.mean(exact.argmax(-1) == found.argmax(-1)) > 0.9


def test_bytes_are_those_on_paper():
    c = tiny.CONFIG
    found = sum(x.nbytes for x in quantized(tiny.random_model(0)).arrays().values())
    D, F, V, N, K = 32, 48, 272, 32, 16
    weights = 2 * V * D + 2 * (2 * N * D + 2 * K * D + 3 * F * D)
    outputs = 2 * V + 2 * (N + 2 * K + D + 2 * F + D)
    norms = D + 2 * 2 * D
    assert c.num_layers == 2
    assert found == weights + 4 * outputs + 4 * norms


def test_models_of_one_architecture_share_a_program():
    program = jax.jit(lambda model, tokens: model(tokens))
    for seed in range(3):
        program(quantized(tiny.random_model(seed)), some_tokens(1, 8))
    assert program._cache_size() == 1


def test_an_adapter_adds_the_same_as_over_the_rounded_weights():
    model = quantized(init_transformer(tiny.CONFIG, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), 2)
    pair = LoraPair(
        jax.random.normal(keys[0], (4, 32)), jax.random.normal(keys[1], (32, 4)), 0.1
    )
    lora = Lora(tuple({"q": pair, "o": pair} for _ in range(2)))
    tokens = some_tokens(2, 20)
    found = forward(model, tokens, lora)
    expected = forward(dequantized(model), tokens, lora)
    assert relative_error(found, expected) < 1e-5
    assert relative_error(found, forward(model, tokens)) > 1e-2


@pytest.mark.parametrize("name", ["q", "o"])
def test_scales_lie_as_the_outputs_do(name):
    """Split by heads with the matrix, or whole where the outputs are."""
    mesh = jax.make_mesh(
        (4, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    sharding = param_shardings(tiny.CONFIG, mesh)[f"layers.0.{name}"]
    w_OI = tiny.random_model(0).arrays()[f"layers.0.{name}"]
    matrix = quantize(jax.device_put(w_OI, sharding))
    assert matrix.sharding.shard_shape((32, 32)) == sharding.shard_shape((32, 32))
    share = sharding.shard_shape((32, 32))[0]
    assert matrix.scale_O.sharding.shard_shape((32,)) == (share,)
    np.testing.assert_array_equal(matrix.values_OI, quantize(w_OI).values_OI)
    np.testing.assert_array_equal(matrix.scale_O, quantize(w_OI).scale_O)


def test_unknown_kinds_are_named():
    for known in (None, "int8"):
        check_quantization(known)
    with one_line_error("candidates[1].quantization='int4'", "'int8', None"):
        check_quantization("int4", "candidates[1].quantization")
