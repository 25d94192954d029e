"""Checkpoints take turns to write responses.

One prompt; in a terminal each segment is shown as it is written, elsewhere stdout gets
the text of the response alone:
  python launch/generate.py --config=configs/demo.py --prompt="Why is the sky blue?"

A file of prompts; one JSON object in a line, {"input": "…"} and an "id" if you like:
  python launch/generate.py --config=configs/demo.py \\
      --input=questions.jsonl --output=answers.jsonl
The same command again goes on with a job that was stopped. Lines that can't be
answered are reported with their number and have no record in the output; OUTPUT with
.report.json behind it says so too, and who wrote how much. Paths may be gs://BUCKET/…

Several machines, each with its own line and a shard of the input; whichever is the last
to finish puts OUTPUT together. On a TPU slice all hosts run the same line:
  … --num_shards=4 --shard_index=0
  … --distributed --platform=tpu

Exit codes: 0 all is well, 1 some lines have no record, 2 nothing ran, 143 stopped by
SIGTERM; any other: a process of the job is gone, run it again.

Sections of a config (the comments are in configs/, and in the dataclasses named):
  candidates    who may speak              policies/build.py   CandidateOptions
  switcher      the model that chooses     policies/build.py   SwitcherSource
  policy        who chooses, and when      policies/build.py   PolicyOptions
  generation    segments, sampling, seed   generation/options.py
  mesh          devices for each model     models/sharding.py  MeshOptions
  dtype         float32 or bfloat16
  profile       when to trace              generation/profiling.py ProfileOptions
Pools: configs/demo.py, tulu3_8b.py, qwen2_5_7b.py, olmo2_7b.py. Variants are written
behind a colon: --config=configs/tulu3_8b.py:paper
"""

import contextlib
import os
import time
import typing
from typing import Any

import hosts
import shards
from absl import flags
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

if typing.TYPE_CHECKING:
    from jax_switchgen.generation.job_output import Shard
    from jax_switchgen.generation.profiling import ProfileOptions

CONFIG = define_config()
PROMPT = flags.DEFINE_string("prompt", None, "One prompt to answer.")
INPUT = flags.DEFINE_string("input", None, "JSONL file of prompts.")
OUTPUT = flags.DEFINE_string("output", None, "JSONL file to write.")


def main() -> int:
    files = (INPUT.value is not None, OUTPUT.value is not None)
    if any(files) if PROMPT.value is not None else not all(files):
        raise ValueError("give either --prompt, or both --input and --output")
    if PROMPT.value is not None and (hosts.DISTRIBUTED.value or shards.asked()):
        raise ValueError(
            "several processes share the lines of --input; for one --prompt leave out "
            "--distributed, --shard_index and --num_shards"
        )
    started = time.perf_counter()
    # Imported late: these take seconds, and help and wrong flags need none of them.
    from jax_switchgen.generation.profiling import ProfileOptions

    config = read_pool(required(CONFIG), profile=ProfileOptions)
    profile = config.pop("profile")
    if PROMPT.value is not None:
        return answer_prompt(config, profile, PROMPT.value, started)
    stop_on_sigterm()
    with hosts.joined() as host:
        check_job(host, os.path.dirname(required(OUTPUT)) or ".")
        return answer_file(config, profile, shards.own(host), started)


def answer_prompt(
    config: dict[str, Any], profile: "ProfileOptions", prompt: str, started: float
) -> int:
    from jax_switchgen.generation import display, jobs, profiling, trace
    from jax_switchgen.policies.build import build_engine

    jobs.check_text(prompt)
    with display.Notes() as notes:
        engine = build_engine(**config, progress=notes.progress)
        names = [speaker.name for speaker in engine.speakers]
        with profiling.ProfileWindow(profile, notes.line) as window:
            engine.passed = window.passed
            events = engine.stream([trace.Request(prompt)])
            display.show_response(events, names, display.Tally(started), notes)
    return EXIT_OK


def answer_file(
    config: dict[str, Any], profile: "ProfileOptions", shard: "Shard", started: float
) -> int:
    from jax_switchgen.generation import display, jobs, profiling
    from jax_switchgen.policies.build import build_engine

    source, output = required(INPUT), required(OUTPUT)
    job = jobs.Job(source, output, as_json(config), shard)
    with display.Notes() as notes, contextlib.closing(job):
        notes.problems(source, job.problems)
        if job.complete:
            job.output.merge()
            done = shards.progress_of(job.output)
            notes.line(f"{done}; nothing is left to do here")
            return EXIT_SOME_FAILED if job.num_failed else EXIT_OK
        engine = build_engine(**config, progress=notes.progress)
        notes.problems(source, job.check(engine))
        if not job.requests and shard.count == 1:
            raise ValueError(f"{source}: no line can be answered")
        if job.num_kept:
            notes.line(f"{job.num_kept} records are there from an earlier run")
        with profiling.ProfileWindow(profile, notes.line) as window:
            engine.passed = window.passed
            display.show_job(job, engine, display.Tally(started), notes)
        notes.line(shards.progress_of(job.output))
    return EXIT_SOME_FAILED if job.num_failed else EXIT_OK


if __name__ == "__main__":
    run(main, __doc__)
