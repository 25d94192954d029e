"""One safetensors file: lazy reading, and writing that is checked."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jax_switchgen.checkpoints.hf_config import one_line

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file, read piece by piece.

    Attributes:
      rows: its slice object: indexing reads from disk.
    """

    name: str
    file: Path
    rows: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.rows.get_shape())

    @property
    def dtype(self) -> jnp.dtype:
        return jnp.dtype(_DTYPES[self.rows.get_dtype()])

    def read(self, index: tuple[slice, ...] = (slice(None),)) -> np.ndarray:
        """The part at `index`, a slice for each of the first dimensions."""
        return self.rows[index]


def open_safetensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors of a file by name; nothing but its header is read.

    Raises:
      ValueError: the file is missing, damaged or of a quantized kind.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; copy it from the model's source")
    try:
        # Not closed: the slices read from it for as long as they live.
        file = safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: damaged or incomplete ({one_line(error)}); copy the file again"
        ) from error
    for name in file.keys():
        rows = file.get_slice(name)
        if rows.get_dtype() not in _DTYPES:
            raise ValueError(
                f"{path}: tensor {name!r} is {rows.get_dtype()}; supported: "
                f"{', '.join(_DTYPES)}; use the unquantized checkpoint"
            )
        yield name, StoredTensor(name, path, rows)


def check_shape(tensor: StoredTensor, expected: tuple[int, ...]) -> None:
    """Raises ValueError where a tensor has another shape."""
    if tensor.shape != expected:
        raise ValueError(
            f"{tensor.file}: tensor {tensor.name!r} has shape {tensor.shape}, but the "
            f"config asks for {expected}; the files are of different models"
        )


def write_safetensors(
    path: Path, tensors: Mapping[str, jax.Array | np.ndarray]
) -> None:
    """Writes a safetensors file, and reads it back.

    Raises:
      OSError: the file does not hold what was written.
    """
    # safetensors 0.8.0 writes a strided array's memory in the wrong order, silently.
    arrays = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    save_file(arrays, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes it 0600
    for name, tensor in open_safetensors(path):
        found, written = tensor.read(), arrays.pop(name)
        if found.dtype != written.dtype or found.tobytes() != written.tobytes():
            raise OSError(f"{path}: {name} reads back different; the disk is faulty")
    if arrays:
        raise OSError(f"{path}: {min(arrays)} was not written; the disk is faulty")
