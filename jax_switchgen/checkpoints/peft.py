"""LoRA adapters in PEFT's format, to and from `models.lora.Lora`."""

import json
import math
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jax_switchgen.checkpoints.hf import LINEAR_NAMES
from jax_switchgen.checkpoints.hf_config import read_json
from jax_switchgen.checkpoints.safetensors_file import (
    StoredTensor,
    check_shape,
    open_safetensors,
    write_safetensors,
)
from jax_switchgen.models.config import ModelConfig
from jax_switchgen.models.lora import Lora, LoraPair
from jax_switchgen.models.params import layer_specs
from jax_switchgen.models.quantization import check_unquantized
from jax_switchgen.models.transformer import Transformer

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_PREFIX = "base_model.model."
# Settings that change what the adapter computes, and the values that are supported.
# PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA are absent: they change the base weights too.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
} | dict.fromkeys(
    (
        "use_dora",
        "use_qalora",
        "use_bdlora",
        "lora_bias",
        "fan_in_fan_out",
        "modules_to_save",
        "trainable_token_indices",
        "target_parameters",
        "layer_replication",
        "alora_invocation_tokens",
        "velora_config",
        "monteclora_config",
        "kasa_config",
        "arrow_config",
    ),
    (None, False, [], {}),
)


def load_lora(folder: Path, config: ModelConfig, dtype: jnp.dtype) -> Lora:
    """The adapter in a PEFT folder.

    Args:
      config: the model that it is an adapter of.
      dtype: of the factors.

    Raises:
      ValueError: the adapter is incomplete, of another model or of a kind that is not
        supported. The message is one line with the remedy.
    """
    folder = Path(folder)
    path = folder / CONFIG
    settings = read_json(path)
    for field, supported in _SUPPORTED.items():
        if settings.get(field) not in supported:
            raise ValueError(
                f"{path}: {field}={settings.get(field)!r} is not supported; supported: "
                f"{supported[0]!r}; merge the adapter with PEFT, and use the result"
            )
    if not (folder / WEIGHTS).is_file() and any(folder.glob("*.bin")):
        raise ValueError(
            f"{folder}: no {WEIGHTS}, only .bin files; save the adapter again with PEFT"
        )
    tensors = dict(open_safetensors(folder / WEIGHTS))
    specs = layer_specs(config)
    layers = []
    for layer in range(config.num_layers):
        pairs = {}
        for name in LINEAR_NAMES:
            module = _module(layer, name)
            a = tensors.pop(f"{_PREFIX}{module}.lora_A.weight", None)
            b = tensors.pop(f"{_PREFIX}{module}.lora_B.weight", None)
            if a is None and b is None:
                continue
            if a is None or b is None:
                raise ValueError(
                    f"{folder / WEIGHTS}: {module} has only one of lora_A and lora_B; "
                    "copy the file again"
                )
            pairs[name] = _pair(path, settings, module, a, b, specs[name].shape, dtype)
        layers.append(pairs)
    if tensors:
        raise ValueError(
            f"{folder / WEIGHTS}: tensor {min(tensors)!r} has no place in an adapter "
            f"of a {config.family} model with {config.num_layers} layers; supported: "
            f"{', '.join(LINEAR_NAMES.values())}; name the adapter of this model"
        )
    if not any(layers):
        raise ValueError(f"{folder / WEIGHTS}: holds no tensors; copy the file again")
    return Lora(tuple(layers))


def export_lora(lora: Lora, folder: Path, config: ModelConfig, base: str) -> None:
    """Writes an adapter as a PEFT folder, which appears only when complete.

    Args:
      folder: does not exist yet, or is empty.
      config: the model that it is an adapter of.
      base: the name or path of that model, for whoever loads the adapter.

    Raises:
      ValueError: `folder` is in use, or the adapter does not fit the model.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: already exists; delete it or name another folder")
    if len(lora.layers) != config.num_layers:
        raise ValueError(
            f"the adapter has {len(lora.layers)} layers, the model "
            f"{config.num_layers}; export it with its own model's config"
        )
    pairs = {
        _module(layer, name): pair
        for layer, layer_pairs in enumerate(lora.layers)
        for name, pair in layer_pairs.items()
    }
    if not pairs:
        raise ValueError("the adapter changes no layer; there is nothing to export")
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process with our id
    partial.mkdir(parents=True)
    try:
        text = json.dumps(_settings(lora, pairs, base), indent=2) + "\n"
        (partial / CONFIG).write_text(text, encoding="utf-8")
        tensors = {}
        for module, pair in pairs.items():
            tensors[f"{_PREFIX}{module}.lora_A.weight"] = pair.a_RI
            tensors[f"{_PREFIX}{module}.lora_B.weight"] = pair.b_OR
        write_safetensors(partial / WEIGHTS, tensors)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def merge(model: Transformer, lora: Lora) -> Transformer:
    """The model with an adapter added into its weights; arrays it leaves are shared.

    Raises:
      ValueError: the model is quantized.
    """
    check_unquantized(model.quantization, "merged with an adapter")
    params = model.arrays()
    for layer, pairs in enumerate(lora.layers):
        for name, pair in pairs.items():
            path = f"layers.{layer}.{name}"
            params[path] = pair.merged(params[path])
    return Transformer(model.config, params)


def _module(layer: int, name: str) -> str:
    """The linear layer's name within a causal language model of transformers."""
    return f"model.layers.{layer}.{LINEAR_NAMES[name]}"


def _pair(
    path: Path,
    settings: dict[str, Any],
    module: str,
    a: StoredTensor,
    b: StoredTensor,
    shape: tuple[int, ...],
    dtype: jnp.dtype,
) -> LoraPair:
    rank = _setting(path, settings, module, "rank_pattern", "r")
    alpha = _setting(path, settings, module, "alpha_pattern", "lora_alpha")
    check_shape(a, (int(rank), shape[1]))
    check_shape(b, (shape[0], int(rank)))
    return LoraPair(
        a_RI=jnp.asarray(a.read().astype(dtype)),
        b_OR=jnp.asarray(b.read().astype(dtype)),
        scale=alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank),
    )


def _setting(
    path: Path, settings: dict[str, Any], module: str, patterns: str, default: str
) -> float:
    """The value for a module: of the first pattern that matches, as PEFT does it."""
    for pattern, value in (settings.get(patterns) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    if default not in settings:
        raise ValueError(f"{path}: has no {default}; copy the file again")
    return settings[default]


def _settings(lora: Lora, pairs: dict[str, LoraPair], base: str) -> dict[str, Any]:
    """The adapter_config.json of an adapter, its most common rank and alpha first."""
    ranks = {module: pair.a_RI.shape[0] for module, pair in pairs.items()}
    # Divided by the rank again, this is the scale, whatever rule it was made by.
    alphas = {m: _rounded(pair.scale * ranks[m]) for m, pair in pairs.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    uniform = len({frozenset(layer) for layer in lora.layers}) == 1
    modules = [LINEAR_NAMES[n].split(".")[-1] for n in lora.layers[0]]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": modules if uniform else list(pairs),
        "rank_pattern": {m: r for m, r in ranks.items() if r != rank},
        "alpha_pattern": {m: a for m, a in alphas.items() if a != alpha},
    }


def _rounded(alpha: float) -> float:
    """A whole number where only rounding has moved alpha off it: 1 / 49 * 49 < 1."""
    return round(alpha) if math.isclose(alpha, round(alpha)) else alpha
