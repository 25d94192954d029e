"""Parameters and caches as shapes, on a mesh: what programs are lowered with."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_switchgen.models.cache import Cache
from jax_switchgen.models.config import ModelConfig
from jax_switchgen.models.params import ArraySpec, model_specs
from jax_switchgen.models.quantization import Int8Matrix, Matrix
from jax_switchgen.models.sharding import (
    DEFAULT_RULES,
    Rules,
    cache_sharding,
    param_shardings,
)


def abstract_params(
    config: ModelConfig,
    mesh: Mesh,
    dtype: str,
    quantization: str | None = None,
    *,
    rules: Rules = DEFAULT_RULES,
) -> dict[str, Matrix]:
    """The parameters of a model as they are loaded: shapes, dtypes and shardings."""
    shardings = param_shardings(config, mesh, rules)

    def param(path: str, spec: ArraySpec) -> Any:
        lies = shardings[path]
        if quantization is None or not spec.is_matrix:
            return jax.ShapeDtypeStruct(spec.shape, jnp.dtype(dtype), sharding=lies)
        outputs = NamedSharding(mesh, PartitionSpec(*lies.spec[:1]))
        values: Any = jax.ShapeDtypeStruct(spec.shape, jnp.int8, sharding=lies)
        scale: Any = jax.ShapeDtypeStruct(spec.shape[:1], jnp.float32, sharding=outputs)
        return Int8Matrix(values, scale)

    specs = model_specs(config)
    return {path: param(path, specs[path]) for path in specs}


def abstract_cache(
    c: ModelConfig, mesh: Mesh, dtype: str, slots: int, length: int
) -> Cache:
    """The cache of such a model, likewise."""
    x_BKSH: Any = jax.ShapeDtypeStruct(
        (slots, c.num_kv_heads, length, c.head_dim),
        jnp.dtype(dtype),
        sharding=cache_sharding(param_shardings(c, mesh)["layers.0.k"]),
    )
    return Cache(tuple((x_BKSH, x_BKSH) for _ in range(c.num_layers)))
