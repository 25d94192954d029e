"""Copies of the metrics for TensorBoard and Weights & Biases, where these are wanted.

`metrics.jsonl` is the record of a run; what a viewer shows may lack a step that a kill
has cut off, or show it twice.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self


class Viewers:
    """The viewers of one run, none of them in most runs.

    The names are those of `options.VIEWERS`; their packages are imported only here.
    """

    def __init__(self, names: Sequence[str], output: Path, first_step: int):
        """Begins to write, in `output`; later steps of an earlier run are hidden."""
        self._board: Any = None
        self._wandb: Any = None
        if "tensorboard" in names:
            import tensorboardX

            folder = str(output / "tensorboard")
            self._board = tensorboardX.SummaryWriter(folder, purge_step=first_step)
        if "wandb" in names:
            import wandb

            # A resumed run is the same run there too.
            name = str(output.resolve()).encode()
            run_id = hashlib.blake2b(name, digest_size=8).hexdigest()
            self._wandb = wandb.init(
                project="jax_switchgen",
                name=output.name,
                id=run_id,
                resume="allow",
                dir=str(output),
            )

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Shows the numbers, those of an inner mapping as `outer/inner`."""
        if self._board is None and self._wandb is None:
            return
        flat = dict(_flat(values))
        if self._board is not None:
            for name, value in flat.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(flat, step=step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}/")
        elif value is not None:
            yield before + name, value
