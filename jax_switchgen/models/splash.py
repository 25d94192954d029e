"""Causal attention of whole rows by splash attention, jax's Pallas kernel for TPU.

Blocks of scores are made and used on the chip (Dao et al. 2022, arXiv 2205.14135), and
those that a causal mask hides are not made. The plain path writes all scores to HBM, up
to four fifths of what an update of training moves there (docs/tpu.md).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernel,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as causal,
)

from jax_switchgen.models.attention import KeysValues
from jax_switchgen.models.config import ModelConfig

_LANES = 128  # of a vector register: rows are filled up to a multiple
_BLOCKS = (512, 256, 128)  # tokens of a block, the first that divides a row


def sees_all_before(c: ModelConfig, T: int) -> bool:
    """Whether each of T tokens sees all before it, in every layer: what the kernel here
    computes."""
    window = c.sliding_window if any(c.local_layers) else None
    return window is None or window >= T


def splash_attention(
    c: ModelConfig,
    q_BNTH: jax.Array,
    parts: Sequence[KeysValues],
    masks: Sequence[jax.Array],
    *,
    interpret: bool = False,
) -> jax.Array:
    """x_BTO, as `attention` without a past and with a causal mask.

    Args:
      masks: not read.
      interpret: runs the kernel step by step, on any device; for tests.
    """
    ((k_BKTH, v_BKTH),) = parts
    B, N, T, H = q_BNTH.shape
    S, block = _blocks(T)
    # The fill comes after all tokens, which therefore do not see it.
    fill = ((0, 0), (0, 0), (0, S - T), (0, 0))
    q_BNSH = jnp.pad((c.query_scale * q_BNTH).astype(q_BNTH.dtype), fill)
    # The kernel adds ints to floats, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        attend = kernel.make_splash_mha(
            causal.MultiHeadMask([causal.CausalMask((S, S))] * N),
            block_sizes=kernel.BlockSizes(
                *(block, block, block),
                *(block, block, block),
                *(block, block),
            ),
            head_shards=1,
            q_seq_shards=1,
            attn_logits_soft_cap=c.attn_softcap,
            interpret=interpret,
        )
        x_BNSH = jax.vmap(attend)(q_BNSH, jnp.pad(k_BKTH, fill), jnp.pad(v_BKTH, fill))
    return x_BNSH[:, :, :T].swapaxes(1, 2).reshape(B, T, N * H)


def product_flops(T: int, head_dim: int) -> int:
    """FLOPs of one product of a head's T queries with as many keys or values: of the
    blocks that the kernel does not leave out. It has 2 forward and 7 backward."""
    S, block = _blocks(T)
    count = S // block
    return count * (count + 1) // 2 * 2 * block**2 * head_dim


def _blocks(T: int) -> tuple[int, int]:
    """Tokens that a row of T is filled up to, and those of a block."""
    S = -(-T // _LANES) * _LANES
    return S, next(size for size in _BLOCKS if S % size == 0)
