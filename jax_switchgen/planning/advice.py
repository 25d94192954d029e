"""What to change so that a plan fits, and what there is room for."""

import math

from jax_switchgen.planning.chips import GIB
from jax_switchgen.planning.plan import Plan
from jax_switchgen.training.options import TrainingOptions

GOAL = 1.15  # times the least HBM bytes of a decode step


def advice_for(plan: Plan) -> list[str]:
    """What to change so that it fits, or what there is room for."""
    said = []
    for found in plan.phases:
        if found.too_large:
            said.append(f"{found.phase.name} alone does not fit: {found.too_large}")
    said += _generation_advice(plan)
    if plan.training is not None:
        said += _training_advice(plan, plan.training.options)
    for found in plan.phases:
        is_decode = found.phase.name.startswith("decode segment")
        if is_decode and (found.hbm_ratio or 0) > GOAL:
            said.append(
                f"a step of {found.phase.name} moves {found.hbm_ratio:.2f} times the "
                f"least HBM bytes; the goal is {GOAL}"
            )
    for member in dict.fromkeys(plan.pool.members.values()):
        heads = member.config.num_kv_heads
        if heads % plan.mesh.tensor:
            said.append(
                f"{member.name}: {heads} heads of keys and values do not divide over "
                f"mesh.tensor={plan.mesh.tensor}, so every chip holds all of them"
            )
    return said


def _generation_advice(plan: Plan) -> list[str]:
    if not plan.generation:
        return []
    pool = plan.pool
    # Where a program is too large, room is left for what it will need when it is not.
    usable = 0.9 if any(found.too_large for found in plan.generation) else 1.0
    slots = min(
        int(
            pool.slots
            * (plan.hbm_bytes - place.params - place.programs - place.working)
            / place.caches
            * usable
        )
        for place in plan.places
    )
    if slots < 1:
        return [
            "models and programs leave no room for caches: split them over more chips "
            f"than mesh.tensor={plan.mesh.tensor}, or lower generation.batch_size="
            f"{pool.generation.batch_size}"
        ]
    if slots < pool.slots:
        return [
            f"generation does not fit with {pool.slots} requests in flight; with "
            f"generation.in_flight={slots} it does"
        ]
    said = []
    # Rows wait for n candidates and the switcher: this many requests fill the passes
    # of all, and more of them only wait.
    useful = (len(pool.candidates) + 1) * pool.generation.batch_size
    slots = min(slots, useful)
    if slots > pool.slots:
        gib = math.ceil(10 * slots * pool.slot_bytes / GIB) / 10
        said.append(
            f"there is room for {slots} requests in flight instead of {pool.slots}, "
            f"and batches are fuller with them: generation.in_flight={slots}, "
            f"generation.cache_gib={gib}"
        )
    if pool.slots < pool.generation.batch_size:
        said.append(
            f"generation.batch_size={pool.generation.batch_size} is never full with "
            f"{pool.slots} requests in flight"
        )
    return said


def _training_advice(plan: Plan, options: TrainingOptions) -> list[str]:
    if plan.training_fits is not False:
        return []
    copies = plan.slice.num_chips // options.tensor
    if options.part_size > copies:
        return [
            "training does not fit: raise training.accumulation="
            f"{options.accumulation} to {options.batch_size // copies}"
        ]
    return [
        "training does not fit with one example on a device: raise "
        f"training.fsdp={options.fsdp} or training.tensor={options.tensor}, or lower "
        f"training.max_length={options.max_length}"
    ]
