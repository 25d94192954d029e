"""A plan as a table for people, and as JSON for programs."""

from typing import Any

from rich.table import Table

from jax_switchgen.planning.advice import advice_for
from jax_switchgen.planning.chips import GIB
from jax_switchgen.planning.compiled import Compiled
from jax_switchgen.planning.plan import Plan, programs_bytes


def memory_table(plan: Plan) -> Table:
    """What lies on each chip while a pool generates."""
    apart = ", of which each holds one model" if plan.is_disjoint else ""
    title = f"Memory of one chip: {plan.hbm_bytes / GIB:.2f} GiB{apart}"
    table = Table(title=title)
    table.add_column("")
    table.add_column("GiB", justify="right")
    for name, size in plan.params_bytes.items():
        table.add_row(f"parameters of {name}", _gib(size))
    for name, size in plan.cache_bytes.items():
        table.add_row(f"cache of {name}, {plan.pool.slots} requests", _gib(size))
    if plan.generation:
        largest = max(plan.generation, key=lambda found: found.working_bytes)
        table.add_row(f"at work: {largest.phase.name}", _gib(largest.working_bytes))
        count = sum(found.phase.variants for found in plan.generation)
        table.add_row(f"up to {count} programs", _gib(programs_bytes(plan.generation)))
    table.add_section()
    table.add_row("generation and rollouts", _gib(plan.generation_bytes))
    for found in plan.phases:
        if found not in plan.generation and not found.too_large:
            table.add_row("training, a job of its own", _gib(found.peak_bytes))
    return table


def phase_table(plan: Plan) -> Table:
    """What each program needs and does, on each chip and in one call."""
    table = Table(title="One call of each program, on one chip")
    table.add_column("program, rows x tokens")
    for name in ("arguments", "temporaries", "HBM"):
        table.add_column(f"{name}\nGiB", justify="right")
    table.add_column("x least", justify="right")
    table.add_column("TFLOP", justify="right")
    table.add_column("x least", justify="right")
    table.add_column("between\nchips MB", justify="right")
    table.add_column("at peak\nms", justify="right")
    table.add_column("compiled\nin s", justify="right")
    for found in plan.phases:
        table.add_row(*_row(plan, found))
        if found.phase.name.startswith("decode segment") and not found.too_large:
            table.add_row(*_step_row(plan, found))
    return table


def lines(plan: Plan) -> list[str]:
    """What is in no table: rates, and what to change."""
    on = plan.slice
    said = [
        f"{on.name} is {_count(on.num_chips, 'chip')} on "
        f"{_count(on.num_chips // on.chips_per_host, 'host')}; "
        + ("each model of a pool" if plan.is_disjoint else "a pool")
        + f" lies on {_count(plan.mesh.tensor, 'chip')}"
    ]
    if plan.generation_fits is not None:
        planned = "what was planned of generation" if plan.only else "generation"
        said.append(
            f"{planned} " + ("fits" if plan.generation_fits else "DOES NOT FIT")
        )
    if plan.training_fits is not None:
        said.append("training " + ("fits" if plan.training_fits else "DOES NOT FIT"))
    if (rate := plan.decode_tokens_per_second) is not None:
        said.append(f"at peak rates a pool decodes {rate:,.0f} tokens/s")
    if (rate := plan.switching_tokens_per_second) is not None:
        said.append(
            f"with the reading that switching adds, {rate:,.0f} tokens/s (latencies, "
            "the host, and passes that are not full are not in these figures)"
        )
    return said + advice_for(plan)


def as_json(plan: Plan) -> dict[str, Any]:
    """Plain values; bytes, FLOPs and seconds of one chip."""
    return {
        "slice": plan.slice.name,
        "chips": plan.slice.num_chips,
        "tensor": plan.mesh.tensor,
        "placement": plan.mesh.placement,
        "hbm_bytes": plan.hbm_bytes,
        "fits": plan.fits,
        "params_bytes": plan.params_bytes,
        "cache_bytes": plan.cache_bytes,
        "slots": plan.pool.slots,
        "generation_bytes": plan.generation_bytes,
        "decode_tokens_per_second": plan.decode_tokens_per_second,
        "switching_tokens_per_second": plan.switching_tokens_per_second,
        "phases": [_phase_json(plan, found) for found in plan.phases],
        "advice": advice_for(plan),
    }


def _phase_json(plan: Plan, found: Compiled) -> dict[str, Any]:
    phase = found.phase
    return {
        "name": phase.name,
        "rows": phase.rows,
        "tokens": phase.tokens,
        "too_large": found.too_large,
        "argument_bytes": found.argument_bytes,
        "temp_bytes": found.temp_bytes,
        "new_bytes": found.new_bytes,
        "code_bytes": found.code_bytes,
        "variants": phase.variants,
        "hbm_bytes": found.traffic.hbm_bytes,
        "least_hbm_bytes": phase.least.hbm_bytes,
        "hbm_ratio": found.hbm_ratio,
        "flops": found.traffic.flops,
        "least_flops": phase.least.flops,
        "flops_ratio": found.flops_ratio,
        "collective_bytes": found.traffic.collective_bytes,
        "collectives": found.traffic.collectives,
        "seconds_at_peak": found.seconds(plan.slice.chip),
        "compile_seconds": found.compile_seconds,
    }


def _row(plan: Plan, found: Compiled) -> list[str]:
    phase = found.phase
    name = f"{phase.name}, {phase.rows} x {phase.tokens:,}"
    if found.too_large:
        return [name, "does not fit", *[""] * 7, f"{found.compile_seconds:.0f}"]
    return [
        name,
        _gib(found.argument_bytes),
        _gib(found.working_bytes),
        *_work(plan, found, 1),
        f"{found.compile_seconds:.0f}",
    ]


def _step_row(plan: Plan, found: Compiled) -> list[str]:
    return ["  of it a step", "", "", *_work(plan, found, found.phase.tokens), ""]


def _work(plan: Plan, found: Compiled, calls: int) -> list[str]:
    traffic = found.traffic.times(1 / calls)
    moved = sum(traffic.collective_bytes.values())
    return [
        _gib(traffic.hbm_bytes),
        _ratio(found.hbm_ratio),
        f"{traffic.flops / 1e12:.2f}",
        _ratio(found.flops_ratio),
        f"{moved / 1e6:,.1f}",
        f"{1e3 * found.seconds(plan.slice.chip) / calls:.2f}",
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"
