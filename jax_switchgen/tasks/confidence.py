"""The gap between stated confidence and accuracy, in bins of equally many items.

Axes: **I** items, **B** bins. Items of equal confidence share a bin, so that no result
depends on the order of the items.
"""

import dataclasses

import numpy as np
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Reliability:
    """The points of a reliability diagram, empty bins left out."""

    count_B: np.ndarray  # int64, items in the bin
    confidence_B: np.ndarray  # float64, their mean confidence
    accuracy_B: np.ndarray  # float64, the share of them that is right


def reliability(
    confidence_I: np.ndarray, correct_I: np.ndarray, *, bins: int = 15
) -> Reliability:
    """Mean confidence and accuracy of equal-mass bins."""
    confidence_I, correct_I = checked(confidence_I, correct_I)
    bin_I = equal_mass_bins(confidence_I, bins)
    count_B = np.bincount(bin_I)
    full_B = count_B > 0
    count_B = count_B[full_B]
    return Reliability(
        count_B=count_B,
        confidence_B=np.bincount(bin_I, confidence_I)[full_B] / count_B,
        accuracy_B=np.bincount(bin_I, correct_I)[full_B] / count_B,
    )


def ece(confidence_I: np.ndarray, correct_I: np.ndarray, *, bins: int = 15) -> float:
    """Sum over bins of items/I · |accuracy - confidence| (Naeini et al. 2015).

    Bins hold equal numbers of items (Nixon et al. 2019): confidences crowd
    near 1, where bins of equal width would put most items into one.
    """
    points = reliability(confidence_I, correct_I, bins=bins)
    gap_B = np.abs(points.accuracy_B - points.confidence_B)
    return float(points.count_B @ gap_B / points.count_B.sum())


def equal_mass_bins(confidence_I: np.ndarray, bins: int) -> np.ndarray:
    """bin_I, int64 in 0 … bins - 1, of equal size up to ties.

    In: [0.9, 0.2, 0.9, 0.9, 0.5, 0.1] in 3 bins. Out: [2, 0, 2, 2, 1, 0].
    """
    if bins < 1:
        raise ValueError(f"bins={bins} must be 1 or more")
    rank_I = stats.rankdata(confidence_I) - 0.5
    return np.floor(rank_I * bins / len(rank_I)).astype(np.int64)


def checked(
    confidence_I: np.ndarray, correct_I: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """float64 confidence_I and bool correct_I, or a ValueError."""
    confidence_I = np.asarray(confidence_I, np.float64)
    correct_I = np.asarray(correct_I)
    if confidence_I.ndim != 1 or confidence_I.shape != correct_I.shape:
        raise ValueError(
            f"confidence and correctness must be (items,), got {confidence_I.shape} "
            f"and {correct_I.shape}"
        )
    if not len(correct_I) or correct_I.dtype != bool:
        raise ValueError(f"correctness must be bool and not empty, got {correct_I!r}")
    if not np.all((confidence_I >= 0) & (confidence_I <= 1)):
        raise ValueError(
            f"confidences must lie in [0, 1], got {confidence_I.min()} to "
            f"{confidence_I.max()}: normalise over the options"
        )
    return confidence_I, correct_I
