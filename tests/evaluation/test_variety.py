"""Neither length, nor gibberish, nor silence is diversity."""

import json

import jax
import numpy as np
import pytest

from jax_switchgen.evaluation.report import write_report
from jax_switchgen.evaluation.run import Cell, Result
from jax_switchgen.evaluation.statistics import Bootstrap, mean_interval
from jax_switchgen.evaluation.variety import likelihood_quality, measure, tables
from tests import tiny

MEASURES = ("vendi", "distance", "distinct_1", "self_bleu", "compression_ratio")
DISTINCT = [f"answer{i} word{i} end{i}" for i in range(40)]


def answered(system, texts, task="open"):
    """Results of texts[seed][prompt]."""
    return [
        Result(
            Cell(system, task, seed),
            [{"prompt": f"prompt {i}", "output": text} for i, text in enumerate(row)],
        )
        for seed, row in enumerate(texts)
    ]


def one_hot(texts):
    """Every text is as far from every other one as can be."""
    assert len(set(texts)) == len(texts) and all(texts)
    return np.eye(len(texts))


def sane(pairs):
    """Gibberish is bad."""
    assert all(answer for _, answer in pairs)
    return np.array([-9.0 if "zx" in answer else -1.0 for _, answer in pairs])


def measured(results, reference="a", **changes):
    options = dict(encode=one_hot, quality=sane, bootstrap=Bootstrap(resamples=300))
    rows = measure(results, reference, **(options | changes))
    return {row["system"]: row for row in rows}


def test_copies_are_one_answer_and_different_ones_as_many_as_there_are():
    copies = answered("a", [["the same thing", "again this one"]] * 4)
    distinct = answered("b", [DISTINCT[2 * k : 2 * k + 2] for k in range(4)])
    rows = measured(copies + distinct)
    a, b = rows["a"], rows["b"]
    assert a["vendi"] == pytest.approx(1) and a["distance"] == pytest.approx(0)
    assert a["self_bleu"] == pytest.approx(1) and a["distinct_1"] == 1 / 4
    assert b["vendi"] == pytest.approx(4) and b["distance"] == pytest.approx(1)
    assert b["distinct_3"] == 1 and b["compression_ratio"] < a["compression_ratio"]
    assert (a["prompts"], a["samples"], a["accepted"]) == (2, 4, 4)
    assert b["passed"] and a["passed"] is None
    assert b["on_front"] and not a["on_front"]


def test_longer_answers_are_cut_to_the_words_that_others_have():
    """What comes after the budget changes no measure of any answer."""
    short = [["one two three", "four  five six"], ["seven eight nine", "ten and one"]]
    long = [[f" {text} and so on and on\n" for text in row] for row in short]
    rows = measured(answered("a", long) + answered("b", short))
    assert rows["a"]["words"] == rows["b"]["words"] == 3
    for name in MEASURES:
        assert rows["a"][name] == rows["b"][name]


def test_silence_shortens_nothing_counts_for_nothing_and_is_as_bad_as_the_worst():
    texts = [DISTINCT[0:3], DISTINCT[3:6], DISTINCT[6:9]]
    silent = [["", " ", DISTINCT[0]], DISTINCT[3:6], DISTINCT[6:9]]
    bad = [["zx zx zx"] * 3, *texts[1:]]
    rows = measured(answered("a", texts) + answered("b", silent) + answered("c", bad))
    assert rows["b"]["words"] == 3
    assert rows["b"]["accepted"] == pytest.approx((2 + 2 + 3) / 3)
    assert rows["b"]["vendi"] == pytest.approx((2 + 2 + 3) / 3)
    assert rows["b"]["quality"] == pytest.approx((-9 * 2 - 1 * 7) / 9)


