"""What a traced program is made of."""

from collections.abc import Iterator

import jax
import jax.extend


def all_shapes(jaxpr: jax.extend.core.Jaxpr) -> Iterator[tuple[int, ...]]:
    """Of every result in it, those of programs inside it included."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield variable.aval.shape
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from all_shapes(inner)
