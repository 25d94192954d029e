"""Scores over classes, and results without a score, in the table and the traces."""

import dataclasses
import io
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score, f1_score

from jax_switchgen.evaluation.run import Cell, Result
from jax_switchgen.evaluation.summary import show_table, summarize, traces
from jax_switchgen.tasks.record import Scorer, Task

CHOICE = Task("t", Scorer.CHOICE, 0, 1, "none")
LABEL = Task("t", Scorer.LABEL, 0, 1, "none", ("yes", "no"))
answers = st.lists(
    st.tuples(st.sampled_from("ABC"), st.sampled_from(["A", "B", "C", "D", None])),
    min_size=1,
)


def result(pairs, system="a", task="t", seed=0):
    """Of (gold, answer)."""
    cell = Cell(system, task, seed)
    rows = [
        {**dataclasses.asdict(cell), "id": str(i), "golds": [gold], "answer": answer}
        | {"value": float(gold == answer), "parsed": answer is not None}
        | {"finish_reason": "stop", "segments": [], "seconds": 0.1}
        | {"tokens": 5, "calls": 1}
        for i, (gold, answer) in enumerate(pairs)
    ]
    return Result(cell, rows)


def unscored(system, task="open", seed=0):
    found = result([("A", "A")] * 3, system, task, seed)
    return Result(found.cell, [row | {"value": None} for row in found.rows])


@settings(max_examples=60)
@given(pairs=answers)
def test_scores_of_classes_are_those_of_scikit_learn(pairs):
    (row,) = summarize([result(pairs)], "a", [CHOICE])
    golds, given = zip(*pairs, strict=True)
    given = [answer or "unread" for answer in given]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of answers that are no gold
        balanced = balanced_accuracy_score(golds, given)
    f1 = f1_score(
        golds, given, labels=sorted(set(golds)), average="macro", zero_division=0
    )
    assert row["balanced_accuracy"] == pytest.approx(balanced)
    assert row["macro_f1"] == pytest.approx(f1)


def test_always_the_same_answer_is_one_of_the_classes():
    """Right on 80 %, and no better than chance once golds weigh the same."""
    pairs = [("yes", "yes")] * 8 + [("no", "yes")] * 2
    (row,) = summarize([result(pairs)], "a", [LABEL])
    assert row["score"] == 0.8 and row["balanced_accuracy"] == 0.5
    assert row["macro_f1"] == pytest.approx((16 / 18) / 2)
    unread = [("yes", None)] * 10
    (row,) = summarize([result(unread)], "a", [LABEL])
    assert row["balanced_accuracy"] == row["macro_f1"] == 0


def test_seeds_are_averaged():
    seeds = [result([("A", "A"), ("B", "B")]), result([("A", "B"), ("B", "A")], seed=1)]
    (row,) = summarize(seeds, "a", [CHOICE])
    assert row["balanced_accuracy"] == row["macro_f1"] == 0.5


@pytest.mark.parametrize(
    "tasks", [(), [Task("t", Scorer.INTEGER, 0, 1, "none")]], ids=["none", "integer"]
)
def test_open_answers_have_no_classes(tasks):
    (row,) = summarize([result([("1", "1")])], "a", tasks)
    assert row["balanced_accuracy"] is None and row["macro_f1"] is None


def test_results_without_scores_are_in_the_traces_and_not_in_the_table():
    results = [result([("A", "A")] * 3), result([("A", "B")] * 3, "b")]
    results += [unscored("a"), unscored("b")]
    table = summarize(results, "a", [CHOICE])
    assert [(row["system"], row["task"]) for row in table] == [("a", "t"), ("b", "t")]
    shown = {
        (t["system"], t["task"]): t["versus"] for t in traces(results, "a", frozenset())
    }
    assert shown == {
        **{("a", "t"): None, ("b", "t"): "lost"},
        **{("a", "open"): None, ("b", "open"): None},
    }
    assert summarize([unscored("a")], "a", [CHOICE]) == []


@pytest.mark.parametrize("width, wide", [(90, False), (200, True)])
def test_the_terminal_shows_them_where_there_is_room(width, wide):
    def shown(tasks):
        console = Console(file=io.StringIO(), width=width)
        table = summarize([result([("A", "A"), ("B", "A")])], "a", tasks)
        show_table(table, console)
        return console.file.getvalue()

    assert "macro F1" not in shown([])
    if wide:
        assert "macro F1" in shown([CHOICE])
    else:
        assert shown([CHOICE]) == shown([]), "no column is squeezed for them"
