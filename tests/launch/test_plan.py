"""Laws of launch/plan.py, and full-size models compiled for the chips of TPUs.

The TPU's compiler runs here, on a machine that has no TPU.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
HANGS = 3600  # seconds; on a busy machine one program of 8B takes ten minutes


@pytest.fixture
def plan(launch, tmp_path):
    """Runs the launcher: exit code, what it wrote, stderr."""

    def planned(*arguments: str):
        output = tmp_path / "plan.json"
        process = launch.start(*arguments, f"--json={output}", name="plan.py")
        try:
            out, err = process.communicate(timeout=HANGS)
        finally:
            process.kill()
        found = json.loads(output.read_text()) if output.is_file() else None
        return process.returncode, found, out + err

    return planned


# One chip, or every program at once, of a small pool.
SMALL = ("--config.mesh.slice=v5e-1", "--prompt_tokens=64")


@pytest.mark.parametrize(
    ("config", "tensor"),
    [("tpu_v4.py", 4), ("tpu_v5e.py", 8), ("tpu_v6e.py:v6e-4", 4)],
)
def test_a_full_size_pool_decodes_near_the_least_memory_traffic(plan, config, tensor):
    """8B, 32 layers, 3 candidates and a switcher: the decode program compiles for the
    chips, the pool fits, and a step moves at most 1.15 times what it must."""
    code, found, said = plan(f"--config={ROOT}/configs/{config}", "--only=decode")
    assert code == 0, said
    (decode,) = found["phases"]
    assert found["tensor"] == tensor
    assert 1.0 <= decode["hbm_ratio"] <= 1.15
    assert 0.95 <= decode["flops_ratio"] <= 1.15
    # Kernels of 32 layers are called, not repeated; else it has 70 MB of them.
    assert 0 < decode["code_bytes"] < 30e6
    # Of 8.03 billion parameters in 2 bytes, each chip has its part, and no more.
    assert sum(found["params_bytes"].values()) == pytest.approx(
        3 * 16.06e9 / tensor, rel=0.01
    )
    # Two sums over the chips for each layer and one for the embedding; sampling adds
    # a few. Nothing else moves between chips in a step.
    steps = decode["tokens"]
    assert 65 * steps <= decode["collectives"] <= 72 * steps


WITH_TRAINING = """
import runpy

from configs import presets

POOL = {pool!r}


def get_config(variant=""):
    config = runpy.run_path(POOL)["get_config"](variant)
    config.policy.name = "switcher"
    config.training = presets.training(("rollouts.jsonl",), "training")
    config.training.max_length = 128
    config.training.accumulation = 8
    # 64, as for 8B, is wider than the model: the adapter would be most of the work.
    config.training.lora_rank = 1
    return config
