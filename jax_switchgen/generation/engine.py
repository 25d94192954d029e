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
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence

from jax_switchgen.generation.buckets import cache_length_for
from jax_switchgen.generation.decision import Policy
from jax_switchgen.generation.draft import Draft
from jax_switchgen.generation.options import GenerationOptions
from jax_switchgen.generation.session import Session
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


class Engine:
    """Writes responses with a pool of speakers and a policy.

    Args:
      expected: long queries that later streams will bring. Caches are made for them
        from the beginning, so that all streams run the same compiled programs.
      until: strings; a response also ends with the segment that completes one of them.
        The text is not cut: whoever asked cuts it, and the record keeps its tokens.

    Attributes:
      passed: is called after each decode pass, when its tokens are on the host.
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
        expected: Sequence[str] = (),
        until: Sequence[str] = (),
        synchronous: bool = False,
    ):
        self.speakers = list(speakers)
        self.policy = policy
        self.options = options
        self.expected = list(expected)
        self.until = tuple(until)
        self.synchronous = synchronous
        self.passed: Callable[[], None] = lambda: None
        self.seconds: dict[str, float] = defaultdict(float)

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
        bytes_needed = self.slot_bytes([request.query], needed)
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
        queue = deque(requests)
        with self.open(requests) as session:
            while queue or session.is_busy:
                while queue and session.num_free:
                    session.go_on(session.admit(queue.popleft()))
                events = []
                for draft, finish_reason in session.turn():
                    if any(string in draft.text for string in self.until):
                        finish_reason = finish_reason or "stop"
                    if finish_reason is None:
                        session.go_on(draft)
                    else:
                        session.release(draft)
                    events += self._events(draft, finish_reason)
                # Yielded last: the caller may take its time with an event.
                yield from events

    def open(self, requests: Sequence[Request]) -> Session:
        """A session whose caches are as long as these requests need.

        Raises:
          ValueError: a request that `check` refuses.
        """
        queries = self.expected + [request.query for request in requests]
        lengths = [self.check_length(query) for query in self.expected]
        length = max(lengths + [self.check(request) for request in requests])
        memory = int(self.options.cache_gib * 2**30)
        slot = self.slot_bytes(queries, length)
        return Session(
            self.speakers,
            self.policy,
            self.options,
            queries=queries,
            num_slots=max(1, min(self.options.in_flight, memory // slot)),
            length=length,
            seconds=self.seconds,
            synchronous=self.synchronous,
            passed=lambda: self.passed(),
        )

    def _events(self, draft: Draft, finish_reason: str | None) -> list[Event]:
        response = None
        if finish_reason is not None:
            response = self.policy.after(draft.respond(finish_reason))
        *earlier, last = draft.take_unreported()
        events = [Event(draft.request, segment, None) for segment in earlier]
        return [*events, Event(draft.request, last, response)]

    def slot_bytes(self, queries: Sequence[str], length: int) -> int:
        """Bytes of one slot of all caches, the policy's included."""
        speakers = sum(
            slot_bytes(s.model.config, cache_length_for(length), s.model.dtype)
            for s in self.speakers
        )
        return speakers + self.policy.slot_bytes(queries, self.options)
