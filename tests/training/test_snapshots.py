"""Checkpoints of arrays that are larger than what Orbax checks by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jax_switchgen.training.snapshots import Snapshots, checksum
from jax_switchgen.training.step import TrainState
from tests.training import synthetic


def state_on(mesh) -> TrainState:
    """120,000 numbers, split over all devices."""
    w = np.random.default_rng(0).standard_normal((300, 400)).astype(np.float32)
    split = NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp", "tensor")))
    whole = NamedSharding(mesh, PartitionSpec())
    return TrainState(
        step=jax.device_put(jnp.int32(7), whole),
        params={"w": jax.device_put(w, split)},
        opt_state=(),
    )


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def restored(folder, target):
    said = []
    with Snapshots(folder, keep=2) as snapshots:
        return snapshots.restore(abstract(target), said.append), " ".join(said)


def test_a_state_is_restored_onto_another_mesh(tmp_path):
    one, eight = state_on(synthetic.mesh()), state_on(synthetic.mesh(2, 2, 2))
    assert int(checksum(one)) == int(checksum(eight))
    with Snapshots(tmp_path, keep=2) as snapshots:
        snapshots.save(7, eight)
    state, said = restored(tmp_path, one)
    assert not said
    jax.tree.map(np.testing.assert_array_equal, state, one)
    assert state.params["w"].sharding.is_equivalent_to(one.params["w"].sharding, 2)


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_one_wrong_bit_is_found(tmp_path, place):
    """In the middle of a compressed block, which is read without complaint."""
    folder = tmp_path / "checkpoints"
    state = state_on(synthetic.mesh())
    with Snapshots(folder, keep=2) as snapshots:
        snapshots.save(7, state)
    files = (folder / "7" / "state").rglob("d/*")
    file = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    assert len(content) > 400_000
    content[int(place * len(content))] ^= 4
    file.write_bytes(content)
    found, said = restored(folder, state)
    assert found is None and "step 7 is damaged" in said and "\n" not in said
    assert not (folder / "7").exists() and (tmp_path / "damaged-7").is_dir()


def test_what_is_saved_is_the_state_of_that_moment(tmp_path):
    """While the next step writes into the memory that it was donated."""
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = state_on(synthetic.mesh())
    expected = jax.tree.map(np.array, state)
    with Snapshots(tmp_path, keep=2) as snapshots:
        snapshots.save(7, state)
        for _ in range(20):
            state = step(state)
    found, _ = restored(tmp_path, state_on(synthetic.mesh()))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
