"""One update: loss at the choice, gradients, AdamW. The jitted programs of training.

Trained parameters and the optimizer's state are float32; what computes is a copy in the
compute dtype, except for adapters, whose factors are cast where they are used. Axes as
in `models/transformer.py`, and **A** parts of a batch, one after the other.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh

from jax_switchgen.models.attention import Attend, attention
from jax_switchgen.models.config import ModelConfig
from jax_switchgen.models.lora import Lora, LoraPair
from jax_switchgen.models.params import layer_specs, model_specs
from jax_switchgen.models.quantization import Matrix
from jax_switchgen.models.splash import sees_all_before, splash_attention
from jax_switchgen.models.stacked import (
    StackedTransformer,
    last_hidden,
    last_logits,
    stacked,
    stacked_pairs,
)
from jax_switchgen.models.transformer import (
    BlockWeights,
    RunBlock,
    Transformer,
    logits,
    uncached_hidden,
)
from jax_switchgen.training.data import Batch
from jax_switchgen.training.options import TrainingOptions
from jax_switchgen.training.placement import (
    GATHERED,
    Params,
    everywhere,
    gathered,
    gathered_pairs,
    gathers,
    keep_rows_split,
    keep_split,
    like_params,
    of_each_device,
    place,
    with_whole_rows,
    zeros,
)

_LORA_INIT = 2  # a stream of the seed; those of `data` are 0 and 1


@struct.dataclass
class TrainState:
    """All that changes in training.

    Attributes:
      step: int32, updates done.
      params: float32.
      opt_state: optax's.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What the programs are compiled for, beside shapes.

    Attributes:
      total_steps: at which the learning rate reaches 0.
      in_loop: layers run as a loop, `StackedTransformer`; see `loops_on`.
      kernel: attention of such layers, or None: the plain one; see `kernel_on`.
    """

    config: ModelConfig
    options: TrainingOptions
    total_steps: int
    in_loop: bool = False
    kernel: Attend | None = None


Model = Transformer | StackedTransformer


def recipe_on(
    platform: str, config: ModelConfig, options: TrainingOptions, total_steps: int
) -> Recipe:
    """For devices of one kind, as jax calls it: "cpu", "gpu" or "tpu"."""
    kernel = kernel_on(platform, config, options)
    return Recipe(config, options, total_steps, loops_on(platform), kernel)


def loops_on(platform: str) -> bool:
    """Whether layers run as a loop. A TPU's compiler takes 7 times as long over 32
    copies; on CPU a loop runs 1.2 times as long as copies."""
    return platform != "cpu"


def kernel_on(
    platform: str, config: ModelConfig, options: TrainingOptions
) -> Attend | None:
    """The kernel where it is asked for and can be had; else None."""
    if (
        options.attention == "splash"
        and platform == "tpu"
        and sees_all_before(config, options.max_length)
        and config.num_kv_heads % options.tensor == 0
    ):
        return splash_attention
    return None


def init_lora(config: ModelConfig, options: TrainingOptions) -> Lora:
    """An adapter that changes nothing yet, on the host: B is 0, A is uniform with the
    bound that PEFT draws it with."""
    rng = np.random.default_rng((options.seed, _LORA_INIT))
    specs, rank = layer_specs(config), options.lora_rank

    def pair(name: str) -> LoraPair:
        rows, columns = specs[name].shape
        bound = columns**-0.5
        a_RI: Any = rng.uniform(-bound, bound, (rank, columns)).astype(np.float32)
        b_OR: Any = np.zeros((rows, rank), np.float32)
        return LoraPair(a_RI, b_OR, scale=options.lora_alpha / rank)

    return Lora(
        tuple(
            {name: pair(name) for name in options.lora_targets}
            for _ in range(config.num_layers)
        )
    )


def learning_rate(recipe: Recipe) -> Callable[[jax.Array], jax.Array]:
    """By updates done: up in a line, down along half a cosine (Loshchilov and Hutter
    2017, arXiv 1608.03983). The first update counts: it is not at 0."""
    options, total = recipe.options, recipe.total_steps
    warmup = max(1, round(options.warmup * total))

    def rate(count: jax.Array) -> jax.Array:
        done = count.astype(jnp.float32)
        way = jnp.clip((done - warmup) / max(1, total - warmup), 0.0, 1.0)
        factor = jnp.minimum((done + 1) / warmup, 0.5 * (1 + jnp.cos(jnp.pi * way)))
        return options.learning_rate * factor

    return rate


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    options = recipe.options
    return optax.chain(
        optax.clip_by_global_norm(options.clip_norm),
        optax.adamw(
            learning_rate(recipe),
            weight_decay=options.weight_decay,
            mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
        ),
    )


def abstract_params(recipe: Recipe) -> Any:
    """The shapes of what is trained."""
    if recipe.options.lora_rank:
        return jax.eval_shape(lambda: init_lora(recipe.config, recipe.options))
    specs = model_specs(recipe.config).items()
    return {path: jax.ShapeDtypeStruct(spec.shape, jnp.float32) for path, spec in specs}


def abstract_state(recipe: Recipe, mesh: Mesh) -> TrainState:
    """The shapes, dtypes and shardings of the state."""
    params = abstract_params(recipe)
    state = jax.eval_shape(
        lambda p: TrainState(jnp.int32(0), p, optimizer(recipe).init(p)), params
    )
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        state,
        like_params(state, params, recipe.config, mesh),
    )


def init_state(params: Params, recipe: Recipe, mesh: Mesh) -> TrainState:
    """The state before the first update.

    Args:
      params: on the host, or already on the mesh; then the state takes them over.
    """
    abstract = abstract_state(recipe, mesh)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    # Adam begins with averages and counts of 0.
    return TrainState(
        step=zeros(abstract.step, shardings.step),
        params=place(params, shardings.params),
        opt_state=zeros(abstract.opt_state, shardings.opt_state),
    )


@functools.partial(jax.jit, static_argnames="recipe", donate_argnames="state")
def train_step(
    state: TrainState,
    base: Model | None,
    batch: Batch,
    label_ids_C: jax.Array,
    *,
    recipe: Recipe,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update.

    Args:
      base: the frozen model that an adapter is over; None if all parameters train.
      label_ids_C: int32, the token of each candidate.
    Returns:
      The new state, and float32 scalars: loss, accuracy, grad_norm, learning_rate.
    """
    A = batch.length_AB.shape[0]
    keep = functools.partial(keep_split, params=state.params, config=recipe.config)

    def part(params: Params, a: jax.Array | int) -> tuple[jax.Array, jax.Array]:
        tokens_BT, length_B = batch.tokens_ABT[a], batch.length_AB[a]
        model, lora = computing_model(params, base, recipe)
        logp_BC = label_log_probs(
            *(model, lora, tokens_BT, length_B, label_ids_C),
            remat=recipe.options.remat,
            kernel=recipe.kernel,
        )
        return _loss(logp_BC, batch.target_ABC[a])

    def found_in(a: jax.Array | int) -> Any:
        """Loss and accuracy, and the gradients."""
        return keep(jax.value_and_grad(part, has_aux=True)(state.params, a))

    def add(total: Any, a: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, found_in(a)), None

    if A == 1:
        (loss, accuracy), grads = found_in(0)
    else:
        nothing = (jnp.float32(0),) * 2, jax.tree.map(jnp.zeros_like, state.params)
        summed, _ = jax.lax.scan(add, keep(nothing), jnp.arange(A))
        (loss, accuracy), grads = jax.tree.map(lambda x: x / A, summed)
    # optax raises a float to an integer power, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimizer(recipe).update(
            grads, state.opt_state, state.params
        )
    params = optax.apply_updates(state.params, updates)
    metrics = {
        "loss": loss,
        "accuracy": accuracy,
        "grad_norm": optax.tree.norm(grads),
        "learning_rate": learning_rate(recipe)(state.step),
    }
    return keep(TrainState(state.step + 1, params, opt_state)), metrics


