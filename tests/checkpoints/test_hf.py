"""Laws of Hugging Face folders: read lazily, written exactly, errors in one line."""

import json
import os
import stat
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import AxisType
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from jax_switchgen.checkpoints import hf, safetensors_file
from jax_switchgen.checkpoints.hf import (
    export_transformer,
    load_tokenizer,
    load_transformer,
    stop_ids,
)
from jax_switchgen.checkpoints.hf_config import read_config
from jax_switchgen.checkpoints.safetensors_file import StoredTensor
from jax_switchgen.models.params import num_params
from tests.hf_models import (
    MODELS,
    edit_json,
    make_model,
    one_line_error,
    reference_logits,
    save_model,
    save_tokenizer,
    some_tokens,
)

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path):
    """An untied llama with a tokenizer, in float32."""
    save_model(make_model("llama"), tmp_path / "llama")
    save_tokenizer(tmp_path / "llama")
    return tmp_path / "llama"


def edit_weights(folder, **changes):
    """Replaces, adds or (None) removes tensors."""
    tensors = load_file(folder / WEIGHTS) | changes
    kept = {name: x for name, x in tensors.items() if x is not None}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})


def assert_same_arrays(found, expected):
    assert found.config == expected.config
    params = expected.arrays()
    assert found.arrays().keys() == params.keys()
    for path, array in found.arrays().items():
        assert array.dtype == params[path].dtype
        assert np.array_equal(np.asarray(array), np.asarray(params[path])), path


def test_a_sharded_checkpoint_is_the_same_model(folder, tmp_path):
    split = save_model(make_model("llama"), tmp_path / "split", max_shard_size="20KB")
    assert len(list(split.glob("*.safetensors"))) > 3
    assert_same_arrays(
        load_transformer(split, dtype=jnp.float32),
        load_transformer(folder, dtype=jnp.float32),
    )


@pytest.mark.parametrize("shape", [None, (2, 4)])
def test_padding_adds_rows_of_zeros(tmp_path, shape):
    """101 tokens in 136 rows: of four devices, the last holds padding only."""
    kinds = (AxisType.Auto, AxisType.Auto)
    mesh = jax.make_mesh(shape, ("data", "tensor"), axis_types=kinds) if shape else None
    model = make_model("llama", num_attention_heads=4, intermediate_size=52)
    folder = save_model(model, tmp_path)
    plain = load_transformer(folder, dtype=jnp.float32).arrays()
    padded = load_transformer(folder, dtype=jnp.float32, vocab_size=136, mesh=mesh)
    assert padded.config.vocab_size == 136
    for path, array in padded.arrays().items():
        expected = np.asarray(plain[path])
        assert np.array_equal(array[: len(expected)], expected), path
        assert not np.asarray(array[len(expected) :]).any()
        assert len(array) == (136 if path in ("embed", "head") else len(expected))


def test_padding_cannot_cut(folder):
    with one_line_error(folder, "101", "vocab_size=100"):
        load_transformer(folder, dtype=jnp.float32, vocab_size=100)


def test_a_tied_model_may_store_its_head_again(tmp_path):
    """Equal to the embedding it is ignored; else transformers would untie the two."""
    save_model(make_model("llama_tied"), tmp_path)
    expected = load_transformer(tmp_path, dtype=jnp.float32)
    embedding = load_file(tmp_path / WEIGHTS)["model.embed_tokens.weight"]
    edit_weights(tmp_path, **{"lm_head.weight": embedding.clone()})
    assert_same_arrays(load_transformer(tmp_path, dtype=jnp.float32), expected)
    edit_weights(tmp_path, **{"lm_head.weight": embedding + 1})
    with one_line_error("lm_head.weight", "tie_word_embeddings", "false"):
        load_transformer(tmp_path, dtype=jnp.float32)


