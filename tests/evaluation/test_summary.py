"""The table and the traces, from rows that are known."""

import dataclasses

import pytest

from jax_switchgen.evaluation.run import Cell, Result
from jax_switchgen.evaluation.summary import summarize, traces


def row(cell, number, value, speaker="p"):
    return {
        **dataclasses.asdict(cell),
        **{"id": str(number), "value": value, "parsed": value > 0, "tokens": 10},
        **{"finish_reason": "stop" if number % 2 else "length", "calls": 2},
        "seconds": 0.1,
        "segments": [
            {"speaker": speaker, "tokens": 6, "text": "x", "probs": None},
            {"speaker": "cue", "tokens": 9, "text": "y", "probs": None},
            {"speaker": "a", "tokens": 2, "text": "z", "probs": None},
        ],
    }


def result(system, task, values, seed=0):
    cell = Cell(system, task, seed)
    rows = [row(cell, i, float(value)) for i, value in enumerate(values)]
    return Result(cell, rows)


def test_scores_costs_and_shares():
    values = [1, 0, 1, 1] * 10
    results = [result("a", "t", values, seed) for seed in (0, 1)]
    (found,) = summarize(results, "a")
    assert found["score"] == 0.75 and found["n"] == 40 and found["seeds"] == 2
    assert found["low"] < 0.75 < found["high"]
    assert found["parse_rate"] == 0.75 and found["stop_rate"] == 0.5
    assert found["mean_tokens"] == 10 and found["calls"] == 2
    assert found["tokens_per_s"] == pytest.approx(100)
    assert found["shares"] == {"p": 0.75, "a": 0.25}
    assert found["difference"] is None and found["p_holm"] is None


def test_differences_are_paired_and_corrected_over_tasks():
    wrong, right = [0, 1] * 20, [1, 1] * 20
    results = [
        *(result("a", task, wrong) for task in ("t", "u", "v")),
        *(result("b", task, right) for task in ("t", "u")),
        result("b", "v", wrong),
    ]
    table = {(r["system"], r["task"]): r for r in summarize(results, "a")}
    better, same = table["b", "t"], table["b", "v"]
    assert better["difference"] == 0.5 and better["difference_low"] > 0.3
    assert better["p_holm"] == pytest.approx(min(1, 3 * better["p"]))
    assert same["difference"] == 0 and same["p_holm"] == 1


def test_gained_and_lost_against_the_reference():
    results = [result("a", "t", [0, 1, 1]), result("b", "t", [1, 0, 1])]
    shown = {
        (t["system"], t["id"]): t["versus"] for t in traces(results, "a", frozenset())
    }
    assert [shown["b", str(i)] for i in range(3)] == ["gained", "lost", "same"]
    assert all(shown["a", str(i)] is None for i in range(3))
    assert traces(results, "a", frozenset({"t"})) == []
