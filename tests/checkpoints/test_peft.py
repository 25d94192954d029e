"""Laws of adapters: those of PEFT load, ours load in PEFT, with equal logits."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from jax_switchgen.checkpoints.hf import load_transformer
from jax_switchgen.checkpoints.peft import export_lora, load_lora, merge
from jax_switchgen.models.lora import Lora
from tests.hf_models import (
    edit_json,
    make_model,
    one_line_error,
    reference_logits,
    relative_error,
    save_model,
    some_tokens,
)

# peft 0.21 reads a property that transformers 5.23 has renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)

TOKENS = some_tokens(2, 24)
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WEIGHTS = "adapter_model.safetensors"

forward = jax.jit(lambda model, tokens_BT, lora=None: model(tokens_BT, lora))

# How adapters of the field are set up: all layers, few, rsLoRA, patterns.
SETTINGS = {
    "all": {"r": 4, "lora_alpha": 6, "target_modules": ALL},
    "some": {
        "r": 3,
        "lora_alpha": 16,
        "target_modules": ["q_proj", "down_proj"],
        "layers_to_transform": [1],
        "use_rslora": True,
    },
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": r".*\.(q|v|up)_proj",
        "rank_pattern": {r"layers\.0.*q_proj": 2, "up_proj": 6},
        "alpha_pattern": {"model.layers.1.mlp.up_proj": 3},
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model of transformers, and the same one here."""
    folder = save_model(make_model("qwen2"), tmp_path_factory.mktemp("base"))
    return folder, load_transformer(folder, dtype=jnp.float32)


def make_adapter(folder, **settings):
    """Saves a random PEFT adapter of the base; returns its logits in PEFT."""
    torch.manual_seed(1)
    model = peft.get_peft_model(make_model("qwen2"), peft.LoraConfig(**settings))
    for name, weight in model.named_parameters():
        if "lora_" in name:  # B starts at zero, an adapter that does nothing
            weight.data = 0.2 * torch.randn(weight.shape)
    model.save_pretrained(folder)
    return reference_logits(model.eval(), TOKENS)


def adapter_logits(folder):
    """The logits of the base with the adapter in `folder`, by PEFT."""
    model = peft.PeftModel.from_pretrained(make_model("qwen2"), folder)
    return reference_logits(model.eval(), TOKENS)


@pytest.mark.parametrize("name", SETTINGS)
def test_an_adapter_of_peft_computes_the_same_here(base, tmp_path, name):
    """Applied = in PEFT = merged, and far from the base; so is what is exported."""
    _, model = base
    expected = make_adapter(tmp_path / "peft", **SETTINGS[name])
    lora = load_lora(tmp_path / "peft", model.config, jnp.float32)
    plain = np.asarray(forward(model, TOKENS))
    assert relative_error(plain, expected) > 0.01
    assert relative_error(forward(model, TOKENS, lora), expected) < 1e-4
    assert relative_error(forward(merge(model, lora), TOKENS), expected) < 1e-4
    assert np.array_equal(forward(model, TOKENS), plain), "the base is untouched"

    export_lora(lora, tmp_path / "ours", model.config, base="some/base")
    assert relative_error(adapter_logits(tmp_path / "ours"), expected) < 1e-6
    again = load_lora(tmp_path / "ours", model.config, jnp.float32)
    for ours, theirs in zip(again.layers, lora.layers, strict=True):
        assert ours.keys() == theirs.keys()
        for pair, other in zip(ours.values(), theirs.values(), strict=True):
            assert pair.scale == pytest.approx(other.scale, rel=1e-12)
            assert np.array_equal(pair.a_RI, other.a_RI)
            assert np.array_equal(pair.b_OR, other.b_OR)


def test_an_exported_adapter_is_described_shortly(base, tmp_path):
    """As PEFT writes it: module names without layers, no patterns, whole alpha."""
    _, model = base
    make_adapter(tmp_path / "peft", **SETTINGS["all"])
    lora = load_lora(tmp_path / "peft", model.config, jnp.bfloat16)
    export_lora(lora, tmp_path / "ours", model.config, base="some/base")
    theirs, ours = (
        json.loads((tmp_path / f / "adapter_config.json").read_text())
        for f in ("peft", "ours")
    )
    assert sorted(ours["target_modules"]) == sorted(theirs["target_modules"])
    for field in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "bias"):
        assert ours[field] == theirs[field]
    assert ours["base_model_name_or_path"] == "some/base"
    theirs, ours = (load_file(tmp_path / f / WEIGHTS) for f in ("peft", "ours"))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name].to(torch.bfloat16))


