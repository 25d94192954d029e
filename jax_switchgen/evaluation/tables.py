"""Numbers with intervals, as fields of plain rows and as cells of the report's tables.

A table of `report.write_report` is a dict of title, note, columns, and rows of cells.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jax_switchgen.evaluation.statistics import Interval

Row = dict[str, Any]
Table = dict[str, Any]

MISSING = "–"


def fields(name: str, interval: Interval | None) -> Row:
    """An estimate and its ends as `name`, `name_low` and `name_high`."""
    if interval is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {
        name: interval.estimate,
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
    }


def percent(row: Mapping[str, Any], name: str) -> str:
    """A field in %. In: 0.452 with its interval. Out: "45.2 (43.0 to 47.1)"."""
    return _cell(row, name, lambda value: f"{100 * value:.1f}")


def plain(row: Mapping[str, Any], name: str, digits: int) -> str:
    """A field as it is, with so many digits after the point."""
    return _cell(row, name, lambda value: f"{value:.{digits}f}")


def _cell(row: Mapping[str, Any], name: str, write: Callable[[float], str]) -> str:
    value, low, high = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return MISSING
    text = write(value)
    if low is not None and high is not None:
        text += f" ({write(low)} to {write(high)})"
    return text.replace("-", "−")
