"""A pool that lies on several devices writes what it writes on one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from jax_switchgen.decoding import programs
from jax_switchgen.generation.buckets import Buckets
from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.session import Session
from jax_switchgen.generation.speaker import Speaker
from jax_switchgen.models import cache as caches
from jax_switchgen.models.lora import Lora, LoraPair
from jax_switchgen.models.sharding import (
    MeshOptions,
    cache_sharding,
    local_mesh,
    lora_shardings,
    param_shardings,
)
from jax_switchgen.models.transformer import Transformer
from jax_switchgen.policies.simple import Random
from jax_switchgen.policies.switcher import Switcher, SwitcherOptions
from tests import tiny
from tests.hf_models import one_line_error

# Eight heads over two heads of keys: on 2 devices keys are split, on 8 replicated.
CONFIG = dataclasses.replace(tiny.CONFIG, num_heads=8)
QUERIES = ["Why?", "What is the colour of the sky?", "a b c"]


@functools.cache
def model(seed: int, mesh: Mesh | None) -> Transformer:
    found = tiny.random_model(seed, CONFIG)
    if mesh is None:
        return found
    shardings = param_shardings(CONFIG, mesh)
    return Transformer(
        CONFIG, {p: jax.device_put(x, shardings[p]) for p, x in found.arrays().items()}
    )


@functools.cache
def lora(mesh: Mesh | None) -> Lora:
    rng = np.random.default_rng(0)
    sizes = {"q": 64, "k": 16, "gate": CONFIG.mlp_dim}

    def pair(rows: int) -> LoraPair:
        a_RI, b_OR = rng.normal(size=(4, CONFIG.embed_dim)), rng.normal(size=(rows, 4))
        return LoraPair(
            jnp.asarray(a_RI, jnp.float32), jnp.asarray(b_OR, jnp.float32), scale=0.1
        )

    found = Lora(tuple({n: pair(rows) for n, rows in sizes.items()} for _ in range(2)))
    if mesh is None:
        return found
    return jax.device_put(found, lora_shardings(found, CONFIG, mesh))


def engine(devices: int, placement: str = "colocated", **changes) -> Engine:
    options = MeshOptions(tensor=devices, placement=placement)
    meshes = [local_mesh(options, place) for place in range(3)]
    speakers = [
        tiny.speaker("p", model(0, meshes[0])),
        tiny.speaker("a", model(1, meshes[1]), lora=lora(meshes[1])),
    ]
    switcher = Switcher(
        model(2, meshes[2]), speakers[0].vocabulary, 2, SwitcherOptions()
    )
    return Engine(
        speakers,
        switcher,
        tiny.generation(**dict(max_new_tokens=24, batch_size=2, in_flight=2) | changes),
    )


@pytest.mark.parametrize(
    ("devices", "placement"),
    [(2, "colocated"), (8, "colocated"), (1, "disjoint"), (2, "disjoint")],
)
def test_devices_share_a_pool_and_write_the_same_tokens(
    devices, placement, monkeypatch
):
    """Law 6: greedy tokens, decisions, and their probabilities; candidates, an adapter
    and the switcher all lie on the mesh, or each on one of its own. Two rows begin
    alike, and have this part of their caches read once."""
    queries = [*["x" * 70] * 2, *QUERIES]
    expected = engine(1).generate(queries)
    counts = []

    def shared(*arguments):
        counts.append(of_slots(*arguments))
        return counts[-1]

    of_slots = Speaker._shared
    monkeypatch.setattr(Speaker, "_shared", shared)
    found = engine(devices, placement).generate(queries)
    assert set(counts) == {0, 64}
    for alone, shared in zip(expected, found, strict=True):
        assert [s.token_ids for s in shared.segments] == [
            s.token_ids for s in alone.segments
        ]
        assert [s.speaker for s in shared.segments] == [
            s.speaker for s in alone.segments
        ]
        for one, other in zip(alone.segments, shared.segments, strict=True):
            assert other.probs == pytest.approx(one.probs, abs=1e-5)
    assert {s.speaker for r in expected for s in r.segments} == {"p", "a"}


@pytest.mark.parametrize(("placement", "most"), [("colocated", 1), ("disjoint", 2)])
def test_speakers_with_devices_of_their_own_write_at_the_same_time(
    placement, most, monkeypatch
):
    """Passes of up to four rows, of which there are no more: colocated, one is under
    way at a time; disjoint, one of each speaker."""
    made = engine(1, placement, in_flight=4, batch_size=4)
    made.policy = Random(2)
    under_way: list[str] = []
    seen = []

    def write(speaker, *arguments):
        under_way.append(speaker.name)
        seen.append(len(under_way))
        return written(speaker, *arguments)

    def finish(session, done):
        under_way.remove(done.speaker.name)
        return finished(session, done)

    written, finished = Speaker.write, Session._finish
    monkeypatch.setattr(Speaker, "write", write)
    monkeypatch.setattr(Session, "_finish", finish)
    responses = made.generate([*QUERIES, "one more"])
    assert {s.speaker for r in responses for s in r.segments} == {"p", "a"}
    assert max(seen) == most and not under_way


@pytest.mark.parametrize(("devices", "heads"), [(2, 1), (8, 2)])
def test_a_cache_lies_as_the_keys_of_its_model(devices, heads):
    """Two heads of keys: one on each of 2 devices; both on every one of 8."""
    speaker = engine(devices).speakers[0]
    speaker.open(4, 100, Buckets(batch=(1,)))
    k_BKSH = speaker.cache.layers[0][0]
    assert len(k_BKSH.devices()) == devices
    assert k_BKSH.addressable_shards[0].data.shape == (4, heads, 256, 8)


def test_a_cache_comes_back_as_it_went_in():
    """Under another name for the same sharding, the next call would compile again."""
    speaker = engine(2).speakers[0]
    speaker.open(2, 100, Buckets(batch=(1,), chunk=24))
    speaker.catch_up({0: [1, 2, 3]})
    before, sharding = (
        programs.num_compiled(),
        cache_sharding(speaker.model.arrays()["layers.0.k"].sharding),
    )
    assert {x.sharding for x in jax.tree.leaves(speaker.cache)} == {sharding}
    speaker.catch_up({1: [4, 5, 6, 7]})
    assert programs.num_compiled() == before


def test_more_devices_than_there_are_is_one_line():
    with one_line_error("mesh.tensor=16", "8 local cpu", "v4-8", "--config.mesh"):
        local_mesh(MeshOptions(tensor=16, slice="v4-8"))
    with one_line_error("mesh.tensor=0", "1 or more"):
        MeshOptions(tensor=0)
    assert local_mesh(MeshOptions()) is None
    assert cache_sharding(model(0, None).arrays()["embed"].sharding) is None


def test_too_few_devices_for_a_pool_are_one_line():
    options = MeshOptions(placement="disjoint", tensor=3)
    meshes = [local_mesh(options, place) for place in range(2)]
    assert not {*meshes[0].devices.flat} & {*meshes[1].devices.flat}
    with one_line_error("'disjoint'", "tensor=3", "9 devices", "8 local", "colocated"):
        local_mesh(options, 2)
    with one_line_error("mesh.placement='apart'", "colocated, disjoint"):
        MeshOptions(placement="apart")


@pytest.mark.parametrize("length", [16, 20])
def test_both_ways_to_write_into_a_cache_are_one(length):
    """Row by row, as on TPU, is the scatter of the other platforms: rows that reach
    the end, write nothing, or have no slot."""
    rng = np.random.default_rng(length)
    cache_BKSH = jnp.asarray(rng.normal(size=(4, 2, length, 3)), jnp.float32)
    new_BKTH = jnp.asarray(rng.normal(size=(6, 2, 5, 3)), jnp.float32)
    slots_B = jnp.asarray([2, 0, 3, 4, 1, 5], jnp.int32)
    start_B = jnp.asarray([0, length - 2, length - 5, 3, length, 0], jnp.int32)
    count_B = jnp.asarray([5, 2, 5, 5, 0, 0], jnp.int32)
    arguments = (cache_BKSH, new_BKTH, slots_B, start_B, count_B)
    expected = np.array(cache_BKSH)
    for row in range(6):
        slot, start, count = (int(x[row]) for x in (slots_B, start_B, count_B))
        if slot < 4:
            expected[slot, :, start : start + count] = new_BKTH[row, :, :count]
    np.testing.assert_array_equal(caches._scatter_rows(*arguments), expected)
    np.testing.assert_array_equal(caches._put_row_by_row(*arguments), expected)


def test_both_ways_to_read_a_cache_are_one():
    """Row by row, as on TPU, is the gather of the other platforms; a row without a slot
    reads some slot."""
    rng = np.random.default_rng(0)
    k_BKSH, v_BKSH = jnp.asarray(rng.normal(size=(2, 4, 2, 16, 3)), jnp.float32)
    slots_B = jnp.asarray([2, 0, 3, 3, 9], jnp.int32)
    cache = caches.Cache(((k_BKSH, v_BKSH),))
    [[(k_gathered, v_gathered)]] = cache.read(slots_B, 5)
    taken = caches._take_row_by_row(k_BKSH, slots_B, first=0, last=5)
    expected = np.asarray(k_BKSH)[[2, 0, 3, 3, 3], :, :5]
    np.testing.assert_array_equal(taken, expected)
    np.testing.assert_array_equal(k_gathered, expected)
    taken = caches._take_row_by_row(v_BKSH, slots_B, first=0, last=5)
    np.testing.assert_array_equal(taken, v_gathered)

    [[(k_1KSH, _), (k_own, v_own)]] = cache.read(slots_B, 5, shared=3)
    np.testing.assert_array_equal(k_1KSH, expected[:1, :, :3])
    np.testing.assert_array_equal(k_own, expected[:, :, 3:])
    taken = caches._take_row_by_row(v_BKSH, slots_B, first=3, last=5)
    np.testing.assert_array_equal(taken, v_own)
