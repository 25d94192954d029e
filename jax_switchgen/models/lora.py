"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685), beside a model.

An adapter is a pytree beside the model, never merged into it: a switcher that is an
adapter over a candidate shares that candidate's weights.
"""

import jax
import jax.numpy as jnp
from flax import struct

from jax_switchgen.models.matmul import linear


@struct.dataclass
class LoraPair:
    """Adds scale * x A^T B^T to one linear layer.

    Attributes:
      a_RI, b_OR: the factors, as PEFT's lora_A.weight and lora_B.weight.
      scale: alpha / rank (or alpha / sqrt(rank) for rsLoRA).
    """

    a_RI: jax.Array
    b_OR: jax.Array
    scale: float = struct.field(pytree_node=False)

    def delta(self, x_BTI: jax.Array) -> jax.Array:
        h_BTR = linear(self.a_RI.astype(x_BTI.dtype), x_BTI)
        return self.scale * linear(self.b_OR.astype(x_BTI.dtype), h_BTR)

    def merged(self, w_OI: jax.Array) -> jax.Array:
        """w_OI + scale * B A, computed in float32, in w_OI's dtype."""
        delta = self.b_OR.astype(jnp.float32) @ self.a_RI.astype(jnp.float32)
        return (w_OI.astype(jnp.float32) + self.scale * delta).astype(w_OI.dtype)


@struct.dataclass
class Lora:
    """An adapter: for each layer, the pairs of the linear layers that it changes."""

    layers: tuple[dict[str, LoraPair], ...]
