"""The `evaluation` section of a config."""

import dataclasses

from jax_switchgen.tasks.catalogue import find_task
from jax_switchgen.tasks.datasets import SPLITS
from jax_switchgen.tasks.record import Record, Scorer, Task
from jax_switchgen.tasks.selection import OwnTask, load_tasks


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Which systems are compared on which records.

    Attributes:
      tasks: names of prepared tasks.
      split: "dev" or "test".
      num_records: of each task, drawn once for all systems and seeds; 0 takes all.
      seeds: of generation; each is a further answer of each system to each record.
      samples: answers of each system to each prompt of a diversity task.
      choices: whether multiple choice is also judged by log-probability.
      reward_model: judges the tasks that have no golds, and the quality of diverse
        answers; a folder or a hub name, or None.
      systems: as `systems.make_systems` names them.
      reference: the system that all others are compared with.
    """

    tasks: tuple[str, ...]
    systems: tuple[str, ...]
    reference: str
    own_tasks: tuple[OwnTask, ...] = ()
    split: str = "test"
    num_records: int = 0
    seeds: tuple[int, ...] = (0, 1, 2)
    samples: int = 10
    choices: bool = True
    reward_model: str | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"evaluation.split={self.split!r} is not dev or test")
        if self.num_records < 0:
            raise ValueError(f"evaluation.num_records={self.num_records} is below 0")
        if self.reference not in self.systems:
            raise ValueError(
                f"evaluation.reference={self.reference!r} is none of the systems"
            )
        if not self.seeds or not (self.tasks or self.own_tasks):
            raise ValueError("evaluation needs at least one seed and one task")
        if self.samples < 2:
            raise ValueError(f"evaluation.samples={self.samples} must be 2 or more")
        for name in self.tasks:
            if find_task(name).scorer is Scorer.REWARD and self.reward_model is None:
                raise ValueError(
                    f"evaluation.tasks: {name!r} is judged by a reward model; set "
                    "evaluation.reward_model, or leave the task out"
                )

    def seeds_of(self, task: Task) -> tuple[int, ...]:
        """Of diverse answers there are more, and they have no other use of seeds."""
        if task.scorer is Scorer.DIVERSITY:
            return tuple(range(self.samples))
        return self.seeds

    def load(self) -> tuple[list[tuple[Task, list[Record]]], list[str]]:
        """All tasks with their records, and a line for each record that can't be
        read."""
        return load_tasks(self.tasks, self.own_tasks, self.split)
