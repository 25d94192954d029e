"""Tiny random models of transformers, one or two for every supported family.

Their shapes are awkward on purpose: a head size unlike width / heads, one key and value
head, odd sizes, windows shorter than the text, caps and scalings that bite.
"""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from transformers import PreTrainedModel

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()

_SHAPE = {
    "vocab_size": 101,
    "hidden_size": 40,
    "intermediate_size": 51,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_GEMMA = {"head_dim": 12, "query_pre_attn_scalar": 20, "num_hidden_layers": 3}

# name -> (class, what its config changes in _SHAPE)
MODELS = {
    "llama": ("Llama", {"head_dim": 12, "rope_parameters": _LLAMA3}),
    "llama_tied": (
        "Llama",
        {
            "num_key_value_heads": 5,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "linear",
                "rope_theta": 5000.0,
                "factor": 4.0,
            },
        },
    ),
    "mistral": ("Mistral", {"head_dim": 12, "sliding_window": 6}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2_sliding": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {"head_dim": 12}),
    "gemma2": (
        "Gemma2",
        _GEMMA
        | {
            "sliding_window": 6,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "Gemma3",
        _GEMMA
        | {
            "sliding_window": 6,
            "layer_types": [
                "sliding_attention",
                "sliding_attention",
                "full_attention",
            ],
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "linear",
                    "rope_theta": 1e6,
                    "factor": 8.0,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "olmo2": ("Olmo2", {"num_key_value_heads": 1}),
}


def make_model(name: str, **changes) -> PreTrainedModel:
    """A random model; every parameter differs from its usual start."""
    family, settings = MODELS[name]
    suffix = "TextConfig" if family == "Gemma3" else "Config"
    config = getattr(transformers, family + suffix)(**_SHAPE | settings | changes)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for path, weight in model.named_parameters():
        # Biases and norms start at 0 or 1, where a lost one would not show. A large
        # tied embedding would make every text one token over and over.
        scale, start = 0.3, weight.detach()
        if weight.ndim == 2:
            scale, start = 1.5 * weight.shape[-1] ** -0.5, 0.0
        if "embed_tokens" in path and config.tie_word_embeddings:
            scale *= 0.1
        weight.data = start + scale * torch.randn(weight.shape)
    model.generation_config.eos_token_id = None
    return model


def save_model(model: PreTrainedModel, folder: Path, **options) -> Path:
    """Writes it as the Hugging Face folder `folder`."""
    model.save_pretrained(folder, **options)
    return folder


def edit_json(path: Path, **changes: object) -> None:
    """Sets entries of a JSON object in a file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reference_logits(model: PreTrainedModel, tokens: np.ndarray) -> np.ndarray:
    """logits_BTV of transformers."""
    with torch.no_grad():
        ids = torch.from_numpy(tokens).long()
        return model(ids, attention_mask=torch.ones_like(ids)).logits.float().numpy()


def some_tokens(rows: int, length: int, vocab_size: int = 101) -> np.ndarray:
    """Random tokens, always the same."""
    tokens = np.random.default_rng(0).integers(0, vocab_size, (rows, length))
    return tokens.astype(np.int32)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, in units of the largest expected value."""
    found = np.asarray(found)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@contextlib.contextmanager
def one_line_error(*words: object):
    """Expects a ValueError of one line that contains all `words`."""
    with pytest.raises(ValueError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of the words w0 … w100, with stop token 2, beside a model.

    generation_config.json adds 3, as chat models do.
    """
    words = {f"w{i}": i for i in range(_SHAPE["vocab_size"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "w0"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="w2", unk_token="w0"
    ).save_pretrained(folder)
    text = json.dumps({"eos_token_id": [3, 2]})
    (folder / "generation_config.json").write_text(text)
