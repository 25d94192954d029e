"""Reads a GGUF file: its header at once, its tensors as float32 a few rows at a time.

The `gguf` package's own reader makes several numpy views per vocabulary entry, 12 s for
a vocabulary of 262,144; parsing the bytes in one pass takes 0.2 s. Only its table of
block formats and its dequantization are used here.
"""

import dataclasses
import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)  # version 1 had 32-bit lengths and is long gone
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"}
_SCALARS |= {10: "Q", 11: "q", 12: "d"}
# 16 MB of float32 at a time: an embedding of 262,144 x 640 would need 671 MB at once,
# and the dequantization about three times that.
_CHUNK_ELEMENTS = 2**22
_DAMAGED = "the file is damaged or its download broke off: download it again"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Where a tensor lies: `shape` is rows first, `offset` in bytes from the start."""

    name: str
    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row; quantization blocks never cross rows."""
        block_elements, block_bytes = gguf.GGML_QUANT_SIZES[self.kind]
        return self.shape[-1] // block_elements * block_bytes

    @property
    def num_rows(self) -> int:
        return math.prod(self.shape[:-1])  # 1 for a vector


@dataclasses.dataclass(frozen=True, kw_only=True)
class GGUFFile:
    """A parsed header. Arrays in `metadata` are lists, floats as the file's float32."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the model family, the prefix of its header entries."""
        return str(self.require("general.architecture"))

    def require(self, key: str) -> Any:
        """The metadata value at `key`; ValueError if the file has none."""
        if key not in self.metadata:
            raise ValueError(
                f"{self.path}: the header lacks {key!r}, which a language model needs; "
                "convert the model to GGUF again with a current llama.cpp"
            )
        return self.metadata[key]

    def tensor(self, name: str) -> TensorInfo:
        """The tensor called `name`; ValueError if the file has none."""
        if name not in self.tensors:
            raise ValueError(
                f"{self.path}: tensor {name!r} is missing; take a complete, unsplit "
                "GGUF file of the model"
            )
        return self.tensors[name]

    def float32_rows(
        self, name: str, row_order: np.ndarray | None = None
    ) -> Iterator[np.ndarray]:
        """The dequantized tensor in pieces, float32 [some rows, columns].

        Args:
          row_order: int [rows], the file's row for each row wanted; None for all rows
            in the file's order.
        """
        info = self.tensors[name]
        rows = np.memmap(
            self.path, np.uint8, "r", info.offset, (info.num_rows, info.row_bytes)
        )
        step = max(1, _CHUNK_ELEMENTS // info.shape[-1])
        for start in range(0, info.num_rows, step):
            part = slice(start, start + step)
            chunk = np.asarray(rows[part if row_order is None else row_order[part]])
            yield gguf.dequantize(chunk, info.kind)


class _Cursor:
    """A position in the header; every read past the end is one clear error."""

    def __init__(self, path: Path, buffer: mmap.mmap):
        self.path, self.buffer, self.size, self.position = path, buffer, len(buffer), 0

    def unpack(self, fmt: str) -> tuple[Any, ...]:
        """The next values of a `struct` format, little-endian and unpadded."""
        try:
            values = struct.unpack_from("<" + fmt, self.buffer, self.position)
        except struct.error:  # also for a count beyond all memory
            raise ValueError(
                f"{self.path}: the header runs past the end of the file at byte "
                f"{self.size:,}; {_DAMAGED}"
            ) from None
        self.position += struct.calcsize("<" + fmt)
        return values

    def string(self) -> str:
        (length,) = self.unpack("Q")
        start, self.position = self.position, self.position + length
        if self.position > self.size:
            raise ValueError(
                f"{self.path}: a text of {length:,} bytes in the header runs past the "
                f"end of the file; {_DAMAGED}"
            )
        try:
            return self.buffer[start : self.position].decode()
        except UnicodeDecodeError:
            raise ValueError(
                f"{self.path}: the text at byte {start:,} of the header is no UTF-8; "
                f"{_DAMAGED}"
            ) from None

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            item, length = self.unpack("IQ")
            if item == _STRING:
                return [self.string() for _ in range(length)]
            return list(self.unpack(f"{length}{self.code(item)}"))
        return self.unpack(self.code(kind))[0]

    def code(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise ValueError(
                f"{self.path}: the header holds a value of unknown type {kind}; "
                f"{_DAMAGED}"
            )
        return _SCALARS[kind]


def read_gguf(path: Path) -> GGUFFile:
    """Parses the header of the GGUF file `path` and checks that all tensors are there.

    Raises:
      ValueError: the file is no GGUF file, is cut short, or holds a tensor in a format
        without dequantization. The message names file, tensor and remedy.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; pass the path of a .gguf file")
    with path.open("rb") as stream:
        start = stream.read(8)
        if start[:4] != _MAGIC or len(start) < 8:
            raise ValueError(
                f"{path}: begins with {start[:4]!r}, not {_MAGIC!r}, so it is no GGUF "
                "file; pass the path of a .gguf file, or download it again"
            )
        (version,) = struct.unpack("<I", start[4:])
        if version not in _VERSIONS:
            raise ValueError(
                f"{path}: GGUF version {version} (or a big-endian file); supported: "
                f"little-endian versions {_VERSIONS}; convert it with a current "
                "llama.cpp"
            )
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            return _parse(_Cursor(path, buffer))


def _parse(cursor: _Cursor) -> GGUFFile:
    cursor.position = 8
    num_tensors, num_entries = cursor.unpack("QQ")
    metadata: dict[str, Any] = {}
    for _ in range(num_entries):
        key = cursor.string()
        (kind,) = cursor.unpack("I")
        metadata[key] = cursor.value(kind)
    raw = [_raw_tensor(cursor) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(
            f"{cursor.path}: general.alignment is {alignment!r}, not a number of "
            f"bytes; {_DAMAGED}"
        )
    data_start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for name, shape, kind, offset in raw:
        info = TensorInfo(
            name=name,
            shape=shape,
            kind=_quantization(cursor.path, name, kind),
            offset=data_start + offset,
        )
        block = gguf.GGML_QUANT_SIZES[info.kind][0]
        if not shape or min(shape) < 1 or shape[-1] % block:
            raise ValueError(
                f"{cursor.path}: tensor {name!r} has shape {shape}, but rows of "
                f"{info.kind.name} hold a multiple of {block} numbers; {_DAMAGED}"
            )
        end = info.offset + info.num_rows * info.row_bytes
        if end > cursor.size:
            raise ValueError(
                f"{cursor.path}: tensor {name!r} should end at byte {end:,}, but the "
                f"file ends at {cursor.size:,}; {_DAMAGED}"
            )
        tensors[name] = info
    return GGUFFile(path=cursor.path, metadata=metadata, tensors=tensors)


def _raw_tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    (rank,) = cursor.unpack("I")
    columns_first = cursor.unpack(f"{rank}Q")
    kind, offset = cursor.unpack("IQ")
    return name, columns_first[::-1], kind, offset


def _quantization(path: Path, name: str, kind: int) -> gguf.GGMLQuantizationType:
    """The block format number `kind`, if one block of it can be dequantized."""
    try:
        known = gguf.GGMLQuantizationType(kind)
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[known][1]), np.uint8), known)
    except (ValueError, NotImplementedError):
        raise ValueError(
            f"{path}: tensor {name!r} has quantization type {kind}, which the "
            "installed gguf package cannot dequantize; upgrade gguf, or take a Q4, Q5, "
            "Q6, Q8 or F16 file of the model"
        ) from None
    return known
