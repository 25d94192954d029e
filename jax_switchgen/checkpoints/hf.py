"""Hugging Face folders: safetensors to parameters, and back.

Weights keep the checkpoint's `[out, in]` layout, so that a tensor is only renamed and
cast, and one map of names serves both directions.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from jax_switchgen.checkpoints.hf_config import one_line, read_config, read_json
from jax_switchgen.checkpoints.safetensors_file import (
    StoredTensor,
    check_shape,
    open_safetensors,
    write_safetensors,
)
from jax_switchgen.models.config import ModelConfig, NormPlacement
from jax_switchgen.models.params import ArraySpec, model_specs
from jax_switchgen.models.quantization import (
    Matrix,
    check_quantization,
    check_unquantized,
    quantize,
)
from jax_switchgen.models.sharding import DEFAULT_RULES, Rules, param_shardings
from jax_switchgen.models.transformer import Transformer

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9  # of one exported file

_OUTER_NAMES = {
    "embed": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
}
LINEAR_NAMES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_QK_NORM_NAMES = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
_NORM_NAMES = {
    NormPlacement.PRE: {
        "attn_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
    },
    NormPlacement.POST: {
        "post_attn_norm": "post_attention_layernorm",
        "post_mlp_norm": "post_feedforward_layernorm",
    },
    NormPlacement.BOTH: {
        "attn_norm": "input_layernorm",
        "post_attn_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "post_mlp_norm": "post_feedforward_layernorm",
    },
}
_COMPARED_ROWS = 4096


def tensor_names(config: ModelConfig) -> dict[str, str]:
    """The Hugging Face name of each parameter, by the paths of `model_specs`."""
    modules = LINEAR_NAMES | _QK_NORM_NAMES | _NORM_NAMES[config.norm_placement]
    found = {}
    for path in model_specs(config):
        if path in _OUTER_NAMES:
            found[path] = _OUTER_NAMES[path]
            continue
        _, layer, name = path.split(".")
        kind = "bias" if name.endswith("_bias") else "weight"
        module = modules[name.removesuffix("_bias")]
        found[path] = f"model.layers.{layer}.{module}.{kind}"
    return found


def load_transformer(
    folder: Path,
    *,
    dtype: jnp.dtype,
    vocab_size: int | None = None,
    mesh: Mesh | None = None,
    rules: Rules = DEFAULT_RULES,
    quantization: str | None = None,
) -> Transformer:
    """The model in a Hugging Face folder, tensor by tensor onto the devices.

    Args:
      folder: holds config.json and model.safetensors, or its shards and their index.
      dtype: of the parameters, and of the computation.
      vocab_size: rows of the embedding and the head, filled up with zeros, so that
        siblings that differ in padding are one program. None: as stored.
      mesh: shards the parameters; each host reads only its own parts. None: the
        default device.
      rules: how they lie on the mesh.
      quantization: "int8" quantizes each matrix as soon as it is read; None: none.

    Raises:
      ValueError: the checkpoint is incomplete, damaged or not supported. The message
        is one line with the remedy.
    """
    folder = Path(folder)
    config = read_config(folder)
    return transformer_from(
        folder,
        config,
        open_weights(folder),
        dtype=dtype,
        vocab_size=vocab_size,
        mesh=mesh,
        rules=rules,
        quantization=quantization,
    )


def transformer_from(
    folder: Path,
    stored_config: ModelConfig,
    tensors: dict[str, StoredTensor],
    *,
    dtype: jnp.dtype,
    vocab_size: int | None = None,
    mesh: Mesh | None = None,
    rules: Rules = DEFAULT_RULES,
    quantization: str | None = None,
) -> Transformer:
    """`load_transformer` for a folder of which the caller read, and may have changed,
    the config and the tensors."""
    check_quantization(quantization)
    config = with_vocab_size(folder, stored_config, vocab_size)
    names = tensor_names(config)
    _check_tensors(folder, tensors, stored_config)
    specs = model_specs(config)
    shardings = param_shardings(config, mesh, rules) if mesh is not None else {}

    def load(path: str, spec: ArraySpec) -> Matrix:
        tensor, sharding = tensors[names[path]], shardings.get(path)
        if quantization and spec.is_matrix:
            # As stored: rounded once, whatever the dtype of the rest.
            return quantize(_place(tensor, spec, tensor.dtype, sharding))
        return _place(tensor, spec, jnp.dtype(dtype), sharding)

    params = {path: load(path, spec) for path, spec in specs.items()}
    return Transformer(config, params)


def export_transformer(
    model: Transformer, folder: Path, source: Path, *, vocab_size: int | None = None
) -> None:
    """Writes a model as a Hugging Face folder that transformers loads.

    The folder appears under its name only when it is complete and read back.

    Args:
      folder: does not exist yet, or is empty.
      source: the folder that the model came from: gives the config, the tokenizer,
        the generation defaults and the notices of the licence.
      vocab_size: rows of the embedding to write. None: as many as `source` has, so
        that padding added when loading is taken off.

    Raises:
      ValueError: `folder` is in use, `source` describes another architecture, or the
        model is quantized.
    """
    check_unquantized(model.quantization, "exported")
    folder, source = Path(folder), Path(source)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: already exists; delete it or name another folder")
    config = read_config(source)
    if dataclasses.replace(model.config, vocab_size=config.vocab_size) != config:
        raise ValueError(
            f"{source}: describes another architecture than the model's; "
            "name the folder that the model was loaded from"
        )
    rows = vocab_size or config.vocab_size
    if rows > model.config.vocab_size:
        raise ValueError(
            f"vocab_size={rows} is more than the model's {model.config.vocab_size} "
            "rows; load the model with at least as many"
        )
    config = dataclasses.replace(config, vocab_size=rows)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process with our id
    partial.mkdir(parents=True)
    try:
        copy_companions(source, partial)
        _write_config(source, partial, model.dtype, rows)
        _write_shards(model.arrays(), config, partial)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a Hugging Face folder.

    Raises:
      ValueError: it has no tokenizer.json, or transformers cannot read it.
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(
            f"{folder}: no tokenizer.json; make it where the model came from: "
            "AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ValueError(
            f"{folder}: transformers cannot read the tokenizer ({one_line(error)}); "
            "copy its files again"
        ) from error


def stop_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end a response, by any of the places that can say so."""
    found = {tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        if path.is_file():
            ids = read_json(path).get("eos_token_id")
            found.update(ids if isinstance(ids, list) else [ids])
    return tuple(sorted(found - {None}))


def copy_companions(source: Path, target: Path) -> None:
    """Copies what a model needs beside its weights: the config, the tokenizer, the
    generation defaults, and the licence and its notices."""
    for path in source.iterdir():
        wanted = path.suffix in (".json", ".jinja", ".txt", ".model", ".md", ".html")
        wanted |= path.name.upper().startswith(("LICENSE", "NOTICE"))
        # The source's model card would describe another model.
        unwanted = path.name == "README.md" or path.name.startswith("adapter_")
        if wanted and not unwanted and not path.name.endswith(".index.json"):
            shutil.copyfile(path, target / path.name)
    templates = source / "additional_chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, target / templates.name)


def with_vocab_size(
    folder: Path, config: ModelConfig, vocab_size: int | None
) -> ModelConfig:
    """The config with so many tokens, the added ones padding; None: as it is."""
    if vocab_size is None:
        return config
    if vocab_size < config.vocab_size:
        raise ValueError(
            f"{folder}: has {config.vocab_size} tokens, more than vocab_size="
            f"{vocab_size}; it can only be padded"
        )
    return dataclasses.replace(config, vocab_size=vocab_size)


def open_weights(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a checkpoint by name."""
    single, index = folder / WEIGHTS, folder / WEIGHTS_INDEX
    if single.is_file():
        return dict(open_safetensors(single))
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ValueError(f"{index}: has no weight_map; copy the file again")
        tensors: dict[str, StoredTensor] = {}
        for name in sorted(set(weight_map.values())):
            tensors.update(open_safetensors(folder / name))
        return tensors
    remedy = "copy them from the model's source"
    if any(folder.glob("*.bin")):
        remedy = (
            "its weights are .bin files: convert them with transformers, "
            "from_pretrained(…).save_pretrained(…) of its class"
        )
    raise ValueError(f"{folder}: neither {WEIGHTS} nor {WEIGHTS_INDEX}; {remedy}")


def _check_tensors(
    folder: Path, tensors: dict[str, StoredTensor], config: ModelConfig
) -> None:
    """Checks that the checkpoint has the parameters of `config`, and no others."""
    names = tensor_names(config)
    for path, spec in model_specs(config).items():
        if names[path] not in tensors:
            file = WEIGHTS if (folder / WEIGHTS).is_file() else WEIGHTS_INDEX
            hint = " (config.json has tie_word_embeddings=false)"
            raise ValueError(
                f"{folder / file}: tensor {names[path]!r} is missing"
                f"{hint if path == 'head' else ''}; copy the checkpoint again"
            )
        check_shape(tensors[names[path]], spec.shape)
    for name in sorted(tensors.keys() - set(names.values())):
        tensor = tensors[name]
        if name.endswith("rotary_emb.inv_freq"):  # old exports; computed here
            continue
        if name != _OUTER_NAMES["head"]:
            raise ValueError(
                f"{tensor.file}: tensor {name!r} has no place in a {config.family} "
                "model with this config.json; use a checkpoint without it"
            )
        embed = tensors[_OUTER_NAMES["embed"]]
        check_shape(tensor, embed.shape)
        # transformers unties the two if they differ, whatever the config says.
        rows = embed.shape[0]
        for start in range(0, rows, _COMPARED_ROWS):
            part = (slice(start, min(start + _COMPARED_ROWS, rows)),)
            if not np.array_equal(embed.read(part), tensor.read(part)):
                raise ValueError(
                    f"{tensor.file}: tensor {name!r} differs from the embedding, but "
                    "config.json has tie_word_embeddings=true; set it to false"
                )


def _place(
    tensor: StoredTensor,
    spec: ArraySpec,
    dtype: jnp.dtype,
    sharding: jax.sharding.NamedSharding | None,
) -> jax.Array:
    """A stored tensor on the devices, with rows of zeros up to the spec's shape."""
    parts: dict[tuple[tuple[int, int, int], ...], np.ndarray] = {}

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        """What one device holds; read once, also where several hold the same."""
        assert index is not None
        key = tuple(s.indices(n) for s, n in zip(index, spec.shape, strict=True))
        if key not in parts:
            (start, stop, _), *columns = key
            shape = (stop - start, *(len(range(*c)) for c in columns))
            parts[key] = np.zeros(shape, dtype)
            # safetensors refuses slices that reach beyond the end, or are empty.
            stop = min(stop, tensor.shape[0])
            if start < stop:
                index = (slice(start, stop), *(slice(*c) for c in columns))
                parts[key][: stop - start] = tensor.read(index)  # and casts
        return parts[key]

    if sharding is None:
        placed = jnp.asarray(part((slice(None),) * len(spec.shape)))
    else:
        placed = jax.make_array_from_callback(spec.shape, sharding, part, dtype=dtype)
    # Copies to the device are asynchronous, and hold their host arrays meanwhile.
    return placed.block_until_ready()


def _write_config(source: Path, folder: Path, dtype: jnp.dtype, rows: int) -> None:
    """The source's config.json, with the dtype and the vocabulary of the export."""
    content = read_json(source / "config.json")
    # Before transformers 4.56 the key was torch_dtype; newer ones read both.
    key = "torch_dtype" if "torch_dtype" in content else "dtype"
    content |= {key: dtype.name, "vocab_size": rows}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _write_shards(
    params: dict[str, jax.Array], config: ModelConfig, folder: Path
) -> None:
    """The parameters in files of at most about `SHARD_BYTES`, with an index if many."""
    names = tensor_names(config)
    shapes = {path: spec.shape for path, spec in model_specs(config).items()}
    shards: list[list[str]] = [[]]
    sizes = [0]
    for path, shape in shapes.items():
        nbytes = int(np.prod(shape)) * params[path].dtype.itemsize
        if shards[-1] and sizes[-1] + nbytes > SHARD_BYTES:
            shards.append([])
            sizes.append(0)
        shards[-1].append(path)
        sizes[-1] += nbytes
    weight_map: dict[str, str] = {}
    for number, paths in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        file = WEIGHTS if len(shards) == 1 else file
        tensors = {names[p]: np.asarray(params[p])[: shapes[p][0]] for p in paths}
        write_safetensors(folder / file, tensors)
        weight_map |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
        text = json.dumps(index, indent=2) + "\n"
        (folder / WEIGHTS_INDEX).write_text(text, encoding="utf-8")
