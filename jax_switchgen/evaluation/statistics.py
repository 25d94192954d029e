"""Intervals and tests for systems that answered the same items.

Everything is paired: an item that is hard for one system is hard for the other, and
the difference of two systems is far less noisy than either score. Items are resampled,
never single answers, so that several seeds of one item count as one item.

Axes: **I** items, **S** seeds, **M** single models, **R** resamples, **V** values per
item, **T** tests. Scores are float or bool of shape (I,) or (S, I); nothing may be NaN.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np
from scipy import stats

Seeds = Literal["average", "resample"]
# Items drawn at once: 2 million int64 are 16 MB, whatever the number of items.
CHUNK = 2_000_000


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn.

    Attributes:
      resamples: 10,000 hold the ends of a 95 % interval to 1 % of its width.
      level: the probability that an interval covers the truth.
      seed: equal seeds give equal intervals.
    """

    resamples: int = 10_000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.level < 1 and self.resamples >= 1):
            raise ValueError(f"{self}: level is 0.95 or so, resamples are 1 or more")


DEFAULT = Bootstrap()


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; all NaN where it is undefined."""

    estimate: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A paired difference of mean scores.

    Attributes:
      difference: system minus reference, in units of the score.
      p_value: two-sided, for a difference of 0.
      items: how many items both answered.
    """

    difference: Interval
    p_value: float
    items: int


@dataclasses.dataclass(frozen=True)
class Flips:
    """How the answers of a system differ from those of a reference."""

    gained: int  # right where the reference is wrong
    lost: int  # wrong where the reference is right
    both: int  # right in both
    neither: int  # wrong in both

    @property
    def net(self) -> float:
        """(gained - lost) / all: both counts over the same denominator."""
        total = self.gained + self.lost + self.both + self.neither
        return (self.gained - self.lost) / total


@dataclasses.dataclass(frozen=True)
class EmergentSkill:
    """What a collaboration can do that none of its models can, and the reverse.

    Attributes:
      all_wrong, some_right: items, averaged over seeds, in each condition.
      gain: E = P(system right | every single model wrong).
      loss: L = P(system wrong | some single model right).
      net: (gained - lost) / items, which E - L is not: their denominators differ.
      control_gain, control_loss: E and L of the chance control, None without one.
      excess_gain, excess_loss: system minus control, paired, None without a control.
    """

    all_wrong: float
    some_right: float
    gain: Interval
    loss: Interval
    net: Interval
    control_gain: Interval | None
    control_loss: Interval | None
    excess_gain: Interval | None
    excess_loss: Interval | None


def mean_interval(
    scores: np.ndarray,
    *,
    seeds: Seeds = "average",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    bootstrap: Bootstrap = DEFAULT,
) -> Interval:
    """Percentile bootstrap of a mean score (Efron and Tibshirani 1993, section 13.3).

    Args:
      scores: (I,) or (S, I).
      seeds: see `paired_bootstrap`.
      bounds: the range of a score; None where it has none, as for rewards.
    """
    values_IS = _as_items(scores, bounds)
    means_R = _resampled_means(values_IS, seeds, bootstrap)
    return _interval(values_IS.mean(1), means_R, bounds, bootstrap)


