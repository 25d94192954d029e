"""x W^T for weights that lie as [out, in], fast for few rows on CPU too."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jax_switchgen.models.quantization import Int8Matrix, Matrix

# Most rows for which the CPU path is used. On 2 cores and matrices of 1536 x 576 it
# takes 0.6x the time at 2 to 8 rows, 0.8x at 32, as long at 128.
_FEW_ROWS = 64


def times_transposed(
    x_MI: jax.Array, w_OI: jax.Array, dtype: DTypeLike | None = None
) -> jax.Array:
    """x W^T over the last two axes; any leading axes are the same in both.

    Args:
      dtype: of the result; None is that of the operands.
    Returns:
      y_MO.
    """

    def weights_right(x_MI: jax.Array, w_OI: jax.Array) -> jax.Array:
        return jnp.einsum(
            "...MI,...OI->...MO", x_MI, w_OI, preferred_element_type=dtype
        )

    def weights_left(x_MI: jax.Array, w_OI: jax.Array) -> jax.Array:
        # XLA's CPU library reads W as it lies when it is the left operand, and
        # transposes it in memory at each call, 3/4 of the time, when it is the right
        # one. The barrier keeps the compiler from making the one of the other.
        x_IM = x_MI.swapaxes(-1, -2)
        y_OM = jnp.matmul(w_OI, x_IM, preferred_element_type=dtype)
        return jax.lax.optimization_barrier(y_OM).swapaxes(-1, -2)

    if x_MI.shape[-2] > _FEW_ROWS:
        return weights_right(x_MI, w_OI)
    return jax.lax.platform_dependent(
        x_MI, w_OI, cpu=weights_left, default=weights_right
    )


def linear(w_OI: Matrix, x_BTI: jax.Array) -> jax.Array:
    """x_BTO = x W^T with one W for all rows."""
    if isinstance(w_OI, Int8Matrix):
        # The scale comes after the sum, where it is one product for each output and not
        # for each weight; the values of int8 are exact in every dtype. The sum has the
        # dtype of x: devices may have to add theirs, and would send twice the bytes.
        y_BTO = _product(w_OI.values_OI.astype(x_BTI.dtype), x_BTI)
        scaled_BTO = y_BTO.astype(jnp.float32) * w_OI.scale_O[None, None]
        return scaled_BTO.astype(x_BTI.dtype)
    return _product(w_OI, x_BTI)


def rows(w_OI: Matrix, ids_BT: jax.Array, dtype: DTypeLike) -> jax.Array:
    """w_BTI, the rows of W that are asked for."""
    if isinstance(w_OI, Int8Matrix):
        return w_OI[ids_BT].dequantized(dtype)
    return w_OI[ids_BT]


def _product(w_OI: jax.Array, x_BTI: jax.Array) -> jax.Array:
    B, T, I = x_BTI.shape  # noqa: E741
    if B * T > _FEW_ROWS:
        return jnp.einsum("BTI,OI->BTO", x_BTI, w_OI)
    return times_transposed(x_BTI.reshape(B * T, I), w_OI).reshape(B, T, -1)
