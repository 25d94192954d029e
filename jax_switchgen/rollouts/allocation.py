"""How many completions each branch gets, and what their scores say.

Every branch may have `completions` (k) of them. Scores stand in the order in which
completions were asked for, and the j-th completions of all branches share their random
numbers, so that branches are compared pair by pair (common random numbers).

    fixed      all k at once, as in the paper.
    curtailed  in four looks; a branch ends when it could not catch up with the leader
               even if all that is left went its way. The label is that of `fixed`
               (curtailment: Bechhofer and Kulkarni 1982). Scores are from 0 to 1.
    halving    successive halving (Jamieson and Talwalkar 2016): with n branches, after
               k / 2^ceil(log2 n) completions the better half of them goes on to twice
               as many, until one is left. Branches as good as the last that goes on
               go on too.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

ALLOCATIONS = ("fixed", "curtailed", "halving")
_LOOKS = 4
_CONFIDENCE = 0.95

Scores = Sequence[Sequence[float]]


class Verdict(NamedTuple):
    """What all completions say; see `records.Rollout` for the fields."""

    utilities: tuple[float, ...]
    counts: tuple[int, ...]
    label: int
    mark: str


def next_counts(scores: Scores, allocation: str, completions: int) -> list[int]:
    """How many completions each branch is to have next; where nothing changes, all is
    known.

    Args:
      scores: of each branch's completions so far.
      allocation: one of `ALLOCATIONS`.
    """
    done = max(map(len, scores))
    going = [i for i, branch in enumerate(scores) if len(branch) == done]
    if allocation == "fixed":
        target = completions
    elif allocation == "curtailed":
        going = _can_win(scores, going, completions - done)
        target = min(completions, done + max(1, completions // _LOOKS))
    else:
        rungs = math.ceil(math.log2(len(scores))) if len(scores) > 1 else 0
        first = max(1, completions >> rungs)
        if done:
            going = _better_half(scores, going)
        target = min(completions, 2 * done) if done else first
    counts = [len(branch) for branch in scores]
    if done == 0 or len(going) > 1:
        for i in going:
            counts[i] = target
    return counts


def verdict(scores: Scores) -> Verdict:
    """Utilities, and the best of the branches that were followed to the end."""
    done = max(map(len, scores))
    utilities = [float(np.mean(branch)) for branch in scores]
    last = [i for i, branch in enumerate(scores) if len(branch) == done]
    label = max(last, key=lambda i: utilities[i])
    return Verdict(
        tuple(utilities),
        tuple(len(branch) for branch in scores),
        label,
        _mark(scores, label),
    )


def _can_win(scores: Scores, going: list[int], left: int) -> list[int]:
    totals = {i: sum(scores[i]) for i in going}
    # Sums of many floats: a tie must not end a branch.
    least = max(totals.values()) - 1e-9
    return [i for i in going if totals[i] + left >= least]


def _better_half(scores: Scores, going: list[int]) -> list[int]:
    means = {i: float(np.mean(scores[i])) for i in going}
    ranked = sorted(means.values(), reverse=True)
    least = ranked[(len(going) + 1) // 2 - 1]
    return [i for i in going if means[i] >= least]


def _mark(scores: Scores, label: int) -> str:
    """How far the best branch is ahead of each other one, by a paired t-test with a
    one-sided level of 5 %; the least of these."""
    marks = {_compared(scores[label], s) for i, s in enumerate(scores) if i != label}
    return next((m for m in ("tie", "noise") if m in marks), "clear")


def _compared(best: Sequence[float], other: Sequence[float]) -> str:
    n = min(len(best), len(other))
    ahead = np.subtract(best[:n], other[:n])
    if abs(ahead.mean()) < 1e-9 and n == len(best):
        return "tie"
    if n < 2:
        return "noise"
    error = ahead.std(ddof=1) / math.sqrt(n)
    beyond = ahead.mean() > stats.t.ppf(_CONFIDENCE, n - 1) * error
    return "clear" if beyond else "noise"
