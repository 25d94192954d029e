"""Reward models: a decoder that ends in one score instead of a vocabulary.

Their folders are those of transformers' `…ForSequenceClassification` with one label: a
supported decoder, and `score.weight`, which is multiplied with the hidden state of a
row's last token.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from transformers import AutoConfig

from jax_switchgen.checkpoints.hf import open_weights, transformer_from
from jax_switchgen.checkpoints.hf_config import read_config, read_json
from jax_switchgen.checkpoints.safetensors_file import check_shape
from jax_switchgen.models.transformer import Transformer

_ARCHITECTURE = "ForSequenceClassification"
_HEAD = "score.weight"
_LANGUAGE_HEAD = "lm_head.weight"


@dataclasses.dataclass(frozen=True)
class RewardCheckpoint:
    """A reward model's parameters.

    Attributes:
      model: the decoder; its config has tied embeddings, so that it has no head.
      head_1D: float32, whatever the dtype of the decoder: it is one row.
      pad_id: the score is that of the last token which is not this one, or None.
    """

    model: Transformer
    head_1D: jax.Array
    pad_id: int | None


def load_reward(
    folder: Path, *, dtype: jnp.dtype, mesh: Mesh | None = None
) -> RewardCheckpoint:
    """The reward model in a Hugging Face folder.

    Args:
      folder, dtype, mesh: see `load_transformer`.

    Raises:
      ValueError: the folder holds no reward model, or it is incomplete, damaged or
        not supported. The message is one line with the remedy.
    """
    folder = Path(folder)
    config = read_config(folder)
    path = folder / "config.json"
    architectures = read_json(path).get("architectures") or []
    if not any(name.endswith(_ARCHITECTURE) for name in architectures):
        raise ValueError(
            f"{path}: architectures={architectures} has none that ends in "
            f"{_ARCHITECTURE}; name the folder of a reward model"
        )
    hf_config = AutoConfig.from_pretrained(folder)
    if hf_config.num_labels != 1:
        raise ValueError(
            f"{path}: num_labels={hf_config.num_labels} (from id2label), and a reward "
            "model has 1; use a checkpoint that gives one score"
        )
    tensors = open_weights(folder)
    # Some folders keep the head of the language model that they began as.
    tensors.pop(_LANGUAGE_HEAD, None)
    head = tensors.pop(_HEAD, None)
    if head is None:
        raise ValueError(
            f"{folder}: tensor {_HEAD!r} is missing, the head of a reward model; copy "
            "the checkpoint again"
        )
    check_shape(head, (1, config.embed_dim))
    config = dataclasses.replace(config, tie_embeddings=True)
    model = transformer_from(folder, config, tensors, dtype=dtype, mesh=mesh)
    head_1D = jnp.asarray(head.read().astype(np.float32))
    return RewardCheckpoint(model, head_1D, hf_config.pad_token_id)
