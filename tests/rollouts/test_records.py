"""Rollouts come back from disk as they were, or not at all."""

import json

import pytest

from jax_switchgen.generation.trace import CUE, Segment
from jax_switchgen.rollouts.pool import Pool
from jax_switchgen.rollouts.records import (
    Rollout,
    parse_rollout,
    read_rollouts,
    rollout_line,
)
from tests.hf_models import one_line_error

POOL = Pool("0123456789abcdef", ("p", "f", "a"))


def rollout(**changes) -> Rollout:
    fields = dict(
        id="q1",
        task="gsm8k",
        query="How many?\u2028One ✓",
        trace=(
            Segment("a", [1, 2], "He has", {"p": 0.2, "f": 0.3, "a": 0.5}),
            Segment(CUE, [9], " Wait,"),
            Segment("p", [3], " two"),
        ),
        utilities=(0.25, 1 / 3, 0.75),
        counts=(4, 4, 4),
        label=2,
        mark="clear",
        seed=5,
        config={"completions": 4},
        pool=POOL,
    )
    return Rollout(**(fields | changes))


def changed(**changes) -> str:
    """A line with other values of some fields; None takes the field away."""
    found = json.loads(rollout_line(rollout())) | changes
    return json.dumps({k: v for k, v in found.items() if v is not None})


def test_a_file_gives_back_what_was_written(tmp_path):
    """Floats to the last bit, and texts with every kind of line break."""
    path = tmp_path / "rollouts.jsonl"
    written = [rollout(id=f"q{i}", seed=i, query=f"a\n{i}\u2028b") for i in range(3)]
    lines = [rollout_line(one) for one in written]
    path.write_text("".join(lines), encoding="utf-8")
    assert read_rollouts(path, POOL) == written
    # Two shards put together with a blank line between them.
    path.write_text(lines[0] + "\n" + lines[1].rstrip("\n"), encoding="utf-8")
    assert read_rollouts(path, POOL) == written[:2]


def test_a_line_has_the_documented_fields():
    """Other programs read them too."""
    found = json.loads(rollout_line(rollout()))
    assert found["trace"][0] == {
        "speaker": "a",
        "token_ids": [1, 2],
        "text": "He has",
        "probs": {"p": 0.2, "f": 0.3, "a": 0.5},
    }
    assert found["pool"] == {"fingerprint": POOL.fingerprint, "candidates": [*"pfa"]}
    assert found["utilities"] == [0.25, 1 / 3, 0.75] and found["label"] == 2
    assert (found["id"], found["task"], found["mark"]) == ("q1", "gsm8k", "clear")


def test_unknown_fields_are_passed_over():
    assert parse_rollout(changed(cut=128)) == rollout()
    assert parse_rollout(changed(utilities=[0, 1, 2])).utilities == (0.0, 1.0, 2.0)


def test_the_history_leaves_cues_out():
    assert rollout().history() == [(2, "He has"), (0, " two")]


def test_only_a_clear_label_is_more_than_chance():
    clear = [mark for mark in ("tie", "noise", "clear") if rollout(mark=mark).is_clear]
    assert clear == ["clear"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ("not JSON",)),
        ("[]", ("type list", "object")),
        (changed(query=None), ("field 'query' is missing",)),
        (changed(trace=[{"speaker": "a"}]), ("trace[0].text", "missing")),
        (changed(pool={"candidates": []}), ("pool.fingerprint", "missing")),
        (changed(id=7), ("id", "int", "must be str")),
        (changed(label=True), ("label", "bool", "must be int")),
        (changed(label=3), ("label 3", "0 … 2")),
        (changed(label=-1), ("label -1",)),
        (changed(utilities=[1.0, 2.0]), ("utilities", "2 entries", "3 candidates")),
        (changed(utilities=[1.0, "x", 2.0]), ("utilities[1]", "must be float")),
        (changed(utilities=[1.0, float("nan"), 2.0]), ("nan", "finite")),
        (changed(counts=[4, 4]), ("counts", "2 entries")),
        (changed(mark="sure"), ("mark 'sure'", "tie, noise, clear")),
        (
            changed(trace=[{"speaker": "x", "text": "", "token_ids": []}]),
            ("'x'", "p, f, a"),
        ),
    ],
)
def test_what_is_no_rollout_is_one_line(tmp_path, line, words):
    """With the file and the line's number; blank lines count."""
    path = tmp_path / "rollouts.jsonl"
    path.write_text(rollout_line(rollout()) + "\n" + line + "\n", encoding="utf-8")
    with one_line_error(f"{path}, line 3", *words):
        read_rollouts(path, POOL)


def test_rollouts_of_another_pool_are_refused(tmp_path):
    """By its candidates' names, by their order, and by what is behind the names."""
    path = tmp_path / "rollouts.jsonl"
    path.write_text(rollout_line(rollout()), encoding="utf-8")
    for names in (("p", "a", "f"), ("p", "f"), ("p", "f", "b")):
        with one_line_error(f"{path}, line 1", "p, f, a", ", ".join(names), "collect"):
            read_rollouts(path, Pool(POOL.fingerprint, names))
    with one_line_error(f"{path}, line 1", "another pool", POOL.fingerprint, "fff"):
        read_rollouts(path, Pool("fff", POOL.candidates))


def test_no_file_and_an_empty_one_are_one_line(tmp_path):
    with one_line_error("nowhere.jsonl", "no such file", "collect_rollouts"):
        read_rollouts(tmp_path / "nowhere.jsonl", POOL)
    (tmp_path / "empty.jsonl").write_text("\n")
    with one_line_error("empty.jsonl", "is empty"):
        read_rollouts(tmp_path / "empty.jsonl", POOL)
