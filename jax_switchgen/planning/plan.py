"""Does a pool fit on a slice, what does it move, how fast can it be at best?

Every program that the pool would run is compiled for the slice's chips by the TPU's own
compiler; memory is what that compiler says, bytes and FLOPs are counted in the programs
that it made. Times are those figures over the chip's peak rates: no program has run.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
from jax.sharding import AxisType, Mesh

from jax_switchgen.models.config import ModelConfig
from jax_switchgen.models.sharding import MeshOptions, tensor_mesh
from jax_switchgen.planning.chips import GIB, Slice
from jax_switchgen.planning.compiled import Compiled, compile_phase
from jax_switchgen.planning.least import share_of
from jax_switchgen.planning.phases import (
    TRAIN,
    Phase,
    Pool,
    generation_phases,
    train_phase,
)
from jax_switchgen.training.options import TrainingOptions
from jax_switchgen.training.placement import AXES, check_split

Progress = Callable[[str], None]

GOAL = 1.15  # times the least HBM bytes of a decode step


@dataclasses.dataclass(frozen=True)
class Training:
    """A training of a switcher of this architecture."""

    config: ModelConfig
    options: TrainingOptions


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was found out. Bytes are of one chip.

    Attributes:
      params_bytes: by checkpoint.
      cache_bytes: of all slots, by candidate and "switcher".
      phases: the programs, in the order in which a response needs them.
      advice: what to change, and what there is room for.
    """

    slice: Slice
    mesh: MeshOptions
    pool: Pool
    params_bytes: dict[str, int]
    cache_bytes: dict[str, int]
    phases: list[Compiled]
    advice: list[str]

    @property
    def hbm_bytes(self) -> int:
        return int(self.slice.chip.hbm_gib * GIB)

    @property
    def generation(self) -> list[Compiled]:
        return [found for found in self.phases if found.phase.name != TRAIN]

    @property
    def is_disjoint(self) -> bool:
        return self.mesh.placement == "disjoint"

    @property
    def resident_bytes(self) -> tuple[int, int]:
        """Parameters and caches of the chips that hold most of both: of all models, or
        of one if each lies on chips of its own."""
        if not self.is_disjoint:
            return sum(self.params_bytes.values()), sum(self.cache_bytes.values())
        params = [self.params_bytes[path] for path, _ in self.pool.members]
        return max(zip(params, self.cache_bytes.values(), strict=True), key=sum)

    @property
    def generation_bytes(self) -> int:
        """The most that generation and rollouts need at a time: models and caches, and
        one program at work."""
        working = max((found.working_bytes for found in self.generation), default=0)
        return sum(self.resident_bytes) + working

    @property
    def generation_fits(self) -> bool:
        return (
            not any(found.too_large for found in self.generation)
            and self.generation_bytes <= self.hbm_bytes
        )

    @property
    def training_fits(self) -> bool | None:
        """None if no training is planned."""
        for found in self.phases:
            if found.phase.name == TRAIN:
                return not found.too_large and found.peak_bytes <= self.hbm_bytes
        return None

    @property
    def fits(self) -> bool:
        return self.generation_fits and self.training_fits is not False

    def called(self, name: str) -> Compiled | None:
        """The phase whose name begins so, if it was planned and compiled."""
        for found in self.phases:
            if found.phase.name.startswith(name) and not found.too_large:
                return found
        return None

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Of one pool at the chip's peak: full batches that only decode."""
        decode = self.called("decode segment")
        if decode is None:
            return None
        passes = len(self.pool.candidates) if self.is_disjoint else 1  # at a time
        tokens = passes * decode.phase.rows * decode.phase.tokens
        return tokens / decode.seconds(self.slice.chip)

    @property
    def switching_tokens_per_second(self) -> float | None:
        """Likewise with what switching adds to each segment: the switcher reads it, and
        so does, sooner or later, every candidate that did not write it. Models that lie
        apart do it at the same time, at best each the same share."""
        parts = [self.called(name) for name in ("decode", "catch-up", "switcher probe")]
        decode, read, probe = parts
        if decode is None or read is None:
            return None
        chip = self.slice.chip
        n = len(self.pool.candidates)
        writing = decode.seconds(chip) + (n - 1) * read.seconds(chip)
        choosing = probe.seconds(chip) if probe else 0.0
        seconds = max(writing / n, choosing) if self.is_disjoint else writing + choosing
        return decode.phase.rows * decode.phase.tokens / seconds


