"""Tiny models of each family, written as GGUF the way llama.cpp writes them."""

import gguf
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

SHAPE = dict(
    vocab_size=320,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=7,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=16384,
    bos_token_id=None,
    eos_token_id=256,
    pad_token_id=None,
)
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 50000.0}
LINEAR_ROPE = DEFAULT_ROPE | {"rope_type": "linear", "factor": 8.0}
TINY = {
    "llama": ("llama", transformers.LlamaConfig(**SHAPE, head_dim=16)),
    "llama3": (
        "llama",
        transformers.LlamaConfig(**SHAPE, head_dim=32, rope_parameters=LLAMA3_ROPE),
    ),
    "llama, linear": (
        "llama",
        transformers.LlamaConfig(
            **SHAPE, rope_parameters=LINEAR_ROPE, tie_word_embeddings=True
        ),
    ),
    "qwen2": (
        "qwen2",
        transformers.Qwen2Config(**SHAPE, rope_parameters=DEFAULT_ROPE),
    ),
    "qwen3": ("qwen3", transformers.Qwen3Config(**SHAPE, head_dim=16)),
    "olmo2": ("olmo2", transformers.Olmo2Config(**SHAPE)),
    "gemma2": (
        "gemma2",
        transformers.Gemma2Config(
            **SHAPE,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=5,
            attn_logit_softcapping=3.0,
            final_logit_softcapping=2.0,
        ),
    ),
    "gemma3": (
        "gemma3",
        transformers.Gemma3TextConfig(
            **SHAPE, head_dim=16, query_pre_attn_scalar=16, sliding_window=5
        ),
    ),
}


def tiny_model(config, seed=0):
    """A model whose weights are all random, norms included, and bfloat16 numbers."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter in model.parameters():
        rounded = (0.5 * torch.randn(parameter.shape)).to(torch.bfloat16)
        parameter.data = rounded.to(torch.float32)
    return model


def byte_tokens():
    """The 256 bytes in GPT-2's spelling, by id."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    spelling = {b: chr(b) for b in printable}
    spelling |= {b: chr(256 + i) for i, b in enumerate(others)}
    return [spelling[b] for b in range(256)]


def add_byte_vocabulary(writer, pre="qwen2", merges=("a b",)):
    tokens = [*byte_tokens(), "<|end|>", "<tool>"]
    merged = [merge.replace(" ", "") for merge in merges]
    padding = [f"[PAD{i}]" for i in range(SHAPE["vocab_size"] - 258 - len(merged))]
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_string("tokenizer.ggml.pre", pre)
    writer.add_array("tokenizer.ggml.tokens", tokens + merged + padding)
    types = [1] * 256 + [3, 4] + [1] * len(merged) + [5] * len(padding)
    writer.add_array("tokenizer.ggml.token_type", types)
    writer.add_array("tokenizer.ggml.merges", list(merges))
    writer.add_uint32("tokenizer.ggml.eos_token_id", 256)


def add_sizes(writer, arch, config):
    sizes = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
    }
    if getattr(config, "head_dim", None):
        sizes["attention.key_length"] = config.head_dim
    if arch.startswith("gemma"):
        sizes["attention.sliding_window"] = config.sliding_window
    for key, value in sizes.items():
        writer.add_uint32(f"{arch}.{key}", value)
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    floats = {
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": rope["rope_theta"],
    }
    if rope["rope_type"] == "linear":
        writer.add_string(f"{arch}.rope.scaling.type", "linear")
        floats["rope.scaling.factor"] = rope["factor"]
    if arch == "gemma2":
        floats["attn_logit_softcapping"] = config.attn_logit_softcapping
        floats["final_logit_softcapping"] = config.final_logit_softcapping
    for key, value in floats.items():
        writer.add_float32(f"{arch}.{key}", value)


def llama_cpp_tensors(arch, model):
    """GGUF name -> array, by the gguf package's own table and llama.cpp's changes."""
    config = model.config
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(numbers[arch], config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    tensors = {}
    for hf_name, parameter in model.named_parameters():  # a tied head appears once
        array = parameter.detach().numpy()
        if arch.startswith("gemma") and hf_name.endswith("norm.weight"):
            array = array + 1.0
        part = hf_name.split(".")[-2]
        if arch == "llama" and part in heads:
            halves = array.reshape(heads[part], 2, -1, array.shape[1])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        name = table.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        tensors[name] = array
    rope = config.rope_parameters
    if rope.get("rope_type") == "llama3":
        plain = rope["rope_theta"] ** (
            -np.arange(0, config.head_dim, 2) / config.head_dim
        )
        scaled = model.model.rotary_emb.inv_freq.numpy()
        tensors["rope_freqs.weight"] = (plain / scaled).astype(np.float32)
    return tensors


def write_gguf(path, arch, model, *, vocabulary=add_byte_vocabulary, changes=None):
    """Writes `model`; `changes` maps names to arrays, or to None for leaving out."""
    writer = gguf.GGUFWriter(path, arch)
    add_sizes(writer, arch, model.config)
    vocabulary(writer)
    for name, array in (llama_cpp_tensors(arch, model) | (changes or {})).items():
        if array is not None:
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
