"""What all benchmarks share: interleaved timing, tables, the JSON line, the machine.

Contenders take turns, repetition by repetition, in one process: a machine that grows
slower in the course of a run slows them all down, and the ratio stays.
"""

import dataclasses
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # not to be in the memory of benchmarks that do without
    from jax_switchgen.evaluation.statistics import Interval


def progress(line: str) -> None:
    """Prints to stderr, which leaves stdout to the table and the JSON line."""
    print(line, file=sys.stderr, flush=True)


def interleave(
    contenders: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Seconds of each contender in each repetition; the order alternates."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats):
        names = list(contenders)
        for name in names if repeat % 2 == 0 else reversed(names):
            start = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - start)
            progress(f"  {repeat + 1}/{repeats} {name}: {seconds[name][-1]:.2f} s")
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Spread of the quotients, repetition by repetition."""
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])


def show_spread(s: Mapping[str, float]) -> str:
    return f"{s['median']:.2f} ({s['min']:.2f}-{s['max']:.2f})"


def as_list(interval: "Interval") -> list[float]:
    """Estimate, low and high."""
    return [round(x, 4) for x in dataclasses.astuple(interval)]


def percent(interval: Sequence[float]) -> str:
    """[0.957, 0.933, 0.977] -> 95.7 (93.3 to 97.7)"""
    value, low, high = (100 * x for x in interval)
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table with aligned columns; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for n, row in enumerate(cells):
        first, *rest = (c.rjust(w) for c, w in zip(row, widths, strict=True))
        print("  ".join([first.strip().ljust(widths[0]), *rest]))
        if n == 0:
            print("  ".join("-" * w for w in widths))
    sys.stdout.flush()


def print_json(benchmark: str, settings: Mapping[str, Any], results: Any) -> None:
    """The last line of a benchmark: everything in the table, and where it was run."""
    record = {
        "benchmark": benchmark,
        "machine": machine(),
        "settings": dict(settings),
        "results": results,
    }
    print(json.dumps(record), flush=True)


def machine() -> dict[str, Any]:
    """Processor, cores, accelerator, and the versions that matter."""
    import jax

    names = ("jax", "jaxlib", "flax", "transformers", "torch")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        **{name: _version(name) for name in names},
    }


def peak_resident_bytes() -> int:
    """The most memory that this process has held so far (Linux)."""
    return _status_bytes("VmHWM")


def resident_bytes() -> int:
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int:
    with open("/proc/self/status") as lines:
        line = next(line for line in lines if line.startswith(field))
    return int(line.split()[1]) * 1024


def _cpu_model() -> str:
    with open("/proc/cpuinfo") as lines:
        found = [line.split(":")[1].strip() for line in lines if "model name" in line]
    return found[0] if found else platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
