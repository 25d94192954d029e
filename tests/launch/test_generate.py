"""The main job as users run it: processes, files, exit codes, one-line errors."""

import json
import sys
from pathlib import Path

import pytest

from tests.launch.conftest import ROOT

sys.path.insert(0, str(ROOT / "launch"))
import command_line  # noqa: E402

LINES = [
    '{"input": "hello"}',
    "",
    '{"input": ',
    '{"input": ""}',
    '{"id": "long", "input": "' + "a" * 4000 + '"}',
    '{"id": "emoji", "input": "Grüße 🌧🧑‍🚀 \\u2028"}',
    '{"input": 3}',
    *(json.dumps({"input": f"question {i}"}) for i in range(60)),
]
FAILED = (3, 5, 7)  # broken, longer than the model's positions, ill-typed


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("job") / "in.jsonl"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(source, pool, launch) -> tuple[Path, str]:
    """The output of the job, uninterrupted, and what it said."""
    output = source.with_name("whole.jsonl")
    code, out, err = launch(*job(pool, source, output))
    assert (code, out) == (1, ""), err
    return output, err


def job(pool: Path, source: Path, output: Path, *changes: str) -> list[str]:
    config = [f"--config={pool}/config.py", *changes]
    return [*config, f"--input={source}", f"--output={output}"]


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_prompt_writes_nothing_but_the_response_to_a_pipe(pool, launch):
    changes = ("--config.policy.name=switcher", "--config.generation.max_new_tokens=16")
    code, out, err = launch(f"--config={pool}/config.py", *changes, "--prompt=hello")
    assert code == 0, err
    assert "pretrained" in err and "programs: prefill" in err
    assert out.endswith("\n") and "pretrained" not in out


def test_a_job_reports_bad_lines_and_answers_the_rest_in_order(finished):
    output, err = finished
    for line in FAILED:
        assert f"in.jsonl: line {line}: " in err
    assert "line 2:" not in err, "blank lines are passed over"
    expected = [
        json.loads(line) | {"id": json.loads(line).get("id", i)}
        for i, line in enumerate(LINES)
        if line and i + 1 not in FAILED
    ]
    found = records(output)
    assert [{k: r[k] for k in ("id", "input")} for r in found] == [
        {k: r[k] for k in ("id", "input")} for r in expected
    ]
    assert set(found[0]) == {
        "id", "input", "output", "finish_reason", "segments", "prompt_tokens",
        "output_tokens", "seed",
    }  # fmt: skip
    saved = json.loads(output.with_name("whole.jsonl.config.json").read_text())
    assert saved["config"]["generation"]["segment_length"] == 8
    assert sorted(p.name for p in output.parent.glob("*whole*")) == [
        "whole.jsonl",
        "whole.jsonl.config.json",
        "whole.jsonl.report.json",
    ]
    report = json.loads(output.with_name("whole.jsonl.report.json").read_text())
    assert report["records"] == len(found)
    assert [int(line) for line in report["refused"]] == list(FAILED)
    assert report["output_tokens"] == sum(r["output_tokens"] for r in found)


def test_a_complete_job_is_not_run_again_nor_overwritten(
    finished, pool, source, launch
):
    output, _ = finished
    before = output.stat().st_mtime_ns
    code, _, err = launch(*job(pool, source, output))
    assert code == 1 and "is complete; nothing" in err, "its exit code stays"
    code, _, err = launch(*job(pool, source, output, "--config.generation.seed=1"))
    assert code == 2 and "generation.seed=0, now 1" in err
    assert output.stat().st_mtime_ns == before


