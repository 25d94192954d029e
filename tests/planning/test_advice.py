"""Laws of what a plan says to change, on a pool that was not compiled."""

import dataclasses

import jax
import pytest

from jax_switchgen.models.sharding import MeshOptions, tensor_mesh
from jax_switchgen.planning.chips import GIB, slice_called
from jax_switchgen.planning.compiled import Compiled
from jax_switchgen.planning.phases import Pool, generation_phases
from jax_switchgen.planning.plan import Plan, advice_for, make_plan
from jax_switchgen.planning.report import lines
from tests import tiny
from tests.hf_models import one_line_error


def plan(**changes) -> Plan:
    """Three tiny candidates on a chip of 15.75 GiB."""
    options = tiny.generation(batch_size=8, max_new_tokens=64, **changes)
    pool = Pool(
        candidates=tuple((name, tiny.CONFIG) for name in "pfa"),
        switcher=None,
        generation=options,
        prompt_tokens=64,
        dtype="bfloat16",
    )
    phases = generation_phases(pool, tensor_mesh(jax.devices()[:1]))
    caches = {"all": pool.slots * pool.slot_bytes}
    found = [Compiled(phase) for phase in phases]
    return Plan(slice_called("v5e-1"), MeshOptions(), pool, {}, caches, found, [])


def test_no_more_requests_are_advised_than_fill_the_batches():
    """A chip holds hundreds of thousands of tiny requests; of three candidates one
    writes at a time, and the switcher reads."""
    (line,) = advice_for(plan(in_flight=8, cache_gib=4.0), None)
    assert "generation.in_flight=32" in line
    gib = float(line.split("cache_gib=")[1])
    assert plan(in_flight=32, cache_gib=gib).pool.slots == 32
    assert advice_for(plan(in_flight=32, cache_gib=4.0), None) == []


def test_requests_that_do_not_fit_are_lowered_to_what_does():
    much = plan(in_flight=10**6, cache_gib=64.0)
    assert not much.fits
    (line,) = advice_for(much, None)
    gib = float(line.split("cache_gib=")[1].split(" ")[0].rstrip(","))
    assert 15 < gib <= 15.75
    assert plan(in_flight=10**6, cache_gib=gib).fits


def test_a_batch_that_is_never_full_is_named():
    few = plan(in_flight=100, cache_gib=4 * plan().pool.slot_bytes / GIB)
    assert few.pool.slots == 4
    assert any("never full with 4" in line for line in advice_for(few, None))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e-1", "1 chip on 1 host; a pool lies on 1 chip"),
        ("v4-32", "16 chips on 4 hosts; a pool lies on 1 chip"),
    ],
)
def test_the_first_line_counts_chips_and_hosts(name, said):
    found = dataclasses.replace(plan(), slice=slice_called(name), phases=[])
    assert lines(found)[0] == f"{name} is {said}"


def test_models_that_lie_apart_share_no_chip():
    """A chip then holds one model and its cache, here the larger one's; and a pool
    whose models need more chips than a host has is refused."""
    together = plan()
    sizes = {"p": 5 * GIB, "f": 6 * GIB, "a": 4 * GIB}
    caches = {f"candidate {i}": GIB * (i + 1) for i in range(3)}
    together = dataclasses.replace(together, params_bytes=sizes, cache_bytes=caches)
    assert together.generation_bytes == 21 * GIB and not together.fits
    mesh = MeshOptions(placement="disjoint")
    apart = dataclasses.replace(together, mesh=mesh)
    assert apart.generation_bytes == 8 * GIB and apart.fits
    unplanned = dataclasses.replace(apart, phases=[])
    assert "each model of a pool lies on 1 chip" in lines(unplanned)[0]
    with one_line_error("mesh.tensor=2, 3 times", "'disjoint'", "4 chips of one host"):
        two = MeshOptions(placement="disjoint", tensor=2)
        make_plan(slice_called("v4-8"), two, apart.pool, None)
