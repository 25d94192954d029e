"""Whether the probability that a system gives its answer is the share it gets right.

A confidence is the answer's share of the probability of all options, the share of
sampled outputs that agree with the answer, or any other number in [0, 1]. Compare
systems on the same items only, and always with the temperature-scaled single model:
one parameter fitted on dev is free.

Axes: **I** items, **C** options, **M** models, **B** bins, **R** resamples, **E** the
plain and the debiased error. Items of equal confidence share a bin and a rank, so that
no result depends on the order of the items.
"""

import dataclasses

import numpy as np
from scipy import optimize, special, stats

from jax_switchgen.evaluation.statistics import (
    DEFAULT,
    Bootstrap,
    resample_counts,
)
from jax_switchgen.tasks.confidence import (
    Reliability,
    checked,
    equal_mass_bins,
    reliability,
)

# Confidences come from a float32 soft-max: one sure error costs 15.9 nats, not inf.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)
# Temperature scaling searches 0.01 … 100; beyond, accuracy is 100 % or below chance.
LOG_TEMPERATURE_LIMIT = float(np.log(100.0))


@dataclasses.dataclass(frozen=True)
class RiskCoverage:
    """Errors among the surest answers (Geifman and El-Yaniv 2017, section 2)."""

    coverage_I: np.ndarray  # float64, k/I for k = 1 … I
    risk_I: np.ndarray  # float64, the share of errors among the k most confident
    area: float  # AURC, the mean risk (Geifman, Uziel and El-Yaniv 2019, section 3)


