"""Writes a GGUF file as a Hugging Face folder of bfloat16 weights.

llama.cpp renames the tensors of every family, adds 1 to Gemma's norms and reorders the
rows of Llama's query and key projections. All of it is undone here. None of it would
raise an error if forgotten: without the row order, plain English costs SmolLM2 4.4 nats
per token and not 2.4, and it still writes words.
"""

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jax_switchgen.checkpoints.gguf_families import (
    GLOBAL_TENSORS,
    Family,
    find_family,
    hf_config,
    hf_generation_config,
)
from jax_switchgen.checkpoints.gguf_reader import GGUFFile, read_gguf
from jax_switchgen.checkpoints.gguf_tokenizer import write_tokenizer

# Part of cache names: raise it when the written folder changes.
CONVERTER_VERSION = 1

Progress = Callable[[int, int, str], None]


def convert_gguf(source: Path, target: Path, progress: Progress | None = None) -> Path:
    """Writes the GGUF file `source` as the Hugging Face folder `target`.

    The folder holds config.json, generation_config.json, model.safetensors (bfloat16),
    tokenizer.json and tokenizer_config.json (with the chat template, if the file has
    one). It appears under its name only when complete.

    Args:
      source: a GGUF file of a family in `gguf_families`, whole and not split.
      target: a folder that does not exist yet, or is empty.
      progress: called as (tensors done, tensors in all, name of the tensor).

    Returns:
      `target`.

    Raises:
      ValueError: the file is damaged, incomplete or of an unsupported kind, or
        `target` is in use. The message is one line with the remedy.
    """
    source, target = Path(source), Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target}: already exists; delete it or name another folder")
    file = read_gguf(source)
    family = find_family(file)
    config = hf_config(file, family)
    names = _tensor_names(file, family, config)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process with our id
    partial.mkdir(parents=True)
    try:
        write_tokenizer(file, partial, max_positions=config["max_position_embeddings"])
        _write_json(partial / "config.json", config)
        _write_json(partial / "generation_config.json", hf_generation_config(file))
        _write_weights(
            partial / "model.safetensors", file, family, config, names, progress
        )
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _tensor_names(
    file: GGUFFile, family: Family, config: dict[str, Any]
) -> dict[str, str]:
    """GGUF name to Hugging Face name, after checking that names and shapes fit."""
    sizes = {
        "D": config["hidden_size"],
        "Q": config["num_attention_heads"] * config["head_dim"],
        "K": config["num_key_value_heads"] * config["head_dim"],
        "H": config["head_dim"],
        "F": config["intermediate_size"],
        "V": config["vocab_size"],
    }
    wanted = dict(GLOBAL_TENSORS)
    if config["tie_word_embeddings"]:
        del wanted["output.weight"]
    for layer in range(config["num_hidden_layers"]):
        for name, (hf_name, axes) in family.layer_tensors.items():
            wanted[f"blk.{layer}.{name}"] = (f"model.layers.{layer}.{hf_name}", axes)
    for name, (_, axes) in wanted.items():
        shape = tuple(sizes[axis] for axis in axes)
        found = file.tensor(name).shape
        if found != shape:
            raise ValueError(
                f"{file.path}: tensor {name!r} has shape {found}, but the header's "
                f"sizes ask for {shape}; this variant of {file.architecture} is not "
                "supported"
            )
    unknown = sorted(set(file.tensors) - set(wanted) - {"rope_freqs.weight"})
    if unknown:
        raise ValueError(
            f"{file.path}: tensor {unknown[0]!r} has no place in a "
            f"{family.model_class}; this variant of {file.architecture} is not "
            "supported"
        )
    return {name: hf_name for name, (hf_name, _) in wanted.items()}


def _write_weights(
    path: Path,
    file: GGUFFile,
    family: Family,
    config: dict[str, Any],
    names: dict[str, str],
    progress: Progress | None,
) -> None:
    """Streams all tensors into one safetensors file.

    The format is the length of the header as 8 bytes little-endian, the header as JSON
    padded with spaces to a multiple of 8, and the tensors' bytes without gaps. The
    library's own writer would hold all tensors in memory.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, hf_name in names.items():
        shape = file.tensors[name].shape
        start, end = end, end + math.prod(shape) * 2
        header[hf_name] = {
            "dtype": "BF16",
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for done, name in enumerate(names, start=1):
            offset = family.norm_offset if name.endswith("norm.weight") else 0.0
            for rows in file.float32_rows(name, _row_order(name, family, config)):
                stream.write((rows - offset).astype(ml_dtypes.bfloat16).tobytes())
            if progress is not None:
                progress(done, len(names), name)


def _row_order(name: str, family: Family, config: dict[str, Any]) -> np.ndarray | None:
    """The stored row of each row of a query or key projection; None if in order.

    llama.cpp rotates neighbouring rows of a head with each other, Hugging Face rows
    half a head apart.

    In:   one head of 6 rows, stored as 0 3 1 4 2 5
    Out:  [0 2 4 1 3 5], the places where rows 0, 1, 2, … are stored
    """
    heads = {
        "attn_q.weight": config["num_attention_heads"],
        "attn_k.weight": config["num_key_value_heads"],
    }.get(name.split(".", 2)[-1])
    if not family.interleaved or heads is None:
        return None
    stored = np.arange(heads * config["head_dim"])
    return stored.reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
