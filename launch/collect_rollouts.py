"""Collects what the switcher learns from: which candidate should have gone on?

On a laptop, half an hour (the first time, the tasks' data is downloaded: 14 MB):
  python launch/collect_rollouts.py --config=configs/demo.py

A response is written by random switching and cut at a segment boundary. There each
candidate writes one segment, each of these branches is completed several times by
random switching, and the completions are scored. The best branch is the label.

Which tasks, how many queries, responses to each that are cut, completions of a branch:
  … --config.rollouts.tasks="('gsm8k','popqa')" --config.rollouts.num_records=100 \\
      --config.rollouts.places=2 --config.rollouts.completions=16
The same labels for fewer completions, or nearly the same for much fewer:
  … --config.rollouts.allocation=curtailed
  … --config.rollouts.allocation=halving

Several machines, each with its own line and a shard of the places; whichever is the
last to finish puts the file together. On a TPU slice all hosts run the same line:
  … --num_shards=4 --shard_index=0
  … --distributed --platform=tpu

Each labelled place is on disk at once: the same command goes on where a run stopped.
The file may be gs://BUCKET/… (--config.rollouts.output).
Exit codes: 0 all labelled, 1 some queries were left out, 2 an error, 143 stopped by
SIGTERM; any other: a process of the job is gone, run it again.
"""

import contextlib
import os
import time
import typing
from typing import Any

import hosts
import shards
from command_line import (
    EXIT_OK,
    EXIT_SOME_FAILED,
    as_json,
    define_config,
    read_pool,
    required,
    run,
    stop_on_sigterm,
)
from host_checks import check_job
from pace import Pace

if typing.TYPE_CHECKING:
    from jax_switchgen.generation.display import Notes
    from jax_switchgen.generation.job_output import Shard
    from jax_switchgen.rollouts.collection import Collected, Collection

SECONDS_BETWEEN_LINES = 2.0

CONFIG = define_config()


def main() -> int:
    # Imported late: these take seconds, and help and wrong flags need none of them.
    from jax_switchgen.generation.profiling import ProfileOptions
    from jax_switchgen.rollouts.options import RolloutOptions

    config = read_pool(
        required(CONFIG), rollouts=RolloutOptions, profile=ProfileOptions
    )
    stop_on_sigterm()
    with hosts.joined() as host:
        check_job(host, os.path.dirname(config["rollouts"].output) or ".")
        return collect(config, shards.own(host))


def collect(config: dict[str, Any], shard: "Shard") -> int:
    from jax_switchgen.generation.display import Notes
    from jax_switchgen.generation.profiling import ProfileWindow
    from jax_switchgen.generation.rewards import load_reward_model
    from jax_switchgen.models.sharding import local_mesh
    from jax_switchgen.policies.build import PolicyOptions, build_engine
    from jax_switchgen.rollouts import collection as collecting
    from jax_switchgen.rollouts.pool import pool_of
    from jax_switchgen.rollouts.records import read_rollouts
    from jax_switchgen.rollouts.summary import label_table

    profile = config.pop("profile")
    settings, options = as_json(config), config.pop("rollouts")
    seed = config["generation"].seed
    pool = pool_of(config["candidates"])
    tasks, problems = options.load()
    places = collecting.make_places(tasks, options, seed)
    collection = collecting.Collection(places, options, pool, settings, shard)
    output = collection.output
    with Notes() as notes, contextlib.closing(output):
        for problem in problems:
            notes.line(problem)
        if output.shard_complete:
            output.merge()
            done = shards.progress_of(output)
            notes.line(f"{done}; nothing is left to do here")
            return EXIT_SOME_FAILED if problems or output.refused() else EXIT_OK
        if collection.num_kept:
            notes.line(f"{collection.num_kept} places are there from an earlier run")
        config["policy"] = PolicyOptions(name="random")
        engine = build_engine(**config, progress=notes.progress)
        judge = collecting.make_judge(
            lambda: load_reward_model(
                options.reward_model,
                dtype=config["dtype"],
                mesh=local_mesh(config["mesh"]),
                progress=notes.progress,
            )
        )
        with ProfileWindow(profile, notes.line) as window:
            engine.passed = window.passed
            show(collection, collection.run(engine, judge), notes)
        if output.complete:
            notes.console.print(label_table(read_rollouts(output.path, pool)))
            notes.line(f"{output.path}: train on it with launch/train_switcher.py")
        else:
            notes.line(shards.progress_of(output))
    return EXIT_SOME_FAILED if problems or collection.refused else EXIT_OK


def show(
    collection: "Collection", places: "typing.Iterator[Collected]", notes: "Notes"
) -> None:
    """Progress while places are labelled."""
    notes.progress("programs are compiled when first needed, which takes minutes once")
    pace = Pace(len(collection.left))
    started = next_line = time.perf_counter()
    for done, collected in enumerate(places, start=1):
        pace.passed()
        now = time.perf_counter()
        if now < next_line and done < len(collection.left):
            continue
        next_line = now + SECONDS_BETWEEN_LINES
        seconds = now - started
        notes.progress(
            f"{done} of {len(collection.left)} places · {collected.responses} "
            f"completions · {collected.tokens / seconds:.0f} tokens/s · "
            f"{pace.minutes_left:.0f} min left"
        )
    for line in collection.refused.values():
        notes.line(line)


if __name__ == "__main__":
    run(main, __doc__)
