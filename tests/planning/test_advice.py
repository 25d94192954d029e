"""Laws of what a plan says to change, on a pool that was not compiled."""

import dataclasses

import jax
import pytest

from jax_switchgen.models.sharding import MeshOptions, tensor_mesh
from jax_switchgen.planning.advice import advice_for
from jax_switchgen.planning.chips import GIB, slice_called
from jax_switchgen.planning.compiled import Compiled
from jax_switchgen.planning.phases import Member, Pool, generation_phases
from jax_switchgen.planning.plan import Plan, make_plan
from jax_switchgen.planning.report import lines
from jax_switchgen.planning.traffic import Traffic
from tests import tiny
from tests.hf_models import one_line_error


def plan(**changes) -> Plan:
    """Three tiny candidates on a chip of 15.75 GiB."""
    options = tiny.generation(batch_size=8, max_new_tokens=64, **changes)
    pool = Pool(
        candidates=tuple(Member(name, tiny.CONFIG) for name in "pfa"),
        switcher=None,
        generation=options,
        prompt_tokens=64,
        dtype="bfloat16",
    )
    phases = generation_phases(pool, tensor_mesh(jax.devices()[:1]))
    caches = {"all": pool.slots * pool.slot_bytes}
    found = [Compiled(phase) for phase in phases]
    return Plan(slice_called("v5e-1"), MeshOptions(), pool, None, {}, caches, found)


def test_no_more_requests_are_advised_than_fill_the_batches():
    """A chip holds hundreds of thousands of tiny requests; of three candidates one
    writes at a time, and the switcher reads."""
    (line,) = advice_for(plan(in_flight=8, cache_gib=4.0))
    assert "generation.in_flight=32" in line
    gib = float(line.split("cache_gib=")[1])
    assert plan(in_flight=32, cache_gib=gib).pool.slots == 32
    assert advice_for(plan(in_flight=32, cache_gib=4.0)) == []


def test_requests_that_do_not_fit_are_lowered_to_what_does():
    much = plan(in_flight=10**6, cache_gib=64.0)
    assert not much.fits
    (line,) = advice_for(much)
    slots = int(line.split("in_flight=")[1].split(" ")[0])
    assert plan(in_flight=slots, cache_gib=64.0).fits
    assert not plan(in_flight=slots + 1, cache_gib=64.0).fits


def test_where_no_generation_is_planned_nothing_is_said_of_it():
    nothing = dataclasses.replace(plan(in_flight=10**6, cache_gib=64.0), phases=[])
    assert nothing.generation_fits is None and nothing.fits
    assert not any("fit" in line for line in lines(nothing))


def test_a_batch_that_is_never_full_is_named():
    few = plan(in_flight=100, cache_gib=4 * plan().pool.slot_bytes / GIB)
    assert few.pool.slots == 4
    assert any("never full with 4" in line for line in advice_for(few))


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


def test_every_program_that_a_run_compiles_stays_on_the_chip():
    """For 4 sizes of a batch and 4 windows; but only one of them is at work."""
    base = plan()
    phases = [
        dataclasses.replace(found, code_bytes=10**6, temp_bytes=10**8 + i)
        for i, found in enumerate(base.phases)
    ]
    full = dataclasses.replace(base, phases=phases)
    assert [found.phase.variants for found in full.phases] == [16, 16, 16, 4]
    expected = 52 * 10**6 + 10**8 + 3
    assert full.generation_bytes - base.generation_bytes == expected
    phases = [dataclasses.replace(found, code_bytes=GIB) for found in phases]
    assert base.fits and not dataclasses.replace(base, phases=phases).fits


def test_a_batch_that_is_read_in_parts_takes_the_time_of_all_calls():
    """8 rows, 3 in each call: three calls."""
    base = plan()

    def seconds(rows: int) -> dict[str, float]:
        phases = [
            dataclasses.replace(
                found,
                phase=dataclasses.replace(found.phase, rows=rows),
                traffic=Traffic(flops=1e12),
            )
            for found in base.phases
        ]
        return dataclasses.replace(base, phases=phases).seconds("catch-up", 1)

    assert seconds(3) == {name: 3 * one for name, one in seconds(8).items()}


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
    # A small model with a large cache is what there is least room beside.
    sizes = {"p": 10 * GIB, "f": GIB, "a": 2 * GIB}
    caches = {"candidate 0": GIB, "candidate 1": GIB, "candidate 2": 16 * GIB}
    uneven = dataclasses.replace(apart, params_bytes=sizes, cache_bytes=caches)
    assert uneven.generation_bytes == 18 * GIB
    (line,) = advice_for(uneven)
    assert f"in_flight={int(8 * 13.75 / 16)} it does" in line
    unplanned = dataclasses.replace(apart, phases=[])
    assert "each model of a pool lies on 1 chip" in lines(unplanned)[0]
    with one_line_error("mesh.tensor=2, 3 times", "'disjoint'", "4 chips of one host"):
        two = MeshOptions(placement="disjoint", tensor=2)
        make_plan(slice_called("v4-8"), two, apart.pool, None)


def test_a_pool_is_as_fast_as_its_candidates_in_turn_or_as_the_slowest():
    """Together they take turns; apart, all wait for the one that is slowest."""
    base = plan()
    members = [Member(name, tiny.CONFIG) for name in "pfa"]
    members[1] = dataclasses.replace(members[1], quantization="int8")
    pool = dataclasses.replace(base.pool, candidates=tuple(members))
    phases = generation_phases(pool, tensor_mesh(jax.devices()[:1]))
    rate = base.slice.chip.hbm_rate

    def compiled(phase):
        seconds = 4.0 if phase.name.startswith("decode") else 1.0
        if phase.name.endswith("of 1"):
            seconds /= 2
        return Compiled(phase, traffic=Traffic(hbm_bytes=seconds * rate))

    found = [compiled(phase) for phase in phases]
    together = dataclasses.replace(base, pool=pool, phases=found)
    apart = dataclasses.replace(together, mesh=MeshOptions(placement="disjoint"))
    tokens = 3 * 8 * pool.generation.segment_length
    assert together.decode_tokens_per_second == pytest.approx(tokens / (4 + 4 + 2))
    assert apart.decode_tokens_per_second == pytest.approx(tokens / 4)
    # Each reads what the two others wrote.
    reading = 2 * (1 + 1 + 0.5)
    assert together.switching_tokens_per_second == pytest.approx(
        tokens / (10 + reading)
    )
    assert apart.switching_tokens_per_second == pytest.approx(tokens / (4 + 2 * 1))
    # Of one candidate alone there is no rate of the pool.
    some = [x for x in found if x.phase.name.endswith("of 1")]
    assert dataclasses.replace(together, phases=some).decode_tokens_per_second is None
