"""Laws of the sizes that programs are compiled for."""

from hypothesis import given
from hypothesis import strategies as st

from jax_switchgen.generation.buckets import MOST_READ, buckets_for


@given(
    batch_size=st.integers(1, 200),
    segment=st.integers(1, 400),
    count=st.integers(1, 400),
    tokens=st.integers(1, 2 * MOST_READ),
)
def test_a_call_reads_few_tokens_and_little_padding(batch_size, segment, count, tokens):
    """No more than MOST_READ in all but where one row is more; a quarter is padding at
    most, and some row is read."""
    buckets = buckets_for(batch_size, segment)
    rows = buckets.rows_to_read(count, tokens)
    size = buckets.rows(rows)
    assert 1 <= rows <= count
    assert 4 * rows >= 3 * size
    assert size == 1 or size * tokens <= MOST_READ
    assert size in buckets.reads(tokens)
