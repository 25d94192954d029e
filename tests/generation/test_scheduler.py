"""Scheduling fills passes and starves nobody."""

from hypothesis import given
from hypothesis import strategies as st

from jax_switchgen.generation.buckets import batch_buckets, cache_length_for
from jax_switchgen.generation.cached_model import common_prefix
from jax_switchgen.generation.scheduler import Scheduler


def test_the_longest_queue_goes_first_and_oldest_rows_lead():
    scheduler: Scheduler[str] = Scheduler(num_slots=8, num_speakers=3, batch_size=2)
    for speaker, item in [(0, "a"), (1, "b"), (1, "c"), (2, "d"), (1, "e")]:
        scheduler.decided(speaker, item)
    assert scheduler.has_full_pass([0, 1, 2]) and not scheduler.has_full_pass([0, 2])
    assert scheduler.next_pass([2]) == (2, ["d"])
    assert scheduler.next_pass([0, 1, 2]) == (1, ["b", "c"])
    assert not scheduler.has_full_pass([0, 1, 2])
    passes = [scheduler.next_pass([0, 1, 2]) for _ in range(2)]
    assert sorted(p for p in passes if p) == [(0, ["a"]), (1, ["e"])]
    assert scheduler.next_pass([0, 1, 2]) is None
    assert scheduler.is_idle


@given(
    st.lists(st.integers(0, 3), max_size=40),
    st.integers(1, 7),
)
def test_every_row_is_passed_once(speakers, batch_size):
    scheduler: Scheduler[int] = Scheduler(50, 4, batch_size)
    for item, speaker in enumerate(speakers):
        scheduler.decided(speaker, item)
    seen = []
    while work := scheduler.next_pass(range(4)):
        speaker, items = work
        assert 1 <= len(items) <= batch_size
        assert all(speakers[item] == speaker for item in items)
        seen += items
    assert sorted(seen) == list(range(len(speakers)))


def test_slots_are_lent_and_returned():
    scheduler: Scheduler[int] = Scheduler(2, 1, 1)
    first, second = scheduler.take_slot(), scheduler.take_slot()
    assert {first, second} == {0, 1}
    assert scheduler.num_free == 0
    scheduler.release_slot(first)
    assert scheduler.take_slot() == first


@given(st.integers(1, 300))
def test_batch_buckets_cover_every_size(batch_size):
    buckets = batch_buckets(batch_size)
    assert buckets[-1] == batch_size
    assert list(buckets) == sorted(set(buckets))
    assert len(buckets) <= batch_size.bit_length() + 1


@given(st.integers(1, 100_000))
def test_cache_lengths_waste_less_than_half(tokens):
    length = cache_length_for(tokens)
    assert length >= tokens
    assert length % 4 == 0  # windows are whole quarters of it
    assert length <= max(256, tokens * 3 / 2)


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_common_prefix(a, b):
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]
