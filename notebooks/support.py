"""What both notebooks do before they begin: which machine this is, and launchers."""

import os
import subprocess
import sys
from pathlib import Path

DEMO, ACCELERATOR = "configs/demo.py", "configs/colab_tpu.py"


def find_backend() -> str:
    """ "tpu", "gpu" or "cpu", asked in a process of its own: a TPU belongs to the first
    process that looks at it, until that process ends."""
    program = "import jax; print(jax.default_backend())"
    asked = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return asked.stdout.split()[-1]


def choose_config(config: str | None, backend: str) -> str:
    """The config of this machine, unless one is named; says which, and why."""
    if config is not None:
        print(f"Backend: {backend}. The pool is the one you named: {config}.")
        return config
    if backend == "cpu":
        print(
            f"Backend: cpu. No TPU was found, so this runs on CPU with {DEMO}: demo "
            "weights, two small models of two families (SmolLM2 135M Instruct and "
            "Gemma 3 270M, 4-bit files), not checkpoints of one pipeline. Everything "
            "works as on a TPU; the texts are poor, and it takes minutes."
        )
        return DEMO
    print(f"Backend: {backend}. The pool is {ACCELERATOR}.")
    return ACCELERATOR


def launch(name: str, *flags: str, **environment: str) -> None:
    """Runs `launch/NAME.py` in a process of its own and shows what it says.

    Raises:
      RuntimeError: it failed; its last line says why.
    """
    print("$ python", f"launch/{name}.py", *flags[:1], "…" if flags[1:] else "")
    command = [sys.executable, str(Path("launch", f"{name}.py")), *flags]
    last = ""
    with subprocess.Popen(
        command,
        # Notebooks say that they are terminals; lines of progress would repeat.
        env=os.environ | {"FORCE_COLOR": "", "PYTHONUNBUFFERED": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None, "it is a pipe"
        for line in process.stdout:
            print(line, end="")
            last = line.strip() or last
    if process.returncode:
        raise RuntimeError(f"launch/{name}.py: {last}")
