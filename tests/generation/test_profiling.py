"""The window that is traced, and what is said of it."""

import jax
import pytest

from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.profiling import ProfileOptions, ProfileWindow
from jax_switchgen.policies.simple import Fixed
from tests import tiny


@pytest.fixture
def calls(monkeypatch):
    """What the profiler was asked to do, and when."""
    found = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda f: found.append(f))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: found.append("stop"))
    return found


def run(passes, calls, **options) -> list[str]:
    """Notes each pass beside the profiler's calls; returns what was said."""
    said: list[str] = []
    with ProfileWindow(ProfileOptions(**options), said.append) as window:
        for number in range(passes):
            calls.append(number)
            window.passed()
    return said


@pytest.mark.parametrize(
    ("after", "count", "expected"),
    [
        (0, 1, ["x", 0, "stop", 1, 2, 3]),
        (1, 2, [0, "x", 1, 2, "stop", 3]),
        (2, 9, [0, 1, "x", 2, 3, "stop"]),
    ],
)
def test_only_the_window_is_traced(calls, after, count, expected):
    [said] = run(4, calls, folder="x", after=after, count=count)
    assert calls == expected
    assert said.endswith("xprof --logdir=x --port=8791")
    assert said.startswith(f"{min(count, 4 - after)} passes are traced in x")


def test_a_run_that_is_too_short_says_so(calls):
    assert run(3, calls, folder="x", after=5) == [
        "nothing was traced: the run had 3 passes, and profile.after=5"
    ]
    assert calls == [0, 1, 2]


def test_without_a_folder_nothing_is_traced_nor_said(calls):
    assert run(20, calls) == [] and calls == list(range(20))


@pytest.mark.parametrize(("field", "value"), [("after", -1), ("count", 0)])
def test_a_window_that_is_none_is_refused(field, value):
    with pytest.raises(ValueError, match=f"profile.{field}={value} must be"):
        ProfileOptions(**{field: value})


def test_an_engine_tells_of_each_pass_and_a_trace_can_be_opened(tmp_path):
    """The real profiler: 40 tokens in segments of 8 are five passes."""
    options = tiny.generation(ignore_stop=True)
    engine = Engine([tiny.speaker("p", tiny.random_model(0))], Fixed(0), options)
    said: list[str] = []
    window = ProfileOptions(folder=str(tmp_path), after=3, count=2)
    with ProfileWindow(window, said.append) as opened:
        engine.passed = opened.passed
        engine.generate(["hello"])
    assert said[0].startswith("2 passes are traced")
    assert [path.stat().st_size > 0 for path in tmp_path.rglob("*.xplane.pb")] == [True]
