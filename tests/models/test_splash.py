"""Law: the kernel is plain attention over whole rows, and so are its gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_switchgen.models.attention import attention, attention_masks
from jax_switchgen.models.splash import sees_all_before, splash_attention
from tests import tiny

CONFIGS = {
    "grouped": tiny.CONFIG,
    "one kv head": dataclasses.replace(tiny.CONFIG, num_kv_heads=1),
    "capped": dataclasses.replace(tiny.CONFIG, attn_softcap=2.0),
    "wide": dataclasses.replace(tiny.CONFIG, head_dim=160, query_scale=0.05),
}


def arrays(c, T, B=2):
    """q_BNTH, k_BKTH, v_BKTH and the weights of a sum over x_BTO."""
    rng = np.random.default_rng(T)
    heads = (c.num_heads, c.num_kv_heads, c.num_kv_heads)
    shapes = [(B, n, T, c.head_dim) for n in heads]
    shapes.append((B, T, c.num_heads * c.head_dim))
    return [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes]


@pytest.mark.parametrize("T", [3, 128, 200, 640])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_kernel_is_attention(name, T):
    """Rows of less than a block, of one, and of several."""
    c = CONFIGS[name]
    *qkv, w_BTO = arrays(c, T)

    def both(attend, q, k, v):
        masks = attention_masks(c, False, None, jnp.zeros(2, int), [(k, v)], 0, T)
        x_BTO = attend(c, q, [(k, v)], masks)
        return jnp.sum(x_BTO * w_BTO), x_BTO

    def run(attend):
        of_all = functools.partial(both, attend)
        return jax.jit(jax.value_and_grad(of_all, (0, 1, 2), has_aux=True))(*qkv)

    found = run(functools.partial(splash_attention, interpret=True))
    for x, y in zip(*map(jax.tree.leaves, (found, run(attention))), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4 * np.abs(y).max())


def test_a_window_is_seen():
    """The kernel has none, so that a model with windows is none of its own."""
    window = tiny.WINDOWED.sliding_window
    assert sees_all_before(tiny.CONFIG, 4096)
    assert sees_all_before(tiny.WINDOWED, window)
    assert not sees_all_before(tiny.WINDOWED, window + 1)
