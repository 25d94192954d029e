"""launch/tpu: what would run on Google's machines, recorded by stand-ins for gcloud."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.launch.conftest import ROOT

SCRIPTS = sorted((ROOT / "launch" / "tpu").glob("*.sh"))
SLICE = {"NAME": "mine", "ZONE": "us-central2-b", "TYPE": "v4-32"}

# Records its arguments; says the next state that is asked for; fails where told to.
STAND_IN = f"""#!{sys.executable}
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "log").open("a") as log:
    log.write(json.dumps([os.path.basename(__file__), *sys.argv[1:]]) + "\\n")
if "describe" in sys.argv:
    states = (here / "states").read_text().split()
    (here / "states").write_text(" ".join(states[1:]))
    print(states[0])
if any("launch/" in argument and "--command" in argument for argument in sys.argv):
    codes = (here / "codes").read_text().split()
    (here / "codes").write_text(" ".join(codes[1:]))
    sys.exit(int(codes[0]))
"""


@pytest.fixture
def tpu(tmp_path):
    """Runs a script where gcloud and xpk are stand-ins: exit code, commands, stderr."""
    for name in ("gcloud", "xpk"):
        path = tmp_path / name
        path.write_text(STAND_IN)
        path.chmod(0o755)

    def run(script, *arguments, states="ACTIVE", codes="0", **changes):
        (tmp_path / "states").write_text(states)
        (tmp_path / "codes").write_text(codes)
        (tmp_path / "log").write_text("")
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SECONDS_BETWEEN_LOOKS": "0",
            **SLICE,
            **changes,
        }
        found = subprocess.run(
            [ROOT / "launch" / "tpu" / script, *arguments],
            env={k: v for k, v in environment.items() if v is not None},
            capture_output=True,
            text=True,
            timeout=60,
        )
        lines = (tmp_path / "log").read_text().splitlines()
        return found.returncode, [json.loads(line) for line in lines], found.stderr

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script):
    place = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    program = shutil.which("shellcheck", path=place)
    assert program, "pip install -r requirements-test.txt"
    found = subprocess.run([program, script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_what_is_not_said_is_asked_for(tpu, script):
    """And nothing runs without it."""
    code, commands, err = tpu(script.name, "python", "x", NAME=None, CLUSTER="c")
    assert code != 0 and not commands
    assert "NAME: is" in err and err.count("\n") == 1


def test_a_slice_is_asked_for_and_awaited(tpu):
    states = "WAITING_FOR_RESOURCES PROVISIONING ACTIVE"
    code, commands, _ = tpu("create.sh", states=states, SPOT="1")
    assert code == 0
    create, *looks = commands
    assert create == [
        "gcloud", "compute", "tpus", "queued-resources", "create", "mine",
        "--zone=us-central2-b", "--node-id=mine", "--accelerator-type=v4-32",
        "--runtime-version=tpu-ubuntu2204-base", "--spot",
    ]  # fmt: skip
    assert [look[4:6] for look in looks] == [["describe", "mine"]] * 3


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-8", "v2-alpha-tpuv6e"),
    ],
)
def test_each_kind_has_its_image(tpu, kind, image):
    _, [create, *_], _ = tpu("create.sh", TYPE=kind)
    assert f"--runtime-version={image}" in create and "--spot" not in create


def test_a_slice_that_cannot_be_had_is_an_error(tpu):
    code, _, err = tpu("create.sh", states="PROVISIONING FAILED")
    assert code == 1 and err.startswith("error: mine is FAILED; delete it")


def test_all_hosts_get_the_committed_state_and_are_set_up(tpu):
    code, [copy, steps], err = tpu("set_up.sh")
    assert code == 0, err
    assert copy[1:5] == ["compute", "tpus", "tpu-vm", "scp"]
    assert copy[5].endswith("jax_switchgen.tar.gz") and not Path(copy[5]).exists()
    assert copy[6:] == ["mine:", "--zone=us-central2-b", "--worker=all"]
    assert steps[5:8] == ["mine", "--zone=us-central2-b", "--worker=all"]
    program = steps[8].removeprefix("--command=")
    checked = subprocess.run(["bash", "-n", "-c", program], capture_output=True)
    assert checked.returncode == 0, checked.stderr
    assert '-r requirements.txt "jax[tpu]"' in program


def test_all_hosts_run_the_very_line(tpu):
    """Quotes and spaces reach the program as they were given."""
    line = ["python", "launch/x.py", "--config.training.tasks=('a','b c')", "$HOME"]
    code, [command], _ = tpu("on_all_workers.sh", *line)
    assert code == 0
    assert command[:8] == [
        "gcloud", "compute", "tpus", "tpu-vm", "ssh", "mine",
        "--zone=us-central2-b", "--worker=all",
    ]  # fmt: skip
    place, _, sent = command[8].partition("PATH=")
    assert place == "--command=cd jax_switchgen && "
    assert shlex.split(sent.split(" ", 1)[1]) == line


def test_a_command_must_be_named(tpu):
    for script in ("on_all_workers.sh", "xpk.sh"):
        code, commands, err = tpu(script, CLUSTER="c", IMAGE="i")
        assert code == 2 and not commands and "name a command" in err


def test_a_slice_that_is_taken_back_is_replaced_until_the_job_is_done(tpu):
    states = "ACTIVE SUSPENDED ACTIVE ACTIVE"
    line = ("python", "launch/x.py")
    code, commands, err = tpu("until_done.sh", *line, states=states, codes="255 0")
    assert code == 0 and "taken back (SUSPENDED)" in err
    names = [command[4] for command in commands]
    once = ["create", "describe", "scp", "ssh", "ssh", "describe", "delete"]
    assert names == once * 2


def test_an_error_of_the_job_itself_is_not_tried_again(tpu):
    line = ("python", "launch/x.py")
    code, commands, _ = tpu("until_done.sh", *line, states="ACTIVE ACTIVE", codes="2 0")
    assert code == 2
    assert [command[4] for command in commands].count("create") == 1


def test_xpk_gets_the_line(tpu):
    changes = {"CLUSTER": "c", "IMAGE": "image:1", "TYPE": "v5litepod-16"}
    code, [command], _ = tpu("xpk.sh", "python", "x.py", "--a=b c", **changes)
    assert code == 0
    assert command == [
        "xpk", "workload", "create", "--cluster=c", "--zone=us-central2-b",
        "--workload=mine", "--tpu-type=v5litepod-16", "--num-slices=1",
        "--docker-image=image:1", "--max-restarts=20",
        r"--command=python x.py --a=b\ c",
    ]  # fmt: skip


class TestBatchJob:
    @pytest.fixture
    def job(self):
        manifest = ROOT / "launch" / "tpu" / "batch_job.yaml"
        return yaml.safe_load(manifest.read_text())["spec"]

    @pytest.fixture
    def container(self, job):
        [container] = job["template"]["spec"]["containers"]
        return container

    def test_there_is_a_pod_for_each_shard(self, job, container):
        assert job["completionMode"] == "Indexed"
        [shards] = [e["value"] for e in container["env"] if e["name"] == "NUM_SHARDS"]
        assert job["completions"] == int(shards) == job["parallelism"]

    def test_each_runs_its_shard(self, container, tmp_path):
        """The line, as the shell of a pod reads it."""
        (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        (tmp_path / "python").chmod(0o755)
        environment = {e["name"]: e["value"] for e in container["env"]}
        environment |= {"JOB_COMPLETION_INDEX": "3", "PATH": f"{tmp_path}:/bin"}
        found = subprocess.run(
            [*container["command"], *container["args"]],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, found.stderr
        program, *arguments = found.stdout.splitlines()
        assert (ROOT / program).is_file()
        given = dict(argument.split("=", 1) for argument in arguments)
        assert given.pop("--config") == "configs/qwen2_5_7b.py"
        assert given["--shard_index"] == "3" and given["--num_shards"] == "8"
        assert given["--platform"] == "tpu" and given["--output"].startswith("gs://")

    def test_only_what_may_go_better_is_tried_again(self, job):
        rules = job["podFailurePolicy"]["rules"]
        actions = {
            tuple(rule["onExitCodes"]["values"]): rule["action"]
            for rule in rules
            if "onExitCodes" in rule
        }
        assert actions == {(1,): "FailIndex", (2,): "FailJob"}
        assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget"}]
        assert job["template"]["spec"]["restartPolicy"] == "Never"
