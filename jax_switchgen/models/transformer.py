"""One decoder-only transformer for every supported family.

Axis key, used in the suffix of every array's name:
  B batch   T query time   S cache time   D model   N query heads   K kv heads
  G = N/K   H head dim     F ffn          V vocab   L layers        C candidates

A `Transformer` is a plain pytree: it is passed to jitted programs like any array, and
three checkpoints of one architecture cost one trace. Nothing in it changes in a call.
The layer loop is unrolled: compiled for TPU, a loop over stacked layers needs 2-3x
the cycles, because its matmuls do not overlap with the loads of the next weights.
Training on TPU runs one (`models/stacked.py`), for a weight serves many tokens there.

All ways to run it are one function, `hidden`: tokens at `offset` of a buffer of
*recent* keys and values attend to that buffer and to a read-only *past*.

    uncached forward   no past,   buffer of the whole text,   offset 0
    prefill, catch-up  the cache, buffer of one chunk,        offset 0
    segment decode     the cache, buffer of one segment,      offset t, one token
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax.typing import DTypeLike

from jax_switchgen.models.attention import (
    Attend,
    KeysValues,
    attention,
    attention_masks,
    softcap,
)
from jax_switchgen.models.config import ModelConfig, QKNorm
from jax_switchgen.models.lora import Lora, LoraPair
from jax_switchgen.models.matmul import linear, rows
from jax_switchgen.models.params import layer_specs, model_specs, outer_specs
from jax_switchgen.models.quantization import Int8Matrix, Matrix
from jax_switchgen.models.rope import Ropes, Rotation, rope_tables


class Block(nnx.Module):
    """The parameters of one layer, as attributes named by `layer_specs`."""

    def __init__(self, params: Mapping[str, Matrix]):
        for name, value in params.items():
            setattr(self, name, nnx.Param(value))


class Transformer(nnx.Module):
    """The parameters of a model, as attributes named by `outer_specs`, and `layers`.

    `params` maps each path of `model_specs(config)` to its array (or, for an abstract
    model, to its `jax.ShapeDtypeStruct`). Matrices may be quantized.
    """

    def __init__(self, config: ModelConfig, params: Mapping[str, Matrix]):
        self.config = config
        for name in outer_specs(config):
            setattr(self, name, nnx.Param(params[name]))
        self.layers = nnx.List(
            Block({n: params[f"layers.{i}.{n}"] for n in layer_specs(config)})
            for i in range(config.num_layers)
        )

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype in which the model computes: of all that is not quantized."""
        return _array(self, "final_norm").dtype

    @property
    def quantization(self) -> str | None:
        """What its matrices are quantized to, if they are."""
        first = _matrix(self.layers[0], "q")
        return "int8" if isinstance(first, Int8Matrix) else None

    def arrays(self) -> dict[str, Any]:
        """The parameters by path, as `model_specs` names them."""
        found = {name: _array(self, name) for name in outer_specs(self.config)}
        for i, block in enumerate(self.layers):
            for name in layer_specs(self.config):
                found[f"layers.{i}.{name}"] = _array(block, name)
        return found

    def __call__(self, tokens_BT: jax.Array, lora: Lora | None = None) -> jax.Array:
        """Uncached forward over whole rows.

        Args:
          tokens_BT: int32; padding stands at the end of a row and is causal-masked
            from everything before it.
          lora: an adapter, or None.
        Returns:
          logits_BTV, float32.
        """
        return logits(self, uncached_hidden(self, tokens_BT, lora=lora))


def init_transformer(
    config: ModelConfig, key: jax.Array, dtype: DTypeLike = "float32"
) -> Transformer:
    """A model with random weights."""
    specs = model_specs(config)
    keys = jax.random.split(key, len(specs))
    params = {
        path: spec.initial(k, jnp.dtype(dtype))
        for k, (path, spec) in zip(keys, specs.items(), strict=True)
    }
    return Transformer(config, params)


