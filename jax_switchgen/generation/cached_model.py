"""A model with a cache for every request in flight, brought up to date by catch-up.

A context is the list of token ids that a model is to continue. The owner asks for
contexts; what a slot already holds of one is kept, the rest is prefilled. So nothing
is read twice, whoever wrote it, and a context that changes (text handed over from
another tokenizer, a question withdrawn) costs only what changed. What another slot
holds is copied: a prompt that is answered several times is read once.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jax_switchgen.decoding import programs
from jax_switchgen.decoding.sampling import Sampling
from jax_switchgen.generation.buckets import (
    LONG_CHUNK,
    LONG_READ,
    WINDOWS,
    Buckets,
    cache_length_for,
)
from jax_switchgen.models.cache import Cache, empty_cache
from jax_switchgen.models.lora import Lora
from jax_switchgen.models.sharding import cache_sharding
from jax_switchgen.models.transformer import Transformer


@dataclasses.dataclass(frozen=True)
class WriteOrder:
    """One row's part of a decode pass; see `programs.Rows`."""

    slot: int
    context: Sequence[int]
    limit: int
    request: int
    position: int


class CachedModel:
    """Parameters, and for each slot the tokens whose keys and values are cached.

    Attributes:
      held: for each slot the ids that its cache holds.
      prefilled: tokens read by prefill since the cache was opened, padding left out.
    """

    def __init__(self, model: Transformer, lora: Lora | None = None):
        self.model = model
        self.lora = lora
        self.held: list[list[int]] = []
        self.prefilled = 0
        self._is_new: list[bool] = []  # by slot: what it holds is an earlier request's
        self._cache: Cache | None = None
        self._buckets = Buckets(batch=(1,))

    @property
    def cache(self) -> Cache:
        assert self._cache is not None, "open() allocates the cache"
        return self._cache

    @property
    def devices(self) -> frozenset[jax.Device]:
        """Where the model lies; two models of the same devices take turns."""
        return frozenset(self.model.arrays()["layers.0.k"].sharding.device_set)

    def open(self, num_slots: int, length: int, buckets: Buckets) -> None:
        """Allocates a cache of `num_slots` x `length` positions, beside the model."""
        self._cache = empty_cache(
            self.model.config,
            num_slots,
            cache_length_for(length),
            self.model.dtype,
            cache_sharding(self.model.arrays()["layers.0.k"].sharding),
        )
        self._buckets = buckets
        self.held = [[] for _ in range(num_slots)]
        self._is_new = [True] * num_slots
        self.prefilled = 0

    def close(self) -> None:
        """Frees the cache."""
        self._cache = None
        self.held = []

    def forget(self, slot: int) -> None:
        """A new request takes the slot."""
        self._is_new[slot] = True

    def fork(self, source: int, target: int) -> None:
        """A slot begins with what another one holds."""
        if self._is_new[source]:
            self.forget(target)
        else:
            self._copy(source, target, len(self.held[source]))

    def catch_up(self, contexts: Mapping[int, Sequence[int]]) -> None:
        """Makes each slot hold its context except the last token."""
        self._make_room(max((len(c) for c in contexts.values()), default=0))
        todo: dict[int, Sequence[int]] = {}
        waiting: dict[int, Sequence[int]] = {}
        reading: list[Sequence[int]] = []
        for slot, context in contexts.items():
            assert context, "a context has at least one token"
            wanted = context[:-1]
            if self._is_new[slot]:
                source, count = self._holder(wanted)
                # One row reads what several begin with, and the others then copy it.
                enough = max(count, len(wanted) // 2)
                if any(common_prefix(wanted, ids) > enough for ids in reading):
                    waiting[slot] = context
                    continue
                self._copy(source, slot, count)
            keep = common_prefix(self.held[slot], wanted)
            del self.held[slot][keep:]
            todo[slot] = wanted[keep:]
            reading.append(wanted)
        while todo := {slot: ids for slot, ids in todo.items() if ids}:
            # Rows of like need together.
            slots = sorted(todo, key=lambda slot: -len(todo[slot]))
            T = LONG_CHUNK
            count = self._buckets.rows_to_read(len(slots), T)
            if len(todo[slots[count - 1]]) < LONG_READ:
                T = self._buckets.chunk
                count = self._buckets.rows_to_read(len(slots), T)
            slots = slots[:count]
            self._prefill({slot: todo[slot][:T] for slot in slots}, T)
            todo |= {slot: todo[slot][T:] for slot in slots}
        if waiting:
            self.catch_up(waiting)

    def write(
        self,
        orders: Sequence[WriteOrder],
        sampling: Sampling,
        stop_ids: np.ndarray,
        num_tokens: int,
        seed: int,
        segment_length: int,
    ) -> programs.Written:
        """Dispatches one decode pass for rows that are caught up.

        The caller fetches the result and then reports each row with `wrote`.
        """
        self._make_room(max(len(o.context) + o.limit for o in orders))
        size = self._buckets.rows(len(orders))
        padding = size - len(orders)
        dead = range(self.cache.num_slots, self.cache.num_slots + padding)

        def column(values: Sequence[int], dtype: type, pad: Sequence[int]) -> jax.Array:
            return jnp.asarray(np.array([*values, *pad], dtype))

        zeros = [0] * padding
        lengths = [len(self.held[o.slot]) for o in orders]
        window = self._window(lengths)
        rows = programs.Rows(
            slots_B=column([o.slot for o in orders], np.int32, dead),
            last_token_B=column([o.context[-1] for o in orders], np.int32, zeros),
            length_B=column(lengths, np.int32, zeros),
            limit_B=column([o.limit for o in orders], np.int32, zeros),
            request_B=column([o.request for o in orders], np.uint32, zeros),
            position_B=column([o.position for o in orders], np.int32, zeros),
        )
        self._cache, written = programs.decode_segment(
            self.model,
            self.lora,
            self.cache,
            rows,
            sampling,
            stop_ids,
            np.int32(num_tokens),
            np.uint32(seed),
            segment_length=segment_length,
            window=window,
            shared=self._shared([o.slot for o in orders], window),
        )
        return written

    def wrote(
        self, slot: int, context: Sequence[int], new_ids: list[int], stopped: bool
    ) -> None:
        """Records what a pass left in the cache: its last token is only fed by the
        next pass, unless a stop token was drawn after it."""
        fed = [*context, *new_ids]
        self.held[slot] = fed if stopped else fed[:-1]

    def choose(
        self,
        contexts: Mapping[int, Sequence[int]],
        keep: Mapping[int, int],
        label_ids: np.ndarray,
    ) -> np.ndarray:
        """The probability of each label as the token after each context.

        Args:
          contexts: by slot, history and closing question.
          keep: by slot, how many tokens of the context are history.
          label_ids: int32[C].
        Returns:
          float32[len(contexts), C], in the order of `contexts`.
        """
        behind = {}
        for slot, context in contexts.items():
            held = [] if self._is_new[slot] else self.held[slot]
            common = min(common_prefix(held, context), len(context) - 1)
            if len(context) - common > self._buckets.chunk:
                # All but a last chunk is ordinary catch-up.
                behind[slot] = context[: len(context) - self._buckets.chunk + 1]
            else:
                self._begin(slot, context[:common])
        self.catch_up(behind)
        self._make_room(max(len(c) for c in contexts.values()))
        # Rows of like need share a call.
        slots = sorted(contexts, key=lambda s: len(self.held[s]) - len(contexts[s]))
        probs: dict[int, np.ndarray] = {}
        while slots:
            T = self._buckets.chunk
            count = self._buckets.rows_to_read(len(slots), T)
            batch, slots = slots[:count], slots[count:]
            chunk, window = self._chunk(
                {slot: contexts[slot][len(self.held[slot]) :] for slot in batch}, T
            )
            self._cache, probs_BC = programs.choice_probs(
                self.model,
                self.lora,
                self.cache,
                chunk,
                label_ids,
                window=window,
            )
            for row, slot in enumerate(batch):
                self.held[slot] = list(contexts[slot][: keep[slot]])
                probs[slot] = np.asarray(probs_BC)[row]
        return np.stack([probs[slot] for slot in contexts])

    def log_probs(
        self,
        contexts: Mapping[int, Sequence[int]],
        targets: Mapping[int, np.ndarray],
        num_tokens: int,
    ) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """How likely given tokens are after the last tokens of each context.

        In: the context "a b c" and targets of shape (2, C). Out: what the C first
        targets get after "a b", and the C second ones after "a b c".

        Args:
          targets: by slot int32 (t, C), one C for all slots.
          num_tokens: ids from here on are padding of the vocabulary.
        Returns:
          By slot float32 log_probs (t, C), and int32 (t,), the likeliest tokens.
        """
        left = {slot: len(tokens) for slot, tokens in targets.items()}
        # Catch-up leaves out a context's last token, here the first of t.
        self.catch_up({s: c[: len(c) - left[s] + 1] for s, c in contexts.items()})
        self._make_room(max(len(c) for c in contexts.values()))
        T = 1 if max(left.values()) == 1 else self._buckets.chunk
        found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {s: [] for s in left}
        while left := {slot: count for slot, count in left.items() if count}:
            # Rows of like need share a call.
            slots = sorted(left, key=lambda slot: -left[slot])
            slots = slots[: self._buckets.rows_to_read(len(slots), T)]
            counts = {slot: min(T, left[slot]) for slot in slots}
            done = {slot: len(self.held[slot]) for slot in slots}
            ids = {s: contexts[s][done[s] : done[s] + counts[s]] for s in slots}
            chunk, window = self._chunk(ids, T)
            C = targets[slots[0]].shape[1]
            targets_BTC = np.zeros((len(chunk.count_B), T, C), np.int32)
            for row, slot in enumerate(slots):
                first = len(targets[slot]) - left[slot]
                part = targets[slot][first : first + counts[slot]]
                targets_BTC[row, : counts[slot]] = part
            self._cache, log_probs_BTC, best_BT = programs.token_log_probs(
                self.model,
                self.lora,
                self.cache,
                chunk,
                jnp.asarray(targets_BTC),
                np.int32(num_tokens),
                window=window,
            )
            fetched = jax.device_get((log_probs_BTC, best_BT))
            for row, slot in enumerate(slots):
                found[slot].append(tuple(x[row, : counts[slot]] for x in fetched))
                self.held[slot].extend(ids[slot])
                left[slot] -= counts[slot]
        return {
            slot: (np.concatenate(log_probs), np.concatenate(best))
            for slot, parts in found.items()
            for log_probs, best in [zip(*parts, strict=True)]
        }

    def _holder(self, wanted: Sequence[int]) -> tuple[int, int]:
        """The slot that holds most of these ids, and how many to copy: all, or whole
        chunks, so that the chunks to read begin at the same places whoever is there."""
        shared = [common_prefix(held, wanted) for held in self.held]
        count = max(shared)
        source = shared.index(count)
        if count < len(wanted):
            count -= count % self._buckets.chunk
        return source, count

    def _begin(self, slot: int, ids: Sequence[int]) -> None:
        """From here on the slot holds these ids of the request that has it now."""
        self.held[slot] = list(ids)
        self._is_new[slot] = False

    def _copy(self, source: int, target: int, count: int) -> None:
        self._begin(target, self.held[source][:count])
        if count and source != target:
            self._cache = programs.copy_slot(
                self.cache,
                np.int32(source),
                np.int32(target),
                window=self._window([count]),
            )

    def _prefill(self, ids: Mapping[int, Sequence[int]], T: int) -> None:
        chunk, window = self._chunk(ids, T)
        self._cache = programs.prefill(
            self.model, self.lora, self.cache, chunk, window=window
        )
        for slot, new in ids.items():
            self.held[slot].extend(new)
            self.prefilled += len(new)

    def _chunk(
        self, ids: Mapping[int, Sequence[int]], T: int
    ) -> tuple[programs.Chunk, int]:
        """The padded arrays for reading `ids` into slots, and the window to read."""
        B = self._buckets.rows(len(ids))
        slots_B = np.arange(B, dtype=np.int32) + np.int32(self.cache.num_slots)
        tokens_BT = np.zeros((B, T), np.int32)
        start_B = np.zeros(B, np.int32)
        count_B = np.zeros(B, np.int32)
        for row, (slot, new) in enumerate(ids.items()):
            slots_B[row] = slot
            tokens_BT[row, : len(new)] = new
            start_B[row] = len(self.held[slot])
            count_B[row] = len(new)
        return (
            programs.Chunk(*map(jnp.asarray, (slots_B, tokens_BT, start_B, count_B))),
            self._window(start_B.tolist()),
        )

    def _window(self, lengths: Sequence[int]) -> int:
        """The least of one to four quarters of the cache that covers the lengths."""
        quarter = self.cache.length // WINDOWS
        return max(1, -(-max(lengths) // quarter)) * quarter

    def _shared(self, slots: Sequence[int], window: int) -> int:
        """How many positions these slots hold alike: whole quarters of the cache, less
        than the window. Only for as many rows as the largest program is for, so that
        few more programs are compiled."""
        if len(slots) == 1 or self._buckets.rows(len(slots)) < self._buckets.batch[-1]:
            return 0
        first, *others = (self.held[slot] for slot in slots)
        quarter = self.cache.length // WINDOWS
        common = min(common_prefix(first, ids) for ids in others)
        return min(common // quarter * quarter, window - quarter)

    def _make_room(self, tokens: int) -> None:
        """Grows the cache when a context outgrows the estimate it was opened with."""
        extra = cache_length_for(tokens) - self.cache.length
        if extra > 0:
            pads = ((0, 0), (0, 0), (0, extra), (0, 0))
            self._cache = jax.tree.map(lambda x: jnp.pad(x, pads), self.cache)


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return int(np.argmax(np.asarray(a[:n]) != np.asarray(b[:n])))