def test_a_whole_alpha_stays_whole(tmp_path, base):
    """1 / 49 * 49 is less than 1 in floating point."""
    _, model = base
    make_adapter(tmp_path / "peft", r=49, lora_alpha=1, target_modules=["q_proj"])
    lora = load_lora(tmp_path / "peft", model.config, jnp.float32)
    export_lora(lora, tmp_path / "ours", model.config, base="some/base")
    settings = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert settings["lora_alpha"] == 1


def test_merging_keeps_the_dtype_and_shares_the_rest(base, tmp_path):
    folder, _ = base
    model = load_transformer(folder, dtype=jnp.bfloat16)
    make_adapter(tmp_path, **SETTINGS["some"])
    lora = load_lora(tmp_path, model.config, jnp.bfloat16)
    before, after = model.arrays(), merge(model, lora).arrays()
    changed = {p for p in before if not np.array_equal(before[p], after[p])}
    assert changed == {"layers.1.q", "layers.1.down"}
    assert all(x.dtype == jnp.bfloat16 for x in after.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_dora": True}, ("use_dora=True", "merge")),
        ({"bias": "all"}, ("bias='all'", "'none'")),
        ({"modules_to_save": ["lm_head"]}, ("modules_to_save=['lm_head']", "None")),
        ({"peft_type": "IA3"}, ("peft_type='IA3'", "'LORA'")),
        ({"peft_type": None}, ("peft_type=None", "'LORA'")),
        ({"init_lora_weights": "pissa"}, ("init_lora_weights='pissa'", "True")),
        ({"lora_bias": True}, ("lora_bias=True",)),
        ({"fan_in_fan_out": True}, ("fan_in_fan_out=True",)),
        ({"r": 5}, ("lora_A", "(4, 40)", "(5, 40)")),
    ],
)
def test_settings_that_are_not_supported_are_refused(base, tmp_path, changes, words):
    _, model = base
    make_adapter(tmp_path, **SETTINGS["all"])
    path = tmp_path / "adapter_config.json"
    edit_json(path, **changes)
    with one_line_error(tmp_path, *words):
        load_lora(tmp_path, model.config, jnp.float32)


def test_the_adapter_of_another_model_is_refused(base, tmp_path):
    _, model = base
    folder = save_model(make_model("qwen2", num_hidden_layers=1), tmp_path / "short")
    short = load_transformer(folder, dtype=jnp.float32)
    make_adapter(tmp_path / "peft", **SETTINGS["all"])
    with one_line_error(WEIGHTS, "layers.1", "1 layers"):
        load_lora(tmp_path / "peft", short.config, jnp.float32)
    with one_line_error("2 layers", "1"):
        lora = load_lora(tmp_path / "peft", model.config, jnp.float32)
        export_lora(lora, tmp_path / "export", short.config, base="x")


def test_damaged_adapters_are_named(base, tmp_path):
    _, model = base

    def load():
        return load_lora(tmp_path / "peft", model.config, jnp.float32)

    with one_line_error("peft", "no such folder"):
        load()
    make_adapter(tmp_path / "peft", **SETTINGS["all"])
    weights = tmp_path / "peft" / WEIGHTS
    tensors = load_file(weights)
    head = {"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 40)}
    save_file(tensors | head, weights)
    with one_line_error(weights, "lm_head.lora_A", "self_attn.q_proj"):
        load()
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    save_file({k: x for k, x in tensors.items() if k != name}, weights)
    with one_line_error(weights, "layers.1.mlp.up_proj", "only one"):
        load()
    save_file({}, weights)
    with one_line_error(weights, "no tensors"):
        load()
    weights.unlink()
    with one_line_error(weights, "no such file"):
        load()
    weights.with_suffix(".bin").touch()
    with one_line_error(tmp_path / "peft", ".bin", "PEFT"):
        load()


def test_exports_overwrite_nothing(base, tmp_path):
    _, model = base
    make_adapter(tmp_path / "peft", **SETTINGS["all"])
    lora = load_lora(tmp_path / "peft", model.config, jnp.float32)
    with one_line_error(tmp_path / "peft", "already exists"):
        export_lora(lora, tmp_path / "peft", model.config, base="x")
    with one_line_error("nothing to export"):
        export_lora(Lora(({}, {})), tmp_path / "new", model.config, base="x")
    assert {path.name for path in tmp_path.iterdir()} == {"peft"}
