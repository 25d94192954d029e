"""The training benchmark runs, and all its contenders do the same work."""

import json

import pytest


@pytest.fixture(scope="module")
def output(start):
    return start("train_vs_torch", "--quick").lines()


def test_prints_a_table_and_one_json_line(output):
    *table, last = output
    assert any(set(line) <= {"-", " "} for line in table), "no table"
    found = json.loads(last)
    assert found["benchmark"] == "train_vs_torch"
    assert found["machine"]["cores"] >= 1 and found["settings"]["shape"] == "tiny"
    results = found["results"]
    assert set(results["tokens_per_s"]) == {"ours", "torch", "torch, last"}
    assert results["compiled_later"] == 0


def test_all_learn_the_same(output):
    """The loss of every step, while it falls."""
    losses = json.loads(output[-1])["results"]["losses"]
    ours = losses.pop("ours")
    assert ours[0] > ours[1] > ours[2]
    for theirs in losses.values():
        assert theirs == pytest.approx(ours, rel=1e-4)
