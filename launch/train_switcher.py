"""Trains the switcher on rollouts: which candidate should write the next segment?

On a laptop, minutes (collect the rollouts first):
  python launch/collect_rollouts.py --config=configs/demo.py
  python launch/train_switcher.py --config=configs/demo.py
  python launch/generate.py --config=configs/demo.py --prompt="Why is the sky blue?"

The trained switcher is OUTPUT/switcher, a PEFT adapter over the model of the config's
switcher; OUTPUT is config.training.output. Any config uses it with
  --config.switcher.adapter=OUTPUT/switcher

All parameters instead of an adapter (then use it with --config.switcher.path=…), soft
labels, one task (SWITCH-T of the paper), or several and each one's share (SWITCH-G):
  … --config.training.lora_rank=0
  … --config.training.soft_labels=0.1
  … --config.training.tasks=gsm8k
  … --config.training.tasks="('gsm8k','popqa')" --config.training.weights=2,1

A model that is too large for one device, split over 4 by width and 2 by heads; the rest
of the devices take other examples. On several hosts every one runs the same line:
  … --config.training.fsdp=4 --config.training.tensor=2 --distributed

OUTPUT/metrics.jsonl grows as it learns; OUTPUT/results.json compares it, on queries
that it did not learn from, with the untrained switcher, with always the same candidate
and with chance; OUTPUT/training.svg shows loss and regret. To watch it elsewhere:
  … --config.training.viewers="('tensorboard','wandb')"

The same command goes on where a run stopped, from the newest whole checkpoint, on any
mesh. Exit codes: 0 trained, 143 stopped by SIGTERM after a checkpoint, 2 an error.
"""

import logging
import warnings
from pathlib import Path

from absl import flags
from command_line import EXIT_OK, as_json, define_config, read_pool, required, run

EXIT_STOPPED = 128 + 15  # as of a process that SIGTERM ended: not complete, run again

CONFIG = define_config()
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of several processes.")


def main() -> int:
    source = required(CONFIG)
    # Imported late: these take seconds, and help and wrong flags need none of them.
    import jax

    if DISTRIBUTED.value:
        jax.distributed.initialize()  # before anything asks for devices
    from jax_switchgen.generation.display import Notes
    from jax_switchgen.training.build import build_learner, identity
    from jax_switchgen.training.loop import train
    from jax_switchgen.training.options import TrainingOptions
    from jax_switchgen.training.output import (
        CONFIG_FILE,
        SWITCHER,
        claim,
        export_switcher,
    )
    from jax_switchgen.training.placement import make_mesh

    config = read_pool(source, training=TrainingOptions)
    options = config["training"]
    output, ours = Path(options.output), identity(as_json(config), options)
    target = output / SWITCHER
    # Errors of background writes come back to us; they are logged with tracebacks too,
    # and the other writes, given up, as warnings after our own last line.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    mesh = make_mesh(options.fsdp, options.tensor, options.part_size)
    with Notes() as notes:
        say, progress = notes.line, notes.progress
        if jax.process_index():  # one of them speaks for all
            say = progress = lambda line: None
        if (output / CONFIG_FILE).is_file():
            claim(output, ours)  # refused before a model is loaded
        if target.is_dir():
            say(f"{target} is complete already")
            return EXIT_OK
        learner = build_learner(
            config["candidates"],
            config["switcher"],
            options,
            mesh=mesh,
            say=say,
            progress=progress,
        )
        claim(output, ours)
        state = train(learner, output, mesh=mesh, say=say, progress=progress)
        if state is None:
            return EXIT_STOPPED
        export_switcher(learner, state.params, target, mesh)
        field = "adapter" if options.lora_rank else "path"
        say(f"use it with --config.switcher.{field}={target}")
    return EXIT_OK


if __name__ == "__main__":
    run(main, __doc__)
