"""Calibrated predictions have no calibration error, and no metric sees the order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from jax_switchgen.evaluation.calibration import (
    auroc,
    brier,
    calibration,
    calibration_error,
    calibration_error_difference,
    choice_confidence,
    choice_nll,
    ece_floor,
    fit_temperature,
    mixture_logits,
    nll,
    risk_coverage,
)
from jax_switchgen.evaluation.statistics import Bootstrap
from jax_switchgen.tasks.confidence import ece, equal_mass_bins, reliability

FEW = Bootstrap(resamples=300)
# A coarse grid, so that ties are common.
answers = st.lists(
    st.tuples(st.integers(0, 8).map(lambda i: i / 8), st.booleans()), min_size=1
)


def predictions(seed, items, overconfidence=0.0):
    """Confidences from 0.3 to 1, right with that probability less a constant."""
    rng = np.random.default_rng([seed, items])
    confidence_I = rng.uniform(0.3, 1, items)
    return confidence_I, rng.random(items) < confidence_I - overconfidence


def split(pairs):
    confidence, correct = zip(*pairs, strict=True)
    return np.array(confidence, np.float64), np.array(correct)


@pytest.mark.parametrize("items", [200, 1000, 5000])
def test_ece_of_calibrated_predictions_is_its_floor_and_debiased_0(items):
    """The plain form falls as 1/sqrt(items) but never to 0; the debiased form is 0."""
    runs = [predictions(seed, items) for seed in range(200)]
    plain, debiased = np.transpose(
        [
            (error.plain, error.debiased)
            for error in (
                calibration_error(*run, bootstrap=Bootstrap(resamples=1))
                for run in runs
            )
        ]
    )
    floor = np.mean([ece_floor(confidence_I) for confidence_I, _ in runs])
    assert plain.mean() == pytest.approx(floor, rel=0.05)
    assert floor == pytest.approx(1.3 / np.sqrt(items), rel=0.05)
    # Four standard errors of a mean of 200.
    assert abs(debiased.mean()) < 4 * debiased.std() / np.sqrt(200)
    assert abs(debiased.mean()) < 0.05 * floor


@pytest.mark.parametrize("gap", [0.2, 0.3])
def test_a_plain_gap_is_found_by_both_forms(gap):
    runs = [predictions(seed, 3000, gap) for seed in range(20)]
    errors = [calibration_error(*run, bootstrap=FEW) for run in runs]
    assert np.mean([e.plain for e in errors]) == pytest.approx(gap, abs=0.01)
    assert np.mean([e.debiased for e in errors]) == pytest.approx(gap, abs=0.01)


@pytest.mark.parametrize("gap", [0.0, 0.05, 0.2])
def test_the_interval_of_the_ece_covers_small_errors_too(gap):
    """At least at its nominal rate, less three standard errors."""
    covered, difference_covered = 0, 0
    for seed in range(100):
        run = predictions(seed, 400, gap)
        error = calibration_error(*run, bootstrap=FEW)
        covered += error.low <= gap <= error.high
        calibrated = run[0], np.random.default_rng(seed + 1000).random(400) < run[0]
        difference = calibration_error_difference(run, calibrated, bootstrap=FEW)
        difference_covered += difference.low <= gap <= difference.high
    assert covered >= 88
    assert difference_covered >= 88


def test_the_difference_of_a_system_and_itself_is_0():
    run = predictions(0, 300, 0.1)
    difference = calibration_error_difference(run, run, bootstrap=FEW)
    assert difference.plain == difference.debiased == 0
    assert difference.low < 0 < difference.high


@settings(max_examples=60)
@given(pairs=answers, order=st.randoms(use_true_random=False))
def test_no_metric_depends_on_the_order(pairs, order):
    shuffled = list(pairs)
    order.shuffle(shuffled)
    for metric in (
        ece,
        brier,
        nll,
        auroc,
        lambda *run: risk_coverage(*run).area,
        lambda *run: calibration_error(*run, bootstrap=FEW).debiased,
    ):
        first, second = metric(*split(pairs)), metric(*split(shuffled))
        assert first == pytest.approx(second, abs=1e-9, nan_ok=True)


@settings(max_examples=60)
@given(pairs=answers, copies=st.integers(2, 4))
def test_means_of_duplicated_items_are_those_of_the_items(pairs, copies):
    for metric in (brier, nll, auroc):
        single, several = metric(*split(pairs)), metric(*split(pairs * copies))
        assert single == pytest.approx(several, nan_ok=True)
    assert ece(*split(pairs), bins=1) == pytest.approx(ece(*split(pairs * 3), bins=1))


@settings(max_examples=60)
@given(pairs=answers, bins=st.integers(1, 20))
def test_bins_hold_every_item_once_and_equal_confidences_together(pairs, bins):
    confidence_I, correct_I = split(pairs)
    bin_I = equal_mass_bins(confidence_I, bins)
    assert bin_I.min() >= 0 and bin_I.max() < bins
    for value in np.unique(confidence_I):
        assert len(set(bin_I[confidence_I == value])) == 1
    points = reliability(confidence_I, correct_I, bins=bins)
    assert points.count_B.sum() == len(pairs)
    assert points.count_B @ points.accuracy_B == pytest.approx(correct_I.sum())
    assert (np.diff(points.confidence_B) > 0).all()
    distinct_I = np.random.default_rng(0).random(len(pairs))
    sizes = np.bincount(equal_mass_bins(distinct_I, bins), minlength=bins)
    assert np.ptp(sizes) <= 1


def test_a_perfect_and_a_constant_system():
    correct_I = np.arange(200) % 4 > 0
    perfect = calibration(correct_I.astype(float), correct_I, bootstrap=FEW)
    assert perfect.ece.plain == perfect.ece.debiased == perfect.brier == 0
    assert perfect.auroc == 1 and perfect.nll == 0
    constant = calibration(np.full(200, 0.75), correct_I, bootstrap=FEW)
    assert constant.auroc == 0.5
    assert constant.aurc == pytest.approx(1 - constant.accuracy)
    assert constant.ece.plain == 0 and len(constant.reliability.count_B) == 1
    assert constant.brier == pytest.approx(0.75 * 0.25)


@settings(max_examples=60)
@given(pairs=answers)
def test_auroc_counts_pairs(pairs):
    confidence_I, correct_I = split(pairs)
    right, wrong = confidence_I[correct_I], confidence_I[~correct_I]
    if not len(right) or not len(wrong):
        assert np.isnan(auroc(confidence_I, correct_I))
        return
    wins = (right[:, None] > wrong).mean() + 0.5 * (right[:, None] == wrong).mean()
    assert auroc(confidence_I, correct_I) == pytest.approx(wins)


def test_risk_ends_at_the_error_rate_and_ties_average_over_their_orders():
    """Confidence 0.9: right; 0.5 twice: one right, one wrong; 0.1: wrong."""
    curve = risk_coverage(
        np.array([0.5, 0.1, 0.9, 0.5]), np.array([True, False, True, False])
    )
    assert curve.coverage_I == pytest.approx([0.25, 0.5, 0.75, 1])
    assert curve.risk_I == pytest.approx([0, 0.25, 1 / 3, 0.5])
    assert curve.area == pytest.approx(curve.risk_I.mean())


logits = nps.arrays(np.float64, (12, 4), elements=st.floats(-20, 20))


@settings(max_examples=60)
@given(logits_IC=logits, gold=st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_temperature_scaling_never_raises_the_dev_nll(logits_IC, gold):
    gold_I = np.array(gold)
    temperature = fit_temperature(logits_IC, gold_I)
    before = choice_nll(logits_IC, gold_I, 1.0)
    assert choice_nll(logits_IC, gold_I, temperature) <= before
    assert 0.009 < temperature < 101


def test_temperature_scaling_finds_the_temperature_and_keeps_every_choice():
    """Options are drawn from softmax(logits / 2.5), and one item has only two."""
    rng = np.random.default_rng(0)
    logits_IC = rng.normal(0, 4, (4000, 4))
    logits_IC[0, 2:] = -np.inf
    noise_IC = rng.gumbel(size=logits_IC.shape)
    gold_I = (logits_IC / 2.5 + noise_IC).argmax(1)
    temperature = fit_temperature(logits_IC, gold_I)
    assert temperature == pytest.approx(2.5, rel=0.06)
    before_I, choice_I = choice_confidence(logits_IC)
    after_I, scaled_choice_I = choice_confidence(logits_IC / temperature)
    assert (choice_I == scaled_choice_I).all()
    correct_I = choice_I == gold_I
    assert ece(after_I, correct_I) < 0.25 * ece(before_I, correct_I)


def test_a_mixture_of_one_model_is_that_model_and_of_two_their_mean():
    probabilities_IMC = np.array([[[0.6, 0.1], [0.02, 0.08]]])
    one = mixture_logits(np.array([[0.0, -np.inf]]), np.log(probabilities_IMC))
    assert np.exp(one) == pytest.approx(probabilities_IMC[:, 0])
    two = mixture_logits(np.log([[0.5, 0.5]]), np.log(probabilities_IMC))
    assert np.exp(two) == pytest.approx(probabilities_IMC.mean(1))
    confidence_I, choice_I = choice_confidence(two)
    assert confidence_I == pytest.approx(0.31 / 0.40) and choice_I == 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: brier(np.array([1.5]), np.array([True])), "normalise"),
        (lambda: brier(np.array([np.nan]), np.array([True])), "normalise"),
        (lambda: brier(np.array([0.5]), np.array([1])), "must be bool"),
        (lambda: brier(np.zeros(2), np.zeros(3, bool)), "must be"),
        (lambda: choice_confidence(np.full((2, 3), -np.inf)), "item 0"),
        (
            lambda: fit_temperature(np.array([[0.0, -np.inf]]), np.array([1])),
            "gold option",
        ),
        (lambda: equal_mass_bins(np.zeros(2), 0), "bins=0"),
    ],
)
def test_what_cannot_be_judged_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
