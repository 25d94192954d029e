"""What texts are about, as vectors: the mean of a model's last hidden states.

Any of the pool's models serves. Vectors of one model lie in a narrow cone (Ethayarajh
2019, arXiv 1909.00512): cosines are high throughout, so compare distances and Vendi
scores of one model with each other only.
"""

from collections.abc import Sequence

import numpy as np

from jax_switchgen.decoding.embedding import mean_states
from jax_switchgen.generation.prompts import prompt_ids
from jax_switchgen.generation.rewards import BATCH_TOKENS, batches
from jax_switchgen.generation.speaker import Speaker


def embed(
    speaker: Speaker, texts: Sequence[str], *, batch_tokens: int = BATCH_TOKENS
) -> np.ndarray:
    """embedding_ID, float32, one row for each text; 0 for an empty one.

    A text is read after the token that begins a document, without any prompt, and as
    far as the model has positions.

    Args:
      batch_tokens: positions of one forward, padding included.
    """
    begin = prompt_ids(speaker.vocabulary, "raw", "")
    limit = speaker.model.config.max_positions
    rows = [[*begin, *speaker.vocabulary.encode(text)][:limit] for text in texts]
    embedding_ID = np.zeros((len(rows), speaker.model.config.embed_dim), np.float32)
    for batch, B, T in batches([len(row) for row in rows], batch_tokens):
        tokens_BT = np.zeros((B, T), np.int32)
        length_B = np.zeros(B, np.int32)
        for place, i in enumerate(batch):
            tokens_BT[place, : len(rows[i])] = rows[i]
            length_B[place] = len(rows[i])
        mean_BD = mean_states(
            speaker.model, speaker.lora, tokens_BT, np.int32(len(begin)), length_B
        )
        embedding_ID[batch] = np.asarray(mean_BD)[: len(batch)]
    return embedding_ID
