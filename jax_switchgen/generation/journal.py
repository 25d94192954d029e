"""The journal of a job: what is finished survives a process that is killed.

The file begins with a line of JSON, the job's identity. Each further line is the
number of an input line, a tab, and its record. A line counts when its newline is
written; what stands behind the last newline was torn by a kill and is dropped.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

RECORD = re.compile(rb"(\d+)\t\{.*\}\n")

Differs = Callable[[Any, Any], str | None]


class Journal:
    """An append-only file of records, open in one process at a time.

    Attributes:
      path: the file; gone after `finish`.
    """

    def __init__(self, path: Path, identity: dict[str, Any], differs: Differs):
        """Opens the file, or begins it.

        Args:
          differs: what is different between the identity found and ours, or None.

        Raises:
          ValueError: it is another job's, damaged, or open elsewhere.
        """
        self.path = path
        self._places: dict[int, int] = {}  # input line -> where its record begins
        self._file = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._read(identity, differs):
                self._file.truncate(0)
                self._write(json.dumps(identity, ensure_ascii=False))
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
        self._write(f"{line}\t{json.dumps(record, ensure_ascii=False)}")
        self._places[line] = place

    def finish(self, output: Path, lines: Sequence[int]) -> None:
        """Writes the records of these lines, in this order, and removes the journal.

        A process that is killed in here leaves the journal as it was.
        """
        partial = output.with_name(f".{output.name}.tmp")
        with partial.open("wb") as target, self.path.open("rb") as source:
            for line in lines:
                source.seek(self._places[line])
                target.write(source.readline().split(b"\t", 1)[1])
            target.flush()
            os.fsync(target.fileno())
        os.replace(partial, output)
        self.path.unlink()
        self.close()

    def close(self) -> None:
        """Unlocks the file."""
        self._file.close()

    def _write(self, text: str) -> None:
        self._file.write(text.encode() + b"\n")
        self._file.flush()

    def _read(self, identity: dict[str, Any], differs: Differs) -> bool:
        """Finds the records; whether the file is ours to go on with."""
        end = 0
        with self.path.open("rb") as stream:
            header = stream.readline()
            if not header.endswith(b"\n"):
                return False
            for content in stream:
                if not content.endswith(b"\n"):
                    break
                match = RECORD.fullmatch(content)
                if match is None:
                    raise self._refused("is damaged;")
                self._places[int(match[1])] = len(header) + end
                end += len(content)
        try:
            found = json.loads(header)
        except ValueError:
            raise self._refused("is damaged;") from None
        if changed := differs(found, identity):
            if self._places:
                raise self._refused(f"has records of a job with {changed}; go back, or")
            return False
        self._file.truncate(len(header) + end)
        return True

    def _refused(self, reason: str) -> ValueError:
        return ValueError(f"{self.path} {reason} delete it to start again")


def file_digest(path: Path) -> str:
    """A hash of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, hashlib.blake2b).hexdigest()[:32]


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
