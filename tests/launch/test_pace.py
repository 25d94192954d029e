"""What is left is foretold from what was done lately."""

import pytest

from launch import pace


def test_the_first_ones_do_not_count_for_long(monkeypatch):
    """The first takes ten minutes, all others one."""
    now = 0.0
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now)
    left = pace.Pace(total=20)
    found = []
    for minutes in [10, *[1] * 19]:
        now += 60 * minutes
        left.passed()
        found.append(left.minutes_left)
    assert found[0] == pytest.approx(190)
    assert found[1:] == pytest.approx([20 - done for done in range(2, 21)])
