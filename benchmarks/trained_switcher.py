"""Is a trained switcher better than an untuned one, on questions it has not seen?

Two evaluations, equal but for the switcher, then this comparison of their answers:

    python launch/evaluate.py --config=POOL --output=untuned
    python launch/evaluate.py --config=POOL --output=trained \\
        --config.evaluation.systems="('switcher',)" --config.switcher.adapter=FOLDER
    python benchmarks/trained_switcher.py --untuned=untuned --trained=trained

Differences are paired by record, with 95 % bootstrap intervals. `best in hindsight`
takes for each record the single candidate that scored higher: what a choice for each
query could reach at most.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from harness import as_list, percent, print_json, print_table

from jax_switchgen.evaluation.statistics import mean_interval, paired_bootstrap

SWITCHER = "switcher"  # as both evaluations call it
TRAINED, HINDSIGHT = "trained switcher", "best in hindsight"

Scores = dict[tuple[str, str], np.ndarray]  # by task and record: score_S of its seeds


def read_scores(folder: Path) -> dict[str, Scores]:
    """What each answer scored, by system, in the folder of an evaluation."""
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    for path in sorted((folder / "cells").glob("*/*/*.jsonl")):
        _, *lines = path.read_text().splitlines()
        for row in map(json.loads, lines):
            if row["value"] is not None:  # tasks that compare answers give none
                scores = found.setdefault(row["system"], {})
                scores.setdefault((row["task"], row["id"]), []).append(row["value"])
    if SWITCHER not in found:
        raise SystemExit(f"error: {folder} has no finished answers of {SWITCHER!r}")
    return {
        system: {key: np.array(values) for key, values in scores.items()}
        for system, scores in found.items()
    }


def compare(scores: Mapping[str, Scores], task: str) -> dict[str, Any]:
    """Each system's mean on a task ("": on all), and what the trained one is ahead."""
    keys = [key for key in scores[TRAINED] if task in ("", key[0])]
    missing = [name for name, found in scores.items() if not set(keys) <= set(found)]
    if missing:
        raise SystemExit(f"error: {', '.join(missing)}: other records were answered")
    tables = {name: np.stack([s[k] for k in keys], -1) for name, s in scores.items()}
    return {
        name: {
            "score": as_list(mean_interval(values_SI)),
            "trained_ahead": as_list(
                paired_bootstrap(tables[TRAINED], values_SI).difference
            ),
        }
        for name, values_SI in tables.items()
    } | {"records": len(keys)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--untuned", type=Path, required=True)
    parser.add_argument("--trained", type=Path, required=True)
    args = parser.parse_args()
    scores = read_scores(args.untuned)
    scores["untuned switcher"] = scores.pop(SWITCHER)
    singles = [
        found
        for name, found in scores.items()
        if name.startswith("single:") and "@" not in name
    ]
    scores[HINDSIGHT] = {
        key: np.max([found[key] for found in singles], 0) for key in singles[0]
    }
    scores = {TRAINED: read_scores(args.trained)[SWITCHER], **scores}
    tasks = sorted({task for task, _ in scores[TRAINED]})
    results = {task or "all": compare(scores, task) for task in (*tasks, "")}
    for task, found in results.items():
        rows = [
            (
                name,
                percent(found[name]["score"]),
                percent(found[name]["trained_ahead"]) if name != TRAINED else "",
            )
            for name in scores
        ]
        header = (
            f"{task}, {found['records']} records",
            "score, %",
            "trained is ahead by",
        )
        print_table(header, rows)
        print()
    print_json("trained_switcher", {}, results)


if __name__ == "__main__":
    main()
