"""From the sections of a config to a switcher that is ready to learn."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jax_switchgen.checkpoints.hf import load_tokenizer, load_transformer
from jax_switchgen.checkpoints.hf_config import read_config
from jax_switchgen.checkpoints.resolve import HUB_NAME, resolve_checkpoint
from jax_switchgen.checkpoints.store import is_store, restore_transformer
from jax_switchgen.generation.journal import file_digest
from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.models.config import ModelConfig
from jax_switchgen.models.sharding import TRAINING_RULES
from jax_switchgen.models.stacked import stacked
from jax_switchgen.models.transformer import Transformer
from jax_switchgen.policies.build import CandidateOptions, SwitcherSource
from jax_switchgen.policies.switcher import label_ids
from jax_switchgen.rollouts.pool import pool_of
from jax_switchgen.rollouts.records import read_rollouts
from jax_switchgen.training.data import Split, make_split
from jax_switchgen.training.options import TrainingOptions, check_base
from jax_switchgen.training.placement import Params
from jax_switchgen.training.step import Model, init_lora, loops_on

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Learner:
    """A switcher before its training, and what it is to learn.

    Attributes:
      config: of its model.
      base: the frozen model under an adapter, on the mesh; None if all is trained.
      first_params: what is trained, as it begins; read anew at every call, for a run
        that goes on needs none of it, and the first update takes its memory.
      label_ids_C: int32, the token that stands for each candidate.
      candidates: their names.
      folder: the checkpoint of its model.
      base_name: what an exported adapter calls that model.
    """

    options: TrainingOptions
    config: ModelConfig
    base: Model | None
    first_params: Callable[[], Params]
    label_ids_C: np.ndarray
    split: Split
    candidates: tuple[str, ...]
    folder: Path
    base_name: str


def build_learner(
    candidates: Sequence[CandidateOptions],
    switcher: SwitcherSource,
    options: TrainingOptions,
    *,
    mesh: Mesh,
    say: Say = lambda line: None,
    progress: Say = lambda line: None,
) -> Learner:
    """Reads the rollouts and loads the model. `switcher.adapter` is not read: training
    begins with a new one.

    Args:
      say, progress: are told what stays on the screen, and what may be replaced.

    Raises:
      ValueError: one line that names what is wrong and what to do.
    """
    check_base(switcher.quantization, options)
    pool = pool_of(candidates)
    files = [read_rollouts(Path(path), pool) for path in options.rollouts]
    folder = resolve_checkpoint(switcher.path, progress)
    vocabulary = Vocabulary(load_tokenizer(folder))
    labels = switcher.labels or tuple(str(i) for i in range(len(candidates)))
    label_ids_C = label_ids(vocabulary, labels)
    config = read_config(folder)
    longest = min(options.max_length, config.max_positions)
    split = make_split(sum(files, []), vocabulary, options, longest)
    say(
        f"{len(split.train)} examples to train on, {len(split.held_out)} held out; "
        f"left out: {split.too_long} of more than {longest} tokens, {split.unclear} "
        "unclear"
    )

    def load(dtype: str) -> dict[str, Any]:
        progress(f"loading {switcher.path}")
        read = restore_transformer if is_store(folder) else load_transformer
        model = read(
            folder,
            dtype=jnp.dtype(dtype),
            mesh=mesh,
            rules=TRAINING_RULES,
            quantization=switcher.quantization,
        )
        return model.arrays()

    def first_params() -> Params:
        if options.lora_rank:
            return init_lora(config, options)
        return load("float32")

    base = None
    if options.lora_rank:
        base = (stacked if loops_on(jax.default_backend()) else Transformer)(
            config, load(options.compute_dtype)
        )
    is_hub_name = HUB_NAME.fullmatch(switcher.path) and not Path(switcher.path).exists()
    return Learner(
        options=options,
        config=config,
        base=base,
        first_params=first_params,
        label_ids_C=label_ids_C,
        split=split,
        candidates=pool.candidates,
        folder=folder,
        base_name=switcher.path if is_hub_name else str(folder.resolve()),
    )


def identity(config: dict[str, Any], options: TrainingOptions) -> dict[str, Any]:
    """What a training is resumed with only if it is the same, as JSON values.

    Args:
      config: the resolved sections.
    """
    files = [Path(path) for path in options.rollouts]
    switcher = ("path", "labels", "quantization")
    return {
        "candidates": config["candidates"],
        "switcher": {name: config["switcher"][name] for name in switcher},
        "training": config["training"],
        # A file that is missing is named when it is read.
        "rollouts": [file_digest(path) for path in files if path.is_file()],
    }
