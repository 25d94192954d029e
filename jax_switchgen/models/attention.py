"""Grouped-query attention over a read-only past and a buffer of recent keys."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jax_switchgen.models.config import ModelConfig
from jax_switchgen.models.matmul import times_transposed

# k_BKSH and v_BKSH of one layer; or k_1KSH and v_1KSH, which every row sees.
KeysValues = tuple[jax.Array, jax.Array]
# `attention`, or what computes the same.
Attend = Callable[
    [ModelConfig, jax.Array, Sequence[KeysValues], Sequence[jax.Array]], jax.Array
]


def attention(
    c: ModelConfig,
    q_BNTH: jax.Array,
    parts: Sequence[KeysValues],
    masks: Sequence[jax.Array],
) -> jax.Array:
    """Grouped-query attention over keys that lie in several arrays, as x_BTO.

    One softmax over all parts, without joining the parts, which would copy the cache
    in every layer and step; and normalised after the sum over values, which is
    narrower than the weights (Dao et al. 2022, section 3.1, without the tiles). What
    all rows share is read once, by the queries of all (Juravsky et al. 2024).
    """
    B, N, T, H = q_BNTH.shape
    K = c.num_kv_heads
    G = N // K
    q_BKMH = q_BNTH.reshape(B, K, G * T, H)  # M: the queries of one kv head
    scores = []
    for (k_BKSH, _), mask_BTS in zip(parts, masks, strict=True):
        s_BKMS = c.query_scale * _scores(q_BKMH, k_BKSH)
        s_BKGTS = softcap(s_BKMS, c.attn_softcap).reshape(B, K, G, T, -1)
        s_BKGTS = jnp.where(mask_BTS[:, None, None], s_BKGTS, -jnp.inf)
        scores.append(s_BKGTS.reshape(s_BKMS.shape))
    # Every query sees itself, so that the maximum is finite.
    peaks = [jnp.max(s_BKMS, -1, keepdims=True) for s_BKMS in scores]
    # It cancels out, and so do its gradients.
    peak_BKM1 = jax.lax.stop_gradient(functools.reduce(jnp.maximum, peaks))
    x_BKMH = jnp.zeros(q_BKMH.shape, jnp.float32)
    total_BKM1 = jnp.zeros_like(peak_BKM1)
    for (_, v_BKSH), s_BKMS in zip(parts, scores, strict=True):
        w_BKMS = jnp.exp(s_BKMS - peak_BKM1)
        total_BKM1 += jnp.sum(w_BKMS, -1, keepdims=True)
        x_BKMH += _weighted(w_BKMS.astype(v_BKSH.dtype), v_BKSH)
    x_BKMH = (x_BKMH / total_BKM1).astype(q_BNTH.dtype)
    return x_BKMH.reshape(B, N, T, H).swapaxes(1, 2).reshape(B, T, N * H)


def _scores(q_BKMH: jax.Array, k_BKSH: jax.Array) -> jax.Array:
    """float32 s_BKMS."""
    if k_BKSH.shape[0] == q_BKMH.shape[0]:
        return times_transposed(q_BKMH, k_BKSH, jnp.float32)
    s_1KRS = times_transposed(_as_one_row(q_BKMH), k_BKSH, jnp.float32)
    return _as_rows(s_1KRS, len(q_BKMH))


def _weighted(w_BKMS: jax.Array, v_BKSH: jax.Array) -> jax.Array:
    """float32 x_BKMH."""
    if v_BKSH.shape[0] == w_BKMS.shape[0]:
        return jnp.matmul(w_BKMS, v_BKSH, preferred_element_type=jnp.float32)
    x_1KRH = jnp.matmul(_as_one_row(w_BKMS), v_BKSH, preferred_element_type=jnp.float32)
    return _as_rows(x_1KRH, len(w_BKMS))


def _as_one_row(x_BKMX: jax.Array) -> jax.Array:
    """x_1KRX, R = B * M."""
    B, K, M, X = x_BKMX.shape
    return x_BKMX.swapaxes(0, 1).reshape(1, K, B * M, X)


def _as_rows(x_1KRX: jax.Array, B: int) -> jax.Array:
    """x_BKMX."""
    _, K, R, X = x_1KRX.shape
    return x_1KRX.reshape(K, B, R // B, X).swapaxes(0, 1)


def attention_masks(
    c: ModelConfig,
    local: bool,
    past: Sequence[Sequence[KeysValues]] | None,
    past_length_B: jax.Array,
    recent: Sequence[KeysValues],
    offset: jax.Array | int,
    T: int,
) -> list[jax.Array]:
    """Which keys a query sees: mask_BTS of each part of the past, and of the recent.

    In recent[j], past_length 3, offset 1, T 2, window None:  q1: j<=1, q2: j<=2.
    A window w hides keys whose position is w or more below the query's.
    """
    query_T = offset + jnp.arange(T)  # positions relative to past_length_B
    recent_S = jnp.arange(recent[0][0].shape[2])
    seen_TS = recent_S[None] <= query_T[:, None]
    window = c.sliding_window if local else None
    if window is not None:
        seen_TS &= query_T[:, None] - recent_S[None] < window
    masks = [seen_TS[None]]
    if past is not None:
        sizes = [k_BKSH.shape[2] for k_BKSH, _ in past[0]]
        past_S = jnp.arange(sum(sizes))
        seen_BTS = (past_S[None] < past_length_B[:, None])[:, None]
        if window is not None:
            query_BT = past_length_B[:, None] + query_T[None]
            seen_BTS = seen_BTS & (query_BT[:, :, None] - past_S[None, None] < window)
        masks = [*jnp.split(seen_BTS, np.cumsum(sizes)[:-1], axis=2), *masks]
    return masks


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
    return x if cap is None else cap * jnp.tanh(x / cap)
