"""Where each parameter lives on a mesh: logical axes mapped to mesh axes by one table.

The default is tensor parallelism (Shoeybi et al. 2019, arXiv 1909.08053): heads and the
MLP's inner dimension are split, each block's two outputs are summed over "tensor".
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from jax_switchgen.models.config import ModelConfig
from jax_switchgen.models.lora import Lora
from jax_switchgen.models.params import model_specs

Rules = Mapping[str, str | None]  # logical axis -> mesh axis, or None: replicated

DEFAULT_RULES: Rules = {
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "embed": None,
    "batch": "data",
}
# In training every matrix is split over "fsdp" too (Rajbhandari et al. 2020, arXiv
# 1910.02054), along the model's width, which all of them have; so are its gradients and
# its optimizer state.
TRAINING_RULES: Rules = {**DEFAULT_RULES, "embed": "fsdp"}

_REMEDIES = {
    "vocab": "pad the vocabulary when loading (vocab_size=…)",
    "batch": "choose another batch size",
}


PLACEMENTS = ("colocated", "disjoint")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """Where models that generate lie; the `mesh` section of a config.

    A process uses its own devices alone: several processes share a job's inputs, and no
    model.

    Attributes:
      slice: the TPU slice that the config is made for, as "v4-8", which is what
        `launch/plan.py` plans for; None: whatever there is.
      tensor: devices over which heads, MLP and vocabulary of each model are split.
      placement: "colocated": all models lie on the same devices and take turns;
        "disjoint": each candidate and the switcher lies on devices of its own, and all
        work at the same time on the rows that wait for them.
    """

    slice: str | None = None
    tensor: int = 1
    placement: str = "colocated"

    def __post_init__(self) -> None:
        if self.tensor < 1:
            raise ValueError(f"mesh.tensor={self.tensor} must be 1 or more")
        if self.placement not in PLACEMENTS:
            raise ValueError(
                f"mesh.placement={self.placement!r} is not one of "
                f"{', '.join(PLACEMENTS)}"
            )


def local_mesh(options: MeshOptions, place: int = 0) -> Mesh | None:
    """The mesh of a pool's model among this process's devices.

    Args:
      place: of the model in its pool, the candidates first and then the switcher.
    Returns:
      None where all models lie on a single device.
    Raises:
      ValueError: there are fewer devices.
    """
    is_disjoint = options.placement == "disjoint"
    if options.tensor == 1 and not is_disjoint:
        return None
    devices = jax.local_devices()
    first = place * options.tensor if is_disjoint else 0
    if first + options.tensor > len(devices):
        made_for = f" (the config is for {options.slice})" if options.slice else ""
        there_are = f"the {len(devices)} local {devices[0].platform} devices{made_for}"
        if first:
            raise ValueError(
                f"mesh.placement='disjoint' with mesh.tensor={options.tensor} needs "
                f"{first + options.tensor} devices or more, which is more than "
                f"{there_are}; lower --config.mesh.tensor, or set "
                "--config.mesh.placement=colocated"
            )
        raise ValueError(
            f"mesh.tensor={options.tensor} is more than {there_are}; set "
            f"--config.mesh.tensor to {len(devices)} or less"
        )
    return tensor_mesh(devices[first : first + options.tensor])


def tensor_mesh(devices: Sequence[Any]) -> Mesh:
    """Devices that share each model, as the rules name them."""
    axes, kinds = ("data", "tensor"), (AxisType.Auto,) * 2
    return Mesh(np.array(devices).reshape(1, -1), axes, axis_types=kinds)


def param_shardings(
    config: ModelConfig, mesh: Mesh, rules: Rules = DEFAULT_RULES
) -> dict[str, NamedSharding]:
    """The sharding of each parameter, by the paths of `model_specs`.

    Heads are counted, not their elements: a head is never split. Key and value heads
    that do not divide are replicated, as multi-query attention needs.

    Raises:
      ValueError: another axis does not divide, or the rules do not fit the model or
        the mesh.
    """
    if any(kind is not AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(
            f"the mesh has axis types {mesh.axis_types}; supported: Auto; make it with "
            "jax.make_mesh(…, axis_types=(AxisType.Auto, …))"
        )
    counts = {
        "vocab": config.vocab_size,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "mlp": config.mlp_dim,
        "embed": config.embed_dim,
    }
    return {
        path: axes_sharding(spec.axes, counts, mesh, rules)
        for path, spec in model_specs(config).items()
    }


def lora_shardings(
    lora: Lora, config: ModelConfig, mesh: Mesh, rules: Rules = DEFAULT_RULES
) -> Lora:
    """The sharding of each factor: A lies by its inputs and B by its outputs as the
    matrix does that they are added to."""
    axes = {p: s.spec for p, s in param_shardings(config, mesh, rules).items()}
    layers: list[Any] = []
    for i, pairs in enumerate(lora.layers):
        found = {}
        for name, pair in pairs.items():
            out_axis, in_axis = axes[f"layers.{i}.{name}"]
            a_RI: Any = named(mesh, None, in_axis)
            b_OR: Any = named(mesh, out_axis, None)
            found[name] = dataclasses.replace(pair, a_RI=a_RI, b_OR=b_OR)
        layers.append(found)
    return Lora(tuple(layers))


def cache_sharding(of_k: Sharding) -> NamedSharding | None:
    """Where the keys and values k_BKSH lie: split by heads as the matrix that makes
    them; None if the model lies on one device."""
    if not isinstance(of_k, NamedSharding):
        return None
    return named(of_k.mesh, None, of_k.spec[0] if of_k.spec else None)


def named(mesh: Any, *axes: str | None) -> NamedSharding:
    """As a program returns it: another name for the same sharding compiles again."""
    names = [None if axis is None or mesh.shape[axis] == 1 else axis for axis in axes]
    while names and names[-1] is None:
        names.pop()
    return NamedSharding(mesh, PartitionSpec(*names))


def axes_sharding(
    axes: Sequence[str | None],
    counts: Mapping[str, int],
    mesh: Mesh,
    rules: Rules = DEFAULT_RULES,
) -> NamedSharding:
    """The sharding of one array.

    Args:
      axes: the logical axis of each dimension, None: replicated.
      counts: how many equal pieces each logical axis can be cut into.

    Raises:
      ValueError: two dimensions fall on one mesh axis, or one cannot be cut evenly.
    """
    spec = tuple(_mesh_axis(axis, counts, mesh, rules) for axis in axes)
    for mesh_axis in {m for m in spec if m is not None}:
        clash = [a for a, m in zip(axes, spec, strict=True) if m == mesh_axis]
        if len(clash) > 1:
            raise ValueError(
                f"sharding rules map {' and '.join(map(repr, clash))}, axes of one "
                f"array, to the same mesh axis {mesh_axis!r}; map one of them to "
                "another mesh axis or to None"
            )
    return NamedSharding(mesh, PartitionSpec(*spec))


def _mesh_axis(
    axis: str | None, counts: Mapping[str, int], mesh: Mesh, rules: Rules
) -> str | None:
    """The mesh axis over which a logical axis is split, or None."""
    if axis is None:
        return None
    if axis not in rules:
        raise ValueError(
            f"sharding rules have no entry for axis {axis!r}; add it, with None to "
            "replicate"
        )
    mesh_axis = rules[axis]
    if mesh_axis is None:
        return None
    if mesh_axis not in mesh.shape:
        raise ValueError(
            f"sharding rules map {axis!r} to mesh axis {mesh_axis!r}, but the mesh has "
            f"{', '.join(mesh.shape)}; give the mesh that axis, of size 1 if unused"
        )
    size = mesh.shape[mesh_axis]
    if counts[axis] % size == 0:
        return mesh_axis
    if axis == "kv_heads":
        return None
    remedy = _REMEDIES.get(axis, f"map {axis!r} to None in the sharding rules")
    fitting = [str(n) for n in range(1, size) if counts[axis] % n == 0]
    raise ValueError(
        f"axis {axis!r} of size {counts[axis]} does not divide over mesh axis "
        f"{mesh_axis!r} of size {size}; make {mesh_axis!r} {' or '.join(fitting)}, or "
        f"{remedy}"
    )
