"""Drafts at work: their slots, decisions and passes.

Whoever drives a session says which drafts there are; the session says when each of
them gets its next segment:

    session.go_on(session.admit(request))
    while session.is_busy:
        for draft, finish_reason in session.turn():
            session.go_on(draft)  # or release(draft), or go_on(fork(draft, …))
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import jax
import numpy as np

from jax_switchgen.decoding.programs import Written
from jax_switchgen.decoding.sampling import make_sampling
from jax_switchgen.generation.buckets import buckets_for
from jax_switchgen.generation.cached_model import WriteOrder
from jax_switchgen.generation.decision import Policy, Speak
from jax_switchgen.generation.draft import Draft
from jax_switchgen.generation.options import GenerationOptions
from jax_switchgen.generation.scheduler import Scheduler
from jax_switchgen.generation.speaker import Speaker
from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.generation.trace import Request


@dataclasses.dataclass
class _Pass:
    """A decode pass whose tokens have not been fetched yet."""

    speaker: Speaker
    index: int
    drafts: list[Draft]
    contexts: list[list[int]]
    written: Written


class Session:
    """Drafts that share the caches of a pool and its policy; a context manager.

    Args:
      queries: all that will be asked, from which the policy sizes its cache.
      num_slots: most drafts at a time.
      length: tokens of cache for each.
      seconds: gets the wall time by phase; see `Engine.seconds`.
      passed: is called after each pass; see `Engine.passed`.
    """

    def __init__(
        self,
        speakers: Sequence[Speaker],
        policy: Policy,
        options: GenerationOptions,
        *,
        queries: Sequence[str],
        num_slots: int,
        length: int,
        seconds: dict[str, float],
        synchronous: bool,
        passed: Callable[[], None],
    ):
        self._speakers = speakers
        self._names = [speaker.name for speaker in speakers]
        self._policy = policy
        self._options = options
        self._seconds = seconds
        self._synchronous = synchronous
        self._passed = passed
        self._sampling = make_sampling(
            options.temperature, options.top_p, options.top_k
        )
        self._scheduler: Scheduler[Draft] = Scheduler(
            num_slots, len(speakers), options.batch_size
        )
        self._places = _by_devices(speakers)
        self._pending: deque[_Pass] = deque()  # the oldest first
        buckets = buckets_for(options.batch_size, options.longest_segment)
        for speaker in speakers:
            speaker.open(num_slots, length, buckets)
        policy.open(num_slots, queries, options, buckets)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        for speaker in self._speakers:
            speaker.close()
        self._policy.close()

    @property
    def num_free(self) -> int:
        """Slots that no draft holds."""
        return self._scheduler.num_free

    @property
    def is_busy(self) -> bool:
        """Whether `turn` has something to do, or tokens to bring."""
        return bool(self._pending) or not self._scheduler.is_idle

    def admit(self, request: Request) -> Draft:
        """A new draft, with nothing written yet; takes a slot."""
        draft = Draft(
            request,
            self._take_slot(),
            max_new_tokens=self._options.max_new_tokens,
            segment_length=self._options.segment_length,
            seed=self._options.seed,
        )
        draft.pinned = self._policy.before(request.query)
        return draft

    def catch_up(self, drafts: Sequence[Draft]) -> None:
        """Lets every candidate read these drafts, so that forks inherit all of it."""
        with self._phase("catch_up"):
            for speaker in self._speakers:
                # Copies, because asking for another tokenizer's ids changes a draft.
                copies = [draft.fork(draft.request, draft.slot) for draft in drafts]
                speaker.catch_up(
                    {
                        copy.slot: speaker.context(copy, self._options.partial_in)
                        for copy in copies
                    }
                )

    def fork(self, draft: Draft, request: Request) -> Draft:
        """Another draft that begins as this one stands; takes a slot.

        Nothing that the caches hold of the draft is read again.

        Args:
          request: of the same query; its id is the fork's random stream.
        """
        slot = self._take_slot()
        for speaker in self._speakers:
            speaker.fork(draft.slot, slot)
        return draft.fork(request, slot)

    def go_on(self, draft: Draft, speak: Speak | None = None) -> None:
        """The draft is to get its next segment, by the policy's decision or by ours."""
        if speak is None:
            self._scheduler.wait_for_decision([draft])
        else:
            draft.choice = speak
            self._scheduler.decided(speak.speaker, draft, draft.remaining)

    def release(self, draft: Draft) -> None:
        """The draft needs its slot no longer."""
        self._scheduler.release_slot(draft.slot)

    def turn(self) -> list[tuple[Draft, str | None]]:
        """Decides, starts passes, and brings the rows of the oldest one.

        Returns:
          Drafts that have a new segment, each with its finish reason, or None if the
          response is not finished. A draft that neither goes on nor is released keeps
          its slot.
        """
        self._decide()
        for speakers in self._places:
            self._occupy(speakers)
        # The oldest, even if another has ended: the order of passes is then the same on
        # every run, and rounding with it.
        return self._finish(self._pending.popleft()) if self._pending else []

    def _occupy(self, speakers: Sequence[int]) -> None:
        """Gives the devices of these speakers a pass, and one more to go on with when
        it is full: rows of the first could fill it up otherwise."""
        started = sum(each.index in speakers for each in self._pending)
        while started == 0 or (
            started == 1 and self._scheduler.has_full_pass(speakers)
        ):
            work = self._scheduler.next_pass(speakers)
            if work is None:
                return
            self._pending.append(self._start(*work))
            started += 1

    def _take_slot(self) -> int:
        slot = self._scheduler.take_slot()
        for speaker in self._speakers:
            speaker.forget(slot)
        self._policy.admit(slot)
        return slot

    def _decide(self) -> None:
        """Sends every draft that waits for a decision to a speaker."""
        drafts, self._scheduler.deciding = self._scheduler.deciding, []
        asked = [d for d in drafts if d.pinned is None]
        with self._phase("decision"):
            answers = iter(self._policy.step(asked) if asked else [])
        for draft in drafts:
            choice: Speak = draft.pinned or next(answers)
            draft.choice = choice
            self._scheduler.decided(choice.speaker, draft, draft.remaining)

    def _start(self, index: int, drafts: list[Draft]) -> _Pass:
        """Catches the rows up and dispatches their segment."""
        speaker, options = self._speakers[index], self._options
        for draft in drafts:
            if not draft.segments:
                prompt = speaker.context(draft, options.partial_in)
                draft.prompt_tokens = len(prompt)
            self._insert_cues(draft, speaker.vocabulary)
        contexts = [speaker.context(d, options.partial_in) for d in drafts]
        with self._phase("catch_up"):
            speaker.catch_up({d.slot: c for d, c in zip(drafts, contexts, strict=True)})
            if self._synchronous:
                jax.block_until_ready(speaker.cache)
        orders = [
            WriteOrder(d.slot, c, d.limit, d.request.stream, d.written)
            for d, c in zip(drafts, contexts, strict=True)
        ]
        stop_ids = speaker.stop_ids
        with self._phase("decode"):
            written = speaker.write(
                orders,
                self._sampling,
                np.full_like(stop_ids, -1) if options.ignore_stop else stop_ids,
                len(speaker.vocabulary),
                options.seed,
                options.longest_segment,
            )
            if self._synchronous:
                jax.block_until_ready(written)
        return _Pass(speaker, index, drafts, contexts, written)

    def _finish(self, done: _Pass) -> list[tuple[Draft, str | None]]:
        """Fetches a pass's tokens and adds them to its drafts."""
        with self._phase("fetch"):
            tokens_BT, count_B, stopped_B = jax.device_get(
                (done.written.tokens_BT, done.written.count_B, done.written.stopped_B)
            )
        self._passed()
        reasons = []
        for row, draft in enumerate(done.drafts):
            new_ids = tokens_BT[row, : count_B[row]].tolist()
            stopped = bool(stopped_B[row])
            done.speaker.wrote(draft.slot, done.contexts[row], new_ids, stopped)
            draft.append(self._names, done.index, new_ids)
            draft.is_stopped = stopped
            reasons.append(self._finish_reason(draft, len(new_ids)))
        return list(zip(done.drafts, reasons, strict=True))

    def _finish_reason(self, draft: Draft, num_new: int) -> str | None:
        """Why the response ends here, or None if it goes on."""
        if draft.remaining <= 0:
            return "length"
        goes_on = self._options.stop_cue is not None and num_new > 0
        return "stop" if draft.is_stopped and not goes_on else None

    def _insert_cues(self, draft: Draft, vocabulary: Vocabulary) -> None:
        """What the options have the next speaker read before its segment."""
        options = self._options
        if draft.is_stopped and options.stop_cue is not None:
            draft.append_cue(options.stop_cue, vocabulary)
        if draft.is_last and not draft.is_cued and options.final_cue is not None:
            draft.append_cue(options.final_cue, vocabulary)
            draft.is_cued = True

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[name] += time.perf_counter() - start


def _by_devices(speakers: Sequence[Speaker]) -> list[list[int]]:
    """Indices of the speakers, those together that lie on the same devices."""
    found: dict[frozenset[jax.Device], list[int]] = {}
    for index, speaker in enumerate(speakers):
        found.setdefault(speaker.devices, []).append(index)
    return list(found.values())
