"""A model whose layers are stacked, and run as a loop: for training on TPU.

Its compiler takes a seventh of the time that it takes over 32 copies of a layer, for
8 chips of v5e; docs/tpu.md has the numbers. Axes as in `models/transformer.py`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import NamedSharding

from jax_switchgen.models.attention import Attend, attention_masks
from jax_switchgen.models.config import ModelConfig
from jax_switchgen.models.lora import Lora, LoraPair
from jax_switchgen.models.params import layer_specs, outer_specs
from jax_switchgen.models.quantization import Matrix
from jax_switchgen.models.rope import rope_tables
from jax_switchgen.models.sharding import named
from jax_switchgen.models.transformer import (
    Around,
    BlockWeights,
    embedded,
    empty_recent,
    head_logits,
    rms_norm,
    run_block,
)


@struct.dataclass
class StackedTransformer:
    """The parameters of a model.

    Attributes:
      outer: by the names of `outer_specs`.
      layers: by the names of `layer_specs`, each with a first axis L.
    """

    config: ModelConfig = struct.field(pytree_node=False)
    outer: dict[str, Matrix]
    layers: dict[str, Matrix]

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype in which the model computes: of all that is not quantized."""
        return self.final_norm.dtype

    @property
    def final_norm(self) -> jax.Array:
        """Which is never quantized."""
        weight: Any = self.outer["final_norm"]
        return weight


def stacked(config: ModelConfig, params: dict[str, Matrix]) -> StackedTransformer:
    """Stacks parameters by path, as `model_specs` names them; they may be abstract.

    Takes them out of `params`: of no more than one name are there two copies at a time,
    if nobody else holds them.
    """
    layers: dict[str, Any] = {}
    for name in layer_specs(config):
        of_each = [params.pop(f"layers.{i}.{name}") for i in range(config.num_layers)]
        layers[name] = jax.tree.map(_stack, *of_each)
    outer = {name: params.pop(name) for name in outer_specs(config)}
    return StackedTransformer(config, outer, layers)


def stacked_pairs(lora: Lora) -> dict[str, LoraPair]:
    """Inside a program: those of all layers, each factor with a first axis L. Every
    layer has the same."""
    found: Any = jax.tree.map(lambda *x: jnp.stack(x), *lora.layers)
    return found


def _stack(*of_each: Any) -> Any:
    first = of_each[0]
    if isinstance(first, jax.core.Tracer):
        return jnp.stack(of_each)
    lies = first.sharding
    if isinstance(lies, NamedSharding):
        lies = named(lies.mesh, None, *lies.spec)
    if isinstance(first, jax.ShapeDtypeStruct):
        shape = (len(of_each), *first.shape)
        return jax.ShapeDtypeStruct(shape, first.dtype, sharding=lies)
    return jax.jit(lambda *x: jnp.stack(x), out_shardings=lies)(*of_each)


def last_hidden(
    model: StackedTransformer,
    tokens_BT: jax.Array,
    length_B: jax.Array,
    *,
    pairs: dict[str, LoraPair],
    around: Around,
    attend: Attend,
) -> jax.Array:
    """Uncached forward over whole rows, for what comes after each.

    Args:
      tokens_BT: int32; padding stands at the end of a row.
      length_B: int32, tokens before the padding.
      pairs: an adapter's, from `stacked_pairs`; {} if there is none.
      around: put around each block.
      attend: of each block.
    Returns:
      x_B1D of each row's last token, after the final norm.
    """
    c = model.config
    B, T = tokens_BT.shape
    start_B = jnp.zeros(B, jnp.int32)
    recent = empty_recent(c, B, T, model.dtype)[0]
    is_local_L: Any = np.array([c.is_local(i) for i in range(c.num_layers)])
    masks = {
        local: attention_masks(c, local, None, start_B, [recent], 0, T)
        for local in set(is_local_L.tolist())
    }
    ropes = rope_tables(c, start_B, T)
    rotations = {local: rope.at(0, T) for local, rope in ropes.items()}

    def block(x_BTD: jax.Array, layer: tuple[BlockWeights, jax.Array]) -> Any:
        weights, is_local = layer
        run = functools.partial(
            run_block,
            c,
            rotation=_of_kind(rotations, is_local),
            past=(),
            recent=recent,
            masks=_of_kind(masks, is_local),
            offset=0,
            attend=attend,
        )
        x_BTD, _ = around(run)(weights, x_BTD)
        return x_BTD, None

    x_BTD, _ = jax.lax.scan(
        block,
        embedded(c, model.outer["embed"], tokens_BT, model.dtype),
        (BlockWeights(model.layers, pairs), is_local_L),
    )
    x_B1D = jnp.take_along_axis(x_BTD, (length_B - 1)[:, None, None], axis=1)
    return rms_norm(c, model.final_norm, x_B1D)


def last_logits(model: StackedTransformer, x_B1D: jax.Array) -> jax.Array:
    """logits_BV in float32 from the output of `last_hidden`."""
    c = model.config
    head_VD = model.outer["embed" if c.tie_embeddings else "head"]
    return head_logits(c, head_VD, x_B1D)[:, 0]


def _of_kind(kinds: dict[bool, Any], is_local: jax.Array) -> Any:
    """What the layer needs of what local and global layers need."""
    if len(kinds) == 1:
        (only,) = kinds.values()
        return only
    return jax.tree.map(
        lambda local, other: jnp.where(is_local, local, other),
        kinds[True],
        kinds[False],
    )
