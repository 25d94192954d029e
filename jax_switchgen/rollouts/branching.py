"""Branches: what comes of letting each candidate write the next segment?

    query -> prefix, by random switching, cut at a segment boundary
          -> a branch for each candidate: the same prefix, and one segment by it
          -> completions of each branch by random switching, each with its score

(Switch Generation, section 3.) All of it runs in one session, branches of many queries
side by side, so that passes are full. A prefix, and a branch's segment, is read once by
each candidate; the forks begin with copies of its caches. Completion j of every branch
of a place draws the same random numbers.

Slots cannot run out for good: the last free one is left to completions, which need no
other; all branches of a place begin together, and only if it stays free; a prefix
begins only if all that stay free. So branches, and then prefixes, come to their end.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from jax_switchgen.generation.decision import Speak
from jax_switchgen.generation.draft import Draft
from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.trace import Request, Segment
from jax_switchgen.rollouts.allocation import next_counts
from jax_switchgen.tasks.record import Record, Task

# Scores of outputs for one record; from 0 to 1, but for a reward model's.
Judge = Callable[[Task, Record, Sequence[str]], list[float]]

_CUTTING = 1  # so that no two uses of the seed draw alike


@dataclasses.dataclass(frozen=True)
class Place:
    """One response to a record, which is to be cut and labelled.

    Attributes:
      number: which of the record's responses, from 0.
    """

    task: Task
    record: Record
    number: int

    @property
    def request(self) -> Request:
        """Of the prefix and of the branches' segments."""
        name = f"{self.task.name}/{self.record.id}/{self.number}"
        return Request(self.record.prompt, name)

    def completion(self, number: int) -> Request:
        """Of the completion of that number, of any branch."""
        return Request(self.record.prompt, f"{self.request.id}/{number}")


@dataclasses.dataclass(frozen=True)
class Branched:
    """A place with all its branches.

    Attributes:
      trace: the prefix.
      scores: for each candidate those of its branch's completions.
    """

    place: Place
    trace: list[Segment]
    scores: list[list[float]]


def cut_of(request: Request, seed: int, segments: int, span: Sequence[float]) -> int:
    """After how many of a budget's segments a prefix is cut.

    Uniform over the boundaries between the two shares of the budget that `span` names;
    0 if there is none.
    """
    first, last = (share * segments for share in span)
    inside = [b for b in range(segments) if first <= b <= last] or [0]
    # Four numbers, where `Draft.uniform` seeds with three.
    rng = np.random.default_rng((seed, request.stream, 0, _CUTTING))
    return inside[int(rng.integers(len(inside)))]


def _copy(draft: Draft) -> Draft:
    """The draft as it stands, in the same slot."""
    return draft.fork(draft.request, draft.slot)


class _Branch:
    """One candidate's branch.

    Attributes:
      draft: as it stands after the candidate's segment, as long as completions may
        begin there.
      ended: the whole response, if it ended with that segment.
      outputs: the completions by number.
      scores: of the outputs that are judged, in the order of their numbers.
    """

    def __init__(self, candidate: int):
        self.candidate = candidate
        self.draft: Draft | None = None
        self.ended: str | None = None
        self.outputs: dict[int, str] = {}
        self.scores: list[float] = []


class _Open:
    """A place at work.

    Attributes:
      prefix: as far as it is written; the last segment left out if it ended there.
      cut: segments of the prefix, at most.
      running: drafts that must come to their end before the next step.
    """

    def __init__(self, place: Place, prefix: Draft, cut: int, candidates: int):
        self.place = place
        self.prefix = _copy(prefix)
        self.cut = cut
        self.branches = [_Branch(i) for i in range(candidates)]
        self.running = 0
        self.known: dict[str, float] = {}  # scores by output


# What is to be done with a draft that got its segment, and maybe finished.
_Then = Callable[[Draft, str | None], None]


