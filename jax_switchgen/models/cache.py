"""The KV cache of one model: a fixed number of slots, one request each.

A slot's valid length is known to whoever owns the cache and is an argument of every
program, so that rolling back is free: entries beyond the length are masked, and
overwritten later.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import NamedSharding

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

    def read(
        self, slots_B: jax.Array, window: int, shared: int = 0
    ) -> list[list[KeysValues]]:
        """The first `window` positions of some slots, by layer and part.

        The first `shared` of them are alike in all of these slots, and a part of their
        own: k_1KSH and v_1KSH. A slot number beyond the last reads some valid slot:
        padding rows are masked.
        """

        @jax.jit  # traced once for all layers
        def rows(x_BKSH: jax.Array) -> jax.Array:
            return jax.lax.platform_dependent(
                *(x_BKSH, slots_B),
                tpu=functools.partial(_take_row_by_row, first=shared, last=window),
                default=lambda x, slots: x.at[slots, :, shared:window].get(mode="clip"),
            )

        @jax.jit
        def one_row(x_BKSH: jax.Array) -> jax.Array:
            x_KSH = jax.lax.dynamic_index_in_dim(x_BKSH, slots_B[0], keepdims=False)
            return x_KSH[None, :, :shared]

        layers = [[(rows(k), rows(v))] for k, v in self.layers]
        if shared:
            for parts, (k, v) in zip(layers, self.layers, strict=True):
                parts.insert(0, (one_row(k), one_row(v)))
        return layers

    def write(
        self,
        recent: list[KeysValues],
        slots_B: jax.Array,
        start_B: jax.Array,
        count_B: jax.Array,
    ) -> "Cache":
        """Commits the first `count_B` entries of recent buffers at `start_B`.

        Rows whose slot is no slot (padding) write nothing.
        """

        @jax.jit  # traced once for all layers
        def put(x_BKSH: jax.Array, new_BKTH: jax.Array) -> jax.Array:
            return jax.lax.platform_dependent(
                *(x_BKSH, new_BKTH.astype(x_BKSH.dtype), slots_B, start_B, count_B),
                tpu=_put_row_by_row,
                default=_scatter_rows,
            )

        return Cache(
            tuple(
                (put(k, new_k), put(v, new_v))
                for (k, v), (new_k, new_v) in zip(self.layers, recent, strict=True)
            )
        )


def _take_row_by_row(
    x_BKSH: jax.Array, slots_B: jax.Array, *, first: int, last: int
) -> jax.Array:
    """Positions `first` up to `last` of some slots, for TPU: of a gather of large rows
    its compiler makes several of parts, and first copies these parts of all slots, 24
    of the 29 GiB that a probe of 8 of 192 slots moved on each of 4 chips of v5p."""
    _, K, _, H = x_BKSH.shape

    def take(row: jax.Array, taken_BKSH: jax.Array) -> jax.Array:
        at = (slots_B[row], 0, first, 0)
        x_1KSH = jax.lax.dynamic_slice(x_BKSH, at, (1, K, last - first, H))
        return jax.lax.dynamic_update_slice(taken_BKSH, x_1KSH, (row, 0, 0, 0))

    taken_BKSH = jnp.zeros((len(slots_B), K, last - first, H), x_BKSH.dtype)
    return jax.lax.fori_loop(0, len(slots_B), take, taken_BKSH)


def _scatter_rows(
    x_BKSH: jax.Array,
    new_BKTH: jax.Array,
    slots_B: jax.Array,
    start_B: jax.Array,
    count_B: jax.Array,
) -> jax.Array:
    """The cache with the new entries, all rows at once."""
    T, length = new_BKTH.shape[2], x_BKSH.shape[2]
    index_T = jnp.arange(T, dtype=jnp.int32)
    valid_BT = index_T[None] < count_B[:, None]
    # Invalid entries go to distinct places past the end, where they are dropped.
    position_BT = jnp.where(
        valid_BT, start_B[:, None] + index_T[None], length + index_T[None]
    )
    return x_BKSH.at[slots_B[:, None], :, position_BT].set(
        new_BKTH.swapaxes(1, 2), mode="drop", unique_indices=True
    )


def _put_row_by_row(
    x_BKSH: jax.Array,
    new_BKTH: jax.Array,
    slots_B: jax.Array,
    start_B: jax.Array,
    count_B: jax.Array,
) -> jax.Array:
    """The same, for TPU: a scatter would have the whole cache copied to another layout
    and back, 5 of the 12 GB that a catch-up call of 8B moved on each of 4 chips.

    A slice that would reach past the end is moved back to it, and the entries in it
    forward: with 10 positions, 3 entries at 8 of which 2 are valid

        In:  … o7 o8 o9   and   n0 n1 --      Out:  … o7 n0 n1
    """
    slots, K, length, H = x_BKSH.shape
    T = new_BKTH.shape[2]
    index_T = jnp.arange(T, dtype=jnp.int32)

    def put(row: jax.Array, x_BKSH: jax.Array) -> jax.Array:
        slot = jnp.minimum(slots_B[row], slots - 1)
        at = jnp.minimum(start_B[row], length - T)
        moved = start_B[row] - at
        old_1KTH = jax.lax.dynamic_slice(x_BKSH, (slot, 0, at, 0), (1, K, T, H))
        new_1KTH = jax.lax.dynamic_slice_in_dim(new_BKTH, row, 1)
        new_1KTH = jnp.roll(new_1KTH, moved, axis=2)
        valid_T = (index_T >= moved) & (index_T < moved + count_B[row])
        valid_T &= slots_B[row] < slots
        kept_1KTH = jnp.where(valid_T[None, None, :, None], new_1KTH, old_1KTH)
        return jax.lax.dynamic_update_slice(x_BKSH, kept_1KTH, (slot, 0, at, 0))

    return jax.lax.fori_loop(0, slots_B.shape[0], put, x_BKSH)


def empty_cache(
    config: ModelConfig,
    slots: int,
    length: int,
    dtype: jnp.dtype,
    sharding: NamedSharding | None = None,
) -> Cache:
    """A zeroed cache of `slots` x `length` positions.

    Args:
      sharding: of k_BKSH and v_BKSH; None: the default device.
    """
    shape = (slots, config.num_kv_heads, length, config.head_dim)

    def zeros() -> jax.Array:
        return jnp.zeros(shape, dtype, device=sharding)

    return Cache(tuple((zeros(), zeros()) for _ in range(config.num_layers)))


def slot_bytes(config: ModelConfig, length: int, dtype: jnp.dtype) -> int:
    """Bytes of one slot of `length` positions."""
    per_position = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    return per_position * length * jnp.dtype(dtype).itemsize
