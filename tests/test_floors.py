"""The house: a file imports from its own folder and floors below, never upwards."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jax_switchgen"
FLOORS = [
    {"planning"},
    {"training", "evaluation"},
    {"rollouts", "policies"},
    {"generation"},
    {"tasks", "checkpoints", "decoding"},
    {"models"},
]
FILES = sorted(PACKAGE.rglob("*.py"))


def floor_of(folder: str) -> int:
    return next(i for i, floor in enumerate(FLOORS) if folder in floor)


def imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
    own = path.relative_to(PACKAGE).parts
    for name in imported(path):
        parts = name.split(".")
        assert parts[0] not in ("launch", "configs"), f"{path} imports {name}"
        assert parts[:2] != ["absl", "flags"] and name != "absl", f"{path}: {name}"
        if parts[0] == "jax_switchgen" and len(own) > 1 and parts[1] != own[0]:
            assert floor_of(parts[1]) > floor_of(own[0]), f"{path} imports {name}"


def test_nothing_runs_on_import():
    """No backend is started and no jax setting changed by importing the package."""
    modules = [
        "jax_switchgen." + ".".join(p.relative_to(PACKAGE).with_suffix("").parts)
        for p in FILES
        if p.name != "__init__.py"
    ]
    program = (
        "import jax, importlib\n"
        "before = dict(jax.config.values)\n"
        f"for m in {modules!r}: importlib.import_module(m)\n"
        "assert dict(jax.config.values) == before\n"
        "assert not jax._src.xla_bridge._backends, 'a backend was started'\n"
    )
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", program], check=True, env=env, timeout=120)
