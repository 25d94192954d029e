"""Two systems share one win, and a system that is only longer wins nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_switchgen.evaluation.preference import win_rate
from jax_switchgen.evaluation.statistics import Bootstrap
from tests.hf_models import one_line_error

FAST = Bootstrap(resamples=500)
ONE = np.ones(4)


def simulate(rng, items, advantage, effect, mean=1.0):
    """Rewards and lengths of two systems: P(win) = sigmoid(advantage + effect * d).

    d, the difference of log(1 + tokens), is normal around `mean`.
    """
    d_I = rng.normal(mean, 1, items)
    p_I = 1 / (1 + np.exp(-(advantage + effect * d_I)))
    rewards_I = (rng.random(items) < p_I).astype(float)
    return rewards_I, np.full(items, 0.5), 1e4 * np.exp(d_I) - 1, np.full(items, 9999.0)


def test_counts_by_hand():
    """Each seed of one meets each seed of the other; a tie is half a win."""
    found = win_rate(
        np.array([[1.0, 5, 0, 2], [3, 5, 0, 2]]),
        np.array([2.0, 5, 0.05, 3]),
        np.ones((2, 4)),
        ONE,
        margin=0.1,
        bootstrap=FAST,
    )
    # The items' own rates are 1/2, 1/2, 1/2 and 0.
    assert (found.wins, found.ties, found.losses) == (1, 4, 3)
    assert found.rate.estimate == pytest.approx(3 / 8)
    strict = win_rate(
        np.array([1.0, 5, 0, 2]), np.array([2.0, 5, 0.05, 3]), ONE, ONE, bootstrap=FAST
    )
    assert (strict.wins, strict.ties, strict.losses) == (0, 1, 3)


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(2, 30), st.integers(1, 3), st.integers(1, 3))
def test_what_one_system_wins_the_other_loses(seed, items, S, Q):
    rng = np.random.default_rng(seed)
    ours = rng.integers(0, 4, (S, items)), rng.integers(0, 300, (S, items))
    theirs = rng.integers(0, 4, (Q, items)), rng.integers(0, 300, (Q, items))
    one = win_rate(ours[0], theirs[0], ours[1], theirs[1], bootstrap=FAST)
    other = win_rate(theirs[0], ours[0], theirs[1], ours[1], bootstrap=FAST)
    assert (one.wins, one.ties, one.losses) == (other.losses, other.ties, other.wins)
    assert one.wins + one.ties + one.losses == S * Q * items
    assert one.length_effect == pytest.approx(other.length_effect, abs=1e-4)
    for mine, yours in (
        (one.rate, other.rate),
        (one.length_controlled, other.length_controlled),
    ):
        assert mine.estimate == pytest.approx(1 - yours.estimate, abs=1e-4)
        assert -1e-9 <= mine.low <= mine.estimate + 1e-9
        assert mine.estimate - 1e-9 <= mine.high <= 1 + 1e-9


def test_ties_alone_are_one_half_and_wins_alone_are_one():
    """And whatever the lengths are, these are no reason for it."""
    tokens = np.array([5.0, 80, 200, 1])
    ties = win_rate(ONE, ONE, tokens, 10 * ONE, bootstrap=FAST)
    wins = win_rate(2 * ONE, ONE, tokens, 10 * ONE, bootstrap=FAST)
    assert ties.rate.estimate == 0.5 and wins.rate.estimate == 1
    for found in (ties, wins):
        assert found.length_controlled == found.rate and found.length_effect == 0
        assert found.rate.low < found.rate.estimate - 0.1, "4 items prove little"


@pytest.mark.parametrize("ratio", [1, 2])
def test_lengths_that_never_differ_change_nothing(ratio):
    rng = np.random.default_rng(0)
    rewards = rng.normal(0.3, 1, 50)
    tokens = np.full(50, 99.0)
    system_tokens = ratio * (1 + tokens) - 1
    found = win_rate(rewards, np.zeros(50), system_tokens, tokens, bootstrap=FAST)
    assert found.length_controlled == found.rate
    assert found.length_effect == 0


def test_a_system_that_is_only_longer_wins_nothing_at_equal_length():
    rng = np.random.default_rng(0)
    found = win_rate(*simulate(rng, 4000, advantage=0.0, effect=1.5), bootstrap=FAST)
    assert found.rate.low > 0.7
    assert found.length_controlled.estimate == pytest.approx(0.5, abs=0.04)
    assert found.length_controlled.low < 0.5 < found.length_controlled.high
    # One usual difference is the root mean square, sqrt(2), of N(1, 1).
    assert found.length_effect == pytest.approx(1.5 * 2**0.5, rel=0.1)


def test_a_better_system_that_is_shorter_wins_at_equal_length():
    rng = np.random.default_rng(0)
    found = win_rate(*simulate(rng, 4000, 1.0, effect=1.0, mean=-1.0), bootstrap=FAST)
    assert found.rate.estimate == pytest.approx(0.5, abs=0.04)
    truth = 1 / (1 + np.exp(-1.0))
    assert found.length_controlled.estimate == pytest.approx(truth, abs=0.04)


def test_wins_that_length_separates_have_a_finite_fit():
    d_I = np.array([-1.0, -0.5, 0.7, 1.2] * 5)
    tokens = 100 * np.exp(d_I) - 1
    wins, reference = (d_I > 0).astype(float), np.full(20, 0.5)
    found = win_rate(wins, reference, tokens, np.full(20, 99.0), bootstrap=FAST)
    assert 2 < found.length_effect < 100
    assert 0 < found.length_controlled.estimate < 1
    interval = found.length_controlled
    assert 0 <= interval.low <= interval.high <= 1


def test_intervals_cover_the_truth():
    """95 % intervals of 200 experiments: 180 or more, of both rates, cover it."""
    rng = np.random.default_rng(0)
    far = simulate(rng, 1_000_000, 0.5, 1.0)
    truths = (far[0].mean(), 1 / (1 + np.exp(-0.5)))
    covered = np.zeros(2)
    for _ in range(200):
        found = win_rate(*simulate(rng, 150, 0.5, 1.0), bootstrap=FAST)
        for i, interval in enumerate((found.rate, found.length_controlled)):
            covered[i] += interval.low <= truths[i] <= interval.high
            assert interval.high - interval.low < 0.35
    assert (covered >= 180).all() and (covered <= 199).all(), covered


def test_the_first_order_interval_is_that_of_new_fits():
    rng = np.random.default_rng(0)
    columns = simulate(rng, 300, 0.5, 1.0)
    found = win_rate(*columns).length_controlled
    one_draw = Bootstrap(resamples=1)
    estimates = []
    for _ in range(400):
        drawn = rng.integers(300, size=300)
        again = win_rate(*(column[drawn] for column in columns), bootstrap=one_draw)
        estimates.append(again.length_controlled.estimate)
    low, high = np.quantile(estimates, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)


def test_seeds_of_one_item_are_not_independent_items():
    """Three equal seeds tell no more than one."""
    ours, theirs, tokens, reference = simulate(np.random.default_rng(0), 60, 0.5, 1.0)
    one = win_rate(ours, theirs, tokens, reference, bootstrap=FAST)
    three = win_rate(
        np.tile(ours, (3, 1)),
        theirs,
        np.tile(tokens, (3, 1)),
        reference,
        bootstrap=FAST,
    )
    assert three.wins == 3 * one.wins
    for single, tiled in (
        (one.rate, three.rate),
        (one.length_controlled, three.length_controlled),
    ):
        expected = (single.estimate, single.low, single.high)
        assert (tiled.estimate, tiled.low, tiled.high) == pytest.approx(expected, 1e-4)


@pytest.mark.parametrize(
    ("arguments", "margin", "words"),
    [
        ((ONE, ONE[:3], ONE, ONE[:3]), 0.0, ("4 and 3 items", "both")),
        ((ONE, ONE, ONE[:3], ONE), 0.0, ("tokens", "(1, 3)", "(1, 4)")),
        ((ONE, ONE, ONE, np.ones((2, 4))), 0.0, ("reference tokens", "(2, 4)")),
        ((ONE * np.nan, ONE, ONE, ONE), 0.0, ("rewards must be finite",)),
        ((ONE, ONE, ONE, -ONE), 0.0, ("length", "below 0")),
        ((ONE[:0], ONE[:0], ONE[:0], ONE[:0]), 0.0, ("rewards", "(0,)")),
        ((ONE, ONE, ONE, ONE), -0.1, ("margin=-0.1",)),
        ((ONE, ONE, ONE, ONE), np.nan, ("margin=nan",)),
    ],
)
def test_what_cannot_be_compared_is_named(arguments, margin, words):
    with one_line_error(*words):
        win_rate(*arguments, margin=margin)
