"""Jobs of several processes, on disks and on object storage."""

import dataclasses
import json
import random

import pytest
from etils import epath

from jax_switchgen.generation import object_journal
from jax_switchgen.generation.job_output import Shard
from jax_switchgen.generation.jobs import Job
from jax_switchgen.generation.storage import job_path, write_whole
from tests import object_storage
from tests.generation.test_jobs import SETTINGS, EchoEngine

NUMBER = 23  # of lines; some are broken, and some are refused


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path, monkeypatch) -> epath.Path:
    """Of a job's files."""
    if request.param == "disk":
        return epath.Path(tmp_path)
    object_storage.install()
    # Every record is a file at once: kills lose as little as on a disk.
    monkeypatch.setattr(object_journal, "PUT_SECONDS", 0.0)
    return job_path("gs://bucket/folder")


@pytest.fixture
def source(folder) -> epath.Path:
    texts = [json.dumps({"input": f"text {i}"}) for i in range(NUMBER)]
    texts[3] = '{"input": '
    texts[8] = json.dumps({"input": "x" * 101})
    path = folder / "in.jsonl"
    path.write_bytes("\n".join(texts).encode())
    return path


def run(source, output, shard, stop_after=None, settings=SETTINGS) -> EchoEngine:
    """One process; or its first records, and then kill -9."""
    engine = EchoEngine()
    job = Job(source, output, settings, shard)
    if job.complete:
        job.output.merge()
        return engine
    job.check(engine)
    for count, _ in enumerate(job.run(engine), start=1):
        if count == stop_after:
            if job.output._journal is not None and "://" not in str(output):
                job.close()  # a dead process holds no lock
            break
    return engine


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "in.jsonl")


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_shards_are_the_whole_in_whatever_order_they_end(folder, source, count):
    """Records, config and report are the same bytes as of a single process; with more
    processes than records too."""
    whole, output = folder / "whole.jsonl", folder / "out.jsonl"
    run(source, whole, Shard())
    order = list(range(count))
    random.Random(count).shuffle(order)
    for done, index in enumerate(order):
        assert output.exists() == (done == count)
        run(source, output, Shard(index, count))
    for suffix in ("", ".config.json", ".report.json"):
        expected = (folder / f"whole.jsonl{suffix}").read_bytes()
        assert (folder / f"out.jsonl{suffix}").read_bytes() == expected
    report = json.loads((folder / "out.jsonl.report.json").read_bytes())
    assert report["refused"] == {
        "4": "not JSON: Expecting value (character 11)",
        "9": "too long",
    }
    assert report["records"] == report["finish_reasons"]["stop"] == NUMBER - 2
    assert not [name for name in names(folder) if "partial" in name or "tmp" in name]


def test_killed_processes_lose_and_repeat_nothing(folder, source):
    whole, output = folder / "whole.jsonl", folder / "out.jsonl"
    run(source, whole, Shard())
    rng = random.Random(0)
    answered = []
    for index in (0, 1, 2):
        shard = Shard(index, 3)
        for _ in range(2):
            answered += run(source, output, shard, rng.randint(1, 3)).answered
        assert not output.exists()
        answered += run(source, output, shard).answered
    assert output.read_bytes() == whole.read_bytes()
    queries = [request.query for request in answered]
    assert len(queries) == len(set(queries)) == NUMBER - 2


def test_a_kill_before_all_is_put_together_is_made_good_by_any_process(folder, source):
    output = folder / "out.jsonl"
    for index in (0, 1):
        run(source, output, Shard(index, 2))
    expected = output.read_bytes()
    output.unlink()
    assert not run(source, output, Shard(0, 2)).answered
    assert output.read_bytes() == expected


def test_shards_of_another_job_are_not_put_together(folder, source):
    output = folder / "out.jsonl"
    run(source, output, Shard(0, 2))
    other = SETTINGS | {"dtype": "bfloat16"}
    with pytest.raises(ValueError, match=r'00000-of-00002.*dtype="float32"'):
        run(source, output, Shard(1, 2), settings=other)
    assert not output.exists()


def test_a_complete_job_is_known_without_its_shards(folder, source):
    output = folder / "out.jsonl"
    for index in (0, 1):
        run(source, output, Shard(index, 2))
    for path in folder.iterdir():
        if "-of-" in path.name:
            path.unlink()
    assert not run(source, output, Shard(1, 2)).answered
    with pytest.raises(ValueError, match="another"):
        run(source, output, Shard(1, 2), settings=SETTINGS | {"dtype": "bfloat16"})


@pytest.mark.parametrize(("index", "count"), [(3, 3), (-1, 2), (0, 0)])
def test_a_shard_that_is_none_is_refused(index, count):
    with pytest.raises(ValueError, match=f"--shard_index={index} is none of"):
        Shard(index, count)


class TestBuckets:
    @pytest.fixture
    def bucket(self):
        return object_storage.install()

    def test_records_are_kept_every_so_often_and_at_the_end(
        self, bucket, tmp_path, monkeypatch
    ):
        """Those since the last file are lost with the process, and only those."""
        clock = [0.0]
        monkeypatch.setattr(object_journal.time, "monotonic", lambda: clock[0])
        path = job_path("gs://bucket/out.jsonl.partial")

        def journal():
            return object_journal.ObjectJournal(path, {"a": 1}, lambda old, new: None)

        killed = journal()
        for number in range(5):
            clock[0] += 10
            killed.append(number, {"n": number})
        assert sorted(journal().lines) == [0, 1, 2]
        stopped = journal()
        stopped.append(7, {"n": 7})
        stopped.close()
        again = journal()
        assert sorted(again.lines) == [0, 1, 2, 7]
        assert list(again.records([7, 1])) == [b'{"n": 7}\n', b'{"n": 1}\n']
        again.remove()
        assert not bucket.store

    def test_two_processes_at_one_shard_do_no_harm(self, bucket, monkeypatch):
        monkeypatch.setattr(object_journal, "PUT_SECONDS", 0.0)
        source, output = (job_path(f"gs://b/{n}.jsonl") for n in ("in", "out"))
        source.write_text("".join(f'{{"input": "{i}"}}\n' for i in range(6)))
        jobs = [Job(source, output, SETTINGS) for _ in range(2)]
        streams = [job.run(EchoEngine()) for job in jobs]
        for stream in (*streams, *streams):
            next(stream)
        for stream in streams:
            list(stream)
        records = [json.loads(line) for line in output.read_text().splitlines()]
        assert [r["input"] for r in records] == list("012345")
        assert not job_path("gs://b/out.jsonl.partial").exists()

    def test_what_fails_on_the_way_does_not_appear(self, bucket):
        path = job_path("gs://bucket/file")

        def parts():
            yield b"half"
            raise OSError("the other half cannot be read")

        with pytest.raises(OSError, match="other half"):
            write_whole(path, parts())
        assert not path.exists() and not bucket.store

    def test_another_kind_of_storage_is_one_line(self):
        with pytest.raises(ValueError, match="ftp:// is not known; give a local path"):
            job_path("ftp://host/file")


def test_identity_of_a_shard_is_frozen():
    """`Shard()` is a default argument."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Shard().index = 1  # type: ignore[misc]
