"""Orbax checkpoints of a model, restored onto any mesh.

In a folder, `transformer/` is Orbax's: the item `params`, by path, and the item
`config`, as JSON. config.json, the tokenizer's files and the like lie beside it, as in
the Hugging Face folder that they were copied from.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh, SingleDeviceSharding

from jax_switchgen.checkpoints.hf import copy_companions, with_vocab_size
from jax_switchgen.checkpoints.hf_config import one_line
from jax_switchgen.models.config import (
    Llama3Scaling,
    ModelConfig,
    NormPlacement,
    QKNorm,
    Rope,
)
from jax_switchgen.models.params import model_specs
from jax_switchgen.models.quantization import (
    check_quantization,
    check_unquantized,
    quantize,
)
from jax_switchgen.models.sharding import DEFAULT_RULES, Rules, param_shardings
from jax_switchgen.models.transformer import Transformer

_ITEM = "transformer"


def is_store(folder: Path) -> bool:
    """Whether `restore_transformer` finds a model in `folder`."""
    return (Path(folder) / _ITEM).is_dir()


def save_transformer(model: Transformer, folder: Path) -> None:
    """Writes a model's parameters and config; complete or not at all.

    Every process of a multi-host job calls it, with a folder that all of them see.

    Raises:
      ValueError: there is already a model in `folder`, or this one is quantized.
    """
    check_unquantized(model.quantization, "saved")
    folder = Path(folder).absolute()
    if is_store(folder):
        raise ValueError(f"{folder}: already has a model; delete it or name another")
    folder.mkdir(parents=True, exist_ok=True)
    config = {"config": _config_to_json(model.config), "dtype": model.dtype.name}
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(
            folder / _ITEM,
            ocp.args.Composite(
                params=ocp.args.PyTreeSave(model.arrays()),
                config=ocp.args.JsonSave(config),
            ),
        )


def save_checkpoint(model: Transformer, source: Path, folder: Path) -> None:
    """`save_transformer`, with the tokenizer and the other files of `source` beside it.

    Args:
      source: the Hugging Face folder that the model came from.
    """
    source, folder = Path(source), Path(folder)
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder; name the model's source folder")
    if is_store(folder):
        raise ValueError(f"{folder}: already has a model; delete it or name another")
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        copy_companions(source, folder)
    save_transformer(model, folder)


def restore_transformer(
    folder: Path,
    *,
    dtype: jnp.dtype | None = None,
    vocab_size: int | None = None,
    mesh: Mesh | None = None,
    rules: Rules = DEFAULT_RULES,
    quantization: str | None = None,
) -> Transformer:
    """The model that `save_transformer` wrote, onto this mesh, whatever it came from.

    Args:
      dtype: of the parameters; None: as saved.
      vocab_size: rows of the embedding and the head, filled up with zeros; None: as
        saved.
      mesh: shards the parameters; None: the default device.
      rules: how they lie on the mesh.
      quantization: "int8" quantizes each matrix as soon as it is read; None: none.

    Raises:
      ValueError: there is no model in `folder`, or it is incomplete, or its vocabulary
        is larger.
    """
    check_quantization(quantization)
    folder = Path(folder).absolute()
    if not is_store(folder):
        raise ValueError(
            f"{folder}: no folder {_ITEM!r} in it; name a folder that "
            "`save_transformer` wrote"
        )
    saved = _restore(folder, config=ocp.args.JsonRestore()).config
    config = with_vocab_size(folder, _config_from_json(saved["config"]), vocab_size)
    stored = jnp.dtype(saved["dtype"])
    dtype = jnp.dtype(stored if dtype is None else dtype)
    if quantization is None:
        args = _restore_args(_abstract_params(config, dtype, mesh, rules))
        return Transformer(config, _restore(folder, params=args).params)
    # One by one: there may be no room for all of them. Matrices are read as stored, so
    # that they are rounded once.
    params = {}
    specs = model_specs(config)
    kinds = [_abstract_params(config, d, mesh, rules) for d in (dtype, stored)]
    for path, spec in specs.items():
        args = _restore_args({path: kinds[spec.is_matrix][path]}, partial=True)
        found = _restore(folder, params=args).params[path]
        params[path] = quantize(found) if spec.is_matrix else found
    return Transformer(config, params)


def _restore(folder: Path, **items: ocp.args.CheckpointArgs) -> Any:
    """Some items of a checkpoint."""
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        try:
            return checkpointer.restore(folder / _ITEM, ocp.args.Composite(**items))
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(
                f"{folder}: damaged or incomplete ({one_line(error)[:200]}); copy the "
                "folder again"
            ) from error


def _abstract_params(
    config: ModelConfig, dtype: jnp.dtype, mesh: Mesh | None, rules: Rules
) -> dict[str, jax.ShapeDtypeStruct]:
    """Where each parameter goes: always explicit, never where it was when saved."""
    specs = model_specs(config)
    single = SingleDeviceSharding(jax.local_devices()[0])
    shardings = param_shardings(config, mesh, rules) if mesh is not None else {}
    return {
        path: jax.ShapeDtypeStruct(
            spec.shape, dtype, sharding=shardings.get(path, single)
        )
        for path, spec in specs.items()
    }


def _restore_args(
    abstract: dict[str, jax.ShapeDtypeStruct], *, partial: bool = False
) -> ocp.args.PyTreeRestore:
    """Asks for these parameters, the vocabulary filled up with zeros where it is larger
    than what is stored; `partial`: of more that there are."""
    args = ocp.checkpoint_utils.construct_restore_args(abstract)
    return ocp.args.PyTreeRestore(
        abstract,
        restore_args={
            path: dataclasses.replace(each, strict=path not in ("embed", "head"))
            for path, each in args.items()
        },
        partial_restore=partial,
    )


def _config_to_json(config: ModelConfig) -> dict[str, Any]:
    """Plain JSON values; enums by value."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=lambda e: e.value))


def _config_from_json(content: dict[str, Any]) -> ModelConfig:
    return ModelConfig(
        **content
        | {
            "rope": _rope_from_json(content["rope"]),
            "rope_local": _rope_from_json(content["rope_local"]),
            "local_layers": tuple(content["local_layers"]),
            "qk_norm": QKNorm(content["qk_norm"]),
            "norm_placement": NormPlacement(content["norm_placement"]),
        }
    )


def _rope_from_json(content: dict[str, Any] | None) -> Rope | None:
    if content is None:
        return None
    scaling = content["llama3"]
    return Rope(
        **content | {"llama3": None if scaling is None else Llama3Scaling(**scaling)}
    )
