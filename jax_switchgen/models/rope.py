"""Rotary position embedding: frequencies, tables, rotation (Su et al. 2021,
arXiv 2104.09864)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_switchgen.models.config import ModelConfig, Rope


class Rotation(NamedTuple):
    """Cosines and sines, float32 cos_BTH2 and sin_BTH2 (H2 = H/2)."""

    cos: jax.Array
    sin: jax.Array

    def at(self, offset: jax.Array | int, length: int) -> "Rotation":
        return Rotation(
            *(jax.lax.dynamic_slice_in_dim(t, offset, length, axis=1) for t in self)
        )

    def apply(self, x_BTNH: jax.Array) -> jax.Array:
        """Rotates pairs (i, i + H/2), the layout of Hugging Face checkpoints."""
        x1, x2 = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
        cos, sin = self.cos[:, :, None], self.sin[:, :, None]
        rotated = jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)
        return rotated.astype(x_BTNH.dtype)


Ropes = dict[bool, Rotation]  # by whether the layer is local


def rope_tables(config: ModelConfig, start_B: jax.Array, length: int) -> Ropes:
    """Rotations for positions start_B + 0 … length-1, by kind of layer.

    Made once per program, outside of its loops: inside, XLA recomputes the sines in
    every layer's fusion.
    """
    positions_BT = start_B[:, None] + jnp.arange(length)[None]
    kinds: dict[bool, Rope] = {}
    for i in range(config.num_layers):
        local = config.is_local(i)
        rope = config.rope_local if local and config.rope_local else config.rope
        kinds[local] = rope
    tables = {}
    for local, rope in kinds.items():
        frequencies = jnp.asarray(rope_frequencies(rope, config.head_dim))
        # float32: bfloat16 rounds 257 to 256, but sin(257) is very different.
        angles = positions_BT.astype(jnp.float32)[:, :, None] * frequencies[None, None]
        tables[local] = Rotation(jnp.cos(angles), jnp.sin(angles))
    return tables


def rope_frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Radians per position of each pair of dimensions, float32[H / 2]."""
    frequencies = rope.theta ** -(np.arange(0, head_dim, 2) / head_dim)
    if scaling := rope.llama3:
        turns = scaling.original_max_positions * frequencies / (2 * np.pi)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
        frequencies *= (1 - blend) / scaling.factor + blend
    return (frequencies / rope.linear_factor).astype(np.float32)