def make_plan(
    on: Slice,
    mesh: MeshOptions,
    pool: Pool,
    training: Training | None,
    *,
    only: Sequence[str] = (),
    progress: Progress = lambda line: None,
) -> Plan:
    """Compiles every program of a pool, and of its switcher's training, for a slice.

    Args:
      only: beginnings of the names of phases; () is all.

    Raises:
      ValueError: the pool cannot be split so, or the compiler is not there.
    """
    places = len(pool.members) if mesh.placement == "disjoint" else 1
    if places * mesh.tensor > on.chips_per_host:
        times = f", {places} times (mesh.placement='disjoint')," if places > 1 else ""
        raise ValueError(
            f"mesh.tensor={mesh.tensor}{times} is more than the {on.chips_per_host} "
            f"chips of one host of {on.name}; a pool generates on the chips of one host"
        )
    devices = on.devices()
    generating = tensor_mesh(devices[: mesh.tensor])
    phases = generation_phases(pool, generating)
    if training is not None:
        phases.append(_train_phase(devices, training, len(pool.candidates)))
    if only:
        phases = [p for p in phases if p.name.startswith(tuple(only))]
    compiled = _compile_all(phases, progress)
    params, caches = _residents(pool, generating, compiled)
    plan = Plan(on, mesh, pool, params, caches, compiled, [])
    return dataclasses.replace(plan, advice=advice_for(plan, training))


def _train_phase(devices: Sequence, training: Training, candidates: int) -> Phase:
    options = training.options
    check_split(len(devices), options.fsdp, options.tensor, options.part_size)
    shape = (-1, options.fsdp, options.tensor)
    mesh = Mesh(np.array(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)
    return train_phase(training.config, options, candidates, mesh)


def _compile_all(phases: Sequence[Phase], progress: Progress) -> list[Compiled]:
    """In as many threads as there are cores, for a compilation uses one; at most 4,
    for one of 8B takes 6 GB of memory."""
    progress(f"compiling {len(phases)} programs")
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        tasks = [pool.submit(compile_phase, phase) for phase in phases]
        for done, _ in enumerate(as_completed(tasks), start=1):
            progress(f"{done} of {len(phases)} programs compiled")
        return [task.result() for task in tasks]


def _residents(
    pool: Pool, mesh: Mesh, compiled: Sequence[Compiled]
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes on a chip of the models and of their caches, as the compiler lays them out
    (where it got that far)."""
    laid_out = {}
    for found in compiled:
        if found.cache_bytes:
            where = "switcher" if found.phase.name == "switcher probe" else "candidates"
            laid_out[where, found.phase.cache_dims] = found.cache_bytes

    def cache(where: str, config: ModelConfig, length: int) -> int:
        share = share_of(config, mesh)
        dims = (pool.slots, share.kv_heads, length, config.head_dim)
        # At most: the compiler may fill up heads of 64 to 128, or lie them crosswise.
        tiles = (
            pool.slots * share.kv_heads * -(-length // 8) * -(-config.head_dim // 128)
        )
        expected = 2 * config.num_layers * tiles * 8 * 128 * pool.itemsize
        return laid_out.get((where, dims), expected)

    params = {
        path: share_of(config, mesh).params * pool.itemsize
        for path, config in pool.models.items()
    }
    caches = {
        f"candidate {i}": cache("candidates", config, pool.cache_length)
        for i, (_, config) in enumerate(pool.candidates)
    }
    if pool.switcher:
        length = pool.switcher_cache_length
        caches["switcher"] = cache("switcher", pool.switcher[1], length)
    return params, caches


def advice_for(plan: Plan, training: Training | None) -> list[str]:
    """What to change so that it fits, or what there is room for."""
    said = []
    for found in plan.phases:
        if found.too_large:
            said.append(f"{found.phase.name} alone does not fit: {found.too_large}")
    said += _generation_advice(plan)
    if training is not None:
        said += _training_advice(plan, training.options)
    decode = plan.called("decode segment")
    if decode is not None and (decode.hbm_ratio or 0) > GOAL:
        said.append(
            f"a decode step moves {decode.hbm_ratio:.2f} times the least HBM bytes; "
            f"the goal is {GOAL}"
        )
    for path, config in plan.pool.models.items():
        if config.num_kv_heads % plan.mesh.tensor:
            said.append(
                f"{path}: {config.num_kv_heads} heads of keys and values do not divide "
                f"over mesh.tensor={plan.mesh.tensor}, so every chip holds all of them"
            )
    return said


def _generation_advice(plan: Plan) -> list[str]:
    if not plan.generation:
        return []
    (_, caches), pool = plan.resident_bytes, plan.pool
    room = plan.hbm_bytes - (plan.generation_bytes - caches)
    if room <= 0:
        return [
            "models and programs leave no room for caches: split them over more chips "
            f"than mesh.tensor={plan.mesh.tensor}, or lower generation.batch_size="
            f"{pool.generation.batch_size}"
        ]
    if any(found.too_large for found in plan.generation):
        room = room * 9 // 10  # for what its programs need, which is not known then
    slots = int(pool.slots * room / caches)
    gib = int(10 * slots * pool.slot_bytes / GIB) / 10
    if slots < pool.slots:
        return [
            f"generation does not fit with {pool.slots} requests in flight; with "
            f"generation.cache_gib={gib} it does, with {slots}"
        ]
    said = []
    # Of n speakers one writes at a time: this many requests keep its batch full, and
    # more of them only wait.
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
