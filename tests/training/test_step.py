"""Laws of one update."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jax_switchgen.models.lora import Lora
from jax_switchgen.models.splash import splash_attention
from jax_switchgen.training.data import Batches
from jax_switchgen.training.placement import params_shardings, place_rows
from jax_switchgen.training.step import (
    Recipe,
    abstract_state,
    choice_log_probs,
    init_state,
    label_log_probs,
    learning_rate,
    optimizer,
    train_step,
)
from tests import tiny
from tests.jaxprs import all_shapes
from tests.training import synthetic

LABELS_C = np.array(synthetic.VOCABULARY.encode("01"), np.int32)
# With a window, softcaps and the like elsewhere, all families take this forward.
CONFIGS = {"llama": tiny.CONFIG, "windowed": tiny.WINDOWED}


def first_batch(learner):
    return Batches(learner.split.train, learner.options).batch(0)


def recipe_of(learner, total_steps=10, **how):
    return Recipe(learner.config, learner.options, total_steps, **how)


def noisy(params, scale=0.05):
    """An adapter that does something: a new one has B = 0."""
    rng = np.random.default_rng(5)

    def shift(x):
        return np.asarray(x) + scale * rng.standard_normal(x.shape).astype(np.float32)

    return jax.tree.map(shift, params)


def update(learner, mesh, batch, steps=1, params=None, **how):
    """The state and the metrics after some steps on one batch."""
    recipe = recipe_of(learner, **how)
    with jax.set_mesh(mesh):
        state = init_state(params or noisy(learner.first_params()), recipe, mesh)
        for _ in range(steps):
            state, metrics = train_step(
                state, learner.base, place_rows(batch, mesh, 1), LABELS_C, recipe=recipe
            )
    return state, {name: float(value) for name, value in metrics.items()}


def log_probs(learner, params, batch, a=0):
    return np.asarray(
        choice_log_probs(
            params,
            learner.base,
            batch.tokens_ABT[a],
            batch.length_AB[a],
            LABELS_C,
            recipe=recipe_of(learner),
        )
    )


def assert_close(one, other, tolerance=1e-5):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        np.testing.assert_allclose(x, y, atol=tolerance * max(1e-3, np.abs(y).max()))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("remat", [False, True])
def test_the_loss_is_the_cross_entropy_of_the_choice_alone(name, remat):
    """From the logits of all positions of the plain forward, over all tokens."""
    learner = synthetic.learner(config=CONFIGS[name], remat=remat)
    batch = first_batch(learner)
    lora = noisy(learner.first_params())
    logits_BTV = np.asarray(
        jax.jit(lambda model, *rest: model(*rest))(
            learner.base, batch.tokens_ABT[0], lora
        )
    )
    logits_BV = logits_BTV[np.arange(16), batch.length_AB[0] - 1].astype(np.float64)
    logp_BV = logits_BV - np.log(np.exp(logits_BV).sum(-1, keepdims=True))
    np.testing.assert_allclose(
        log_probs(learner, lora, batch), logp_BV[:, LABELS_C], atol=2e-5
    )
    expected = -(batch.target_ABC[0] * logp_BV[:, LABELS_C]).sum(-1).mean()
    _, metrics = update(learner, synthetic.mesh(), batch)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    right_B = logp_BV[:, LABELS_C].argmax(-1) == batch.target_ABC[0].argmax(-1)
    assert metrics["accuracy"] == pytest.approx(right_B.mean())


@pytest.mark.parametrize("rank", [4, 0])
def test_what_stands_in_the_padding_changes_nothing(rank):
    """Bit for bit: neither the loss nor any gradient."""
    learner = synthetic.learner(lora_rank=rank)
    batch = first_batch(learner)
    assert batch.length_AB.min() < batch.tokens_ABT.shape[2]
    noise_ABT = np.random.default_rng(0).integers(0, 256, batch.tokens_ABT.shape)
    inside_ABT = (
        np.arange(batch.tokens_ABT.shape[2])[None, None] < batch.length_AB[..., None]
    )
    other_ABT = np.where(inside_ABT, batch.tokens_ABT, noise_ABT).astype(np.int32)
    other = batch.replace(tokens_ABT=other_ABT)
    assert (other.tokens_ABT != batch.tokens_ABT).any()
    one, one_metrics = update(learner, synthetic.mesh(), batch)
    two, two_metrics = update(learner, synthetic.mesh(), other)
    assert one_metrics == two_metrics
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_the_target_is_all_that_is_learned_from():
    """Another target, another loss; that of an even target is the mean of both."""
    learner = synthetic.learner()
    batch = first_batch(learner)
    soft = batch.replace(target_ABC=np.full_like(batch.target_ABC, 0.5))
    zeros = batch.replace(target_ABC=np.eye(2, dtype=np.float32)[None, [0] * 16])
    ones = batch.replace(target_ABC=np.eye(2, dtype=np.float32)[None, [1] * 16])
    losses = [
        update(learner, synthetic.mesh(), b)[1]["loss"] for b in (soft, zeros, ones)
    ]
    assert losses[0] == pytest.approx((losses[1] + losses[2]) / 2, rel=1e-5)
    assert losses[1] != pytest.approx(losses[2], rel=1e-2)


@pytest.mark.parametrize("rank", [4, 0])
def test_logits_of_all_positions_never_exist(rank):
    learner = synthetic.learner(lora_rank=rank)
    batch, recipe = first_batch(learner), recipe_of(learner)
    state = init_state(learner.first_params(), recipe, synthetic.mesh())
    jaxpr = jax.make_jaxpr(lambda *args: train_step(*args, recipe=recipe))(
        state, learner.base, batch, LABELS_C
    )
    shapes = set(all_shapes(jaxpr.jaxpr))
    assert (16, 1, 272) in shapes
    length = batch.tokens_ABT.shape[2]
    assert not [s for s in shapes if len(s) > 2 and s[-1] == 272 and length in s[:-1]]


def test_accumulation_is_one_big_batch():
    """Loss, accuracy, norm of the gradient and the updated state."""
    whole = synthetic.learner()
    parts = synthetic.learner(accumulation=4)
    one, expected = update(whole, synthetic.mesh(), first_batch(whole), steps=2)
    two, found = update(parts, synthetic.mesh(), first_batch(parts), steps=2)
    assert found == pytest.approx(expected, rel=1e-5)
    assert_close(two.params, one.params, tolerance=1e-3)


def test_remat_keeps_one_array_for_each_block():
    """What the backward pass needs of the forward pass shrinks, and is no different."""

    def residuals(remat):
        learner = synthetic.learner()
        batch, model = first_batch(learner), learner.base

        def loss(lora):
            return label_log_probs(
                model,
                lora,
                batch.tokens_ABT[0],
                batch.length_AB[0],
                LABELS_C,
                remat=remat,
            ).sum()

        lora = jax.tree.map(jnp.asarray, noisy(learner.first_params()))
        kept = jax.eval_shape(lambda lora: jax.vjp(loss, lora)[1], lora)
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))
        return size, jax.jit(jax.grad(loss))(lora)

    (plain_size, plain), (remat_size, remat) = residuals(False), residuals(True)
    assert remat_size < plain_size / 3
    assert_close(remat, plain)


@pytest.mark.parametrize(
    ("rank", "axes"),
    [
        (0, dict(data=8)),
        (0, dict(fsdp=8)),
        (0, dict(data=2, tensor=4)),
        (0, dict(data=2, fsdp=2, tensor=2)),
        (4, dict(data=2, fsdp=2, tensor=2)),
    ],
    ids=str,
)
def test_sharded_is_unsharded(rank, axes):
    """Two updates on eight devices; parameters stay where the mesh wants them."""
    learner = synthetic.learner(lora_rank=rank, accumulation=2)
    expected, metrics = update(learner, synthetic.mesh(), first_batch(learner), steps=2)
    mesh = synthetic.mesh(**axes)
    placed = synthetic.learner(lora_rank=rank, accumulation=2, on=mesh)
    state, found = update(placed, mesh, first_batch(placed), steps=2)
    assert found == pytest.approx(metrics, rel=1e-4)
    assert_close(state.params, expected.params, tolerance=1e-3)
    wanted = params_shardings(state.params, placed.config, mesh)
    wanted_state = abstract_state(recipe_of(placed), mesh)
    for x, sharding in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(wanted), strict=True
    ):
        assert x.sharding.is_equivalent_to(sharding, x.ndim)
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(wanted_state), strict=True):
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)


@pytest.mark.parametrize("axes", [dict(), dict(data=2, fsdp=2, tensor=2)], ids=str)
@pytest.mark.parametrize(("rank", "quantized"), [(4, False), (4, True), (0, False)])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_loop_over_layers_is_the_layers_one_by_one(name, rank, quantized, axes):
    """As on TPU, where layers are stacked: the same loss, the same gradients."""
    mesh = synthetic.mesh(**axes)
    fields = dict(config=CONFIGS[name], on=mesh, lora_rank=rank, remat=True)
    fields["quantized"] = quantized
    plain = synthetic.learner(**fields)
    looped = synthetic.learner(in_loop=True, **fields)
    batch = first_batch(plain)
    one, expected = update(plain, mesh, batch)
    other, found = update(looped, mesh, batch, in_loop=True)
    assert found == pytest.approx(expected, rel=1e-4)
    assert_close(adam_of(other).mu, adam_of(one).mu, tolerance=1e-3)


@pytest.mark.parametrize("axes", [dict(), dict(data=2, fsdp=2, tensor=2)], ids=str)
@pytest.mark.parametrize("rank", [4, 0])
def test_the_kernel_is_plain_attention(rank, axes):
    """As on TPU, step by step: the same loss, the same gradients."""
    mesh = synthetic.mesh(**axes)
    learner = synthetic.learner(on=mesh, lora_rank=rank, remat=True, in_loop=True)
    batch = first_batch(learner)
    one, expected = update(learner, mesh, batch, in_loop=True)
    heads = set()

    def kernel(c, q_BNTH, *rest):
        heads.add(q_BNTH.shape[1])
        return splash_attention(c, q_BNTH, *rest, interpret=True)

    other, found = update(learner, mesh, batch, in_loop=True, kernel=kernel)
    assert heads == {learner.config.num_heads // mesh.shape["tensor"]}
    assert found == pytest.approx(expected, rel=1e-4)
    assert_close(adam_of(other).mu, adam_of(one).mu, tolerance=1e-3)


def test_fsdp_splits_parameters_and_optimizer_state():
    """A device holds an eighth of every matrix, and of Adam's averages of it."""
    mesh = synthetic.mesh(fsdp=8)
    learner = synthetic.learner(lora_rank=0, on=mesh)
    state = init_state(learner.first_params(), recipe_of(learner), mesh)
    adam = adam_of(state)
    for tree in (state.params, adam.mu, adam.nu):
        for path, x in tree.items():
            share = x.addressable_shards[0].data.size / x.size
            assert share == (1 if x.ndim == 1 else 1 / 8), path


