"""The jitted program of text embeddings: whole rows in, one vector for each out."""

import jax
import jax.numpy as jnp

from jax_switchgen.models.lora import Lora
from jax_switchgen.models.transformer import Transformer, uncached_hidden


@jax.jit
def mean_states(
    model: Transformer,
    lora: Lora | None,
    tokens_BT: jax.Array,
    first: jax.Array,
    length_B: jax.Array,
) -> jax.Array:
    """The mean of each row's last hidden states over the tokens of its text.

    Example with T 5, first 1 and length 4: the mean of the states of a, b and c.

        tokens  <s> a b c -        padding at the end is seen by none of them

    Args:
      tokens_BT: int32.
      first: int32, tokens of the start of a document that are read and not averaged:
        their states are alike in all texts.
      length_B: int32, tokens of the row that are not padding.
    Returns:
      mean_BD, float32; 0 where nothing is left to average.
    """
    x_BTD = uncached_hidden(model, tokens_BT, lora=lora)
    place_1T = jnp.arange(tokens_BT.shape[1])[None]
    counted_BT = (place_1T >= first) & (place_1T < length_B[:, None])
    # In bfloat16 a sum of 256 states would stop growing.
    sum_BD = jnp.sum(
        jnp.where(counted_BT[:, :, None], x_BTD.astype(jnp.float32), 0.0), axis=1
    )
    count_B1 = jnp.maximum(counted_BT.sum(1, keepdims=True), 1)
    return sum_BD / count_B1.astype(jnp.float32)
