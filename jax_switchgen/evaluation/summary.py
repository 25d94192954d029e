"""From the rows of all cells to a table: scores with intervals, costs, comparisons."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import f1_score, recall_score

from jax_switchgen.evaluation.run import Result, Row
from jax_switchgen.evaluation.statistics import (
    holm,
    mean_interval,
    paired_bootstrap,
)
from jax_switchgen.generation.trace import CUE
from jax_switchgen.tasks.record import Scorer, Task

RIGHT = 0.5  # from this score on an answer counts as right in gained and lost
_CLOSED = (Scorer.CHOICE, Scorer.LABEL)  # one gold each, of a few that all may have


def summarize(
    results: Sequence[Result], reference: str, tasks: Sequence[Task] = ()
) -> list[dict[str, Any]]:
    """One row for each system and task, in the order of the results.

    Differences are paired by record, seeds averaged; p-values are corrected by Holm
    over the tasks of each system. Results without scores have no row.

    Args:
      tasks: those of a closed set of answers get balanced accuracy and macro-F1.
    """
    closed = {task.name for task in tasks if task.scorer in _CLOSED}
    groups: dict[tuple[str, str], list[Result]] = collections.defaultdict(list)
    for result in results:
        if all(row["value"] is not None for row in result.rows):
            groups[result.cell.system, result.cell.task].append(result)
    table = [
        _summary(group, groups.get((reference, task)), task in closed)
        for (_, task), group in groups.items()
    ]
    for system in {row["system"] for row in table} - {reference}:
        rows = [r for r in table if r["system"] == system and r["p"] is not None]
        corrected = holm(np.array([row["p"] for row in rows], float))
        for row, p in zip(rows, corrected, strict=True):
            row["p_holm"] = float(p)
    return table


def _scores(group: Sequence[Result]) -> np.ndarray:
    """float (S, I)."""
    return np.array([[row["value"] for row in result.rows] for result in group])


def _summary(
    group: Sequence[Result], other: Sequence[Result] | None, closed: bool
) -> dict[str, Any]:
    cell, rows = group[0].cell, [row for result in group for row in result.rows]
    interval = mean_interval(_scores(group))
    tokens = sum(row["tokens"] for row in rows)
    seconds = sum(result.seconds for result in group)
    found = {
        "system": cell.system,
        "task": cell.task,
        "n": len(group[0].rows),
        "seeds": len(group),
        "score": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "difference": None,
        "difference_low": None,
        "difference_high": None,
        "p": None,
        "p_holm": None,
        "balanced_accuracy": None,
        "macro_f1": None,
        "parse_rate": _mean(row["parsed"] for row in rows),
        "stop_rate": _mean(row["finish_reason"] == "stop" for row in rows),
        "mean_tokens": tokens / len(rows),
        "calls": _mean(row["calls"] for row in rows),
        "tokens_per_s": tokens / seconds if seconds else None,
        "shares": _shares(rows),
    }
    if closed:
        found |= _class_scores(group)
    if other is not None and other[0].cell.system != cell.system:
        compared = paired_bootstrap(_scores(group), _scores(other))
        found |= {
            "difference": compared.difference.estimate,
            "difference_low": compared.difference.low,
            "difference_high": compared.difference.high,
            "p": compared.p_value,
        }
    return found


def _class_scores(group: Sequence[Result]) -> dict[str, float]:
    """What accuracy hides where golds are unbalanced; the mean over seeds.

    Always the answer that most golds have is right by their share, but has a balanced
    accuracy (the recall of each gold, averaged) of 1 / golds. What could not be read,
    or is no gold at all, is wrong.
    """
    found = []
    for result in group:
        golds = [row["golds"][0] for row in result.rows]
        answers = [row["answer"] or "" for row in result.rows]
        averaged = {"labels": sorted(set(golds)), "average": "macro"}
        found.append(
            [
                measure(golds, answers, **averaged, zero_division=0)
                # This recall is balanced_accuracy_score, which warns of other answers.
                for measure in (recall_score, f1_score)
            ]
        )
    balanced, f1 = np.mean(found, axis=0)
    return {"balanced_accuracy": float(balanced), "macro_f1": float(f1)}


def _mean(values) -> float:
    return float(np.mean([float(value) for value in values]))


def _shares(rows: Sequence[Row]) -> dict[str, float]:
    """Of the tokens of the outputs, by speaker."""
    tokens: collections.Counter[str] = collections.Counter()
    for row in rows:
        for segment in row["segments"]:
            if segment["speaker"] != CUE:
                tokens[segment["speaker"]] += segment["tokens"]
    total = max(1, tokens.total())
    return {speaker: count / total for speaker, count in tokens.items()}


def traces(
    results: Sequence[Result], reference: str, withheld: frozenset[str]
) -> list[dict[str, Any]]:
    """The rows as the report shows them, with gained and lost against the reference.

    Answers that are not scored one by one neither gain nor lose.

    Args:
      withheld: tasks whose texts are not shown.
    """
    before = {
        (r.cell.task, r.cell.seed, row["id"]): row["value"]
        for r in results
        if r.cell.system == reference
        for row in r.rows
    }
    found = []
    for result in results:
        if result.cell.task in withheld:
            continue
        for row in result.rows:
            key = (result.cell.task, result.cell.seed, row["id"])
            is_reference = result.cell.system == reference
            versus = None if is_reference else _versus(before.get(key), row["value"])
            found.append({**row, "versus": versus})
    return found


def _versus(before: float | None, now: float | None) -> str | None:
    if before is None or now is None:
        return None
    if (before >= RIGHT) == (now >= RIGHT):
        return "same"
    return "gained" if now >= RIGHT else "lost"


def show_table(table: Sequence[dict[str, Any]], console: Console) -> None:
    """The table in a terminal; `*` marks differences below 0.05 after Holm.

    Balanced accuracy and macro-F1 stand in it where the terminal is wide enough.
    """
    wide = _terminal_table(table, with_classes=True)
    room = console.options.update(width=10_000)
    has_classes = any(row["balanced_accuracy"] is not None for row in table)
    if has_classes and console.measure(wide, options=room).maximum <= console.width:
        console.print(wide)
    else:
        console.print(_terminal_table(table, with_classes=False))


def _terminal_table(table: Sequence[dict[str, Any]], *, with_classes: bool) -> Table:
    shown = Table(box=None, header_style="dim")
    columns = ["task", "system", "n", "score", "95 %", "difference"]
    columns += ["balanced", "macro F1"] if with_classes else []
    columns += ["parsed", "stopped", "tokens", "calls", "tokens/s", "shares"]
    for column in columns:
        shown.add_column(column)
    for row in sorted(table, key=lambda row: row["task"]):
        difference = ""
        if row["difference"] is not None:
            mark = "*" if row["p_holm"] < 0.05 else ""
            difference = f"{row['difference']:+.1%}{mark}"
        classes = [
            "" if value is None else f"{value:.1%}"
            for value in (row["balanced_accuracy"], row["macro_f1"])
        ]
        shares = " ".join(
            f"{name} {share:.0%}" for name, share in row["shares"].items()
        )
        rate = row["tokens_per_s"]
        shown.add_row(
            *(row["task"], row["system"], str(row["n"]), f"{row['score']:.1%}"),
            *(f"{row['low']:.0%} to {row['high']:.0%}", difference),
            *(classes if with_classes else ()),
            *(f"{row['parse_rate']:.0%}", f"{row['stop_rate']:.0%}"),
            *(f"{row['mean_tokens']:.0f}", f"{row['calls']:.0f}"),
            *("" if rate is None else f"{rate:.1f}", shares),
        )
    return shown
