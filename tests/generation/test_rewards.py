"""Law: our rewards are the logits of transformers, in any company and any order."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing

from jax_switchgen.checkpoints.reward import load_reward
from jax_switchgen.decoding.reward import row_rewards
from jax_switchgen.generation.rewards import batches, load_reward_model
from tests.hf_models import MODELS, edit_json, make_model, one_line_error
from tests.tiny import byte_tokenizer

WEIGHTS = "model.safetensors"
EOS = 256
POSITIONS = 600
# One token for each byte: 18 to some 450 tokens, so in two shapes of batches.
PAIRS = [
    ("Name a colour.", "Blue, as the sky is."),
    ("Hi", ""),
    ("Count to a hundred.", ", ".join(str(i) for i in range(101))),
    ("Name a colour.", "Blue, as the sky was."),
    ("Write\ntwo lines.", "One.\n\nTwo.\n"),
]


def eager_tokenizer():
    """One that would begin a text with <eos>, where a chat template writes its own."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", EOS)]
    )
    return tokenizer


def save_reward_model(folder, name="llama", pad_id=EOS, **changes):
    """A random reward model with a byte tokenizer; returns that of transformers."""
    changes |= {"vocab_size": 272, "max_position_embeddings": POSITIONS}
    causal = make_model(name, **changes)
    config = causal.config
    config.num_labels, config.pad_token_id = 1, pad_id
    family = {"gemma3": "Gemma3Text"}.get(name, MODELS[name][0])
    kind = getattr(transformers, f"{family}ForSequenceClassification")
    model = kind(config).eval()
    model.model.load_state_dict(causal.model.state_dict())
    torch.manual_seed(1)
    model.score.weight.data = torch.randn(model.score.weight.shape)
    model.save_pretrained(folder)
    eager_tokenizer().save_pretrained(folder)
    return model


def reference_rewards(model, pairs):
    """reward_I by transformers, each chat on its own."""
    tokenizer = eager_tokenizer()
    rewards = []
    for prompt, output in pairs:
        chat = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": output},
        ]
        ids = tokenizer.apply_chat_template(chat, return_dict=False)
        with torch.no_grad():
            rewards.append(float(model(torch.tensor([ids])).logits[0, 0]))
    return np.array(rewards, np.float32)


@pytest.fixture
def folder(tmp_path):
    save_reward_model(tmp_path)
    return tmp_path


def edit_weights(folder, **changes):
    """Replaces, adds or (None) removes tensors."""
    tensors = load_file(folder / WEIGHTS) | changes
    kept = {name: x for name, x in tensors.items() if x is not None}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "gemma2", "gemma3"])
def test_rewards_are_the_logits_of_transformers(tmp_path, name):
    expected = reference_rewards(save_reward_model(tmp_path, name), PAIRS)
    judge = load_reward_model(str(tmp_path), dtype="float32")
    found = judge.rewards(PAIRS)
    assert found.dtype == np.float32 and found.shape == (len(PAIRS),)
    assert np.ptp(expected) > 1, "rewards worth comparing"
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("character", ["\n", None])
def test_the_score_is_read_where_transformers_reads_it(tmp_path, character):
    """A template may end in the very token that is padding elsewhere."""
    pad = None if character is None else byte_tokenizer().encode(character)[0]
    expected = reference_rewards(save_reward_model(tmp_path, pad_id=pad), PAIRS)
    found = load_reward_model(str(tmp_path), dtype="float32").rewards(PAIRS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    other = save_reward_model(tmp_path, pad_id=EOS)
    moved = np.abs(reference_rewards(other, PAIRS) - expected).max() > 0.1
    assert moved == (character is not None)


def test_a_reward_does_not_depend_on_its_company(folder):
    judge = load_reward_model(str(folder), dtype="float32")
    judge = dataclasses.replace(judge, batch_tokens=1024)
    told = []
    together = judge.rewards(PAIRS, told.append)
    assert told == [2, 5], "two batches"
    alone = np.concatenate([judge.rewards([pair]) for pair in PAIRS])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4)
    np.testing.assert_allclose(judge.rewards(PAIRS[::-1])[::-1], together, atol=1e-4)
    assert judge.rewards([]).shape == (0,)


def test_rewards_on_a_mesh_are_the_same(tmp_path):
    save_reward_model(tmp_path, num_attention_heads=4, intermediate_size=52)
    kinds = (AxisType.Auto, AxisType.Auto)
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=kinds)
    judge = load_reward_model(str(tmp_path), dtype="float32", mesh=mesh)
    assert len(judge.model.arrays()["layers.0.q"].devices()) == 4
    expected = load_reward_model(str(tmp_path), dtype="float32").rewards(PAIRS)
    np.testing.assert_allclose(judge.rewards(PAIRS), expected, rtol=0, atol=1e-4)


