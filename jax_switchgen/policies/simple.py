"""Policies that look at nothing but the clock: fixed, random, round robin, schedule."""

from collections.abc import Sequence

from jax_switchgen.generation.buckets import Buckets
from jax_switchgen.generation.decision import Policy, Speak, Turn
from jax_switchgen.generation.options import GenerationOptions


class Fixed(Policy):
    """One candidate writes everything."""

    def __init__(self, speaker: int):
        self.speaker = speaker

    def step(self, turns: Sequence[Turn]) -> list[Speak]:
        return [Speak(self.speaker) for _ in turns]


class Random(Policy):
    """Every candidate is as likely as the others, at each segment."""

    def __init__(self, num_candidates: int):
        self.num_candidates = num_candidates

    def step(self, turns: Sequence[Turn]) -> list[Speak]:
        n = self.num_candidates
        probs = (1 / n,) * n
        return [Speak(int(turn.uniform() * n), probs) for turn in turns]


class Schedule(Policy):
    """Candidates speak in a given order, over and over; round robin is 0 … n-1."""

    def __init__(self, order: Sequence[int]):
        self.order = tuple(order)

    def step(self, turns: Sequence[Turn]) -> list[Speak]:
        return [Speak(self.order[len(t.history) % len(self.order)]) for t in turns]


class ForcedEnds(Policy):
    """Another policy, with given speakers for the first segment and for the one that
    reaches the token budget. A response that stops earlier has no forced end.
    """

    def __init__(self, policy: Policy, first: int | None, last: int | None):
        self.policy = policy
        self.first = first
        self.last = last

    def check(self, query: str, options: GenerationOptions) -> None:
        self.policy.check(query, options)

    def slot_bytes(self, queries: Sequence[str], options: GenerationOptions) -> int:
        return self.policy.slot_bytes(queries, options)

    def open(
        self,
        num_slots: int,
        queries: Sequence[str],
        options: GenerationOptions,
        buckets: Buckets,
    ) -> None:
        self.policy.open(num_slots, queries, options, buckets)

    def admit(self, slot: int) -> None:
        self.policy.admit(slot)

    def close(self) -> None:
        self.policy.close()

    def step(self, turns: Sequence[Turn]) -> list[Speak]:
        asked = [turn for turn in turns if self._forced(turn) is None]
        answers = iter(self.policy.step(asked) if asked else [])
        forced = [self._forced(turn) for turn in turns]
        return [next(answers) if s is None else Speak(s) for s in forced]

    def _forced(self, turn: Turn) -> int | None:
        if not turn.history and self.first is not None:
            return self.first
        return self.last if turn.is_last else None
