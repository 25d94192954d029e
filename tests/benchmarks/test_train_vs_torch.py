"""The training benchmark runs, and all its contenders do the same work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def output():
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)  # one device, as a user has
    found = subprocess.run(
        [sys.executable, "benchmarks/train_vs_torch.py", "--quick"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


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
