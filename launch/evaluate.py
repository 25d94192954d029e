"""Compares ways of answering on tasks, and writes scores and a report.

A first look, a few minutes on a laptop (the first time, the tasks' data is downloaded:
14 MB):
  python launch/evaluate.py --config=configs/demo.py:eval_smoke --output=smoke

Systems, tasks, seeds and how many records of each task:
  python launch/evaluate.py --config=configs/demo.py --output=results \\
      --config.evaluation.num_records=100 --config.evaluation.seeds=0,1

OUTPUT/report.html shows everything and opens from disk; OUTPUT/summary.json is its
table; OUTPUT/cells has every answer with its trace and score. A run that was killed
goes on where it stopped, and what is complete is not answered again.

Systems: single:NAME, segments:NAME (a candidate alone, in segments), switcher, random,
round_robin, vote (of all candidates), self_consistency:NAME (as many samples as there
are models); with @1.3 behind a name it samples at that temperature.
"""

import json
import time
import typing
from pathlib import Path

from absl import flags
from command_line import EXIT_OK, as_json, define_config, read_pool, required, run
from pace import Pace

if typing.TYPE_CHECKING:
    from jax_switchgen.evaluation.suite import Suite
    from jax_switchgen.generation.display import Notes
    from jax_switchgen.generation.profiling import ProfileWindow

SECONDS_BETWEEN_LINES = 2.0

CONFIG = define_config()
OUTPUT = flags.DEFINE_string("output", None, "The folder of results.")


class Clock:
    """Says what is at work, and when all will be done."""

    def __init__(self, notes: "Notes", total: int, window: "ProfileWindow"):
        self.window = window
        self.notes, self.total, self.done = notes, total, 0
        self.pace = Pace(total)
        self.next_line = time.perf_counter()

    def show(self, name: str, of: int, answered: int) -> None:
        self.done += 1
        self.pace.passed()
        self.window.passed()
        now = time.perf_counter()
        if now < self.next_line and answered < of:
            return
        self.next_line = now + SECONDS_BETWEEN_LINES
        self.notes.progress(
            f"{name}: {answered} of {of} answers · {self.done} of {self.total} in all "
            f"· {self.pace.minutes_left:.0f} min left"
        )


def main() -> int:
    output = Path(required(OUTPUT))
    # Imported late: these take seconds, and help and wrong flags need none of them.
    from jax_switchgen.evaluation.options import EvaluationOptions
    from jax_switchgen.evaluation.suite import Suite
    from jax_switchgen.generation.display import Notes
    from jax_switchgen.generation.profiling import ProfileOptions, ProfileWindow
    from jax_switchgen.generation.rewards import load_reward_model
    from jax_switchgen.models.sharding import local_mesh
    from jax_switchgen.policies.build import build_engine

    config = read_pool(
        required(CONFIG), evaluation=EvaluationOptions, profile=ProfileOptions
    )
    options, profile = config.pop("evaluation"), config.pop("profile")
    if "switcher" in options.systems and config["policy"].name != "switcher":
        raise ValueError(
            f"system 'switcher' needs policy.name='switcher', which is "
            f"{config['policy'].name!r}"
        )
    # Scheduling changes no token, and the seed is each question's own.
    settings = as_json(config)
    for name in ("batch_size", "in_flight", "cache_gib", "seed"):
        del settings["generation"][name]
    del settings["mesh"]
    tasks, problems = options.load()
    with Notes() as notes, ProfileWindow(profile, notes.line, "answers") as window:
        for problem in problems:
            notes.line(problem)
        suite = Suite(
            options,
            tasks,
            output,
            candidates=[candidate.name for candidate in config["candidates"]],
            settings=settings,
            load_engine=lambda: build_engine(**config, progress=notes.progress),
            load_reward_model=lambda: load_reward_model(
                options.reward_model,
                dtype=config["dtype"],
                mesh=local_mesh(config["mesh"]),
                progress=notes.progress,
            ),
            progress=notes.progress,
        )
        show(suite, output, notes, window)
    return EXIT_OK


def show(suite: "Suite", output: Path, notes: "Notes", window: "ProfileWindow") -> None:
    """Runs what is left; the table in the terminal and as JSON, and the report."""
    from jax_switchgen.evaluation import report, summary
    from jax_switchgen.tasks.catalogue import WITHHELD

    results = suite.results(Clock(notes, suite.num_left, window).show)
    reference = suite.options.reference
    table = summary.summarize(results, reference, [task for task, _ in suite.tasks])
    choices, tables = suite.choices(), suite.tables(results)
    content = {"scores": table, "choices": choices, "tables": tables}
    (output / "summary.json").write_text(json.dumps(content, indent=1))
    traces = summary.traces(results, reference, WITHHELD)
    page = output / "report.html"
    report.write_report(page, "Switch Generation", table, traces, choices, tables)
    summary.show_table(table, notes.console)
    notes.line(f"{page}: open it in a browser")


if __name__ == "__main__":
    run(main, __doc__)
