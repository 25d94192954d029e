"""Token ids to text and back, without ever splitting a character.

Wraps a Hugging Face tokenizer with the few operations that segments need.
"""

import functools
import hashlib
import json
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"  # what an incomplete UTF-8 character decodes to
MAX_CHARACTER_TOKENS = 4  # a UTF-8 character has at most 4 bytes


class Vocabulary:
    """A tokenizer as the engine uses it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        """Ids that mean something; those above are padding of the embedding."""
        return len(self.tokenizer)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, no special tokens added."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens are skipped, nothing is tidied up."""
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def whole_length(self, ids: Sequence[int]) -> int:
        """How many of the ids end with a whole character.

        In: ids of "ab" and of the first two bytes of an emoji. Out: 2. Ids that never
        make a character (a model may write such bytes) count as whole.
        """
        for cut in range(min(MAX_CHARACTER_TOKENS, len(ids)) + 1):
            tail = ids[max(0, len(ids) - cut - MAX_CHARACTER_TOKENS) : len(ids) - cut]
            if not self.decode(tail).endswith(REPLACEMENT):
                return len(ids) - cut
        return len(ids)

    def text_after(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """The whole characters that `ids` complete when they follow `before`.

        Decoded in context, because SentencePiece tokenizers drop the first space of
        whatever is decoded alone.
        """
        start = self.decode(before[: self.whole_length(before)])
        both = [*before, *ids]
        return self.decode(both[: self.whole_length(both)])[len(start) :]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Equal for tokenizers between which ids can change hands.

        Added tokens are left out: siblings of one pipeline add a few of their own.
        """
        spec = json.loads(self.tokenizer.backend_tokenizer.to_str())
        parts = {k: spec[k] for k in ("model", "normalizer", "pre_tokenizer")}
        text = json.dumps(parts, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