"""


def test_a_small_pool_is_planned_with_its_training(plan, pool, tmp_path):
    """All programs, by the names of docs and advice, and what training computes more
    than it must: each block's forward pass twice, and the last block, one of two here,
    at all positions."""
    config = tmp_path / "config.py"
    config.write_text(WITH_TRAINING.format(pool=f"{pool}/config.py"))
    code, found, said = plan(f"--config={config}", *SMALL)
    assert code == 0, said
    assert [phase["name"] for phase in found["phases"]] == [
        *("prefill", "catch-up", "decode segment", "fork (rollouts)"),
        *("switcher probe", "train step"),
    ]
    assert found["fits"]
    # Not of every phase: so small a train step works on the chip alone.
    assert all(phase["argument_bytes"] > 0 for phase in found["phases"])
    assert found["phases"][2]["temp_bytes"] > 0
    assert all((phase["flops_ratio"] or 1) >= 0.95 for phase in found["phases"])
    train = found["phases"][-1]
    assert 2 * 1.2 <= train["flops_ratio"] <= 2 * 2.0
    assert "generation fits" in said and "training fits" in said


def test_a_kernel_keeps_scores_on_the_chip(plan, pool, tmp_path):
    """Those of 32 examples of 1,024 tokens are larger than the chip's own memory. What
    the kernel computes is counted too: 11 products of three quarters of the blocks,
    where the plain path has 8 whole ones."""
    config = tmp_path / "config.py"
    config.write_text(WITH_TRAINING.format(pool=f"{pool}/config.py"))
    trains = []
    for attention in ("plain", "splash"):
        code, found, said = plan(
            *(f"--config={config}", *SMALL, "--only=train"),
            "--config.training.max_length=1024",
            "--config.training.accumulation=1",
            f"--config.training.attention={attention}",
        )
        assert code == 0, said
        trains += found["phases"]
    plain, splash = trains
    assert splash["hbm_bytes"] < plain["hbm_bytes"] / 2
    heads = 32 * tiny.CONFIG.num_heads * tiny.CONFIG.num_layers
    product = 2 * 1024**2 * tiny.CONFIG.head_dim * heads
    added = splash["flops"] - plain["flops"]
    assert added == pytest.approx((11 * 3 / 4 - 8) * product, rel=1e-3)


def test_a_pool_of_two_kinds_is_planned_by_kind(plan, pool):
    """With one candidate in int8: less to hold and to read of that one, and the rate
    is that of both in turn."""
    few = (f"--config={pool}/config.py", *SMALL, "--only=decode")
    int8 = "--config.candidates[0].quantization=int8"
    code, found, said = plan(*few, int8)
    assert code == 0, said
    first, second = found["phases"]
    assert [first["name"], second["name"]] == [
        "decode segment of 0",
        "decode segment of 1",
    ]
    assert first["least_hbm_bytes"] < second["least_hbm_bytes"]
    assert first["argument_bytes"] < second["argument_bytes"]
    quantized, plain = found["params_bytes"].values()
    assert 0.25 < quantized / plain < 0.3  # of float32, with scales and norms
    seconds = (first["seconds_at_peak"] + second["seconds_at_peak"]) / 2
    tokens = first["rows"] * first["tokens"]
    assert found["decode_tokens_per_second"] == pytest.approx(tokens / seconds)
    assert "what was planned of generation fits" in said


def test_advice_is_enough(plan, pool):
    """What does not fit says what would, and that does fit."""
    few = (f"--config={pool}/config.py", *SMALL, "--only=decode")
    much = (
        "--config.generation.in_flight=500000",
        "--config.generation.cache_gib=64.0",
    )
    code, found, _ = plan(*few, *much)
    assert code == 1 and not found["fits"]
    (line,) = [line for line in found["advice"] if "in_flight=" in line]
    slots = line.split("in_flight=")[1].split()[0]
    code, found, said = plan(*few, *much, f"--config.generation.in_flight={slots}")
    assert code == 0 and found["fits"], said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("config.mesh.slice", "--config.mesh.slice=v4-8")),
        (("--config.mesh.slice=v9-8",), ("'v9-8'", "v4")),
        ((*SMALL, "--only=decoding"), ("'decoding'", "'decode segment'", "'prefill'")),
        (
            (*SMALL, "--config.candidates[1].quantization=int4"),
            ("candidates[1].quantization='int4'", "'int8'"),
        ),
        (
            ("--config.mesh.slice=v4-32", "--config.mesh.tensor=8"),
            ("mesh.tensor=8", "4 chips", "v4-32"),
        ),
        (
            ("--config.mesh.slice=v5e-8", "--config.mesh.tensor=8"),
            ("'heads'", "size 4", "'tensor'", "1 or 2 or 4"),
        ),
    ],
)
def test_what_cannot_be_planned_is_one_line(plan, pool, arguments, words):
    code, found, said = plan(f"--config={pool}/config.py", *arguments)
    assert code == 2 and found is None
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert all(word in line for word in words), line


def test_the_compiler_is_asked_for_where_it_is_missing():
    program = (
        "import sys; sys.modules['libtpu'] = None\n"
        "from jax_switchgen.planning.chips import slice_called\n"
        "slice_called('v4-8').devices()"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        timeout=HANGS,
    )
    assert "ValueError" in found.stderr
    assert "pip install -r requirements-plan.txt" in found.stderr
