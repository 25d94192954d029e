"""Batch jobs: what is read, what is refused, and what a kill leaves behind."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_switchgen.generation.engine import Event
from jax_switchgen.generation.jobs import Job, Problem, parse_request, read_input
from jax_switchgen.generation.trace import Request, Response, Segment
from tests import tiny

SETTINGS = {"dtype": "float32", "generation": {"seed": 0, "batch_size": 4}}


class EchoEngine:
    """Answers every request with its query, the last one first."""

    options = SimpleNamespace(cache_gib=1.0, in_flight=4)

    def __init__(self):
        self.answered: list[Request] = []

    def check(self, request: Request) -> int:
        if len(request.query) > 100:
            raise ValueError("too long")
        return 16

    def slot_bytes(self, queries: Sequence[str], length: int) -> int:
        return length

    def stream(self, requests: Sequence[Request]) -> Iterator[Event]:
        for request in reversed(requests):
            self.answered.append(request)
            segment = Segment("p", [1], request.query)
            response = Response(request, [segment], request.query, "stop", 1, 0)
            yield Event(request, segment, response)


def run(source: Path, output: Path, settings=SETTINGS, stop_after=None) -> EchoEngine:
    """Runs a job, or its first records."""
    engine = EchoEngine()
    job = Job(source, output, settings)
    job.check(engine)
    events = job.run(engine)
    for count, _ in enumerate(events, start=1):
        if count == stop_after:
            break
    job.close()
    return engine


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "in.jsonl"
    texts = ["", "one", "Grüße 🌧 \u2028", "x" * 101, "two\nlines", "last"]
    path.write_bytes(b"\n".join(json.dumps({"input": t}).encode() for t in texts))
    return path


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30).map(
                lambda b: b.replace(b"\n", b" ").lstrip(b"\xef")
            ),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                lambda inner: (
                    st.dictionaries(
                        st.sampled_from(["input", "id", "x"]), inner, max_size=3
                    )
                    | st.lists(inner, max_size=2)
                ),
            ).map(lambda value: json.dumps(value).encode()),
        ),
        max_size=8,
    )
)
def test_every_line_is_blank_a_request_or_a_problem_with_its_number(lines):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in.jsonl"
        path.write_bytes(b"\n".join(lines))
        requests, problems = read_input(path)
    filled = {n for n, line in enumerate(lines, start=1) if line.strip()}
    reported = {p.line for p in problems}
    assert filled == requests.keys() | reported
    assert not requests.keys() & reported
    for line, request in requests.items():
        record = json.loads(lines[line - 1])
        assert request.query == record["input"]
        name = record.get("id")
        assert request.id == (line - 1 if name is None else name)
        json.dumps(request.query, ensure_ascii=False).encode()
    assert all("\n" not in p.message and p.message for p in problems)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"input": ', "not JSON: Expecting value (character 11)"),
        (b'{"input": "\xff"}', "not UTF-8 text, at byte 12"),
        (b'["input"]', 'is list, not {"input": "\u2026"}'),
        (b"{}", 'has no "input"'),
        (b'{"input": 3}', '"input" is int, not a string'),
        (b'{"input": "x", "id": 1.5}', '"id" is float, not a string or an integer'),
        (b'{"input": "x", "id": true}', '"id" is bool, not a string or an integer'),
        (b'{"input": "\\ud83c"}', "holds half of a character"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "not JSON: Exceeds the limit"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(line, message):
    with pytest.raises(ValueError, match="(?s).+") as error:
        parse_request(line, 0)
    assert message in str(error.value)


def test_a_byte_order_mark_is_no_problem(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"input": "x"}\r\n\r\n{"input": "y"}\r\n')
    requests, problems = read_input(path)
    assert requests == {1: Request("x", 0), 3: Request("y", 2)} and not problems


def test_records_come_in_the_order_of_the_input(source, tmp_path):
    output = tmp_path / "new" / "out.jsonl"
    run(source, output)
    records = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert [r["id"] for r in records] == [0, 1, 2, 4, 5]
    assert [r["output"] for r in records][:3] == [
        "",
        "one",
        "Gr\u00fc\u00dfe \U0001f327 \u2028",
    ]
    assert sorted(p.name for p in output.parent.iterdir()) == [
        "out.jsonl",
        "out.jsonl.config.json",
        "out.jsonl.report.json",
    ]


def test_two_lines_with_one_id_get_a_record_each(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": "a", "input": "x"}\n{"id": "a", "input": "y"}\n')
    run(source, tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["output"] for line in lines] == ["x", "y"]


def test_a_request_the_engine_refuses_is_reported(source, tmp_path):
    job = Job(source, tmp_path / "out.jsonl", SETTINGS)
    assert job.check(EchoEngine()) == [Problem(4, "too long")]
    assert 4 not in job.requests and job.num_failed == 1


def test_a_journal_cut_anywhere_loses_and_repeats_nothing(source, tmp_path):
    """The law of resume, for every byte at which a kill can end the file."""
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    run(source, whole)
    journal = tmp_path / "out.jsonl.partial"
    run(source, output, stop_after=4)
    content = journal.read_bytes()
    assert not output.exists() and content.count(b"\n") == 5
    for cut in range(0, len(content) + 1, 3):
        journal.write_bytes(content[:cut])
        kept = max(0, content[:cut].count(b"\n") - 1)
        engine = run(source, output)
        assert len(engine.answered) == 5 - kept
        assert output.read_bytes() == whole.read_bytes()
        assert not journal.exists()
        output.unlink()


def test_a_kill_between_output_and_clean_up_is_harmless(source, tmp_path):
    output, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    run(source, output, stop_after=5)
    kept = journal.read_bytes()
    run(source, output)
    whole = output.read_bytes()
    journal.write_bytes(kept)
    assert not run(source, output).answered
    assert output.read_bytes() == whole and not journal.exists()


def test_a_job_goes_on_only_as_the_same_job(source, tmp_path):
    output = tmp_path / "out.jsonl"
    run(source, output, stop_after=2)
    other = {"dtype": "float32", "generation": {"seed": 1, "batch_size": 4}}
    with pytest.raises(ValueError, match="generation.seed=0, now 1; .*delete it"):
        run(source, output, other)
    with source.open("a") as stream:
        stream.write('\n{"input": "more"}')
    with pytest.raises(ValueError, match="another input"):
        run(source, output)


def test_scheduling_may_change_between_runs(source, tmp_path):
    output = tmp_path / "out.jsonl"
    run(source, output, stop_after=2)
    other = {"dtype": "float32", "generation": {"seed": 0, "batch_size": 1}}
    assert len(run(source, output, other).answered) == 3


def test_a_journal_without_records_binds_nobody(source, tmp_path):
    output = tmp_path / "out.jsonl"
    header = {"input": "in.jsonl", "input_blake2b": "0", "config": {}}
    (tmp_path / "out.jsonl.partial").write_text(json.dumps(header) + "\n")
    assert len(run(source, output).answered) == 5


def test_a_damaged_journal_is_refused(source, tmp_path):
    output, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    run(source, output, stop_after=2)
    journal.write_bytes(journal.read_bytes().replace(b'\t{"id"', b'\0{"id"', 1))
    with pytest.raises(ValueError, match="is damaged; delete it"):
        run(source, output)


def test_an_output_is_at_work_in_one_process_only(source, tmp_path):
    output = tmp_path / "out.jsonl"
    job = Job(source, output, SETTINGS)
    events = job.run(EchoEngine())
    next(events)
    with pytest.raises(ValueError, match="another process is at work"):
        Job(source, output, SETTINGS)
    job.close()


def test_files_that_are_not_of_this_job_are_never_overwritten(source, tmp_path):
    output = tmp_path / "out.jsonl"
    output.write_text("precious")
    with pytest.raises(ValueError, match="with no out.jsonl.config.json"):
        Job(source, output, SETTINGS)
    with pytest.raises(ValueError, match="must name a file other than --input"):
        Job(source, source, SETTINGS)
    assert output.read_text() == "precious"


def test_a_long_input_does_not_take_the_room_of_the_others(tmp_path):
    """Real engine: short requests stay in flight together."""
    from jax_switchgen.generation.engine import Engine
    from jax_switchgen.policies.simple import Fixed

    options = tiny.generation(cache_gib=0.0005, in_flight=4)
    engine = Engine([tiny.speaker("p", tiny.random_model(0))], Fixed(0), options)
    source = tmp_path / "in.jsonl"
    texts = ["a", "b" * 900, "c"]
    source.write_text("\n".join(json.dumps({"input": t}) for t in texts))
    sizes = []
    stream = engine.stream
    engine.stream = lambda requests: sizes.append(len(requests)) or stream(requests)
    job = Job(source, tmp_path / "out.jsonl", SETTINGS)
    assert not job.check(engine)
    list(job.run(engine))
    assert sizes == [2, 1]
    found = [json.loads(x) for x in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [r["input"] for r in found] == texts
