"""evaluate.py as users run it: real processes, tiny real models, their own records."""

import json

import pytest

SYSTEMS = (
    *("single:aligned", "single:pretrained", "segments:aligned", "switcher", "random"),
    *("round_robin", "vote", "self_consistency:aligned"),
)


def arguments(pool, output):
    return (
        f"--config={pool}/config.py",
        f"--output={output}",
        "--config.policy.name=switcher",
    )


@pytest.fixture(scope="module")
def finished(pool, records, launch, tmp_path_factory):
    """The folder and stderr of an uninterrupted run."""
    output = tmp_path_factory.mktemp("evaluation")
    code, _, err = launch(*arguments(pool, output), name="evaluate.py")
    assert code == 0, err
    return output, err


def rows_of(output):
    """All rows by file, without what time did. Probabilities depend on the batch in
    the seventh digit, so that the sixth may be rounded either way."""
    found = {}
    for path in sorted(output.glob("cells/*/*/seed-*.jsonl")):
        _, *rows = map(json.loads, path.read_text().splitlines())
        for row in rows:
            del row["seconds"]
            for segment in row["segments"]:
                probs = segment["probs"] or {}
                segment["probs"] = {name: round(p, 4) for name, p in probs.items()}
        found[str(path.relative_to(output))] = rows
    return found


def test_every_system_answers_every_record_in_order(finished, records):
    output, _ = finished
    found = rows_of(output)
    assert len(found) == len(SYSTEMS) * 2
    for rows in found.values():
        assert [row["id"] for row in rows] == [str(item["id"]) for item in records]
        for row in rows:
            written = sum(segment["tokens"] for segment in row["segments"])
            assert 0 < written <= 24 and written <= row["tokens"]
            assert row["value"] in (0.0, 1.0)


def test_segments_change_nothing_and_seeds_do(finished):
    """Law 3 at the level of an evaluation, and answers that are sampled."""
    found = rows_of(finished[0])
    outputs = {path: [row["output"] for row in rows] for path, rows in found.items()}
    single = outputs["cells/single-aligned/mine/seed-0.jsonl"]
    assert outputs["cells/segments-aligned/mine/seed-0.jsonl"] == single
    assert outputs["cells/single-aligned/mine/seed-1.jsonl"] != single
    votes = found["cells/self_consistency-aligned/mine/seed-0.jsonl"]
    assert all(row["calls"] == 3 for row in votes)
    assert [row["output"] for row in votes] == single  # nothing parsed: the first


def test_unreadable_records_are_one_line_each(finished):
    _, err = finished
    lines = [line for line in err.splitlines() if "left out" in line]
    assert len(lines) == 4
    for number, words in ((13, "'question'"), (14, "occurs before"), (15, "'D'")):
        assert any(f"line {number}:" in line and words in line for line in lines)


def test_table_and_report(finished):
    output, err = finished
    content = json.loads((output / "summary.json").read_text())
    table = content["scores"]
    assert [row["system"] for row in table] == list(SYSTEMS)
    for row in table:
        assert row["n"] == 12 and row["seeds"] == 2
        assert 0 <= row["low"] <= row["score"] <= row["high"] <= 1
        assert sum(row["shares"].values()) == pytest.approx(1)
        assert (row["p_holm"] is None) == (row["system"] == "single:aligned")
    rows = [line.split() for line in err.splitlines()]
    for system in SYSTEMS:
        assert any(row[:2] == ["mine", system] and len(row) > 10 for row in rows)
    # Segments change no probability, and votes have none. Own tasks have no dev split
    # to fit a temperature on.
    names = ["single:aligned", "single:pretrained", "switcher", "random"]
    assert [row["system"] for row in content["choices"]] == names
    assert all(0 <= row["confidence"] <= 1 for row in content["choices"])
    page = (output / "report.html").read_text()
    assert all(system in page for system in SYSTEMS)


def test_a_complete_run_loads_no_model(finished, pool, launch):
    output, first = finished
    assert "loading" in first
    before = {p: p.stat().st_mtime_ns for p in output.glob("cells/*/*/*")}
    code, _, err = launch(*arguments(pool, output), name="evaluate.py")
    assert code == 0, err
    assert {p: p.stat().st_mtime_ns for p in output.glob("cells/*/*/*")} == before
    assert "loading" not in err


def test_other_settings_are_refused(finished, pool, launch):
    output, _ = finished
    code, _, err = launch(
        *arguments(pool, output),
        "--config.generation.temperature=0.3",
        name="evaluate.py",
    )
    last = err.splitlines()[-1]
    assert code == 2 and "other models, settings or records" in last
    assert "Traceback" not in err


def test_killed_and_started_again_is_the_uninterrupted_run(
    finished, pool, launch, tmp_path
):
    partial = tmp_path / "cells/switcher/mine/seed-0.partial"
    launch.kill(*arguments(pool, tmp_path), name="evaluate.py", path=partial, lines=4)
    assert partial.exists(), "the kill came too late to test anything"
    with partial.open("ab") as stream:
        stream.write(b'{"id": "torn')
    kept = partial.read_text().split("\n")[1:-1]
    code, _, err = launch(*arguments(pool, tmp_path), name="evaluate.py")
    assert code == 0, err
    assert rows_of(tmp_path) == rows_of(finished[0])
    final = partial.with_suffix(".jsonl").read_text().splitlines()
    assert set(kept) <= set(final)


def test_wrong_names_are_one_line(pool, records, launch, tmp_path):
    for flag, words in (
        ("--config.evaluation.reference=nobody", "'nobody' is none of the systems"),
        ("--config.evaluation.split=train", "'train' is not dev or test"),
        ("--config.evaluation.systms=x", "did you mean 'systems'"),
    ):
        code, _, err = launch(*arguments(pool, tmp_path), flag, name="evaluate.py")
        assert code == 2 and words in err.splitlines()[-1], err
