"""Does a switcher learn who should speak, where that is known?

    python benchmarks/known_truth.py --folder=outputs/known_truth

Small candidates are trained to answer words with digits, each in its own way; the type
of a word says whose way is right (`truth_world.py`). launch/collect_rollouts.py labels
rollouts of them by nothing but exact match of whole responses, and
launch/train_switcher.py trains a switcher on those labels; it begins as a candidate. On
words and on sequences of types that nothing was trained on it is compared with an
oracle that reads the types, with itself before training, with chance, and with each
candidate alone. The labels are compared with the truth, too.

All that is made stays in the folder; the same command goes on where a run stopped.
"""

import argparse
import dataclasses
import os
import string
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
import numpy as np
from harness import as_list, percent, progress
from truth_experiment import (
    ORACLE,
    RANDOM,
    TRAINED,
    UNTRAINED,
    Experiment,
    Settings,
)
from truth_models import Course, Size
from truth_world import CANDIDATES, TASK, Query, World, answer

from jax_switchgen.evaluation.statistics import mean_interval, paired_bootstrap
from jax_switchgen.generation.trace import Response
from jax_switchgen.tasks.scoring import score

GOAL = 0.9  # of the oracle's score

FULL = Settings(
    world=World(string.ascii_lowercase, length=4, words=3),
    candidate=Size(layers=2, width=64),
    course=Course(first_steps=400, further_steps=150),
    lessons=8192,
    as_taught=0.99,
    labelled=3000,
    completions=16,
    learning_rate=1e-3,
    batch_size=32,
    epochs=30,
    tests=300,
    rows=64,
)
QUICK = dataclasses.replace(
    FULL,
    world=World(string.ascii_lowercase, length=2, words=2),
    course=Course(first_steps=300, further_steps=100),
    lessons=2048,
    as_taught=0.8,
    labelled=48,
    completions=8,
    batch_size=8,
    epochs=2,
    tests=16,
    rows=8,
)


def exact(queries: Sequence[Query], responses: Sequence[Response]) -> np.ndarray:
    """score_I by the scorer that labels rollouts: 1 if all segments are right."""
    pairs = enumerate(zip(queries, responses, strict=True))
    return np.array([score(TASK, q.record(i), r.output).value for i, (q, r) in pairs])


def share_written(
    queries: Sequence[Query],
    responses: Sequence[Response],
    speakers: Callable[[Query], Sequence[int]],
) -> np.ndarray:
    """share_I of the segments that are what the given speakers should write."""
    shares = []
    for query, response in zip(queries, responses, strict=True):
        wanted = list(map(answer, query.words, speakers(query)))
        written = [segment.text for segment in response.segments]
        shares.append(np.mean([w == t for w, t in zip(wanted, written, strict=True)]))
    return np.array(shares)


def own_share(
    queries: Sequence[Query], responses: Sequence[Response], candidate: int
) -> float:
    """Of a candidate that speaks alone: the share of segments that are as taught."""
    everywhere = share_written(queries, responses, lambda q: [candidate] * len(q.words))
    return float(everywhere.mean())


def compare(
    queries: Sequence[Query], responses: Mapping[str, Sequence[Response]]
) -> dict[str, Any]:
    """Scores of each system, and what the trained switcher is ahead of the others by;
    estimates with their 95 % intervals."""
    exact_I = {name: exact(queries, found) for name, found in responses.items()}
    right_I = {
        name: share_written(queries, found, lambda query: query.types)
        for name, found in responses.items()
    }
    trained_I, oracle_I = exact_I[TRAINED], exact_I[ORACLE]
    ahead = {
        name: paired_bootstrap(trained_I, other_I).difference
        for name, other_I in exact_I.items()
        if name != TRAINED
    }
    ahead[f"{GOAL} x {ORACLE}"] = paired_bootstrap(
        trained_I, GOAL * oracle_I
    ).difference
    return {
        "exact": {name: as_list(mean_interval(x_I)) for name, x_I in exact_I.items()},
        "segments": {name: as_list(mean_interval(x)) for name, x in right_I.items()},
        "trained_ahead_of": {name: as_list(found) for name, found in ahead.items()},
        "share_of_oracle": round(float(trained_I.mean() / oracle_I.mean()), 4),
    }


def show(results: Mapping[str, Any]) -> None:
    for kind, found in results["tests"].items():
        ahead = found["trained_ahead_of"] | {TRAINED: None}
        rows = [
            (
                name,
                percent(found["exact"][name]),
                percent(found["segments"][name]),
                percent(ahead[name]) if ahead[name] else "",
            )
            for name in found["exact"]
        ]
        header = (kind, "exact match, %", "right segments, %", "trained is ahead by")
        harness.print_table(header, rows)
        print(f"trained: {found['share_of_oracle']:.1%} of the oracle's exact match\n")
    rows = [
        (f"{x['before']}, {x['mark']}", x["places"], f"{x['right'] / x['places']:.1%}")
        for x in results["labels"]
        if x["places"]
    ]
    harness.print_table(("label after segments, mark", "places", "right"), rows)


def run(experiment: Experiment) -> dict[str, Any]:
    spent: dict[str, dict[str, float]] = {}

    @contextmanager
    def part(name: str) -> Iterator[None]:
        progress(name)
        wall, processor = time.perf_counter(), sum(os.times()[:4])
        yield
        spent[name] = {
            "wall": round(time.perf_counter() - wall, 1),
            "processor": round(sum(os.times()[:4]) - processor, 1),
        }

    tests, responses = experiment.tests, {}
    with part("candidates"):
        experiment.make_models()
    with part("candidates alone"):
        responses = {name: experiment.responses(name) for name in CANDIDATES}
    own = {
        name: min(own_share(tests[kind], responses[name][kind], i) for kind in tests)
        for i, name in enumerate(CANDIDATES)
    }
    if min(own.values()) < experiment.settings.as_taught:
        raise SystemExit(f"error: candidates have learned too little: {own}")
    experiment.write_config()
    with part("rollouts"):
        experiment.launch("collect_rollouts.py")
    with part("training"):
        experiment.launch("train_switcher.py")
    with part("other systems"):
        others = (ORACLE, TRAINED, UNTRAINED, RANDOM)
        responses = {name: experiment.responses(name) for name in others} | responses
    return {
        "seconds": spent,
        "candidates_as_taught": own,
        "labels": experiment.labels(),
        "tests": {
            kind: compare(tests[kind], {s: r[kind] for s, r in responses.items()})
            for kind in tests
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a tiny world, seconds")
    args = parser.parse_args()
    settings = QUICK if args.quick else FULL
    results = run(Experiment(settings, args.folder))
    show(results)
    harness.print_json("known_truth", dataclasses.asdict(settings), results)


if __name__ == "__main__":
    main()
