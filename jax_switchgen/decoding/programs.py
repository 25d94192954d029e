"""The jitted programs: prefill, segment decode, and the switcher's probe.

Everything that runs on the device in generation is one of these three. Shapes come
from short lists (`Buckets` in generation), so the programs compiled are few; models,
adapters, caches and sampling numbers are arguments, so that all candidates of one
architecture and all requests share them. Catch-up is prefill that starts later.

The invariant between calls: a slot's cache holds every token of its context except
the last, which the next decode step or probe feeds. So prefill needs no logits.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct

from jax_switchgen.decoding.sampling import Sampling, row_uniforms, sample
from jax_switchgen.models.attention import KeysValues
from jax_switchgen.models.cache import Cache
from jax_switchgen.models.lora import Lora
from jax_switchgen.models.rope import rope_tables
from jax_switchgen.models.transformer import (
    Transformer,
    empty_recent,
    hidden,
    label_logits,
    logits,
)


@struct.dataclass
class Chunk:
    """Up to T tokens to be read by each row, at the end of what its slot holds.

    T is a multiple of the `piece` that one forward reads. Rows of one chunk should have
    about equally many tokens: all are computed for as many pieces as the longest has.

    Attributes:
      slots_B: int32; a number past the last slot marks a padding row.
      tokens_BT: int32, padded at the end.
      start_B: int32, tokens that the slot holds already.
      count_B: int32, tokens of the row that are not padding.
    """

    slots_B: jax.Array
    tokens_BT: jax.Array
    start_B: jax.Array
    count_B: jax.Array


@struct.dataclass
class Rows:
    """Rows that are to write one segment each.

    Attributes:
      slots_B: int32; a number past the last slot marks a padding row.
      last_token_B: int32, the last token of the context, not yet in the cache.
      length_B: int32, tokens that the slot holds.
      limit_B: int32, most tokens that the row may write (0 for a padding row).
      request_B: uint32, the request's random stream.
      position_B: int32, tokens written in the response so far.
    """

    slots_B: jax.Array
    last_token_B: jax.Array
    length_B: jax.Array
    limit_B: jax.Array
    request_B: jax.Array
    position_B: jax.Array


@struct.dataclass
class Written:
    """What a pass wrote.

    Attributes:
      tokens_BT: int32, the first `count_B` of each row are valid.
      count_B: int32, without the stop token.
      stopped_B: bool, whether the row emitted a stop token.
    """

    tokens_BT: jax.Array
    count_B: jax.Array
    stopped_B: jax.Array


@struct.dataclass
class _SegmentState:
    """What one decode step hands to the next."""

    step: jax.Array
    last_token_B: jax.Array
    tokens_BT: jax.Array
    count_B: jax.Array
    stopped_B: jax.Array
    recent: list[KeysValues]

    def active(self, limit_B: jax.Array) -> jax.Array:
        """Rows that still write."""
        return ~self.stopped_B & (self.step < limit_B)


@struct.dataclass
class _ChunkState:
    """What reading one piece of a chunk hands to the next: x_BD of each row's last
    token, once it was read, and the buffers."""

    index: jax.Array
    last_BD: jax.Array
    recent: list[KeysValues]


def _read_chunk(
    model: Transformer,
    lora: Lora | None,
    cache: Cache,
    chunk: Chunk,
    window: int,
    piece: int,
) -> tuple[jax.Array, list[KeysValues]]:
    """last_BD, the hidden state of each row's last token, and the chunk's buffers.

    Only as many pieces are run as the longest row has. The loop is also what keeps
    the cache in place: without one, XLA on CPU finds no order between reading a layer
    and writing it, and copies the whole cache.
    """
    B, T = chunk.tokens_BT.shape
    config = model.config
    past = cache.read(chunk.slots_B, window)
    ropes = rope_tables(config, chunk.start_B, T)

    def going_on(state: _ChunkState) -> jax.Array:
        return state.index * piece < jnp.max(chunk.count_B)

    def step(state: _ChunkState) -> _ChunkState:
        offset = state.index * piece
        x_BPD, recent = hidden(
            model,
            jax.lax.dynamic_slice_in_dim(chunk.tokens_BT, offset, piece, axis=1),
            ropes=ropes,
            past=past,
            past_length_B=chunk.start_B,
            recent=state.recent,
            offset=offset,
            lora=lora,
        )
        last_B = chunk.count_B - 1 - offset
        here_B = (last_B >= 0) & (last_B < piece)
        index_B11 = jnp.clip(last_B, 0, piece - 1)[:, None, None]
        x_BD = jnp.take_along_axis(x_BPD, index_B11, 1)[:, 0]
        last_BD = jnp.where(here_B[:, None], x_BD, state.last_BD)
        return _ChunkState(state.index + 1, last_BD, recent)

    state = jax.lax.while_loop(
        going_on,
        step,
        _ChunkState(
            index=jnp.int32(0),
            last_BD=jnp.zeros((B, config.embed_dim), model.dtype),
            recent=empty_recent(config, B, T, model.dtype),
        ),
    )
    return state.last_BD, state.recent


@functools.partial(
    jax.jit, static_argnames=("window", "piece"), donate_argnames="cache"
)
def prefill(
    model: Transformer,
    lora: Lora | None,
    cache: Cache,
    chunk: Chunk,
    *,
    window: int,
    piece: int,
) -> Cache:
    """Reads one chunk into the cache, `piece` tokens of each row at a time.

    `window` cache positions are read, at least every `start_B`.
    """
    _, recent = _read_chunk(model, lora, cache, chunk, window, piece)
    return cache.write(recent, chunk.slots_B, chunk.start_B, chunk.count_B)


@functools.partial(
    jax.jit, static_argnames=("window", "piece"), donate_argnames="cache"
)
def choice_probs(
    model: Transformer,
    lora: Lora | None,
    cache: Cache,
    chunk: Chunk,
    label_ids_C: jax.Array,
    *,
    window: int,
    piece: int,
) -> tuple[Cache, jax.Array]:
    """Reads the last chunk of each row's question; the probabilities of the answers.

    Returns:
      The cache with the chunk in it (the caller keeps of it what is history), and
      float32 probs_BC: softmax of the next token's logits over the labels alone.
    """
    last_BD, recent = _read_chunk(model, lora, cache, chunk, window, piece)
    logits_BC = label_logits(model, last_BD[:, None], label_ids_C)[:, 0]
    cache = cache.write(recent, chunk.slots_B, chunk.start_B, chunk.count_B)
    return cache, jax.nn.softmax(logits_BC, -1)


@functools.partial(
    jax.jit, static_argnames=("segment_length", "window"), donate_argnames="cache"
)
def decode_segment(
    model: Transformer,
    lora: Lora | None,
    cache: Cache,
    rows: Rows,
    sampling: Sampling,
    stop_ids_E: jax.Array,
    num_tokens: jax.Array,
    seed: jax.Array,
    *,
    segment_length: int,
    window: int,
) -> tuple[Cache, Written]:
    """Each row writes up to `limit_B` tokens, fewer after a stop token.

    Within the segment the cache is read-only: new keys and values go to a buffer of
    segment length and are committed once at the end. Compiled for TPU that is within
    1.07x of the least memory traffic, and nothing relays the cache out.

    Args:
      stop_ids_E: int32, the speaker's stop tokens, padded with -1.
      num_tokens: int32, ids from here on are padding of the vocabulary, never drawn.
      seed: uint32.
      segment_length: size of the buffer, at least every `limit_B`.
      window: cache positions that are read, at least every `length_B`.
    """
    B = rows.slots_B.shape[0]
    config = model.config
    past = cache.read(rows.slots_B, window)
    ropes = rope_tables(config, rows.length_B, segment_length)
    padding_V = jnp.arange(config.vocab_size) >= num_tokens

    def going_on(state: _SegmentState) -> jax.Array:
        return (state.step < segment_length) & jnp.any(state.active(rows.limit_B))

    def step(state: _SegmentState) -> _SegmentState:
        x_BTD, recent = hidden(
            model,
            state.last_token_B[:, None],
            ropes=ropes,
            past=past,
            past_length_B=rows.length_B,
            recent=state.recent,
            offset=state.step,
            lora=lora,
        )
        logits_BV = logits(model, x_BTD)[:, 0]
        logits_BV = jnp.where(padding_V[None], -jnp.inf, logits_BV)
        uniform_B = row_uniforms(seed, rows.request_B, rows.position_B + state.step)
        token_B = sample(logits_BV, uniform_B, sampling)
        active_B = state.active(rows.limit_B)
        stops_B = jnp.any(token_B[:, None] == stop_ids_E[None], -1) & active_B
        writes_B = active_B & ~stops_B
        return _SegmentState(
            step=state.step + 1,
            last_token_B=token_B,
            tokens_BT=state.tokens_BT.at[:, state.step].set(token_B),
            count_B=state.count_B + writes_B.astype(jnp.int32),
            stopped_B=state.stopped_B | stops_B,
            recent=recent,
        )

    state = jax.lax.while_loop(
        going_on,
        step,
        _SegmentState(
            step=jnp.int32(0),
            last_token_B=rows.last_token_B,
            tokens_BT=jnp.zeros((B, segment_length), jnp.int32),
            count_B=jnp.zeros(B, jnp.int32),
            stopped_B=jnp.zeros(B, bool),
            recent=empty_recent(config, B, segment_length, model.dtype),
        ),
    )
    # The step that wrote token i fed token i-1, so the last one written is not in the
    # buffer yet, and the context's last token is: as many entries as tokens. After a
    # stop, the step that drew it fed one more.
    fed_B = state.count_B + state.stopped_B.astype(jnp.int32)
    cache = cache.write(state.recent, rows.slots_B, rows.length_B, fed_B)
    return cache, Written(state.tokens_BT, state.count_B, state.stopped_B)


def num_compiled() -> dict[str, int]:
    """How many variants of each program this process has compiled so far."""
    # _cache_size is the only count that jax offers of a jitted function's variants.
    programs = {
        "prefill": prefill,
        "decode_segment": decode_segment,
        "choice_probs": choice_probs,
    }
    return {name: program._cache_size() for name, program in programs.items()}  # type: ignore[attr-defined]