@pytest.mark.parametrize("axes", [dict(data=8), dict(fsdp=8)], ids=str)
def test_devices_share_the_work(axes):
    """Of eight, each computes about an eighth: activations stay split by rows."""

    def flops(mesh):
        learner = synthetic.learner(on=mesh)
        recipe, batch = recipe_of(learner), first_batch(learner)
        with jax.set_mesh(mesh):
            state = init_state(learner.first_params(), recipe, mesh)
            lowered = train_step.lower(
                state, learner.base, place_rows(batch, mesh, 1), LABELS_C, recipe=recipe
            )
            return lowered.compile().cost_analysis()["flops"]

    assert flops(synthetic.mesh(**axes)) < flops(synthetic.mesh()) / 6


def test_adapters_are_split_as_their_matrices():
    """A by inputs, B by outputs: by width over "fsdp", by heads over "tensor"."""
    learner = synthetic.learner()
    found = params_shardings(
        learner.first_params(), learner.config, synthetic.mesh(2, 2, 2)
    )
    (pairs, _) = found.layers
    specs = {name: (pair.a_RI.spec, pair.b_OR.spec) for name, pair in pairs.items()}
    by_width, by_heads = (PartitionSpec(None, a) for a in ("fsdp", "tensor"))
    for name in ("q", "k", "v"):
        assert specs[name] == (by_width, PartitionSpec("tensor"))
    assert specs["o"] == (by_heads, PartitionSpec("fsdp"))
    # Two heads of keys are not split over four devices.
    found = params_shardings(
        learner.first_params(), learner.config, synthetic.mesh(2, 1, 4)
    )
    assert found.layers[0]["k"].b_OR.is_fully_replicated
    assert not found.layers[0]["q"].b_OR.is_fully_replicated