@functools.partial(jax.jit, static_argnames="recipe")
def choice_log_probs(
    params: Params,
    base: Model | None,
    tokens_BT: jax.Array,
    length_B: jax.Array,
    label_ids_C: jax.Array,
    *,
    recipe: Recipe,
) -> jax.Array:
    """logp_BC of the candidates' labels among all tokens, for evaluation."""
    model, lora = computing_model(params, base, recipe)
    return everywhere(
        label_log_probs(
            *(model, lora, tokens_BT, length_B, label_ids_C),
            remat=False,
            kernel=recipe.kernel,
        )
    )


def computing_model(
    params: Params, base: Model | None, recipe: Recipe
) -> tuple[Model, Lora | None]:
    """What computes: the frozen model and the adapter, or the parameters in the compute
    dtype."""
    if isinstance(params, Lora):
        assert base is not None, "an adapter has a model"
        return base, params
    dtype = jnp.dtype(recipe.options.compute_dtype)
    cast: dict[str, Matrix] = {path: x.astype(dtype) for path, x in params.items()}
    return (stacked if recipe.in_loop else Transformer)(recipe.config, cast), None


def label_log_probs(
    model: Model,
    lora: Lora | None,
    tokens_BT: jax.Array,
    length_B: jax.Array,
    label_ids_C: jax.Array,
    *,
    remat: bool,
    kernel: Attend | None = None,
) -> jax.Array:
    """logp_BC of the labels as next tokens of each row, among all tokens; float32.

    Only the last real position goes through the head: B x V logits, not B x T x V.

    Args:
      tokens_BT: int32; padding stands at the end of a row.
      length_B: int32, tokens before the padding.
      remat: keep only the input of each block for the backward pass.
      kernel: of `Recipe`.
    """

    def around(run: RunBlock) -> RunBlock:
        def split(w: BlockWeights, x_BTD: jax.Array) -> Any:
            w = gathered(w, model.config)
            x_BTD, recent = run(w, keep_rows_split(x_BTD))
            return keep_rows_split(x_BTD), recent

        if remat:
            # Without prevent_cse, which a loop would not need, an update of 8B on 8 v5e
            # moves 1.46 times the memory.
            return jax.checkpoint(split)
        # The backward pass gathers again: all gathered weights would be the model.
        keep = jax.checkpoint_policies.save_anything_except_these_names(GATHERED)
        return jax.checkpoint(split, policy=keep) if gathers() else split

    model = with_whole_rows(model)
    if isinstance(model, StackedTransformer):
        pairs = gathered_pairs(stacked_pairs(lora), model.config) if lora else {}
        x_B1D = last_hidden(
            *(model, tokens_BT, length_B),
            pairs=pairs,
            around=around,
            attend=of_each_device(kernel) if kernel else attention,
        )
        logits_BV = last_logits(model, x_B1D)
    else:
        x_B1D = uncached_hidden(
            model, tokens_BT, lora=lora, only_B=length_B - 1, around=around
        )
        logits_BV = logits(model, x_B1D)[:, 0]
    total_B1 = jax.nn.logsumexp(logits_BV, axis=-1, keepdims=True)
    return logits_BV[:, label_ids_C] - total_B1


def _loss(logp_BC: jax.Array, target_BC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy to the target over the whole vocabulary (other tokens have target
    0), and how often the likeliest candidate is the target's; means over rows."""
    loss_B = -jnp.sum(target_BC * logp_BC, axis=-1)
    right_B = jnp.argmax(logp_BC, -1) == jnp.argmax(target_BC, -1)
    return jnp.mean(loss_B), jnp.mean(right_B.astype(jnp.float32))
