"""Drawing the next token: temperature, top-k, exact top-p, one uniform per row.

The order is that of Hugging Face: temperature, then top-k, then top-p over what is
left. The nucleus (Holtzman et al. 2020, arXiv 1904.09751, section 3.1) is the set of
tokens whose strictly more likely tokens hold less than top-p of the mass; tokens that
tie at its border are all in it. It is exact without sorting the vocabulary: the 256
most likely tokens nearly always contain it, and for a row where they do not, the
border is found by bisection. A row's token does not depend on the other rows.
"""

import jax
import jax.numpy as jnp
from flax import struct

# top_k(256) costs 2-3x an argmax, a full sort of 49,152 logits 60-100x (CPU, 32 rows).
SHORTLIST = 256


@struct.dataclass
class Sampling:
    """How tokens are drawn.

    Attributes:
      temperature: float32 scalar, unused when greedy.
      top_p: float32 scalar in (0, 1]; 1 keeps everything.
      top_k: int32 scalar in 0 … 256; 0 keeps everything.
      greedy: take the most likely token, the first one of equals.
    """

    temperature: jax.Array
    top_p: jax.Array
    top_k: jax.Array
    greedy: bool = struct.field(pytree_node=False)


def make_sampling(temperature: float, top_p: float = 1.0, top_k: int = 0) -> Sampling:
    """Of numbers that `check_sampling` accepts; temperature 0 is greedy."""
    check_sampling(temperature, top_p, top_k)
    return Sampling(
        temperature=jnp.float32(temperature or 1.0),
        top_p=jnp.float32(top_p),
        top_k=jnp.int32(top_k),
        greedy=temperature == 0,
    )


def check_sampling(temperature: float, top_p: float, top_k: int) -> None:
    """Starts no backend: configs are read before the processes of a job have met.

    Raises:
      ValueError: a number out of its range.
    """
    if temperature < 0:
        raise ValueError(f"temperature={temperature} must be 0 (greedy) or more")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must be above 0 and at most 1 (1 = off)")
    if not 0 <= top_k <= SHORTLIST:
        raise ValueError(f"top_k={top_k} must be 0 (off) to {SHORTLIST}")


def row_uniforms(
    seed: jax.Array, request_B: jax.Array, position_B: jax.Array
) -> jax.Array:
    """uniform_B in [0, 1), from key = fold_in(seed, request, position) of each row.

    Args:
      seed: uint32 scalar.
      request_B: uint32, the request's own number, wherever it is processed.
      position_B: int32, tokens written in the response so far.
    """

    def draw(request: jax.Array, position: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), request)
        return jax.random.uniform(jax.random.fold_in(key, position))

    return jax.vmap(draw)(request_B, position_B)


def sample(logits_BV: jax.Array, uniform_B: jax.Array, sampling: Sampling) -> jax.Array:
    """token_B, int32, for float32 logits and one uniform for each row."""
    if sampling.greedy:
        return jnp.argmax(logits_BV, -1).astype(jnp.int32)
    scaled_BV = logits_BV / sampling.temperature
    short_BK, ids_BK = _shortlist(scaled_BV)
    border_B, enough_B = _shortlist_border(scaled_BV, short_BK, sampling)
    weights_BK = _weights(short_BK, border_B, short_BK[:, :1])
    choice_B = _draw(weights_BK, uniform_B)
    token_B = jnp.take_along_axis(ids_BK, choice_B[:, None], 1)[:, 0]

    def with_long_rows() -> jax.Array:
        border_B = _full_border(scaled_BV, short_BK, sampling)
        weights_BV = _weights(scaled_BV, border_B, short_BK[:, :1])
        return jnp.where(enough_B, token_B, _draw_blocked(weights_BV, uniform_B))

    return jax.lax.cond(jnp.all(enough_B), lambda: token_B, with_long_rows)


