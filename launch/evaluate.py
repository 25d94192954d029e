"""Compares ways of answering on tasks, and writes scores and a report.

A first look, a few minutes on a laptop (prepare the tasks once, 14 MB):
  python launch/prepare_tasks.py --tasks=arc_challenge,gsm8k
  python launch/evaluate.py --config=configs/demo.py:eval_smoke --output=smoke

Systems, tasks, seeds and how many records of each task:
  python launch/evaluate.py --config=configs/demo.py --output=results \\
      --config.evaluation.num_records=100 --config.evaluation.seeds=0,1

OUTPUT/report.html shows everything and opens from disk; OUTPUT/summary.json is its
table; OUTPUT/cells has every answer with its trace and score. A run that was killed
goes on where it stopped, and what is complete is not answered again.

Systems: single:NAME, segments:NAME (a candidate alone, in segments), switcher, random,
round_robin, vote (of all candidates), self_consistency:NAME (as many samples as there
are models).
"""

import itertools
import json
import time
import typing
from pathlib import Path

from absl import flags
from command_line import EXIT_OK, as_json, define_config, read_pool, required, run

if typing.TYPE_CHECKING:
    from jax_switchgen.generation.display import Notes

SECONDS_BETWEEN_LINES = 2.0

CONFIG = define_config()
OUTPUT = flags.DEFINE_string("output", None, "The folder of results.")


class Clock:
    """Says which cell is at work, and when all will be done."""

    def __init__(self, notes: "Notes", cells: int):
        self.notes, self.cells, self.done = notes, cells, 0
        self.started = self.next_line = time.perf_counter()

    def show(self, name: str, answered: int, total: int) -> None:
        now = time.perf_counter()
        if now < self.next_line and answered < total:
            return
        self.next_line = now + SECONDS_BETWEEN_LINES
        share = (self.done + answered / max(total, 1)) / self.cells
        left = (now - self.started) * (1 / max(share, 1e-9) - 1) / 60
        self.notes.progress(
            f"cell {self.done + 1} of {self.cells}: {name}, {answered}/{total} records"
            f" · {left:.0f} min left"
        )


def main() -> int:
    output = Path(required(OUTPUT))
    # Imported late: these take seconds, and help and wrong flags need none of them.
    from jax_switchgen.evaluation.options import EvaluationOptions
    from jax_switchgen.generation.display import Notes

    config = read_pool(required(CONFIG), evaluation=EvaluationOptions)
    evaluation = config.pop("evaluation")
    tasks, problems = evaluation.load()
    with Notes() as notes:
        for problem in problems:
            notes.line(problem)
        results = run_cells(config, evaluation, tasks, output, notes)
        show(results, evaluation.reference, output, notes)
    return EXIT_OK


def run_cells(config, evaluation, tasks, output: Path, notes: "Notes") -> list:
    """Every system on every task with every seed."""
    from jax_switchgen.evaluation.run import run_cell, sample_records
    from jax_switchgen.evaluation.systems import make_systems
    from jax_switchgen.policies.build import build_engine

    # Scheduling changes no token, and the seed is the cell's own.
    settings = as_json(config)
    for name in ("batch_size", "in_flight", "cache_gib", "seed"):
        del settings["generation"][name]
    engine = build_engine(**config, progress=notes.progress)
    switcher = engine.policy if config["policy"].name == "switcher" else None
    systems = make_systems(
        evaluation.systems, engine.speakers, switcher, engine.options
    )
    clock = Clock(notes, len(systems) * len(tasks) * len(evaluation.seeds))
    results = []
    for system, (task, records), seed in itertools.product(
        systems, tasks, evaluation.seeds
    ):
        chosen = sample_records(records, evaluation.num_records, seed=0)
        mine = {**settings, "system": system.name}
        results.append(run_cell(system, task, chosen, seed, output, mine, clock.show))
        clock.done += 1
    return results


def show(results: list, reference: str, output: Path, notes: "Notes") -> None:
    """The table in the terminal and as JSON, and the report."""
    from jax_switchgen.evaluation import report, summary
    from jax_switchgen.tasks.catalogue import WITHHELD

    table = summary.summarize(results, reference)
    (output / "summary.json").write_text(json.dumps(table, indent=1))
    traces = summary.traces(results, reference, WITHHELD)
    report.write_report(output / "report.html", "Switch Generation", table, traces, [])
    summary.show_table(table, notes.console)
    notes.line(f"{output / 'report.html'}: open it in a browser")


if __name__ == "__main__":
    run(main, __doc__)