@struct.dataclass
class BlockWeights:
    """The parameters of one block, with its adapter applied where it has one."""

    arrays: dict[str, Matrix]
    lora: dict[str, LoraPair]

    def linear(self, name: str, x_BTI: jax.Array) -> jax.Array:
        y_BTO = linear(self.arrays[name], x_BTI)
        if f"{name}_bias" in self.arrays:
            y_BTO = y_BTO + self._vector(f"{name}_bias")[None, None]
        if name in self.lora:
            y_BTO = y_BTO + self.lora[name].delta(x_BTI)
        return y_BTO

    def norm(self, config: ModelConfig, name: str, x_BTD: jax.Array) -> jax.Array:
        """The named RMS norm, or x itself where the family has none there."""
        if name not in self.arrays:
            return x_BTD
        return rms_norm(config, self._vector(name), x_BTD)

    def _vector(self, name: str) -> jax.Array:
        vector: Any = self.arrays[name]  # never quantized
        return vector


# One block: x_BTD before it -> x_BTD after it (x_B1D after the last one, where one
# token of each row is asked for), and the layer's recent buffer.
RunBlock = Callable[[BlockWeights, jax.Array], tuple[jax.Array, KeysValues]]
Around = Callable[[RunBlock], RunBlock]


def _as_it_is(run: RunBlock) -> RunBlock:
    return run


def hidden(
    model: Transformer,
    tokens_BT: jax.Array,
    *,
    ropes: Ropes,
    past: Sequence[Sequence[KeysValues]] | None,
    past_length_B: jax.Array,
    recent: Sequence[KeysValues],
    offset: jax.Array | int,
    lora: Lora | None = None,
    only_B: jax.Array | None = None,
    around: Around = _as_it_is,
) -> tuple[jax.Array, list[KeysValues]]:
    """Runs the blocks over T new tokens of each row.

    Row b has `past_length_B[b]` tokens in the past; its recent buffer holds what
    comes after them: index j of the buffer is position `past_length_B[b] + j`.
    Example with past_length 3, a buffer of 4, offset 1, T 1:

        past    p0 p1 p2 -- --     slots after the row's length are masked
        recent  r0 q1 -- --        the query at q1 sees p0 p1 p2 r0 and itself

    Args:
      tokens_BT: int32.
      ropes: tables for the positions of the buffer, from `rope_tables`.
      past: of each layer the read-only parts, in the order of their positions, or None.
      past_length_B: int32.
      recent: k_BKTH, v_BKTH of each layer.
      offset: index of the first new token in the recent buffer.
      only_B: int32, the one new token of each row whose state is wanted, or None for
        all. The last block then computes keys and values of all, and the rest of
        itself for these alone: 3 % of a read with 30 layers.
      around: put around each block; training computes blocks twice to save memory.
    Returns:
      x_BTD (x_B1D with `only_B`) after the final norm, and the recent buffers with the
      new entries.
    """
    c = model.config
    T = tokens_BT.shape[1]
    masks = {
        local: attention_masks(c, local, past, past_length_B, recent, offset, T)
        for local in {c.is_local(i) for i in range(c.num_layers)}
    }
    rotations = {local: rope.at(offset, T) for local, rope in ropes.items()}

    x_BTD = embedded(c, _matrix(model, "embed"), tokens_BT, model.dtype)
    new_recent = []
    for i, block in enumerate(model.layers):
        local = c.is_local(i)
        arrays = {name: _matrix(block, name) for name in layer_specs(c)}
        with jax.named_scope(f"layer_{i}"):
            x_BTD, kv = _jitted_block(
                c,
                around,
                BlockWeights(arrays, lora.layers[i] if lora else {}),
                x_BTD,
                rotation=rotations[local],
                past=past[i] if past is not None else (),
                recent=recent[i],
                masks=masks[local],
                offset=offset,
                only_B=only_B if i == c.num_layers - 1 else None,
            )
        new_recent.append(kv)
    return rms_norm(c, _array(model, "final_norm"), x_BTD), new_recent