class Branching:
    """Follows the branches of many places at once.

    Args:
      engine: its policy is to be random switching.
      judge: scores outputs.
      places: at least one.
      span: shares of the token budget between which prefixes are cut.
      completions: of each branch, at most.
      allocation: one of `allocation.ALLOCATIONS`.

    Attributes:
      tokens: written so far.
      responses: completions finished so far.

    Raises:
      ValueError: there is no room for a prefix, a branch and a completion.
    """

    def __init__(
        self,
        engine: Engine,
        judge: Judge,
        places: Sequence[Place],
        *,
        span: tuple[float, float],
        completions: int,
        allocation: str,
    ):
        self._engine = engine
        self._judge = judge
        self._span = span
        self._completions = completions
        self._allocation = allocation
        # By slot: what comes next, and the tokens written when it was sent on.
        self._then: dict[int, tuple[_Then, int]] = {}
        self._places = deque(places)  # these three wait for slots
        self._prefixes: deque[_Open] = deque()
        self._responses: deque[tuple[_Open, _Branch, int]] = deque()
        self._cut: list[_Open] = []  # these two are ready for the next step
        self._due: list[_Open] = []
        # By slot: not read by every candidate yet, and read together.
        self._unread: dict[int, Draft] = {}
        self.tokens = 0
        self.responses = 0
        self._session = engine.open([place.request for place in places])
        self._num_branches = len(engine.speakers)
        needed = self._num_branches + 2
        if self._session.num_free < needed:
            raise ValueError(
                f"rollouts of {self._num_branches} candidates need room for {needed} "
                f"responses at a time, there is some for {self._session.num_free}; "
                "raise generation.in_flight or generation.cache_gib"
            )

    def run(self) -> Iterator[Branched]:
        """Each place as soon as its last completion is judged; once."""
        with self._session as session:
            while self._places or self._then or self._prefixes or self._responses:
                self._begin()
                for draft, finish_reason in session.turn():
                    then, written = self._then.pop(draft.slot)
                    self.tokens += draft.written - written
                    then(draft, finish_reason)
                yield from self._step()

    def _begin(self) -> None:
        """Gives free slots away, to what needs no further ones first."""
        while self._responses and self._session.num_free:
            self._begin_response(*self._responses.popleft())
        while self._prefixes and self._session.num_free > self._num_branches:
            self._begin_branches(self._prefixes.popleft())
        drafts = []
        while self._places and self._session.num_free > self._num_branches + 1:
            drafts.append(self._begin_place(self._places.popleft()))
        self._session.catch_up(drafts)

    def _read(self, draft: Draft) -> None:
        """All candidates read this draft, and in the same calls all that are unread."""
        if draft.slot in self._unread:
            self._session.catch_up(list(self._unread.values()))
            self._unread.clear()

    def _begin_place(self, place: Place) -> Draft:
        options = self._engine.options
        segments = -(-options.max_new_tokens // options.segment_length)
        cut = cut_of(place.request, options.seed, segments, self._span)
        draft = self._session.admit(place.request)
        opened = _Open(place, draft, cut, self._num_branches)
        if cut:
            self._send(draft, partial(self._prefix_grown, opened))
        else:
            self._cut.append(opened)
        return draft

    def _begin_branches(self, opened: _Open) -> None:
        self._read(opened.prefix)
        opened.running = self._num_branches
        for branch in opened.branches:
            draft = self._session.fork(opened.prefix, opened.place.request)
            then = partial(self._branch_grown, opened, branch)
            self._send(draft, then, Speak(branch.candidate))
        self._session.release(opened.prefix)

    def _begin_response(self, opened: _Open, branch: _Branch, number: int) -> None:
        assert branch.draft is not None
        self._read(branch.draft)
        draft = self._session.fork(branch.draft, opened.place.completion(number))
        then = partial(self._response_grown, opened, branch, number)
        self._send(draft, then)
        if number == self._completions - 1:
            self._release(branch)

    def _send(self, draft: Draft, then: _Then, speak: Speak | None = None) -> None:
        self._then[draft.slot] = then, draft.written
        self._session.go_on(draft, speak)

    def _release(self, branch: _Branch) -> None:
        if branch.draft is not None:
            self._unread.pop(branch.draft.slot, None)
            self._session.release(branch.draft)
            branch.draft = None

    def _prefix_grown(
        self, opened: _Open, draft: Draft, finish_reason: str | None
    ) -> None:
        if finish_reason is not None:
            # It is cut before its last segment, where there still was a choice.
            self._cut.append(opened)
            return
        opened.prefix = _copy(draft)
        if len(draft.history) == opened.cut:
            self._cut.append(opened)
        else:
            self._send(draft, partial(self._prefix_grown, opened))

    def _branch_grown(
        self,
        opened: _Open,
        branch: _Branch,
        draft: Draft,
        finish_reason: str | None,
    ) -> None:
        branch.draft = draft
        if finish_reason is not None:
            branch.ended = draft.respond(finish_reason).output
            self._release(branch)
        self._finished(opened)

    def _response_grown(
        self,
        opened: _Open,
        branch: _Branch,
        number: int,
        draft: Draft,
        finish_reason: str | None,
    ) -> None:
        if finish_reason is None:
            then = partial(self._response_grown, opened, branch, number)
            self._send(draft, then)
            return
        branch.outputs[number] = draft.respond(finish_reason).output
        self.responses += 1
        self._session.release(draft)
        self._finished(opened)

    def _finished(self, opened: _Open) -> None:
        opened.running -= 1
        if opened.running == 0:
            self._due.append(opened)

    def _step(self) -> Iterator[Branched]:
        """Cut prefixes branch; places whose drafts have all finished get more
        completions, or are done."""
        cut, self._cut = self._cut, []
        due, self._due = self._due, []
        grown = [b.draft for o in due for b in o.branches if not b.outputs and b.draft]
        ready = [*(opened.prefix for opened in cut), *grown]
        self._unread |= {draft.slot: draft for draft in ready}
        self._prefixes += cut
        for opened in due:
            while not opened.running and self._ask_for_more(opened):
                pass
            if not opened.running:
                scores = [branch.scores for branch in opened.branches]
                yield Branched(opened.place, opened.prefix.segments, scores)

    def _ask_for_more(self, opened: _Open) -> bool:
        """Judges what came; whether further completions are wanted."""
        self._judge_new(opened)
        counts = next_counts(
            [branch.scores for branch in opened.branches],
            self._allocation,
            self._completions,
        )
        more = False
        for branch, count in zip(opened.branches, counts, strict=True):
            numbers = range(len(branch.scores), count)
            more |= bool(numbers)
            if branch.ended is not None:
                branch.outputs |= dict.fromkeys(numbers, branch.ended)
            elif numbers:
                self._responses += [(opened, branch, number) for number in numbers]
                opened.running += len(numbers)
            else:
                self._release(branch)
        return more

    def _judge_new(self, opened: _Open) -> None:
        outputs = {o for b in opened.branches for o in b.outputs.values()}
        new = sorted(outputs - opened.known.keys())
        place = opened.place
        if new:
            scores = self._judge(place.task, place.record, new)
            opened.known |= dict(zip(new, scores, strict=True))
        for branch in opened.branches:
            for number in range(len(branch.scores), len(branch.outputs)):
                branch.scores.append(opened.known[branch.outputs[number]])
