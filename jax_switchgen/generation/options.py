"""The options of generation, each checked once."""

import dataclasses

from jax_switchgen.decoding.sampling import check_sampling
from jax_switchgen.generation.prompts import PARTIAL_IN


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How responses are written; the `generation` section of a config.

    Attributes:
      segment_length: most tokens that a speaker writes before the next decision.
      max_new_tokens: token budget of a response.
      temperature: 0 is greedy.
      top_p, top_k: nucleus and shortlist; 1.0 and 0 switch them off.
      batch_size: most rows of a decode pass.
      in_flight: requests that hold a slot in every cache. More than `batch_size` lets
        passes fill up when rows want different speakers.
      cache_gib: most memory for all caches together; fewer requests are in flight
        where long prompts would need more.
      seed: of everything random.
      ignore_stop: stop tokens are ordinary tokens; every response fills its budget.
      partial_in: where the response so far stands in a prompt, after the `assistant`
        header or at the end of the `user` turn.
      final_cue: text inserted before the segment that reaches the budget, or None.
      stop_cue: text inserted when a speaker stops before the budget is used up; the
        response then goes on. None lets it end.
    """

    segment_length: int
    max_new_tokens: int
    temperature: float
    top_p: float
    batch_size: int
    in_flight: int
    top_k: int = 0
    cache_gib: float = 8.0
    seed: int = 0
    ignore_stop: bool = False
    partial_in: str = "assistant"
    final_cue: str | None = None
    stop_cue: str | None = None

    @property
    def longest_segment(self) -> int:
        """Tokens; a budget may be less than a segment."""
        return min(self.segment_length, self.max_new_tokens)

    def __post_init__(self) -> None:
        for name in ("segment_length", "max_new_tokens", "batch_size", "in_flight"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"generation.{name}={value} must be 1 or more")
        if self.cache_gib <= 0:
            raise ValueError(f"generation.cache_gib={self.cache_gib} must be above 0")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"generation.seed={self.seed} must be in 0 … 2**32 - 1")
        if self.partial_in not in PARTIAL_IN:
            raise ValueError(
                f"generation.partial_in={self.partial_in!r} is not one of "
                f"{', '.join(PARTIAL_IN)}"
            )
        check_sampling(self.temperature, self.top_p, self.top_k)
