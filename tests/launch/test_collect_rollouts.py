"""collect_rollouts.py as users run it: real processes, tiny real models, real kills."""

import json
import random

import pytest

from jax_switchgen.policies.build import CandidateOptions
from jax_switchgen.rollouts.pool import pool_of
from jax_switchgen.rollouts.records import read_rollouts
from tests.launch.conftest import assert_loss_is_told, await_lines, ends

NAME = "collect_rollouts.py"


def arguments(pool, output):
    return (
        f"--config={pool}/config.py",
        f"--config.rollouts.output={output}",
        "--config.generation.in_flight=8",
    )


def pool_in(folder):
    return pool_of(
        [
            CandidateOptions(
                name="pretrained", path=f"{folder}/p", prompt_format="raw"
            ),
            CandidateOptions(name="aligned", path=f"{folder}/a", prompt_format="chat"),
        ]
    )


@pytest.fixture(scope="module")
def finished(pool, records, launch, tmp_path_factory):
    """The file and stderr of an uninterrupted run."""
    output = tmp_path_factory.mktemp("rollouts") / "rollouts.jsonl"
    code, _, err = launch(*arguments(pool, output), name=NAME)
    assert code == 1, err  # four of the user's records cannot be read
    return output, err


def test_every_place_is_labelled_in_order(finished, pool, records):
    output, err = finished
    rollouts = read_rollouts(output, pool_in(pool))
    expected = [str(item["id"]) for item in records for _ in range(2)]
    assert [r.id for r in rollouts] == expected
    for rollout in rollouts:
        # 24 tokens in segments of 8: cut after the first or the second, or earlier
        # where a response ended.
        assert len(rollout.trace) in (0, 1, 2)
        assert rollout.counts == (3, 3)
        assert rollout.task == "mine" and rollout.config["rollouts"]["places"] == 2
    assert "24 places, 144 completions" in err and "random choice" in err


def test_killed_five_times_the_file_is_the_uninterrupted_one(
    finished, pool, records, launch, tmp_path
):
    output = tmp_path / "rollouts.jsonl"
    journal = tmp_path / "rollouts.jsonl.partial"
    rng = random.Random(0)
    lines = 1
    for _ in range(5):
        lines += rng.randint(1, 4)
        launch.kill(*arguments(pool, output), name=NAME, path=journal, lines=lines)
        assert journal.exists() and not output.exists(), "the kill came too late"
        kept = journal.read_bytes().count(b"\n")
        lines = max(lines, kept)
        with journal.open("ab") as stream:
            stream.write(b'9\t{"torn')
    # Other batches give the same tokens, and so the same scores.
    code, _, err = launch(
        *arguments(pool, output), "--config.generation.batch_size=4", name=NAME
    )
    assert code == 1 and f"{kept - 1} places are there" in err, err
    assert output.read_bytes() == finished[0].read_bytes()
    assert not journal.exists()


def test_shards_together_are_the_whole(finished, pool, records, launch, tmp_path):
    lines = {}
    for shard in range(2):
        flags = (f"--shard_index={shard}", "--num_shards=2")
        path = tmp_path / "rollouts.jsonl"
        code, _, err = launch(*arguments(pool, path), *flags, name=NAME)
        assert code == 1, err
        file = tmp_path / f"rollouts-0000{shard}-of-00002.jsonl"
        for i, line in enumerate(file.read_text().splitlines()):
            lines[2 * i + shard] = line
    whole = finished[0].read_text().splitlines()
    assert [lines[i] for i in range(len(whole))] == whole
    assert path.read_text().splitlines() == whole, "put together by the last"
    report = json.loads((tmp_path / "rollouts.jsonl.report.json").read_text())
    assert report["records"] == 24 and report["completions"] == 144


def test_a_process_of_a_distributed_collection_is_killed(
    finished, pool, records, launch, tmp_path
):
    """The other says so and ends; the same commands go on to the whole file."""
    output = tmp_path / "rollouts.jsonl"
    journal = tmp_path / "rollouts-00001-of-00002.jsonl.partial"
    processes = launch.start_job(2, *arguments(pool, output), name=NAME)
    await_lines(journal, 2, *processes)
    processes[1].kill()
    assert_loss_is_told(ends(processes), lost=1)
    assert not output.exists()
    processes = launch.start_job(2, *arguments(pool, output), name=NAME)
    ended = ends(processes)
    assert [code for code, _ in ended] == [1, 1], ended
    assert "places are there" in ended[1][1]
    assert output.read_bytes() == finished[0].read_bytes()


def test_what_is_complete_is_not_collected_again(finished, pool, records, launch):
    output, _ = finished
    code, _, err = launch(*arguments(pool, output), name=NAME)
    assert code == 1 and "is complete; nothing" in err, "its exit code stays"
    changed = "--config.rollouts.completions=4"
    code, _, err = launch(*arguments(pool, output), changed, name=NAME)
    assert code == 2
    assert "config.rollouts.completions=3, now 4" in err and "Traceback" not in err


@pytest.mark.parametrize(
    "flag, named",
    [
        ("--config.rollouts.allocation=greedy", "'greedy' is not one of fixed"),
        ("--config.rollouts.completions=0", "rollouts.completions=0 must be 1"),
        ("--config.rollouts.tasks=infinite_chat_diversity", "compares several"),
        ("--config.rollouts.tasks=human_interest", "set rollouts.reward_model"),
        ("--config.rollouts.earliest=0.95", "rollouts.earliest=0.95"),
        ("--config.rollouts.tasks=gsm9k", "gsm9k"),
        ("--shard_index=3", "give both --shard_index and --num_shards"),
        ("--config.generation.in_flight=3", "room for 4 responses at a time"),
    ],
)
def test_mistakes_are_one_line(pool, records, launch, tmp_path, flag, named):
    code, _, err = launch(*arguments(pool, tmp_path / "r.jsonl"), flag, name=NAME)
    *_, last = err.strip().splitlines()
    assert code == 2 and last.startswith("error: ") and named in last, err
    assert "Traceback" not in err


def test_scores_are_in_the_file(finished):
    for line in finished[0].read_text().splitlines():
        record = json.loads(line)
        means = [sum(scores) / len(scores) for scores in record["scores"]]
        assert means == pytest.approx(record["utilities"])
