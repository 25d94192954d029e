"""The programs of a pool with the arguments that they will get, as shapes alone.

Shapes come from the functions that choose them when a pool runs, `cache_length_for` and
`buckets_for`. The largest are planned: a full batch, as many rows as one call reads,
and caches that are read to their end.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_switchgen.decoding import programs
from jax_switchgen.decoding.sampling import Sampling
from jax_switchgen.generation.buckets import (
    LONG_CHUNK,
    WINDOWS,
    Buckets,
    buckets_for,
    cache_length_for,
    chunk_for,
)
from jax_switchgen.generation.options import GenerationOptions
from jax_switchgen.generation.speaker import STOP_IDS
from jax_switchgen.models.cache import Cache, slot_bytes
from jax_switchgen.models.config import ModelConfig
from jax_switchgen.models.sharding import TRAINING_RULES
from jax_switchgen.models.splash import product_flops
from jax_switchgen.models.stacked import stacked
from jax_switchgen.models.transformer import Transformer
from jax_switchgen.planning.least import (
    Least,
    chunk_least,
    decode_least,
    share_of,
    train_least,
)
from jax_switchgen.planning.shapes import abstract_cache, abstract_params
from jax_switchgen.training import step
from jax_switchgen.training.data import Batch
from jax_switchgen.training.options import TrainingOptions
from jax_switchgen.training.placement import rows_sharding

# Without weights there is no tokenizer: tokens of a segment's signature, and of the
# closing question, are those of Llama 3's.
SIGNATURE, QUESTION = 12, 25

FORK, TRAIN = "fork (rollouts)", "train step"
SWITCHER = "switcher"


def candidate(number: int) -> str:
    """How a plan calls it."""
    return f"candidate {number}"


@dataclasses.dataclass(frozen=True)
class Member:
    """One model of a pool.

    Attributes:
      path: of its checkpoint.
      quantization: of its matrices, as in a config.
    """

    path: str
    config: ModelConfig
    quantization: str | None = None

    @property
    def name(self) -> str:
        """Members of one name share their weights, unless each lies apart."""
        return f"{self.path} ({self.quantization})" if self.quantization else self.path


@dataclasses.dataclass(frozen=True)
class Pool:
    """The models that generate, and how many requests they hold.

    Attributes:
      switcher: or None.
      prompt_tokens: of the longest prompt.
      dtype: of caches, and of parameters that are not quantized.
    """

    candidates: tuple[Member, ...]
    switcher: Member | None
    generation: GenerationOptions
    prompt_tokens: int
    dtype: str

    @property
    def cache_length(self) -> int:
        """Positions of a candidate's slot."""
        return cache_length_for(self.prompt_tokens + self.generation.max_new_tokens)

    @property
    def switcher_cache_length(self) -> int:
        options = self.generation
        segments = -(-options.max_new_tokens // options.segment_length)
        text = self.prompt_tokens + options.max_new_tokens
        return cache_length_for(text + segments * SIGNATURE + QUESTION)

    @property
    def question_tokens(self) -> int:
        """What the switcher reads before it chooses: a segment, and the question."""
        return self.generation.longest_segment + SIGNATURE + QUESTION

    @property
    def buckets(self) -> Buckets:
        """Of a candidate's programs."""
        options = self.generation
        return buckets_for(options.batch_size, options.longest_segment)

    @property
    def members(self) -> dict[str, Member]:
        """ "candidate 0", …, and "switcher" if there is one."""
        named = {candidate(i): member for i, member in enumerate(self.candidates)}
        return named | ({SWITCHER: self.switcher} if self.switcher else {})

    @property
    def slot_bytes(self) -> int:
        """Of one request in all caches, as the engine counts them."""
        dtype = jnp.dtype(self.dtype)
        total = sum(
            slot_bytes(member.config, self.cache_length, dtype)
            for member in self.candidates
        )
        if self.switcher:
            length = self.switcher_cache_length
            total += slot_bytes(self.switcher.config, length, dtype)
        return total

    @property
    def slots(self) -> int:
        """Requests in flight."""
        memory = int(self.generation.cache_gib * 2**30)
        return max(1, min(self.generation.in_flight, memory // self.slot_bytes))


@dataclasses.dataclass(frozen=True)
class Phase:
    """One program, ready to be lowered.

    Attributes:
      loops: how often its loop runs.
      rows, tokens: of one call; every row reads or writes so many tokens.
      least: of one call.
      models: those of the pool that run it, as `Pool.members` calls them.
      cache_dims: of one of the cache's arrays on a chip, to know it by; () is none.
      kernel_flops: on a chip, of kernels, whose products the compiled program does not
        name.
      variants: programs of this kind that a run compiles, for each size of a batch and
        each window; they stay on the chip.
    """

    name: str
    lower: Callable[[], jax.stages.Lowered]
    loops: int
    rows: int
    tokens: int
    least: Least
    models: tuple[str, ...] = ()
    cache_dims: tuple[int, ...] = ()
    variants: int = 1
    kernel_flops: float = 0.0


def generation_phases(pool: Pool, mesh: Mesh) -> list[Phase]:
    """Of every kind of model among the candidates, and of the switcher. Where there are
    several kinds, names say which candidates are meant: "prefill of 0, 2"."""
    found: list[Phase] = []
    kinds: dict[tuple[ModelConfig, str | None], list[int]] = {}
    for i, member in enumerate(pool.candidates):
        kinds.setdefault((member.config, member.quantization), []).append(i)
    for numbers in kinds.values():
        found += _candidate_phases(pool, tuple(numbers), mesh, named=len(kinds) > 1)
    if pool.switcher:
        found.append(_probe_phase(pool, pool.switcher, mesh))
    return found


def _candidate_phases(
    pool: Pool, numbers: tuple[int, ...], mesh: Mesh, *, named: bool
) -> list[Phase]:
    """Those of candidates that differ in nothing but their weights."""
    member = pool.candidates[numbers[0]]
    suffix = f" of {', '.join(map(str, numbers))}" if named else ""
    models = tuple(candidate(i) for i in numbers)
    options, config = pool.generation, member.config
    B, window = options.batch_size, pool.cache_length
    model = _model(pool, member, mesh)
    share = share_of(config, mesh, pool.dtype, member.quantization)
    cache = abstract_cache(config, mesh, pool.dtype, pool.slots, window)
    dims = _shard_dims(cache)
    buckets = pool.buckets

    def chunk(name: str, T: int) -> Phase:
        rows = buckets.reads(T)
        R = rows[-1]
        return Phase(
            name + suffix,
            lambda: programs.prefill.lower(
                model, None, cache, _chunk(mesh, R, T), window=window
            ),
            *(1, R, T, chunk_least(share, R, T, window), models, dims),
            variants=len(rows) * WINDOWS,
        )

    steps = options.longest_segment
    step_least = decode_least(share, B, window, steps)
    number = _array(mesh, (), jnp.float32)
    sampling = Sampling(
        temperature=number,
        top_p=number,
        top_k=_array(mesh, (), jnp.int32),
        greedy=options.temperature == 0,
    )
    scalar = _array(mesh, (), jnp.int32)
    decode = Phase(
        "decode segment" + suffix,
        lambda: programs.decode_segment.lower(
            *(model, None, cache, _rows(mesh, B), sampling),
            *(_array(mesh, (STOP_IDS,), jnp.int32), scalar),
            _array(mesh, (), jnp.uint32),
            segment_length=steps,
            window=window,
        ),
        *(steps, B, steps),
        Least((step_least.hbm_bytes or 0) * steps, step_least.flops * steps),
        *(models, dims),
        variants=len(buckets.batch) * WINDOWS,
    )
    moved = 2 * share.cache_bytes(config.num_layers * window)
    fork = Phase(
        FORK + suffix,
        lambda: programs.copy_slot.lower(cache, scalar, scalar, window=window),
        *(1, 1, window, Least(moved, 0), models, dims, WINDOWS),
    )
    reads = [chunk("prefill", LONG_CHUNK), chunk("catch-up", buckets.chunk)]
    return [*reads, decode, fork]


def _probe_phase(pool: Pool, member: Member, mesh: Mesh) -> Phase:
    config = member.config
    window = pool.switcher_cache_length
    T = chunk_for(pool.question_tokens)
    rows = pool.buckets.reads(T)
    B = rows[-1]
    C = len(pool.candidates)
    model = _model(pool, member, mesh)
    cache = abstract_cache(config, mesh, pool.dtype, pool.slots, window)
    share = share_of(config, mesh, pool.dtype, member.quantization)
    least = chunk_least(share, B, T, window, labels=C)
    return Phase(
        "switcher probe",
        lambda: programs.choice_probs.lower(
            *(model, None, cache, _chunk(mesh, B, T), _array(mesh, (C,), jnp.int32)),
            window=window,
        ),
        *(1, B, T, least, (SWITCHER,), _shard_dims(cache)),
        # And of prefill and catch-up with this cache, which are as large.
        variants=3 * len(rows) * WINDOWS,
    )


def train_phase(
    switcher: Member, options: TrainingOptions, num_candidates: int, mesh: Mesh
) -> Phase:
    """One update, all examples of the greatest length."""
    config, quantization = switcher.config, switcher.quantization
    A, B, T = options.accumulation, options.part_size, options.max_length
    recipe = step.recipe_on("tpu", config, options, total_steps=1000)
    base, dtype = None, options.compute_dtype
    if options.lora_rank:
        params = abstract_params(
            config, mesh, dtype, quantization, rules=TRAINING_RULES
        )
        base = stacked(config, params)
    rows = rows_sharding(mesh, axis=1)

    def of_rows(shape: tuple[int, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

    batch = Batch(
        of_rows((A, B, T), jnp.int32),
        of_rows((A, B), jnp.int32),
        of_rows((A, B, num_candidates), jnp.float32),
    )

    def lower() -> jax.stages.Lowered:
        with jax.set_mesh(mesh):
            return step.train_step.lower(
                step.abstract_state(recipe, mesh),
                base,
                batch,
                _array(mesh, (num_candidates,), jnp.int32),
                recipe=recipe,
            )

    copies = mesh.shape["data"] * mesh.shape["fsdp"]
    # With the rules of generation: gathered, as a device has it at work.
    share = share_of(config, mesh, dtype, quantization)
    least = train_least(share, A * B // copies, T, adapter=bool(options.lora_rank))
    kernel_flops = 0.0
    if recipe.kernel:
        products = (2 + 7) + 2 * options.remat
        heads = A * B // copies * share.heads * config.num_layers
        kernel_flops = products * heads * product_flops(T, config.head_dim)
    return Phase(TRAIN, lower, A, A * B, T, least, kernel_flops=kernel_flops)


def _model(pool: Pool, member: Member, mesh: Mesh) -> Transformer:
    params = abstract_params(member.config, mesh, pool.dtype, member.quantization)
    return Transformer(member.config, params)


def _shard_dims(cache: Cache) -> tuple[int, ...]:
    x_BKSH = cache.layers[0][0]
    return x_BKSH.sharding.shard_shape(x_BKSH.shape)


def _array(mesh: Mesh, shape: Sequence[int], dtype: Any) -> Any:
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=whole)


def _chunk(mesh: Mesh, B: int, T: int) -> programs.Chunk:
    shapes = ((B,), (B, T), (B,), (B,))
    return programs.Chunk(*(_array(mesh, shape, jnp.int32) for shape in shapes))


def _rows(mesh: Mesh, B: int) -> programs.Rows:
    dtypes = (jnp.int32,) * 4 + (jnp.uint32, jnp.int32)
    return programs.Rows(*(_array(mesh, (B,), dtype) for dtype in dtypes))
