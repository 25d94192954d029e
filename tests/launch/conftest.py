"""A pool of tiny checkpoints on disk, and a config file for them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


class Launcher:
    """Runs a launcher as its users do, in a process of its own."""

    def __init__(self, cache: Path):
        self.environment = os.environ | {
            "JAX_SWITCHGEN_CACHE": str(cache),
            "JAX_PLATFORMS": "cpu",
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200",
            "XLA_FLAGS": "",
        }

    def start(self, *arguments: str, name: str = "generate.py") -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "launch" / name), *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, name: str = "generate.py") -> tuple:
        """Exit code, stdout, stderr."""
        process = self.start(*arguments, name=name)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err

    def kill(self, *arguments: str, name: str, path: Path, lines: int) -> None:
        """Starts a launcher, and kills it when its file has so many lines."""
        process = self.start(*arguments, name=name)
        deadline = time.monotonic() + 240
        while not path.exists() or path.read_bytes().count(b"\n") < lines:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="session")
def launch(tmp_path_factory) -> Launcher:
    return Launcher(tmp_path_factory.mktemp("cache"))
