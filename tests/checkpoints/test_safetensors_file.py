"""Laws of one safetensors file: what is written is what was meant."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from jax_switchgen.checkpoints import safetensors_file
from jax_switchgen.checkpoints.safetensors_file import (
    open_safetensors,
    write_safetensors,
)


def test_strided_arrays_are_written_in_their_order(tmp_path):
    """safetensors 0.8.0 alone writes a transposed array's memory, with no error."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    arrays = {
        "transposed": array.T,
        "strided": np.repeat(array, 2, axis=1)[:, ::2],
        "broadcast": np.broadcast_to(array[0], (4, 3)),
        "bfloat16": jnp.asarray(array, jnp.bfloat16).T,
    }
    write_safetensors(tmp_path / "x", arrays)
    with safe_open(tmp_path / "x", framework="np") as file:
        for name, expected in arrays.items():
            assert np.array_equal(file.get_tensor(name), expected), name


def test_a_faulty_write_is_noticed(tmp_path, monkeypatch):
    save = safetensors_file.save_file

    def flip(arrays, path, metadata):
        save({k: np.nextafter(x, 9) for k, x in arrays.items()}, path, metadata)

    monkeypatch.setattr(safetensors_file, "save_file", flip)
    with pytest.raises(OSError, match="x reads back different"):
        write_safetensors(tmp_path / "f", {"x": np.ones(3, np.float32)})


def test_slices_of_a_stored_tensor_outlive_the_opening(tmp_path):
    write_safetensors(tmp_path / "f", {"x": np.arange(12.0, dtype=np.float32)})
    tensor = dict(open_safetensors(tmp_path / "f"))["x"]
    assert tensor.read((slice(3, 5),)).tolist() == [3.0, 4.0]
