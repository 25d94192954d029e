"""What parameters a model has: one declaration per array.

Axis key, used in the suffix of every array's name:
  D model   N query heads   K kv heads   H head dim   F ffn   V vocab
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jax_switchgen.models.config import ModelConfig, NormPlacement, QKNorm


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """One parameter: its shape, the logical axis of each dimension, how it starts."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: str = "normal"  # normal: fan-in scaled; zeros; ones

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether it can be quantized; norms and biases are small, and are not."""
        return len(self.shape) == 2

    def initial(self, key: jax.Array, dtype: jnp.dtype) -> jax.Array:
        if self.init == "normal":
            scale = self.shape[-1] ** -0.5
            return (scale * jax.random.normal(key, self.shape)).astype(dtype)
        return jnp.full(self.shape, float(self.init == "ones"), dtype)


def layer_specs(config: ModelConfig) -> dict[str, ArraySpec]:
    """The parameters of one block. Weights are 2-D, `[out, in]`, as in checkpoints:
    a 3-D q costs a relayout copy of every weight on TPU."""
    c = config
    D, F, H = c.embed_dim, c.mlp_dim, c.head_dim
    NH, KH = c.num_heads * H, c.num_kv_heads * H
    norm_init = "zeros" if c.norm_plus_one else "ones"
    specs = {
        "q": ArraySpec((NH, D), ("heads", "embed")),
        "k": ArraySpec((KH, D), ("kv_heads", "embed")),
        "v": ArraySpec((KH, D), ("kv_heads", "embed")),
        "o": ArraySpec((D, NH), ("embed", "heads")),
        "gate": ArraySpec((F, D), ("mlp", "embed")),
        "up": ArraySpec((F, D), ("mlp", "embed")),
        "down": ArraySpec((D, F), ("embed", "mlp")),
    }
    if c.qkv_bias:
        specs["q_bias"] = ArraySpec((NH,), ("heads",), "zeros")
        specs["k_bias"] = ArraySpec((KH,), ("kv_heads",), "zeros")
        specs["v_bias"] = ArraySpec((KH,), ("kv_heads",), "zeros")
    if c.qk_norm is QKNorm.HEAD:
        specs["q_norm"] = ArraySpec((H,), (None,), norm_init)
        specs["k_norm"] = ArraySpec((H,), (None,), norm_init)
    if c.qk_norm is QKNorm.ALL:
        specs["q_norm"] = ArraySpec((NH,), ("heads",), norm_init)
        specs["k_norm"] = ArraySpec((KH,), ("kv_heads",), norm_init)
    if c.norm_placement in (NormPlacement.PRE, NormPlacement.BOTH):
        specs["attn_norm"] = ArraySpec((D,), (None,), norm_init)
        specs["mlp_norm"] = ArraySpec((D,), (None,), norm_init)
    if c.norm_placement in (NormPlacement.POST, NormPlacement.BOTH):
        specs["post_attn_norm"] = ArraySpec((D,), (None,), norm_init)
        specs["post_mlp_norm"] = ArraySpec((D,), (None,), norm_init)
    return specs


def outer_specs(config: ModelConfig) -> dict[str, ArraySpec]:
    """The parameters outside the blocks."""
    V, D = config.vocab_size, config.embed_dim
    specs = {
        "embed": ArraySpec((V, D), ("vocab", "embed")),
        "final_norm": ArraySpec(
            (D,), (None,), "zeros" if config.norm_plus_one else "ones"
        ),
    }
    if not config.tie_embeddings:
        specs["head"] = ArraySpec((V, D), ("vocab", "embed"))
    return specs


def model_specs(config: ModelConfig) -> dict[str, ArraySpec]:
    """All parameters by path, `embed` or `layers.3.q`: the one list that creating,
    loading, exporting and sharding a model go through."""
    specs = outer_specs(config)
    for layer in range(config.num_layers):
        for name, spec in layer_specs(config).items():
            specs[f"layers.{layer}.{name}"] = spec
    return specs


def num_params(config: ModelConfig) -> int:
    """Parameters of a model, a tied head counted once."""
    return sum(spec.size for spec in model_specs(config).values())