def test_a_bfloat16_model_does_not_round_its_rewards(folder):
    exact = load_reward_model(str(folder), dtype="float32").rewards(PAIRS)
    judge = load_reward_model(str(folder), dtype="bfloat16")
    assert judge.model.dtype == jnp.bfloat16
    found = judge.rewards(PAIRS)
    np.testing.assert_allclose(found, exact, rtol=0, atol=0.1 * np.abs(exact).max())
    assert (found != np.asarray(found.astype(jnp.bfloat16), np.float32)).all()


def test_programs_do_not_grow_with_the_number_of_pairs(folder):
    judge = load_reward_model(str(folder), dtype="float32")
    judge = dataclasses.replace(judge, batch_tokens=1024)
    rng = np.random.default_rng(0)

    def pairs(count):
        return [("Go on.", "x" * int(n)) for n in rng.integers(0, 400, count)]

    # Shapes of three lengths, and one of the rows that are left at the end.
    row_rewards.clear_cache()
    judge.rewards(pairs(15))
    assert 2 <= row_rewards._cache_size() <= 4
    judge.rewards(pairs(16))
    judge.rewards(pairs(40))
    assert row_rewards._cache_size() <= 5


@settings(max_examples=100)
@given(st.lists(st.integers(1, 5000), max_size=60), st.integers(256, 9000))
def test_batches_hold_every_row_once_and_keep_the_budget(lengths, budget):
    found = list(batches(lengths, budget))
    assert sorted(i for rows, _, _ in found for i in rows) == list(range(len(lengths)))
    for rows, B, T in found:
        assert len(rows) <= B and B.bit_count() == 1
        assert max(lengths[i] for i in rows) <= T
        assert B * T <= budget or B == 1
    assert all(len(rows) == B for rows, B, _ in found[:-1]), "only the last is not full"


def test_batches_of_the_docstring():
    assert list(batches([300, 20, 400, 30], 1024)) == [
        ([2, 0], 2, 512),
        ([3, 1], 2, 256),
    ]


def test_a_chat_that_is_too_long_is_refused(folder):
    judge = load_reward_model(str(folder), dtype="float32")
    overhead = len("[user] \n[assistant] \n")
    fits = "x" * (POSITIONS - overhead)
    assert judge.rewards([("", fits)]).shape == (1,)
    with one_line_error("pair 1", "601", "600", "shorten"):
        judge.rewards([("", fits), ("", fits + "x")])


def test_a_tokenizer_without_a_chat_template_is_refused(folder):
    (folder / "chat_template.jinja").unlink()
    with one_line_error(folder, "chat template", "copy"):
        load_reward_model(str(folder), dtype="float32")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"score.weight": None}, ("'score.weight'", "missing", "copy")),
        ({"score.weight": torch.zeros(2, 40)}, ("(2, 40)", "(1, 40)")),
        ({"score.weight": torch.zeros(1, 41)}, ("(1, 41)", "(1, 40)")),
        ({"score.bias": torch.zeros(1)}, ("'score.bias'", "no place")),
        ({"model.norm.weight": None}, ("'model.norm.weight'", "missing")),
    ],
)
def test_wrong_tensors_are_named(folder, changes, words):
    edit_weights(folder, **changes)
    with one_line_error(folder, *words):
        load_reward(folder, dtype=jnp.float32)


def test_other_kinds_of_models_are_refused(folder):
    edit = functools.partial(edit_json, folder / "config.json")
    edit(id2label={"0": "no", "1": "yes"}, label2id={"no": 0, "yes": 1})
    with one_line_error(folder, "num_labels=2", "has 1", "one score"):
        load_reward(folder, dtype=jnp.float32)
    for architectures in (["LlamaForCausalLM"], None):
        edit(architectures=architectures)
        with one_line_error(folder, "architectures", "ForSequenceClassification"):
            load_reward(folder, dtype=jnp.float32)


def test_a_leftover_language_head_is_not_used(folder):
    expected = load_reward_model(str(folder), dtype="float32").rewards(PAIRS)
    edit_weights(folder, **{"lm_head.weight": torch.ones(272, 40)})
    judge = load_reward_model(str(folder), dtype="float32")
    assert "head" not in judge.model.arrays()
    assert np.array_equal(judge.rewards(PAIRS), expected)
