"""A text's vector is the mean of its own tokens' states, whatever lies beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_switchgen.decoding.embedding import mean_states
from jax_switchgen.generation.embeddings import embed
from jax_switchgen.models.transformer import uncached_hidden
from tests import tiny

TEXTS = [
    "a",
    "It will rain tomorrow.",
    "été 🦜",
    "x" * 300,
    "Rain is likely, they say.",
]


def alone(speaker, text):
    """The mean over one text without any padding, in numpy."""
    ids = [tiny.STOP, *speaker.vocabulary.encode(text)]
    x_1TD = jax.jit(uncached_hidden)(speaker.model, jnp.array([ids], jnp.int32))
    # The first token only begins the document.
    return np.asarray(x_1TD)[0, 1:].mean(0)


@pytest.mark.parametrize("config", [tiny.CONFIG, tiny.WINDOWED], ids=["full", "window"])
def test_the_mean_leaves_padding_and_the_beginning_out(config):
    speaker = tiny.speaker("encoder", tiny.random_model(0, config))
    found_ID = embed(speaker, TEXTS)
    assert found_ID.dtype == np.float32 and found_ID.shape == (5, config.embed_dim)
    for text, found_D in zip(TEXTS, found_ID, strict=True):
        assert found_D == pytest.approx(alone(speaker, text), abs=2e-5)


def test_neither_neighbours_nor_batches_nor_order_matter():
    speaker = tiny.speaker("encoder", tiny.random_model(0))
    together_ID = embed(speaker, TEXTS)
    one_by_one_ID = embed(speaker, TEXTS, batch_tokens=1)
    assert together_ID == pytest.approx(one_by_one_ID, abs=2e-5)
    assert embed(speaker, TEXTS[::-1]) == pytest.approx(together_ID[::-1], abs=2e-5)
    assert np.linalg.norm(together_ID[1] - together_ID[4]) > 0.1


def test_an_empty_text_is_0_and_one_beyond_the_positions_is_cut():
    speaker = tiny.speaker("encoder", tiny.random_model(0))
    limit = tiny.CONFIG.max_positions
    found_ID = embed(speaker, ["", "y" * (limit - 1), "y" * 2 * limit])
    assert not found_ID[0].any()
    assert found_ID[1] == pytest.approx(found_ID[2])
    assert embed(speaker, []).shape == (0, tiny.CONFIG.embed_dim)


def test_many_lengths_share_few_programs():
    speaker = tiny.speaker("encoder", tiny.random_model(0))
    before = mean_states._cache_size()
    embed(speaker, ["z" * length for length in range(1, 250, 3)])
    # 83 texts of up to 256 tokens, 32 in a batch: at most 32, 16, 4 and their like.
    assert mean_states._cache_size() - before <= 4
