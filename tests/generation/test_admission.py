"""Who is admitted when, and that nobody waits for a long response."""

import json

from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.jobs import Job
from jax_switchgen.generation.session import Session
from jax_switchgen.generation.trace import Request
from jax_switchgen.policies.simple import Fixed
from tests import tiny
from tests.generation.test_jobs import SETTINGS, EchoEngine

MODEL = tiny.random_model(0)


class LengthEngine(EchoEngine):
    """Requests need as many tokens as they have letters."""

    def check(self, request: Request) -> int:
        return len(request.query)


def test_long_requests_are_admitted_first_and_records_keep_their_order(tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    texts = ["x" * n for n in (3, 9, 1, 7, 7, 2)]
    source.write_text("".join(json.dumps({"input": t}) + "\n" for t in texts))
    asked: list[str] = []
    engine = LengthEngine()
    stream = engine.stream
    engine.stream = lambda requests: (
        asked.extend(r.query for r in requests) or stream(requests)
    )
    list(Job(source, output, SETTINGS).run(engine))
    assert [len(text) for text in asked] == [9, 7, 7, 3, 2, 1]
    lines = output.read_text().splitlines()
    assert [json.loads(line)["input"] for line in lines] == texts


def test_a_response_that_goes_on_holds_one_slot_and_no_pass(monkeypatch):
    """Two slots, one response of 20 segments, and 30 that end with their first one:
    two thirds of those are done beside it. A batch that waits for its longest row
    would take 20 passes for the first two, and 15 for the others."""

    def finish_reason(self, draft, *of_segment):
        goes_on = draft.request.id == "long" and draft.remaining > 0
        return None if goes_on else "stop"

    monkeypatch.setattr(Session, "_finish_reason", finish_reason)
    options = tiny.generation(segment_length=2, batch_size=2, in_flight=2)
    engine = Engine([tiny.speaker("p", MODEL)], Fixed(0), options)
    passes: list[None] = []
    engine.passed = lambda: passes.append(None)
    requests = [Request("first", "long"), *(Request(f"q {i}", i) for i in range(30))]
    ends = [e.request.id for e in engine.stream(requests) if e.response is not None]
    assert sorted(map(str, ends)) == sorted(str(r.id) for r in requests)
    assert ends.index("long") >= 19
    assert len(passes) <= 26