def adam_of(state):
    def is_adam(node):
        return isinstance(node, optax.ScaleByAdamState)

    leaves = jax.tree.leaves(state.opt_state, is_leaf=is_adam)
    return next(filter(is_adam, leaves))


def test_the_first_state_is_the_optimizers():
    learner = synthetic.learner()
    recipe = recipe_of(learner)
    state = init_state(learner.first_params(), recipe, synthetic.mesh())
    expected = optimizer(recipe).init(jax.tree.map(jnp.asarray, learner.first_params()))
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, expected)


def test_the_gradient_is_the_losss():
    """Its norm is the slope along it, by a finite difference."""
    learner = synthetic.learner(clip_norm=1e9)
    batch, params = first_batch(learner), noisy(learner.first_params())
    state, metrics = update(learner, synthetic.mesh(), batch, params=params)
    moments = adam_of(state).mu
    scale = 2e-3 / float(optax.tree.norm(moments))

    def loss(sign):
        moved = jax.tree.map(
            lambda p, m: p + sign * scale * np.asarray(m), params, moments
        )
        logp_BC = log_probs(learner, moved, batch).astype(np.float64)
        return -(batch.target_ABC[0] * logp_BC).sum(-1).mean()

    slope = (loss(1) - loss(-1)) / 4e-3
    assert metrics["grad_norm"] == pytest.approx(slope, rel=0.02)