def test_old_rotary_buffers_are_ignored(folder):
    expected = load_transformer(folder, dtype=jnp.float32)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(folder, **{name: torch.ones(6)})
    assert_same_arrays(load_transformer(folder, dtype=jnp.float32), expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.norm.weight": None}, ("'model.norm.weight'", "missing")),
        ({"lm_head.weight": None}, ("'lm_head.weight'", "tie_word_embeddings=false")),
        (
            {"model.layers.1.mlp.up_proj.weight": torch.zeros(51, 41)},
            ("model.layers.1.mlp.up_proj.weight", "(51, 41)", "(51, 40)"),
        ),
        (
            {"model.layers.0.self_attn.q_proj.bias": torch.zeros(60)},
            ("model.layers.0.self_attn.q_proj.bias", "no place"),
        ),
        (
            {"model.norm.weight": torch.zeros(40, dtype=torch.int8)},
            ("model.norm.weight", "I8", "BF16"),
        ),
    ],
)
def test_wrong_tensors_are_named(folder, changes, words):
    edit_weights(folder, **changes)
    with one_line_error(folder / WEIGHTS, *words):
        load_transformer(folder, dtype=jnp.float32)


def test_damaged_weights_are_named(folder, tmp_path):
    with one_line_error(tmp_path / "nowhere", "no such folder"):
        load_transformer(tmp_path / "nowhere", dtype=jnp.float32)
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 100)
    with one_line_error(folder / WEIGHTS, "damaged or incomplete", "copy"):
        load_transformer(folder, dtype=jnp.float32)
    (folder / WEIGHTS).unlink()
    with one_line_error(folder, WEIGHTS, "index.json", "copy"):
        load_transformer(folder, dtype=jnp.float32)
    (folder / "pytorch_model.bin").touch()
    with one_line_error(folder, ".bin", "transformers"):
        load_transformer(folder, dtype=jnp.float32)

    split = save_model(make_model("llama"), tmp_path / "split", max_shard_size="20KB")
    lost = min(split.glob("*.safetensors"))
    lost.unlink()
    with one_line_error(lost, "no such file"):
        load_transformer(split, dtype=jnp.float32)
    (split / "model.safetensors.index.json").write_text("{}")
    with one_line_error("index.json", "weight_map"):
        load_transformer(split, dtype=jnp.float32)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """8 million parameters in bfloat16, the largest tensor a fortieth of them."""
    folder = tmp_path_factory.mktemp("large")
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 10}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32}
    model = make_model("llama", vocab_size=512, **sizes, **heads)
    return save_model(model.to(torch.bfloat16), folder)


def test_loading_needs_one_tensor_above_the_model(large):
    """What a load holds for a while and then frees is a tensor or two, not a model."""
    load_transformer(large, dtype=jnp.float32)  # imports
    tracemalloc.start()
    try:
        model = load_transformer(large, dtype=jnp.float32)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    sizes = [array.nbytes for array in model.arrays().values()]
    assert sum(sizes) > 30 * max(sizes)
    # At the least a stored tensor; had it traced nothing, this would show nothing.
    assert max(sizes) / 2 < peak - kept < 6 * max(sizes)


def test_on_a_mesh_each_share_is_read_once(large, monkeypatch):
    """Four shares of a matrix, none of them read for more than one of two replicas."""
    reads = []
    read = StoredTensor.read

    def counted(self, index=(slice(None),)):
        part = read(self, index)
        reads.append((self.name, part.shape))
        return part

    monkeypatch.setattr(StoredTensor, "read", counted)
    kinds = (AxisType.Auto, AxisType.Auto)
    mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=kinds)
    model = load_transformer(large, dtype=jnp.bfloat16, mesh=mesh)
    assert reads.count(("model.layers.3.mlp.gate_proj.weight", (192, 256))) == 4
    assert reads.count(("model.layers.3.mlp.down_proj.weight", (256, 192))) == 4
    assert reads.count(("model.norm.weight", (256,))) == 1
    elements = sum(int(np.prod(shape)) for _, shape in reads)
    assert elements == num_params(model.config)
    monkeypatch.undo()
    assert_same_arrays(model, load_transformer(large, dtype=jnp.bfloat16))


@pytest.mark.parametrize("name", MODELS)
def test_an_export_is_the_checkpoint_it_came_from(tmp_path, name):
    """Bit for bit, padding taken off; transformers gives identical logits."""
    source = save_model(make_model(name).to(torch.bfloat16), tmp_path / "source")
    model = load_transformer(source, dtype=jnp.bfloat16, vocab_size=128)
    export_transformer(model, tmp_path / "export", source)
    expected = load_file(source / WEIGHTS)
    found = load_file(tmp_path / "export" / WEIGHTS)
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, expected[key]), key
    reference, loaded = (
        AutoModelForCausalLM.from_pretrained(tmp_path / f) for f in ("source", "export")
    )
    assert loaded.dtype == torch.bfloat16
    tokens = some_tokens(2, 30)
    assert np.array_equal(
        reference_logits(loaded, tokens), reference_logits(reference, tokens)
    )


