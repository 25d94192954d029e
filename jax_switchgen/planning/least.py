"""The least that a program can move and compute, from the sizes of the model alone.

Every weight that is used is read once for all rows, every cached key and value that a
row may see is read once, and what is new is written once. Activations stay on the chip.
"""

import dataclasses
import math

from jax.sharding import Mesh

from jax_switchgen.models.config import ModelConfig
from jax_switchgen.models.sharding import DEFAULT_RULES, Rules, param_shardings
from jax_switchgen.models.transformer import model_specs


@dataclasses.dataclass(frozen=True)
class Least:
    """Of one chip.

    Attributes:
      hbm_bytes: None where no such figure is meant.
    """

    hbm_bytes: float | None
    flops: float


@dataclasses.dataclass(frozen=True)
class Share:
    """What one chip has of a model.

    Attributes:
      params: of all arrays.
      blocks: of the layers' matrices, which every token goes through.
      head: of the output head; a tied one is the embedding.
      heads, kv_heads: of attention.
    """

    config: ModelConfig
    params: int
    blocks: float
    head: int
    heads: int
    kv_heads: int

    def attended(self, window: int) -> float:
        """Keys that a row reads, summed over layers; local layers see fewer."""
        c = self.config
        local = min(window, c.sliding_window or window)
        return sum(local if c.is_local(i) else window for i in range(c.num_layers))

    def cache_bytes(self, positions: float, itemsize: int) -> float:
        """Of keys and values at so many positions, summed over layers."""
        return 2 * self.kv_heads * self.config.head_dim * positions * itemsize

    def attention_flops(self, keys: float) -> float:
        """Of one query against so many keys, summed over layers: scores and sum."""
        return 4 * self.heads * self.config.head_dim * keys


def share_of(config: ModelConfig, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Share:
    """What each chip of a mesh has of a model."""
    shardings = param_shardings(config, mesh, rules)
    sizes = {
        path: math.prod(shardings[path].shard_shape(spec.shape))
        for path, spec in model_specs(config).items()
    }
    blocks = sum(
        n
        for path, n in sizes.items()
        if path.startswith("layers.") and len(model_specs(config)[path].shape) == 2
    )
    tensor = mesh.shape["tensor"]
    split = config.num_kv_heads % tensor == 0
    return Share(
        config,
        sum(sizes.values()),
        blocks,
        sizes["embed" if config.tie_embeddings else "head"],
        config.num_heads // tensor,
        config.num_kv_heads // tensor if split else config.num_kv_heads,
    )


def decode_least(
    share: Share, rows: int, window: int, segment_length: int, itemsize: int
) -> Least:
    """Of one step of a segment, on average; the window is taken to be full."""
    layers = share.config.num_layers
    past = rows * share.attended(window)
    recent = rows * layers * (segment_length + 1) / 2  # those written so far
    weights = (share.blocks + share.head) * itemsize
    moved = share.cache_bytes(past + recent + rows * layers, itemsize)
    flops = 2 * rows * (share.blocks + share.head)
    flops += share.attention_flops(past + recent)
    return Least(weights + moved, flops)


def chunk_least(
    share: Share, rows: int, tokens: int, window: int, itemsize: int, labels: int = 0
) -> Least:
    """Of reading a chunk into the caches.

    Args:
      labels: rows of the head that a probe reads. With none, nothing is asked of the
        last layer but keys and values.
    """
    c = share.config
    past, layers, blocks = rows * share.attended(window), c.num_layers, share.blocks
    if not labels:
        keys_values = 2 * share.kv_heads * c.head_dim * c.embed_dim
        past *= (layers - 1) / layers
        blocks = blocks * (layers - 1) / layers + keys_values
    weights = (blocks + labels * c.embed_dim) * itemsize
    moved = share.cache_bytes(past + rows * tokens * layers, itemsize)
    queried = layers if labels else layers - 1
    keys = tokens * (past + rows * queried * (tokens + 1) / 2)
    flops = 2 * rows * tokens * blocks + share.attention_flops(keys)
    return Least(weights + moved, flops)


def train_least(share: Share, rows: int, tokens: int, *, adapter: bool) -> Least:
    """FLOPs of one update on one chip's examples: forward, and backward to activations
    and, unless an adapter learns over frozen weights, to weights. `share` is that of
    one device in the tensor direction; nothing is computed twice."""
    passes = 2 if adapter else 3
    keys = share.config.num_layers * tokens * (tokens + 1) / 2
    attention = 3 * rows * share.attention_flops(keys)
    return Least(None, passes * 2 * rows * tokens * share.blocks + attention)
