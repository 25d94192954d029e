"""Who gets completions, and what their scores say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_switchgen.rollouts.allocation import ALLOCATIONS, next_counts, verdict


def followed(scores: np.ndarray, allocation: str) -> list[list[float]]:
    """The scores that an allocation gets to see of scores."""
    seen: list[list[float]] = [[] for _ in scores]
    while True:
        counts = next_counts(seen, allocation, scores.shape[1])
        if counts == [len(s) for s in seen]:
            return seen
        seen = [list(s[:n]) for s, n in zip(scores.tolist(), counts, strict=True)]


tables = st.integers(1, 5).flatmap(
    lambda n: st.integers(1, 16).flatmap(
        lambda k: st.lists(
            st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0]), min_size=k, max_size=k),
            min_size=n,
            max_size=n,
        )
    )
)


@given(tables)
def test_fixed_gives_every_branch_all(scores):
    assert followed(np.array(scores), "fixed") == scores


@settings(max_examples=300)
@given(tables)
def test_curtailed_labels_are_those_of_fixed(scores):
    seen = followed(np.array(scores), "curtailed")
    assert verdict(seen).label == verdict(scores).label
    for some, every in zip(seen, scores, strict=True):
        assert some == every[: len(some)] and some


@given(tables, st.sampled_from(ALLOCATIONS))
def test_the_winner_has_most_completions_and_the_highest_of_these_means(
    scores, allocation
):
    seen = followed(np.array(scores), allocation)
    found = verdict(seen)
    assert found.counts == tuple(map(len, seen))
    assert found.counts[found.label] == max(found.counts) <= len(scores[0])
    rivals = [u for u, n in zip(*found[:2], strict=True) if n == max(found.counts)]
    assert found.utilities[found.label] == max(rivals)


def test_a_branch_that_cannot_win_any_more_ends():
    scores = np.array([[1.0] * 8, [0.0] * 8])
    seen = followed(scores, "curtailed")
    # After 4 of 8 the second could still draw level; after 6 it cannot.
    assert [len(s) for s in seen] == [6, 6]
    assert [len(s) for s in followed(scores, "fixed")] == [8, 8]


@pytest.mark.parametrize(
    "branches, counts", [(2, [4, 4]), (3, [2, 4, 4]), (4, [2, 2, 4, 4])]
)
def test_halving_halves(branches, counts):
    """With 8 completions: two branches are compared after 4, four after 2 and 4."""
    scores = np.repeat(np.arange(branches)[:, None] / 10.0, 8, axis=1)
    assert [len(s) for s in followed(scores, "halving")] == counts


def test_equals_are_not_halved():
    scores = np.ones((3, 8))
    assert [len(s) for s in followed(scores, "halving")] == [8, 8, 8]


@pytest.mark.parametrize(
    "scores, mark",
    [
        ([[1, 1, 1, 1], [0, 0, 0, 0]], "clear"),
        ([[1, 1, 1, 1], [0, 0, 0, 1]], "clear"),
        ([[1, 1, 1, 0], [0, 1, 1, 0]], "noise"),
        ([[1, 0, 1, 0], [0, 1, 0, 1]], "tie"),
        ([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], "tie"),
        ([[1], [0]], "noise"),
        ([[1], [1]], "tie"),
        ([[0.5]], "clear"),
    ],
)
def test_marks(scores, mark):
    assert verdict(scores).mark == mark