def paired_bootstrap(
    system: np.ndarray,
    reference: np.ndarray,
    *,
    seeds: Seeds = "average",
    bounds: tuple[float, float] | None = (0.0, 1.0),
    bootstrap: Bootstrap = DEFAULT,
) -> Comparison:
    """Interval and p-value of mean(system) - mean(reference) (Koehn 2004, section 4).

    Decoding noise is independent from item to item, and resampling items whose seeds
    were averaged covers it: `seeds="average"`. A seed that moves all items together,
    such as a training seed, is a cluster of its own: `seeds="resample"` draws seeds
    and items (Owen 2007, "The pigeonhole bootstrap"; conservative for the
    noise within a pair, but three seeds show at most two thirds of their variance).

    The p-value inverts the interval, counting the observed sample as one more
    (Davison and Hinkley 1997, chapter 4), and is never below 2^(1-m) for m items
    that differ, the least that flipping their signs could show: three items never
    are "p = 0.0002".

    Args:
      system, reference: (I,) or (S, I), the same items in the same order. Their
        numbers of seeds may differ when seeds are averaged.
      bounds: the range of a score; None where it has none, as for rewards.

    Raises:
      ValueError: items that do not match, a NaN, or a score out of its bounds.
    """
    system_IS, reference_IS = _as_items(system, bounds), _as_items(reference, bounds)
    if len(system_IS) != len(reference_IS):
        raise ValueError(
            f"{len(system_IS)} and {len(reference_IS)} items cannot be paired: "
            "compare on the items that both systems answered"
        )
    if seeds == "average":
        system_IS, reference_IS = (
            values_IS.mean(1, keepdims=True) for values_IS in (system_IS, reference_IS)
        )
    if system_IS.shape != reference_IS.shape:
        raise ValueError(
            f"{system_IS.shape[1]} and {reference_IS.shape[1]} seeds cannot be "
            'resampled in pairs: use seeds="average"'
        )
    values_IS = system_IS - reference_IS
    means_R = _resampled_means(values_IS, seeds, bootstrap)
    differences_I = values_IS.mean(1)
    if bounds is not None:
        bounds = (bounds[0] - bounds[1], bounds[1] - bounds[0])
    interval = _interval(differences_I, means_R, bounds, bootstrap)
    # Sums of thirds miss 0 by rounding: 1e-12 of the largest difference is no sign.
    tolerance = 1e-12 * max(np.abs(differences_I).max(), 1e-300)
    tail = min((means_R <= tolerance).sum(), (means_R >= -tolerance).sum())
    nonzero = int((np.abs(differences_I) > tolerance).sum())
    p_value = max(2 * (1 + tail) / (1 + len(means_R)), 2.0 ** (1 - nonzero))
    return Comparison(interval, min(1.0, float(p_value)), len(values_IS))


def count_flips(system: np.ndarray, reference: np.ndarray) -> Flips:
    """Gained and lost answers; bool arrays of one shape, seeds are pooled."""
    system, reference = np.asarray(system), np.asarray(reference)
    _check_bool(system, reference)
    return Flips(
        gained=int((system & ~reference).sum()),
        lost=int((~system & reference).sum()),
        both=int((system & reference).sum()),
        neither=int((~system & ~reference).sum()),
    )


def mcnemar(
    system_I: np.ndarray, reference_I: np.ndarray, *, mid_p: bool = False
) -> float:
    """Two-sided p-value of equal accuracy, from the items where one alone is right.

    Exact (conditional binomial), or mid-p, which counts half of the outcomes as likely
    as the observed one and is less conservative (Fagerland, Lydersen and Laake 2013,
    BMC Med. Res. Methodol. 13:91).

    Args:
      system_I, reference_I: bool, one seed: pooled seeds are no independent items.
    """
    if np.ndim(system_I) != 1:
        raise ValueError(
            f"McNemar's test got shape {np.shape(system_I)}, not (items,): with "
            "several seeds use paired_bootstrap"
        )
    flips = count_flips(system_I, reference_I)
    discordant = flips.gained + flips.lost
    if discordant == 0:
        return 1.0
    exact = float(stats.binomtest(flips.gained, discordant, 0.5).pvalue)
    if not mid_p:
        return exact
    outcomes_as_likely = 1 if flips.gained == flips.lost else 2
    likelihood = float(stats.binom.pmf(flips.gained, discordant, 0.5))
    return exact - 0.5 * outcomes_as_likely * likelihood


def holm(p_values_T: np.ndarray) -> np.ndarray:
    """adjusted_T, float64: p-values that keep the family-wise error (Holm 1979, 3).

    In: [0.01, 0.04, 0.03]. Out: [0.03, 0.06, 0.06].
    """
    p_T = np.asarray(p_values_T, np.float64)
    if p_T.ndim != 1 or not np.all((p_T >= 0) & (p_T <= 1)):
        raise ValueError(f"p-values must be a row of numbers from 0 to 1, got {p_T}")
    order_T = np.argsort(p_T, kind="stable")
    scaled_T = p_T[order_T] * np.arange(len(p_T), 0, -1)
    adjusted_T = np.empty_like(p_T)
    adjusted_T[order_T] = np.minimum(1, np.maximum.accumulate(scaled_T))
    return adjusted_T


