"""The journal of a job: what is finished survives a process that is killed.

The file begins with a line of JSON, the job's identity. Each further line is the
number of an input line, a tab, and its record. A line counts when its newline is
written; what stands behind the last newline was torn by a kill and is dropped.
(Where files cannot grow, it is in several: `object_journal.py`.)
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any

from etils import epath

RECORD = re.compile(rb"(\d+)\t\{.*\}\n")

Differs = Callable[[Any, Any], str | None]


class Journal:
    """An append-only file of records, open in one process at a time.

    Attributes:
      path: the file; gone after `remove`.
    """

    def __init__(self, path: epath.Path, identity: dict[str, Any], differs: Differs):
        """Opens the file, or begins it, with the folders above it.

        Args:
          differs: what is different between the identity found and ours, or None.

        Raises:
          ValueError: it is another job's, damaged, or open elsewhere.
        """
        self.path = path
        self._places: dict[int, int] = {}  # input line -> where its record begins
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._read(identity, differs):
                self._file.truncate(0)
                self._write(header_line(identity))
        except BlockingIOError:
            self._file.close()
            raise ValueError(
                f"{path}: another process is at work on this output; wait for it, or "
                "name another --output"
            ) from None
        except BaseException:
            self._file.close()
            raise

    @property
    def lines(self) -> Set[int]:
        """Input lines whose record is here."""
        return self._places.keys()

    def append(self, line: int, record: dict[str, Any]) -> None:
        """Adds a record; it survives the process from here on."""
        place = self._file.seek(0, os.SEEK_END)
        self._write(record_line(line, record))
        self._places[line] = place

    def records(self, lines: Sequence[int]) -> Iterator[bytes]:
        """The records of these lines, in this order, each with its newline."""
        with self.path.open("rb") as source:
            for line in lines:
                source.seek(self._places[line])
                yield source.readline().split(b"\t", 1)[1]

    def remove(self) -> None:
        """Deletes the file, and unlocks it."""
        self.path.unlink()
        self.close()

    def close(self) -> None:
        """Unlocks the file."""
        self._file.close()

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._file.flush()

    def _read(self, identity: dict[str, Any], differs: Differs) -> bool:
        """Finds the records; whether the file is ours to go on with."""
        with self.path.open("rb") as stream:
            header = stream.readline()
            if not header.endswith(b"\n"):
                return False
            end = len(header)
            for line, content in parse_records(self.path, stream):
                self._places[line] = end
                end += len(content)
        if not is_ours(self.path, header, identity, differs, bool(self._places)):
            return False
        self._file.truncate(end)
        return True


def header_line(identity: dict[str, Any]) -> bytes:
    """The first line of a journal."""
    return json.dumps(identity, ensure_ascii=False).encode() + b"\n"


def record_line(line: int, record: dict[str, Any]) -> bytes:
    """Any further line."""
    return f"{line}\t{json.dumps(record, ensure_ascii=False)}\n".encode()


def parse_records(
    path: epath.Path, stream: Iterable[bytes]
) -> Iterator[tuple[int, bytes]]:
    """(number, whole line) of each record, as far as lines are whole.

    Raises:
      ValueError: a line is no record.
    """
    for content in stream:
        if not content.endswith(b"\n"):
            break
        match = RECORD.fullmatch(content)
        if match is None:
            raise _refused(path, "is damaged;")
        yield int(match[1]), content


def is_ours(
    path: epath.Path,
    header: bytes,
    identity: dict[str, Any],
    differs: Differs,
    has_records: bool,
) -> bool:
    """Whether a journal with that first line is this job's.

    Raises:
      ValueError: it is not, and has records that somebody may want.
    """
    try:
        found = json.loads(header)
    except ValueError:
        raise _refused(path, "is damaged;") from None
    if changed := differs(found, identity):
        if has_records:
            raise _refused(path, f"has records of a job with {changed}; go back, or")
        return False
    return True


def _refused(path: epath.Path, reason: str) -> ValueError:
    return ValueError(f"{path} {reason} delete it to start again")


def file_digest(path: Path | epath.Path) -> str:
    """A hash of a file's bytes."""
    found = hashlib.blake2b()
    with path.open("rb") as stream:
        # Not hashlib.file_digest: files of object storage are no files to it.
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()[:32]


def difference(
    old: Any, new: Any, ignored: Set[tuple[str, ...]], at: tuple[str, ...] = ()
) -> str | None:
    """The first value that differs between two JSON objects, in words, or None.

    Args:
      ignored: paths of keys that may differ.
    """
    if at in ignored:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            if found := difference(old.get(key), new.get(key), ignored, (*at, key)):
                return found
        return None
    if old == new:
        return None
    if at and at[-1] == "input_blake2b":
        return "another input"
    return f"{'.'.join(at)}={_short(old)}, now {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
