"""train_switcher.py as users run it: real processes, tiny real models, real kills."""

import json
import random
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jax_switchgen.policies.build import CandidateOptions
from jax_switchgen.rollouts.pool import pool_of
from jax_switchgen.training.options import TrainingOptions
from tests.launch.conftest import LIMIT, ROOT, await_lines, ends
from tests.training import synthetic

CONFIG_FILE = """
import runpy

from configs import presets


def get_config(variant=""):
    config = runpy.run_path({pool!r})["get_config"](variant)
    config.training = presets.training(
        ({rollouts!r},), {output!r}, compute_dtype="float32"
    )
    config.training.batch_size = 8
    config.training.epochs = 5
    config.training.lora_rank = 4
    config.training.learning_rate = 1e-2
    config.training.eval_every = 20
    config.training.checkpoint_every = 4
    config.training.remat = False
    return config
"""


@pytest.fixture(scope="module")
def folder(pool, tmp_path_factory):
    """`config.py`, and `rollouts.jsonl` of its pool."""
    folder = tmp_path_factory.mktemp("training")
    content = CONFIG_FILE.format(
        pool=str(pool / "config.py"),
        rollouts=str(folder / "rollouts.jsonl"),
        output=str(folder / "run"),
    )
    (folder / "config.py").write_text(content)
    candidates = [
        CandidateOptions(name=name, path=f"{pool}/{name[0]}", prompt_format=form)
        for name, form in (("pretrained", "raw"), ("aligned", "chat"))
    ]
    made = [synthetic.rollout(i, trace=()) for i in range(110)]
    synthetic.write_rollouts(folder / "rollouts.jsonl", made, pool_of(candidates))
    return folder


def arguments(folder, output):
    return f"--config={folder}/config.py", f"--config.training.output={output}"


def train(launch, folder, output, *flags):
    return launch(*arguments(folder, output), *flags, name="train_switcher.py")


def command(folder, output):
    return [
        sys.executable,
        str(ROOT / "launch" / "train_switcher.py"),
        *arguments(folder, output),
    ]


def only_error(err):
    """What a user sees of a mistake: the last line, and no traceback."""
    assert "Traceback" not in err
    *_, last = err.splitlines()
    assert last.startswith("error: ")
    return last


@pytest.fixture(scope="module")
def finished(folder, launch):
    """The folder and stderr of an uninterrupted run."""
    code, _, err = launch(f"--config={folder}/config.py", name="train_switcher.py")
    assert code == 0, err
    return folder / "run", err


def metrics(output):
    return (output / "metrics.jsonl").read_bytes()


def test_a_run_leaves_scores_a_plot_and_an_adapter(finished):
    output, err = finished
    assert "held out after step 0" in err
    assert "tokens/s" in err and "min left" in err
    assert f"--config.switcher.adapter={output}/switcher" in err.splitlines()[-1]
    results = json.loads((output / "results.json").read_text())
    assert results["steps"] > 50 and results["trained"]["loss"] < 0.5
    assert set(results["baselines"]) == {
        *("always pretrained", "always aligned", "random", "majority"),
    }
    assert (output / "training.svg").read_text().startswith("<svg")
    assert (output / "switcher" / "adapter_model.safetensors").is_file()
    config = json.loads((output / "config.json").read_text())
    assert config["training"]["lora_rank"] == 4


def test_generate_uses_what_was_trained(finished, folder, launch, tmp_path):
    """It has learned to give those who shout to candidate 1, and others to 0."""
    queries = ["LOUD " * 8, "calm " * 8]
    lines = [json.dumps({"input": query}) + "\n" for query in queries]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    code, _, err = launch(
        f"--config={folder}/config.py",
        "--config.policy.name=switcher",
        f"--config.switcher.adapter={finished[0]}/switcher",
        f"--input={tmp_path}/in.jsonl",
        f"--output={tmp_path}/out.jsonl",
    )
    assert code == 0, err
    records = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    loud, calm = (record["segments"][0]["probs"]["aligned"] for record in records)
    assert loud > 0.7 and calm < 0.3


def test_killed_at_random_steps_is_the_uninterrupted_run(
    finished, folder, launch, tmp_path
):
    """kill -9 five times, and a SIGTERM, which is answered with a checkpoint; metrics,
    results and adapter are the same bytes in the end."""
    output = tmp_path / "run"
    seed = random.randrange(1000)
    print(f"kills drawn with seed {seed}")
    *kills, last = sorted(random.Random(seed).sample(range(4, 60), 6))
    for lines in kills:
        launch.kill(
            *arguments(folder, output),
            name="train_switcher.py",
            path=output / "metrics.jsonl",
            lines=lines,
        )
        assert not (output / "results.json").exists(), "the kill came too late"
    process = launch.start(*arguments(folder, output), name="train_switcher.py")
    await_lines(output / "metrics.jsonl", last, process)
    process.send_signal(signal.SIGTERM)
    [(code, err)] = ends([process])
    assert code == 128 + signal.SIGTERM, err
    assert "Traceback" not in err and "is saved" in err.splitlines()[-1]
    code, _, err = train(launch, folder, output)
    assert code == 0 and "going on after step" in err
    for name in ("metrics.jsonl", "results.json", "switcher/adapter_model.safetensors"):
        assert (output / name).read_bytes() == (finished[0] / name).read_bytes(), name


def test_a_complete_run_is_not_repeated(finished, folder, launch):
    output, _ = finished
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*")}
    code, _, err = train(launch, folder, output)
    assert code == 0 and "complete already" in err and "loading" not in err
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*")} == before


