"""A whole collection: from tasks to a file of labelled examples, killed and resumed."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.job_output import JobOutput, Shard
from jax_switchgen.generation.rewards import RewardModel
from jax_switchgen.generation.storage import job_path
from jax_switchgen.rollouts.allocation import Verdict, verdict
from jax_switchgen.rollouts.branching import Branched, Branching, Judge, Place
from jax_switchgen.rollouts.options import RolloutOptions
from jax_switchgen.rollouts.pool import Pool
from jax_switchgen.rollouts.records import MARKS, Rollout, rollout_line
from jax_switchgen.tasks.record import COMPARED, Record, Task
from jax_switchgen.tasks.scoring import score
from jax_switchgen.tasks.selection import sample_records

# They change no token: randomness belongs to the request.
SCHEDULING = ("batch_size", "in_flight", "cache_gib")


@dataclasses.dataclass(frozen=True)
class Collected:
    """One place is labelled, and on disk.

    Attributes:
      tokens, responses: written and completed so far, for all places.
    """

    place: Place
    verdict: Verdict
    tokens: int
    responses: int


def make_places(
    tasks: Sequence[tuple[Task, Sequence[Record]]], options: RolloutOptions, seed: int
) -> list[Place]:
    """Every task's records, and `options.places` places in responses to each."""
    return [
        Place(task, record, number)
        for task, records in tasks
        for record in sample_records(records, options.num_records, seed)
        for number in range(options.places)
    ]


def make_judge(load_reward_model: Callable[[], RewardModel]) -> Judge:
    """The scores of evaluation; a reward model is loaded when the first task needs it,
    once."""
    loaded: list[RewardModel] = []

    def judge(task: Task, record: Record, outputs: Sequence[str]) -> list[float]:
        if task.scorer not in COMPARED:
            return [score(task, record, output).value for output in outputs]
        if not loaded:
            loaded.append(load_reward_model())
        return loaded[0].rewards([(record.prompt, o) for o in outputs]).tolist()

    return judge


class Labelled:
    """How often each candidate is the label, and how clearly: what a report says."""

    def __init__(self, candidates: Sequence[str]):
        self._candidates = candidates
        self._labels: Counter[str] = Counter()
        self._marks: Counter[str] = Counter()
        self._completions = 0

    def add(self, record: dict[str, Any]) -> None:
        self._labels[self._candidates[record["label"]]] += 1
        self._marks[record["mark"]] += 1
        self._completions += sum(record["counts"])

    def as_json(self) -> dict[str, Any]:
        return {
            "labels": {name: self._labels[name] for name in self._candidates},
            "marks": {mark: self._marks[mark] for mark in MARKS},
            "completions": self._completions,
        }


class Collection:
    """Rollouts for some places, in one file.

    Args:
      places: of all shards.
      shard: this process's part, which is written to a file of its own.
      config: JSON of what decides a record: sections `generation` and `rollouts`.

    Attributes:
      output: the files, and what is there of them.
      left: this process's places that are not labelled yet, by their number.
      num_kept: of its places that earlier runs have labelled.
      refused: by number, why the engine refuses a place.

    Raises:
      ValueError: the file is another collection's.
    """

    def __init__(
        self,
        places: Sequence[Place],
        options: RolloutOptions,
        pool: Pool,
        config: Mapping[str, Any],
        shard: Shard = Shard(),  # noqa: B008, it is frozen
    ):
        self._options = options
        self._pool = pool
        self._config = _what_decides(config)
        identity = {
            "pool": dataclasses.asdict(pool),
            "config": self._config,
            "records": [[p.request.id, p.record.prompt] for p in places],
        }
        self.output = JobOutput(
            job_path(options.output),
            identity,
            frozenset(),
            shard=shard,
            numbers=range(len(places)),
            unreadable={},
            summary=lambda: Labelled(pool.candidates),
        )
        self.num_kept = len(self.output.done)
        self.left: dict[int, Place] = {}
        if not self.output.shard_complete:
            numbers = shard.of(range(len(places)))
            self.left = {n: places[n] for n in numbers if n not in self.output.done}
        self.refused: dict[int, str] = {}

    def run(self, engine: Engine, judge: Judge) -> Iterator[Collected]:
        """Labels what is left, then puts the file in place.

        A place is yielded after its line is on disk.

        Args:
          engine: of the pool, its policy random switching.
        """
        self._check(engine)
        journal = self.output.open()
        if self.left:
            numbers = {place: number for number, place in self.left.items()}
            branching = Branching(
                engine,
                judge,
                list(self.left.values()),
                span=(self._options.earliest, self._options.latest),
                completions=self._options.completions,
                allocation=self._options.allocation,
            )
            for branched in branching.run():
                found = verdict(branched.scores)
                line = self._record(branched, found, engine.options.seed)
                journal.append(numbers[branched.place], line)
                yield Collected(
                    branched.place, found, branching.tokens, branching.responses
                )
        self.output.finish(self.refused)

    def _check(self, engine: Engine) -> None:
        """Takes out what the engine refuses; what is left comes long ones first, so
        that rows of like length share passes."""
        tokens: dict[int, int] = {}
        for number, place in list(self.left.items()):
            try:
                tokens[number] = engine.check(place.request)
            except ValueError as error:
                self.refused[number] = f"{place.request.id}: {error}"
                del self.left[number]
        order = sorted(self.left, key=lambda number: -tokens[number])
        self.left = {number: self.left[number] for number in order}

    def _record(self, branched: Branched, found: Verdict, seed: int) -> dict[str, Any]:
        place = branched.place
        rollout = Rollout(
            id=place.record.id,
            task=place.task.name,
            query=place.record.prompt,
            trace=tuple(branched.trace),
            seed=seed,
            config=self._config,
            pool=self._pool,
            **found._asdict(),
        )
        further = {"place": place.number, "scores": branched.scores}
        return json.loads(rollout_line(rollout)) | further


def _what_decides(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without what changes no record, or says where it is written."""
    left_out = {"generation": SCHEDULING, "rollouts": ("output",)}
    return {
        section: {k: v for k, v in config[section].items() if k not in names}
        for section, names in left_out.items()
    }
