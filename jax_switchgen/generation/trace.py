"""What goes in and what comes out: requests, segments, and the record of a response."""

import dataclasses
import hashlib
from typing import Any

CUE = "cue"  # the speaker of text that the system inserted


@dataclasses.dataclass(frozen=True)
class Request:
    """One query to be answered.

    Attributes:
      query: the user's text.
      id: names the record, and with the seed its random stream; two requests of one
        id and one query are answered alike.
    """

    query: str
    id: str | int = 0

    @property
    def stream(self) -> int:
        """uint32 that stands for the id in random keys, the same in every process."""
        digest = hashlib.blake2b(str(self.id).encode(), digest_size=4).digest()
        return int.from_bytes(digest, "little")


@dataclasses.dataclass
class Segment:
    """Consecutive tokens of one speaker.

    Attributes:
      speaker: the candidate's name, or `CUE`.
      token_ids: in the speaker's own tokenizer; no stop token. Of a cue, in that of
        the speaker that follows it.
      text: the whole characters that this segment completed.
      probs: the decision's probability for each candidate, or None where nothing was
        weighed (a fixed policy, a forced speaker, a cue).
    """

    speaker: str
    token_ids: list[int]
    text: str
    probs: dict[str, float] | None = None


@dataclasses.dataclass
class Response:
    """The trace of one response.

    Attributes:
      output: text of the response, special tokens skipped.
      finish_reason: "stop" after a stop token, "length" at the token budget.
      prompt_tokens: length of the first speaker's prompt.
    """

    request: Request
    segments: list[Segment]
    output: str
    finish_reason: str
    prompt_tokens: int
    seed: int

    @property
    def output_tokens(self) -> int:
        """Tokens that the candidates wrote; cues and stop tokens do not count."""
        return sum(len(s.token_ids) for s in self.segments if s.speaker != CUE)

    def record(self) -> dict[str, Any]:
        """The JSON object of one output line."""
        return {
            "id": self.request.id,
            "input": self.request.query,
            "output": self.output,
            "finish_reason": self.finish_reason,
            "segments": [dataclasses.asdict(s) for s in self.segments],
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "seed": self.seed,
        }
