"""Batch jobs: one JSONL file of inputs becomes one JSONL file of records.

    job = Job(Path("in.jsonl"), Path("out.jsonl"), settings)
    job.check(engine)
    for event in job.run(engine):
        …

Every finished record goes into a journal beside the output, so that a job that was
killed at any moment goes on where it stopped. The output appears under its name when it
is complete, in the order of the input. Lines are counted from 1. Several processes may
each take a shard of the lines; see `job_output.py`.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from jax_switchgen.generation.engine import Engine, Event
from jax_switchgen.generation.job_output import JobOutput, Shard
from jax_switchgen.generation.journal import file_digest
from jax_switchgen.generation.storage import job_path
from jax_switchgen.generation.trace import CUE, Request

# Fields that change no token but by rounding, so that a job may go on with other
# values: randomness belongs to the request.
SCHEDULING = frozenset(
    (
        *(
            ("config", "generation", n)
            for n in ("batch_size", "in_flight", "cache_gib")
        ),
        ("config", "mesh"),
    )
)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A line of the input that gets no record.

    Attributes:
      line: its number, from 1.
      message: why, in one line.
    """

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


def read_input(path: epath.Path) -> tuple[dict[int, Request], list[Problem]]:
    """The requests of a JSONL file by line number, and the lines that hold none.

    Blank lines are passed over. A record without an id gets the number of its line,
    counted from 0.

    Raises:
      ValueError: there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; --input is a JSONL file")
    requests, problems = {}, []
    # Not splitlines(): JSON strings may hold U+2028 and its like.
    for line, content in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line == 1:
            content = content.removeprefix(b"\xef\xbb\xbf")
        if not content.strip():
            continue
        try:
            requests[line] = parse_request(content, default_id=line - 1)
        except ValueError as error:
            problems.append(Problem(line, str(error)))
    return requests, problems


def parse_request(content: bytes, default_id: int) -> Request:
    """One line of input.

    Raises:
      ValueError: it is no request; one line that says why.
    """
    try:
        record = json.loads(content)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text, at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} (character {error.colno})") from None
    except RecursionError:
        raise ValueError("not a record: brackets nested too deeply") from None
    except ValueError as error:  # an integer of more than 4,300 digits
        raise ValueError(f"not JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(record, dict):
        raise ValueError(f'is {type(record).__name__}, not {{"input": "…"}}')
    if "input" not in record:
        raise ValueError('has no "input"')
    query = record["input"]
    if not isinstance(query, str):
        raise ValueError(f'"input" is {type(query).__name__}, not a string')
    name = record.get("id")
    if name is None:
        name = default_id
    if type(name) not in (str, int):
        raise ValueError(f'"id" is {type(name).__name__}, not a string or an integer')
    check_text(f"{query}{name}")
    return Request(query, name)


def check_text(text: str) -> None:
    """Raises ValueError if it is no Unicode text: tokenizers would refuse it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"holds half of a character, {half!r}") from None


class Spoken:
    """Who wrote how much of an output: what its report says."""

    def __init__(self) -> None:
        self._finished: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._segments: Counter[str] = Counter()

    def add(self, record: dict[str, Any]) -> None:
        self._finished[record["finish_reason"]] += 1
        for segment in record["segments"]:
            if segment["speaker"] != CUE:
                self._tokens[segment["speaker"]] += len(segment["token_ids"])
                self._segments[segment["speaker"]] += 1

    def as_json(self) -> dict[str, Any]:
        return {
            "finish_reasons": dict(sorted(self._finished.items())),
            "output_tokens": self._tokens.total(),
            "tokens": dict(sorted(self._tokens.items())),
            "segments": dict(sorted(self._segments.items())),
        }


class Job:
    """A JSONL file that is to be answered.

    Attributes:
      output: its files, and what is there of them.
      requests: of this process's shard, by line number.
      problems: lines that get no record: those of the shard that the engine refuses,
        and those that are no request, which are all told to the first shard.
    """

    def __init__(
        self,
        source: epath.PathLike,
        output: epath.PathLike,
        settings: Mapping[str, Any],
        shard: Shard = Shard(),  # noqa: B008, it is frozen
    ):
        """Reads the input, and what an earlier run of the job has left.

        Args:
          source, output: local paths, or of object storage (gs://…).
          settings: the resolved config as JSON values; a job goes on only with equal
            ones, but for `SCHEDULING`.

        Raises:
          ValueError: the files are not those of this job; one line with the remedy.
        """
        source, output = job_path(source), job_path(output)
        requests, unreadable = read_input(source)
        if output.is_dir() or output.resolve() == source.resolve():
            raise ValueError(f"--output={output} must name a file other than --input")
        identity = {
            "input": source.name,
            "input_blake2b": file_digest(source),
            "config": settings,
        }
        self.output = JobOutput(
            output,
            identity,
            SCHEDULING | {("input",)},
            shard=shard,
            numbers=sorted(requests),
            unreadable={problem.line: problem.message for problem in unreadable},
            summary=Spoken,
        )
        self.requests = {line: requests[line] for line in shard.of(sorted(requests))}
        self.problems = unreadable if shard.index == 0 else []
        self._refused: dict[int, str] = {}
        self._tokens: dict[int, int] = {}  # of cache that each line needs

    @property
    def complete(self) -> bool:
        """Nothing is left to do for this process."""
        return self.output.shard_complete

    @property
    def num_kept(self) -> int:
        """Records that earlier runs have written."""
        return len(self.output.done & self.requests.keys())

    @property
    def num_failed(self) -> int:
        """Lines without a record, also when an earlier run has refused them."""
        known = {problem.line for problem in self.problems}
        return len(known | self.output.refused().keys() if self.complete else known)

    def check(self, engine: Engine) -> list[Problem]:
        """Takes out the requests that the engine refuses, and says why."""
        refused = []
        for line, request in self.requests.items():
            if line in self._tokens:
                continue
            try:
                self._tokens[line] = engine.check(request)
            except ValueError as error:
                refused.append(Problem(line, str(error)))
        for problem in refused:
            del self.requests[problem.line]
            self._refused[problem.line] = problem.message
        self.problems = sorted([*self.problems, *refused], key=lambda p: p.line)
        return refused

    def run(self, engine: Engine) -> Iterator[Event]:
        """Answers what is left, then puts the output in place.

        An event with a response is yielded after its record is in the journal.
        """
        self.check(engine)
        journal = self.output.open()
        left = [line for line in self.requests if line not in journal.lines]
        line_of = {id(self.requests[line]): line for line in left}
        for lines in self._groups(engine, left):
            for event in engine.stream([self.requests[line] for line in lines]):
                if event.response is not None:
                    line = line_of[id(event.request)]
                    journal.append(line, event.response.record())
                yield event
        self.output.finish(self._refused)

    def close(self) -> None:
        """Lets another process go on with the job."""
        self.output.close()

    def _groups(self, engine: Engine, lines: list[int]) -> list[list[int]]:
        """The lines as they are admitted: long ones first, and those apart whose caches
        let only a few be in flight.

        Rows of a pass are read as far as its longest, so those of like length belong
        together; and what ends last, when passes are no longer full, should be short.
        A cache is as long as the longest of its requests needs, so one input of 4,000
        tokens would take memory, or room, from all others.
        """
        small: list[int] = []
        large: list[int] = []
        memory = engine.options.cache_gib * 2**30 / engine.options.in_flight
        for line in sorted(lines, key=lambda line: -self._tokens[line]):
            slot = engine.slot_bytes([self.requests[line].query], self._tokens[line])
            (small if slot <= memory else large).append(line)
        return [group for group in (small, large) if group]
