"""Which records of which tasks: prepared ones by name, and a user's own."""

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

from jax_switchgen.tasks.catalogue import find_task
from jax_switchgen.tasks.datasets import load_jsonl, load_records
from jax_switchgen.tasks.record import Record, Scorer, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnTask:
    """A user's own records, in the fields that `tasks/parsing.py` names.

    Attributes:
      path: a JSONL file.
      scorer: one of the values of `Scorer`.
      labels: the closed set of answers of the scorer `label`.
    """

    name: str
    path: str
    scorer: str
    labels: tuple[str, ...] = ()


def load_tasks(
    names: Sequence[str], own_tasks: Sequence[OwnTask], split: str
) -> tuple[list[tuple[Task, list[Record]]], list[str]]:
    """All tasks with their records, and a line for each record that can't be read.

    Raises:
      ValueError: there is no such task, or no such scorer.
    """
    found: list[tuple[Task, list[Record]]] = []
    problems: list[str] = []
    for name in names:
        found.append((find_task(name), load_records(name, split)))
    for own in own_tasks:
        scorers = [scorer.value for scorer in Scorer]
        if own.scorer not in scorers:
            raise ValueError(
                f"own task {own.name!r}: scorer {own.scorer!r} is none of "
                f"{', '.join(scorers)}"
            )
        task = Task(own.name, Scorer(own.scorer), 0, 0, "the user's", own.labels)
        records, unreadable = load_jsonl(Path(own.path), task)
        found.append((task, records))
        problems += unreadable
    return found, problems


def sample_records(records: Sequence[Record], size: int, seed: int) -> list[Record]:
    """At most `size` records (0: all), drawn without their order."""
    if not size or size >= len(records):
        return list(records)
    chosen = random.Random(seed).sample(range(len(records)), size)
    return [records[i] for i in sorted(chosen)]
