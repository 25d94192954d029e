"""A candidate made ready: parameters, tokenizer, prompt, stop tokens, cache."""

from collections.abc import Sequence

import numpy as np

from jax_switchgen.generation.cached_model import CachedModel
from jax_switchgen.generation.draft import Draft
from jax_switchgen.generation.prompts import (
    check_prompt_format,
    partial_in_user_turn,
    prompt_ids,
)
from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.models.lora import Lora
from jax_switchgen.models.transformer import Transformer

STOP_IDS = 8  # stop tokens that fit; the programs take an array of this size


class Speaker(CachedModel):
    """One candidate of the pool.

    Attributes:
      name: as in the config; stands in every record.
      vocabulary: its tokenizer.
      prompt_format: "chat" or "raw".
      stop_ids: int32[STOP_IDS], padded with -1.
    """

    def __init__(
        self,
        name: str,
        model: Transformer,
        vocabulary: Vocabulary,
        *,
        prompt_format: str,
        stop_ids: Sequence[int],
        lora: Lora | None = None,
    ):
        super().__init__(model, lora)
        check_prompt_format(vocabulary, prompt_format, name)
        if len(stop_ids) > STOP_IDS:
            raise ValueError(
                f"candidate {name!r} has {len(stop_ids)} stop tokens; "
                f"at most {STOP_IDS} are supported"
            )
        self.name = name
        self.vocabulary = vocabulary
        self.prompt_format = prompt_format
        self.stop_ids = np.full(STOP_IDS, -1, np.int32)
        self.stop_ids[: len(stop_ids)] = sorted(stop_ids)
        self._prompts: dict[int, list[int]] = {}  # by slot

    def context(self, draft: Draft, partial_in: str) -> list[int]:
        """The ids that this speaker continues: its prompt, and the response so far."""
        response = draft.ids_in(self.vocabulary)
        if partial_in == "user":
            return self.prompt(partial_in_user_turn(draft.query, draft.text))
        if draft.slot not in self._prompts:
            self._prompts[draft.slot] = self.prompt(draft.query)
        return [*self._prompts[draft.slot], *response]

    def forget(self, slot: int) -> None:
        super().forget(slot)
        self._prompts.pop(slot, None)

    def fork(self, source: int, target: int) -> None:
        super().fork(source, target)
        if source in self._prompts:
            self._prompts[target] = self._prompts[source]

    def prompt(self, query: str) -> list[int]:
        """Ids of the prompt in front of the response."""
        return prompt_ids(self.vocabulary, self.prompt_format, query)
