"""Programs work on the cache in place."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_switchgen.decoding import programs
from jax_switchgen.models.cache import empty_cache
from tests import tiny


@pytest.mark.parametrize("name", ["prefill", "choice_probs"])
def test_reading_a_chunk_does_not_copy_the_cache(name):
    """Without a loop around the layers, XLA copied all of them but the last."""
    model = tiny.random_model(0)
    cache = empty_cache(tiny.CONFIG, 64, 4096, jnp.dtype("float32"))
    row_B = jnp.zeros(1, jnp.int32)
    chunk = programs.Chunk(row_B, jnp.zeros((1, 128), jnp.int32), row_B, row_B + 1)
    labels = () if name == "prefill" else (np.arange(3, dtype=np.int32),)
    program = getattr(programs, name)
    lowered = program.lower(model, None, cache, chunk, *labels, window=256)
    memory = lowered.compile().memory_analysis()
    assert memory.alias_size_in_bytes == cache.nbytes
    assert memory.temp_size_in_bytes < cache.nbytes / 8
