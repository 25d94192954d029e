"""The jitted program of reward models: whole rows in, one number for each out."""

import jax
import jax.numpy as jnp

from jax_switchgen.models.matmul import linear
from jax_switchgen.models.transformer import Transformer, uncached_hidden


@jax.jit
def row_rewards(
    model: Transformer,
    head_1D: jax.Array,
    tokens_BT: jax.Array,
    length_B: jax.Array,
) -> jax.Array:
    """The reward of each row, read at its last token, without a cache.

    Example with T 4 and length 3: the reward is that of token c.

        tokens  a b c -        padding at the end is seen by none of the three

    Args:
      head_1D: float32.
      tokens_BT: int32.
      length_B: int32, at least 1, also for rows that are padding.
    Returns:
      reward_B, float32.
    """
    x_B1D = uncached_hidden(model, tokens_BT, only_B=length_B - 1)
    # Rounded to bfloat16, rewards of 12.30 and 12.32 would be a tie.
    return linear(head_1D, x_B1D.astype(jnp.float32))[:, 0, 0]
