"""Reads the text of a compiled TPU program: computations, instructions, arrays.

The compiler's own `cost_analysis` counts the body of a loop once, however often it
runs, so it cannot say what a decode step moves. The text names every array with its
layout and its memory, and can be walked.

    %fusion.3 = bf16[32,4096]{1,0:T(8,128)(2,1)S(3)} fusion(%p.1, %p.2), kind=kLoop,
        calls=%fused_computation.3

is 32 x 4096 bfloat16 in tiles of 8 x 128, in memory 3 (on chip); without S it lies in
HBM.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

ITEM_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8", "s4", "u4", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("f32", "s32", "u32"), 4),
    **dict.fromkeys(("f64", "s64", "u64", "c64"), 8),
}

_ARRAY = re.compile(
    r"(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::((?:[A-Z]+\([^)]*\)|\([^)]*\))*))?)?"
)
_TILE = re.compile(r"T\(([\d,]+)\)")
_MEMORY = re.compile(r"S\((\d+)\)")
_COMMENT = re.compile(r"/\*.*?\*/")
_REFERENCE = re.compile(r"%[\w.\-]+")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array, or one part of a tuple.

    Attributes:
      dims: as the program names them.
      order: dimensions from the fastest to the slowest in memory.
      tile: of the fastest dimensions, in the order of `dims`; () is untiled.
      memory: 0 is HBM; others are on the chip.
    """

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...]
    tile: tuple[int, ...]
    memory: int

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory: dimensions are filled up to whole tiles."""
        lengths = [self.dims[d] for d in self.order]
        for i, tile in enumerate(reversed(self.tile)):
            if i < len(lengths):
                lengths[i] = -(-lengths[i] // tile) * tile
        return math.prod(lengths) * ITEM_BYTES.get(self.dtype, 0)

    @property
    def hbm_bytes(self) -> int:
        """Of it in HBM; single numbers are kept on the chip."""
        return self.nbytes if self.dims and not self.memory else 0


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      result: one array, or those of a tuple.
      argument: the text between its brackets; a parameter's is its number.
      operands: names of instructions of the same computation.
      attributes: what stands behind the operands.
    """

    name: str
    opcode: str
    result: tuple[Array, ...]
    argument: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    def called(self, attribute: str) -> list[str]:
        """The computations that an attribute names: `body`, `calls`, …"""
        match = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%[\w.\-]+)", self.attributes)
        return _REFERENCE.findall(match[1]) if match else []


@dataclasses.dataclass(frozen=True)
class Program:
    """Computations by name, each its instructions by name, in their order."""

    computations: dict[str, dict[str, Instruction]]
    entry: str


def read_program(text: str) -> Program:
    """The program of `compiled.as_text()`."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.endswith("{") and " -> " in line and not line[0].isspace():
            head = line.removeprefix("ENTRY ")
            current = head.split(" ", 1)[0]
            computations[current] = {}
            if line.startswith("ENTRY "):
                entry = current
        elif current is not None and line.startswith("  "):
            found = _instruction(line.strip())
            if found is not None:
                computations[current][found.name] = found
    assert entry, "the text of a compiled program has an entry"
    return Program(computations, entry)


def _instruction(line: str) -> Instruction | None:
    is_root = line.startswith("ROOT ")
    name, equals, rest = line.removeprefix("ROOT ").partition(" = ")
    if not equals or not name.startswith("%"):
        return None
    rest = _COMMENT.sub("", rest)
    end = _end_of_type(rest)
    result, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition("(")
    close = _closing(rest)
    return Instruction(
        name,
        opcode.strip(),
        tuple(_arrays(result)),
        rest[:close],
        tuple(_REFERENCE.findall(rest[:close])),
        rest[close + 1 :],
        is_root,
    )


def _end_of_type(text: str) -> int:
    """Where the type ends with which the text begins."""
    if text.startswith("("):
        return _closing(text[1:]) + 2
    return text.index(" ")


def _closing(text: str) -> int:
    """Where the bracket is closed that was opened just before the text."""
    depth = 1
    for i, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return i
    raise AssertionError(f"brackets are not closed: {text[:80]}")


def _arrays(text: str) -> Iterator[Array]:
    for match in _ARRAY.finditer(text):
        dtype, dims, order, layout = match.groups()
        if dtype not in ITEM_BYTES and dtype != "token":
            continue
        lengths = tuple(int(d) for d in dims.split(",") if d)
        minor = tuple(int(d) for d in (order or "").split(",") if d)
        tile = _TILE.search(layout or "")
        memory = _MEMORY.search(layout or "")
        yield Array(
            dtype,
            lengths,
            minor or tuple(reversed(range(len(lengths)))),
            tuple(int(t) for t in tile[1].split(",")) if tile else (),
            int(memory[1]) if memory else 0,
        )
