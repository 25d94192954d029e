"""Weights of one byte: int8 values, and one scale for each output of a matrix.

Only weights are quantized; what flows through the model keeps its dtype. In decoding
every weight is read from memory at every step, which is what the time goes into.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike

QUANTIZATIONS = ("int8",)
LARGEST = 127  # -128 is left out, so that a value and its negative are equally exact


@struct.dataclass
class Int8Matrix:
    """Stands for `values_OI * scale_O[:, None]`, in place of an array.

    Attributes:
      values_OI: int8, from -127 to 127.
      scale_O: float32; the step from one value to the next.
    """

    values_OI: jax.Array
    scale_O: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values_OI.shape

    @property
    def nbytes(self) -> int:
        return self.values_OI.nbytes + self.scale_O.nbytes

    @property
    def sharding(self) -> Any:
        return self.values_OI.sharding

    def __getitem__(self, rows: Any) -> "Int8Matrix":
        """Some rows, as of an array: ids_BT gives values_BTI and scale_BT."""
        return Int8Matrix(self.values_OI[rows], self.scale_O[rows])

    def dequantized(self, dtype: DTypeLike) -> jax.Array:
        values_OI = self.values_OI.astype(jnp.float32)
        return (values_OI * self.scale_O[..., None]).astype(dtype)


Matrix = jax.Array | Int8Matrix


def check_quantization(value: str | None, field: str = "quantization") -> None:
    """Raises ValueError where a config asks for a kind that there is not."""
    if value is not None and value not in QUANTIZATIONS:
        kinds = ", ".join(map(repr, QUANTIZATIONS))
        raise ValueError(f"{field}={value!r} is not one of {kinds}, None")


def check_unquantized(quantization: str | None, done: str) -> None:
    """Raises ValueError where something needs the weights as they were trained.

    Args:
      done: what cannot be done to the model, in words.
    """
    if quantization is not None:
        raise ValueError(
            f"a model with quantization={quantization!r} cannot be {done}: its weights "
            "are rounded; load it with quantization=None"
        )


@jax.jit
def quantize(w_OI: jax.Array) -> Int8Matrix:
    """The nearest multiples of each row's scale; the largest one becomes 127.

    In:   0.5 -1.0 0.26     Out:  64 -127 33, scale 1 / 127
    """
    w_OI = w_OI.astype(jnp.float32)
    # A row of zeros has the least scale, not none, by which nothing could be divided.
    tiny = jnp.finfo(jnp.float32).tiny
    scale_O = jnp.maximum(jnp.max(jnp.abs(w_OI), axis=-1) / LARGEST, tiny)
    values_OI = jnp.round(w_OI / scale_O[:, None])
    values_OI = jnp.clip(values_OI, -LARGEST, LARGEST)
    return Int8Matrix(values_OI.astype(jnp.int8), scale_O)
