"""Laws of reading a config.json: every setting is meant or refused."""

import json

import pytest

from jax_switchgen.checkpoints.hf_config import read_config
from jax_switchgen.models.config import NormPlacement, QKNorm, Rope
from tests.hf_models import MODELS, edit_json, make_model, one_line_error, save_model


@pytest.fixture
def folder(tmp_path):
    return save_model(make_model("llama"), tmp_path / "llama")


def test_configs_are_read_as_they_are_meant(tmp_path):
    """Spot checks of what only the class of transformers knows."""
    configs = {
        name: read_config(save_model(make_model(name), tmp_path / name))
        for name in MODELS
    }
    assert configs["llama"].rope.llama3.original_max_positions == 64
    assert configs["llama_tied"].rope == Rope(theta=5000.0, linear_factor=4.0)
    assert configs["llama_tied"].tie_embeddings and not configs["llama"].tie_embeddings
    assert configs["qwen2"].head_dim == 8  # None in the file
    assert configs["qwen2"].qkv_bias and configs["qwen2"].sliding_window is None
    assert configs["qwen2_sliding"].local_layers == (False, True)
    assert configs["mistral"].local_layers == (True, True)
    assert configs["gemma2"].attn_softcap == 2.0
    assert configs["gemma3"].rope == Rope(theta=1e6, linear_factor=8.0)
    assert configs["gemma3"].rope_local == Rope(theta=1e4)
    assert configs["gemma3"].query_scale == 20**-0.5
    assert configs["olmo2"].norm_placement is NormPlacement.POST
    assert configs["olmo2"].qk_norm is QKNorm.ALL


def test_an_older_spelling_of_rope_is_read(folder):
    """Files from before transformers 5 have rope_theta and rope_scaling outside."""
    expected = read_config(folder)
    path = folder / "config.json"
    content = json.loads(path.read_text())
    rope = content.pop("rope_parameters")
    content["rope_theta"] = rope.pop("rope_theta")
    content["rope_scaling"] = rope
    path.write_text(json.dumps(content))
    assert read_config(folder) == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mixtral"}, ("model_type='mixtral'", "llama", "gemma3_text")),
        ({"model_type": None}, ("model_type=None", "llama")),
        ({"attention_bias": True}, ("attention_bias=True", "False")),
        ({"mlp_bias": True}, ("mlp_bias=True", "False")),
        ({"hidden_act": "relu"}, ("hidden_act='relu'", "silu")),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
            ("rope_type='yarn'", "llama3"),
        ),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
            ("rope_type='dynamic'", "llama3"),
        ),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.5}},
            ("partial_rotary_factor=0.5", "1.0"),
        ),
        ({"num_key_value_heads": 2}, ("num_heads=5", "num_kv_heads=2")),
        ({"hidden_size": "many"}, ("transformers cannot read", "correct")),
        (
            {"quantization_config": {"quant_method": "fp8"}},
            ("quantization_config", "fp8", "unquantized"),
        ),
    ],
)
def test_what_is_not_supported_is_refused(folder, changes, words):
    edit_json(folder / "config.json", **changes)
    with one_line_error(folder / "config.json", *words):
        read_config(folder)


def test_unknown_layer_types_are_refused(tmp_path):
    save_model(make_model("qwen3"), tmp_path)
    path = tmp_path / "config.json"
    edit_json(path, layer_types=["full_attention", "chunked_attention"])
    with one_line_error(path, "layer_types='chunked_attention'", "sliding_attention"):
        read_config(tmp_path)
    edit_json(path, layer_types=["full_attention", "sliding_attention"])
    with one_line_error(path, "sliding_window is None"):
        read_config(tmp_path)


def test_a_damaged_config_is_refused(folder, tmp_path):
    with one_line_error(tmp_path / "nowhere", "no such folder"):
        read_config(tmp_path / "nowhere")
    (folder / "config.json").write_text("[1]")
    with one_line_error(folder / "config.json", "list"):
        read_config(folder)
    (folder / "config.json").write_text('{"model_type":\n')
    with one_line_error(folder / "config.json", "not JSON"):
        read_config(folder)
    (folder / "config.json").unlink()
    with one_line_error(folder / "config.json", "no such file"):
        read_config(folder)
