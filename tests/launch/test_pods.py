"""Jobs of several processes as users run them: real processes, tiny models, kills."""

import json
import random
import time

import pytest

from tests.launch.conftest import LIMIT, Launcher, assert_loss_is_told, ends

RECORDS = 200


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Many processes that compile much and compute little."""
    launcher = Launcher(tmp_path_factory.mktemp("launcher"))
    launcher.environment["XLA_FLAGS"] = (
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    )
    return launcher


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Records of several lengths."""
    path = tmp_path_factory.mktemp("pods") / "in.jsonl"
    texts = [f"question {i} " + "ab" * (i % 7) for i in range(RECORDS)]
    path.write_text("".join(json.dumps({"input": text}) + "\n" for text in texts))
    return path


def arguments(pool, source, output):
    return (
        f"--config={pool}/config.py",
        "--config.generation.max_new_tokens=16",
        "--config.generation.in_flight=8",
        f"--input={source}",
        f"--output={output}",
    )


@pytest.fixture(scope="module")
def whole(source, pool, launch):
    """The output of a single process."""
    output = source.with_name("whole.jsonl")
    code, _, err = launch(*arguments(pool, source, output))
    assert code == 0, err
    return output


def await_records(journals, processes):
    """Until one of the journals holds enough records, of those given for each; returns
    its path."""
    deadline = time.monotonic() + LIMIT
    while True:
        for path, count in journals.items():
            # The first line is a header.
            if path.exists() and path.read_bytes().count(b"\n") > count:
                return path
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def journal(output, index=0, count=1):
    shard = output if count == 1 else shard_of(output, index, count)
    return shard.with_name(f"{shard.name}.partial")


def shard_of(output, index, count):
    return output.with_name(f"{output.stem}-{index:05}-of-{count:05}.jsonl")


def assert_whole(output, whole):
    """All records once, in order, with config and report."""
    inputs = [json.loads(line)["input"] for line in output.read_bytes().splitlines()]
    assert len(inputs) == len(set(inputs)) == RECORDS
    for suffix in ("", ".config.json", ".report.json"):
        expected = whole.with_name(f"{whole.name}{suffix}").read_bytes()
        assert output.with_name(f"{output.name}{suffix}").read_bytes() == expected


def test_two_of_four_processes_killed_and_started_again(
    whole, source, pool, launch, tmp_path
):
    """200 records over four independent processes: all of them once, and equal to a
    single process's."""
    output = tmp_path / "out.jsonl"
    seed = random.randrange(1000)
    print(f"kills drawn with seed {seed}")
    rng = random.Random(seed)

    def start(index):
        shard = (f"--shard_index={index}", "--num_shards=4")
        return launch.start(*arguments(pool, source, output), *shard)

    processes = [start(index) for index in range(4)]
    killed = rng.sample(range(4), 2)
    # Of 50 that each of them has: early enough for a look every 0.01 s.
    left = {journal(output, index, 4): rng.randint(1, 12) for index in killed}
    indices = dict(zip(left, killed, strict=True))
    while left:
        path = await_records(left, [processes[indices[path]] for path in left])
        processes[indices[path]].kill()
        del left[path]
    for index in killed:
        processes[index].communicate()
        assert not shard_of(output, index, 4).exists(), "the kill came too late"
        processes[index] = start(index)
    ended = ends(processes)
    assert [code for code, _ in ended] == [0] * 4, ended
    for index in killed:
        assert "records are there from an earlier run" in ended[index][1]
    assert_whole(output, whole)


@pytest.mark.parametrize(("count", "lost"), [(2, 0), (4, 2)])
def test_one_process_of_a_distributed_job_is_killed(
    whole, source, pool, launch, tmp_path, count, lost
):
    """All others say in one line which one is gone, and end in bounded time; the same
    commands go on. The loss of process 0, which coordinates, shows in another way than
    that of any other."""
    output = tmp_path / "out.jsonl"
    processes = launch.start_job(count, *arguments(pool, source, output))
    await_records({journal(output, lost, count): 2}, processes)
    processes[lost].kill()
    ended = ends(processes)
    assert_loss_is_told(ended, lost)
    assert not output.exists()
    ended = ends(launch.start_job(count, *arguments(pool, source, output)))
    assert [code for code, _ in ended] == [0] * count, ended
    assert "records are there from an earlier run" in ended[lost][1]
    assert_whole(output, whole)


def test_a_job_that_sigterm_stops_says_how_to_go_on(
    whole, source, pool, launch, tmp_path
):
    output = tmp_path / "out.jsonl"
    process = launch.start(*arguments(pool, source, output))
    await_records({journal(output): 2}, [process])
    process.terminate()
    [(code, err)] = ends([process])
    assert code == 143 and "Traceback" not in err
    assert err.splitlines()[-1].startswith("stopped by SIGTERM; the same command")
    code, _, err = launch(*arguments(pool, source, output))
    assert code == 0 and "from an earlier run" in err
    assert_whole(output, whole)
