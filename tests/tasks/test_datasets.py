"""The real data has the promised sizes, and comes back from array_record unchanged."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jax_switchgen.tasks import datasets
from jax_switchgen.tasks.catalogue import TASKS
from jax_switchgen.tasks.parsing import LETTERS
from jax_switchgen.tasks.record import Scorer

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_sizes_ids_and_golds(task, splits):
    found = splits(task.name)
    assert {s: len(r) for s, r in found.items()} == {"dev": task.dev, "test": task.test}
    for records in found.values():
        assert len({record.id for record in records}) == len(records)
        for record in records:
            if task.scorer is Scorer.CHOICE:
                assert LETTERS.index(record.golds[0]) < len(record.choices)
            if task.labels:
                assert record.golds[0] in task.labels
    asked = {record.prompt for record in found["test"]}
    assert not any(record.prompt in asked for record in found["dev"])


def test_permutation_balances_kaleidoscope(splits):
    """Half of its golds are the first option as published."""
    golds = [record.golds[0] for record in splits("kaleidoscope")["test"]]
    assert all(0.30 < golds.count(letter) / len(golds) < 0.37 for letter in "ABC")


def test_benign_joins_the_prompts_of_its_sources(splits):
    """In their order, under ids that tell them apart, each source a category."""
    for split in datasets.SPLITS:
        for source in TASKS["benign"].sources:
            mine = [r for r in splits("benign")[split] if r.category == source]
            theirs = splits(source)[split]
            assert [r.prompt for r in mine] == [r.prompt for r in theirs]
            assert [r.id for r in mine] == [f"{source}-{r.id}" for r in theirs]


def test_prepared_records_are_the_cleaned_ones(splits, archive, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_SWITCHGEN_CACHE", str(tmp_path))
    for name in ("sciriff", "infinite_chat_diversity", "arc_challenge"):
        datasets.prepare_task(name, archive)
        for split in datasets.SPLITS:
            assert datasets.load_records(name, split) == splits(name)[split]


_ASK = "from jax_switchgen.tasks.datasets import load_records as load; "


def test_processes_that_ask_first_prepare_a_task_together(splits, archive, tmp_path):
    """As the processes of a job do; nothing of it is on their stdout."""
    (tmp_path / "tasks").mkdir()
    shutil.copy(archive, tmp_path / "tasks")
    command = [sys.executable, "-c", _ASK + "print(len(load('sciriff', 'test')))"]
    environment = {**os.environ, "JAX_SWITCHGEN_CACHE": str(tmp_path)}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) for _ in range(2)
    ]
    said = [process.communicate() for process in processes]
    expected = str(len(splits("sciriff")["test"]))
    assert [out.strip() for out, _ in said] == [expected] * 2, said
    assert any("preparing task sciriff" in err for _, err in said)


def test_without_the_data_one_line_says_what_to_do(tmp_path, monkeypatch):
    """pip finds nothing where it is told to look nowhere."""
    monkeypatch.setenv("JAX_SWITCHGEN_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ValueError, match=r"prepare_tasks.py --source=PATH$"):
        datasets.load_records("sciriff", "test")


def test_wrong_archive_is_one_line(tmp_path):
    path = tmp_path / "other.tar.gz"
    with pytest.raises(ValueError, match="no such file"):
        datasets.read_archive(path, ["bbh"])
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="SHA-256 is .*expected 7077b6d8"):
        datasets.read_archive(path, ["bbh"])


def test_launcher_lists_and_names_what_is_wrong():
    def run(*flags):
        command = [sys.executable, "launch/prepare_tasks.py", *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    listed = run("--list").stdout.splitlines()
    assert len(listed) == 24 and "1172 test  CC BY-SA 4.0" in listed[1]
    wrong = run("--tasks=gsm9k")
    assert wrong.returncode and "'gsm9k' is unknown" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1