def test_a_job_killed_and_started_again_is_the_uninterrupted_job(
    finished, pool, source, launch
):
    """kill -9 in the middle, and a record torn by it."""
    whole, _ = finished
    output = source.with_name("killed.jsonl")
    journal = source.with_name("killed.jsonl.partial")
    launch.kill(*job(pool, source, output), name="generate.py", path=journal, lines=4)
    assert not output.exists()
    with journal.open("ab") as stream:
        stream.write(b'9\t{"torn')
    kept = journal.read_bytes().count(b"\n") - 1
    code, _, err = launch(*job(pool, source, output))
    assert code == 1, err
    assert f"{kept} records are there" in err
    assert output.read_bytes() == whole.read_bytes()
    assert not journal.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--prompt=x", "--config is missing"),
        ("--config=nowhere.py --prompt=x", "nowhere.py: no such file"),
        ("--config={pool}/config.py", "give either --prompt, or both --input"),
        (
            "--config={pool}/config.py --prompt=x --shard_index=1 --num_shards=2",
            "several processes share the lines of --input",
        ),
        ("--config={pool}/config.py --promt=x", "did you mean 'prompt'"),
        ("--config={pool}/config.py:pepper --prompt=x", "no variant 'pepper'"),
        (
            "--config={pool}/config.py --prompt=x --config.generatoin.seed=1",
            "did you mean 'generation'",
        ),
        (
            "--config={pool}/config.py --prompt=x --config.candidates[0].pth=y",
            "did you mean 'path'",
        ),
        (
            "--config={pool}/config.py --prompt=x --config.candidates[5].path=y",
            "has 2 entries",
        ),
        (
            "--config={pool}/config.py --prompt=x --config.candidates[0].path=/nowhere",
            "'/nowhere': no such folder or file",
        ),
    ],
)
def test_a_mistake_is_one_line(arguments, message, pool, launch):
    code, out, err = launch(*arguments.format(pool=pool).split())
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err


def test_help_teaches_the_two_main_uses_at_once(launch, monkeypatch):
    """Without importing what takes seconds."""
    monkeypatch.setitem(launch.environment, "PYTHONPROFILEIMPORTTIME", "1")
    code, out, err = launch("--help")
    assert code == 0 and "--prompt=" in out and "--input=" in out
    imported = {line.rpartition("|")[2].strip() for line in err.splitlines()}
    assert "absl.flags" in imported and not {"jax", "transformers"} & imported


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("policy.name", "vote", "policy.name='vote' is not one of switcher"),
        ("policy.first", "alinged", "policy.first='alinged' is no candidate"),
        ("generation.segment_length", 0, "segment_length=0 must be 1 or more"),
        ("candidates[0].path", "nobody/nothing", "hf download nobody/nothing"),
        ("candidates[0].prompt_format", "chatty", "'chatty' is not one of chat"),
        ("candidates[0].name", "aligned", "are not distinct"),
        ("switcher.labels", ("0", "12"), "label '12' is 2 tokens"),
        ("switcher.labels", ("0,1",), "write \"('0', '1')\""),
        ("policy.schedule", ("0,x",), "write numbers"),
        ("dtype", "float8", "dtype='float8' is not one of"),
    ],
)
def test_a_wrong_value_says_what_is_right(where, value, message, pool, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = load(pool)
    config.policy.name = "switcher"
    section, _, field = where.rpartition(".")
    node = config
    if section.startswith("candidates"):
        node = config.candidates[0]
    elif section:
        node = config[section]
    node[field] = value
    with pytest.raises(ValueError, match="(?s).*") as error:
        build(config)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_schedule_index_out_of_range_is_refused(pool):
    config = load(pool)
    config.policy.name = "schedule"
    config.policy.schedule = (0, 2)
    with pytest.raises(ValueError, match="index 2; there are 2 candidates"):
        build(config)


def test_a_misspelt_key_in_a_config_file_is_refused(pool):
    config = load(pool)
    with config.unlocked():
        config.generation.segment_lenght = 3
    with pytest.raises(ValueError, match="did you mean 'segment_length'"):
        read(config)


def test_the_word_none_unsets_what_may_be_none(pool):
    config = load(pool)
    config.policy.first = "None"
    assert read(config)["policy"].first is None


@pytest.mark.parametrize("name", ["demo", "tulu3_8b", "qwen2_5_7b", "olmo2_7b"])
@pytest.mark.parametrize("variant", ["", "paper", "moco"])
def test_every_value_of_a_shipped_config_is_present(name, variant, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    path = ROOT / "configs" / f"{name}.py"
    config = command_line._load_config(f"{path}:{variant}" if variant else str(path))
    sections = read(config)
    others = set(command_line.OTHER_SECTIONS)
    assert set(command_line.as_json(sections)) == set(config.keys()) - others
    for section in ("switcher", "policy", "generation"):
        known = vars(sections[section]).keys()
        assert set(config[section].keys()) == set(known)
    assert sections["generation"].ignore_stop == (variant == "paper")


def load(pool: Path):
    return command_line._load_config(f"{pool}/config.py")


def read(config) -> dict:
    return command_line.read_pool(config)


def build(config) -> None:
    from jax_switchgen.policies.build import build_engine

    build_engine(**read(config))
