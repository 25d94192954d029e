"""The contract of a policy: who speaks next?

A policy sees requests at three moments: `before` the first segment, at each `step`
between segments, and `after` the end. It answers `step` with a decision for each
request. `Speak`, one candidate writes one segment, is the decision that the engine
carries out; mixing several candidates' logits token by token will be further kinds of
decision, carried out by a program in which the models advance together.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from jax_switchgen.generation.buckets import Buckets
from jax_switchgen.generation.options import GenerationOptions
from jax_switchgen.generation.trace import Response


@dataclasses.dataclass(frozen=True)
class Speak:
    """One candidate writes the next segment.

    Attributes:
      speaker: index of the candidate in the pool.
      probs: the policy's probabilities, one per candidate, or None. A switcher's are
        those before its top-p, and at temperature 0 those of temperature 1.
    """

    speaker: int
    probs: tuple[float, ...] | None = None


class Turn(Protocol):
    """What a policy may know of a request that waits for a decision."""

    @property
    def slot(self) -> int:
        """Its place in caches, stable while the request is in flight."""

    @property
    def query(self) -> str: ...

    @property
    def history(self) -> Sequence[tuple[int, str]]:
        """(candidate index, text) of each segment so far, cues left out."""

    @property
    def is_last(self) -> bool:
        """Whether the next segment can reach the token budget."""

    def uniform(self) -> float:
        """A number in [0, 1) from the seed, the request and its position alone."""


class Policy:
    """Base of all policies; only `step` must be written.

    A policy with state per request keeps it by `slot` and learns of its life through
    `open`, `admit` and `close`.
    """

    def check(self, query: str, options: GenerationOptions) -> None:
        """Raises ValueError if the policy cannot decide for this query."""

    def slot_bytes(self, queries: Sequence[str], options: GenerationOptions) -> int:
        """Bytes of cache that the policy will allocate for each slot."""
        return 0

    def open(
        self,
        num_slots: int,
        queries: Sequence[str],
        options: GenerationOptions,
        buckets: Buckets,
    ) -> None:
        """Called before requests run: allocate caches."""

    def admit(self, slot: int) -> None:
        """A new request takes the slot."""

    def close(self) -> None:
        """No request is in flight any more: free caches."""

    def before(self, query: str) -> Speak | None:
        """A decision for the whole response (a router), or None to be asked at each
        step."""
        return None

    def step(self, turns: Sequence[Turn]) -> list[Speak]:
        """Who writes the next segment of each request."""
        raise NotImplementedError

    def after(self, response: Response) -> Response:
        """The response as it leaves the engine."""
        return response
