"""From the rows of all cells to a table: scores with intervals, costs, comparisons."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jax_switchgen.evaluation.run import Result, Row
from jax_switchgen.evaluation.statistics import (
    holm,
    mean_interval,
    paired_bootstrap,
)
from jax_switchgen.generation.trace import CUE

RIGHT = 0.5  # from this score on an answer counts as right in gained and lost


def summarize(results: Sequence[Result], reference: str) -> list[dict[str, Any]]:
    """One row for each system and task, in the order of the results.

    Differences are paired by record, seeds averaged; p-values are corrected by Holm
    over the tasks of each system.
    """
    groups: dict[tuple[str, str], list[Result]] = collections.defaultdict(list)
    for result in results:
        groups[result.cell.system, result.cell.task].append(result)
    table = [
        _summary(group, groups.get((reference, task)))
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


def _summary(group: Sequence[Result], other: Sequence[Result] | None) -> dict[str, Any]:
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
        "parse_rate": _mean(row["parsed"] for row in rows),
        "stop_rate": _mean(row["finish_reason"] == "stop" for row in rows),
        "mean_tokens": tokens / len(rows),
        "calls": _mean(row["calls"] for row in rows),
        "tokens_per_s": tokens / seconds if seconds else None,
        "shares": _shares(rows),
    }
    if other is not None and other[0].cell.system != cell.system:
        compared = paired_bootstrap(_scores(group), _scores(other))
        found |= {
            "difference": compared.difference.estimate,
            "difference_low": compared.difference.low,
            "difference_high": compared.difference.high,
            "p": compared.p_value,
        }
    return found


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

    Args:
      withheld: tasks whose texts are not shown.
    """
    right = {
        (r.cell.task, r.cell.seed, row["id"]): row["value"] >= RIGHT
        for r in results
        if r.cell.system == reference
        for row in r.rows
    }
    found = []
    for result in results:
        if result.cell.task in withheld:
            continue
        for row in result.rows:
            before = right.get((result.cell.task, result.cell.seed, row["id"]))
            found.append({**row, "versus": _versus(before, row["value"] >= RIGHT)})
            if result.cell.system == reference:
                found[-1]["versus"] = None
    return found


def _versus(before: bool | None, now: bool) -> str | None:
    if before is None:
        return None
    return "same" if before == now else ("gained" if now else "lost")


def show_table(table: Sequence[dict[str, Any]], console: Console) -> None:
    """The table in a terminal; `*` marks differences below 0.05 after Holm."""
    shown = Table(box=None, header_style="dim")
    for column in ("task", "system", "n", "score", "95 %", "difference", "parsed"):
        shown.add_column(column)
    for column in ("stopped", "tokens", "calls", "tokens/s", "shares"):
        shown.add_column(column)
    for row in sorted(table, key=lambda row: row["task"]):
        difference = ""
        if row["difference"] is not None:
            mark = "*" if row["p_holm"] < 0.05 else ""
            difference = f"{row['difference']:+.1%}{mark}"
        shares = " ".join(
            f"{name} {share:.0%}" for name, share in row["shares"].items()
        )
        rate = row["tokens_per_s"]
        shown.add_row(
            *(row["task"], row["system"], str(row["n"]), f"{row['score']:.1%}"),
            *(f"{row['low']:.0%} to {row['high']:.0%}", difference),
            *(f"{row['parse_rate']:.0%}", f"{row['stop_rate']:.0%}"),
            *(f"{row['mean_tokens']:.0f}", f"{row['calls']:.0f}"),
            *("" if rate is None else f"{rate:.1f}", shares),
        )
    console.print(shown)
