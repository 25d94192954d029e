"""The shape of a decoder-only transformer: one frozen, static description.

`ModelConfig` says everything in which the supported families differ; it is read from
a checkpoint's own `config.json` by `checkpoints.hf_config`. It is hashable, so it can
be a static argument of a jitted program, and it knows nothing of meshes or dtypes.
"""

import dataclasses
import enum


class NormPlacement(enum.Enum):
    """Where a block normalises: around which side of attention and of the MLP."""

    PRE = "pre"  # Llama, Qwen, Mistral: x + f(norm(x))
    POST = "post"  # OLMo 2: x + norm(f(x))
    BOTH = "both"  # Gemma 2 and 3: x + norm(f(norm(x)))


class QKNorm(enum.Enum):
    """What the RMS norm of queries and keys runs over."""

    NONE = "none"
    HEAD = "head"  # Qwen3, Gemma 3: each head on its own
    ALL = "all"  # OLMo 2: all heads as one vector


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864).

    `linear_factor` divides all frequencies (position interpolation). `llama3` holds
    Llama 3.1's frequency-dependent interpolation.
    """

    theta: float
    linear_factor: float = 1.0
    llama3: "Llama3Scaling | None" = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Long wavelengths are stretched by `factor`, short ones kept, those between
    blended (Llama 3.1 model code, `apply_scaling`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Static description of one architecture.

    Attributes:
      family: `model_type` of the checkpoint, for reading and writing tensor names.
      vocab_size: rows of the embedding, padding included.
      max_positions: longest context that the checkpoint was made for, in tokens.
      query_scale: factor on the attention logits (usually head_dim ** -0.5).
      qkv_bias: biases on the q, k and v projections (Qwen2.5).
      norm_plus_one: the norm multiplies by 1 + weight (Gemma).
      norm_in_float32: it multiplies before it rounds to the compute dtype (Gemma and
        OLMo 2), the others after.
      embed_scale: factor on the embedding, rounded to the compute dtype (Gemma).
      attn_softcap, final_softcap: cap * tanh(x / cap) on logits (Gemma 2), or None.
      sliding_window: tokens that a local layer sees, itself included, or None.
      local_layers: for each layer, whether it is local.
      rope, rope_local: rotary embedding of global and of local layers.
      tie_embeddings: the embedding is also the output head.
    """

    family: str
    vocab_size: int
    embed_dim: int
    mlp_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    # Bounds requests, shapes nothing: siblings that differ in it share programs.
    max_positions: int = dataclasses.field(compare=False)
    norm_eps: float
    query_scale: float
    rope: Rope
    rope_local: Rope | None = None
    sliding_window: int | None = None
    local_layers: tuple[bool, ...] = ()
    qkv_bias: bool = False
    qk_norm: QKNorm = QKNorm.NONE
    norm_placement: NormPlacement = NormPlacement.PRE
    norm_plus_one: bool = False
    norm_in_float32: bool = False
    activation: str = "silu"
    embed_scale: float = 1.0
    attn_softcap: float | None = None
    final_softcap: float | None = None
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads={self.num_heads} is no multiple of "
                f"num_kv_heads={self.num_kv_heads}; the checkpoint's config is wrong"
            )
        if self.activation not in ("silu", "gelu_tanh"):
            raise ValueError(
                f"activation {self.activation!r} is not supported; "
                "supported: silu, gelu_tanh"
            )
        if self.local_layers and len(self.local_layers) != self.num_layers:
            raise ValueError(
                f"local_layers has {len(self.local_layers)} entries, "
                f"num_layers is {self.num_layers}"
            )

    def is_local(self, layer: int) -> bool:
        """Whether `layer` sees only its sliding window."""
        return bool(self.local_layers) and self.local_layers[layer]
