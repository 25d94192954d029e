"""Does a pool fit on a slice, what does it move, how fast can it be at best?

Every program that the pool would run is compiled for the slice's chips by the TPU's own
compiler; memory is what that compiler says, bytes and FLOPs are counted in the programs
that it made. Times are those figures over the chip's peak rates: no program has run.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple

import numpy as np
from jax.sharding import AxisType, Mesh

from jax_switchgen.models.sharding import MeshOptions, tensor_mesh
from jax_switchgen.planning.chips import GIB, Slice
from jax_switchgen.planning.compiled import Compiled, compile_phase
from jax_switchgen.planning.least import share_of
from jax_switchgen.planning.phases import (
    SWITCHER,
    TRAIN,
    Member,
    Phase,
    Pool,
    generation_phases,
    train_phase,
)
from jax_switchgen.training.options import TrainingOptions, check_base
from jax_switchgen.training.placement import AXES, check_split

Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Training:
    """A training of a switcher."""

    switcher: Member
    options: TrainingOptions


class Place(NamedTuple):
    """Bytes of a chip that generates: models, their caches, all programs, one of them
    at work."""

    params: int
    caches: int
    programs: int
    working: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was found out. Bytes are of one chip.

    Attributes:
      params_bytes: by name of the pool's members.
      cache_bytes: of all slots, by candidate and "switcher".
      phases: the programs, in the order in which a response needs them.
      only: not all were planned.
    """

    slice: Slice
    mesh: MeshOptions
    pool: Pool
    training: Training | None
    params_bytes: dict[str, int]
    cache_bytes: dict[str, int]
    phases: list[Compiled]
    only: bool = False

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
    def places(self) -> list[Place]:
        """The chips that generate: all models lie on the same, or each has its own."""

        def place(params: int, caches: int, phases: Sequence[Compiled]) -> Place:
            working = max((found.working_bytes for found in phases), default=0)
            return Place(params, caches, programs_bytes(phases), working)

        if not self.is_disjoint:
            params, caches = self.params_bytes.values(), self.cache_bytes.values()
            return [place(sum(params), sum(caches), self.generation)]
        return [
            place(
                self.params_bytes[member.name],
                self.cache_bytes[name],
                [x for x in self.generation if name in x.phase.models],
            )
            for name, member in self.pool.members.items()
        ]

    @property
    def generation_bytes(self) -> int:
        """The most that generation and rollouts need of a chip at a time."""
        return max(sum(place) for place in self.places)

    @property
    def generation_fits(self) -> bool | None:
        """None if no generation is planned."""
        if not self.generation:
            return None
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
        return False not in (self.generation_fits, self.training_fits)

    def seconds(self, name: str, tokens: int) -> dict[str, float]:
        """By model, at the chip's peak: of as many calls of the programs whose names
        begin so as it takes for a full batch of rows of `tokens` tokens."""
        rows = self.pool.generation.batch_size
        return {
            model: -(-tokens // found.phase.tokens)
            * -(-rows // found.phase.rows)
            * found.seconds(self.slice.chip)
            for found in self.phases
            if found.phase.name.startswith(name) and not found.too_large
            for model in found.phase.models
        }

    @property
    def batch_tokens(self) -> int:
        """That a full batch writes in one pass."""
        options = self.pool.generation
        return options.batch_size * options.longest_segment

    @property
    def decode_tokens_per_second(self) -> float | None:
        """Of one pool at the chip's peak: full batches that only decode, of each
        candidate as often. Those that lie apart wait for the slowest. None if not all
        of it was planned."""
        segment, n = self.pool.generation.longest_segment, len(self.pool.candidates)
        decode = self.seconds("decode segment", segment)
        if len(decode) < n:
            return None
        seconds = max(decode.values()) if self.is_disjoint else sum(decode.values())
        return n * self.batch_tokens / seconds

    @property
    def switching_tokens_per_second(self) -> float | None:
        """Likewise with what switching adds to each segment: the switcher reads it, and
        so does, sooner or later, every candidate that did not write it. Models that lie
        apart do it at the same time, at best each the same share."""
        segment, n = self.pool.generation.longest_segment, len(self.pool.candidates)
        decode = self.seconds("decode segment", segment)
        read = self.seconds("catch-up", segment)
        probe = self.seconds("switcher probe", self.pool.question_tokens)
        if {*decode} != {*read} or {*decode, *probe} != {*self.pool.members}:
            return None
        # Of n segments each candidate writes one and reads the others.
        writing = [decode[name] + (n - 1) * read[name] for name in decode]
        choosing = n * sum(probe.values())
        together = max if self.is_disjoint else sum
        seconds = together([*writing, choosing])
        return n * self.batch_tokens / seconds


def programs_bytes(phases: Iterable[Compiled]) -> int:
    """Of all that a run compiles of these kinds, at most: smaller batches and windows
    have programs that are no larger."""
    return sum(found.code_bytes * found.phase.variants for found in phases)


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
      ValueError: the pool cannot be split so, the compiler is not there, or no phase
        has such a name.
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
    for beginning in only:
        if not any(p.name.startswith(beginning) for p in phases):
            names = ", ".join(repr(p.name) for p in phases)
            raise ValueError(f"no program's name begins with {beginning!r}: {names}")
    if only:
        phases = [p for p in phases if p.name.startswith(tuple(only))]
    compiled = _compile_all(phases, progress)
    params, caches = _residents(pool, generating, compiled)
    return Plan(on, mesh, pool, training, params, caches, compiled, bool(only))


def _train_phase(devices: Sequence, training: Training, candidates: int) -> Phase:
    options = training.options
    check_split(len(devices), options.fsdp, options.tensor, options.part_size)
    check_base(training.switcher.quantization, options)
    shape = (-1, options.fsdp, options.tensor)
    mesh = Mesh(np.array(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)
    return train_phase(training.switcher, options, candidates, mesh)


def _compile_all(phases: Sequence[Phase], progress: Progress) -> list[Compiled]:
    """In as many threads as there are cores, for a compilation hardly uses more than
    one; at most 4, for one of 8B takes 2 to 5 GB of memory. The training's, which takes
    longest, begins first."""
    progress(f"compiling {len(phases)} programs")
    started = time.perf_counter()
    done: dict[Phase, Compiled] = {}
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    longest_first = sorted(phases, key=lambda phase: phase.name != TRAIN)
    try:
        for task in as_completed(
            [pool.submit(compile_phase, p) for p in longest_first]
        ):
            found = task.result()
            done[found.phase] = found
            minutes = (time.perf_counter() - started) / 60
            result = "is too large" if found.too_large else "compiled"
            progress(
                f"{found.phase.name} {result}; {len(done)} of {len(phases)}, "
                f"{minutes:.1f} min"
            )
    finally:
        pool.shutdown(cancel_futures=True)
    return [done[phase] for phase in phases]


def _residents(
    pool: Pool, mesh: Mesh, compiled: Sequence[Compiled]
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes on a chip of the models and of their caches, as the compiler lays them out
    (where it got that far)."""
    laid_out = {
        name: found.cache_bytes
        for found in compiled
        if found.cache_bytes
        for name in found.phase.models
    }
    params, caches = {}, {}
    for name, member in pool.members.items():
        config = member.config
        share = share_of(config, mesh, pool.dtype, member.quantization)
        params[member.name] = share.params_bytes
        is_switcher = name == SWITCHER
        length = pool.switcher_cache_length if is_switcher else pool.cache_length
        # At most: the compiler may fill up heads of 64 to 128, or lie them crosswise.
        tiles = (
            pool.slots * share.kv_heads * -(-length // 8) * -(-config.head_dim // 128)
        )
        expected = 2 * config.num_layers * tiles * 8 * 128 * share.itemsize
        caches[name] = laid_out.get(name, expected)
    return params, caches