def test_an_update_is_adamw_after_clipping():
    """By hand, from the clipped gradient that Adam's first average is a tenth of."""
    learner = synthetic.learner(weight_decay=0.1, warmup=0.0, clip_norm=1e-3)
    before = noisy(learner.first_params())
    state, metrics = update(learner, synthetic.mesh(), first_batch(learner))
    rate = metrics["learning_rate"]
    assert rate == pytest.approx(learner.options.learning_rate)
    clipped = jax.tree.map(lambda m: np.asarray(m) / 0.1, adam_of(state).mu)
    assert metrics["grad_norm"] > 0.1
    assert float(optax.tree.norm(clipped)) == pytest.approx(1e-3, rel=1e-3)

    def check(old, new, g):
        expected = old - rate * (g / (np.abs(g) + 1e-8) + 0.1 * old)
        np.testing.assert_allclose(new, expected, atol=1e-4 * rate)

    jax.tree.map(check, before, state.params, clipped)


def test_the_learning_rate_rises_and_falls():
    learner = synthetic.learner(warmup=0.2, learning_rate=1.0)
    rate = learning_rate(recipe_of(learner, total_steps=20))
    rates = np.array([float(rate(jnp.int32(i))) for i in range(20)])
    np.testing.assert_allclose(rates[:4], [0.25, 0.5, 0.75, 1.0])
    assert (np.diff(rates[4:]) < 0).all() and 0 < rates[-1] < 0.02
    assert rates[12] == pytest.approx(0.5, abs=1e-6), "half way down the cosine"


def test_only_the_adapter_changes():
    learner = synthetic.learner()
    before = jax.tree.map(np.array, learner.base)
    state, _ = update(learner, synthetic.mesh(), first_batch(learner))
    jax.tree.map(np.testing.assert_array_equal, learner.base, before)
    assert isinstance(state.params, Lora)
    assert [sorted(pairs) for pairs in state.params.layers] == [
        ["k", "o", "q", "v"]
    ] * 2


@pytest.mark.parametrize("rank", [4, 0])
def test_bfloat16_computes_and_float32_remembers(rank):
    learner = synthetic.learner(lora_rank=rank, compute_dtype="bfloat16")
    if learner.base is not None:
        base = jax.tree.map(lambda x: x.astype(jnp.bfloat16), learner.base)
        learner = dataclasses.replace(learner, base=base)
    state, found = update(learner, synthetic.mesh(), first_batch(learner))
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    exact = synthetic.learner(lora_rank=rank)
    _, expected = update(exact, synthetic.mesh(), first_batch(exact))
    assert found["loss"] == pytest.approx(expected["loss"], rel=0.05)
    assert found["loss"] != expected["loss"]
