"""A world in which it is known who should speak.

A query is a few words, each with a type:

    green:qwer red:tyui blue:opas

Every candidate answers every word, letter by letter, with digits of its own, but only
the answer of the candidate that the type stands for is right. Candidates differ at
every letter, so a segment by another one is wrong throughout. Types are longer and
shorter words, so that no type is found by its place alone: who speaks next is told by
the type of as many words as there are segments.
Some words and some sequences of types are kept from all training.
"""

import dataclasses
import itertools
import random
import zlib
from collections.abc import Sequence

from jax_switchgen.tasks.parsing import parse_item
from jax_switchgen.tasks.record import Record, Scorer, Task

CANDIDATES = ("plus_0", "plus_3", "plus_6")
TYPES = ("red", "green", "blue")
TASK = Task("typed_words", Scorer.INTEGER, 0, 0, "made here")
_HELD_OUT_WORDS = 8  # one of so many


@dataclasses.dataclass(frozen=True)
class Query:
    """Words and the candidates that should answer them."""

    types: tuple[int, ...]
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        typed = zip(self.types, self.words, strict=True)
        return " ".join(f"{TYPES[t]}:{word}" for t, word in typed)

    @property
    def gold(self) -> str:
        return self.response(self.types)

    def response(self, speakers: Sequence[int]) -> str:
        """What these write, one word each, if they make no mistake."""
        return "".join(map(answer, self.words, speakers))

    def item(self, number: int) -> dict[str, str]:
        """A line of a task's file."""
        return {"id": str(number), "input": self.text, "output": self.gold}

    def record(self, number: int) -> Record:
        return parse_item(TASK, self.item(number), "")


def answer(word: str, candidate: int) -> str:
    """The digits that a candidate is trained to write for a word."""
    return "".join(str((ord(letter) + 3 * candidate) % 10) for letter in word)


@dataclasses.dataclass(frozen=True)
class World:
    """How large queries are.

    Attributes:
      letters: that words are made of.
      length: letters of a word, and tokens of a segment.
      words: in a query.
    """

    letters: str
    length: int
    words: int

    def type_sequences(self, held_out: bool) -> list[tuple[int, ...]]:
        """Those kept from training are every third: each type is as frequent at each
        place in them as in the others."""
        n = len(TYPES)
        every = itertools.product(range(n), repeat=self.words)
        return [types for types in every if (sum(types) % n == 0) == held_out]

    def queries(
        self,
        count: int,
        seed: int,
        *,
        new_words: bool = False,
        new_types: bool = False,
    ) -> list[Query]:
        """Distinct queries; sequences of types take turns.

        Args:
          new_words, new_types: those that are kept from training, and no others.
        """
        rng = random.Random(seed)
        sequences = itertools.cycle(self.type_sequences(new_types))
        found: dict[Query, None] = {}
        while len(found) < count:
            words = tuple(self._word(rng, new_words) for _ in range(self.words))
            found[Query(next(sequences), words)] = None
        return list(found)

    def _word(self, rng: random.Random, is_new: bool) -> str:
        while True:
            word = "".join(rng.choices(self.letters, k=self.length))
            if (zlib.crc32(word.encode()) % _HELD_OUT_WORDS == 0) == is_new:
                return word
