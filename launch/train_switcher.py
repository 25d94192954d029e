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
mesh. Exit codes: 0 trained, 143 stopped by SIGTERM after a checkpoint, 2 an error; any
other: a process of the job is gone, run it again.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import hosts
from command_line import (
    EXIT_OK,
    EXIT_STOPPED,
    as_json,
    define_config,
    read_pool,
    required,
    run,
)
from host_checks import check_job

CONFIG = define_config()


def main() -> int:
    source = required(CONFIG)
    with hosts.joined(preemption=True) as host:  # before anything asks for devices
        # Imported late: these take seconds, and help and wrong flags need none of them.
        from jax_switchgen.generation.profiling import ProfileOptions
        from jax_switchgen.training.options import TrainingOptions
        from jax_switchgen.training.placement import make_mesh

        config = read_pool(source, training=TrainingOptions, profile=ProfileOptions)
        options = config["training"]

        def mesh() -> Any:
            return make_mesh(options.fsdp, options.tensor, options.part_size)

        check_job(host, options.output, mesh)
        return train_on(mesh(), config, host.index)


def train_on(mesh: Any, config: dict[str, Any], process: int) -> int:
    """Loads and trains, on a mesh of all devices of all processes."""
    from jax_switchgen.generation.display import Notes
    from jax_switchgen.generation.profiling import ProfileWindow
    from jax_switchgen.training.build import build_learner, identity
    from jax_switchgen.training.loop import train
    from jax_switchgen.training.output import (
        CONFIG_FILE,
        SWITCHER,
        claim,
        export_switcher,
    )

    options = config["training"]
    output, ours = Path(options.output), identity(as_json(config), options)
    target = output / SWITCHER
    # Errors of background writes come back to us; they are logged with tracebacks too,
    # and the other writes, given up, as warnings after our own last line.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    with Notes() as notes:
        say, progress = notes.line, notes.progress
        if process:  # one of them speaks for all
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
        with ProfileWindow(config["profile"], say, "steps") as window:
            state = train(
                learner,
                output,
                mesh=mesh,
                say=say,
                progress=progress,
                passed=window.passed,
            )
        if state is None:
            return EXIT_STOPPED
        export_switcher(learner, state.params, target, mesh)
        field = "adapter" if options.lora_rank else "path"
        say(f"use it with --config.switcher.{field}={target}")
    return EXIT_OK


if __name__ == "__main__":
    run(main, __doc__)
