"""Every option is checked, in one line that names it."""

import dataclasses

import pytest

from jax_switchgen.models.splash import splash_attention
from jax_switchgen.training.options import VIEWERS
from jax_switchgen.training.placement import make_mesh
from jax_switchgen.training.step import kernel_on
from tests import tiny
from tests.hf_models import one_line_error
from tests.training import synthetic


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rollouts": ()}, "rollouts is empty"),
        ({"output": ""}, "output is empty"),
        ({"weights": (1.0, 2.0), "tasks": ("a",)}, "2 entries for 1 of training.tasks"),
        ({"weights": (0.0,), "tasks": ("a",)}, "weights=(0.0,) must be above 0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"warmup": 1.0}, "warmup=1.0 must be 0 or more, and below 1"),
        ({"batch_size": 0}, "batch_size=0 must be 1 or more"),
        ({"accumulation": 3}, "no multiple of training.accumulation=3"),
        ({"accumulation": 0}, "accumulation=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"attention": "flash"}, "attention='flash' must be one of plain, splash"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"lora_rank": -1}, "lora_rank=-1 must be 0 (all parameters) or more"),
        ({"lora_alpha": 0.0}, "lora_alpha=0.0"),
        ({"viewers": ("tensorbord",)}, "some of tensorboard, wandb"),
        ({"lora_targets": ("q", "query")}, "some of q, k, v, o, gate, up, down"),
        ({"lora_targets": ()}, "lora_targets=()"),
        ({"soft_labels": 0.0}, "soft_labels=0.0 must be above 0, or None"),
        ({"held_out": -0.1}, "held_out=-0.1"),
        ({"eval_every": 0}, "eval_every=0"),
        ({"checkpoint_every": 0}, "checkpoint_every=0"),
        ({"keep": 1}, "keep=1 must be 2 or more"),
        ({"seed": -1}, "seed=-1"),
        ({"compute_dtype": "float16"}, "one of float32, bfloat16"),
        ({"max_length": 0}, "max_length=0"),
        ({"fsdp": 0}, "fsdp=0"),
        ({"tensor": 0}, "tensor=0"),
    ],
)
def test_a_bad_value_is_one_line(changes, words):
    with pytest.raises(ValueError) as error:
        synthetic.options(**changes)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_viewer_without_its_package_is_one_line(monkeypatch):
    """Before any model is loaded."""
    monkeypatch.setitem(VIEWERS, "wandb", "no_such_package")
    with one_line_error("wandb needs a package", "pip install no_such_package"):
        synthetic.options(viewers=("wandb",))


def test_where_the_kernel_is_used():
    """Where it is asked for, on a TPU, for models whose layers all see everything."""
    asked = synthetic.options(attention="splash", max_length=64, tensor=2)
    one_head = dataclasses.replace(tiny.CONFIG, num_kv_heads=1)
    assert kernel_on("tpu", tiny.CONFIG, asked) is splash_attention
    for others in (
        ("cpu", tiny.CONFIG, asked),
        ("gpu", tiny.CONFIG, asked),
        ("tpu", tiny.CONFIG, dataclasses.replace(asked, attention="plain")),
        ("tpu", tiny.WINDOWED, asked),
        ("tpu", one_head, asked),
    ):
        assert kernel_on(*others) is None


def test_devices_and_rows_must_fit():
    with one_line_error("fsdp=3", "tensor=1", "8 devices"):
        make_mesh(3, 1, 8)
    with one_line_error("12 examples", "8 devices", "batch_size / accumulation"):
        make_mesh(2, 1, 12)
    assert dict(make_mesh(2, 2, 12).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
