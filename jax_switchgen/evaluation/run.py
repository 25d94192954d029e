"""Systems x tasks x seeds: each cell is answered, scored and written to its own file.

    OUTPUT/cells/SYSTEM/TASK/seed-0.jsonl     one line for each record, in their order
    OUTPUT/cells/SYSTEM/TASK/seed-0.partial   of a run that was interrupted

The first line of a file says which system, models and settings it belongs to. A cell
that is complete is never answered again; a partial one goes on where it stopped.
"""

import dataclasses
import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_switchgen.evaluation.systems import Answer, System
from jax_switchgen.tasks.record import Record, Task
from jax_switchgen.tasks.scoring import score

Row = dict[str, Any]
Progress = Callable[[str, int, int], None]


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
    """What a cell has: a row for each record, and the seconds that it took."""

    cell: Cell
    rows: list[Row]
    seconds: float


def sample_records(records: Sequence[Record], size: int, seed: int) -> list[Record]:
    """At most `size` records (0: all), drawn without their order."""
    if not size or size >= len(records):
        return list(records)
    chosen = random.Random(seed).sample(range(len(records)), size)
    return [records[i] for i in sorted(chosen)]


def fingerprint(settings: Mapping[str, Any], records: Sequence[Record]) -> str:
    """Of everything that decides a cell's rows: settings and records."""
    content = json.dumps(
        [settings, [dataclasses.astuple(record) for record in records]], sort_keys=True
    )
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def run_cell(
    system: System,
    task: Task,
    records: Sequence[Record],
    seed: int,
    output: Path,
    settings: Mapping[str, Any],
    progress: Progress = lambda name, done, total: None,
) -> Result:
    """Answers and scores what is not there yet.

    Raises:
      ValueError: the file belongs to other settings.
    """
    cell = Cell(system.name, task.name, seed)
    path, partial = cell.path(output), cell.path(output).with_suffix(".partial")
    name = f"{system.name} · {task.name} · seed {seed}"
    mark = fingerprint(settings, records)
    if path.exists():
        seconds, rows = _read(path, mark)
        progress(name, len(rows), len(records))
        return Result(cell, list(rows.values()), seconds)
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds, rows = _read(partial, mark) if partial.exists() else (0.0, {})
    left = [record for record in records if record.id not in rows]
    start = time.perf_counter()
    with partial.open("a") as stream:
        if not rows and partial.stat().st_size == 0:
            stream.write(json.dumps({"fingerprint": mark, **settings}) + "\n")
        for record, answer in system.answers(task, left, seed):
            row = _row(cell, task, record, answer)
            row["elapsed"] = round(seconds + time.perf_counter() - start, 3)
            rows[record.id] = row
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            stream.flush()
            progress(name, len(rows), len(records))
    ordered = [rows[record.id] for record in records]
    seconds = max((row["elapsed"] for row in ordered), default=0.0)
    header = {"fingerprint": mark, "seconds": seconds, **settings}
    complete = path.with_suffix(".complete")
    complete.write_text(
        "".join(
            json.dumps(line, ensure_ascii=False) + "\n" for line in (header, *ordered)
        )
    )
    os.replace(complete, path)
    partial.unlink()
    return Result(cell, ordered, seconds)


def _read(path: Path, mark: str) -> tuple[float, dict[str, Row]]:
    """Seconds spent, and the rows by id; a line cut short by a kill is dropped."""
    lines = path.read_text().split("\n")
    whole = lines[:-1]  # after the last line end there is nothing, or half a line
    if lines[-1]:
        path.write_text("".join(line + "\n" for line in whole))
    if not whole:
        return 0.0, {}
    header = json.loads(whole[0])
    if header["fingerprint"] != mark:
        raise ValueError(
            f"{path}: was written with other models, settings or records; delete it, "
            "or name another --output"
        )
    rows = {row["id"]: row for row in map(json.loads, whole[1:])}
    spent = max((row["elapsed"] for row in rows.values()), default=0.0)
    return spent, rows


def _row(cell: Cell, task: Task, record: Record, answer: Answer) -> Row:
    result = score(task, record, answer.output)
    return {
        **dataclasses.asdict(cell),
        "id": record.id,
        "category": record.category,
        "golds": list(record.golds),
        "prompt": record.prompt,
        "output": answer.output,
        "value": result.value,
        "parsed": result.parsed,
        "details": result.details,
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