def test_gibberish_counts_for_nothing_and_fails_the_gate():
    noise = [["zx qq ww", "zx ee rr"], ["zx tt yy", "zx uu ii"]]
    same = [["it will rain", "yes of course"], ["it will snow", "yes of course"]]
    rows = measured(answered("a", same) + answered("noise", noise))
    assert rows["noise"]["accepted"] == 0 == rows["noise"]["vendi"]
    assert not rows["noise"]["passed"] and not rows["noise"]["on_front"]
    assert rows["noise"]["quality_difference"] == -8
    # Nothing is rejected where the reference is as bad.
    rows = measured(answered("a", same) + answered("noise", noise), "noise")
    assert rows["noise"]["accepted"] == 2 and rows["a"]["passed"]


def test_a_gate_is_as_wide_as_its_margin_in_any_unit():
    """The reference's answers vary by 1, and the others are worse by 0.2."""
    good = [["low a", "high b"], ["low c", "high d"]]
    worse = [[f"{text} worse" for text in row] for row in good]
    results = answered("a", good) + answered("b", worse)
    for unit in (1, 100):

        def quality(pairs, unit=unit):
            low = [2 * ("low" in t) + 0.2 * ("worse" in t) for _, t in pairs]
            return -unit * np.array(low)

        assert not measured(results, quality=quality, margin=0.1)["b"]["passed"]
        assert measured(results, quality=quality, margin=0.3)["b"]["passed"]


def test_intervals_resample_prompts():
    """Of 12 prompts, a third has two answers and the others only one."""
    texts = [[f"prompt{i} x" for i in range(12)] for _ in range(2)]
    texts[1] = [f"other{i} y" if i < 4 else text for i, text in enumerate(texts[1])]
    row = measured(answered("a", texts))["a"]
    vendi_P = np.array([2.0] * 4 + [1.0] * 8)
    wanted = mean_interval(vendi_P, bounds=(0, 2), bootstrap=Bootstrap(resamples=300))
    found = (row["vendi"], row["vendi_low"], row["vendi_high"])
    assert found == pytest.approx((wanted.estimate, wanted.low, wanted.high))


def test_tasks_are_apart_and_each_has_a_table_and_a_plot(tmp_path):
    good, task = [DISTINCT[:3], DISTINCT[3:6]], "<b>other</b>"
    results = [
        result
        for name in ("open", task)
        for system in ("a", "b")
        for result in answered(system, good, name)
    ]
    rows = measure(results, "a", encode=one_hot, quality=sane)
    assert [(row["task"], row["system"]) for row in rows] == [
        *(("open", "a"), ("open", "b"), (task, "a"), (task, "b"))
    ]
    found = tables(json.loads(json.dumps(rows)))
    assert [table["title"] for table in found] == [
        f"Diversity: {t}" for t in ("open", task)
    ]
    for table in found:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
        assert [dot["system"] for dot in table["plot"]["dots"]] == ["a", "b"]
        for dot in table["plot"]["dots"]:
            assert dot["left"] <= dot["x"] <= dot["right"]
            assert dot["low"] <= dot["y"] <= dot["high"]
    write_report(tmp_path / "report.html", "A report", [], [], [], found)
    assert task not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    "texts, message",
    [([["one"]], "two seeds or more"), ([[""], [" "]], "'a' has no answer")],
)
def test_what_cannot_be_compared_is_named(texts, message):
    with pytest.raises(ValueError, match=message):
        measured(answered("a", texts))


def test_likelihood_quality_is_per_token_of_the_answer():
    model = tiny.random_model(0)
    speaker = tiny.speaker("judge", model)
    pairs = [("Why?", "Because it is so, I think."), ("Who?", "It's me")]
    found = likelihood_quality(speaker, tiny.generation())(pairs)
    for (prompt, answer), value in zip(pairs, found, strict=True):
        before = speaker.prompt(prompt)
        ids = speaker.vocabulary.encode(answer)
        log_probs = []
        for i, token in enumerate(ids):
            logits_V = tiny.next_logits(model, [*before, *ids[:i]])[: tiny.NUM_TOKENS]
            log_probs.append(float(jax.nn.log_softmax(logits_V)[token]))
        assert value == pytest.approx(np.mean(log_probs), rel=1e-4)
