"""A text that is judged as if a system had written it, segment by segment."""

import bisect
import dataclasses
from collections.abc import Iterator, Sequence

from jax_switchgen.generation.prompts import prompt_text
from jax_switchgen.generation.text import Vocabulary


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A whole text in one tokenizer.

    Attributes:
      ends: the place in the text where each token ends, 1 or more: what a tokenizer
        puts before a text belongs to its first character.
    """

    ids: list[int]
    ends: list[int]

    @classmethod
    def of(cls, vocabulary: Vocabulary, text: str) -> "Tokens":
        """Those of the text alone."""
        encoding = vocabulary.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True
        )
        ends = [max(1, end) for _, end in encoding["offset_mapping"]]
        return cls(encoding["input_ids"], ends)

    @classmethod
    def after(
        cls, vocabulary: Vocabulary, prompt_format: str, query: str, response: str
    ) -> "Tokens":
        """Those of a response, as they follow its prompt in one text.

        So a tokenizer that puts a space before whatever it encodes puts none between
        prompt and response. Where a token would reach across that border, the response
        is encoded alone: its speaker has read the prompt's own tokens.
        """
        prompt = prompt_text(vocabulary, prompt_format, query)
        special = prompt_format == "raw"
        before = vocabulary.tokenizer.encode(prompt, add_special_tokens=special)
        whole = vocabulary.tokenizer(
            prompt + response, add_special_tokens=special, return_offsets_mapping=True
        )
        count = len(before)
        if whole["input_ids"][:count] != before:
            return cls.of(vocabulary, response)
        offsets = whole["offset_mapping"][count:]
        ends = [max(1, end - len(prompt)) for _, end in offsets]
        return cls(whole["input_ids"][count:], ends)

    def count(self, place: int) -> int:
        """How many tokens end there or before."""
        return bisect.bisect_right(self.ends, place)

    def between(self, start: int, end: int) -> "Tokens":
        """Those that end in that part of the text, as tokens of the part."""
        part = slice(self.count(start), self.count(end))
        return Tokens(self.ids[part], [place - start for place in self.ends[part]])


@dataclasses.dataclass
class JudgedText:
    """A text that is judged, as policies see a response (`decision.Turn`).

    Attributes:
      starts: what each speaker has read before the text.
      tokens: of the whole text, by speaker.
      left: the segments that are not judged yet.
      rounds: segments that a response of the system has at most.
      done: the text of the segments before.
    """

    query: str
    starts: Sequence[list[int]]
    tokens: Sequence[Tokens]
    left: list[str]
    rounds: int
    slot: int = 0
    done: str = ""
    history: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    log_prob: float = 0.0
    is_greedy: bool = True

    @property
    def is_last(self) -> bool:
        return len(self.history) + 1 >= self.rounds

    def longest(self, speaker: int) -> int:
        """Tokens that the speaker reads, at most: all but the last."""
        return len(self.starts[speaker]) + max(0, len(self.tokens[speaker].ids) - 1)

    def read(self) -> list[list[int]]:
        """What each speaker has read when the next segment begins."""
        return [
            [*start, *tokens.ids[: tokens.count(len(self.done))]]
            for start, tokens in zip(self.starts, self.tokens, strict=True)
        ]

    def next_ids(self, speaker: int) -> list[int]:
        """Of the next segment, those that end in it: so a segment adds no token, and
        takes none away, wherever it is cut."""
        tokens = self.tokens[speaker]
        before = tokens.count(len(self.done))
        if len(self.left) == 1:
            return tokens.ids[before:]
        return tokens.ids[before : tokens.count(len(self.done) + len(self.left[0]))]

    def uniform(self) -> float:
        """Nothing is drawn: only probabilities are asked for."""
        return 0.0


def cut(tokens: Tokens, text: str, size: int) -> Iterator[str]:
    """Parts of at most `size` of its tokens, cut before white space where there is any.

    In: "one two three" and 2 tokens. Out: "one two", " three". Few tokenizers merge
    across such places.
    """
    ends = tokens.ends
    begin = first = 0
    while len(ends) - first > size:
        end = max(begin + 1, ends[first + size - 1])
        spaces = (i for i in range(end, begin, -1) if text[i : i + 1].isspace())
        place = next(spaces, end)
        yield text[begin:place]
        begin, first = place, bisect.bisect_right(ends, place)
    if begin < len(text):
        yield text[begin:]


def windows(tokens: Sequence[Tokens], text: str, size: int) -> list[tuple[int, int]]:
    """Start and end of parts of at most `size` tokens of each vocabulary, as long as
    they can be.

    In: one vocabulary's ends [1, 3, 5, 6, 8], a text of 8 characters, and size 2.
    Out: (0, 3), (3, 6), (6, 8).
    """
    found: list[tuple[int, int]] = []
    place = 0
    while True:
        ends = [t.ends[t.count(place) :] for t in tokens]
        # Tokens that end with the same character stay together.
        nearest = [min(e[size - 1], e[size] - 1) for e in ends if len(e) > size]
        if not nearest:
            return [*found, (place, len(text))]
        found.append((place, max(place + 1, min(nearest))))
        place = found[-1][1]
