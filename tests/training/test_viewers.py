"""What viewers are told is what the metrics say."""

import sys
import types

from jax_switchgen.training.viewers import Viewers

LINES = [
    (3, {"loss": 0.5, "accuracy": 1.0}),
    (3, {"held_out": {"regret": 0.1, "ece": None}}),
]
FLAT = [
    (3, {"loss": 0.5, "accuracy": 1.0}),
    (3, {"held_out/regret": 0.1}),
]


class Recorder:
    """Stands for a package: notes every call."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*values, **named):
            self.calls.append((name, values, named))
            return self

        return call


def test_numbers_are_shown_by_step(monkeypatch, tmp_path):
    """Inner names with a slash, and nothing for what was not measured; a resumed run
    hides what comes after its first step, and is the same run."""
    board, wandb = Recorder(), Recorder()
    monkeypatch.setitem(sys.modules, "tensorboardX", board)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for _ in range(2):
        with Viewers(("tensorboard", "wandb"), tmp_path, 2) as viewers:
            for step, values in LINES:
                viewers.write(step, values)
    opened, *scalars, closed = board.calls[: len(board.calls) // 2]
    folder = str(tmp_path / "tensorboard")
    assert opened == ("SummaryWriter", (folder,), {"purge_step": 2})
    expected = [(name, v, step) for step, flat in FLAT for name, v in flat.items()]
    assert [values for _, values, _ in scalars] == expected and closed[0] == "close"
    starts = [named for name, _, named in wandb.calls if name == "init"]
    assert starts[0] == starts[1] and starts[0]["resume"] == "allow"
    logged = [(named["step"], v[0]) for name, v, named in wandb.calls if name == "log"]
    assert logged == FLAT * 2 and wandb.calls[-1][0] == "finish"


def test_no_viewer_needs_no_package(monkeypatch, tmp_path):
    for name in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    with Viewers((), tmp_path, 0) as viewers:
        viewers.write(1, {"loss": 0.5})
    assert not list(tmp_path.iterdir())
