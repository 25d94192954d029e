"""Labelled examples for the switcher, on disk: all that training knows of rollouts.

A file is JSONL, a `Rollout` a line, every line complete in itself: shards of a job can
be put together with `cat`. One line, here broken into several:

    {"id": "gsm8k-7", "task": "gsm8k", "query": "How many …",
     "trace": [{"speaker": "aligned", "token_ids": [1, 2], "text": "He has", …}, …],
     "utilities": [0.25, 0.75], "counts": [4, 4], "label": 1, "mark": "clear",
     "seed": 3, "config": {"completions": 4, …},
     "pool": {"fingerprint": "9d0c…", "candidates": ["pretrained", "aligned"]}}
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from jax_switchgen.generation.trace import CUE, Segment
from jax_switchgen.rollouts.pool import Pool

# How far the label stands out: two branches are equally good; the best one is ahead by
# no more than chance; it is ahead.
MARKS = ("tie", "noise", "clear")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """One place in one response, and what came of letting each candidate go on there.

    Attributes:
      id: of the query, unique within its task; several places of one query share it.
      trace: the segments before the place, cues included.
      utilities: for each candidate the mean score of its branch's completions.
      counts: of completions behind each utility.
      label: the candidate whose branch is best; of equals any.
      mark: one of `MARKS`.
      seed: of the random switching.
      config: JSON; the settings that the rollouts were collected with.

    Raises:
      ValueError: a value does not fit the candidates; one line that names it.
    """

    id: str
    task: str
    query: str
    trace: tuple[Segment, ...]
    utilities: tuple[float, ...]
    counts: tuple[int, ...]
    label: int
    mark: str
    seed: int
    config: Mapping[str, Any]
    pool: Pool

    def __post_init__(self) -> None:
        names = self.pool.candidates
        for field in ("utilities", "counts"):
            if len(getattr(self, field)) != len(names):
                raise ValueError(
                    f"{field} has {len(getattr(self, field))} entries for the "
                    f"{len(names)} candidates {', '.join(names)}"
                )
        if not 0 <= self.label < len(names):
            raise ValueError(
                f"label {self.label} is none of the candidates 0 … {len(names) - 1}"
            )
        if not all(map(math.isfinite, self.utilities)):
            raise ValueError(f"utilities {list(self.utilities)} are not all finite")
        if self.mark not in MARKS:
            raise ValueError(f"mark {self.mark!r} is none of {', '.join(MARKS)}")
        for segment in self.trace:
            if segment.speaker not in (*names, CUE):
                raise ValueError(
                    f"a segment's speaker {segment.speaker!r} is none of the "
                    f"candidates {', '.join(names)}"
                )

    @property
    def is_clear(self) -> bool:
        """Whether the label is more than chance."""
        return self.mark == "clear"

    def history(self) -> list[tuple[int, str]]:
        """(candidate index, text) of each segment, cues left out: what the switcher
        reads (`generation.decision.Turn.history`)."""
        written = [s for s in self.trace if s.speaker != CUE]
        return [(self.pool.candidates.index(s.speaker), s.text) for s in written]


def rollout_line(rollout: Rollout) -> str:
    """The line of a file, with its newline; `parse_rollout` reads it."""
    return json.dumps(dataclasses.asdict(rollout), ensure_ascii=False) + "\n"


def parse_rollout(line: str) -> Rollout:
    """One line of a file. Fields that are not known are passed over.

    Raises:
      ValueError: it is no rollout; one line that says why.
    """
    try:
        found = json.loads(line)
    except ValueError:
        raise ValueError("not JSON; collect the rollouts again") from None
    fields = _fields(found, _ROLLOUT, "")
    pool = _fields(fields["pool"], _POOL, "pool.")
    names = _each(pool["candidates"], str, "pool.candidates")
    trace = []
    for i, segment in enumerate(fields["trace"]):
        known = _fields(segment, _SEGMENT, f"trace[{i}].")
        trace.append(Segment(**known, probs=segment.get("probs")))
    utilities = _each(fields["utilities"], (float, int), "utilities")
    parsed: dict[str, Any] = {
        "trace": tuple(trace),
        "utilities": tuple(map(float, utilities)),
        "counts": _each(fields["counts"], int, "counts"),
        "pool": Pool(pool["fingerprint"], names),
    }
    return Rollout(**fields | parsed)


def read_rollouts(path: Path | epath.Path, pool: Pool) -> list[Rollout]:
    """A whole file, which must be about this pool.

    Raises:
      ValueError: there is no such file, it is empty, or a line is no rollout or is one
        of another pool; one line that names it.
    """
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; collect rollouts with launch/collect_rollouts.py, "
            "or set training.rollouts"
        )
    rollouts = []
    # Not splitlines(): JSON strings may hold U+2028 and its like.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            rollouts.append(parse_rollout(line.decode()))
            _check_pool(rollouts[-1].pool, pool)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    if not rollouts:
        raise ValueError(f"{path}: is empty; collect the rollouts again")
    return rollouts


def _check_pool(found: Pool, ours: Pool) -> None:
    if found.candidates != ours.candidates:
        raise ValueError(
            f"is about the candidates {', '.join(found.candidates)}; the config has "
            f"{', '.join(ours.candidates)}; collect rollouts with this config"
        )
    if found.fingerprint != ours.fingerprint:
        raise ValueError(
            f"is about another pool (fingerprint {found.fingerprint}, the config's is "
            f"{ours.fingerprint}): a candidate's path, adapter or prompt format "
            "differs; collect rollouts with this config"
        )


_ROLLOUT: dict[str, type] = {
    **dict.fromkeys(("id", "task", "query", "mark"), str),
    **dict.fromkeys(("trace", "utilities", "counts"), list),
    **dict.fromkeys(("label", "seed"), int),
    **dict.fromkeys(("config", "pool"), dict),
}
_POOL: dict[str, type] = {"fingerprint": str, "candidates": list}
_SEGMENT: dict[str, type] = {"speaker": str, "text": str, "token_ids": list}


def _fields(found: Any, kinds: Mapping[str, type], where: str) -> dict[str, Any]:
    """The named fields of a JSON object, each of its type."""
    if not isinstance(found, dict):
        name = where.rstrip(".") or "it"
        raise ValueError(f"{name} is of type {type(found).__name__}, must be an object")
    for name, kind in kinds.items():
        if name not in found:
            raise ValueError(f"field {where + name!r} is missing")
        _check_type(found[name], kind, where + name)
    return {name: found[name] for name in kinds}


def _each(found: list, kind: type | tuple[type, ...], where: str) -> tuple:
    for i, value in enumerate(found):
        _check_type(value, kind, f"{where}[{i}]")
    return tuple(found)


def _check_type(value: Any, kind: type | tuple[type, ...], where: str) -> None:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if type(value) not in kinds:  # not isinstance: True is an int
        raise ValueError(
            f"{where} is of type {type(value).__name__}, must be {kinds[0].__name__}"
        )
