"""What a reward model thinks of outputs: chats in, one raw number for each out.

The numbers have no scale of their own: compare two outputs for one prompt, as
`evaluation.preference` does, and never the means of two models.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jax_switchgen.checkpoints.hf import load_tokenizer
from jax_switchgen.checkpoints.resolve import Progress, resolve_checkpoint
from jax_switchgen.checkpoints.reward import load_reward
from jax_switchgen.decoding.reward import row_rewards
from jax_switchgen.generation.buckets import cache_length_for
from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.models.transformer import Transformer

# At 4,096 tokens a row, the attention of 32 heads then takes 4 GiB for a while.
BATCH_TOKENS = 8192


@dataclasses.dataclass(frozen=True)
class RewardModel:
    """A judge of single outputs.

    Attributes:
      model: its decoder.
      head_1D: float32, what the last hidden state is multiplied with.
      vocabulary: its tokenizer, with a chat template.
      pad_id: see `RewardCheckpoint`.
      batch_tokens: positions of one forward, padding included; a longer row is
        read alone.

    Raises:
      ValueError: the tokenizer has no chat template.
    """

    model: Transformer
    head_1D: jax.Array
    vocabulary: Vocabulary
    pad_id: int | None = None
    batch_tokens: int = BATCH_TOKENS

    def __post_init__(self) -> None:
        if self.vocabulary.tokenizer.chat_template is None:
            raise ValueError(
                "the reward model's tokenizer has no chat template; copy "
                "chat_template.jinja or tokenizer_config.json from its source"
            )

    def rewards(
        self,
        pairs: Sequence[tuple[str, str]],
        progress: Callable[[int], None] = lambda count: None,
    ) -> np.ndarray:
        """The reward of each output.

        Args:
          pairs: (prompt, output): a user's turn and the assistant's answer to it.
          progress: is told after each batch how many pairs are judged.
        Returns:
          reward_I, float32, in the order of `pairs`.

        Raises:
          ValueError: a pair is longer than the model's positions.
        """
        chats = [self._ids(i, *pair) for i, pair in enumerate(pairs)]
        reward_I = np.zeros(len(chats), np.float32)
        done = 0
        for batch, B, T in batches([len(ids) for ids in chats], self.batch_tokens):
            tokens_BT = np.zeros((B, T), np.int32)
            length_B = np.ones(B, np.int32)
            for row, i in enumerate(batch):
                tokens_BT[row, : len(chats[i])] = chats[i]
                length_B[row] = len(chats[i])
            reward_B = row_rewards(self.model, self.head_1D, tokens_BT, length_B)
            reward_I[batch] = np.asarray(reward_B)[: len(batch)]
            done += len(batch)
            progress(done)
        return reward_I

    def _ids(self, index: int, prompt: str, output: str) -> list[int]:
        """The tokens of one chat, up to the one that its reward is read at."""
        chat = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": output},
        ]
        text = self.vocabulary.tokenizer.apply_chat_template(chat, tokenize=False)
        # No special tokens are added: the template writes its own start token.
        ids = self.vocabulary.encode(str(text))
        # As transformers has it, also where the template itself ends in this token.
        while len(ids) > 1 and ids[-1] == self.pad_id:
            ids.pop()
        limit = self.model.config.max_positions
        if not 0 < len(ids) <= limit:
            raise ValueError(
                f"pair {index}: {len(ids)} tokens, and the reward model reads 1 to "
                f"{limit}; shorten its output, or leave it out"
            )
        return ids


def load_reward_model(
    path: str,
    *,
    dtype: str,
    mesh: Mesh | None = None,
    progress: Progress = lambda line: None,
) -> RewardModel:
    """The reward model called `path`, as `resolve_checkpoint` finds it.

    Raises:
      ValueError: one line that names what is wrong and what to do.
    """
    folder = resolve_checkpoint(path, progress)
    progress(f"loading {path}")
    found = load_reward(folder, dtype=jnp.dtype(dtype), mesh=mesh)
    vocabulary = Vocabulary(load_tokenizer(folder))
    try:
        return RewardModel(found.model, found.head_1D, vocabulary, found.pad_id)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def batches(
    lengths: Sequence[int], batch_tokens: int
) -> Iterator[tuple[list[int], int, int]]:
    """Rows of like length together, in few shapes, the longest first.

    In: lengths 300, 20, 400, 30 and 1,024 tokens. Out: rows [2, 0] as (2, 512), then
    [3, 1] as (2, 256): four would fit, but only two are left.

    Yields:
      The indices of some rows, and the B and T of their batch.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        T = cache_length_for(lengths[order[0]])
        most = max(1, batch_tokens // T)
        B = 1 << (min(most, len(order)) - 1).bit_length()  # a power of two, rounded up
        B = B if B <= most else B // 2
        batch, order = order[:B], order[B:]
        yield batch, B, T
