"""How often a judge prefers a system's outputs to a reference's, and at equal length.

A reward has no scale, so that outputs for one prompt are compared, never means. The
judge that labelled the data a switcher was trained on must not be the only one: the
switcher has learned to please it. And judges like long outputs, so the rate at equal
length stands beside the raw one.

Axes: **I** items, **S** seeds of the system, **Q** seeds of the reference,
**P** = S x Q comparisons of one item, **V** the two parameters of a fit. Arguments are
(I,) where there is one seed.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

from jax_switchgen.evaluation.statistics import (
    DEFAULT,
    Bootstrap,
    Interval,
    mean_interval,
)
from jax_switchgen.evaluation.tables import Table, fields, percent

# On half the squared slope, beside the sum of the losses of all items: a prior of
# standard deviation 10. Without it, wins that length separates have an infinite slope.
RIDGE = 0.01


@dataclasses.dataclass(frozen=True)
class WinRate:
    """A system against a reference on the same items.

    Attributes:
      wins, ties, losses: comparisons, each seed of one with each seed of the other.
      rate: (wins + ties / 2) / all; its interval resamples items.
      length_controlled: the rate to expect between outputs of equal length.
      length_effect: log-odds of a win for one usual difference in length.
    """

    wins: int
    ties: int
    losses: int
    rate: Interval
    length_controlled: Interval
    length_effect: float


def win_rate(
    rewards_SI: np.ndarray,
    reference_rewards_QI: np.ndarray,
    tokens_SI: np.ndarray,
    reference_tokens_QI: np.ndarray,
    *,
    margin: float = 0.0,
    bootstrap: Bootstrap = DEFAULT,
) -> WinRate:
    """The rate at which the system's reward is the higher one.

    At equal length: P(win) = sigmoid(a + b x) is fitted and sigmoid(a) reported. x is
    the difference of log(1 + tokens), divided by its root mean square and not centred,
    so that x = 0 stays equal length. This is the regression of Dubois et al. 2024
    (arXiv 2404.04475) without its term for the difficulty of an instruction, and with
    a logarithm for its tanh. A tie is half a win and half a loss.

    Where all comparisons end alike, or all differences in length are equal, nothing
    can be learned about length, and the rate stands as it is.

    Args:
      rewards_SI, reference_rewards_QI: float, the same items in the same order.
      tokens_SI, reference_tokens_QI: lengths of the outputs that were judged.
      margin: rewards that differ by no more are a tie.

    Raises:
      ValueError: shapes that do not match, or numbers that are none.
    """
    if not 0 <= margin < np.inf:
        raise ValueError(f"margin={margin} is not 0 or more; 0 ties equal rewards only")
    rewards_SI = _checked("rewards", rewards_SI)
    reference_rewards_QI = _checked("reference rewards", reference_rewards_QI)
    tokens_SI = _checked("tokens", tokens_SI, rewards_SI.shape)
    reference_tokens_QI = _checked(
        "reference tokens", reference_tokens_QI, reference_rewards_QI.shape
    )
    items, reference_items = rewards_SI.shape[1], reference_rewards_QI.shape[1]
    if items != reference_items:
        raise ValueError(
            f"{items} and {reference_items} items cannot be paired: compare on the "
            "items that both systems answered"
        )
    if min(tokens_SI.min(), reference_tokens_QI.min()) < 0:
        raise ValueError("a length is below 0; give the tokens of each output")
    gap_PI = _differences(rewards_SI, reference_rewards_QI)
    longer_PI = _differences(np.log1p(tokens_SI), np.log1p(reference_tokens_QI))
    win_PI = (1 + np.sign(gap_PI) * (np.abs(gap_PI) > margin)) / 2
    rate = mean_interval(win_PI, bootstrap=bootstrap)
    controlled, effect = rate, 0.0
    if np.ptp(win_PI) > 0 and np.ptp(longer_PI) > 0:
        x_PI = longer_PI / np.sqrt(np.mean(longer_PI**2))
        controlled, effect = _at_equal_length(win_PI, x_PI, bootstrap)
    return WinRate(
        wins=int((win_PI == 1).sum()),
        ties=int((win_PI == 0.5).sum()),
        losses=int((win_PI == 0).sum()),
        rate=rate,
        length_controlled=controlled,
        length_effect=effect,
    )


def tables(rates: Sequence[tuple[str, str, WinRate]]) -> list[Table]:
    """What the report shows of (system, task, win rate); no table without any."""
    if not rates:
        return []
    rows = []
    for system, task, found in rates:
        cells = fields("rate", found.rate) | fields("even", found.length_controlled)
        counts = [found.wins, found.ties, found.losses]
        rows.append(
            [system, task, percent(cells, "rate"), percent(cells, "even"), *counts]
        )
    return [
        {
            "title": "Preference of the reward model",
            "note": "Against the reference, in % with 95 % intervals; 50 is as good. "
            "At equal length: without what the reward model gives to length alone. The "
            "judge that labelled a switcher's data must not be the only one.",
            "columns": [
                *("System", "Task", "Win rate", "At equal length"),
                *("Wins", "Ties", "Losses"),
            ],
            "rows": rows,
        }
    ]


def _at_equal_length(
    win_PI: np.ndarray, x_PI: np.ndarray, bootstrap: Bootstrap
) -> tuple[Interval, float]:
    """sigmoid(a) with its interval, and b."""
    P, I = win_PI.shape  # noqa: E741
    design_PIV = np.stack([np.ones_like(x_PI), x_PI], -1)
    ridge_V = np.array([0.0, RIDGE / I])

    def loss(theta_V: np.ndarray) -> float:
        z_PI = design_PIV @ theta_V
        nats_PI = np.logaddexp(0, z_PI) - win_PI * z_PI
        return float(nats_PI.mean() + ridge_V @ theta_V**2 / 2)

    def item_gradients(theta_V: np.ndarray) -> np.ndarray:
        """gradient_IV of each item's part of the loss."""
        error_PI = special.expit(design_PIV @ theta_V) - win_PI
        gradient_IV = np.einsum("PI,PIV->IV", error_PI, design_PIV) / P
        return gradient_IV + ridge_V * theta_V

    def hessian(theta_V: np.ndarray) -> np.ndarray:
        """hessian_VW, of the whole loss."""
        p_PI = special.expit(design_PIV @ theta_V)
        weight_PI = p_PI * (1 - p_PI) / (P * I)
        outer_VW = np.einsum("PI,PIV,PIW->VW", weight_PI, design_PIV, design_PIV)
        return outer_VW + np.diag(ridge_V)

    theta_V = optimize.minimize(
        loss,
        np.zeros(2),
        jac=lambda theta_V: item_gradients(theta_V).mean(0),
        hess=hessian,
        method="trust-exact",
        options={"gtol": 1e-8},
    ).x
    # What each item adds to a, to first order: resampled as a score is, it spares
    # 10,000 fits, and its mean is 0 (the sandwich of Huber 1967, clustered by item).
    influence_I = -item_gradients(theta_V) @ np.linalg.inv(hessian(theta_V))[0]
    log_odds = mean_interval(theta_V[0] + influence_I, bounds=None, bootstrap=bootstrap)
    low, rate, high = special.expit([log_odds.low, theta_V[0], log_odds.high])
    return Interval(float(rate), float(low), float(high)), float(theta_V[1])


def _differences(system_SI: np.ndarray, reference_QI: np.ndarray) -> np.ndarray:
    """Each seed of the system minus each of the reference, (P, I)."""
    gap_SQI = system_SI[:, None] - reference_QI[None]
    return gap_SQI.reshape(-1, gap_SQI.shape[2])


def _checked(
    name: str, values: np.ndarray, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """float64 of (seeds, items), or a ValueError."""
    array = np.asarray(values, np.float64)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"{name} are (items,) or (seeds, items), not {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite: judge every output, or leave it out")
    array = np.atleast_2d(array)
    if shape is not None and array.shape != shape:
        raise ValueError(
            f"{name} have shape {array.shape} beside rewards of {shape}: give the "
            "length of each output"
        )
    return array