def test_an_export_is_a_whole_folder(folder, tmp_path):
    """Config with the new dtype, tokenizer, generation defaults, licence; mode 644."""
    for name in ("NOTICE", "LICENSE.txt", "TERMS.html", "README.md", "x.bin"):
        (folder / name).write_text(name)
    model = load_transformer(folder, dtype=jnp.bfloat16)
    target = tmp_path / "export"
    export_transformer(model, target, folder)
    names = {path.name for path in target.iterdir()}
    assert names == {path.name for path in folder.iterdir()} - {"README.md", "x.bin"}
    config = json.loads((target / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and "torch_dtype" not in config
    assert read_config(target) == model.config
    assert stop_ids(target, load_tokenizer(target)) == (2, 3)
    for path in target.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert not list(tmp_path.glob(".*")), "no temporary folder is left"


def test_the_older_key_of_the_dtype_is_kept(folder, tmp_path):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["torch_dtype"] = content.pop("dtype")
    path.write_text(json.dumps(content))
    model = load_transformer(folder, dtype=jnp.bfloat16)
    export_transformer(model, tmp_path / "export", folder)
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16" and "dtype" not in config


def test_a_large_export_is_split_and_indexed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(hf, "SHARD_BYTES", 20_000)
    model = load_transformer(folder, dtype=jnp.float32)
    export_transformer(model, tmp_path / "export", folder)
    files = sorted((tmp_path / "export").glob("*.safetensors"))
    assert len(files) > 3 and files[0].name == f"model-00001-of-{len(files):05d}" + (
        ".safetensors"
    )
    assert all(file.stat().st_size < 24_000 for file in files)
    assert_same_arrays(load_transformer(tmp_path / "export", dtype=jnp.float32), model)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert torch.equal(loaded.lm_head.weight, make_model("llama").lm_head.weight)


def test_an_export_may_keep_padding(folder, tmp_path):
    model = load_transformer(folder, dtype=jnp.float32, vocab_size=128)
    export_transformer(model, tmp_path / "export", folder, vocab_size=112)
    assert read_config(tmp_path / "export").vocab_size == 112
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert loaded.get_input_embeddings().weight.shape == (112, 40)
    with one_line_error("vocab_size=129", "128"):
        export_transformer(model, tmp_path / "new", folder, vocab_size=129)


def test_an_export_overwrites_nothing_and_leaves_nothing_half_done(
    folder, tmp_path, monkeypatch
):
    model = load_transformer(folder, dtype=jnp.float32)
    with one_line_error(folder, "already exists"):
        export_transformer(model, folder, folder)
    other = save_model(make_model("qwen3"), tmp_path / "qwen3")
    with one_line_error(other, "another architecture"):
        export_transformer(model, tmp_path / "export", other)

    def fail(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(safetensors_file, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        export_transformer(model, tmp_path / "export", folder)
    assert {path.name for path in tmp_path.iterdir()} == {"llama", "qwen3"}


def test_a_folder_without_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").write_text("{}")
    with one_line_error(folder, "cannot read the tokenizer"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    with one_line_error(folder, "tokenizer.json", "save_pretrained"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ([3, 7], 5, (2, 3, 5, 7)),
        (4, [5, 2], (2, 4, 5)),
        (None, None, (2,)),
    ],
)
def test_stop_ids_are_those_of_all_three_places(folder, generation, config, expected):
    """The tokenizer's own is 2."""
    edit_json(folder / "generation_config.json", eos_token_id=generation)
    edit_json(folder / "config.json", eos_token_id=config)
    assert stop_ids(folder, load_tokenizer(folder)) == expected


def test_stop_ids_need_only_the_tokenizer(folder):
    tokenizer = load_tokenizer(folder)
    (folder / "generation_config.json").unlink()
    (folder / "config.json").unlink()
    assert stop_ids(folder, tokenizer) == (2,)
    tokenizer.eos_token = None
    assert stop_ids(folder, tokenizer) == ()
