"""Which records of which tasks."""

import pytest

from jax_switchgen.tasks.record import Record, Scorer
from jax_switchgen.tasks.selection import OwnTask, load_tasks, sample_records


def test_samples():
    records = [Record(str(i), f"question {i}") for i in range(50)]
    chosen = sample_records(records, 10, seed=0)
    assert chosen == sample_records(records, 10, seed=0) != records[:10]
    assert chosen == sorted(chosen, key=lambda r: int(r.id))
    assert sample_records(records, 0, 0) == sample_records(records, 99, 0) == records


def test_own_tasks(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"input": "2 + 2?", "output": "4"}\n{"input": "no gold"}\n')
    own = OwnTask(name="mine", path=str(path), scorer="integer")
    [(task, records)], problems = load_tasks((), (own,), "test")
    assert task.scorer is Scorer.INTEGER
    assert [r.golds for r in records] == [("4",)]
    assert records[0].prompt.startswith("2 + 2?")
    assert len(problems) == 1 and "output" in problems[0]
    wrong = OwnTask(name="mine", path=str(path), scorer="vibes")
    with pytest.raises(ValueError, match="'vibes' is none of choice"):
        load_tasks((), (wrong,), "test")
