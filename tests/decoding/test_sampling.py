"""Sampling against a sort of the whole vocabulary in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_switchgen.decoding.sampling import (
    SHORTLIST,
    make_sampling,
    nucleus_mask,
    row_uniforms,
    sample,
)

_sample = jax.jit(sample)
_mask = jax.jit(nucleus_mask)


def nucleus_by_sorting(logits_V, temperature, top_p, top_k):
    """Tokens whose strictly more likely tokens hold less than top_p, in float64."""
    scaled_V = (np.asarray(logits_V) / np.float32(temperature)).astype(np.float32)
    weights_V = np.exp(scaled_V.astype(np.float64) - scaled_V.max())
    if top_k:
        weights_V[scaled_V < np.sort(scaled_V)[-top_k]] = 0
    kept = np.zeros(len(scaled_V), bool)
    for value in np.unique(scaled_V):
        above = weights_V[scaled_V > value].sum() / weights_V.sum()
        kept |= (scaled_V == value) & (above < top_p)
    return kept & (weights_V > 0)


def draws(logits_V, sampling, count):
    """`count` tokens of one row, at evenly spaced uniforms: exact shares, no noise."""
    uniform_B = ((np.arange(count) + 0.5) / count).astype(np.float32)
    rows_BV = np.broadcast_to(logits_V, (count, len(logits_V)))
    return np.asarray(_sample(rows_BV, uniform_B, sampling))


# Values on a coarse grid, so that ties at the border are common.
grid_logits = st.lists(
    st.integers(-12, 12).map(lambda i: i / 4), min_size=2, max_size=40
)


@settings(max_examples=60)
@given(
    values=grid_logits,
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 0.99, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 20]),
)
def test_draws_come_from_the_nucleus_and_reach_all_of_it(
    values, temperature, top_p, top_k
):
    logits_V = np.full(64, -np.inf, np.float32)
    logits_V[: len(values)] = values
    top_k = min(top_k, len(values))
    sampling = make_sampling(temperature, top_p, top_k)
    kept_V = nucleus_by_sorting(logits_V[: len(values)], temperature, top_p, top_k)
    expected = set(np.flatnonzero(kept_V))
    # Rounding of the cumulated mass may move a border that is hit exactly.
    weights_V = np.exp(logits_V / temperature)
    order = np.sort(weights_V)[::-1].cumsum() / weights_V.sum()
    if np.abs(order - top_p).min() < 1e-5 and top_p < 1:
        return
    assert set(draws(logits_V, sampling, 4096)) <= expected
    mask_V = np.asarray(_mask(jnp.asarray(logits_V)[None], sampling))[0]
    assert set(np.flatnonzero(mask_V)) == expected


@pytest.mark.parametrize("top_p", [0.5, 0.95, 1.0])
@pytest.mark.parametrize("spread", [0.1, 3.0], ids=["flat", "peaked"])
def test_shares_are_the_probabilities(top_p, spread):
    """Flat logits need the long way (more than the shortlist), peaked ones do not."""
    rng = np.random.default_rng(0)
    logits_V = (spread * rng.standard_normal(600)).astype(np.float32)
    kept_V = nucleus_by_sorting(logits_V, 1.0, top_p, 0)
    assert (kept_V.sum() > SHORTLIST) == (spread == 0.1 or top_p == 1.0)
    p_V = np.where(kept_V, np.exp(logits_V.astype(np.float64)), 0)
    p_V /= p_V.sum()
    count = 6000
    shares_V = np.bincount(
        draws(logits_V, make_sampling(1.0, top_p), count), minlength=600
    )
    assert set(np.flatnonzero(shares_V)) <= set(np.flatnonzero(kept_V))
    # Evenly spaced uniforms: each token's count is exact but for its two ends.
    np.testing.assert_allclose(shares_V / count, p_V, atol=3 / count)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    """A peaked row beside a flat one, which sends the batch the long way."""
    rng = np.random.default_rng(1)
    peaked_V = 4 * rng.standard_normal(1000).astype(np.float32)
    flat_V = np.zeros(1000, np.float32)
    sampling = make_sampling(0.7, 0.9)
    for u in np.linspace(0.01, 0.99, 25, dtype=np.float32):
        alone = _sample(jnp.asarray([peaked_V]), jnp.asarray([u]), sampling)
        beside = _sample(jnp.asarray([peaked_V, flat_V]), jnp.asarray([u, u]), sampling)
        assert int(alone[0]) == int(beside[0])


@pytest.mark.parametrize("top_p, top_k", [(1.0, 0), (0.999, 0), (1.0, 200)])
def test_a_row_is_the_same_alone_and_in_a_batch(top_p, top_k):
    """Sums of a row round differently in other batches; what is drawn may not hang on
    it. Most of these rows have all but 1e-6 of their mass in the shortlist."""
    logits_BV = 3 * jax.random.normal(jax.random.key(0), (64, 272))
    uniform_B = jax.random.uniform(jax.random.key(1), (64,))
    sampling = make_sampling(0.9, top_p, top_k)
    together_B = _sample(logits_BV, uniform_B, sampling)
    alone_B = [
        int(_sample(logits_BV[i : i + 1], uniform_B[i : i + 1], sampling)[0])
        for i in range(64)
    ]
    assert together_B.tolist() == alone_B


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(np.float32(1), np.float32(0))])
def test_the_ends_of_the_unit_interval_draw_real_tokens(uniform):
    logits_V = np.full(700, -np.inf, np.float32)
    logits_V[100:400] = 0.0
    for top_p in (0.9, 1.0):
        token = _sample(
            jnp.asarray([logits_V]),
            jnp.asarray([uniform], jnp.float32),
            make_sampling(1.0, top_p),
        )
        assert 100 <= int(token[0]) < 400


def test_greedy_takes_the_first_of_equals():
    logits_BV = jnp.asarray([[0.0, 2.0, 2.0, 1.0]])
    assert int(_sample(logits_BV, jnp.zeros(1), make_sampling(0.0))[0]) == 1


def test_uniforms_belong_to_seed_request_and_position():
    def draw(seed, request, position):
        return row_uniforms(
            jnp.uint32(seed),
            jnp.asarray(request, jnp.uint32),
            jnp.asarray(position, jnp.int32),
        )

    base = draw(0, [5, 6, 5], [0, 0, 1])
    assert len(set(base.tolist())) == 3
    assert draw(0, [6], [0])[0] == base[1]
    assert draw(1, [5], [0])[0] != base[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((-1.0,), "temperature=-1"), ((1.0, 0.0), "top_p=0"), ((1.0, 1.0, 999), "256")],
)
def test_numbers_out_of_range_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        make_sampling(*arguments)


def test_the_vocabulary_is_never_sorted():
    """XLA's CPU compiler turns a top_k whose result is sliced again into a sort, which
    takes 10 to 60 times as long."""
    logits_BV = jnp.zeros((4, 5000))
    program = jax.jit(sample).lower(logits_BV, jnp.zeros(4), make_sampling(0.7, 0.9))
    compiled = program.compile().as_text()
    assert "TopK" in compiled and " sort(" not in compiled
