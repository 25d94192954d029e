"""Reads the shape of a model from a Hugging Face checkpoint's config.json.

transformers' AutoConfig fills in what the file leaves out, and brings older spellings
to one form. A setting that the model here does not have is refused, never ignored.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from jax_switchgen.models.config import (
    Llama3Scaling,
    ModelConfig,
    NormPlacement,
    QKNorm,
    Rope,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Family:
    """What the architecture of a `model_type` implies, whatever its config.json says.

    Attributes:
      activation: the config's field that names the activation of the MLP.
      gemma: norms by 1 + weight, a scaled embedding, and `query_pre_attn_scalar`.
      biases: fields that must be off: they add biases that the model here lacks.
      all_local: `sliding_window`, where set, is that of every layer.
    """

    norm_placement: NormPlacement = NormPlacement.PRE
    qk_norm: QKNorm = QKNorm.NONE
    qkv_bias: bool = False
    activation: str = "hidden_act"
    gemma: bool = False
    biases: tuple[str, ...] = ()
    all_local: bool = False


_FAMILIES = {
    "llama": _Family(biases=("attention_bias", "mlp_bias")),
    "mistral": _Family(all_local=True),
    "qwen2": _Family(qkv_bias=True),
    "qwen3": _Family(qk_norm=QKNorm.HEAD, biases=("attention_bias",)),
    "olmo2": _Family(
        norm_placement=NormPlacement.POST,
        qk_norm=QKNorm.ALL,
        biases=("attention_bias",),
    ),
    "gemma2": _Family(
        norm_placement=NormPlacement.BOTH,
        activation="hidden_activation",
        gemma=True,
        biases=("attention_bias",),
    ),
    "gemma3_text": _Family(
        norm_placement=NormPlacement.BOTH,
        qk_norm=QKNorm.HEAD,
        activation="hidden_activation",
        gemma=True,
        biases=("attention_bias",),
    ),
}
_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_LAYER_TYPES = {"full_attention": False, "sliding_attention": True}


def read_config(folder: Path) -> ModelConfig:
    """The model that the config.json in `folder` describes.

    Raises:
      ValueError: the file is missing or damaged, or asks for something that is not
        supported. The message is one line: file, field, value, what is supported.
    """
    path = Path(folder) / "config.json"
    raw = read_json(path)
    family = _FAMILIES.get(raw.get("model_type", ""))
    if family is None:
        raise _unsupported(path, "model_type", raw.get("model_type"), _FAMILIES)
    if raw.get("quantization_config"):
        method = raw["quantization_config"].get("quant_method", "unnamed")
        raise ValueError(
            f"{path}: quantization_config has quant_method={method!r}; supported: "
            "float32, float16 and bfloat16 weights; use the unquantized checkpoint"
        )
    try:
        hf = AutoConfig.from_pretrained(path.parent)
    except (ValueError, TypeError, KeyError, OSError, StrictDataclassError) as error:
        raise ValueError(
            f"{path}: transformers cannot read it ({one_line(error)}); correct the file"
        ) from error
    for field in (*family.biases, "use_bidirectional_attention"):
        if getattr(hf, field, False):
            raise _unsupported(path, field, True, [False])
    activation = getattr(hf, family.activation)
    if activation not in _ACTIVATIONS:
        raise _unsupported(path, family.activation, activation, _ACTIVATIONS)

    local_layers = _local_layers(path, hf, family)
    rope, rope_local = _ropes(path, hf)
    head_dim = getattr(hf, "head_dim", None)
    head_dim = head_dim or hf.hidden_size // hf.num_attention_heads
    scaled_by = hf.query_pre_attn_scalar if family.gemma else head_dim
    try:
        return ModelConfig(
            family=hf.model_type,
            vocab_size=hf.vocab_size,
            embed_dim=hf.hidden_size,
            mlp_dim=hf.intermediate_size,
            num_layers=hf.num_hidden_layers,
            num_heads=hf.num_attention_heads,
            num_kv_heads=hf.num_key_value_heads,
            head_dim=head_dim,
            max_positions=hf.max_position_embeddings,
            norm_eps=hf.rms_norm_eps,
            query_scale=scaled_by**-0.5,
            rope=rope,
            rope_local=rope_local if any(local_layers) else None,
            sliding_window=hf.sliding_window if any(local_layers) else None,
            local_layers=local_layers if any(local_layers) else (),
            qkv_bias=family.qkv_bias,
            qk_norm=family.qk_norm,
            norm_placement=family.norm_placement,
            norm_plus_one=family.gemma,
            norm_in_float32=family.gemma or family.norm_placement is NormPlacement.POST,
            activation=_ACTIVATIONS[activation],
            embed_scale=math.sqrt(hf.hidden_size) if family.gemma else 1.0,
            attn_softcap=hf.attn_logit_softcapping if family.gemma else None,
            final_softcap=hf.final_logit_softcapping if family.gemma else None,
            tie_embeddings=hf.tie_word_embeddings,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      ValueError: there is no such file, or it holds something else.
    """
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: no such folder; name a checkpoint's folder")
    if not path.is_file():
        raise ValueError(f"{path}: no such file; copy it from the model's source")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}: not JSON ({one_line(error)}); copy the file again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: holds a {type(content).__name__} and not a JSON object; "
            "copy the file again"
        )
    return content


