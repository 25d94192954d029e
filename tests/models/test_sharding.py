"""Laws of the sharding rules, on eight fake devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jax_switchgen.models.config import ModelConfig, QKNorm, Rope
from jax_switchgen.models.sharding import (
    DEFAULT_RULES,
    axes_sharding,
    param_shardings,
)
from jax_switchgen.models.transformer import Transformer, init_transformer
from tests.hf_models import one_line_error, some_tokens


def make_config(**changes) -> ModelConfig:
    settings = {
        "family": "olmo2",
        "vocab_size": 104,
        "embed_dim": 40,
        "mlp_dim": 52,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 12,
        "max_positions": 64,
        "norm_eps": 1e-5,
        "query_scale": 0.3,
        "rope": Rope(theta=1e4),
        "qkv_bias": True,
        "qk_norm": QKNorm.ALL,
    }
    return ModelConfig(**settings | changes)


def make_mesh(
    data: int, tensor: int, kind: AxisType = AxisType.Auto
) -> jax.sharding.Mesh:
    return jax.make_mesh((data, tensor), ("data", "tensor"), axis_types=(kind, kind))


@pytest.mark.parametrize("shape", [(4, 2), (2, 4)])
def test_sharded_forward_is_the_unsharded_one(shape):
    config = make_config()
    model = init_transformer(config, jax.random.key(0))
    shardings = param_shardings(config, make_mesh(*shape))
    sharded = Transformer(
        config, {p: jax.device_put(x, shardings[p]) for p, x in model.arrays().items()}
    )
    tokens = some_tokens(2, 20)
    forward = jax.jit(lambda m, t: m(t))
    expected = np.asarray(forward(model, tokens))
    np.testing.assert_allclose(
        forward(sharded, tokens), expected, atol=1e-5 * np.abs(expected).max()
    )


def test_a_device_holds_its_share_of_every_matrix():
    """Two heads of four, half of the MLP and of the vocabulary."""
    shardings = param_shardings(make_config(), make_mesh(4, 2))
    specs = {path: sharding.spec for path, sharding in shardings.items()}
    assert specs["embed"] == specs["head"] == PartitionSpec("tensor", None)
    assert specs["layers.1.q"] == specs["layers.1.k"] == PartitionSpec("tensor", None)
    assert (
        specs["layers.1.o"] == specs["layers.1.down"] == PartitionSpec(None, "tensor")
    )
    assert specs["layers.1.q_bias"] == PartitionSpec("tensor")
    assert specs["layers.1.attn_norm"] == PartitionSpec(None)
    assert shardings["layers.0.q"].shard_shape((48, 40)) == (24, 40)


def test_kv_heads_that_do_not_divide_are_replicated():
    """Two kv heads on four devices; their 24 rows would divide, but split a head."""
    shardings = param_shardings(make_config(), make_mesh(2, 4))
    for name in ("k", "v", "k_bias", "v_bias", "k_norm"):
        assert shardings[f"layers.0.{name}"].is_fully_replicated
    assert not shardings["layers.0.q"].is_fully_replicated


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_heads": 6}, ("'heads'", "size 6", "'tensor'", "size 4", "to None")),
        ({"mlp_dim": 54}, ("'mlp'", "54", "size 4", "to None")),
        ({"vocab_size": 101}, ("'vocab'", "101", "size 4", "vocab_size")),
    ],
)
def test_an_axis_that_does_not_divide_is_named(changes, words):
    with one_line_error(*words):
        param_shardings(make_config(**changes), make_mesh(2, 4))


def test_the_remedy_for_heads_helps():
    """Heads mapped to None: attention is replicated, the rest is still split."""
    shardings = param_shardings(
        make_config(num_heads=6), make_mesh(2, 4), {**DEFAULT_RULES, "heads": None}
    )
    assert shardings["layers.0.q"].is_fully_replicated
    assert not shardings["layers.0.up"].is_fully_replicated


def test_two_axes_of_one_array_on_one_mesh_axis_are_refused():
    with one_line_error("'vocab'", "'embed'", "'tensor'", "another mesh axis"):
        param_shardings(
            make_config(), make_mesh(4, 2), {**DEFAULT_RULES, "embed": "tensor"}
        )


def test_rules_and_mesh_must_fit():
    rules = {a: m for a, m in DEFAULT_RULES.items() if a != "mlp"}
    with one_line_error("no entry", "'mlp'"):
        param_shardings(make_config(), make_mesh(4, 2), rules)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    with one_line_error("'tensor'", "data", "size 1"):
        param_shardings(make_config(), mesh)
    with one_line_error("Explicit", "Auto"):
        param_shardings(make_config(), make_mesh(4, 2, AxisType.Explicit))


def test_axes_sharding_places_a_cache():
    mesh = make_mesh(4, 2)
    axes = ("batch", "kv_heads", None, None)
    counts = {"batch": 8, "kv_heads": 2}
    sharding = axes_sharding(axes, counts, mesh)
    x = jax.device_put(jnp.zeros((8, 2, 5, 3)), sharding)
    assert x.addressable_shards[0].data.shape == (2, 1, 5, 3)
    with one_line_error("'batch'", "6", "'data'"):
        axes_sharding(axes, {**counts, "batch": 6}, mesh)
