"""Refusing all or nothing is one half, and who wrote an answer is counted by tokens."""

import numpy as np
import pytest

from jax_switchgen.evaluation.run import Cell, Result
from jax_switchgen.evaluation.safety import balance, refusals_by_share, tables
from jax_switchgen.evaluation.statistics import Bootstrap

FEW = Bootstrap(resamples=500)
HARMFUL, UNCLEAR = "Requests with safety concerns", "Incomplete requests"


def answer(number, value, category="", **tokens):
    segments = [{"speaker": s, "tokens": n, "text": "x"} for s, n in tokens.items()]
    row = {"id": str(number), "value": float(value), "category": category}
    return row | {"segments": segments}


def result(task, values, category="", system="s", seed=0):
    rows = [answer(i, value, category) for i, value in enumerate(values)]
    return Result(Cell(system, task, seed), rows)


def test_rates_counted_by_hand():
    asked = [answer(0, 1, HARMFUL), answer(1, 0, HARMFUL), answer(2, 0, UNCLEAR)]
    asked += [answer(3, 0, UNCLEAR), answer(4, 1, UNCLEAR)]
    results = [Result(Cell("s", "coconot", 0), asked)]
    results += [result("benign", [1, 1, 1, 0]), result("gsm8k", [1])]
    (row,) = balance(results, bootstrap=FEW)
    assert row["system"] == "s" and row["noncompliance"] == 2 / 5
    assert row["refusal"] == 1 / 2 and row["compliance"] == 3 / 4
    assert row["categories"] == pytest.approx({HARMFUL: 1 / 2, UNCLEAR: 1 / 3})
    assert row["balanced"] == pytest.approx((2 / 5 + 3 / 4) / 2)
    assert row["balanced_low"] < row["balanced"] < row["balanced_high"]


@pytest.mark.parametrize("refuses", [True, False])
def test_refusing_everything_or_nothing_is_one_half(refuses):
    """And no sure one half: all resamples are equal, and the interval is not 0 wide."""
    results = [
        result("coconot", [refuses] * 60, HARMFUL),
        result("benign", [not refuses] * 60),
    ]
    (row,) = balance(results, bootstrap=FEW)
    assert row["balanced"] == 0.5 and row["refusal"] == refuses
    assert row["balanced_low"] < 0.48 and 0.52 < row["balanced_high"]


def test_the_interval_of_the_balanced_score_covers_the_truth():
    """95 % of 300 intervals, give or take three standard errors (3.8 %)."""
    covered, widths = 0, []
    for trial in range(300):
        rng = np.random.default_rng(trial)
        asked, benign = rng.random(120) < 0.7, rng.random(200) < 0.9
        results = [result("coconot", asked), result("benign", benign)]
        (row,) = balance(results, bootstrap=Bootstrap(resamples=500, seed=trial))
        covered += row["balanced_low"] <= 0.8 <= row["balanced_high"]
        widths.append(row["balanced_high"] - row["balanced_low"])
    assert 0.91 <= covered / 300 <= 0.985
    # 1.96 standard errors of the mean of two means, on both sides.
    error = np.sqrt(0.7 * 0.3 / 120 + 0.9 * 0.1 / 200) / 2
    assert np.mean(widths) == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_seeds_of_a_record_are_one_item():
    values = np.random.default_rng(0).random(100) < 0.6
    one = [result("coconot", values), result("benign", values)]
    copies = [
        result(task, values, seed=seed)
        for task in ("coconot", "benign")
        for seed in range(6)
    ]
    (single,), (several,) = balance(one), balance(copies)
    assert several["balanced_low"] == pytest.approx(single["balanced_low"], abs=0.01)
    assert several["balanced_high"] == pytest.approx(single["balanced_high"], abs=0.01)


def test_refusals_are_grouped_by_share_of_tokens():
    """Cues are nobody's, an empty answer has none of the speaker, and a record counts
    once in a group, however many of its seeds are there."""
    first = [
        answer(0, 1, HARMFUL, aligned=10),
        answer(1, 1, HARMFUL, aligned=6, pretrained=4, cue=50),
        answer(2, 0, HARMFUL, aligned=5, pretrained=5),
        answer(3, 0, UNCLEAR, pretrained=9),
        answer(4, 0, HARMFUL),
    ]
    second = [
        answer(0, 0, HARMFUL, aligned=10),
        answer(1, 0, HARMFUL, aligned=9, pretrained=1),
        answer(2, 1, HARMFUL, pretrained=7),
        answer(3, 1, UNCLEAR, pretrained=9),
        answer(4, 0, HARMFUL, aligned=3),
    ]
    results = [
        Result(Cell("random", "coconot", seed), rows)
        for seed, rows in enumerate((first, second))
    ]
    results += [Result(Cell("alone", "coconot", 0), first[:1]), result("benign", [1])]
    rows = refusals_by_share(results, "aligned", bootstrap=FEW)
    assert {(row["system"], row["speaker"]) for row in rows} == {
        ("random", "pretrained")
    }
    found = {r["share"]: (r["answers"], r["records"], r["refusal"]) for r in rows}
    assert found == {
        "none": (4, 2, 0.25),
        "below half": (2, 1, 0.5),
        "half or more": (2, 1, 0.5),
    }
    assert all(
        row["refusal_low"] <= row["refusal"] <= row["refusal_high"] for row in rows
    )
    # Without a reference every speaker has rows.
    everyone = refusals_by_share(results, "", bootstrap=FEW)
    assert {row["speaker"] for row in everyone} == {"pretrained", "aligned"}


def test_a_missing_side_has_no_balance_and_other_tasks_no_table():
    assert tables([result("gsm8k", [1, 0])], "single:aligned") == []
    (row,) = balance([result("benign", [1, 0])])
    assert row["balanced"] is None and row["noncompliance"] is None
    assert row["compliance"] == 0.5 and row["categories"] == {}
    asked = [answer(0, 1, HARMFUL), answer(1, 0, HARMFUL), answer(2, 1, UNCLEAR)]
    (table,) = tables([Result(Cell("s", "coconot", 0), asked)], "single:aligned")
    assert table["columns"] == [
        *("System", "Balanced", "Declined", "Answered", "Harmful", UNCLEAR)
    ]
    ((system, balanced, declined, answered, harmful, unclear),) = table["rows"]
    assert (system, balanced, answered, unclear) == ("s", "–", "–", "100.0")
    assert declined.startswith("66.7 (") and harmful.startswith("50.0 (")


def test_the_reference_speaker_has_no_rows_in_the_tables():
    rows = [answer(0, 1, HARMFUL, aligned=3, pretrained=3)]
    results = [Result(Cell("random", "coconot", 0), rows)]
    _, shares = tables(results, "single:aligned")
    assert [row[:4] for row in shares["rows"]] == [
        ["random", "pretrained", "half or more", 1]
    ]
