"""Intervals cover, p-values agree with scipy, and few items never look like proof."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jax_switchgen.evaluation.statistics import (
    Bootstrap,
    count_flips,
    emergent_skill,
    holm,
    mcnemar,
    mean_interval,
    paired_bootstrap,
)

FEW = Bootstrap(resamples=500)
right_or_wrong = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1)


def correlated_scores(rng, items, seeds=None, seed_effect=0.0):
    """Two systems 0.6 and 0.5 likely to be right; items are hard for both."""
    hard_I = rng.uniform(-0.3, 0.3, items)
    shape = (items,) if seeds is None else (seeds, items)
    shift = 0.0 if seeds is None else rng.normal(0, seed_effect, (seeds, 1))
    system = rng.random(shape) < 0.6 + hard_I + shift
    return system, rng.random(shape) < 0.5 + hard_I


@pytest.mark.parametrize("items, kind", [(150, "binary"), (80, "float")])
def test_the_interval_covers_the_truth_at_its_nominal_rate(items, kind):
    """95 % of 400 intervals, give or take three standard errors (3.3 %)."""
    covered, rejected = 0, 0
    for trial in range(400):
        rng = np.random.default_rng([trial, items])
        bootstrap = Bootstrap(resamples=600, seed=trial)
        if kind == "binary":
            system, reference = correlated_scores(rng, items)
        else:
            reference = rng.random(items) * 0.8
            system = np.clip(reference + rng.normal(0.1, 0.02, items), 0, 1)
        interval = paired_bootstrap(system, reference, bootstrap=bootstrap).difference
        covered += interval.low <= 0.1 <= interval.high
        same = paired_bootstrap(
            rng.permutation(reference), rng.permutation(reference), bootstrap=bootstrap
        )
        rejected += same.p_value < 0.05
    assert 0.915 <= covered / 400 <= 0.985
    assert rejected / 400 <= 0.08


def test_seeds_that_move_all_items_need_resampled_seeds():
    """Averaged seeds then cover far too rarely, resampled ones nearly always."""
    covered = {"average": 0, "resample": 0}
    for trial in range(150):
        rng = np.random.default_rng(trial)
        system, reference = correlated_scores(rng, 200, seeds=6, seed_effect=0.1)
        for seeds in covered:
            interval = paired_bootstrap(
                system, reference, seeds=seeds, bootstrap=FEW
            ).difference
            covered[seeds] += interval.low <= 0.1 <= interval.high
    assert covered["average"] / 150 < 0.7
    assert covered["resample"] / 150 > 0.84


def test_more_seeds_narrow_the_interval_but_copies_of_one_seed_do_not():
    rng = np.random.default_rng(0)
    system, reference = correlated_scores(rng, 300, seeds=5)
    wide = paired_bootstrap(system[0], reference[0]).difference
    copies = paired_bootstrap(
        np.tile(system[0], (5, 1)), np.tile(reference[0], (5, 1))
    ).difference
    narrow = paired_bootstrap(system, reference).difference
    assert copies.high - copies.low == pytest.approx(wide.high - wide.low, rel=0.05)
    assert narrow.high - narrow.low < 0.7 * (wide.high - wide.low)


@settings(max_examples=30)
@given(pairs=right_or_wrong, order=st.randoms(use_true_random=False))
def test_the_order_of_items_changes_nothing_and_the_sides_mirror(pairs, order):
    shuffled = list(pairs)
    order.shuffle(shuffled)
    system, reference = np.array(pairs).T
    first = paired_bootstrap(system, reference, bootstrap=FEW)
    assert first == paired_bootstrap(*np.array(shuffled).T, bootstrap=FEW)
    mirrored = paired_bootstrap(reference, system, bootstrap=FEW).difference
    assert mirrored.estimate == -first.difference.estimate
    assert first.difference.low <= first.difference.estimate <= first.difference.high
    flips = count_flips(system, reference)
    assert flips.net == pytest.approx(first.difference.estimate, abs=1e-12)
    assert flips == count_flips(*np.array(shuffled).T)


def test_the_short_cut_for_few_distinct_values_draws_from_the_same_distribution():
    """Noise of 1e-9 makes all values distinct, and the interval stays."""
    rng = np.random.default_rng(0)
    scores = (rng.random(500) < 0.3).astype(float)
    noisy = np.clip(scores + rng.normal(0, 1e-9, 500), 0, 1)
    fast, slow = mean_interval(scores), mean_interval(noisy)
    assert fast.low == pytest.approx(slow.low, abs=0.004)
    assert fast.high == pytest.approx(slow.high, abs=0.004)


def test_unanimous_items_leave_room_for_the_unseen():
    """0 of 30 is no sure 0: the exact bound of Clopper and Pearson."""
    exact = stats.binomtest(0, 30).proportion_ci(0.95, method="exact")
    zero = mean_interval(np.zeros(30))
    assert (zero.low, zero.high) == pytest.approx((exact.low, exact.high))
    both_wrong = paired_bootstrap(np.zeros(30), np.zeros(30))
    assert both_wrong.p_value == 1.0
    assert both_wrong.difference.low == -both_wrong.difference.high < -0.1


def test_three_items_prove_nothing():
    """Every resample agrees, but three flips of sign show p = 0.25 at best."""
    assert paired_bootstrap(np.ones(3), np.zeros(3)).p_value == 0.25


@settings(max_examples=50)
@given(gained=st.integers(0, 40), lost=st.integers(0, 40), both=st.integers(1, 5))
def test_mcnemar_agrees_with_the_binomial_test(gained, lost, both):
    system = np.array([True] * gained + [False] * lost + [True] * both)
    reference = np.array([False] * gained + [True] * lost + [True] * both)
    exact, mid = mcnemar(system, reference), mcnemar(system, reference, mid_p=True)
    if gained + lost == 0:
        assert exact == mid == 1.0
        return
    assert exact == pytest.approx(stats.binomtest(gained, gained + lost).pvalue)
    assert mid == pytest.approx(mcnemar(reference, system, mid_p=True))
    assert 0 < mid < exact


def test_mid_p_of_the_published_example():
    """Fagerland et al. 2013, table 1: 7 against 1 discordant pairs, mid-p 0.0391."""
    system = np.array([True] * 7 + [False] * 1 + [True] * 13)
    reference = np.array([False] * 7 + [True] * 1 + [True] * 13)
    assert mcnemar(system, reference) == pytest.approx(0.0703, abs=1e-4)
    assert mcnemar(system, reference, mid_p=True) == pytest.approx(0.0391, abs=1e-4)


@settings(max_examples=80)
@given(
    p_values=st.lists(st.floats(0, 1), min_size=1, max_size=30),
    order=st.randoms(use_true_random=False),
)
def test_holm_is_monotone_and_between_the_raw_p_and_bonferroni(p_values, order):
    raw = np.array(p_values)
    adjusted = holm(raw)
    assert (adjusted >= raw).all()
    assert (adjusted <= np.minimum(1, raw * len(raw))).all()
    assert (np.diff(adjusted[np.argsort(raw)]) >= 0).all()
    assert adjusted[raw.argmin()] == min(1, raw.min() * len(raw))
    permutation = list(range(len(raw)))
    order.shuffle(permutation)
    assert (holm(raw[permutation]) == adjusted[permutation]).all()


def test_holm_of_its_docstring():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])


def test_emergent_rates_of_a_table_counted_by_hand():
    """4 items all wrong, 6 some right: gained 1 of 4, lost 3 of 6, net -2 of 10."""
    singles = np.zeros((2, 10), bool)
    singles[0, :4], singles[1, 3:6] = True, True
    system = np.array([True] * 3 + [False] * 3 + [True] + [False] * 3)
    control = np.array([False] * 6 + [True] * 2 + [False] * 2)
    skill = emergent_skill(system, singles, control, bootstrap=FEW)
    assert (skill.all_wrong, skill.some_right) == pytest.approx((4, 6))
    assert skill.gain.estimate == pytest.approx(1 / 4)
    assert skill.loss.estimate == pytest.approx(3 / 6)
    assert skill.net.estimate == pytest.approx(-2 / 10)
    assert skill.control_gain.estimate == pytest.approx(2 / 4)
    assert skill.excess_gain.estimate == pytest.approx(-1 / 4)
    assert skill.excess_loss.estimate == pytest.approx(3 / 6 - 6 / 6)


def test_luck_is_no_new_skill():
    """A system as lucky as its control gains 40 %, with an excess around 0."""
    covered = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        singles = rng.random((3, 300)) < 0.4
        system, control = rng.random((2, 3, 300)) < 0.4
        skill = emergent_skill(
            system, np.repeat(singles[:, None], 3, 1), control, bootstrap=FEW
        )
        assert skill.gain.low > 0.2
        covered += skill.excess_gain.low <= 0 <= skill.excess_gain.high
    assert 0.9 <= covered / 200 <= 0.99


def test_a_condition_that_never_occurs_has_no_rate():
    skill = emergent_skill(np.zeros(5, bool), np.ones((2, 5), bool), bootstrap=FEW)
    assert np.isnan(skill.gain.estimate) and skill.loss.estimate == 1
    assert skill.control_gain is None and skill.excess_gain is None


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: paired_bootstrap(np.zeros(3), np.zeros(4)), "cannot be paired"),
        (lambda: mean_interval(np.array([0.5, np.nan])), "must be finite"),
        (lambda: mean_interval(np.array([0.5, 7.0])), "bounds=None for rewards"),
        (lambda: mean_interval(np.zeros(3), seeds="resample"), "1 seed"),
        (lambda: mcnemar(np.zeros((2, 3), bool), np.zeros((2, 3), bool)), "several"),
        (lambda: count_flips(np.zeros(3), np.zeros(3)), "must be bool"),
        (lambda: holm(np.array([0.5, 1.5])), "from 0 to 1"),
        (lambda: Bootstrap(level=95), "level is 0.95"),
        (
            lambda: paired_bootstrap(
                np.zeros((2, 3)), np.zeros((3, 3)), seeds="resample"
            ),
            "resampled in pairs",
        ),
    ],
)
def test_what_cannot_be_judged_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
