"""Real records, from the public data, wherever it lies here or can be downloaded."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from jax_switchgen.tasks.catalogue import TASKS, find_task
from jax_switchgen.tasks.datasets import clean, fetch_archive, read_archive
from jax_switchgen.tasks.record import Record


@functools.cache
def _archive() -> Path | None:
    try:
        return fetch_archive()
    except ValueError:
        return None


@functools.cache
def _all() -> dict[str, dict[str, list[Record]]]:
    path = _archive()
    assert path is not None
    raw = read_archive(path, list(TASKS))
    return {name: clean(find_task(name), items)[0] for name, items in raw.items()}


@pytest.fixture
def archive() -> Path:
    """The archive of public data; skips where there is none."""
    path = _archive()
    if path is None:
        pytest.skip("the public data is neither in the cache nor to be downloaded")
    return path


@pytest.fixture
def splits(archive: Path) -> Callable[[str], dict[str, list[Record]]]:
    """The cleaned records of a task by split."""
    return lambda name: _all()[name]


@pytest.fixture
def records(archive: Path) -> Callable[[str], tuple[Record, ...]]:
    """The test records of a task."""
    return lambda name: tuple(_all()[name]["test"])
