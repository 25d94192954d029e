"""Where training's arrays lie on the mesh: examples, activations, parameters, state.

Mesh axes: "data" repeats the model on other examples, "fsdp" does too and splits each
parameter by width, "tensor" splits heads, MLP and vocabulary. With one device all are
of size 1. Nothing here moves data in a step: GSPMD inserts the collectives.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jax_switchgen.models.attention import Attend
from jax_switchgen.models.config import ModelConfig
from jax_switchgen.models.lora import Lora, LoraPair
from jax_switchgen.models.quantization import Int8Matrix, Matrix
from jax_switchgen.models.sharding import (
    TRAINING_RULES,
    lora_shardings,
    named,
    param_shardings,
)
from jax_switchgen.models.stacked import StackedTransformer
from jax_switchgen.models.transformer import BlockWeights, Transformer

EXAMPLES = ("data", "fsdp")  # the axes over which rows of a batch are split
AXES = (*EXAMPLES, "tensor")
GATHERED = "gathered"

# What is trained: an adapter, or all parameters by path, as `model_specs` names them.
Params = Lora | dict[str, jax.Array]


def make_mesh(fsdp: int, tensor: int, part_size: int) -> Mesh:
    """A mesh of all devices of all processes.

    Args:
      part_size: rows that are worked on at once.

    Raises:
      ValueError: the devices, or the rows, cannot be split so.
    """
    devices = jax.device_count()
    check_split(devices, fsdp, tensor, part_size)
    shape = (devices // (fsdp * tensor), fsdp, tensor)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3)


def check_split(devices: int, fsdp: int, tensor: int, part_size: int) -> None:
    """Raises ValueError if so many devices, or the rows, cannot be split so."""
    if devices % (fsdp * tensor):
        raise ValueError(
            f"training.fsdp={fsdp} times training.tensor={tensor} does not divide the "
            f"{devices} devices"
        )
    copies = devices // tensor
    if part_size % copies:
        raise ValueError(
            f"{part_size} examples at once (training.batch_size / accumulation) do not "
            f"divide over {copies} devices; choose a multiple, or raise training.tensor"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def params_shardings(params: Params, config: ModelConfig, mesh: Any) -> Any:
    """The sharding of each array, in a tree like `params`.

    The factors of an adapter are split as the matrix that they are added to: A by its
    inputs, B by its outputs.
    """
    if isinstance(params, Lora):
        return lora_shardings(params, config, mesh, TRAINING_RULES)
    found = param_shardings(config, mesh, TRAINING_RULES)
    return {path: named(mesh, *found[path].spec) for path in params}


def like_params(tree: Any, params: Params, config: ModelConfig, mesh: Any) -> Any:
    """Shardings for a tree that holds things of the shape of `params` (an optimizer's
    averages), which lie as parameters do; all else is replicated."""
    structure = jax.tree.structure(params)
    shardings = params_shardings(params, config, mesh)
    other = replicated(mesh)

    def same(node: Any) -> bool:
        found: Any = jax.tree.structure(node)
        return found == structure

    return jax.tree.map(lambda x: shardings if same(x) else other, tree, is_leaf=same)


def place(tree: Any, shardings: Any) -> Any:
    """Host arrays, the same in every process, onto the devices; each gets its part."""

    def one(x: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(x, jax.Array):  # a checkpoint's, loaded onto the mesh
            return jax.device_put(x, sharding)
        return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])

    return jax.tree.map(one, tree, shardings)


def rows_sharding(mesh: Mesh, axis: int) -> NamedSharding:
    """Of arrays whose rows, counted along `axis`, are split over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, EXAMPLES))


def place_rows(tree: Any, mesh: Mesh, axis: int) -> Any:
    """Host arrays onto the devices, as `rows_sharding` says."""
    sharding = rows_sharding(mesh, axis)
    return place(tree, jax.tree.map(lambda _: sharding, tree))


def keep_rows_split(x: jax.Array) -> jax.Array:
    """Inside a program: activations stay split by rows, and whole otherwise.

    Left to itself, GSPMD may prefer the split of the weights that come next.
    """
    if not _mesh().shape:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(EXAMPLES))


