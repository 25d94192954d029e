"""The jitted programs: prefill, segment decode, the switcher's probe, and likelihood.

Everything that runs on the device in generation is one of the first three, or copies
what one slot holds to another; likelihood scores given text in evaluations. Shapes come
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

    All rows are computed over T tokens, padding included.

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


def _read_chunk(
    model: Transformer,
    lora: Lora | None,
    cache: Cache,
    chunk: Chunk,
    window: int,
    only_B: jax.Array | None = None,
) -> tuple[jax.Array, list[KeysValues]]:
    """Runs a chunk through the blocks: x_BTD (or x_B1D) and the new keys and values.

    In a loop whose body runs once, to keep the cache in place: without one, XLA for CPU
    finds no order between reading a layer and writing it, and copies the whole cache.
    A chunk of several pieces in one such loop was tried: the longer buffer costs
    attention more (39 % at 8 rows of 32 tokens) than calls do. On TPU nothing is
    copied, and the loop would cost a catch-up of 8B 1.4 times the memory traffic.
    """
    B, T = chunk.tokens_BT.shape
    past = cache.read(chunk.slots_B, window)
    ropes = rope_tables(model.config, chunk.start_B, T)
    State = tuple[jax.Array, jax.Array, list[KeysValues]]

    def unread(state: State) -> jax.Array:
        # Not a constant, or the compiler would take the loop away.
        return state[0] < jnp.minimum(jnp.max(chunk.count_B), 1)

    @jax.jit  # so that it is traced once for both ways
    def read(state: State) -> State:
        x_BTD, recent = hidden(
            model,
            chunk.tokens_BT,
            ropes=ropes,
            past=past,
            past_length_B=chunk.start_B,
            recent=state[2],
            offset=0,
            lora=lora,
            only_B=only_B,
        )
        return state[0] + 1, x_BTD, recent

    tokens_out = T if only_B is None else 1
    x_BTD = jnp.zeros((B, tokens_out, model.config.embed_dim), model.dtype)
    empty = empty_recent(model.config, B, T, model.dtype)
    _, x_BTD, recent = jax.lax.platform_dependent(
        (jnp.int32(0), x_BTD, empty),
        tpu=read,
        default=lambda state: jax.lax.while_loop(unread, read, state),
    )
    return x_BTD, recent


@functools.partial(jax.jit, static_argnames="window", donate_argnames="cache")
def prefill(
    model: Transformer,
    lora: Lora | None,
    cache: Cache,
    chunk: Chunk,
    *,
    window: int,
) -> Cache:
    """Reads one chunk into the cache.

    `window` cache positions are read, at least every `start_B`.
    """
    _, recent = _read_chunk(model, lora, cache, chunk, window)
    return cache.write(recent, chunk.slots_B, chunk.start_B, chunk.count_B)


@functools.partial(jax.jit, static_argnames="window", donate_argnames="cache")
def choice_probs(
    model: Transformer,
    lora: Lora | None,
    cache: Cache,
    chunk: Chunk,
    label_ids_C: jax.Array,
    *,
    window: int,
) -> tuple[Cache, jax.Array]:
    """Reads the last chunk of each row's question; the probabilities of the answers.

    Returns:
      The cache with the chunk in it (the caller keeps of it what is history), and
      float32 probs_BC: softmax of the next token's logits over the labels alone.
    """
    last_B = jnp.maximum(chunk.count_B - 1, 0)
    x_B1D, recent = _read_chunk(model, lora, cache, chunk, window, last_B)
    logits_BC = label_logits(model, x_B1D, label_ids_C)[:, 0]
    cache = cache.write(recent, chunk.slots_B, chunk.start_B, chunk.count_B)
    return cache, jax.nn.softmax(logits_BC, -1)


@functools.partial(jax.jit, static_argnames="window", donate_argnames="cache")
def token_log_probs(
    model: Transformer,
    lora: Lora | None,
    cache: Cache,
    chunk: Chunk,
    targets_BTC: jax.Array,
    num_tokens: jax.Array,
    *,
    window: int,
) -> tuple[Cache, jax.Array, jax.Array]:
    """Reads one chunk; how likely given tokens are after each token of it.

    Args:
      targets_BTC: int32, C tokens to be judged at each position.
      num_tokens: int32, ids from here on are padding of the vocabulary.
    Returns:
      The cache with the chunk in it, float32 log_probs_BTC over the whole vocabulary,
      and int32 best_BT, the likeliest token.
    """
    x_BTD, recent = _read_chunk(model, lora, cache, chunk, window)
    cache = cache.write(recent, chunk.slots_B, chunk.start_B, chunk.count_B)
    logits_BTV = logits(model, x_BTD)
    padding_V = jnp.arange(model.config.vocab_size) >= num_tokens
    logits_BTV = jnp.where(padding_V[None, None], -jnp.inf, logits_BTV)
    total_BT1 = jax.nn.logsumexp(logits_BTV, axis=-1, keepdims=True)
    chosen_BTC = jnp.take_along_axis(logits_BTV, targets_BTC, axis=-1)
    best_BT = jnp.argmax(logits_BTV, axis=-1).astype(jnp.int32)
    return cache, chosen_BTC - total_BT1, best_BT


@functools.partial(
    jax.jit,
    static_argnames=("segment_length", "window", "shared"),
    donate_argnames="cache",
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
    shared: int = 0,
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
      shared: how many of them hold the same in all rows, and are read once.
    """
    B = rows.slots_B.shape[0]
    config = model.config
    past = cache.read(rows.slots_B, window, shared)
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


@functools.partial(jax.jit, static_argnames="window", donate_argnames="cache")
def copy_slot(
    cache: Cache, source: jax.Array, target: jax.Array, *, window: int
) -> Cache:
    """Copies the first `window` positions of slot `source` to slot `target`."""

    def copied(x_BKSH: jax.Array) -> jax.Array:
        _, K, _, H = x_BKSH.shape
        part = jax.lax.dynamic_slice(x_BKSH, (source, 0, 0, 0), (1, K, window, H))
        return jax.lax.dynamic_update_slice(x_BKSH, part, (target, 0, 0, 0))

    return jax.tree.map(copied, cache)


def num_compiled() -> dict[str, int]:
    """How many variants of each program this process has compiled so far."""
    # _cache_size is the only count that jax offers of a jitted function's variants.
    programs = {
        "prefill": prefill,
        "decode_segment": decode_segment,
        "choice_probs": choice_probs,
        "token_log_probs": token_log_probs,
        "copy_slot": copy_slot,
    }
    return {name: program._cache_size() for name, program in programs.items()}  # type: ignore[attr-defined]
