"""What one chip does in a compiled program: bytes to and from HBM, FLOPs, collectives.

An instruction moves its operands and results that lie in HBM, each once, except that a
slice moves what it takes, an update in place what it writes, and an asynchronous copy
what it brings on chip, whose later use is then free. A loop counts as often as it runs;
of two branches the one that moves less counts (in sampling the other is the rare row
whose nucleus is more than 256 tokens). Collectives are counted by themselves too; one
that goes on beside other work is handed on through the fusions of that work, from the
one that starts it to the one that awaits it, and counts where it starts.
"""

import dataclasses
import functools
import math
import re

from jax_switchgen.planning.hlo import Array, Instruction, Program

_FREE = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast"),
        *("after-all", "partition-id", "replica-id", "opt-barrier", "domain"),
        *("copy-done", "slice-done", "async-done", "async-update"),
        *("all-reduce-done", "all-gather-done", "collective-permute-done"),
        *("send-done", "recv-done", "add-dependency"),
    )
)
_COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all"),
    *("collective-permute", "ragged-all-to-all"),
)
_SLICES = ("slice", "dynamic-slice", "gather")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Of one chip.

    Attributes:
      hbm_bytes: read and written.
      flops: of matrix products, a multiplication and an addition counted as two.
      collective_bytes: what the chip gets of others, or reduces with them, by kind.
      collectives: how many there are.
    """

    hbm_bytes: float = 0
    flops: float = 0
    collective_bytes: dict[str, float] = dataclasses.field(default_factory=dict)
    collectives: float = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        kinds = {**self.collective_bytes, **other.collective_bytes}
        return Traffic(
            self.hbm_bytes + other.hbm_bytes,
            self.flops + other.flops,
            {
                kind: self.collective_bytes.get(kind, 0)
                + other.collective_bytes.get(kind, 0)
                for kind in kinds
            },
            self.collectives + other.collectives,
        )

    def times(self, count: float) -> "Traffic":
        return Traffic(
            self.hbm_bytes * count,
            self.flops * count,
            {kind: n * count for kind, n in self.collective_bytes.items()},
            self.collectives * count,
        )


def traffic(program: Program, *, loops: int) -> Traffic:
    """Of one run of the program.

    Args:
      loops: how often a loop runs whose count is not known before (a segment's steps);
        loops inside of it whose counts are not known run once.
    """
    return _Walk(program, loops).computation(program.entry)


class _Walk:
    def __init__(self, program: Program, loops: int):
        self.program = program
        self.loops = loops
        self._flops = functools.cache(self._fused_flops)

    def computation(self, name: str, depth: int = 0) -> Traffic:
        total = Traffic()
        instructions = self.program.computations[name]
        for instruction in instructions.values():
            total += self._instruction(instruction, instructions, depth)
        return total

    def _instruction(
        self, x: Instruction, around: dict[str, Instruction], depth: int
    ) -> Traffic:
        if x.opcode in _FREE:
            return Traffic()
        if x.opcode == "while":
            count = self._trip_count(x.called("condition")[0])
            if count is None:
                count, depth = (self.loops if depth == 0 else 1), depth + 1
            return self.computation(x.called("body")[0], depth).times(count)
        if x.opcode == "conditional":
            names = x.called("branch_computations") or [
                *x.called("true_computation"),
                *x.called("false_computation"),
            ]
            branches = [self.computation(name, depth) for name in names]
            return min(branches, key=lambda branch: branch.hbm_bytes)
        if x.opcode in ("call", "async-start") and (
            called := x.called("to_apply") or x.called("calls")
        ):
            return self.computation(called[0], depth)
        operands = [around[name] for name in x.operands if name in around]
        if x.opcode == "fusion":
            return self._fused(x, operands)
        return Traffic(
            self._moved(x, operands), self._computed(x, operands)
        ) + _collective(x, operands)

    def _fused(self, x: Instruction, operands: list[Instruction]) -> Traffic:
        inside = self.program.computations[x.called("calls")[0]]
        root = next(y for y in inside.values() if y.is_root)
        if '"AsyncCollectiveDone"' in root.attributes:
            return Traffic()
        if '"AsyncCollectiveStart"' in root.attributes:
            return self._instruction(inside[root.operands[0]], inside, depth=0)
        found = Traffic(self._moved(x, operands), self._computed(x, operands))
        handed_on = _handed_on(inside)
        for y in inside.values():
            if y.name not in handed_on:
                found += _collective(y, [inside[name] for name in y.operands])
        return found

    def _trip_count(self, condition: str) -> int | None:
        """How often a loop runs that counts up from 0, as jax writes them; None if
        more than its count decides."""
        inside = self.program.computations[condition]
        root = next(x for x in inside.values() if x.is_root)
        if root.opcode != "compare" or "direction=LT" not in root.attributes:
            return None
        limit = inside[root.operands[1]]
        return int(limit.argument) if limit.opcode == "constant" else None

    def _moved(self, x: Instruction, operands: list[Instruction]) -> float:
        """Bytes that one instruction moves to and from HBM."""
        results = sum(array.hbm_bytes for array in x.result)
        arrays = [o.result for o in operands]
        if x.opcode in ("copy-start", "slice-start"):
            # The result is a tuple: the copy, the source, and a counter on the chip.
            copy = x.result[1] if x.opcode == "slice-start" else x.result[0]
            source = arrays[0][0]
            return (0 if source.memory else copy.nbytes) + copy.hbm_bytes
        if x.opcode.endswith("-start"):  # (operands, results): each counts once
            return results
        if x.opcode in _SLICES:
            return _slice_bytes(arrays[0], x.result) + results
        if x.opcode == "dynamic-update-slice":
            return _update_bytes(arrays[0], arrays[1])
        if x.opcode == "scatter":
            return _update_bytes(arrays[0], arrays[2])
        if x.opcode == "fusion":
            return self._fusion(x, arrays)
        return results + sum(a.hbm_bytes for operand in arrays for a in operand)

    def _fusion(self, x: Instruction, operands: list[tuple[Array, ...]]) -> float:
        """A fusion reads its operands whole, or the slices that it takes of them, and
        writes its results whole, or in place what it updates."""
        inside = self.program.computations[x.called("calls")[0]]
        total = 0.0
        parameters = {
            x.name: int(x.argument) for x in inside.values() if x.opcode == "parameter"
        }
        updates, handed_on = _updates_in_place(inside), _handed_on(inside)
        for name, number in parameters.items():
            array = operands[number]
            if all(a.memory for a in array):
                continue
            users = _users(inside, name)
            if name in updates:
                continue  # neither read nor written but where it is updated
            if handed_on and all(u.is_root or u.name in handed_on for u in users):
                continue
            if users and all(
                u.opcode in _SLICES and u.operands[0] in _aliases(inside, name)
                for u in users
            ):
                total += sum(
                    min(_slice_bytes(array, u.result), array[0].nbytes) for u in users
                )
            else:
                total += sum(a.hbm_bytes for a in array)
        for part, result in zip(_root_parts(inside), x.result, strict=False):
            if part.name in handed_on:
                continue
            update = _update_of(inside, part)
            if update is None:
                total += result.hbm_bytes
            elif not result.memory:
                total += update.nbytes
        return total

    def _computed(self, x: Instruction, operands: list[Instruction]) -> float:
        if x.opcode == "fusion":
            return self._flops(x.called("calls")[0])
        return _dot_flops(x, [o.result for o in operands])

    def _fused_flops(self, name: str) -> float:
        inside = self.program.computations[name]
        total = 0.0
        for x in inside.values():
            operands = [inside[o] for o in x.operands if o in inside]
            total += self._computed(x, operands)
        return total


def _aliases(inside: dict[str, Instruction], name: str) -> set[str]:
    """The instruction, and its bitcasts."""
    found = {name}
    for x in inside.values():
        if x.opcode in ("bitcast", "reshape") and x.operands[0] in found:
            found.add(x.name)
    return found


def _users(inside: dict[str, Instruction], name: str) -> list[Instruction]:
    aliases = _aliases(inside, name)
    return [
        x
        for x in inside.values()
        if x.name not in aliases and aliases.intersection(x.operands)
    ]


def _root_parts(inside: dict[str, Instruction]) -> list[Instruction]:
    root = next(x for x in inside.values() if x.is_root)
    if root.opcode == "tuple":
        return [inside[name] for name in root.operands]
    return [root]


def _handed_on(inside: dict[str, Instruction]) -> set[str]:
    """Results that a fusion only hands on: collectives that go on beside it, known by
    their operands being results too, and their buffers."""
    parts = {part.name: part for part in _root_parts(inside)}
    going_on = {
        name
        for name, part in parts.items()
        if part.opcode in _COLLECTIVES and parts.keys() >= set(part.operands)
    }
    if not going_on:
        return set()
    return going_on | {n for n, part in parts.items() if part.opcode == "parameter"}


def _source(inside: dict[str, Instruction], x: Instruction) -> Instruction:
    """What an instruction is, seen through bitcasts."""
    while x.opcode in ("bitcast", "reshape") and x.operands[0] in inside:
        x = inside[x.operands[0]]
    return x


def _update_of(inside: dict[str, Instruction], root: Instruction) -> Array | None:
    """What is written in place, if the result is an update of an operand."""
    x = _source(inside, root)
    if x.opcode == "dynamic-update-slice":
        return inside[x.operands[1]].result[0]
    if x.opcode == "scatter":
        return inside[x.operands[2]].result[0]
    return None


def _updates_in_place(inside: dict[str, Instruction]) -> set[str]:
    """Parameters into which the results are written."""
    found = set()
    for root in _root_parts(inside):
        if _update_of(inside, root) is not None:
            x = _source(inside, root)
            found.add(_source(inside, inside[x.operands[0]]).name)
    return found


def _slice_bytes(source: tuple[Array, ...], taken: tuple[Array, ...]) -> float:
    """Bytes read from HBM for a slice."""
    return 0 if source[0].memory else sum(a.nbytes for a in taken)


def _update_bytes(target: tuple[Array, ...], update: tuple[Array, ...]) -> float:
    """Bytes that an update in place reads and writes in HBM."""
    written = 0 if target[0].memory else update[0].nbytes
    return written + update[0].hbm_bytes


def _collective(x: Instruction, operands: list[Instruction]) -> Traffic:
    for kind in _COLLECTIVES:
        if x.opcode in (kind, f"{kind}-start"):
            sent = sum(a.nbytes for o in operands for a in o.result)
            # A gather's result is larger than what a chip gives; a started one's
            # result names operands and results.
            got = sum(a.nbytes for a in x.result if a.dims)
            got -= sent if x.opcode.endswith("-start") else 0
            return Traffic(collective_bytes={kind: max(sent, got)}, collectives=1)
    return Traffic()


def _dot_flops(x: Instruction, operands: list[tuple[Array, ...]]) -> float:
    """A product's multiplications and additions; TPU programs name it convolution, with
    the contracted dimension f and batch dimensions as places of a window."""
    if x.opcode == "convolution":
        labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", x.attributes)
        assert labels is not None, "a convolution names its dimensions"
        contracted = operands[0][0].dims[labels[1].index("f")]
        return 2.0 * x.result[0].size * contracted
    if x.opcode == "dot":
        dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", x.attributes)
        assert dims is not None, "a product names its dimensions"
        lengths = [operands[0][0].dims[int(d)] for d in dims[1].split(",") if d]
        return 2.0 * x.result[0].size * math.prod(lengths)
    return 0.0
