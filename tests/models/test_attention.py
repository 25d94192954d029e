"""Law: attention over a past and a buffer is one softmax over the keys of both, and a
past that rows share is as good as one copy for each."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_switchgen.models.attention import attention, attention_masks
from jax_switchgen.models.config import ModelConfig
from tests import tiny

B, T, POSITIONS, BUFFER = 3, 3, 48, 24  # the window of WINDOWED is 16
CAPPED = dataclasses.replace(tiny.WINDOWED, attn_softcap=2.0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def attend(c: ModelConfig, local: bool, q_BNTH, past: list, length_B, recent, offset):
    masks = attention_masks(c, local, [past], length_B, [recent], offset, T)
    return attention(c, q_BNTH, [*past, recent], masks)


def textbook(
    c: ModelConfig, local: bool, q_NTH, at_T, recent: list, past: list, length: int
) -> np.ndarray:
    """x_TO of one row in float64, key by key: recent and past are k_KSH, v_KSH."""
    q_NTH = np.asarray(q_NTH, np.float64)
    N, T, H = q_NTH.shape
    x_TNH = np.zeros((T, N, H))
    for n in range(N):
        group = n // (N // c.num_kv_heads)
        (pk_SH, pv_SH), (rk_SH, rv_SH) = (
            [np.asarray(x_KSH[group], np.float64) for x_KSH in part]
            for part in (past, recent)
        )
        for t, at in enumerate(at_T):
            keys_SH = np.concatenate([pk_SH[:length], rk_SH[: at + 1]])
            values_SH = np.concatenate([pv_SH[:length], rv_SH[: at + 1]])
            if local:
                keys_SH = keys_SH[-c.sliding_window :]
                values_SH = values_SH[-c.sliding_window :]
            scores_S = c.query_scale * keys_SH @ q_NTH[n, t]
            if c.attn_softcap:
                scores_S = c.attn_softcap * np.tanh(scores_S / c.attn_softcap)
            weights_S = np.exp(scores_S - scores_S.max())
            x_TNH[t, n] = weights_S / weights_S.sum() @ values_SH
    return x_TNH.reshape(T, N * H)


def noise(seed: int, *shape: int) -> jax.Array:
    return 3 * jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("local", [False, True], ids=["full", "local"])
@pytest.mark.parametrize("c", [tiny.WINDOWED, CAPPED], ids=["plain", "capped"])
@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(0, POSITIONS), min_size=B, max_size=B),
    offset=st.integers(0, BUFFER - T),
)
def test_attention_is_one_softmax(c, local, lengths, offset):
    """With rows of any lengths; what lies behind a row's end is not seen."""
    K, H, N = c.num_kv_heads, c.head_dim, c.num_heads
    past = (noise(0, B, K, POSITIONS, H), noise(1, B, K, POSITIONS, H))
    recent = (noise(2, B, K, BUFFER, H), noise(3, B, K, BUFFER, H))
    q_BNTH = noise(4, B, N, T, H)
    found_BTO = attend(c, local, q_BNTH, [past], jnp.asarray(lengths), recent, offset)
    at_T = range(offset, offset + T)
    for b, length in enumerate(lengths):
        expected_TO = textbook(
            *(c, local, q_BNTH[b], at_T),
            *([x[b] for x in recent], [x[b] for x in past], length),
        )
        np.testing.assert_allclose(found_BTO[b], expected_TO, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("local", [False, True], ids=["full", "local"])
@pytest.mark.parametrize("shared", [1, 12, 40])
@settings(max_examples=5)
@given(
    more=st.lists(st.integers(0, POSITIONS), min_size=B, max_size=B),
    offset=st.integers(0, BUFFER - T),
)
def test_a_shared_past_is_as_good_as_copies(local, shared, more, offset):
    c = CAPPED
    K, H = c.num_kv_heads, c.head_dim
    own = (noise(0, B, K, POSITIONS, H), noise(1, B, K, POSITIONS, H))
    one = (noise(2, 1, K, shared, H), noise(3, 1, K, shared, H))
    recent = (noise(4, B, K, BUFFER, H), noise(5, B, K, BUFFER, H))
    q_BNTH = noise(6, B, c.num_heads, T, H)
    length_B = shared + jnp.asarray(more)
    whole = tuple(
        jnp.concatenate([jnp.repeat(x_1KSH, B, 0), x_BKSH], 2)
        for x_1KSH, x_BKSH in zip(one, own, strict=True)
    )
    np.testing.assert_allclose(
        attend(c, local, q_BNTH, [one, own], length_B, recent, offset),
        attend(c, local, q_BNTH, [whole], length_B, recent, offset),
        **{"rtol": 1e-4, "atol": 1e-4},
    )
