"""The engine: candidates take turns to write responses. Start reading here.

    engine = Engine(speakers, policy, options)
    for response in engine.generate(["Why is the sky blue?"]):
        print(response.output)

The life of a request, as `stream` drives it:

    queue -> slot -> decision -> speaker: catch up, write a segment -> decision -> …

The policy decides for all requests that wait for a decision; the speaker with most
waiting rows catches them up on what others wrote and writes one segment for each, in
one jitted pass. Nothing about scheduling changes a token: randomness belongs to the
request, and a row sees only its own context.
"""

import dataclasses
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import numpy as np

from jax_switchgen.decoding.programs import Written
from jax_switchgen.decoding.sampling import make_sampling
from jax_switchgen.generation.cached_model import (
    Buckets,
    WriteOrder,
    batch_buckets,
    cache_length_for,
    chunk_for,
)
from jax_switchgen.generation.decision import Policy, Speak
from jax_switchgen.generation.draft import Draft
from jax_switchgen.generation.options import GenerationOptions
from jax_switchgen.generation.scheduler import Scheduler
from jax_switchgen.generation.speaker import Speaker
from jax_switchgen.generation.trace import Request, Response, Segment
from jax_switchgen.models.cache import slot_bytes


@dataclasses.dataclass(frozen=True)
class Event:
    """A segment was finished.

    Attributes:
      response: the whole response if this was its last segment, else None.
    """

    request: Request
    segment: Segment
    response: Response | None


@dataclasses.dataclass
class _Pass:
    """A decode pass whose tokens have not been fetched yet."""

    speaker: Speaker
    index: int
    drafts: list[Draft]
    contexts: list[list[int]]
    written: Written


