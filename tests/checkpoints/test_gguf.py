"""Laws of the GGUF conversion on tiny models of each family."""

import gguf
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from jax_switchgen.checkpoints.gguf import convert_gguf
from jax_switchgen.checkpoints.gguf_reader import read_gguf
from tests.checkpoints.gguf_writer import (
    SHAPE,
    TINY,
    add_byte_vocabulary,
    add_sizes,
    llama_cpp_tensors,
    tiny_model,
    write_gguf,
)
from tests.hf_models import one_line_error


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny Llama as a GGUF file, and the model itself."""
    model = tiny_model(TINY["llama"][1])
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    return write_gguf(path, "llama", model), model


@pytest.mark.parametrize("name", TINY)
def test_every_family_computes_the_same_function(name, tmp_path):
    """Weights and config: equal logits mean that nothing is permuted, off by one, or
    left at a default."""
    arch, config = TINY[name]
    model = tiny_model(config)
    source = write_gguf(tmp_path / "model.gguf", arch, model)
    folder = convert_gguf(source, tmp_path / "hf")
    loaded, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    tokens = torch.arange(48).reshape(2, 24) * 5
    with torch.no_grad():
        expected, actual = model(tokens).logits, loaded.eval()(tokens).logits
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert type(loaded) is type(model)


@pytest.mark.parametrize(
    "kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16"]
)
def test_quantized_tensor_is_the_original_within_its_step(kind, tmp_path):
    """Row order included: blocks are dequantized after the rows are put in order."""
    model = tiny_model(TINY["llama"][1])
    number = gguf.GGMLQuantizationType[kind]
    tensors = llama_cpp_tensors("llama", model)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    add_sizes(writer, "llama", model.config)
    add_byte_vocabulary(writer)
    for name, array in tensors.items():
        if array.ndim == 2:
            writer.add_tensor(name, gguf.quantize(array, number), raw_dtype=number)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    folder = convert_gguf(tmp_path / "model.gguf", tmp_path / "hf")
    ours = load_file(folder / "model.safetensors")
    levels = {"Q4": 8, "Q5": 16, "Q8": 127}.get(kind[:2], 1000)
    for name, parameter in model.named_parameters():
        expected = parameter.detach().numpy()
        step = np.abs(expected).max() / levels + 0.01
        np.testing.assert_allclose(
            ours[name].astype(np.float32), expected, rtol=0, atol=step, err_msg=name
        )


def test_large_tensors_are_converted_in_pieces(tmp_path, monkeypatch):
    """The pieces join without gap, also in a permuted tensor."""
    model = tiny_model(TINY["llama"][1])
    source = write_gguf(tmp_path / "model.gguf", "llama", model)
    whole = convert_gguf(source, tmp_path / "whole")
    monkeypatch.setattr("jax_switchgen.checkpoints.gguf_reader._CHUNK_ELEMENTS", 96)
    pieces = convert_gguf(source, tmp_path / "pieces")
    name = "model.safetensors"
    assert (whole / name).read_bytes() == (pieces / name).read_bytes()


def test_safetensors_rounds_to_the_nearest_bfloat16(tmp_path):
    model = tiny_model(TINY["llama"][1])
    exact = np.float32(np.pi) * np.arange(320 * 32, dtype=np.float32).reshape(320, 32)
    source = write_gguf(
        tmp_path / "a.gguf", "llama", model, changes={"token_embd.weight": exact}
    )
    ours = load_file(convert_gguf(source, tmp_path / "hf") / "model.safetensors")
    np.testing.assert_array_equal(
        ours["model.embed_tokens.weight"], exact.astype(ml_dtypes.bfloat16)
    )


def test_progress_counts_to_the_number_of_tensors(tiny, tmp_path):
    calls = []
    convert_gguf(tiny[0], tmp_path / "hf", lambda *call: calls.append(call))
    dones, totals, names = zip(*calls, strict=True)
    assert dones == tuple(range(1, len(calls) + 1))
    assert set(totals) == {len(calls)}
    assert set(names) == set(read_gguf(tiny[0]).tensors)


def test_interrupted_conversion_leaves_nothing(tiny, tmp_path):
    def interrupt(done, total, name):
        if done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_gguf(tiny[0], tmp_path / "hf", interrupt)
    assert list(tmp_path.iterdir()) == []


# Vocabularies.


def tiny_tokenizer(tmp_path, vocabulary):
    model = tiny_model(TINY["llama"][1])
    source = write_gguf(tmp_path / "v.gguf", "llama", model, vocabulary=vocabulary)
    return AutoTokenizer.from_pretrained(convert_gguf(source, tmp_path / "hf"))


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("smollm", ["it", "'s", "Ġ", "1", "2", "3", "4", "Ċ", "Ċ", "x"]),
        ("gpt-2", ["it", "'s", "Ġ1234", "Ċ", "Ċ", "x"]),
        ("llama-bpe", ["it", "'s", "Ġ", "123", "4", "ĊĊ", "x"]),
        ("qwen2", ["it", "'s", "Ġ", "1", "2", "3", "4", "ĊĊ", "x"]),
    ],
)
def test_text_is_cut_before_merging(pre, pieces, tmp_path):
    """All neighbours would merge, so tokens end where the pattern cuts."""
    chain = ["i t", "' s", "1 2", "12 3", "3 4", "123 4", "Ċ Ċ", "Ġ 1234", "Ġ 1"]
    tokenizer = tiny_tokenizer(
        tmp_path, lambda writer: add_byte_vocabulary(writer, pre, chain)
    )
    assert tokenizer.tokenize("it's 1234\n\nx") == pieces


def test_user_defined_token_is_whole_but_not_special(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path, add_byte_vocabulary)
    assert tokenizer("a<tool>b").input_ids == [97, 257, 98]
    assert tokenizer.decode([97, 257, 98], skip_special_tokens=True) == "a<tool>b"
    assert len(tokenizer) == 259  # rows that only pad the embedding are no tokens


def add_llama2_vocabulary(writer):
    scored = [("▁", -1e9), ("h", -9), ("i", -9), ("hi", -1), ("▁hi", -2), ("▁h", -3)]
    special = ["<unk>", "<s>", "</s>"]
    tokens = special + [f"<0x{b:02X}>" for b in range(256)] + [t for t, _ in scored]
    unused = [f"[PAD{i}]" for i in range(SHAPE["vocab_size"] - len(tokens))]
    writer.add_string("tokenizer.ggml.model", "llama")
    writer.add_array("tokenizer.ggml.tokens", tokens + unused)
    types = [2, 3, 3] + [6] * 256 + [1] * len(scored) + [5] * len(unused)
    writer.add_array("tokenizer.ggml.token_type", types)
    scores = [0.0] * 259 + [float(s) for _, s in scored] + [0.0] * len(unused)
    writer.add_array("tokenizer.ggml.scores", scores)
    for role, number in (("unknown", 0), ("bos", 1), ("eos", 2)):
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", number)


def test_llama2_vocabulary_prefixes_a_space_and_adds_bos(tmp_path):
    tokenizer = tiny_tokenizer(tmp_path, add_llama2_vocabulary)
    assert tokenizer.tokenize("hi hi") == ["▁hi", "▁hi"]
    ids = tokenizer("hi é").input_ids
    assert ids[0] == tokenizer.bos_token_id == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hi é"


# Errors.


def test_truncated_file(tiny, tmp_path):
    """Wherever a download breaks off, the message says so."""
    content = tiny[0].read_bytes()
    broken = tmp_path / "broken.gguf"
    for size in [9, 20, *range(24, len(content), 1999), len(content) - 33]:
        broken.write_bytes(content[:size])
        with one_line_error(broken, "download it again"):
            convert_gguf(broken, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("content", [b"", b"GGU", b"\x00" * 64, b"PK\x03\x04 zip"])
def test_wrong_magic(content, tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with one_line_error(path, "no GGUF file"):
        convert_gguf(path, tmp_path / "hf")


def test_wrong_version_and_missing_file(tiny, tmp_path):
    path = tmp_path / "x.gguf"
    with one_line_error(path, "no such file"):
        convert_gguf(path, tmp_path / "hf")
    path.write_bytes(b"GGUF\x00\x00\x00\x03" + tiny[0].read_bytes()[8:])
    with one_line_error(path, "big-endian"):
        convert_gguf(path, tmp_path / "hf")


def test_unknown_architecture(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with one_line_error("x.gguf", "'mamba'", "supported: llama, qwen2"):
        convert_gguf(tmp_path / "x.gguf", tmp_path / "hf")


@pytest.mark.parametrize("number", [15, 99])
def test_unknown_quantization_type(number, tiny, tmp_path):
    """15 (Q8_K) is known to ggml but has no dequantization in Python."""
    name = b"blk.0.attn_k.weight"
    content = bytearray(tiny[0].read_bytes())
    kind_at = content.index(name) + len(name) + 4 + 2 * 8
    content[kind_at : kind_at + 4] = number.to_bytes(4, "little")
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with one_line_error(path, name.decode(), f"type {number}", "upgrade gguf"):
        convert_gguf(path, tmp_path / "hf")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"blk.2.ffn_up.weight": None}, ["'blk.2.ffn_up.weight'", "missing"]),
        ({"token_embd.weight": None}, ["'token_embd.weight'", "missing"]),
        (
            {"blk.1.attn_k.weight": np.zeros((64, 32), np.float32)},
            ["'blk.1.attn_k.weight'", "(64, 32)", "(32, 32)"],
        ),
        (
            {"blk.0.ffn_gate_inp.weight": np.zeros((8, 32), np.float32)},
            ["'blk.0.ffn_gate_inp.weight'", "LlamaForCausalLM"],
        ),
        (
            {"rope_freqs.weight": np.full(8, 3.0, np.float32)},
            ["'rope_freqs.weight'", "Llama 3.1"],
        ),
    ],
)
def test_tensors_that_do_not_fit(changes, words, tiny, tmp_path):
    source = write_gguf(tmp_path / "x.gguf", "llama", tiny[1], changes=changes)
    with one_line_error(source, *words):
        convert_gguf(source, tmp_path / "hf")


def test_unknown_pre_tokenizer_is_refused_not_guessed(tiny, tmp_path):
    source = write_gguf(
        tmp_path / "x.gguf",
        "llama",
        tiny[1],
        vocabulary=lambda writer: add_byte_vocabulary(writer, "tekken"),
    )
    with one_line_error(source, "'tekken'", "supported: smollm"):
        convert_gguf(source, tmp_path / "hf")
    assert [file.name for file in tmp_path.iterdir()] == ["x.gguf"]


def test_merge_outside_the_vocabulary(tiny, tmp_path):
    """The tokenizers library raises a bare Exception here, naming no file."""

    def vocabulary(writer):
        add_byte_vocabulary(writer)
        writer.kv_data[0]["tokenizer.ggml.merges"].value = ["a b", "c d"]

    source = write_gguf(tmp_path / "x.gguf", "llama", tiny[1], vocabulary=vocabulary)
    with one_line_error(source, "'c d'", "download the file again"):
        convert_gguf(source, tmp_path / "hf")


def test_existing_folder_is_not_overwritten(tiny, tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "precious").write_text("")
    with one_line_error(tmp_path / "hf", "already exists"):
        convert_gguf(tiny[0], tmp_path / "hf")
