"""x W^T is the same by every path, and few rows leave W untransposed on CPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_switchgen.models.matmul import linear, times_transposed


@settings(max_examples=20)
@given(rows=st.integers(1, 80), out=st.integers(1, 40), inner=st.integers(1, 40))
def test_linear_is_x_times_w_transposed(rows, out, inner):
    rng = np.random.default_rng(rows)
    x_BTI = rng.normal(size=(rows, 1, inner)).astype(np.float32)
    w_OI = rng.normal(size=(out, inner)).astype(np.float32)
    got = linear(jnp.asarray(w_OI), jnp.asarray(x_BTI))
    np.testing.assert_allclose(got, x_BTI @ w_OI.T, rtol=1e-4, atol=1e-4)


def test_leading_axes_and_result_type():
    q = jax.random.normal(jax.random.key(0), (2, 3, 4, 8), jnp.bfloat16)
    k = jax.random.normal(jax.random.key(1), (2, 3, 16, 8), jnp.bfloat16)
    got = times_transposed(q, k, jnp.float32)
    want = np.einsum("abmi,aboi->abmo", np.float32(q), np.float32(k))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 8, 64, 128])
def test_weights_are_the_left_operand_for_few_rows(rows):
    """As the right operand XLA's CPU library transposes them in memory at each call."""
    w_OI, x_BTI = jnp.ones((96, 64)), jnp.ones((rows, 1, 64))
    text = jax.jit(linear).lower(w_OI, x_BTI).compile().as_text()
    (shape,) = re.findall(r"= f32\[([\d,]+)\]\S* dot\(", text)
    assert shape == (f"96,{rows}" if rows <= 64 else f"{rows},96"), text
