"""The least that a program can move and compute, from the sizes of the model alone.

Every weight that is used is read once for all rows (but of the embedding, whose rows
are few), every cached key and value that a row may see is read once, and what is new is
written once. Activations stay on the chip.
Of the last layer, whose output goes nowhere but into the head, only keys and values are
needed of every token, and the rest of those tokens of which something is asked.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jax_switchgen.models.config import ModelConfig
from jax_switchgen.models.quantization import Matrix
from jax_switchgen.planning.shapes import abstract_params


@dataclasses.dataclass(frozen=True)
class Least:
    """Of one chip.

    Attributes:
      hbm_bytes: None where no such figure is meant.
    """

    hbm_bytes: float | None
    flops: float


@dataclasses.dataclass(frozen=True)
class Part:
    """Some matrices of a model: weights, and bytes, scales of quantized ones included.

    Both are of one chip.
    """

    weights: int
    nbytes: int


@dataclasses.dataclass(frozen=True)
class Share:
    """What one chip has of a model.

    Attributes:
      params_bytes: of all arrays.
      blocks: the matrices of all layers.
      rest: of the last layer's, those that make no keys and values.
      head: the output head; a tied one is the embedding.
      heads, kv_heads: of attention. Where those of keys and values do not divide, each
        chip holds all of them, and needs those of its queries.
      itemsize: bytes of the dtype in which it computes.
    """

    config: ModelConfig
    params_bytes: int
    blocks: Part
    rest: Part
    head: Part
    heads: int
    kv_heads: int
    itemsize: int

    def keys_seen(self, past: int, tokens: int) -> list[int]:
        """Keys that the queries of a row's next tokens see, summed over these, in each
        layer: the past and those up to the query; in local layers of them the newest.
        """
        c = self.config

        def seen(limit: int) -> int:
            return sum(min(past + t, limit) for t in range(1, tokens + 1))

        every = seen(past + tokens)
        local = every if c.sliding_window is None else seen(c.sliding_window)
        return [local if c.is_local(i) else every for i in range(c.num_layers)]

    def read_bytes(self, keys: float) -> float:
        """Of so many keys and their values, summed over layers."""
        c = self.config
        needed = -(-c.num_kv_heads * self.heads // c.num_heads)
        return self.cache_bytes(keys) * needed / self.kv_heads

    def cache_bytes(self, positions: float) -> float:
        """Of keys and values at so many positions, summed over layers."""
        return 2 * self.kv_heads * self.config.head_dim * positions * self.itemsize

    def attention_flops(self, keys: float) -> float:
        """Of one query against so many keys, summed over layers: scores and sum."""
        return 4 * self.heads * self.config.head_dim * keys

    def passed(self, rows: int, tokens: int, asked: int) -> int:
        """Weights times tokens that go through them.

        Args:
          asked: 1 if something is asked of the last token of each row, 0 if of none;
            only such a token goes through the rest of the last layer.
        """
        rest = (tokens - asked) * self.rest.weights
        return rows * (tokens * self.blocks.weights - rest)

    def seen(self, rows: int, tokens: int, asked: int, past: int) -> int:
        """Keys, summed over the queries of these tokens and over layers."""
        *others, _ = self.keys_seen(past, tokens)
        *_, last = self.keys_seen(past + tokens - 1, 1)
        return rows * (sum(others) + asked * last)


def share_of(
    c: ModelConfig, mesh: Mesh, dtype: str, quantization: str | None = None
) -> Share:
    """What each chip of a mesh has of a model."""
    arrays = abstract_params(c, mesh, dtype, quantization)

    def shard(x: Matrix) -> tuple[int, ...]:
        return x.sharding.shard_shape(x.shape)

    def nbytes(x: Matrix) -> int:
        leaves = jax.tree.leaves(x)
        return sum(math.prod(shard(leaf)) * leaf.dtype.itemsize for leaf in leaves)

    def part(paths: list[str]) -> Part:
        matrices = [arrays[path] for path in paths if len(arrays[path].shape) == 2]
        weights = sum(math.prod(shard(x)) for x in matrices)
        return Part(weights, sum(nbytes(x) for x in matrices))

    last = f"layers.{c.num_layers - 1}."
    in_cache = (f"{last}k", f"{last}v")
    return Share(
        config=c,
        params_bytes=sum(nbytes(x) for x in arrays.values()),
        blocks=part([p for p in arrays if p.startswith("layers.")]),
        rest=part([p for p in arrays if p.startswith(last) and p not in in_cache]),
        head=part(["embed" if c.tie_embeddings else "head"]),
        heads=shard(arrays["layers.0.q"])[0] // c.head_dim,
        kv_heads=shard(arrays["layers.0.k"])[0] // c.head_dim,
        itemsize=jnp.dtype(dtype).itemsize,
    )


def decode_least(share: Share, rows: int, window: int, segment_length: int) -> Least:
    """Of one step of a segment, on average; the window is taken to be full."""
    keys = rows * sum(share.keys_seen(window, segment_length)) / segment_length
    moved = share.read_bytes(keys) + share.cache_bytes(rows * share.config.num_layers)
    passed = rows * (share.blocks.weights + share.head.weights)
    return Least(
        share.blocks.nbytes + share.head.nbytes + moved,
        2 * passed + share.attention_flops(keys),
    )


def chunk_least(
    share: Share, rows: int, tokens: int, window: int, labels: int = 0
) -> Least:
    """Of reading a chunk into the caches.

    Args:
      labels: rows of the head that a probe reads for the last token of each row.
    """
    c, asked = share.config, min(labels, 1)
    # Of the past as much as its own last token saw.
    *others, last = share.keys_seen(window - 1, 1)
    read = share.read_bytes(rows * (sum(others) + asked * last))
    moved = read + share.cache_bytes(rows * tokens * c.num_layers)
    part = labels / c.vocab_size  # of the head
    weights = share.blocks.nbytes - (1 - asked) * share.rest.nbytes
    passed = share.passed(rows, tokens, asked) + rows * part * share.head.weights
    keys = share.seen(rows, tokens, asked, window)
    return Least(
        weights + part * share.head.nbytes + moved,
        2 * passed + share.attention_flops(keys),
    )


def train_least(share: Share, rows: int, tokens: int, *, adapter: bool) -> Least:
    """FLOPs of one update on one chip's examples: forward, and backward to activations
    and, unless an adapter learns over frozen weights, to weights. `share` is that of
    one device in the tensor direction; nothing is computed twice, and what an adapter
    itself computes is not counted."""
    passes = 2 if adapter else 3
    passed = share.passed(rows, tokens, 1) + rows * share.head.weights
    keys = share.seen(rows, tokens, 1, past=0)
    return Least(None, passes * 2 * passed + 3 * share.attention_flops(keys))
