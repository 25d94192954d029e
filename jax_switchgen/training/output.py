"""The folder of a training: whose it is, its metrics, and what it has trained.

config.json      what is trained; another training is refused this folder
checkpoints/     the newest states, each with the steps done (`snapshots.py`)
damaged-STEP/    a state that could not be read again
metrics.jsonl    a line for each step and each evaluation
results.json     at the end: scores before and after, baselines, by task
training.svg     at the end: loss and regret
switcher/        at the end: a PEFT adapter, or a Hugging Face folder
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jax_switchgen.checkpoints.hf import export_transformer
from jax_switchgen.checkpoints.peft import export_lora
from jax_switchgen.generation.journal import difference
from jax_switchgen.models.lora import Lora
from jax_switchgen.models.transformer import Transformer
from jax_switchgen.training.build import Learner
from jax_switchgen.training.placement import Params, everywhere

CONFIG_FILE, METRICS = "config.json", "metrics.jsonl"
RESULTS, PLOT = "results.json", "training.svg"
CHECKPOINTS, SWITCHER = "checkpoints", "switcher"
# A run may go on with other values of these: files are told apart by what is in them,
# and what decides where and in which parts to compute changes no more than rounding.
MAY_CHANGE = (
    *("rollouts", "output", "viewers", "checkpoint_every", "keep"),
    *("fsdp", "tensor", "accumulation", "remat"),
)


def claim(output: Path, identity: dict[str, Any]) -> None:
    """Makes the folder this training's.

    Args:
      identity: `build.identity`.

    Raises:
      ValueError: it is another training's.
    """
    path = output / CONFIG_FILE
    identity = json.loads(json.dumps(identity))
    if path.is_file():
        ignored = {("training", name) for name in MAY_CHANGE}
        found = json.loads(path.read_bytes())
        if changed := difference(found, identity, ignored):
            raise ValueError(
                f"{output} has a training with {changed}; go back, or name another "
                "folder with --config.training.output"
            )
    elif jax.process_index() == 0:
        output.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(identity, indent=2))


def write_whole(path: Path, text: str) -> None:
    """The file appears under its name when it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)


class MetricsFile:
    """A JSONL file, each line of which says its `step`; open in one process at a time.

    No line holds a time, so that an interrupted run leaves the very bytes of an
    uninterrupted one.
    """

    def __init__(self, path: Path):
        """Opens the file, or begins it. Of several processes only the first writes.

        Raises:
          ValueError: another process is at work on it.
        """
        self._path = path
        self._is_writer = jax.process_index() == 0
        if not self._is_writer:
            return
        # Unbuffered: what a full disk refuses is not tried again when the file closes.
        self._file = path.open("ab", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise ValueError(
                f"{path}: another process is at work on this output; wait for it, or "
                "name another folder with --config.training.output"
            ) from None

    def forget_after(self, step: int) -> None:
        """Drops the lines of later steps, and what a kill has torn."""
        if not self._is_writer or not self._path.is_file():  # but a device
            return
        end = 0
        for line in self._path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
            end += len(line)
        self._file.truncate(end)

    def write(self, **values: Any) -> None:
        if self._is_writer:
            self._file.write(json.dumps(values).encode() + b"\n")

    def sync(self) -> None:
        """What is written survives the machine from here on."""
        if self._is_writer:
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_writer:
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def export_switcher(learner: Learner, params: Params, folder: Path, mesh: Mesh) -> None:
    """Writes an adapter as a PEFT folder, a whole model as a Hugging Face folder in the
    dtype that it computed in; complete or not at all. All processes call it.

    Raises:
      ValueError: `folder` is in use.
    """
    # One array after the other: on a device there may be no room for all of them.
    with jax.set_mesh(mesh):
        host: Params = jax.tree.map(lambda x: np.asarray(_gathered(x)), params)
    if jax.process_index():
        return
    if isinstance(host, Lora):
        export_lora(host, folder, learner.config, learner.base_name)
        return
    dtype = jnp.dtype(learner.options.compute_dtype)
    cast = {path: x.astype(dtype) for path, x in host.items()}
    export_transformer(Transformer(learner.config, cast), folder, learner.folder)


@jax.jit
def _gathered(x: jax.Array) -> jax.Array:
    return everywhere(x)
