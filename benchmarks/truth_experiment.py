"""The files of one experiment in the world of `truth_world.py`, and its systems."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import truth_models
from truth_models import Course, Size
from truth_world import CANDIDATES, TASK, TYPES, World

from jax_switchgen.generation.decision import Policy, Speak, Turn
from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.options import GenerationOptions
from jax_switchgen.generation.trace import Request, Response
from jax_switchgen.policies.build import (
    CandidateOptions,
    PolicyOptions,
    SwitcherSource,
    build_engine,
)
from jax_switchgen.rollouts.pool import pool_of
from jax_switchgen.rollouts.records import MARKS, read_rollouts

ROOT = Path(__file__).resolve().parent.parent
ORACLE, TRAINED, UNTRAINED, RANDOM = "oracle", "trained", "untrained", "random"
NEW_TYPES, NEW_WORDS = "new words and type sequences", "new words alone"


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides the result.

    Attributes:
      lessons: queries that candidates learn from.
      as_taught: share of its segments that a candidate must write as it was taught to,
        before anything else is done.
      labelled: queries that rollouts are collected for, at one place each.
      completions: of each branch.
      tests: queries of each kind that systems are compared on.
      batch_size: in training the switcher.
      rows: of a decode pass.
    """

    world: World
    candidate: Size
    course: Course
    lessons: int
    as_taught: float
    labelled: int
    completions: int
    learning_rate: float
    batch_size: int
    epochs: int
    tests: int
    rows: int


CONFIG = '''"""Written by benchmarks/known_truth.py."""

from ml_collections import ConfigDict

from configs import presets

FOLDER = {folder!r}
NAMES = {names!r}


def get_config(variant=""):
    candidates = [presets.candidate(n, f"{{FOLDER}}/{{n}}", "raw") for n in NAMES]
    config = presets.pool(
        tuple(candidates), f"{{FOLDER}}/{{NAMES[0]}}", aligned=NAMES[0], variant=variant
    )
    config.dtype = "float32"
    config.generation.update({generation!r})
    config.rollouts = presets.rollouts(f"{{FOLDER}}/rollouts.jsonl", ())
    config.rollouts.own_tasks = (ConfigDict({task!r}),)
    config.rollouts.update({rollouts!r})
    config.training = presets.training(
        (config.rollouts.output,), f"{{FOLDER}}/training", compute_dtype="float32"
    )
    config.training.update({training!r})
    return config
'''


class Oracle(Policy):
    """Lets the candidate speak whom the type of the next word names."""

    def step(self, turns: Sequence[Turn]) -> list[Speak]:
        # "green:qwer red:tyui": after one segment it is the turn of red.
        next_words = [turn.query.split()[len(turn.history)] for turn in turns]
        return [Speak(TYPES.index(word.split(":")[0])) for word in next_words]


class Experiment:
    """The files of one experiment; what is there is not made again.

    Attributes:
      tests: queries to compare systems on, by kind.
    """

    def __init__(self, settings: Settings, folder: Path):
        self.settings = settings
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "settings.json"
        text = json.dumps(dataclasses.asdict(settings), indent=2)
        if path.exists() and path.read_text() != text:
            raise SystemExit(f"error: {path} has other settings; name another --folder")
        path.write_text(text)
        world = settings.world
        self.tests = {
            NEW_TYPES: world.queries(settings.tests, 2, new_words=True, new_types=True),
            NEW_WORDS: world.queries(settings.tests, 3, new_words=True),
        }
        self.labelled = world.queries(settings.labelled, 1)
        self._generation = dict(
            segment_length=world.length,
            max_new_tokens=world.length * world.words,
            temperature=0.7,
            top_p=0.9,
            batch_size=settings.rows,
            in_flight=4 * settings.rows,
            cache_gib=1.0,
        )
        self._candidates = tuple(
            CandidateOptions(name=n, path=f"{self.folder}/{n}", prompt_format="raw")
            for n in CANDIDATES
        )

    def make_models(self) -> None:
        """The candidates; the first is the switcher, too, as it begins."""
        settings = self.settings
        source = self.folder / "candidate.source"
        truth_models.write_source(source, settings.candidate)
        lessons = settings.world.queries(settings.lessons, 0)
        truth_models.train_candidates(lessons, settings.course, source, self.folder)

    def write_config(self) -> None:
        """What the launchers are told, and the queries to label."""
        lines = [json.dumps(q.item(i)) + "\n" for i, q in enumerate(self.labelled)]
        queries = self.folder / "queries.jsonl"
        queries.write_text("".join(lines))
        text = CONFIG.format(
            folder=str(self.folder),
            names=CANDIDATES,
            generation=self._generation,
            task=dict(name=TASK.name, path=str(queries), scorer=TASK.scorer.value),
            # All places are labelled, the first one too.
            rollouts=dict(completions=self.settings.completions, earliest=0.0),
            training=dict(
                learning_rate=self.settings.learning_rate,
                batch_size=self.settings.batch_size,
                epochs=self.settings.epochs,
                lora_rank=0,
                drop_unclear=True,
                remat=False,
            ),
        )
        (self.folder / "config.py").write_text(text)

    def launch(self, name: str) -> None:
        """Runs a launcher as its users do; what it prints goes to stderr."""
        config = f"--config={self.folder}/config.py"
        command = [sys.executable, str(ROOT / "launch" / name), config]
        if code := subprocess.run(command, stdout=sys.stderr).returncode:
            raise SystemExit(f"error: launch/{name} ended with exit code {code}")

    def responses(self, system: str) -> dict[str, list[Response]]:
        """To all tests, by kind."""
        queries = [query for kind in self.tests.values() for query in kind]
        requests = [Request(q.record(i).prompt, i) for i, q in enumerate(queries)]
        found = iter(self._engine(system).generate(requests))
        return {kind: [next(found) for _ in self.tests[kind]] for kind in self.tests}

    def _engine(self, system: str) -> Engine:
        policy, switcher = PolicyOptions(name="random"), CANDIDATES[0]
        if system in CANDIDATES:
            policy = PolicyOptions(name="fixed", speaker=system)
        if system in (TRAINED, UNTRAINED):
            policy = PolicyOptions(name="switcher")
            switcher = "training/switcher" if system == TRAINED else CANDIDATES[0]
        engine = build_engine(
            self._candidates,
            policy,
            SwitcherSource(path=str(self.folder / switcher)),
            GenerationOptions(**self._generation),
            dtype="float32",
        )
        if system == ORACLE:
            engine.policy = Oracle()
        return engine

    def labels(self) -> list[dict[str, Any]]:
        """How many labels name the right speaker, by segments before them and mark."""
        pool = pool_of(self._candidates)
        rollouts = read_rollouts(self.folder / "rollouts.jsonl", pool)
        found = []
        for before in range(self.settings.world.words):
            for mark in MARKS:
                right = [
                    r.label == self.labelled[int(r.id)].types[before]
                    for r in rollouts
                    if len(r.trace) == before and r.mark == mark
                ]
                counts = dict(places=len(right), right=sum(right))
                found.append(dict(before=before, mark=mark, **counts))
        return found
