"""Systems x tasks x seeds: each cell is answered, scored and written to its own file.

    OUTPUT/cells/SYSTEM/TASK/seed-0.jsonl     one line for each record, in their order
    OUTPUT/cells/SYSTEM/TASK/seed-0.partial   of a run that was interrupted

The first line of a file says which system, models and settings it belongs to. A cell
that is complete is never answered again; a partial one goes on where it stopped. All
seeds of a system on a task are answered in one stream, which keeps batches full.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_switchgen.evaluation.kept import fingerprint
from jax_switchgen.evaluation.systems import Answer, Question, System
from jax_switchgen.tasks.record import COMPARED, Record, Task
from jax_switchgen.tasks.scoring import answer_key, score

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One system on one task with one seed."""

    system: str
    task: str
    seed: int

    def path(self, output: Path) -> Path:
        folder = self.system.replace(":", "-")
        return output / "cells" / folder / self.task / f"seed-{self.seed}.jsonl"


@dataclasses.dataclass(frozen=True)
class Result:
    """What a cell has: a row for each record."""

    cell: Cell
    rows: list[Row]

    @property
    def seconds(self) -> float:
        """What answering took; of tasks' seeds that ran together, its part."""
        return sum(row["seconds"] for row in self.rows)


class Work:
    """One system on one task with all seeds: what is there, and what is left to do.

    Attributes:
      left: questions without an answer.

    Raises:
      ValueError: a file belongs to other settings.
    """

    def __init__(
        self,
        system: str,
        task: Task,
        records: Sequence[Record],
        seeds: Sequence[int],
        output: Path,
        settings: Mapping[str, Any],
    ):
        self.system = system
        self.task = task
        self._ids = [record.id for record in records]
        settings = {**settings, "system": system}
        mark = fingerprint(settings, [dataclasses.astuple(r) for r in records])
        header = {"fingerprint": mark, **settings}
        cells = [Cell(system, task.name, seed) for seed in seeds]
        self._files = {cell.seed: _CellFile(cell, output, header) for cell in cells}
        self.left = [
            Question(task, record, seed)
            for record in records  # the seeds of one together: its prompt is read once
            for seed, file in self._files.items()
            if record.id not in file.rows
        ]

    def run(
        self, system: System, answered: Callable[[int], None] = lambda count: None
    ) -> list[Result]:
        """Answers and scores what is left; a result for each seed.

        Args:
          system: the one of that name.
          answered: is told after each answer how many there are of those left.
        """
        start = time.perf_counter()
        for count, (question, answer) in enumerate(system.answers(self.left), 1):
            file = self._files[question.seed]
            row = _row(file.cell, question, answer)
            # Of the wall time, what passed since the last answer of any seed.
            now = time.perf_counter()
            row["seconds"], start = round(now - start, 3), now
            file.add(row)
            answered(count)
        for file in self._files.values():
            file.complete(self._ids)
        return self.results()

    def results(self) -> list[Result]:
        """A result for each seed, when nothing is left."""
        return [
            Result(file.cell, [file.rows[id_] for id_ in self._ids])
            for file in self._files.values()
        ]


class _CellFile:
    """The rows of one cell by id, as far as they are on disk."""

    def __init__(self, cell: Cell, output: Path, header: Row):
        self.cell = cell
        self._path = cell.path(output)
        self._partial = self._path.with_suffix(".partial")
        self._header = header
        self._is_complete = self._path.exists()
        self.rows: dict[str, Row] = {}
        found = self._path if self._is_complete else self._partial
        if found.exists():
            self.rows = self._read(found)

    def add(self, row: Row) -> None:
        """Appends a row to the partial file."""
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        with self._partial.open("a") as stream:
            if stream.tell() == 0:
                stream.write(_line(self._header))
            stream.write(_line(row))
        self.rows[row["id"]] = row

    def complete(self, ids: Sequence[str]) -> None:
        """Writes the rows in the order of `ids`, and drops the partial file."""
        if self._is_complete:
            return
        whole = self._path.with_suffix(".complete")
        lines = (self._header, *(self.rows[id_] for id_ in ids))
        whole.write_text("".join(map(_line, lines)))
        os.replace(whole, self._path)
        self._partial.unlink()
        self._is_complete = True

    def _read(self, path: Path) -> dict[str, Row]:
        """The rows of a file; a line cut short by a kill is dropped."""
        *whole, torn = path.read_text().split("\n")
        if torn:
            path.write_text("".join(line + "\n" for line in whole))
        if not whole:
            return {}
        if json.loads(whole[0])["fingerprint"] != self._header["fingerprint"]:
            raise ValueError(
                f"{path}: was written with other models, settings or records; delete "
                "it, or name another --output"
            )
        return {row["id"]: row for row in map(json.loads, whole[1:])}


def _line(record: Row) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _row(cell: Cell, question: Question, answer: Answer) -> Row:
    task, record = question.task, question.record
    judged: Row = {"value": None, "parsed": bool(answer.output.strip()), "details": {}}
    if task.scorer not in COMPARED:
        judged = dataclasses.asdict(score(task, record, answer.output))
    return {
        **dataclasses.asdict(cell),
        "id": record.id,
        "category": record.category,
        "golds": list(record.golds),
        "prompt": record.prompt,
        "output": answer.output,
        "answer": answer_key(task, record, answer.output),
        **judged,
        "finish_reason": answer.finish_reason,
        "tokens": answer.tokens,
        "calls": answer.calls,
        "segments": [
            {
                "speaker": segment.speaker,
                "text": segment.text,
                "tokens": len(segment.token_ids),
                "probs": segment.probs,
            }
            for segment in answer.segments
        ],
    }