def uncached_hidden(
    model: Transformer,
    tokens_BT: jax.Array,
    *,
    lora: Lora | None = None,
    only_B: jax.Array | None = None,
    around: Around = _as_it_is,
) -> jax.Array:
    """x_BTD of `hidden` over whole rows without a past; padding ends a row."""
    B, T = tokens_BT.shape
    start_B = jnp.zeros(B, jnp.int32)
    x_BTD, _ = hidden(
        model,
        tokens_BT,
        ropes=rope_tables(model.config, start_B, T),
        past=None,
        past_length_B=start_B,
        recent=empty_recent(model.config, B, T, model.dtype),
        offset=0,
        lora=lora,
        only_B=only_B,
        around=around,
    )
    return x_BTD


def embedded(
    c: ModelConfig, embed_VD: Matrix, tokens_BT: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    """x_BTD before the first block."""
    x_BTD = rows(embed_VD, tokens_BT, dtype)
    if c.embed_scale != 1.0:
        # Rounded to the compute dtype first, as the checkpoints were trained.
        x_BTD = x_BTD * jnp.asarray(c.embed_scale, x_BTD.dtype)
    return x_BTD


def logits(model: Transformer, x_BTD: jax.Array) -> jax.Array:
    """logits_BTV in float32 from the output of `hidden`."""
    return head_logits(model.config, _head(model), x_BTD)


def label_logits(model: Transformer, x_BTD: jax.Array, ids_C: jax.Array) -> jax.Array:
    """logits_BTC of a few tokens only: reads C rows of the head, not V."""
    return head_logits(model.config, _head(model)[ids_C], x_BTD)


def head_logits(c: ModelConfig, head_VD: Matrix, x_BTD: jax.Array) -> jax.Array:
    """logits_BTV in float32, of as many tokens as the head has rows."""
    return softcap(linear(head_VD, x_BTD).astype(jnp.float32), c.final_softcap)


def empty_recent(
    config: ModelConfig, batch: int, length: int, dtype: jnp.dtype
) -> list[KeysValues]:
    """Zeroed recent buffers, k_BKTH and v_BKTH for each layer."""
    shape = (batch, config.num_kv_heads, length, config.head_dim)
    return [
        (jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
        for _ in range(config.num_layers)
    ]


def run_block(
    c: ModelConfig,
    w: BlockWeights,
    x_BTD: jax.Array,
    *,
    rotation: Rotation,
    past: Sequence[KeysValues],
    recent: KeysValues,
    masks: list[jax.Array],
    offset: jax.Array | int,
    only_B: jax.Array | None = None,
    attend: Attend = attention,
) -> tuple[jax.Array, KeysValues]:
    """One block; returns x_BTD and the layer's recent buffer with the new entries."""
    h_BTD = w.norm(c, "attn_norm", x_BTD)
    k_BKTH, v_BKTH = _keys_values(c, w, h_BTD, rotation)
    at = (0, 0, offset, 0)
    new_recent = (
        jax.lax.dynamic_update_slice(recent[0], k_BKTH, at),
        jax.lax.dynamic_update_slice(recent[1], v_BKTH, at),
    )
    turned, seen = rotation, masks
    if only_B is not None:
        of_these = functools.partial(_one_of_each_row, only_B)
        x_BTD, h_BTD, turned, seen = jax.tree.map(
            of_these, (x_BTD, h_BTD, turned, seen)
        )
    q_BNTH = _queries(c, w, h_BTD, turned)
    h_BTD = w.linear("o", attend(c, q_BNTH, [*past, new_recent], seen))
    x_BTD = x_BTD + w.norm(c, "post_attn_norm", h_BTD)

    h_BTD = w.norm(c, "mlp_norm", x_BTD)
    act = jax.nn.silu if c.activation == "silu" else _gelu_tanh
    h_BTF = act(w.linear("gate", h_BTD)) * w.linear("up", h_BTD)
    y_BTD = w.norm(c, "post_mlp_norm", w.linear("down", h_BTF))
    return x_BTD + y_BTD, new_recent


@functools.partial(jax.jit, static_argnames=("c", "around"))
def _jitted_block(
    c: ModelConfig, around: Around, w: BlockWeights, x_BTD: jax.Array, **rest: Any
) -> tuple[jax.Array, KeysValues]:
    """`run_block`, traced once for all layers alike; the compiler inlines it, and the
    compiled program is the same. A decode program of 30 layers is traced and lowered in
    0.3 s instead of 2, and holds 9 MiB less. `around` is inside: a jitted block in
    `jax.checkpoint` has training on TPU move 1.17 times the memory.
    """
    return around(functools.partial(run_block, c, **rest))(w, x_BTD)


def _queries(
    c: ModelConfig, w: BlockWeights, h_BTD: jax.Array, rotation: Rotation
) -> jax.Array:
    """Rotated q_BNTH."""
    q_BTNH = _normed_heads(c, w, "q_norm", w.linear("q", h_BTD))
    return rotation.apply(q_BTNH).swapaxes(1, 2)


def _keys_values(
    c: ModelConfig, w: BlockWeights, h_BTD: jax.Array, rotation: Rotation
) -> KeysValues:
    """Rotated k_BKTH, and v_BKTH."""
    k_BTKH = _normed_heads(c, w, "k_norm", w.linear("k", h_BTD))
    v_BTKH = _split_heads(w.linear("v", h_BTD), c.head_dim)
    return rotation.apply(k_BTKH).swapaxes(1, 2), v_BTKH.swapaxes(1, 2)


def _normed_heads(
    c: ModelConfig, w: BlockWeights, name: str, x_BTO: jax.Array
) -> jax.Array:
    """x_BTNH; the norm of families that have one is over all heads or over each."""
    if c.qk_norm is QKNorm.ALL:
        x_BTO = w.norm(c, name, x_BTO)
    x_BTNH = _split_heads(x_BTO, c.head_dim)
    return w.norm(c, name, x_BTNH) if c.qk_norm is QKNorm.HEAD else x_BTNH


def _one_of_each_row(index_B: jax.Array, x_BTX: jax.Array) -> jax.Array:
    """x_B1X: x_BTX[b, index_B[b]]. A mask may be one for all rows, and one for all
    tokens, of which there is nothing to choose."""
    if x_BTX.shape[1] == 1:
        return x_BTX
    return jnp.take_along_axis(x_BTX, index_B[:, None, None], axis=1)


def rms_norm(c: ModelConfig, weight: jax.Array, x: jax.Array) -> jax.Array:
    """RMS norm over the last axis, in float32 (Zhang & Sennrich 2019)."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, -1, keepdims=True) + c.norm_eps)
    shape = (1,) * (x.ndim - 1) + weight.shape
    weight = weight.reshape(shape)
    if not c.norm_in_float32:
        return x32.astype(x.dtype) * weight
    weight = weight.astype(jnp.float32)
    return (x32 * (1.0 + weight if c.norm_plus_one else weight)).astype(x.dtype)


def _gelu_tanh(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=True)


def _split_heads(x_BTO: jax.Array, head_dim: int) -> jax.Array:
    return x_BTO.reshape(*x_BTO.shape[:-1], -1, head_dim)


def _array(module: nnx.Module, name: str) -> jax.Array:
    return getattr(module, name)[...]


def _matrix(module: nnx.Module, name: str) -> Matrix:
    return getattr(module, name)[...]


def _head(model: Transformer) -> Matrix:
    return _matrix(model, "embed" if model.config.tie_embeddings else "head")
