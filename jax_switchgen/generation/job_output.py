"""The output of a long job: it appears whole, and a kill loses nothing finished.

While the job runs there is a journal beside the output, and when it is complete a
small file that says how it was made.
"""

import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from jax_switchgen.generation.journal import Journal, difference


class JobOutput:
    """A JSONL file of records by number.

    Args:
      path: of the output.
      identity: JSON; what decides the records. A job goes on only with an equal one.
      ignored: paths of keys of the identity that decide nothing.

    Attributes:
      complete: the output exists and is the one that this job would write.

    Raises:
      ValueError: the files are another job's; one line with the remedy.
    """

    def __init__(
        self, path: Path, identity: Mapping[str, Any], ignored: Set[tuple[str, ...]]
    ):
        self.path = path
        self._identity = json.loads(json.dumps(identity))
        self._ignored = ignored
        self._journal_path = path.with_name(f"{path.name}.partial")
        self._config_path = path.with_name(f"{path.name}.config.json")
        self._journal: Journal | None = None
        self.complete = False
        if self._journal_path.exists():
            self.open()
        elif path.exists():
            self._check_output()
            self.complete = True

    @property
    def numbers(self) -> Set[int]:
        """Of the records that earlier runs have written, unless it is complete."""
        return self._journal.lines if self._journal else frozenset()

    def open(self) -> Journal:
        """The journal, begun if there is none."""
        if self._journal is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(self._journal_path, self._identity, self._differs)
        return self._journal

    def finish(self, numbers: Sequence[int]) -> None:
        """Puts the output in place, with these records in this order."""
        journal = self.open()
        text = json.dumps(self._identity, indent=2, ensure_ascii=False)
        self._config_path.write_text(text + "\n", encoding="utf-8")
        journal.finish(self.path, numbers)

    def close(self) -> None:
        """Lets another process go on with the job."""
        if self._journal is not None:
            self._journal.close()

    def _differs(self, old: Any, new: Any) -> str | None:
        return difference(old, new, self._ignored)

    def _check_output(self) -> None:
        """Raises ValueError unless the output that exists is this job's."""
        remedy = "name another output, or delete it to write it again"
        try:
            found = json.loads(self._config_path.read_bytes())
        except (OSError, ValueError):
            raise ValueError(
                f"{self.path} exists, with no {self._config_path.name} that says "
                f"how it was made; {remedy}"
            ) from None
        if changed := self._differs(found, self._identity):
            raise ValueError(f"{self.path} exists, made with {changed}; {remedy}")
