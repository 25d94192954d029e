"""Checkpoints take turns to write responses.

One prompt; in a terminal each segment is shown as it is written, elsewhere stdout gets
the text of the response alone:
  python launch/generate.py --config=configs/demo.py --prompt="Why is the sky blue?"

A file of prompts; one JSON object in a line, {"input": "…"} and an "id" if you like:
  python launch/generate.py --config=configs/demo.py \\
      --input=questions.jsonl --output=answers.jsonl
The same command again goes on with a job that was stopped. Lines that can't be
answered are reported with their number and have no record in the output.

Exit codes: 0 all is well, 1 some lines have no record, 2 nothing ran.

Sections of a config (the comments are in configs/, and in the dataclasses named):
  candidates    who may speak              policies/build.py   CandidateOptions
  switcher      the model that chooses     policies/build.py   SwitcherSource
  policy        who chooses, and when      policies/build.py   PolicyOptions
  generation    segments, sampling, seed   generation/options.py
  mesh          devices for each model     models/sharding.py  MeshOptions
  dtype         float32 or bfloat16
Pools: configs/demo.py, tulu3_8b.py, qwen2_5_7b.py, olmo2_7b.py. Variants are written
behind a colon: --config=configs/tulu3_8b.py:paper
"""

import time
from pathlib import Path
from typing import Any

from absl import flags
from command_line import (
    EXIT_OK,
    EXIT_SOME_FAILED,
    as_json,
    define_config,
    read_pool,
    required,
    run,
)

CONFIG = define_config()
PROMPT = flags.DEFINE_string("prompt", None, "One prompt to answer.")
INPUT = flags.DEFINE_string("input", None, "JSONL file of prompts.")
OUTPUT = flags.DEFINE_string("output", None, "JSONL file to write.")


def main() -> int:
    files = (INPUT.value is not None, OUTPUT.value is not None)
    if any(files) if PROMPT.value is not None else not all(files):
        raise ValueError("give either --prompt, or both --input and --output")
    started = time.perf_counter()
    config = read_pool(required(CONFIG))
    if PROMPT.value is not None:
        return answer_prompt(config, PROMPT.value, started)
    return answer_file(config, Path(required(INPUT)), Path(required(OUTPUT)), started)


def answer_prompt(config: dict[str, Any], prompt: str, started: float) -> int:
    from jax_switchgen.generation import display, trace
    from jax_switchgen.policies.build import build_engine

    with display.Notes() as notes:
        engine = build_engine(**config, progress=notes.progress)
    names = [speaker.name for speaker in engine.speakers]
    events = engine.stream([trace.Request(prompt)])
    display.show_response(events, names, display.Tally(started), notes)
    return EXIT_OK


def answer_file(
    config: dict[str, Any], source: Path, output: Path, started: float
) -> int:
    from jax_switchgen.generation import display, jobs
    from jax_switchgen.policies.build import build_engine

    job = jobs.Job(source, output, as_json(config))
    with display.Notes() as notes:
        notes.problems(source, job.problems)
        if job.complete:
            notes.line(f"{output} is complete already; nothing is left to do")
            return EXIT_SOME_FAILED if job.num_failed else EXIT_OK
        engine = build_engine(**config, progress=notes.progress)
        notes.problems(source, job.check(engine))
    if not job.requests:
        raise ValueError(f"{source}: no line can be answered")
    if job.num_kept:
        notes.line(f"{job.num_kept} records are there from an earlier run")
    display.show_job(job, engine, display.Tally(started), notes)
    notes.line(f"{len(job.requests)} records are in {output}")
    return EXIT_SOME_FAILED if job.num_failed else EXIT_OK


if __name__ == "__main__":
    run(main, __doc__)
