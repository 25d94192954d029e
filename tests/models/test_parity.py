"""Law: our logits and greedy tokens are those of transformers, for every family."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from jax_switchgen.checkpoints.hf import load_transformer
from jax_switchgen.models.config import Rope
from jax_switchgen.models.rope import rope_tables
from jax_switchgen.models.transformer import Transformer, empty_recent, hidden
from tests.hf_models import (
    MODELS,
    make_model,
    reference_logits,
    relative_error,
    save_model,
    some_tokens,
)
from tests.jaxprs import all_shapes

PROMPT, NEW, VOCAB = 7, 100, 101

forward = jax.jit(lambda model, tokens_BT: model(tokens_BT))


@jax.jit
def greedy(model: Transformer, tokens_BT: jax.Array) -> jax.Array:
    """Fills rows from PROMPT on, by uncached forwards over the padded rows."""

    def step(t: jax.Array, tokens_BT: jax.Array) -> jax.Array:
        logits_BTV = model(tokens_BT)
        next_B = jnp.argmax(logits_BTV[:, t - 1, :VOCAB], -1).astype(jnp.int32)
        return tokens_BT.at[:, t].set(next_B)

    return jax.lax.fori_loop(PROMPT, PROMPT + NEW, step, tokens_BT)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Name to (model of transformers, its folder), each made once."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            model = make_model(name)
            made[name] = model, save_model(model, folder)
        return made[name]

    return get


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_and_logits_are_those_of_transformers(saved, name):
    """100 greedy tokens identical, and all their logits within 1e-4 in float32."""
    reference, folder = saved(name)
    # With 27 rows of padding, which must change nothing.
    model = load_transformer(folder, dtype=jnp.float32, vocab_size=VOCAB + 27)
    prompt = torch.from_numpy(some_tokens(2, PROMPT)).long()
    expected = reference.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=NEW,
        do_sample=False,
        pad_token_id=0,
    ).numpy()
    assert expected.shape == (2, PROMPT + NEW)
    assert len(set(expected[0, PROMPT:].tolist())) > 5, "a text worth comparing"

    found = forward(model, expected.astype(np.int32))
    logits = reference_logits(reference, expected)
    assert relative_error(found[..., :VOCAB], logits) < 1e-4
    rows = np.zeros((2, PROMPT + NEW), np.int32)
    rows[:, :PROMPT] = prompt.numpy()
    assert np.array_equal(greedy(model, rows), expected)


@pytest.mark.parametrize("with_past", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen2_sliding", "gemma3", "olmo2"])
def test_the_state_of_one_token_of_each_row_is_that_among_all(saved, name, with_past):
    """And nothing is missing of what the cache gets, norms and windows included. Rows
    have pasts of different lengths, behind which the cache has something too."""
    model = load_transformer(saved(name)[1], dtype=jnp.float32)
    tokens_BT = jnp.asarray(some_tokens(3, 20))
    past_length_B = jnp.asarray([0, 5, 24] if with_past else [0, 0, 0])

    @jax.jit
    def states(only_B: jax.Array | None):
        keys = empty_recent(model.config, 3, 24, model.dtype)
        noise = jax.random.normal(jax.random.key(0), keys[0][0].shape)
        return hidden(
            model,
            tokens_BT,
            ropes=rope_tables(model.config, past_length_B, 20),
            past=[[(noise, noise + 1)] for _ in keys] if with_past else None,
            past_length_B=past_length_B,
            recent=empty_recent(model.config, 3, 20, model.dtype),
            offset=0,
            only_B=only_B,
        )

    whole_BTD, expected = states(None)
    only_B = jnp.asarray([0, 19, 7])
    found_B1D, recent = states(only_B)
    assert found_B1D.shape == (3, 1, model.config.embed_dim)
    assert relative_error(found_B1D[:, 0], whole_BTD[jnp.arange(3), only_B]) < 1e-5
    for ours, theirs in zip(
        jax.tree.leaves(recent), jax.tree.leaves(expected), strict=True
    ):
        assert relative_error(ours, theirs) < 1e-5

    # And the last block's MLP is for 3 tokens, not for 60.
    def of_mlp(index_B: jax.Array | None) -> int:
        shapes = list(all_shapes(jax.make_jaxpr(states)(index_B).jaxpr))
        return shapes.count((3, 20, model.config.mlp_dim))

    layers = model.config.num_layers
    assert of_mlp(only_B) * layers == of_mlp(None) * (layers - 1) > 0


CHANGES = {
    "llama": {"rope": Rope(theta=10000.0)},
    "llama_tied": {"rope": Rope(theta=5000.0)},
    "mistral": {"sliding_window": 7},
    "qwen2_sliding": {"local_layers": (False, False), "sliding_window": None},
    "qwen2": {"qkv_bias": False},
    "gemma2": {"attn_softcap": None},
    "gemma3": {"rope_local": None},
    "olmo2": {"norm_eps": 1e-2},
}


@pytest.mark.parametrize("name", CHANGES)
def test_parity_would_notice_a_setting_that_is_lost(saved, name):
    """The comparison above is no stronger than this."""
    reference, folder = saved(name)
    model = load_transformer(folder, dtype=jnp.float32)
    config = dataclasses.replace(model.config, **CHANGES[name])
    assert config != model.config
    tokens = some_tokens(2, 60)
    found = forward(Transformer(config, model.arrays()), tokens)
    assert relative_error(found, reference_logits(reference, tokens)) > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_stored_dtypes_are_cast_as_torch_casts_them(tmp_path, dtype):
    stored = make_model("qwen3").to(getattr(torch, dtype))
    folder = save_model(stored, tmp_path)
    for ours, theirs in {"float32": torch.float32, "bfloat16": torch.bfloat16}.items():
        params = load_transformer(folder, dtype=jnp.dtype(ours)).arrays()
        assert {x.dtype.name for x in params.values()} == {ours}
        found = np.asarray(params["layers.1.gate"].astype(jnp.float32))
        expected = stored.model.layers[1].mlp.gate_proj.weight.detach().to(theirs)
        assert np.array_equal(found, expected.float().numpy())


def test_bfloat16_logits_are_as_good_as_those_of_transformers(tmp_path):
    """Both round in many places; ours lie no further from the float32 logits."""
    folder = save_model(make_model("gemma3").to(torch.bfloat16), tmp_path)
    # Read again, because .to() has rounded the rotary frequencies too.
    reference = AutoModelForCausalLM.from_pretrained(folder)
    tokens = some_tokens(4, 60)
    exact, ours = (
        np.asarray(forward(load_transformer(folder, dtype=dtype), tokens))
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    theirs = reference_logits(reference, tokens)
    assert np.abs(ours - exact).mean() < 1.1 * np.abs(theirs - exact).mean()
