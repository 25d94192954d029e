"""Processes that find each other, check each other, and say why they end."""

import importlib.util
import subprocess
import sys

import pytest

from tests.launch.conftest import ROOT, ends

NAME = "preflight.py"


def preflight(launch, *arguments):
    return launch(*arguments, name=NAME)


class TestOneHost:
    def test_it_is_one_line(self, launch, pool, tmp_path):
        code, out, err = preflight(
            launch,
            "--platform=cpu",
            "--processes=1",
            f"--folder={tmp_path}/not/yet",
            f"--config={pool}/config.py",
        )
        assert (code, out) == (0, ""), err
        assert err.count("\n") == 1 and err.startswith("host 0 of 1 (")
        assert "ok · 1 x cpu (cpu) · jax " in err
        assert f"{tmp_path}/not/yet is writable" in err
        assert not list(tmp_path.iterdir()), "nothing is left behind"

    def test_each_reason_to_refuse_is_said(self, launch, tmp_path):
        (tmp_path / "file").write_text("")
        code, _, err = preflight(launch, "--platform=tpu", f"--folder={tmp_path}/file")
        first, last = err.splitlines()
        assert code == 2 and "refused · 1 x cpu (cpu)" in first
        assert last.startswith("error: preflight refuses host 0: the backend is cpu, ")
        assert f"{tmp_path}/file is not writable" in last

    def test_a_count_that_differs_is_refused_at_once(self, launch):
        code, _, err = preflight(launch, "--processes=4")
        assert code == 2
        assert err.startswith("error: --processes=4, and this job has 1;")

    def test_a_launcher_refuses_a_cpu_before_it_loads(self, launch, pool, tmp_path):
        (tmp_path / "in.jsonl").write_text('{"input": "x"}\n')
        code, _, err = launch(
            f"--config={pool}/config.py",
            f"--input={tmp_path}/in.jsonl",
            f"--output={tmp_path}/out.jsonl",
            "--platform=tpu",
        )
        assert code == 2 and "loading" not in err
        assert "--platform=tpu is expected" in err.splitlines()[-1]


class TestTwoHosts:
    def test_each_is_a_line(self, launch, tmp_path):
        found = ends(launch.start_job(2, f"--folder={tmp_path}", name=NAME))
        for rank, (code, err) in enumerate(found):
            assert code == 0, err
            assert err.count("\n") == 1 and err.startswith(f"host {rank} of 2 (")
            assert f"{tmp_path} is writable" in err
        assert not list(tmp_path.iterdir())

    def test_other_versions_are_refused_on_both(self, launch, tmp_path):
        """And both end in order, at once, with the same reason."""
        info = tmp_path / "libtpu-9.9.9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Name: libtpu\nVersion: 9.9.9\n")
        path = f"{tmp_path}:{launch.environment['PYTHONPATH']}"
        changes = [{}, {"PYTHONPATH": path}]
        found = ends(launch.start_job(2, name=NAME, changes=changes))
        for code, err in found:
            assert code == 2, err
            last = err.splitlines()[-1]
            assert last.startswith("error: preflight refuses host 1: libtpu 9.9.9, on ")
        assert "host 1 of 2" in found[1][1] and ": refused · " in found[1][1]

    def test_a_folder_of_each_its_own_is_refused(self, launch, tmp_path):
        """--folder is relative to where a process runs."""
        places = [tmp_path / "a", tmp_path / "b"]
        for place in places:
            place.mkdir()
        found = ends(launch.start_job(2, "--folder=out", name=NAME, places=places))
        for code, err in found:
            assert code == 2, err
            assert "out is not the folder that host 1 sees" in err.splitlines()[-1]
        assert not [*places[0].iterdir(), *places[1].iterdir()]


@pytest.fixture(scope="module")
def explain():
    path = ROOT / "launch" / "witness.py"
    spec = importlib.util.spec_from_file_location("witness", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.explain


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "UNAVAILABLE: The following tasks are unhealthy (stopped sending "
            "heartbeats):\n3\nThe tasks have crashed. Check the task logs",
            "process 3 of 8 is gone (",
        ),
        (
            "stopped sending heartbeats):\n3\n12\nThe tasks have crashed.",
            "processes 3, 12 of 8 are gone (",
        ),
        (
            "Barrier failed because: task is set to ERROR: UNAVAILABLE: Task 1 "
            "heartbeat timeout. This indicates that",
            "process 1 of 8 is gone (",
        ),
        (
            "UNAVAILABLE: Failed to send RPC to coordination service. Either the "
            "leader task was preempted",
            "process 0 of 8 is gone (",
        ),
        (
            "DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: "
            "/xla.coordination.CoordinationService/RegisterTask",
            "not all processes of the job came within 300 s;",
        ),
        ("INTERNAL: something new", "the processes of the job have lost each other;"),
    ],
)
def test_what_jax_says_at_the_end_is_one_line(explain, said, line):
    """As jax 0.10 was heard to say it."""
    found = explain(said, 8, 300)
    assert found.startswith(line) and "\n" not in found


def test_stderr_passes_and_only_the_end_is_explained():
    """Through the real program, as soon as it is written."""
    end = (
        "F1122 10:12:08.5 21157 client.h:80] Terminating process because the JAX "
        "distributed service detected fatal errors. … Failed to send RPC to "
        "coordination service.\n*** Check failure stack trace: ***\n    @ 0x7f\n"
    )
    witness = subprocess.Popen(
        [sys.executable, "-IS", ROOT / "launch" / "witness.py", "300"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    witness.stdin.write("\0002\nfirst\n")
    witness.stdin.flush()
    assert witness.stderr.readline() == "first\n"
    _, err = witness.communicate(f"E1122 a warning\n{end}", timeout=60)
    first, last = err.splitlines()
    assert first == "E1122 a warning"
    assert last.startswith("error: process 0 of 2 is gone (killed,")
