"""Compiles one program for chips that are not there, and says what it needs of them."""

import dataclasses
import time

from jax_switchgen.planning.chips import Chip
from jax_switchgen.planning.hlo import Program, read_program
from jax_switchgen.planning.phases import Phase
from jax_switchgen.planning.traffic import Traffic, traffic

_NO_MEMORY = "RESOURCE_EXHAUSTED: "


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One program on one chip.

    Attributes:
      argument_bytes: parameters, caches, states, as the compiler lays them out.
      cache_bytes: of them, caches.
      temp_bytes: what the program needs beside its arguments while it runs.
      new_bytes: results that do not lie where an argument was.
      code_bytes: of the program itself.
      traffic: of one call.
      compile_seconds: from shapes to a program.
      too_large: what the compiler said, if the program alone does not fit; then all
        else is 0.
    """

    phase: Phase
    argument_bytes: int = 0
    cache_bytes: int = 0
    temp_bytes: int = 0
    new_bytes: int = 0
    code_bytes: int = 0
    traffic: Traffic = dataclasses.field(default_factory=Traffic)
    compile_seconds: float = 0.0
    too_large: str | None = None

    @property
    def peak_bytes(self) -> int:
        """What it needs in all."""
        return self.argument_bytes + self.working_bytes + self.code_bytes

    @property
    def working_bytes(self) -> int:
        """What it needs, while it runs, beside its arguments and itself."""
        return self.temp_bytes + self.new_bytes

    def seconds(self, chip: Chip) -> float:
        """Of one call, if all of the chip ran at its peak: no latencies, and transfers
        between chips not hidden behind anything."""
        work = max(
            self.traffic.hbm_bytes / chip.hbm_rate, self.traffic.flops / chip.flop_rate
        )
        return work + sum(self.traffic.collective_bytes.values()) / chip.ici_rate

    @property
    def hbm_ratio(self) -> float | None:
        """HBM bytes over the least possible."""
        least = self.phase.least.hbm_bytes
        return self.traffic.hbm_bytes / least if least and not self.too_large else None

    @property
    def flops_ratio(self) -> float | None:
        least = self.phase.least.flops
        return self.traffic.flops / least if least and not self.too_large else None


def compile_phase(phase: Phase) -> Compiled:
    """Lowers and compiles a program for the chips that its arguments lie on."""
    started = time.perf_counter()
    try:
        compiled = phase.lower().compile()
    except Exception as error:  # the compiler's own type is not public
        said = str(error)
        if _NO_MEMORY not in said:
            raise
        sentence = said.partition(_NO_MEMORY)[2].splitlines()[0]
        return Compiled(
            phase,
            compile_seconds=time.perf_counter() - started,
            too_large=sentence.strip(" ."),
        )
    seconds = time.perf_counter() - started
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None and text is not None, "the TPU's compiler gives both"
    program = read_program(text)
    return Compiled(
        phase,
        argument_bytes=memory.argument_size_in_bytes,
        cache_bytes=_argument_bytes(program, phase.cache_dims),
        temp_bytes=memory.temp_size_in_bytes,
        new_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        traffic=traffic(program, loops=phase.loops) + Traffic(flops=phase.kernel_flops),
        compile_seconds=seconds,
    )


def _argument_bytes(program: Program, dims: tuple[int, ...]) -> int:
    """Of the arguments of these dimensions, padding included."""
    if not dims:
        return 0
    arguments = program.computations[program.entry].values()
    return sum(
        x.result[0].nbytes
        for x in arguments
        if x.opcode == "parameter" and x.result[0].dims == dims
    )