def test_rollouts_of_another_pool_are_one_line(folder, launch, tmp_path):
    """And the folder is not taken by what could not begin."""
    output = tmp_path / "run"
    other = "--config.candidates[0].prompt_format=chat"
    code, _, err = train(launch, folder, output, other)
    last = only_error(err)
    assert code == 2 and "another pool" in last and "fingerprint" in last
    assert not output.exists()


def test_a_full_disk_is_one_line(folder, launch, tmp_path):
    """Where checkpoints go: no file may be larger than 4 KiB."""
    found = subprocess.run(
        ["prlimit", "--fsize=4096", "--", *command(folder, tmp_path / "run")],
        env=launch.environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert found.returncode == 2, found.stderr
    assert "could not be written" in only_error(found.stderr)


@pytest.fixture
def read(monkeypatch):
    """The training options that the launcher reads from a config file and flags."""
    monkeypatch.syspath_prepend(str(ROOT / "launch"))
    module = runpy.run_path(str(ROOT / "launch" / "command_line.py"))

    def read(path, variant=None, **changes) -> TrainingOptions:
        get_config = runpy.run_path(str(ROOT / path))["get_config"]
        config = get_config(*[variant] * (variant is not None))
        for name, value in changes.items():
            config.training[name] = value
        return module["read_pool"](config, training=TrainingOptions)["training"]

    return read


@pytest.mark.parametrize(("variant", "chips"), [("v4-8", 4), ("v4-32", 16)])
def test_the_papers_training_fits_its_slices(read, variant, chips):
    """Rates and ranks are the paper's; rows and weights divide over the chips."""
    options = read("configs/tpu_v4.py", variant)
    assert (options.learning_rate, options.batch_size) == (1e-5, 32)
    assert (options.lora_rank, options.lora_alpha) == (64, 16.0)
    assert options.lora_targets == ("q", "k", "v", "o")
    assert chips % (options.fsdp * options.tensor) == 0
    assert options.part_size % (chips // options.tensor) == 0
    assert read("configs/tpu_v4.py") == read("configs/tpu_v4.py", "v4-8")
    with pytest.raises(ValueError, match="v4-8, v4-32"):
        read("configs/tpu_v4.py", "v9-1")


def test_flags_say_which_tasks_are_learned(read):
    options = read("configs/demo.py", tasks=("gsm8k", "popqa"), weights=(2, 1))
    assert options.tasks == ("gsm8k", "popqa") and options.weights == (2.0, 1.0)
    assert read("configs/demo.py", tasks=("gsm8k",)).tasks == ("gsm8k",)


def test_the_demo_uses_its_trained_switcher(tmp_path, monkeypatch):
    """Once there is one; and in comparisons only where it is asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    get_config = runpy.run_path(str(ROOT / "configs" / "demo.py"))["get_config"]
    assert get_config().switcher.adapter is None
    (Path(get_config().training.output) / "switcher").mkdir(parents=True)
    assert get_config().switcher.adapter == "outputs/demo/training/switcher"
    assert get_config("evaluation").switcher.adapter is None


def start_job(count, folder, output, launch, *flags):
    """All processes of a job."""
    return launch.start_job(
        count, *arguments(folder, output), *flags, name="train_switcher.py"
    )


def test_two_processes_are_one(finished, folder, launch, tmp_path):
    """Half of every batch each, on one global mesh; SIGTERM to one of them stops both
    after the same step, and both go on from there."""
    output = tmp_path / "run"
    rarely = "--config.training.checkpoint_every=1000"
    started = start_job(2, folder, output, launch, rarely)
    await_lines(output / "metrics.jsonl", 8, started[0])
    started[1].send_signal(signal.SIGTERM)
    ended = ends(started)
    assert [code for code, _ in ended] == [128 + signal.SIGTERM] * 2, ended
    ended = ends(start_job(2, folder, output, launch, rarely))
    assert [code for code, _ in ended] == [0, 0], ended
    assert "going on after step" in ended[0][1]
    for rank, (_, err) in enumerate(ended):
        assert f"host {rank} of 2" in err and f"{output} is writable" in err
    assert_same_metrics(output, finished[0])
    assert (output / "switcher" / "adapter_model.safetensors").is_file()


def test_one_of_four_is_killed_and_two_go_on(finished, folder, launch, tmp_path):
    """kill -9: the others say which one is gone, in bounded time; fewer processes go on
    from the newest checkpoint."""
    output = tmp_path / "run"
    started = start_job(4, folder, output, launch)
    await_lines(output / "metrics.jsonl", 12, started[0])
    started[1].kill()
    *others, _ = ends([started[0], *started[2:], started[1]])
    for code, err in others:
        assert code not in (0, 2) and "Traceback" not in err
        *before, last = err.splitlines()
        assert last.startswith("error: process 1 of 4 is gone"), err
        # What JAX logs may have these words within a line.
        assert not [line for line in before if line.startswith("error: ")], err
        assert "stack trace" not in err
    ended = ends(start_job(2, folder, output, launch))
    assert [code for code, _ in ended] == [0, 0], ended
    assert "going on after step" in ended[0][1]
    assert_same_metrics(output, finished[0])


def assert_same_metrics(run, other):
    """As of a single process, but for rounding."""
    expected = [json.loads(line) for line in metrics(other).splitlines()]
    found = [json.loads(line) for line in metrics(run).splitlines()]
    assert [list(line) for line in found] == [list(line) for line in expected]
    for one, other in zip(found, expected, strict=True):
        if "loss" in one:
            # Rounding adds up, and the loss falls by a factor of 30.
            tolerance = 1e-4 if one["step"] < 10 else 2e-2
            assert one["loss"] == pytest.approx(other["loss"], rel=tolerance)