def emergent_skill(
    system: np.ndarray,
    singles: np.ndarray,
    control: np.ndarray | None = None,
    *,
    bootstrap: Bootstrap = DEFAULT,
) -> EmergentSkill:
    """Rates of gained and lost items, with a control for mere repeated chance.

    A system that samples more often is right more often where single samples were
    wrong. The control spends the same calls without collaboration (the union of
    further samples of every single model, or random switching); only the excess over
    it is a new skill. Its samples must not be those in `singles`: on the items that
    these got wrong, their own union is right never.

    Args:
      system: bool, (I,) or (S, I), right or wrong.
      singles: bool, (M, I) or (M, S, I).
      control: bool, shaped as `system`.
    """
    system_SI = np.atleast_2d(np.asarray(system))
    singles_MSI = np.asarray(singles)
    if singles_MSI.ndim == 2:
        singles_MSI = singles_MSI[:, None]
    _check_bool(system_SI, *singles_MSI)
    wrong_SI = ~singles_MSI.any(0)
    table = [wrong_SI, ~wrong_SI, system_SI & wrong_SI, ~system_SI & ~wrong_SI]
    if control is not None:
        control_SI = np.atleast_2d(np.asarray(control))
        _check_bool(system_SI, control_SI)
        table += [control_SI & wrong_SI, ~control_SI & ~wrong_SI]
    # Seeds are averaged per item; the mean of a column then is a joint probability.
    values_IV = np.stack([column_SI.mean(0) for column_SI in table], 1)
    means_RV = _bootstrap_means(values_IV, bootstrap)
    means_V = values_IV.mean(0)

    def rate(top: int, base: int, minus: int | None = None) -> Interval:
        """The share of column `top`, or its lead on `minus`, in column `base`."""
        if means_V[base] == 0:
            return Interval(np.nan, np.nan, np.nan)
        bounds = (0.0 if minus is None else -1.0, 1.0)
        top_I, top_R = values_IV[:, top], means_RV[:, top]
        if minus is not None:
            top_I, top_R = top_I - values_IV[:, minus], top_R - means_RV[:, minus]
        # A resample in which the condition never occurs says nothing about the rate.
        kept_R, kept_I = means_RV[:, base] > 0, values_IV[:, base] > 0
        rates_R = top_R[kept_R] / means_RV[kept_R, base]
        rates_I = top_I[kept_I] / values_IV[kept_I, base]
        interval = _interval(rates_I, rates_R, bounds, bootstrap)
        return dataclasses.replace(
            interval, estimate=float(top_I.mean() / means_V[base])
        )

    net_I, net_R = values_IV[:, 2] - values_IV[:, 3], means_RV[:, 2] - means_RV[:, 3]
    return EmergentSkill(
        all_wrong=float(means_V[0] * len(values_IV)),
        some_right=float(means_V[1] * len(values_IV)),
        gain=rate(2, 0),
        loss=rate(3, 1),
        net=_interval(net_I, net_R, (-1.0, 1.0), bootstrap),
        control_gain=None if control is None else rate(4, 0),
        control_loss=None if control is None else rate(5, 1),
        excess_gain=None if control is None else rate(2, 0, minus=4),
        excess_loss=None if control is None else rate(3, 1, minus=5),
    )


