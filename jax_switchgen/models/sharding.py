"""Where each parameter lives on a mesh: logical axes mapped to mesh axes by one table.

The default is tensor parallelism (Shoeybi et al. 2019, arXiv 1909.08053): heads and the
MLP's inner dimension are split, each block's two outputs are summed over "tensor".
"""

from collections.abc import Mapping, Sequence

from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jax_switchgen.models.config import ModelConfig
from jax_switchgen.models.transformer import model_specs

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
    raise ValueError(
        f"axis {axis!r} of size {counts[axis]} does not divide over mesh axis "
        f"{mesh_axis!r} of size {size}; {remedy}, or change the mesh"
    )
