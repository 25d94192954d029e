"""A run that is stopped, damaged or moved ends as one that was not."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import jax.monitoring
import numpy as np
import pytest

from jax_switchgen.training.loop import train
from jax_switchgen.training.output import MetricsFile, claim, read_metrics
from tests.hf_models import one_line_error
from tests.training import synthetic

METRICS = "metrics.jsonl"


class Stop(Exception):
    """What ends a run in the middle of whatever it does."""


def run(output, on=None, until=None, act=None, **changes):
    """Trains in a folder; returns the state and what was said.

    Args:
      until: words in a line of progress.
      act: what then happens, instead of a stop.
    """
    output.mkdir(parents=True, exist_ok=True)
    said = []

    def progress(line):
        said.append(line)
        if until is not None and until in line:
            if act is None:
                raise Stop
            act()

    mesh = on or synthetic.mesh()
    changes = dict(count=54, batch_size=8) | changes  # 10 steps in 2 epochs
    state = train(
        synthetic.learner(on=mesh, **changes),
        output,
        mesh=mesh,
        say=progress,
        progress=progress,
    )
    return state, "\n".join(said)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of an uninterrupted run of 10 steps, and of one stopped after 8."""
    folder = tmp_path_factory.mktemp("finished")
    run(folder / "whole")
    with pytest.raises(Stop):
        run(folder / "stopped", until="held out after step 10")
    return folder


def assert_same_run(output, finished):
    assert (output / METRICS).read_bytes() == (
        finished / "whole" / METRICS
    ).read_bytes()


def test_a_learnable_choice_is_learned(tmp_path):
    """From chance to nearly always right, on queries that were held out."""
    _, said = run(tmp_path, count=240, epochs=5, eval_every=20, checkpoint_every=200)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["examples"] + results["held_out_examples"] == 240
    untrained, trained = results["untrained"], results["trained"]
    assert untrained["accuracy"] < 0.75
    assert trained["accuracy"] > 0.95 and trained["regret"] < 0.03
    assert trained["loss"] < 0.3 < untrained["loss"]
    assert trained["label_mass"] > 0.9 and trained["ece"] < 0.1
    assert results["by_task"]["shouting"]["accuracy"] == trained["accuracy"]
    assert all(b["regret"] > 0.15 for b in results["baselines"].values())
    assert "compiling 4 programs" in said, "two lengths to train on and to evaluate"
    lines = read_metrics(tmp_path / METRICS)
    losses = [line["step"] for line in lines if "loss" in line]
    assert losses == list(range(1, results["steps"] + 1))
    assert f"{results['padding']:.1%} of the tokens are padding" in said
    assert results["padding"] < 0.1


def test_nothing_is_compiled_after_the_first_step(tmp_path):
    """Neither for another length, nor for a checkpoint or an evaluation."""
    compiled = []
    events = "/jax/core/compile/backend_compile_duration"

    def listen(event, seconds, **details):
        if event == events:
            compiled.append(details)

    counts = []
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        # No earlier test has compiled these shapes: one more example in each batch.
        run(
            tmp_path,
            until="held out after step 0",
            act=lambda: counts.append(len(compiled)),
            batch_size=9,
        )
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert counts[0] > 1, "the listener hears of compilations"
    assert len(compiled) == counts[0]


def test_stopped_and_resumed_is_uninterrupted_bit_for_bit(finished, tmp_path):
    """Stopped three times: in the first evaluation, between checkpoints, at the end."""
    for words in ("held out after step 0", "held out after step 8", "step 10 of"):
        with pytest.raises(Stop):
            run(tmp_path, until=words)
    _, said = run(tmp_path)
    assert "going on after step" in said
    assert_same_run(tmp_path, finished)


def test_a_kill_after_the_last_checkpoint_costs_nothing(finished, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(finished / "whole", output)
    results = (output / "results.json").read_bytes()
    (output / "results.json").unlink()
    _, said = run(output)
    assert "going on after step 10" in said
    assert "held out after" not in said and "compiling" not in said
    assert (output / "results.json").read_bytes() == results
    assert_same_run(output, finished)


def test_sigterm_saves_the_step_and_resumes(finished, tmp_path):
    def terminate():
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    rarely = dict(checkpoint_every=100)
    state, said = run(tmp_path, until="held out after step 4", act=terminate, **rarely)
    assert state is None and "step 5 is saved" in said, "after the step at work"
    assert signal.getsignal(signal.SIGTERM) is before
    assert [p.name for p in (tmp_path / "checkpoints").glob("[0-9]*")] == ["5"]
    _, said = run(tmp_path, **rarely)
    assert "going on after step 5" in said
    assert_same_run(tmp_path, finished)


def test_another_mesh_goes_on(finished, tmp_path):
    """From one device to eight, and within rounding of the uninterrupted run."""
    shutil.copytree(finished / "stopped", tmp_path / "moved")
    _, said = run(tmp_path / "moved", on=synthetic.mesh(2, 2, 2))
    assert "going on after step 8" in said
    found, expected = (
        read_metrics(folder / METRICS)
        for folder in (tmp_path / "moved", finished / "whole")
    )
    assert [list(line) for line in found] == [list(line) for line in expected]
    for one, other in zip(found, expected, strict=True):
        if "loss" in one:
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)


