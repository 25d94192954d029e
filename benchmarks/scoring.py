"""What scoring costs: seconds per 10,000 outputs of each prepared task.

    python launch/prepare_tasks.py
    python benchmarks/scoring.py

Outputs are of four kinds, in turn: the gold alone, 1,500 characters of other prompts
and then the gold in a box, 2,000 characters of other prompts, and 200 of them. Tasks
that a reward model judges, and those that compare answers, are left out.
"""

import argparse
import itertools
import random
import time
from collections.abc import Iterator, Sequence

import harness

from jax_switchgen.tasks.catalogue import TASKS
from jax_switchgen.tasks.datasets import load_records
from jax_switchgen.tasks.record import COMPARED, Record
from jax_switchgen.tasks.scoring import score


def outputs(records: Sequence[Record]) -> Iterator[tuple[Record, str]]:
    """Records with outputs to be scored, without end."""
    rng = random.Random(0)
    text = "\n".join(record.prompt for record in records)
    for number, record in enumerate(itertools.cycle(records)):
        gold = record.golds[0] if record.golds else "I cannot help with that."
        start = rng.randrange(max(1, len(text) - 2000))
        kind = number % 4
        if kind == 0:
            yield record, gold
        elif kind == 1:
            yield (
                record,
                f"{text[start : start + 1500]}\nThe answer is \\boxed{{{gold}}}",
            )
        else:
            yield record, text[start : start + (2000 if kind == 2 else 200)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=4000, help="outputs of each task")
    parser.add_argument("--tasks", default="", help="names with commas; default all")
    args = parser.parse_args()
    names = args.tasks.split(",") if args.tasks else list(TASKS)
    results = {}
    for name in names:
        task = TASKS[name]
        if task.scorer in COMPARED:
            continue
        wanted = itertools.islice(outputs(load_records(name, "test")), args.count)
        pairs = list(wanted)
        start = time.perf_counter()
        for record, output in pairs:
            score(task, record, output)
        seconds = time.perf_counter() - start
        results[name] = round(seconds * 10_000 / args.count, 2)
        harness.progress(f"{name}: {results[name]} s")
    harness.print_table(
        ("task", "scorer", "s / 10,000"),
        [(n, TASKS[n].scorer.value, seconds) for n, seconds in results.items()],
    )
    harness.print_json("scoring", vars(args), results)


if __name__ == "__main__":
    main()