def with_whole_rows(model: Any) -> Any:
    """Inside a program: the model with the embedding split by vocabulary alone, to look
    rows up in. GSPMD would look up parts of rows and then not know how to join them."""
    if not _mesh().shape:
        return model
    split = PartitionSpec("tensor")
    if isinstance(model, StackedTransformer):
        embed_VD = jax.lax.with_sharding_constraint(model.outer["embed"], split)
        return dataclasses.replace(model, outer={**model.outer, "embed": embed_VD})
    params = model.arrays()
    params["embed"] = jax.lax.with_sharding_constraint(params["embed"], split)
    return Transformer(model.config, params)


def gathered(weights: BlockWeights, config: ModelConfig) -> BlockWeights:
    """Inside a program: a block's weights as generation splits them, by heads and MLP
    alone. Each product would gather its own: 8B on 8 v5e sends 1.7 times the bytes.

    `jax.checkpoint` knows them by the name `GATHERED`.
    """
    mesh = _mesh()
    if not mesh.shape:
        return weights
    shardings = param_shardings(config, mesh)

    def whole(name: str, w: Matrix) -> Matrix:
        lies: Any = shardings[f"layers.0.{name}"]
        if isinstance(w, Int8Matrix):
            of_outputs: Any = named(mesh, *lies.spec[:1])
            lies = Int8Matrix(lies, of_outputs)
        w = jax.lax.with_sharding_constraint(w, lies)
        return checkpoint_name(w, GATHERED)

    arrays = {name: whole(name, w) for name, w in weights.arrays.items()}
    return dataclasses.replace(weights, arrays=arrays)


def gathers() -> bool:
    """Inside a program: whether `gathered` joins anything."""
    return _mesh().shape.get("fsdp", 1) > 1


def gathered_pairs(
    pairs: dict[str, LoraPair], config: ModelConfig
) -> dict[str, LoraPair]:
    """Inside a program: an adapter's stacked factors likewise, those of all layers at
    once, for they are small."""
    mesh = _mesh()
    if not mesh.shape:
        return pairs
    (of_one,) = lora_shardings(Lora((pairs,)), config, mesh).layers
    of_all = jax.tree.map(lambda lies: named(mesh, None, *lies.spec), of_one)
    return jax.lax.with_sharding_constraint(pairs, of_all)


def of_each_device(kernel: Attend) -> Attend:
    """Inside a program: attention of each device's rows and heads, by itself. GSPMD
    cannot split a kernel."""
    if not _mesh().shape:
        return kernel
    heads = PartitionSpec(EXAMPLES, "tensor")  # q_BNTH, k_BKTH, v_BKTH

    def attend(c: ModelConfig, *arrays: Any) -> jax.Array:
        return jax.shard_map(
            functools.partial(kernel, c),
            in_specs=(heads, heads, PartitionSpec()),
            out_specs=PartitionSpec(EXAMPLES, None, "tensor"),  # x_BTO
            check_vma=False,
        )(*arrays)

    return attend


def keep_split(tree: Any, params: Params, config: ModelConfig) -> Any:
    """Inside a program: gradients and the new state stay where `like_params` puts them,
    so that the next step's program takes them as they are."""
    mesh = _mesh()
    if not mesh.shape:
        return tree
    return jax.lax.with_sharding_constraint(
        tree, like_params(tree, params, config, mesh)
    )


def everywhere(x: jax.Array) -> jax.Array:
    """Inside a program: a result that every process can read."""
    if not _mesh().shape:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def zeros(tree: Any, shardings: Any) -> Any:
    """Arrays of the shapes of an abstract tree, made where they are to be."""
    return jax.tree.map(
        lambda x, s: jnp.zeros(x.shape, x.dtype, device=s), tree, shardings
    )


def _mesh() -> Any:
    """The mesh that `jax.set_mesh` has entered, without its devices."""
    return jax.sharding.get_abstract_mesh()
