"""What labels cost: allocations of completions, replayed on rollouts of `fixed`.

    python benchmarks/allocations.py outputs/demo/rollouts.jsonl

The file holds the score of every completion, so that each allocation can be followed
as if it had been collected. Shown are the completions that it spends, how often its
label is that of `fixed` (ties count as the same), and the utility that its labels lose:
that of the best branch minus that of the label, both by all completions.
"""

import argparse
import json
from pathlib import Path

import harness
import numpy as np

from jax_switchgen.rollouts.allocation import ALLOCATIONS, next_counts, verdict


def replay(scores: list[list[float]], allocation: str) -> list[list[float]]:
    """What an allocation gets to see of all scores."""
    completions = len(scores[0])
    seen: list[list[float]] = [[] for _ in scores]
    while True:
        counts = next_counts(seen, allocation, completions)
        if counts == [len(branch) for branch in seen]:
            return seen
        seen = [branch[:n] for branch, n in zip(scores, counts, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="rollouts, allocation fixed")
    args = parser.parse_args()
    lines = [line for line in args.file.read_bytes().split(b"\n") if line.strip()]
    places = [json.loads(line)["scores"] for line in lines]
    if any(len({len(branch) for branch in scores}) != 1 for scores in places):
        raise SystemExit(f"error: {args.file}: was not collected with 'fixed'")
    results = {}
    for allocation in ALLOCATIONS:
        spent = same = 0
        lost = []
        for scores in places:
            seen = replay(scores, allocation)
            utilities = [float(np.mean(branch)) for branch in scores]
            loss = max(utilities) - utilities[verdict(seen).label]
            spent += sum(map(len, seen))
            same += loss < 1e-9
            lost.append(loss)
        results[allocation] = {
            "spent": spent / sum(len(s) * len(s[0]) for s in places),
            "same": same / len(places),
            "lost": float(np.mean(lost)),
        }
    harness.print_table(
        ("", "completions", "same label", "utility lost"),
        [
            (name, f"{r['spent']:.1%}", f"{r['same']:.1%}", f"{r['lost']:.4f}")
            for name, r in results.items()
        ],
    )
    settings = {"file": args.file.name, "places": len(places)}
    harness.print_json("allocations", settings, results)


if __name__ == "__main__":
    main()
