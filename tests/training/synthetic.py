"""Made-up rollouts whose labels can be learned, and a tiny learner of them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.generation.trace import Segment
from jax_switchgen.models.config import ModelConfig
from jax_switchgen.models.quantization import quantize
from jax_switchgen.models.stacked import stacked
from jax_switchgen.models.transformer import Transformer
from jax_switchgen.policies.switcher import label_ids
from jax_switchgen.rollouts.pool import Pool
from jax_switchgen.rollouts.records import Rollout, rollout_line
from jax_switchgen.training.build import Learner
from jax_switchgen.training.data import make_split
from jax_switchgen.training.options import TrainingOptions
from jax_switchgen.training.placement import AXES, params_shardings, place
from jax_switchgen.training.step import Model, init_lora
from tests import tiny

NAMES = ("pretrained", "aligned")
POOL = Pool("0123456789abcdef", NAMES)
VOCABULARY = Vocabulary(tiny.byte_tokenizer())


def rollout(seed: int, **changes) -> Rollout:
    """Candidate 1 is the better one where the query shouts. Prompts have one of two
    lengths: programs take longer to compile than to run."""
    rng = np.random.default_rng(seed)
    label = int(rng.integers(2))
    spoken = NAMES[rng.integers(2)]
    utilities = [0.25, 0.25]
    utilities[label] = 0.75
    fields = dict(
        id=f"q{seed}",
        task="shouting",
        query=("calm ", "LOUD ")[label] * int(rng.choice((2, 8))),
        trace=(Segment(spoken, [], " la la"),),
        utilities=tuple(utilities),
        counts=(4, 4),
        label=label,
        mark="clear",
        seed=seed,
        config={},
        pool=POOL,
    )
    return Rollout(**(fields | changes))


def write_rollouts(path: Path, rollouts: Sequence[Rollout], pool: Pool = POOL) -> Path:
    """A file of rollouts of this pool."""
    own = [dataclasses.replace(rollout, pool=pool) for rollout in rollouts]
    path.write_text("".join(map(rollout_line, own)), encoding="utf-8")
    return path


def options(**changes) -> TrainingOptions:
    fields = dict(
        rollouts=("rollouts.jsonl",),
        output="output",
        learning_rate=1e-2,
        batch_size=16,
        epochs=2,
        lora_rank=4,
        held_out=0.2,
        eval_every=4,
        checkpoint_every=4,
        remat=False,
        compute_dtype="float32",
    )
    return TrainingOptions(**(fields | changes))


def mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
    """Of the first devices, as many as it takes."""
    devices = np.array(jax.devices()[: data * fsdp * tensor])
    kinds = (jax.sharding.AxisType.Auto,) * 3
    return jax.sharding.Mesh(
        devices.reshape(data, fsdp, tensor), AXES, axis_types=kinds
    )


def placed(
    model: Transformer, on: jax.sharding.Mesh, in_loop: bool, quantized: bool
) -> Model:
    """A model as training splits it."""
    params = model.arrays()
    params = place(params, params_shardings(params, model.config, on))
    if quantized:
        params = {p: quantize(x) if x.ndim == 2 else x for p, x in params.items()}
    return (stacked if in_loop else Transformer)(model.config, params)


def learner(
    count: int = 120,
    config: ModelConfig = tiny.CONFIG,
    on: jax.sharding.Mesh | None = None,
    in_loop: bool = False,
    quantized: bool = False,
    **changes,
) -> Learner:
    """Random weights, and `count` rollouts."""
    chosen = options(**changes)
    model = tiny.random_model(3, config)
    rollouts = [rollout(i) for i in range(count)]

    def first_params():
        if chosen.lora_rank:
            return init_lora(config, chosen)
        return jax.tree.map(np.array, model.arrays())

    base = None
    if chosen.lora_rank:
        base = placed(model, on or mesh(), in_loop, quantized)
    return Learner(
        options=chosen,
        config=config,
        base=base,
        first_params=first_params,
        label_ids_C=label_ids(VOCABULARY, ("0", "1")),
        split=make_split(rollouts, VOCABULARY, chosen, config.max_positions),
        candidates=NAMES,
        folder=Path("nowhere"),
        base_name="tiny",
    )