def resample_counts(items: int, bootstrap: Bootstrap) -> Iterator[np.ndarray]:
    """Blocks of counts_RI, float64: how often each resample drew each item."""
    rng = np.random.default_rng(bootstrap.seed)
    block = max(1, CHUNK // items)
    for start in range(0, bootstrap.resamples, block):
        rows = min(block, bootstrap.resamples - start)
        drawn_RI = rng.integers(items, size=(rows, items))
        drawn_RI += np.arange(rows)[:, None] * items
        flat = np.bincount(drawn_RI.ravel(), minlength=rows * items)
        yield flat.reshape(rows, items).astype(np.float64)


def _bootstrap_means(values_IV: np.ndarray, bootstrap: Bootstrap) -> np.ndarray:
    """means_RV of the resampled rows; the order of the items does not matter.

    Right-or-wrong scores have few distinct rows, and how often each is drawn is
    multinomial: 10,000 resamples of 1,000 items then cost 5 ms instead of 180.
    """
    rows_UV, count_U = np.unique(values_IV, axis=0, return_counts=True)
    items = len(values_IV)
    if 8 * len(rows_UV) <= items:
        rng = np.random.default_rng(bootstrap.seed)
        drawn_RU = rng.multinomial(items, count_U / items, size=bootstrap.resamples)
        return drawn_RU @ rows_UV / items
    sorted_IV = np.repeat(rows_UV, count_U, axis=0)
    blocks = [counts_RI @ sorted_IV for counts_RI in resample_counts(items, bootstrap)]
    return np.concatenate(blocks) / items


def _resampled_means(
    values_IS: np.ndarray, seeds: Seeds, bootstrap: Bootstrap
) -> np.ndarray:
    """means_R over items, and over seeds where these are resampled too."""
    if seeds == "average":
        return _bootstrap_means(values_IS.mean(1, keepdims=True), bootstrap)[:, 0]
    S = values_IS.shape[1]
    if seeds != "resample" or S < 2:
        raise ValueError(
            f"seeds={seeds!r} with {S} seed(s): use 'average', or 'resample' with "
            "two seeds or more"
        )
    means_RS = _bootstrap_means(values_IS, bootstrap)
    # A stream of its own: seeds are drawn independently of items.
    rng = np.random.default_rng([bootstrap.seed, 1])
    drawn_RS = rng.multinomial(S, np.full(S, 1 / S), size=bootstrap.resamples)
    return (means_RS * drawn_RS).sum(1) / S


def _interval(
    values_I: np.ndarray,
    means_R: np.ndarray,
    bounds: tuple[float, float] | None,
    bootstrap: Bootstrap,
) -> Interval:
    """Percentiles of means_R, or an exact bound where all items agree.

    All resamples of 30 equal values are equal, and 0 of 30 would read as a sure 0. But
    a share of 1 - (alpha/2)^(1/I) of other items shows up in I draws with probability
    1 - alpha/2 only (Clopper and Pearson 1934): in the worst case these lie at a bound.
    """
    value, tail = float(values_I.mean()), (1 - bootstrap.level) / 2
    if bounds is not None and np.ptp(values_I) < 1e-12:
        unseen = 1 - tail ** (1 / len(values_I))
        below, above = value - bounds[0], bounds[1] - value
        return Interval(value, value - unseen * below, value + unseen * above)
    low, high = np.quantile(means_R, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def _as_items(scores: np.ndarray, bounds: tuple[float, float] | None) -> np.ndarray:
    """values_IS, float64, from (I,) or (S, I), checked."""
    values = np.asarray(scores, np.float64)
    if values.ndim not in (1, 2) or values.size == 0:
        raise ValueError(f"scores are (items,) or (seeds, items), not {values.shape}")
    low, high = bounds if bounds is not None else (-np.inf, np.inf)
    if not np.all((values >= low) & (values <= high) & np.isfinite(values)):
        raise ValueError(
            f"scores must be finite and in [{low}, {high}], got {values.min()} to "
            f"{values.max()}: score unanswered items 0, pass bounds=None for rewards"
        )
    return np.atleast_2d(values).T


def _check_bool(first: np.ndarray, *others: np.ndarray) -> None:
    """Refuses scores where right or wrong is needed, and shapes that differ."""
    for array in (first, *others):
        if array.dtype != bool or array.shape != first.shape or array.size == 0:
            raise ValueError(
                f"right or wrong must be bool arrays of one shape, got {array.dtype} "
                f"{array.shape} beside {first.shape}"
            )
