"""The output of a long job: it appears whole, and a kill loses nothing finished.

    answers.jsonl                       all records, in order, when all are there
    answers.jsonl.config.json           how it was made
    answers.jsonl.report.json           what it holds, and what it does not, and why
    answers.jsonl.partial               while the job runs: its journal

A job may be split: shard i of n takes every n-th record from the i-th on, in a process
that needs to know of no other. Then there are the same four files for each shard, under
names like answers-00000-of-00004.jsonl, and whoever finds that all shards are complete
puts the whole together. Two may do so at the same time: they write the same bytes.
"""

import dataclasses
import heapq
import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any, Protocol

from etils import epath

from jax_switchgen.generation.journal import Journal, difference
from jax_switchgen.generation.object_journal import ObjectJournal
from jax_switchgen.generation.storage import is_remote, write_whole


@dataclasses.dataclass(frozen=True)
class Shard:
    """A process's part of a job.

    Raises:
      ValueError: there is no such part.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"--shard_index={self.index} is none of 0 … --num_shards - 1 = "
                f"{self.count - 1}"
            )

    @property
    def name(self) -> str:
        return f"shard {self.index} of {self.count}"

    def of(self, numbers: Sequence[int]) -> list[int]:
        """Those that this part takes."""
        return list(numbers[self.index :: self.count])

    def path(self, path: epath.Path) -> epath.Path:
        """Where it is written."""
        if self.count == 1:
            return path
        name = f"{path.stem}-{self.index:05}-of-{self.count:05}{path.suffix}"
        return path.with_name(name)


class Summary(Protocol):
    """What a report says of the records."""

    def add(self, record: dict[str, Any]) -> None: ...

    def as_json(self) -> dict[str, Any]: ...


class JobOutput:
    """A JSONL file of records by number.

    Args:
      path: of the whole output.
      identity: JSON; what decides the records. A job goes on only with an equal one.
      ignored: paths of keys of the identity that decide nothing.
      numbers: of all records, in their order; this process writes those of `shard`.
      unreadable: by number, why there was never to be a record.
      summary: begins what the report says of the records.

    Attributes:
      complete: the output exists and is the one that this job would write.
      shard_complete: this process has nothing left to write.

    Raises:
      ValueError: the files are another job's; one line with the remedy.
    """

    def __init__(
        self,
        path: epath.Path,
        identity: Mapping[str, Any],
        ignored: Set[tuple[str, ...]],
        *,
        shard: Shard,
        numbers: Sequence[int],
        unreadable: Mapping[int, str],
        summary: Callable[[], Summary],
    ):
        self.path = path
        self.shard = shard
        self.shard_path = shard.path(path)
        self._identity = json.loads(json.dumps(identity))
        self._ignored = ignored
        self._numbers = numbers
        self._unreadable = dict(unreadable)
        self._summary = summary
        self._journal_path = _beside(self.shard_path, "partial")
        self._journal: Journal | ObjectJournal | None = None
        self.complete = self.shard_complete = False
        if shard.count > 1 and path.exists():
            self.complete = self.shard_complete = self._is_ours(path)
        elif self._journal_path.exists():
            self.open()
        elif self.shard_path.exists():
            self.shard_complete = self._is_ours(self.shard_path)
            self.complete = shard.count == 1

    @property
    def done(self) -> Set[int]:
        """Numbers of the records that earlier runs have written, unless the shard is
        complete."""
        return self._journal.lines if self._journal else frozenset()

    def open(self) -> Journal | ObjectJournal:
        """The journal, begun if there is none."""
        if self._journal is None:
            kind = ObjectJournal if is_remote(self.path) else Journal
            self._journal = kind(self._journal_path, self._identity, self._differs)
        return self._journal

    def finish(self, refused: Mapping[int, str]) -> None:
        """Puts the shard in place; the whole output too, if no other shard is missing.

        Args:
          refused: by number, why it has no record. All others are in the journal.
        """
        journal = self.open()
        if self.shard.count == 1:
            refused = self._unreadable | dict(refused)
        kept = [n for n in self.shard.of(self._numbers) if n not in refused]
        self._write(self.shard_path, journal.records(kept), refused)
        journal.remove()
        self.shard_complete = True
        self.complete = self.shard.count == 1
        self.merge()

    def merge(self) -> None:
        """Puts the whole output in place if all shards are; it may be there already.

        Raises:
          ValueError: one of them is another job's.
        """
        if self.complete or self.missing():
            return
        refused = dict(self._unreadable)
        streams = []
        for shard in self._shards():
            path = shard.path(self.path)
            self._is_ours(path)
            own = _refused(path)
            refused |= own
            kept = [n for n in shard.of(self._numbers) if n not in own]
            streams.append(_numbered(path, kept))
        merged = heapq.merge(*streams)
        self._write(self.path, (line for _, line in merged), refused)
        self.complete = True

    def missing(self) -> list[Shard]:
        """Shards that are not complete yet."""
        if self.complete:
            return []
        return [s for s in self._shards() if not s.path(self.path).exists()]

    def refused(self) -> dict[int, str]:
        """By number why there is no record, when this process is done: of the whole
        output, or of the shard as long as others are missing."""
        return _refused(self.path if self.complete else self.shard_path)

    def close(self) -> None:
        """Lets another process go on with the job."""
        if self._journal is not None:
            self._journal.close()

    def _shards(self) -> list[Shard]:
        return [Shard(i, self.shard.count) for i in range(self.shard.count)]

    def _write(
        self, path: epath.Path, lines: Iterator[bytes], refused: Mapping[int, str]
    ) -> None:
        """An output with what stands beside it; itself last, for it says that all of
        it is there."""
        summary, count = self._summary(), 0
        config = json.dumps(self._identity, indent=2, ensure_ascii=False)
        writer = self.shard.index

        def counted() -> Iterator[bytes]:
            nonlocal count
            for line in lines:
                summary.add(json.loads(line))
                count += 1
                yield line
            # The last line is read; the file has not appeared yet.
            report = {
                "records": count,
                "refused": {str(n): refused[n] for n in sorted(refused)},
                **summary.as_json(),
            }
            text = json.dumps(report, indent=2, ensure_ascii=False)
            write_whole(_beside(path, "report.json"), [text.encode(), b"\n"], writer)

        write_whole(_beside(path, "config.json"), [config.encode(), b"\n"], writer)
        write_whole(path, counted(), writer)

    def _differs(self, old: Any, new: Any) -> str | None:
        return difference(old, new, self._ignored)

    def _is_ours(self, path: epath.Path) -> bool:
        """True; raises ValueError if the output that exists is not this job's."""
        remedy = "name another output, or delete it to write it again"
        beside = _beside(path, "config.json")
        try:
            found = json.loads(beside.read_bytes())
        except (OSError, ValueError):
            raise ValueError(
                f"{path} exists, with no {beside.name} that says how it was made; "
                f"{remedy}"
            ) from None
        if changed := self._differs(found, self._identity):
            raise ValueError(f"{path} exists, made with {changed}; {remedy}")
        return True


def _beside(path: epath.Path, suffix: str) -> epath.Path:
    return path.with_name(f"{path.name}.{suffix}")


def _refused(path: epath.Path) -> dict[int, str]:
    """What the report of an output says."""
    report = json.loads(_beside(path, "report.json").read_bytes())
    return {int(number): reason for number, reason in report["refused"].items()}


def _numbered(path: epath.Path, numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as stream:
        yield from zip(numbers, stream, strict=True)
