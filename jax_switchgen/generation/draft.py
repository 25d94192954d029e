"""A response while it is being written: budget, text, and ids for the next speaker."""

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np

from jax_switchgen.generation.decision import Speak
from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.generation.trace import CUE, Request, Response, Segment


class Draft:
    """One request in flight.

    The response is one token sequence in the tokenizer of whoever wrote last. A
    speaker with that tokenizer continues it as it stands; a speaker with another one
    gets the text, whole characters only, and the sequence goes on in its tokens.

    Attributes:
      text: whole characters of the response so far.
      written: tokens written so far, which is also the position of the random stream.
      choice: the decision for the next segment, once it is made.
      pinned: a decision for the whole response, or None.
      is_stopped: its last segment ended at a stop token.
      is_cued: the final cue was inserted.
    """

    def __init__(
        self,
        request: Request,
        slot: int,
        *,
        max_new_tokens: int,
        segment_length: int,
        seed: int,
    ):
        self.request = request
        self.slot = slot
        self.seed = seed
        self.text = ""
        self.written = 0
        self.prompt_tokens = 0
        self.segments: list[Segment] = []
        self.choice: Speak | None = None
        self.pinned: Speak | None = None
        self.is_stopped = False
        self.is_cued = False
        self._max_new_tokens = max_new_tokens
        self._segment_length = segment_length
        self._history: list[tuple[int, str]] = []
        self._vocabulary: Vocabulary | None = None
        self._ids: list[int] = []
        self._reported = 0

    @property
    def query(self) -> str:
        return self.request.query

    @property
    def history(self) -> Sequence[tuple[int, str]]:
        return self._history

    @property
    def remaining(self) -> int:
        """Tokens left in the budget."""
        return self._max_new_tokens - self.written

    @property
    def limit(self) -> int:
        """Most tokens that the next segment may have."""
        return min(self._segment_length, self.remaining)

    @property
    def is_last(self) -> bool:
        return self.remaining <= self._segment_length

    def uniform(self) -> float:
        entropy = (self.seed, self.request.stream, self.written)
        return np.random.default_rng(entropy).random()

    def ids_in(self, vocabulary: Vocabulary) -> list[int]:
        """The response in a speaker's tokens, handed over as text if it must be."""
        if self._vocabulary is None:
            self._vocabulary = vocabulary
        elif self._vocabulary.fingerprint != vocabulary.fingerprint:
            self._drop_incomplete_character()
            self._ids = vocabulary.encode(self.text)
            self._vocabulary = vocabulary
        return self._ids

    def fork(self, request: Request, slot: int) -> "Draft":
        """A draft that begins as this one stands, and then goes its own way.

        Args:
          request: of the same query; its id is the fork's random stream.
        """
        fork = copy.copy(self)
        fork.request = request
        fork.slot = slot
        fork.segments = [
            dataclasses.replace(s, token_ids=list(s.token_ids)) for s in self.segments
        ]
        fork._history = list(self._history)
        return fork

    def append(self, names: Sequence[str], index: int, new_ids: list[int]) -> Segment:
        """Adds a segment that the chosen speaker, candidate `index`, wrote."""
        segment = self._append(names[index], new_ids)
        if self.choice is not None and self.choice.probs is not None:
            # Beyond 6 digits they depend on the batch, and records should not.
            probs = (round(p, 6) for p in self.choice.probs)
            segment.probs = dict(zip(names, probs, strict=True))
        self.written += len(new_ids)
        self._history.append((index, segment.text))
        return segment

    def append_cue(self, text: str, vocabulary: Vocabulary) -> Segment:
        """Adds inserted text, in the tokens of the speaker that follows."""
        self.ids_in(vocabulary)
        return self._append(CUE, vocabulary.encode(text))

    def take_unreported(self) -> list[Segment]:
        """The segments, cues among them, since this was last asked."""
        new = self.segments[self._reported :]
        self._reported = len(self.segments)
        return new

    def respond(self, finish_reason: str) -> Response:
        """The finished record."""
        output = self.text
        if self._vocabulary is not None:
            whole = self._vocabulary.whole_length(self._ids)
            output += self._vocabulary.decode(self._ids[whole:])
        return Response(
            request=self.request,
            segments=self.segments,
            output=output,
            finish_reason=finish_reason,
            prompt_tokens=self.prompt_tokens,
            seed=self.seed,
        )

    def _append(self, name: str, new_ids: list[int]) -> Segment:
        assert self._vocabulary is not None, "ids_in() is asked before every segment"
        text = self._vocabulary.text_after(self._ids, new_ids)
        self._ids = [*self._ids, *new_ids]
        self.text += text
        self.segments.append(Segment(name, list(new_ids), text))
        return self.segments[-1]

    def _drop_incomplete_character(self) -> None:
        """Takes the bytes of an unfinished character back out of the trace.

        They stay counted in `written`, so that a pool in which every segment ends
        inside a character still comes to an end.
        """
        assert self._vocabulary is not None
        excess = len(self._ids) - self._vocabulary.whole_length(self._ids)
        for segment in reversed(self.segments):
            cut = min(excess, len(segment.token_ids))
            del segment.token_ids[len(segment.token_ids) - cut :]
            excess -= cut