def nucleus_mask(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
    """bool mask_BV of the tokens that `sample` can draw, by bisection alone."""
    scaled_BV = logits_BV / sampling.temperature
    short_BK, _ = _shortlist(scaled_BV)
    border_B = _full_border(scaled_BV, short_BK, sampling)
    return _weights(scaled_BV, border_B, short_BK[:, :1]) > 0


def _shortlist(scaled_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest values and their ids, descending.

    The barrier keeps XLA from joining later slices with the one inside top_k: on CPU
    it then no longer knows top_k, and sorts the vocabulary.
    """
    K = min(SHORTLIST, scaled_BV.shape[1])
    return jax.lax.optimization_barrier(jax.lax.top_k(scaled_BV, K))


def _top_k_border(short_BK: jax.Array, sampling: Sampling) -> jax.Array:
    """border_B: the k-th largest value, -inf when top-k is off."""
    K = short_BK.shape[1]
    kth = jnp.clip(sampling.top_k - 1, 0, K - 1)
    off = (sampling.top_k == 0) | (sampling.top_k > K)
    return jnp.where(off, -jnp.inf, short_BK[:, kth])


def _shortlist_border(
    scaled_BV: jax.Array, short_BK: jax.Array, sampling: Sampling
) -> tuple[jax.Array, jax.Array]:
    """The least kept value of each row as far as the shortlist tells, and whether the
    shortlist holds every kept token of the row."""
    largest_B1 = short_BK[:, :1]
    top_k_B1 = _top_k_border(short_BK, sampling)[:, None]
    short_mass_BK = _weights(short_BK, top_k_B1[:, 0], largest_B1)
    all_B = jnp.where(
        jnp.isneginf(top_k_B1[:, 0]),
        jnp.sum(jnp.exp(scaled_BV - largest_B1), -1),
        jnp.sum(short_mass_BK, -1),
    )
    before_BK = jnp.cumsum(short_mass_BK, -1) - short_mass_BK
    kept_BK = before_BK < sampling.top_p * all_B[:, None]
    kept_BK &= short_mass_BK > 0
    border_B = jnp.min(jnp.where(kept_BK, short_BK, jnp.inf), -1)
    complete = short_BK.shape[1] == scaled_BV.shape[1]
    # Without a limit the set is everything; how sums round must not decide whether the
    # shortlist, which is drawn from in another order, is taken for it.
    limited = (sampling.top_p < 1) | (sampling.top_k > 0)
    # Equal to the last of the shortlist: the set, or its ties, may go on beyond it.
    return border_B, (limited & (border_B > short_BK[:, -1])) | complete


def _full_border(
    scaled_BV: jax.Array, short_BK: jax.Array, sampling: Sampling
) -> jax.Array:
    """The least kept value of each row, exactly, without the shortlist's help."""
    top_k_B = _top_k_border(short_BK, sampling)

    def nucleus() -> jax.Array:
        return _bisected_border(
            scaled_BV, _weights(scaled_BV, top_k_B, short_BK[:, :1]), sampling.top_p
        )

    return jax.lax.cond(sampling.top_p >= 1, lambda: top_k_B, nucleus)


def _bisected_border(
    scaled_BV: jax.Array, weights_BV: jax.Array, top_p: jax.Array
) -> jax.Array:
    """border_B of the nucleus of values with the given weights.

    It is the smallest value t with mass(values > t) < top_p * total. Floats compare
    like integers once the negative half is flipped, so 32 halvings of the integer
    range are exact.
    """
    target_B = top_p * jnp.sum(weights_BV, -1)
    bits_BV = _ordered_bits(jnp.where(weights_BV > 0, scaled_BV, -jnp.inf))

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple:
        low_B, high_B = bounds  # border in (low, high]
        middle_B = (low_B & high_B) + ((low_B ^ high_B) >> 1)
        above_BV = bits_BV > middle_B[:, None]
        mass_B = jnp.sum(jnp.where(above_BV, weights_BV, 0.0), -1)
        small_B = mass_B < target_B
        return jnp.where(small_B, low_B, middle_B), jnp.where(small_B, middle_B, high_B)

    lowest = _ordered_bits(jnp.full(scaled_BV.shape[:1], -jnp.inf, jnp.float32))
    _, border_B = jax.lax.fori_loop(0, 32, halve, (lowest, jnp.max(bits_BV, -1)))
    return _from_ordered_bits(border_B)


def _ordered_bits(x: jax.Array) -> jax.Array:
    """int32 that order as the float32 x do."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)


def _from_ordered_bits(bits: jax.Array) -> jax.Array:
    bits = jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _weights(x_BK: jax.Array, border_B: jax.Array, largest_B1: jax.Array) -> jax.Array:
    """Unnormalised probabilities of the values at or above the border, 0 elsewhere."""
    return jnp.where(x_BK >= border_B[:, None], jnp.exp(x_BK - largest_B1), 0.0)


def _draw(weights_BK: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """index_B by inverse cumulative weight; never an index of weight 0."""
    cumulative_BK = jnp.cumsum(weights_BK, -1)
    total_B = cumulative_BK[:, -1]
    # u * total can round up to total, beyond which nothing lies.
    target_B = jnp.minimum(uniform_B * total_B, jnp.nextafter(total_B, 0.0))
    return jnp.argmax(cumulative_BK > target_B[:, None], -1)


def _draw_blocked(weights_BV: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """`_draw` over a vocabulary: first a block of 128 tokens, then one of it.

    The uniform's place inside the chosen block is uniform again, so one is enough.
    """
    B, V = weights_BV.shape
    blocks = -(-V // 128)
    padded_BV = jnp.pad(weights_BV, ((0, 0), (0, blocks * 128 - V)))
    weights_BLK = padded_BV.reshape(B, blocks, 128)
    mass_BL = jnp.sum(weights_BLK, -1)
    block_B = _draw(mass_BL, uniform_B)
    cumulative_BL = jnp.cumsum(mass_BL, -1)

    def of_block(x_BL: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x_BL, block_B[:, None], 1)[:, 0]

    before_B = of_block(cumulative_BL) - of_block(mass_BL)
    inside_B = (uniform_B * cumulative_BL[:, -1] - before_B) / of_block(mass_BL)
    weights_BK = jnp.take_along_axis(weights_BLK, block_B[:, None, None], 1)[:, 0]
    within_B = _draw(weights_BK, jnp.clip(inside_B, 0.0, 1.0))
    return (block_B * 128 + within_B).astype(jnp.int32)
