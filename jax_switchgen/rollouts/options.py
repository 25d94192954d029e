"""The `rollouts` section of a config."""

import dataclasses

from jax_switchgen.rollouts.allocation import ALLOCATIONS
from jax_switchgen.tasks.catalogue import find_task
from jax_switchgen.tasks.datasets import SPLITS
from jax_switchgen.tasks.record import COMPARED, Record, Scorer, Task
from jax_switchgen.tasks.selection import OwnTask, load_tasks


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutOptions:
    """What the switcher is to learn from.

    Attributes:
      output: the JSONL file of labelled examples.
      tasks: names of prepared tasks.
      own_tasks: a user's own.
      split: "dev" or "test".
      num_records: of each task, drawn with `generation.seed`; 0 takes all.
      places: how many responses of each query are cut and labelled.
      completions: of each branch, at most.
      allocation: who gets them, one of `allocation.ALLOCATIONS`.
      earliest, latest: shares of the token budget between which responses are cut.
      reward_model: judges tasks without golds; a folder or a hub name, or None.
    """

    output: str
    tasks: tuple[str, ...]
    own_tasks: tuple[OwnTask, ...] = ()
    split: str = "dev"
    num_records: int = 0
    places: int = 1
    completions: int = 8
    allocation: str = "fixed"
    earliest: float = 0.1
    latest: float = 0.9
    reward_model: str | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"rollouts.split={self.split!r} is not dev or test")
        if self.num_records < 0:
            raise ValueError(f"rollouts.num_records={self.num_records} is below 0")
        for name in ("places", "completions"):
            if getattr(self, name) < 1:
                value = getattr(self, name)
                raise ValueError(f"rollouts.{name}={value} must be 1 or more")
        if self.allocation not in ALLOCATIONS:
            raise ValueError(
                f"rollouts.allocation={self.allocation!r} is not one of "
                f"{', '.join(ALLOCATIONS)}"
            )
        if not 0 <= self.earliest <= self.latest < 1:
            raise ValueError(
                f"rollouts.earliest={self.earliest} and rollouts.latest={self.latest} "
                "must be shares of the budget, in order, 0 … below 1"
            )
        if not (self.tasks or self.own_tasks):
            raise ValueError("rollouts needs at least one task")

    def load(self) -> tuple[list[tuple[Task, list[Record]]], list[str]]:
        """All tasks with their records, and a line for each record that can't be
        read.

        Raises:
          ValueError: a task can't label branches.
        """
        for name in self.tasks:
            self._check(find_task(name))
        tasks, problems = load_tasks(self.tasks, self.own_tasks, self.split)
        for task, _ in tasks:
            self._check(task)
        return tasks, problems

    def _check(self, task: Task) -> None:
        if task.scorer is Scorer.DIVERSITY:
            raise ValueError(
                f"rollouts.tasks: {task.name!r} compares several answers, and gives "
                "none of them a score; leave it out"
            )
        if task.scorer not in COMPARED:
            return
        if self.reward_model is None:
            raise ValueError(
                f"rollouts.tasks: {task.name!r} is judged by a reward model; set "
                "rollouts.reward_model, or leave the task out"
            )
        if self.allocation == "curtailed":
            raise ValueError(
                f"rollouts.allocation='curtailed' needs scores from 0 to 1, and "
                f"{task.name!r} is judged by a reward model; use 'fixed' or 'halving'"
            )
