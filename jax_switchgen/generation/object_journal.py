"""The journal of a job on object storage, where no file grows and none is renamed.

Finished records gather in memory; every `PUT_SECONDS` they become one more file in a
folder, which appears whole. Each file is a small journal, its first line the job's
identity. A process that is killed loses what it wrote since the last file; those
requests are answered again, with the same tokens. So no record is lost or doubled, and
no more than that much work.

    answers.jsonl.partial/4f1c9a02-000000.jsonl, 4f1c9a02-000001.jsonl, …

There are no locks. Two processes at work on one journal write files of different names
(the first part is drawn at random) with the same records.
"""

import io
import secrets
import time
from collections.abc import Iterator, Sequence, Set
from typing import Any

from etils import epath

from jax_switchgen.generation.journal import (
    Differs,
    header_line,
    is_ours,
    parse_records,
    record_line,
)
from jax_switchgen.generation.storage import write_whole

# A file takes about 0.1 s to write: 0.3 % of the time. An hour makes 120 of them.
PUT_SECONDS = 30.0


class ObjectJournal:
    """A folder of small files of records; what `Journal` is on a disk.

    All records are held in memory: 20,000 of 5 kB are 100 MB.
    """

    def __init__(self, folder: epath.Path, identity: dict[str, Any], differs: Differs):
        """Reads the files, or begins the folder.

        Raises:
          ValueError: they are another job's, or damaged.
        """
        self.path = folder
        self._header = header_line(identity)
        self._records: dict[int, bytes] = {}
        self._unsaved: list[bytes] = []
        self._run, self._count = secrets.token_hex(4), 0
        self._files = list(folder.iterdir()) if folder.is_dir() else []
        for path in self._files:
            stream = io.BytesIO(path.read_bytes())
            header = stream.readline()
            found = dict(parse_records(path, stream))
            if is_ours(path, header, identity, differs, bool(found)):
                self._records |= found
        self._next_put = time.monotonic() + PUT_SECONDS

    @property
    def lines(self) -> Set[int]:
        """Numbers whose record is here."""
        return self._records.keys()

    def append(self, line: int, record: dict[str, Any]) -> None:
        """Adds a record; it survives the process from the next file on."""
        self._records[line] = record_line(line, record)
        self._unsaved.append(self._records[line])
        if time.monotonic() >= self._next_put:
            self._put()

    def records(self, lines: Sequence[int]) -> Iterator[bytes]:
        """The records of these lines, in this order, each with its newline."""
        for line in lines:
            yield self._records[line].split(b"\t", 1)[1]

    def remove(self) -> None:
        """Deletes the files."""
        self._unsaved = []
        for path in self._files:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Writes what is not written yet."""
        if self._unsaved:
            self._put()

    def _put(self) -> None:
        path = self.path / f"{self._run}-{self._count:06}.jsonl"
        write_whole(path, [self._header, *self._unsaved])
        self._files.append(path)
        self._count += 1
        self._unsaved = []
        self._next_put = time.monotonic() + PUT_SECONDS
