"""The KV cache of one model: a fixed number of slots, one request each.

A slot's valid length is known to whoever owns the cache and is an argument of every
program, so that rolling back is free: entries beyond the length are masked, and
overwritten later.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jax_switchgen.models.attention import KeysValues
from jax_switchgen.models.config import ModelConfig


@struct.dataclass
class Cache:
    """Keys and values of every layer.

    Attributes:
      layers: for each layer k_BKSH and v_BKSH; B counts slots, S positions. A list and
        not one array, because a stacked cache costs a copy of each layer per step.
    """

    layers: tuple[KeysValues, ...]

    @property
    def num_slots(self) -> int:
        return self.layers[0][0].shape[0]

    @property
    def length(self) -> int:
        """Positions in a slot."""
        return self.layers[0][0].shape[2]

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in jax.tree.leaves(self))

    def read(self, slots_B: jax.Array, window: int) -> list[KeysValues]:
        """The first `window` positions of some slots, k_BKSH and v_BKSH by layer.

        A slot number beyond the last reads some valid slot: padding rows are masked.
        """

        def rows(x: jax.Array) -> jax.Array:
            return x[:, :, :window].at[slots_B].get(mode="clip")

        return [(rows(k), rows(v)) for k, v in self.layers]

    def write(
        self,
        recent: list[KeysValues],
        slots_B: jax.Array,
        start_B: jax.Array,
        count_B: jax.Array,
    ) -> "Cache":
        """Commits the first `count_B` entries of recent buffers at `start_B`.

        Rows whose slot is no slot (padding) write nothing. A scatter, because a
        dynamic update slice clamps at the end and would overwrite older entries.
        """
        T = recent[0][0].shape[2]
        index_T = jnp.arange(T, dtype=jnp.int32)
        valid_BT = index_T[None] < count_B[:, None]
        # Invalid entries go to distinct places past the end, where they are dropped.
        position_BT = jnp.where(
            valid_BT, start_B[:, None] + index_T[None], self.length + index_T[None]
        )

        def put(x_BKSH: jax.Array, new_BKTH: jax.Array) -> jax.Array:
            return x_BKSH.at[slots_B[:, None], :, position_BT].set(
                new_BKTH.swapaxes(1, 2).astype(x_BKSH.dtype),
                mode="drop",
                unique_indices=True,
            )

        return Cache(
            tuple(
                (put(k, new_k), put(v, new_v))
                for (k, v), (new_k, new_v) in zip(self.layers, recent, strict=True)
            )
        )


def empty_cache(
    config: ModelConfig, slots: int, length: int, dtype: jnp.dtype
) -> Cache:
    """A zeroed cache of `slots` x `length` positions."""
    shape = (slots, config.num_kv_heads, length, config.head_dim)
    return Cache(
        tuple(
            (jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
            for _ in range(config.num_layers)
        )
    )


def slot_bytes(config: ModelConfig, length: int, dtype: jnp.dtype) -> int:
    """Bytes of one slot of `length` positions."""
    per_position = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    return per_position * length * jnp.dtype(dtype).itemsize