@dataclasses.dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error, or the difference of two.

    Attributes:
      plain: biased upwards, most where the truth is 0.
      debiased: right on average where the truth is 0, too low where it is small.
      low, high: the interval, which covers what lies between the two biases.
    """

    plain: float
    debiased: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Calibration:
    """All metrics of one system on one task."""

    items: int
    accuracy: float
    confidence: float  # its mean
    ece: CalibrationError
    ece_floor: float  # the plain ECE to expect if the confidences were true
    brier: float
    nll: float
    auroc: float  # NaN where all answers are right or all are wrong
    aurc: float  # area under the risk-coverage curve, lower is better
    reliability: Reliability


def calibration(
    confidence_I: np.ndarray,
    correct_I: np.ndarray,
    *,
    bins: int = 15,
    bootstrap: Bootstrap = DEFAULT,
) -> Calibration:
    """Every metric of float confidence_I in [0, 1] and bool correct_I."""
    confidence_I, correct_I = checked(confidence_I, correct_I)
    return Calibration(
        items=len(correct_I),
        accuracy=float(correct_I.mean()),
        confidence=float(confidence_I.mean()),
        ece=calibration_error(confidence_I, correct_I, bins=bins, bootstrap=bootstrap),
        ece_floor=ece_floor(confidence_I, bins=bins),
        brier=brier(confidence_I, correct_I),
        nll=nll(confidence_I, correct_I),
        auroc=auroc(confidence_I, correct_I),
        aurc=risk_coverage(confidence_I, correct_I).area,
        reliability=reliability(confidence_I, correct_I, bins=bins),
    )


def ece_floor(confidence_I: np.ndarray, *, bins: int = 15) -> float:
    """The mean ECE of a perfectly calibrated system with these confidences.

    The gap of a bin then is close to normal with mean 0 and the variance of independent
    coin flips, sum c (1 - c) over its items, and E|N(0, v)| = sqrt(2 v / pi). At 1,000
    items of confidences near 0.7 in 15 bins that is 0.045, not 0.
    """
    confidence_I, _ = checked(confidence_I, np.zeros(len(confidence_I), bool))
    bin_I = equal_mass_bins(confidence_I, bins)
    variance_B = np.bincount(bin_I, confidence_I * (1 - confidence_I))
    return float(np.sqrt(2 * variance_B / np.pi).sum() / len(confidence_I))


def calibration_error(
    confidence_I: np.ndarray,
    correct_I: np.ndarray,
    *,
    bins: int = 15,
    bootstrap: Bootstrap = DEFAULT,
) -> CalibrationError:
    """Plain and debiased ECE, and an interval that holds for small errors too.

    The absolute value makes noise count as error. So each bin is split into halves: one
    half tells whether the bin is over- or underconfident, the other half by how much,
    and noise cancels. The mean over all splits has a closed form, `_errors`. It is 0 on
    average for a calibrated system (so below 0 half of the time), equals the ECE where
    gaps are plain, and in between falls short by up to 0.48 standard errors per bin,
    while the plain ECE exceeds the truth by up to 0.80.

    No estimate is unbiased for every absolute value, so the interval runs from the
    lower end of the debiased to the upper end of the plain form. Each is a bootstrap of
    items at fixed bins, moved to its estimate: resamples carry the noise once more.
    """
    values, draws_RE = _draw([_residuals(confidence_I, correct_I, bins)], bootstrap)[0]
    low, high = _ends(values, draws_RE[:, 1], draws_RE[:, 0], bootstrap)
    return CalibrationError(values[0], values[1], max(0.0, low), high)


def calibration_error_difference(
    system: tuple[np.ndarray, np.ndarray],
    reference: tuple[np.ndarray, np.ndarray],
    *,
    bins: int = 15,
    bootstrap: Bootstrap = DEFAULT,
) -> CalibrationError:
    """ECE of the system minus that of the reference, on the same items.

    Safe, hence wide: its ends are debiased minus plain and plain minus debiased. For
    more power compare Brier scores, which are proper and plain means, by
    `statistics.paired_bootstrap` of the squared differences.

    Args:
      system, reference: (confidence_I, correct_I).
    """
    if len(system[0]) != len(reference[0]):
        raise ValueError(
            f"{len(system[0])} and {len(reference[0])} items cannot be paired: "
            "compare calibration on the items that both systems answered"
        )
    pair = [_residuals(*system, bins), _residuals(*reference, bins)]
    (first, first_RE), (second, second_RE) = _draw(pair, bootstrap)
    low, high = _ends(
        (first[0] - second[1], first[1] - second[0]),
        first_RE[:, 1] - second_RE[:, 0],
        first_RE[:, 0] - second_RE[:, 1],
        bootstrap,
    )
    return CalibrationError(first[0] - second[0], first[1] - second[1], low, high)


def brier(confidence_I: np.ndarray, correct_I: np.ndarray) -> float:
    """Mean squared difference of confidence and 0/1 correctness (Brier 1950)."""
    confidence_I, correct_I = checked(confidence_I, correct_I)
    return float(((confidence_I - correct_I) ** 2).mean())


def nll(confidence_I: np.ndarray, correct_I: np.ndarray) -> float:
    """Mean of -log(confidence) where right and -log(1 - confidence) where wrong."""
    confidence_I, correct_I = checked(confidence_I, correct_I)
    given_I = np.where(correct_I, confidence_I, 1 - confidence_I)
    return float(-np.log(np.maximum(given_I, SMALLEST_PROBABILITY)).mean())


def auroc(confidence_I: np.ndarray, correct_I: np.ndarray) -> float:
    """P(confidence of a right answer > of a wrong one), ties half (Mann, Whitney)."""
    confidence_I, correct_I = checked(confidence_I, correct_I)
    right, wrong = int(correct_I.sum()), int((~correct_I).sum())
    if right == 0 or wrong == 0:
        return float("nan")
    rank_sum = stats.rankdata(confidence_I)[correct_I].sum()
    return float((rank_sum - right * (right + 1) / 2) / (right * wrong))


def risk_coverage(confidence_I: np.ndarray, correct_I: np.ndarray) -> RiskCoverage:
    """The risk-coverage curve of answering only the most confident items."""
    confidence_I, correct_I = checked(confidence_I, correct_I)
    _, group_I = np.unique(-confidence_I, return_inverse=True)
    size_U = np.bincount(group_I)
    # Each of equal confidences carries their mean error: the mean over their orders.
    error_U = np.bincount(group_I, ~correct_I) / size_U
    answered_I = np.arange(1, len(correct_I) + 1)
    risk_I = np.cumsum(np.repeat(error_U, size_U)) / answered_I
    return RiskCoverage(answered_I / len(correct_I), risk_I, float(risk_I.mean()))


def choice_confidence(logits_IC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(confidence_I, choice_I): the likeliest option and its share of all options.

    Args:
      logits_IC: log-probabilities or logits, -inf where an item has fewer options.
    """
    logits_IC = _checked_logits(logits_IC)
    return special.softmax(logits_IC, 1).max(1), logits_IC.argmax(1)


def mixture_logits(log_weights_IM: np.ndarray, logits_IMC: np.ndarray) -> np.ndarray:
    """logits_IC of a mixture: log of the sum over m of weight_m · p_m.

    Args:
      log_weights_IM: log-probability of each model to speak at the answer's position.
      logits_IMC: each model's log-probabilities of the options over its vocabulary;
        not normalised to the options, or a model that gives none of them counts too.
    """
    return special.logsumexp(log_weights_IM[:, :, None] + logits_IMC, axis=1)


def choice_nll(logits_IC: np.ndarray, gold_I: np.ndarray, temperature: float) -> float:
    """Mean of -log softmax(logits / temperature) at int gold_I."""
    scaled_IC = _checked_logits(logits_IC) / temperature
    gold_logits_I = np.take_along_axis(scaled_IC, gold_I[:, None], 1)[:, 0]
    return float((special.logsumexp(scaled_IC, 1) - gold_logits_I).mean())


