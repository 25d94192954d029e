"""The switcher: a language model that reads the response so far and says who goes on.

Its input is the protocol of the paper's public code: the query, then every segment
signed with its candidate's number, then a question whose next token is a number.

    query <model 0 begins> … <model 0 ends> <model 2 begins> … <model 2 ends> Which
    model should generate the next segment? Please respond with a number from 0 to 2.
    The answer is model

The logits at the labels `0 … n-1`, and nothing else, are the probabilities: one
forward, no sampled text. History stays in the switcher's cache; the question is a
probe, whose part of the cache is dropped again.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jax_switchgen.generation.buckets import Buckets, cache_length_for, chunk_for
from jax_switchgen.generation.cached_model import CachedModel
from jax_switchgen.generation.decision import Policy, Speak, Turn
from jax_switchgen.generation.options import GenerationOptions
from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.models.cache import slot_bytes
from jax_switchgen.models.lora import Lora
from jax_switchgen.models.transformer import Transformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwitcherOptions:
    """How the switcher's probabilities become a choice.

    Attributes:
      temperature: on the label logits; 0 takes the most likely candidate.
      top_p: the choice is drawn from the nucleus of the probabilities.
      labels: what the model answers for each candidate, or None for 0 … n-1.
    """

    temperature: float = 1.0
    top_p: float = 0.7
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(
                f"switcher.temperature={self.temperature} must be 0 (argmax) or more"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(
                f"switcher.top_p={self.top_p} must be above 0 and at most 1"
            )


def history_text(query: str, history: Sequence[tuple[int, str]]) -> str:
    """The query and its signed segments."""
    signed = (f" <model {i} begins> {text} <model {i} ends>" for i, text in history)
    return query + "".join(signed)


def question_text(num_candidates: int) -> str:
    """The closing question; the next token is the answer."""
    return (
        " Which model should generate the next segment? Please respond with a number "
        f"from 0 to {num_candidates - 1}. The answer is model "
    )


def switcher_ids(
    vocabulary: Vocabulary,
    query: str,
    history: Sequence[tuple[int, str]],
    num_candidates: int,
) -> list[int]:
    """The ids that the switcher reads, in inference and in training alike: the whole
    text tokenized at once, with the start token that the tokenizer gives to a text."""
    text = history_text(query, history) + question_text(num_candidates)
    return vocabulary.tokenizer.encode(text)


def label_ids(
    vocabulary: Vocabulary, labels: Sequence[str], name: str = "switcher"
) -> np.ndarray:
    """int32[C], the token of each label.

    Raises:
      ValueError: a label is not one token, or two labels are the same token.
    """
    ids = []
    for label in labels:
        tokens = vocabulary.encode(label)
        if len(tokens) != 1:
            raise ValueError(
                f"{name}: label {label!r} is {len(tokens)} tokens of its tokenizer, "
                "must be one; set switcher.labels to single tokens"
            )
        ids.append(tokens[0])
    if len(set(ids)) != len(ids):
        raise ValueError(f"{name}: labels {tuple(labels)} are not distinct tokens")
    return np.array(ids, np.int32)


class Switcher(Policy):
    """A causal language model as a policy.

    Attributes:
      reader: the model with its cache.
    """

    def __init__(
        self,
        model: Transformer,
        vocabulary: Vocabulary,
        num_candidates: int,
        options: SwitcherOptions,
        lora: Lora | None = None,
    ):
        labels = options.labels or tuple(str(i) for i in range(num_candidates))
        if len(labels) != num_candidates:
            raise ValueError(
                f"switcher.labels has {len(labels)} entries for {num_candidates} "
                "candidates; give one label for each"
            )
        self.reader = CachedModel(model, lora)
        self.vocabulary = vocabulary
        self.num_candidates = num_candidates
        self.options = options
        self._label_ids = label_ids(vocabulary, labels)

    def check(self, query: str, options: GenerationOptions) -> None:
        length = self._length(query, options)
        limit = self.reader.model.config.max_positions
        if length > limit:
            raise ValueError(
                f"query, history and question of {length} tokens are more than the "
                f"{limit} positions of the switcher; shorten the input or lower "
                "generation.max_new_tokens"
            )

    def slot_bytes(self, queries: Sequence[str], options: GenerationOptions) -> int:
        model = self.reader.model
        length = cache_length_for(self._longest(queries, options))
        return slot_bytes(model.config, length, model.dtype)

    def open(
        self,
        num_slots: int,
        queries: Sequence[str],
        options: GenerationOptions,
        buckets: Buckets,
    ) -> None:
        length = self._longest(queries, options)
        # A probe reads what was written since the last one, and the question.
        signed = switcher_ids(self.vocabulary, "", [(0, "")], self.num_candidates)
        chunk = chunk_for(options.longest_segment + len(signed))
        self.reader.open(num_slots, length, dataclasses.replace(buckets, chunk=chunk))

    def admit(self, slot: int) -> None:
        self.reader.forget(slot)

    def close(self) -> None:
        self.reader.close()

    def step(self, turns: Sequence[Turn]) -> list[Speak]:
        probs_BC = self.probs(turns)
        return [
            Speak(self._choose(probs_C, turn), tuple(probs_C.tolist()))
            for turn, probs_C in zip(turns, probs_BC, strict=True)
        ]

    def probs(self, turns: Sequence[Turn]) -> np.ndarray:
        """float32 probs_BC of the candidates, after temperature."""
        contexts, history = {}, {}
        for turn in turns:
            ids = switcher_ids(
                self.vocabulary, turn.query, turn.history, self.num_candidates
            )
            question = self.vocabulary.encode(question_text(self.num_candidates))
            contexts[turn.slot] = ids
            # What the next probe will not share is found out then, token by token.
            history[turn.slot] = len(ids) - len(question)
        probs_BC = self.reader.choose(contexts, history, self._label_ids)
        if self.options.temperature in (0.0, 1.0):
            return probs_BC
        # The likeliest as 1: powers of small numbers would all become 0.
        probs_BC = probs_BC / probs_BC.max(-1, keepdims=True)
        probs_BC = probs_BC ** (1 / self.options.temperature)
        return probs_BC / probs_BC.sum(-1, keepdims=True)

    def _longest(self, queries: Sequence[str], options: GenerationOptions) -> int:
        return max(self._length(query, options) for query in queries)

    def _length(self, query: str, options: GenerationOptions) -> int:
        """Tokens of the last question, if all segments are as long as they may be."""
        rounds = -(-options.max_new_tokens // options.segment_length)
        signed = [(0, "")] * rounds
        empty = switcher_ids(self.vocabulary, query, signed, self.num_candidates)
        return len(empty) + options.max_new_tokens

    def _choose(self, probs_C: np.ndarray, turn: Turn) -> int:
        if self.options.temperature == 0:
            return int(np.argmax(probs_C))
        order = np.argsort(-probs_C, kind="stable")
        before = np.cumsum(probs_C[order]) - probs_C[order]
        nucleus = order[before < self.options.top_p]
        cumulative = np.cumsum(probs_C[nucleus])
        place = np.searchsorted(cumulative, turn.uniform() * cumulative[-1], "right")
        return int(nucleus[min(place, len(nucleus) - 1)])