def largest_file(folder: Path) -> Path:
    """Of the arrays; what Orbax has merged them from lies beside it."""
    return max((folder / "state" / "d").iterdir(), key=lambda p: p.stat().st_size)


def cut(folder):
    file = largest_file(folder)
    os.truncate(file, file.stat().st_size // 2)


def remove(folder):
    largest_file(folder).unlink()


def flip(folder):
    """One bit in the middle of the numbers, which every format reads happily."""
    file = largest_file(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def empty(folder):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("damage", [cut, remove, flip, empty])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(finished, tmp_path, damage):
    """And says so; what comes out is still the uninterrupted run, bit for bit."""
    output = tmp_path / "run"
    shutil.copytree(finished / "stopped", output)
    damage(output / "checkpoints" / "8")
    _, said = run(output)
    assert "checkpoint of step 8 is damaged" in said
    assert "going back to that of step 4" in said and "going on after step 4" in said
    assert_same_run(output, finished)
    steps = {p.name for p in (output / "checkpoints").glob("[0-9]*")}
    assert steps == {"4", "8", "10"}, "written again"
    assert (output / "damaged-8").is_dir()


def test_all_checkpoints_damaged_is_a_new_beginning(finished, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(finished / "stopped", output)
    for step in ("4", "8"):
        cut(output / "checkpoints" / step)
    _, said = run(output)
    assert said.count("is damaged") == 2 and "going back to the beginning" in said
    assert "held out after step 0" in said
    assert_same_run(output, finished)


def test_only_the_newest_checkpoints_are_kept(finished, tmp_path):
    run(tmp_path, checkpoint_every=1, keep=2)
    steps = {int(p.name) for p in (tmp_path / "checkpoints").glob("[0-9]*")}
    assert steps == {9, 10}
    assert_same_run(tmp_path, finished)


def test_a_loss_that_is_not_finite_stops_with_step_and_ids(tmp_path):
    """And no checkpoint of what it has spoilt."""
    with pytest.raises(ValueError) as error:
        run(tmp_path, learning_rate=1e30, checkpoint_every=1, warmup=0.0)
    message = str(error.value)
    assert "\n" not in message and "step 2: the loss is nan" in message
    assert message.count("shouting q") == 8 and "learning_rate" in message
    saved = {p.name for p in (tmp_path / "checkpoints").glob("[0-9]*")}
    assert saved <= {"1"}


def test_a_full_disk_is_one_line(tmp_path):
    (tmp_path / METRICS).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path)


def test_a_folder_is_of_one_training(tmp_path):
    """Names what differs; the mesh and the checkpoints' rhythm may."""
    identity = {
        "candidates": [{"name": "a", "path": "x"}],
        "switcher": {"path": "x", "labels": None},
        "training": dataclasses.asdict(synthetic.options()),
        "rollouts": ["123"],
    }
    output = tmp_path / "run"
    claim(output, identity)
    claim(output, identity)

    def with_training(**changes):
        return identity | {"training": identity["training"] | changes}

    claim(output, with_training(fsdp=2, tensor=4, keep=9, checkpoint_every=7))
    claim(output, with_training(output="elsewhere", rollouts=("moved.jsonl",)))
    claim(output, with_training(accumulation=2, remat=True, viewers=("wandb",)))
    with one_line_error("learning_rate=0.01, now 0.02", "training.output"):
        claim(output, with_training(learning_rate=0.02))
    with one_line_error("rollouts", "123", "456"):
        claim(output, identity | {"rollouts": ["456"]})
    with one_line_error("switcher.path"):
        claim(output, identity | {"switcher": {"path": "y", "labels": None}})


def test_two_processes_do_not_share_a_folder(tmp_path):
    with MetricsFile(tmp_path / METRICS):
        with one_line_error("another process", "training.output"):
            MetricsFile(tmp_path / METRICS)
    with MetricsFile(tmp_path / METRICS):
        pass


def test_metrics_forget_later_steps_and_torn_lines(tmp_path):
    with MetricsFile(tmp_path / METRICS) as metrics:
        for step in range(4):
            metrics.write(step=step, loss=0.5)
        kept = (tmp_path / METRICS).read_bytes()
        metrics.write(step=4, loss=0.25)
        with (tmp_path / METRICS).open("ab") as stream:
            stream.write(b'{"step": 4, "lo')
        metrics.forget_after(3)
        assert (tmp_path / METRICS).read_bytes() == kept
        metrics.write(step=4, loss=0.125)
    assert read_metrics(tmp_path / METRICS)[-1] == {"step": 4, "loss": 0.125}


def test_nothing_held_out_is_trained_without_evaluation(tmp_path):
    run(tmp_path, held_out=0.0, epochs=1)
    lines = read_metrics(tmp_path / METRICS)
    assert [line["step"] for line in lines] == list(range(1, 7))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["trained"] is None and results["by_task"] == {}
    assert np.isfinite([line["loss"] for line in lines]).all()
