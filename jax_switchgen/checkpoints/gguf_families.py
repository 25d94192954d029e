"""How each family's GGUF header reads as a Hugging Face config.json.

What a header does not say (Gemma 3's layer pattern and local rope base, the scale of
its logits) is taken from the published configurations.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from jax_switchgen.checkpoints.gguf_reader import GGUFFile

# GGUF name -> (Hugging Face name, shape). One letter per axis: D model, Q all query
# heads, K all kv heads, H one head, F ffn, V vocabulary.
Names = dict[str, tuple[str, str]]

GLOBAL_TENSORS: Names = {
    "token_embd.weight": ("model.embed_tokens.weight", "VD"),
    "output_norm.weight": ("model.norm.weight", "D"),
    "output.weight": ("lm_head.weight", "VD"),  # absent when tied
}
_LAYER_TENSORS: Names = {
    "attn_q.weight": ("self_attn.q_proj.weight", "QD"),
    "attn_k.weight": ("self_attn.k_proj.weight", "KD"),
    "attn_v.weight": ("self_attn.v_proj.weight", "KD"),
    "attn_output.weight": ("self_attn.o_proj.weight", "DQ"),
    "ffn_gate.weight": ("mlp.gate_proj.weight", "FD"),
    "ffn_up.weight": ("mlp.up_proj.weight", "FD"),
    "ffn_down.weight": ("mlp.down_proj.weight", "DF"),
}
_NORM_BEFORE: Names = {
    "attn_norm.weight": ("input_layernorm.weight", "D"),
    "ffn_norm.weight": ("post_attention_layernorm.weight", "D"),
}
_NORM_AFTER: Names = {
    "post_attention_norm.weight": ("post_attention_layernorm.weight", "D"),
    "post_ffw_norm.weight": ("post_feedforward_layernorm.weight", "D"),
}
_NORM_AROUND: Names = _NORM_AFTER | {
    "attn_norm.weight": ("input_layernorm.weight", "D"),
    "ffn_norm.weight": ("pre_feedforward_layernorm.weight", "D"),
}
_NORM_PER_HEAD: Names = {
    "attn_q_norm.weight": ("self_attn.q_norm.weight", "H"),
    "attn_k_norm.weight": ("self_attn.k_norm.weight", "H"),
}
_NORM_ALL_HEADS: Names = {
    "attn_q_norm.weight": ("self_attn.q_norm.weight", "Q"),
    "attn_k_norm.weight": ("self_attn.k_norm.weight", "K"),
}
_QKV_BIAS: Names = {
    "attn_q.bias": ("self_attn.q_proj.bias", "Q"),
    "attn_k.bias": ("self_attn.k_proj.bias", "K"),
    "attn_v.bias": ("self_attn.v_proj.bias", "K"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """How one value of `general.architecture` reads as a Hugging Face model.

    Attributes:
      layer_tensors: names within a layer.
      config: entries of config.json that are the same for every size.
      interleaved: rows of q and k are stored as (even, odd) pairs of each head.
      norm_offset: what llama.cpp added to every norm weight.
      global_every: every so many layers, one is global; None without local layers.
      scalar_from_width: the size, in layers, whose attention logits are scaled by
        embedding width / heads and not by the head size (Gemma's 27B models).
    """

    model_type: str
    model_class: str
    layer_tensors: Names
    config: dict[str, Any]
    interleaved: bool = False
    norm_offset: float = 0.0
    global_every: int | None = None
    scalar_from_width: int | None = None


_SILU = {"hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0}
_GELU = {
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "attention_dropout": 0.0,
}
_FAMILIES = {
    "llama": Family(
        model_type="llama",
        model_class="LlamaForCausalLM",
        layer_tensors=_LAYER_TENSORS | _NORM_BEFORE,
        config=_SILU | {"mlp_bias": False},
        interleaved=True,
    ),
    "qwen2": Family(
        model_type="qwen2",
        model_class="Qwen2ForCausalLM",
        layer_tensors=_LAYER_TENSORS | _NORM_BEFORE | _QKV_BIAS,
        config=_SILU | {"use_sliding_window": False},
    ),
    "qwen3": Family(
        model_type="qwen3",
        model_class="Qwen3ForCausalLM",
        layer_tensors=_LAYER_TENSORS | _NORM_BEFORE | _NORM_PER_HEAD,
        config=_SILU | {"use_sliding_window": False},
    ),
    "olmo2": Family(
        model_type="olmo2",
        model_class="Olmo2ForCausalLM",
        layer_tensors=_LAYER_TENSORS | _NORM_AFTER | _NORM_ALL_HEADS,
        config=_SILU,
    ),
    "gemma2": Family(
        model_type="gemma2",
        model_class="Gemma2ForCausalLM",
        layer_tensors=_LAYER_TENSORS | _NORM_AROUND,
        config=_GELU,
        norm_offset=1.0,
        global_every=2,
        scalar_from_width=46,
    ),
    "gemma3": Family(
        model_type="gemma3_text",
        model_class="Gemma3ForCausalLM",
        layer_tensors=_LAYER_TENSORS | _NORM_AROUND | _NORM_PER_HEAD,
        config=_GELU | {"rope_local_base_freq": 10000.0},
        norm_offset=1.0,
        global_every=6,
        scalar_from_width=62,
    ),
}


def find_family(file: GGUFFile) -> Family:
    """The family of the file; ValueError if it is not supported."""
    if file.architecture not in _FAMILIES:
        raise ValueError(
            f"{file.path}: architecture {file.architecture!r} is not supported; "
            f"supported: {', '.join(_FAMILIES)}"
        )
    return _FAMILIES[file.architecture]


def hf_config(file: GGUFFile, family: Family) -> dict[str, Any]:
    """The contents of config.json."""
    num_layers = _integer(file, "block_count")
    hidden = _integer(file, "embedding_length")
    heads = _integer(file, "attention.head_count")
    head_dim = _integer(
        file,
        "attention.key_length",
        _integer(file, "rope.dimension_count", hidden // heads),
    )
    for key in ("attention.value_length", "rope.dimension_count"):
        if _integer(file, key, head_dim) != head_dim:
            raise ValueError(
                f"{file.path}: {file.architecture}.{key} is {_integer(file, key)}, but "
                f"heads have {head_dim} dimensions; only heads of one size, rotated "
                "whole, are supported"
            )
    config = {
        "architectures": [family.model_class],
        "model_type": family.model_type,
        "vocab_size": file.tensor("token_embd.weight").shape[0],
        "hidden_size": hidden,
        "intermediate_size": _integer(file, "feed_forward_length"),
        "num_hidden_layers": num_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": _integer(file, "attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": _integer(file, "context_length"),
        "rms_norm_eps": _float(file, "attention.layer_norm_rms_epsilon"),
        "rope_theta": _float(file, "rope.freq_base", 10000.0),
        "rope_scaling": _rope_scaling(file, head_dim),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "dtype": "bfloat16",
        **family.config,
        **_token_ids(file),
    }
    if family.global_every is not None:
        config |= _local_attention(
            file, family, family.global_every, num_layers, hidden // heads, head_dim
        )
    elif _find(file, "attention.sliding_window"):
        raise ValueError(
            f"{file.path}: {file.architecture}.attention.sliding_window is set; local "
            "attention is supported for gemma2 and gemma3 only"
        )
    return config


def _local_attention(
    file: GGUFFile,
    family: Family,
    global_every: int,
    num_layers: int,
    model_dim_per_head: int,
    head_dim: int,
) -> dict[str, Any]:
    """Gemma's alternation of sliding-window and global layers, and its scalars.

    In:   6 layers, a global one every 3
    Out:  local local global local local global
    """
    pattern = _find(file, "attention.sliding_window_pattern")
    if isinstance(pattern, list):  # one truth value per layer
        local = [bool(entry) for entry in pattern]
    else:
        every = pattern or global_every
        local = [bool((layer + 1) % every) for layer in range(num_layers)]
    from_width = num_layers == family.scalar_from_width
    config: dict[str, Any] = {
        "sliding_window": _integer(file, "attention.sliding_window"),
        "layer_types": [
            "sliding_attention" if is_local else "full_attention" for is_local in local
        ],
        "query_pre_attn_scalar": model_dim_per_head if from_width else head_dim,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }
    if family.model_type == "gemma2":
        for cap, published in (("attn", 50.0), ("final", 30.0)):
            key = f"{cap}_logit_softcapping"
            config[key] = _float(file, key, published)
    elif _find(file, "rope.freq_base_swa"):
        config["rope_local_base_freq"] = _float(file, "rope.freq_base_swa")
    return config


def _rope_scaling(file: GGUFFile, head_dim: int) -> dict[str, Any] | None:
    """The stretching of rotary frequencies, or None.

    Llama 3.1's is stored as a tensor of divisors, one per frequency. Its parameters
    are recovered from the largest divisor and checked against all of them.
    """
    kind = _find(file, "rope.scaling.type") or "none"
    if kind == "linear":
        return {"rope_type": "linear", "factor": _float(file, "rope.scaling.factor")}
    if kind != "none":
        raise ValueError(
            f"{file.path}: rope scaling {kind!r} is not supported; supported: linear, "
            "llama3"
        )
    if "rope_freqs.weight" not in file.tensors:
        return None
    found = np.concatenate(list(file.float32_rows("rope_freqs.weight")), axis=None)
    factor, low, high, positions = round(float(found.max()), 3), 1.0, 4.0, 8192
    theta = _float(file, "rope.freq_base", 10000.0)
    # How often each frequency turns within the original context.
    turns = positions / (2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim))
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    expected = 1.0 / ((1.0 - kept) / factor + kept)
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-3):
        raise ValueError(
            f"{file.path}: tensor 'rope_freqs.weight' does not follow Llama 3.1's "
            "frequency scaling (8,192 original positions, factors 1 and 4), the only "
            "one supported; take the model's safetensors instead"
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": positions,
    }


def _token_ids(file: GGUFFile) -> dict[str, int | None]:
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    return {
        name: file.metadata.get(f"tokenizer.ggml.{key}_token_id")
        for name, key in keys.items()
    }


def hf_generation_config(file: GGUFFile) -> dict[str, Any]:
    """Token ids for generation; the end of a turn is a stop token too."""
    ids: dict[str, Any] = dict(_token_ids(file))
    stops = [ids["eos_token_id"], file.metadata.get("tokenizer.ggml.eot_token_id")]
    unique = list(dict.fromkeys(stop for stop in stops if stop is not None))
    ids["eos_token_id"] = unique[0] if len(unique) == 1 else unique or None
    return {name: value for name, value in ids.items() if value is not None}


def _integer(file: GGUFFile, key: str, default: int | None = None) -> int:
    value = _value(file, key, default)
    if type(value) is not int or value < 1:
        raise ValueError(
            f"{file.path}: {file.architecture}.{key} is {str(value)[:40]}, not one "
            "positive number; only models whose layers all have one size are supported"
        )
    return value


def _float(file: GGUFFile, key: str, default: float | None = None) -> float:
    """A float32 as the shortest decimal for it: 1e-05, not 9.999999747378752e-06."""
    value = _value(file, key, default)
    if type(value) is not float:
        raise ValueError(
            f"{file.path}: {file.architecture}.{key} is {str(value)[:40]}, not a "
            "number; convert the model to GGUF again with a current llama.cpp"
        )
    return float(str(np.float32(value)))


def _value(file: GGUFFile, key: str, default: Any) -> Any:
    """The family's header entry `key`, required if there is no default."""
    if default is None:
        return file.require(f"{file.architecture}.{key}")
    return file.metadata.get(f"{file.architecture}.{key}", default)


def _find(file: GGUFFile, key: str) -> Any:
    return file.metadata.get(f"{file.architecture}.{key}")
