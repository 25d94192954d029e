"""Scheduling fills passes and starves nobody."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_switchgen.generation.buckets import batch_buckets, cache_length_for
from jax_switchgen.generation.cached_model import common_prefix
from jax_switchgen.generation.scheduler import Scheduler


def test_full_passes_go_first_and_oldest_rows_lead():
    scheduler: Scheduler[str] = Scheduler(num_slots=8, num_speakers=3, batch_size=2)
    for speaker, item in [(0, "a"), (1, "b"), (1, "c"), (2, "d"), (1, "e")]:
        scheduler.decided(speaker, item, left=1 if speaker == 1 else 9)
    assert scheduler.has_full_pass([0, 1, 2]) and not scheduler.has_full_pass([0, 2])
    assert scheduler.next_pass([2]) == (2, ["d"])
    assert scheduler.next_pass([0, 1, 2]) == (1, ["b", "c"])
    assert not scheduler.has_full_pass([0, 1, 2])
    passes = [scheduler.next_pass([0, 1, 2]) for _ in range(2)]
    assert passes == [(0, ["a"]), (1, ["e"])]
    assert scheduler.next_pass([0, 1, 2]) is None
    assert scheduler.is_idle


def test_without_a_full_pass_rows_that_are_behind_go_before_more_rows():
    scheduler: Scheduler[str] = Scheduler(num_slots=8, num_speakers=2, batch_size=4)
    for speaker, item, left in [(0, "a", 2), (0, "b", 2), (0, "c", 1), (1, "d", 4)]:
        scheduler.decided(speaker, item, left)
    assert scheduler.next_pass([0, 1]) == (1, ["d"])
    assert scheduler.next_pass([0, 1]) == (0, ["a", "b", "c"])


def num_passes(speakers_RS: np.ndarray, batch_size: int) -> int:
    """That R requests of S segments take, if all are in flight from the start."""
    num_requests, num_segments = speakers_RS.shape
    scheduler: Scheduler[int] = Scheduler(num_requests, 3, batch_size)
    written = [0] * num_requests

    def wait(request: int) -> None:
        at = written[request]
        if at < num_segments:
            speaker = int(speakers_RS[request, at])
            scheduler.decided(speaker, request, num_segments - at)

    for request in range(num_requests):
        wait(request)
    count = 0
    while work := scheduler.next_pass(range(3)):
        count += 1
        for request in work[1]:
            written[request] += 1
            wait(request)
    assert written == [num_segments] * num_requests
    return count


@pytest.mark.parametrize(("segments", "most"), [(8, 17.6), (16, 33.2)])
def test_responses_end_in_few_passes(segments, most):
    """The most waiting rows first takes 18.2 and 34.3 passes."""
    rng = np.random.default_rng(0)
    counts = [num_passes(rng.integers(3, size=(8, segments)), 8) for _ in range(500)]
    assert np.mean(counts) < most


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=40),
    st.integers(1, 7),
)
def test_every_row_is_passed_once(waiting, batch_size):
    scheduler: Scheduler[int] = Scheduler(50, 4, batch_size)
    for item, (speaker, left) in enumerate(waiting):
        scheduler.decided(speaker, item, left)
    seen = []
    while work := scheduler.next_pass(range(4)):
        speaker, items = work
        assert 1 <= len(items) <= batch_size
        assert all(waiting[item][0] == speaker for item in items)
        seen += items
    assert sorted(seen) == list(range(len(waiting)))


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
