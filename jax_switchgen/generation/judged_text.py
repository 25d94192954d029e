"""A text that is judged as if a system had written it, segment by segment."""

import bisect
import dataclasses
from collections.abc import Iterator, Sequence

from jax_switchgen.generation.options import GenerationOptions
from jax_switchgen.generation.text import Vocabulary


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A whole text in one tokenizer.

    Attributes:
      ends: the place in the text where each token ends.
    """

    ids: list[int]
    ends: list[int]

    @classmethod
    def of(cls, vocabulary: Vocabulary, text: str) -> "Tokens":
        encoding = vocabulary.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True
        )
        return cls(
            encoding["input_ids"], [end for _, end in encoding["offset_mapping"]]
        )

    def until(self, place: int) -> list[int]:
        """The ids of the tokens that end there or before."""
        return self.ids[: bisect.bisect_right(self.ends, place)]


@dataclasses.dataclass
class JudgedText:
    """A text that is judged, as policies see a response (`decision.Turn`).

    Attributes:
      left: the segments that are not judged yet.
      tokens: of the whole text, by speaker.
      rounds: segments that a response of the system has at most.
      done: the text of the segments before.
    """

    slot: int
    query: str
    left: list[str]
    tokens: list[Tokens]
    rounds: int
    done: str = ""
    history: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    log_prob: float = 0.0
    is_greedy: bool = True

    @property
    def is_last(self) -> bool:
        return len(self.history) + 1 >= self.rounds

    def read_after(self, starts: Sequence[list[int]]) -> list[list[int]]:
        """What each speaker has read when the next segment begins."""
        return [
            [*start, *tokens.until(len(self.done))]
            for start, tokens in zip(starts, self.tokens, strict=True)
        ]

    def next_ids(self, speaker: int) -> list[int]:
        """Of the next segment, those that end in it: so a segment adds no token, and
        takes none away, wherever it is cut."""
        tokens = self.tokens[speaker]
        before = len(tokens.until(len(self.done)))
        if len(self.left) == 1:
            return tokens.ids[before:]
        return tokens.until(len(self.done) + len(self.left[0]))[before:]

    def uniform(self) -> float:
        """Nothing is drawn: only probabilities are asked for."""
        return 0.0


def judged_text(
    slot: int,
    query: str,
    response: str,
    vocabularies: Sequence[Vocabulary],
    options: GenerationOptions,
) -> JudgedText:
    """The response in segments of the first vocabulary, none of it judged yet."""
    length = options.segment_length
    return JudgedText(
        slot,
        query,
        list(cut(vocabularies[0], response, length)),
        [Tokens.of(vocabulary, response) for vocabulary in vocabularies],
        rounds=-(-options.max_new_tokens // length),
    )


def cut(vocabulary: Vocabulary, text: str, tokens: int) -> Iterator[str]:
    """Parts of at most `tokens` tokens, cut before white space where there is any.

    In: "one two three" and 2 tokens. Out: "one two", " three". Few tokenizers merge
    across such places.
    """
    ends = Tokens.of(vocabulary, text).ends
    begin = first = 0
    while len(ends) - first > tokens:
        end = max(begin + 1, ends[first + tokens - 1])
        spaces = (i for i in range(end, begin, -1) if text[i : i + 1].isspace())
        place = next(spaces, end)
        yield text[begin:place]
        begin, first = place, bisect.bisect_right(ends, place)
    if begin < len(text):
        yield text[begin:]


def windows(vocabularies: Sequence[Vocabulary], text: str, tokens: int) -> list[str]:
    """Parts of at most `tokens` tokens of each vocabulary."""
    parts = [text]
    for vocabulary in vocabularies:
        parts = [piece for part in parts for piece in cut(vocabulary, part, tokens)]
    return parts
