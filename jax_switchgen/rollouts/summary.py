"""What a file of rollouts says, as a table."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from rich.table import Table

from jax_switchgen.rollouts.records import MARKS, Rollout


@dataclasses.dataclass(frozen=True)
class Worth:
    """What choosing well at the labelled places would be worth, in mean utility.

    Attributes:
      chance: of a candidate drawn at random.
      always: of each candidate, everywhere.
      best: of the best branch of each place. It is chosen and judged by the same
        completions, and so too high.
    """

    chance: float
    always: tuple[float, ...]
    best: float


def worth(rollouts: Sequence[Rollout]) -> Worth:
    """Over all places; at least one."""
    utility_NC = np.array([r.utilities for r in rollouts])
    return Worth(
        chance=float(utility_NC.mean()),
        always=tuple(utility_NC.mean(0).tolist()),
        best=float(np.mean([r.utilities[r.label] for r in rollouts])),
    )


def label_table(rollouts: Sequence[Rollout]) -> Table:
    """How often each candidate is the label, how clearly, and what it is worth."""
    found = worth(rollouts)
    table = Table("label", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("places", *MARKS, "always this one"):
        table.add_column(column, justify="right")
    for index, name in enumerate(rollouts[0].pool.candidates):
        marks = [r.mark for r in rollouts if r.label == index]
        table.add_row(
            name,
            str(len(marks)),
            *(str(marks.count(mark)) for mark in MARKS),
            f"{found.always[index]:.3f}",
        )
    completions = sum(sum(r.counts) for r in rollouts)
    table.caption = (
        f"{len(rollouts)} places, {completions} completions · mean utility of a "
        f"random choice {found.chance:.3f}, of the best branch {found.best:.3f} "
        "(in hindsight)"
    )
    table.caption_justify = "left"
    return table
