"""A pool of tiny checkpoints on disk, and a config file for them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from jax_switchgen.checkpoints.hf import export_transformer
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]

CONFIG_FILE = """
from ml_collections import ConfigDict

from configs import presets

FOLDER = {folder!r}


def get_config(variant=""):
    candidates = (
        presets.candidate("pretrained", f"{{FOLDER}}/p", "raw"),
        presets.candidate("aligned", f"{{FOLDER}}/a", "chat"),
    )
    config = presets.pool(
        candidates, f"{{FOLDER}}/a", aligned="aligned", variant=variant
    )
    config.dtype = "float32"
    config.policy.name = "random"
    config.generation.segment_length = 8
    config.generation.max_new_tokens = 24
    config.generation.batch_size = 2
    config.generation.in_flight = 4
    config.generation.cache_gib = 0.5
    config.evaluation = presets.evaluation(
        ("pretrained", "aligned"), aligned="aligned"
    )
    mine = dict(name="mine", path=f"{{FOLDER}}/mine.jsonl", scorer="choice", labels=())
    config.evaluation.tasks = ()
    config.evaluation.own_tasks = (ConfigDict(mine),)
    config.evaluation.num_records = 0
    config.evaluation.seeds = (0, 1)
    config.rollouts = presets.rollouts("rollouts.jsonl", ())
    config.rollouts.own_tasks = (ConfigDict(mine),)
    config.rollouts.completions = 3
    config.rollouts.places = 2
    return config
"""


def save_checkpoint(folder: Path, seed: int) -> None:
    """A Hugging Face folder with random weights of the shape `tiny.CONFIG`."""
    source = folder.with_name(f"{folder.name}.source")
    tiny.byte_tokenizer().save_pretrained(source)
    c = tiny.CONFIG
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c.vocab_size,
        "hidden_size": c.embed_dim,
        "intermediate_size": c.mlp_dim,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim,
        "max_position_embeddings": c.max_positions,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": 1e4,
        "tie_word_embeddings": False,
        "eos_token_id": tiny.STOP,
    }
    (source / "config.json").write_text(json.dumps(config))
    export_transformer(tiny.random_model(seed), folder, source)


@pytest.fixture(scope="session")
def pool(tmp_path_factory) -> Path:
    """A folder with the checkpoints `p` and `a`, and `config.py`."""
    folder = tmp_path_factory.mktemp("pool")
    save_checkpoint(folder / "p", seed=0)
    save_checkpoint(folder / "a", seed=1)
    (folder / "config.py").write_text(CONFIG_FILE.format(folder=str(folder)))
    return folder


CHOICES = {"A": "red", "B": "green", "C": "blue"}


@pytest.fixture(scope="session")
def records(pool):
    """Twelve good records, and one each: a missing field, a duplicate id, a gold that
    is no option, a broken line."""
    good = [
        {
            "id": i,
            "question": f"Colour {i}?",
            "choices": CHOICES,
            "answer": "ABC"[i % 3],
        }
        for i in range(12)
    ]
    lines = [json.dumps(item) for item in good]
    lines += [json.dumps({"id": 20, "choices": CHOICES, "answer": "A"})]
    lines += [lines[3], json.dumps({**good[0], "id": 21, "answer": "D"}), '{"id": 22']
    (pool / "mine.jsonl").write_text("\n".join(lines) + "\n")
    return good


# As a `sitecustomize.py`, which Python runs when it starts: a package is not installed.
WITHOUT = """
import importlib.machinery

finder = importlib.machinery.PathFinder
find = finder.find_spec
finder.find_spec = lambda name, *rest: None if name == {name!r} else find(name, *rest)
"""
LIMIT = 400  # seconds; a machine may be slow, and have other work


class Launcher:
    """Runs a launcher as its users do, in a process of its own.

    Attributes:
      started: all processes, of all launchers, that no test has seen the end of.
    """

    started: ClassVar[list[subprocess.Popen]] = []

    def __init__(self, folder: Path):
        # Users have no torch, which is only here for comparisons; and transformers
        # takes a third of a launcher's start to import it.
        (folder / "sitecustomize.py").write_text(WITHOUT.format(name="torch"))
        self.environment = os.environ | {
            "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}",
            "JAX_SWITCHGEN_CACHE": str(folder / "cache"),
            "JAX_PLATFORMS": "cpu",
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200",
            "XLA_FLAGS": "",
        }

    def start(
        self,
        *arguments: str,
        name: str = "generate.py",
        place: Path | None = None,
        **environment: str,
    ) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "launch" / name), *arguments],
            cwd=place,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def __call__(self, *arguments: str, name: str = "generate.py") -> tuple:
        """Exit code, stdout, stderr."""
        process = self.start(*arguments, name=name)
        out, err = process.communicate(timeout=LIMIT)
        return process.returncode, out, err

    def start_job(
        self,
        count: int,
        *arguments: str,
        name: str = "generate.py",
        places: Sequence[Path | None] | None = None,
        changes: Sequence[dict[str, str]] | None = None,
    ) -> list[subprocess.Popen]:
        """All processes of a job on this machine, as Slurm would start them.

        Args:
          places, changes: of each process, the folder that it runs in, and what is
            different in its environment.
        """
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        slurm = {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "SLURM_JOB_ID": "1",
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": str(count),
            "SLURM_STEP_NUM_NODES": "1",
        }
        return [
            self.start(
                *arguments,
                "--distributed",
                name=name,
                place=places[rank] if places else None,
                SLURM_PROCID=str(rank),
                SLURM_LOCALID=str(rank),
                **slurm,
                **(changes[rank] if changes else {}),
            )
            for rank in range(count)
        ]

    def kill(self, *arguments: str, name: str, path: Path, lines: int) -> None:
        """Starts a launcher, and kills it when its file has so many lines."""
        process = self.start(*arguments, name=name)
        await_lines(path, lines, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()


def await_lines(path: Path, count: int, *processes: subprocess.Popen) -> None:
    """Until the file that one of these writes has so many lines."""
    deadline = time.monotonic() + LIMIT
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ends(processes: Sequence[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit code and stderr of each, in bounded time."""
    deadline = time.monotonic() + LIMIT
    errors = [
        process.communicate(timeout=max(1.0, deadline - time.monotonic()))[1]
        for process in processes
    ]
    return [(p.returncode, err) for p, err in zip(processes, errors, strict=True)]


def assert_loss_is_told(ended: Sequence[tuple[int, str]], lost: int) -> None:
    """All processes of a job but the lost one say in one line which one is gone."""
    for rank, (code, err) in enumerate(ended):
        assert f"host {rank} of {len(ended)}" in err, (
            "each says that it is as it should"
        )
        if rank == lost:
            continue
        *_, last = err.splitlines()
        assert last.startswith(f"error: process {lost} of {len(ended)} is gone"), err
        assert "start every one again" in last
        assert code not in (0, 1, 2), "it must be started again"
        assert "stack trace" not in err and "Traceback" not in err


@pytest.fixture(autouse=True)
def none_outlives_its_test() -> Iterator[None]:
    """Whatever a test has started is gone after it."""
    yield
    while Launcher.started:
        process = Launcher.started.pop()
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def launch(tmp_path_factory) -> Launcher:
    return Launcher(tmp_path_factory.mktemp("launcher"))
