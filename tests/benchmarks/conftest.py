"""Runs benchmarks as a user does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
ENVIRONMENT.pop("XLA_FLAGS", None)  # one device, as a user has


class Benchmark:
    """benchmarks/NAME.py, started at once."""

    def __init__(self, name, *flags):
        self.process = subprocess.Popen(
            [sys.executable, f"benchmarks/{name}.py", *flags],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.printed = None

    def finish(self):
        if self.printed is None:
            self.printed = self.process.communicate(timeout=600)

    def lines(self):
        """What it prints; the last line is the record."""
        self.finish()
        out, err = self.printed
        assert self.process.returncode == 0, err
        return out.splitlines()


@pytest.fixture(scope="session")
def start():
    return Benchmark


@pytest.fixture
def benchmark_modules(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
