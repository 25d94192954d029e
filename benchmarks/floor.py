"""The least time that an engine's work takes with this matmul library.

What an engine asks of its models is recorded, and the matmuls of it are then timed
alone: the same matrices, as many rows, no attention, norms, sampling or caches, decode
steps within one program. An engine that makes the same passes with these matmuls is not
faster. Taken after the run, as the fastest of a few calls: if the machine was slower
before, the bound is too generous, and not too strict.
"""

import collections
import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp

from jax_switchgen.decoding import programs
from jax_switchgen.models.matmul import linear
from jax_switchgen.models.transformer import Transformer

REPEATS = 3
STEPS = 8  # of decoding in one call, so that what a call takes hardly counts


@dataclasses.dataclass(frozen=True)
class Work:
    """The matmuls of one forward.

    Attributes:
      rows: tokens that go through all layers but the last, and of that one through keys
        and values.
      last_rows: of them, those that go through the rest of it.
      head_rows: of them, those that go through the head.
    """

    rows: int
    last_rows: int
    head_rows: int


@contextlib.contextmanager
def recorded() -> Iterator[collections.Counter[Work]]:
    """Counts the forwards of all engines while it is open."""
    forwards: collections.Counter[Work] = collections.Counter()

    def recording(name: str, work_of):
        program = getattr(programs, name)

        def called(model, lora, cache, inputs, *rest, **options):
            work, count = work_of(inputs)
            forwards[work] += count
            return program(model, lora, cache, inputs, *rest, **options)

        return mock.patch.object(programs, name, called)

    def of_segment(rows: programs.Rows) -> tuple[Work, int]:
        B = rows.slots_B.shape[0]
        # Without stop tokens, the longest row writes as much as it may.
        return Work(B, B, B), int(jnp.max(rows.limit_B))

    def of_chunk(chunk: programs.Chunk) -> tuple[Work, int]:
        return Work(chunk.tokens_BT.size, 0, 0), 1

    def of_probe(chunk: programs.Chunk) -> tuple[Work, int]:
        # A probe needs a few rows of the head, which cost nothing.
        return Work(chunk.tokens_BT.size, len(chunk.tokens_BT), 0), 1

    with (
        recording("decode_segment", of_segment),
        recording("prefill", of_chunk),
        recording("choice_probs", of_probe),
    ):
        yield forwards


def seconds_of(
    forwards: collections.Counter[Work], model: Transformer
) -> dict[str, float]:
    """Of decoding and of reading, all models being shaped as this one: the fastest of a
    few calls for each shape, as often as it was called."""
    found = {"decode": 0.0, "read": 0.0}
    for work, count in forwards.items():
        kind = "decode" if work.head_rows else "read"
        found[kind] += count * _fastest(model, work)
    return found


def _fastest(model: Transformer, work: Work) -> float:
    x_1RD = jnp.ones((1, work.rows, model.config.embed_dim), model.dtype)
    steps = STEPS if work.head_rows else 1
    jax.block_until_ready(_forwards(model, x_1RD, work, steps))
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(_forwards(model, x_1RD, work, steps))
        seconds.append((time.perf_counter() - start) / steps)
    return min(seconds)


@functools.partial(jax.jit, static_argnames=("work", "steps"))
def _forwards(
    model: Transformer, x_1RD: jax.Array, work: Work, steps: int
) -> jax.Array:
    """Some forwards, each waiting for the one before."""

    def step(_: jax.Array, x_1RD: jax.Array) -> jax.Array:
        results = _matmuls(model, x_1RD, work)
        return x_1RD + 1e-9 * sum(jnp.sum(result) for result in results)

    return jax.lax.fori_loop(0, steps, step, x_1RD)


def _matmuls(model: Transformer, x_1RD: jax.Array, work: Work) -> list[jax.Array]:
    """Each matrix once; every result is used, or the compiler would leave it out."""
    c, params = model.config, model.arrays()
    for i in range(c.num_layers):
        layer = {
            name: params[f"layers.{i}.{name}"]
            for name in ("q", "k", "v", "o", "gate", "up", "down")
        }
        kv_1RO = linear(layer["k"], x_1RD) + linear(layer["v"], x_1RD)
        if i == c.num_layers - 1:
            x_1RD = x_1RD[:, : work.last_rows]
            if not work.last_rows:
                break
        x_1RD = linear(layer["o"], linear(layer["q"], x_1RD))
        x_1RD = x_1RD + jnp.sum(kv_1RO, (1, 2), keepdims=True)
        h_1RF = linear(layer["gate"], x_1RD) + linear(layer["up"], x_1RD)
        x_1RD = linear(layer["down"], h_1RF)
    if work.head_rows:
        head = params["embed" if c.tie_embeddings else "head"]
        x_1RD = linear(head, x_1RD[:, : work.head_rows])
    return [x_1RD, kv_1RO]