def fit_temperature(dev_logits_IC: np.ndarray, dev_gold_I: np.ndarray) -> float:
    """The temperature of least NLL on dev (Guo et al. 2017, section 4.2).

    Dividing by it leaves every choice, hence accuracy, as it is. The NLL is convex in
    1/temperature, so that one bounded search over its logarithm finds the minimum;
    1 is kept where it is as good.
    """
    dev_logits_IC = _checked_logits(dev_logits_IC)
    gold_I = np.asarray(dev_gold_I)
    if not np.isfinite(dev_logits_IC[np.arange(len(gold_I)), gold_I]).all():
        raise ValueError("a gold option has no logit: remap golds to the options")

    def loss(log_temperature: float) -> float:
        return choice_nll(dev_logits_IC, gold_I, float(np.exp(log_temperature)))

    found = optimize.minimize_scalar(
        loss,
        bounds=(-LOG_TEMPERATURE_LIMIT, LOG_TEMPERATURE_LIMIT),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def _errors(count_B: np.ndarray, sum_B: np.ndarray, square_B: np.ndarray) -> np.ndarray:
    """(..., 2) plain and debiased ECE of residuals, correct - confidence, in bins.

    Debiased is the mean over splits of sign(half 1) · 2 (sum of half 2). For n
    residuals of sum D and sample variance v, half 1 sums to D/2 + Z and half 2 to
    D/2 - Z, where Z over random halves has mean 0 and variance n v / 4 and is close to
    normal. With s = sqrt(n v) and z = D / s, the mean is
    D (2 Phi(z) - 1) - 2 s phi(z).

    Args:
      count_B, sum_B, square_B: (..., B) items, residuals and squared residuals.
    """
    mean_B = sum_B / np.maximum(count_B, 1)
    variance_B = (square_B - sum_B * mean_B) / np.maximum(count_B - 1, 1)
    # Rounding leaves 1e-17 of variance where all residuals are equal.
    spread_B = np.sqrt(count_B * np.where(variance_B > 1e-12, variance_B, 0))
    z_B = sum_B / np.where(spread_B > 0, spread_B, 1)
    density_B = np.exp(-0.5 * z_B**2) / np.sqrt(2 * np.pi)
    split_B = sum_B * (2 * special.ndtr(z_B) - 1) - 2 * spread_B * density_B
    split_B = np.where(spread_B > 0, split_B, np.abs(sum_B))
    totals = np.stack([np.abs(sum_B).sum(-1), split_B.sum(-1)], -1)
    return totals / count_B.sum(-1)[..., None]


def _residuals(
    confidence_I: np.ndarray, correct_I: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """(values_IV of 1, residual and its square, bin_I)."""
    confidence_I, correct_I = checked(confidence_I, correct_I)
    residual_I = correct_I - confidence_I
    values_IV = np.stack([np.ones_like(residual_I), residual_I, residual_I**2], 1)
    return values_IV, equal_mass_bins(confidence_I, bins)


def _draw(
    systems: list[tuple[np.ndarray, np.ndarray]], bootstrap: Bootstrap
) -> list[tuple[tuple[float, float], np.ndarray]]:
    """((plain, debiased), draws_RE) of each system, over the same resampled items."""
    tables = []
    for values_IV, bin_I in systems:
        one_hot_IB = bin_I[:, None] == np.arange(bin_I.max() + 1)
        tables.append([value_I[:, None] * one_hot_IB for value_I in values_IV.T])
    draws: list[list[np.ndarray]] = [[] for _ in systems]
    for counts_RI in resample_counts(len(systems[0][1]), bootstrap):
        for drawn, table in zip(draws, tables, strict=True):
            drawn.append(_errors(*(counts_RI @ sums_IB for sums_IB in table)))
    observed = [_errors(*(sums_IB.sum(0) for sums_IB in table)) for table in tables]
    return [
        ((float(plain), float(debiased)), np.concatenate(drawn))
        for (plain, debiased), drawn in zip(observed, draws, strict=True)
    ]


def _ends(
    estimates: tuple[float, float],
    low_R: np.ndarray,
    high_R: np.ndarray,
    bootstrap: Bootstrap,
) -> tuple[float, float]:
    """Spreads of the draws around their means, laid around (upper, lower) estimates."""
    tail = (1 - bootstrap.level) / 2
    low = estimates[1] + np.quantile(low_R, tail) - low_R.mean()
    high = estimates[0] + np.quantile(high_R, 1 - tail) - high_R.mean()
    return float(low), float(high)


def _checked_logits(logits_IC: np.ndarray) -> np.ndarray:
    """float64 logits_IC with a finite option in every row, or a ValueError."""
    logits_IC = np.asarray(logits_IC, np.float64)
    if logits_IC.ndim != 2 or not logits_IC.size:
        raise ValueError(f"logits must be (items, options), got {logits_IC.shape}")
    best_I = logits_IC.max(1)
    if not np.isfinite(best_I).all():
        raise ValueError(f"item {np.argmin(np.isfinite(best_I))} has no finite option")
    return logits_IC