class Engine:
    """Writes responses with a pool of speakers and a policy.

    Args:
      until: strings; a response also ends with the segment that completes one of them.
        The text is not cut: whoever asked cuts it, and the record keeps its tokens.

    Attributes:
      seconds: wall time by phase (`decision`, `catch_up`, `decode`, `fetch`) since the
        engine was made. Programs run asynchronously: `fetch` is where the host waits.
        With `synchronous` each phase waits for its own programs.
    """

    def __init__(
        self,
        speakers: Sequence[Speaker],
        policy: Policy,
        options: GenerationOptions,
        *,
        until: Sequence[str] = (),
        synchronous: bool = False,
    ):
        self.speakers = list(speakers)
        self.policy = policy
        self.options = options
        self.until = tuple(until)
        self.synchronous = synchronous
        self.seconds: dict[str, float] = defaultdict(float)
        self._buckets = Buckets(
            batch_buckets(options.batch_size), chunk_for(options.segment_length)
        )
        self._sampling = make_sampling(
            options.temperature, options.top_p, options.top_k
        )

    def generate(self, queries: Sequence[str | Request]) -> list[Response]:
        """Answers all queries; responses in their order."""
        requests = [
            q if isinstance(q, Request) else Request(q, i)
            for i, q in enumerate(queries)
        ]
        responses = {
            id(event.request): event.response
            for event in self.stream(requests)
            if event.response is not None
        }
        return [responses[id(request)] for request in requests]

    def check(self, request: Request) -> int:
        """Tokens of cache that the request needs, at most.

        Raises:
          ValueError: it can't be answered; one line that says why.
        """
        needed = self.check_length(request.query)
        bytes_needed = self._slot_bytes([request], needed)
        if bytes_needed > self.options.cache_gib * 2**30:
            raise ValueError(
                f"prompt + budget of {needed} tokens need {bytes_needed / 2**30:.1f} "
                f"GiB of cache; raise generation.cache_gib={self.options.cache_gib}"
            )
        return needed

    def check_length(self, query: str) -> int:
        """Like `check`, of what the models can read, whatever the memory."""
        self.policy.check(query, self.options)
        budget = self.options.max_new_tokens
        needed = 0
        for speaker in self.speakers:
            prompt = len(speaker.prompt(query))
            limit = speaker.model.config.max_positions
            if prompt + budget > limit:
                raise ValueError(
                    f"prompt of {prompt} tokens + max_new_tokens={budget} is more than "
                    f"the {limit} positions of {speaker.name!r}; shorten the input or "
                    "lower generation.max_new_tokens"
                )
            needed = max(needed, prompt + budget)
        return needed

    def stream(self, requests: Sequence[Request]) -> Iterator[Event]:
        """Yields each segment as it is finished, requests interleaved.

        Raises:
          ValueError: a request that `check` refuses.
        """
        if not requests:
            return
        scheduler = self._open(requests)
        queue = deque(requests)
        pending: _Pass | None = None
        try:
            while True:
                while queue and scheduler.has_free_slot:
                    draft = self._admit(queue.popleft(), scheduler.take_slot())
                    scheduler.wait_for_decision([draft])
                self._decide(scheduler)
                # The next pass starts before the last one's tokens are fetched, unless
                # those rows could fill it up.
                work = None
                if pending is None or scheduler.has_full_pass():
                    work = scheduler.next_pass()
                started = self._start(*work) if work else None
                if pending is not None:
                    yield from self._finish(pending, scheduler)
                pending = started
                if pending is None and scheduler.is_idle and not queue:
                    return
        finally:
            for speaker in self.speakers:
                speaker.close()
            self.policy.close()

    def _open(self, requests: Sequence[Request]) -> Scheduler[Draft]:
        """Allocates all caches for these requests."""
        length = max(self.check(request) for request in requests)
        memory = int(self.options.cache_gib * 2**30)
        slot = self._slot_bytes(requests, length)
        slots = max(1, min(self.options.in_flight, memory // slot))
        for speaker in self.speakers:
            speaker.open(slots, length, self._buckets)
        queries = [request.query for request in requests]
        self.policy.open(slots, queries, self.options, self._buckets)
        return Scheduler(slots, len(self.speakers), self.options.batch_size)

    def _slot_bytes(self, requests: Sequence[Request], length: int) -> int:
        """Bytes of one slot of all caches, the policy's included."""
        speakers = sum(
            slot_bytes(s.model.config, cache_length_for(length), s.model.dtype)
            for s in self.speakers
        )
        queries = [request.query for request in requests]
        return speakers + self.policy.slot_bytes(queries, self.options)

    def _admit(self, request: Request, slot: int) -> Draft:
        for speaker in self.speakers:
            speaker.forget(slot)
        self.policy.admit(slot)
        draft = Draft(
            request,
            slot,
            max_new_tokens=self.options.max_new_tokens,
            segment_length=self.options.segment_length,
            seed=self.options.seed,
        )
        draft.pinned = self.policy.before(request.query)
        return draft

    def _decide(self, scheduler: Scheduler[Draft]) -> None:
        """Sends every request that waits for a decision to a speaker."""
        drafts, scheduler.deciding = scheduler.deciding, []
        asked = [d for d in drafts if d.pinned is None]
        with self._phase("decision"):
            answers = iter(self.policy.step(asked) if asked else [])
        for draft in drafts:
            choice: Speak = draft.pinned or next(answers)
            draft.choice = choice
            scheduler.decided(choice.speaker, draft)

    def _start(self, index: int, drafts: list[Draft]) -> _Pass:
        """Catches the rows up and dispatches their segment."""
        speaker, options = self.speakers[index], self.options
        for draft in drafts:
            if options.final_cue is not None and draft.is_last:
                draft.append_cue(options.final_cue, speaker.vocabulary)
        contexts = [speaker.context(d, options.partial_in) for d in drafts]
        for draft, context in zip(drafts, contexts, strict=True):
            if not draft.segments:
                draft.prompt_tokens = len(context)
        with self._phase("catch_up"):
            speaker.catch_up({d.slot: c for d, c in zip(drafts, contexts, strict=True)})
            if self.synchronous:
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
                options.segment_length,
            )
            if self.synchronous:
                jax.block_until_ready(written)
        return _Pass(speaker, index, drafts, contexts, written)

    def _finish(self, done: _Pass, scheduler: Scheduler[Draft]) -> Iterator[Event]:
        """Fetches a pass's tokens and sends its rows on."""
        with self._phase("fetch"):
            tokens_BT, count_B, stopped_B = jax.device_get(
                (done.written.tokens_BT, done.written.count_B, done.written.stopped_B)
            )
        events = []
        names = [speaker.name for speaker in self.speakers]
        for row, draft in enumerate(done.drafts):
            new_ids = tokens_BT[row, : count_B[row]].tolist()
            stopped = bool(stopped_B[row])
            done.speaker.wrote(draft.slot, done.contexts[row], new_ids, stopped)
            draft.append(names, done.index, new_ids)
            reason = self._finish_reason(draft, done.speaker, new_ids, stopped)
            response = None
            if reason is None:
                scheduler.wait_for_decision([draft])
            else:
                scheduler.release_slot(draft.slot)
                response = self.policy.after(draft.respond(reason))
            *earlier, last = draft.take_unreported()
            events += [Event(draft.request, segment, None) for segment in earlier]
            events.append(Event(draft.request, last, response))
        # Yielded last: the caller may take its time with an event.
        yield from events

    def _finish_reason(
        self, draft: Draft, speaker: Speaker, new_ids: list[int], stopped: bool
    ) -> str | None:
        """Why the response ends here, or None if it goes on."""
        if draft.remaining <= 0:
            return "stop" if stopped else "length"
        if any(string in draft.text for string in self.until):
            return "stop"
        if not stopped:
            return None
        if self.options.stop_cue is None or not new_ids:
            return "stop"
        draft.append_cue(self.options.stop_cue, speaker.vocabulary)
        return None

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start