def one_line(error: Exception) -> str:
    """What an exception says, without line breaks."""
    return " ".join(str(error).split())


def _local_layers(path: Path, hf: Any, family: _Family) -> tuple[bool, ...]:
    """For each layer, whether it sees only a sliding window."""
    window = getattr(hf, "sliding_window", None)
    if family.all_local:
        return (window is not None,) * hf.num_hidden_layers
    layer_types = getattr(hf, "layer_types", None) or ()
    for kind in layer_types:
        if kind not in _LAYER_TYPES:
            raise _unsupported(path, "layer_types", kind, _LAYER_TYPES)
    local = tuple(_LAYER_TYPES[kind] for kind in layer_types)
    if any(local) and not window:
        raise ValueError(
            f"{path}: layer_types has sliding_attention, but sliding_window is "
            f"{window!r}; give the window in tokens, or make all layers full_attention"
        )
    return local


def _ropes(path: Path, hf: Any) -> tuple[Rope, Rope | None]:
    """The rotary embeddings of global and of local layers (None: the same)."""
    parameters = hf.rope_parameters
    if "full_attention" not in parameters:
        return _rope(path, parameters), None
    return (
        _rope(path, parameters["full_attention"]),
        _rope(path, parameters["sliding_attention"]),
    )


def _rope(path: Path, parameters: dict[str, Any]) -> Rope:
    kind, theta = parameters["rope_type"], float(parameters["rope_theta"])
    if (fraction := parameters.get("partial_rotary_factor", 1.0)) != 1.0:
        raise _unsupported(path, "partial_rotary_factor", fraction, [1.0])
    if kind == "default":
        return Rope(theta=theta)
    if kind == "linear":
        return Rope(theta=theta, linear_factor=float(parameters["factor"]))
    if kind == "llama3":
        scaling = Llama3Scaling(
            factor=float(parameters["factor"]),
            low_freq_factor=float(parameters["low_freq_factor"]),
            high_freq_factor=float(parameters["high_freq_factor"]),
            original_max_positions=int(parameters["original_max_position_embeddings"]),
        )
        return Rope(theta=theta, llama3=scaling)
    raise _unsupported(path, "rope_type", kind, ["default", "linear", "llama3"])


def _unsupported(path: Path, field: str, value: Any, supported: Any) -> ValueError:
    names = ", ".join(str(name) for name in supported)
    return ValueError(
        f"{path}: {field}={value!r} is not supported; supported: {names}; "
        "use another checkpoint"
    )
