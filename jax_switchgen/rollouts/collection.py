"""A whole collection: from tasks to a file of labelled examples, killed and resumed."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.job_output import JobOutput
from jax_switchgen.generation.rewards import RewardModel
from jax_switchgen.rollouts.allocation import Verdict, verdict
from jax_switchgen.rollouts.branching import Branched, Branching, Judge, Place
from jax_switchgen.rollouts.options import RolloutOptions
from jax_switchgen.rollouts.pool import Pool
from jax_switchgen.rollouts.records import Rollout, rollout_line
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


class Collection:
    """Rollouts for some places, in one file.

    Args:
      places: of all shards.
      shard, num_shards: this process takes every `num_shards`-th place, and writes a
        file of its own: rollouts.jsonl becomes rollouts-00001-of-00004.jsonl.
      config: JSON of what decides a record: sections `generation` and `rollouts`.

    Attributes:
      path: of the file.
      left: places that are not labelled yet, by their number.
      refused: one line for each place that the engine refuses.

    Raises:
      ValueError: the file is another collection's.
    """

    def __init__(
        self,
        places: Sequence[Place],
        options: RolloutOptions,
        pool: Pool,
        config: Mapping[str, Any],
        *,
        shard: int = 0,
        num_shards: int = 1,
    ):
        self._options = options
        self._pool = pool
        self._config = _what_decides(config)
        numbered = dict(list(enumerate(places))[shard::num_shards])
        self.path = _shard_path(Path(options.output), shard, num_shards)
        identity = {
            "pool": dataclasses.asdict(pool),
            "config": self._config,
            "shard": [shard, num_shards],
            "records": [[p.request.id, p.record.prompt] for p in places],
        }
        self._output = JobOutput(self.path, identity, frozenset())
        self.num_kept = len(self._output.numbers)
        self._places = numbered
        self.left = {
            number: place
            for number, place in numbered.items()
            if number not in self._output.numbers
        }
        if self._output.complete:
            self.left = {}
        self.refused: list[str] = []

    @property
    def complete(self) -> bool:
        """The file exists, and is the one that this collection would write."""
        return self._output.complete

    def run(self, engine: Engine, judge: Judge) -> Iterator[Collected]:
        """Labels what is left, then puts the file in place.

        A place is yielded after its line is on disk.

        Args:
          engine: of the pool, its policy random switching.
        """
        self._check(engine)
        journal = self._output.open()
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
        self._output.finish(sorted(self._output.numbers))

    def _check(self, engine: Engine) -> None:
        for number, place in list(self.left.items()):
            try:
                engine.check(place.request)
            except ValueError as error:
                self.refused.append(f"{place.request.id}: {error}")
                del self.left[number]

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


def _shard_path(path: Path, shard: int, num_shards: int) -> Path:
    if num_shards == 1:
        return path
    return path.with_name(f"{path.stem}-{shard:05}-of-{num_shards:05}{path.suffix}")
