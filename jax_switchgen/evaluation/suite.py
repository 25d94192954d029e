"""A whole evaluation: all systems on all tasks, and everything that is measured.

Models are loaded only when something is left to compute.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_switchgen.evaluation import preference, safety, variety
from jax_switchgen.evaluation.choices import ChoiceReader, Choices, choice_rows
from jax_switchgen.evaluation.kept import Kept
from jax_switchgen.evaluation.options import EvaluationOptions
from jax_switchgen.evaluation.run import Result, Work
from jax_switchgen.evaluation.systems import System, Written, make_systems
from jax_switchgen.generation.embeddings import embed
from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.likelihood import Likelihood
from jax_switchgen.generation.rewards import RewardModel
from jax_switchgen.generation.speaker import Speaker
from jax_switchgen.tasks.catalogue import TASKS
from jax_switchgen.tasks.datasets import load_records
from jax_switchgen.tasks.record import Record, Scorer, Task
from jax_switchgen.tasks.selection import sample_records

Row = dict[str, Any]


class Suite:
    """Everything that one evaluation measures.

    Args:
      tasks: with all records of the split.
      candidates: their names.
      settings: of the pool, JSON; results of other settings are refused.
      load_engine, load_reward_model: called once, and only if needed.
      progress: is told what is being computed.
    """

    def __init__(
        self,
        options: EvaluationOptions,
        tasks: Sequence[tuple[Task, Sequence[Record]]],
        output: Path,
        *,
        candidates: Sequence[str],
        settings: Mapping[str, Any],
        load_engine: Callable[[], Engine],
        load_reward_model: Callable[[], RewardModel],
        progress: Callable[[str], None],
    ):
        self.options = options
        self.tasks = [
            (task, sample_records(records, options.num_records, seed=0))
            for task, records in tasks
        ]
        self._candidates = list(candidates)
        self._load_engine = load_engine
        self._load_reward_model = load_reward_model
        self._kept = Kept(output / "kept", settings, progress)
        # All files are read first: wrong settings show at once, and what is left is
        # known.
        self._works = [
            (
                name,
                Work(name, task, records, options.seeds_of(task), output, settings),
            )
            for name, (task, records) in itertools.product(options.systems, self.tasks)
        ]

    @property
    def num_left(self) -> int:
        """Answers that are not there yet."""
        return sum(len(work.left) for _, work in self._works)

    @functools.cached_property
    def _engine(self) -> Engine:
        return self._load_engine()

    @functools.cached_property
    def _systems(self) -> dict[str, System]:
        engine = self._engine
        longest = [
            max((record.prompt for record in records), key=len)
            for _, records in self.tasks
            if records
        ]
        made = make_systems(
            self.options.systems,
            engine.speakers,
            engine.policy,
            engine.options,
            longest,
        )
        return {system.name: system for system in made}

    def results(self, answered: Callable[[str, int, int], None]) -> list[Result]:
        """All answers with their scores.

        Args:
          answered: is told after each answer the name of what is at work, how many
            answers were left of it, and how many of these there are.
        """
        found = []
        for name, work in self._works:
            if not work.left:
                found += work.results()
                continue
            title = f"{name} · {work.task.name}"
            found += work.run(
                self._systems[name],
                functools.partial(answered, title, len(work.left)),
            )
        return found

    def choices(self) -> list[Row]:
        """Multiple choice by log-probability; see `choices.choice_rows`."""
        tasks = [
            Choices(task.name, records, self._dev_records(task))
            for task, records in self.tasks
            if task.scorer is Scorer.CHOICE
        ]
        if not tasks or not self.options.choices:
            return []
        one_by_one = ("vote", "self_consistency")
        systems = [
            name for name in self.options.systems if not name.startswith(one_by_one)
        ]
        reader = ChoiceReader(self._kept, self._candidates, self._likelihood)
        return choice_rows(systems, self.options.reference, tasks, reader)

    def tables(self, results: Sequence[Result]) -> list[Row]:
        """Safety, diversity and preference, as the report shows them."""
        by_scorer: dict[Scorer, list[Result]] = {scorer: [] for scorer in Scorer}
        scorers = {task.name: task.scorer for task, _ in self.tasks}
        for result in results:
            by_scorer[scorers[result.cell.task]].append(result)
        return [
            *safety.tables(results, self.options.reference),
            *variety.tables(self._diversity(by_scorer[Scorer.DIVERSITY])),
            *preference.tables(self._preference(by_scorer[Scorer.REWARD])),
        ]

    def _diversity(self, results: Sequence[Result]) -> list[Row]:
        if not results:
            return []
        reference = self.options.reference

        def compute() -> list[Row]:
            speaker = self._reference_speaker()
            if self.options.reward_model is None:
                quality = variety.likelihood_quality(speaker, self._engine.options)
            else:
                quality = self._reward_model.rewards
            return variety.measure(
                results,
                reference,
                encode=lambda texts: embed(speaker, texts),
                quality=quality,
            )

        return self._kept.get("diversity", _outputs(results), compute)

    def _preference(
        self, results: Sequence[Result]
    ) -> list[tuple[str, str, preference.WinRate]]:
        rewards: dict[tuple[str, str], list[list[float]]] = {}
        tokens: dict[tuple[str, str], list[list[int]]] = {}
        for result in results:
            cell = result.cell
            pairs = [(row["prompt"], row["output"]) for row in result.rows]
            found = self._kept.get(
                f"rewards/{cell.system}/{cell.task}-{cell.seed}",
                [self.options.reward_model, pairs],
                functools.partial(self._rewards, pairs),
            )
            key = cell.system, cell.task
            rewards.setdefault(key, []).append(found)
            tokens.setdefault(key, []).append([row["tokens"] for row in result.rows])
        reference = self.options.reference
        return [
            (
                system,
                task,
                preference.win_rate(
                    np.array(rewards[system, task]),
                    np.array(rewards[reference, task]),
                    np.array(tokens[system, task]),
                    np.array(tokens[reference, task]),
                ),
            )
            for system, task in rewards
            if system != reference
        ]

    def _reference_speaker(self) -> Speaker:
        """The candidate that the reference system is made of, or the last one."""
        _, _, name = self.options.reference.partition(":")
        named = [s for s in self._engine.speakers if s.name == name]
        return (named or self._engine.speakers)[-1]

    def _rewards(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return self._reward_model.rewards(pairs).tolist()

    @functools.cached_property
    def _reward_model(self) -> RewardModel:
        return self._load_reward_model()

    def _likelihood(self, name: str) -> Likelihood:
        system = self._systems[name]
        assert isinstance(system, Written)
        return Likelihood(system.speakers, system.policy, system.options)

    def _dev_records(self, task: Task) -> list[Record]:
        """For the control of calibration; a user's own task has none."""
        if task.name not in TASKS or self.options.split == "dev":
            return []
        records = load_records(task.name, "dev")
        return sample_records(records, self.options.num_records, seed=0)


def _outputs(results: Sequence[Result]) -> list[list[str]]:
    return [
        [result.cell.system, *(row["output"] for row in result.rows)]
        for result in results
    ]
