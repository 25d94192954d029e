"""What a training leaves is what it has trained, in our loaders and in others'."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers

from jax_switchgen.checkpoints.hf import export_transformer, load_transformer
from jax_switchgen.checkpoints.peft import load_lora, merge
from jax_switchgen.generation.buckets import Buckets
from jax_switchgen.policies.build import CandidateOptions, SwitcherSource
from jax_switchgen.policies.switcher import Switcher, SwitcherOptions
from jax_switchgen.rollouts.pool import pool_of
from jax_switchgen.training.build import build_learner, identity
from jax_switchgen.training.data import make_batch
from jax_switchgen.training.loop import train
from jax_switchgen.training.output import export_switcher
from jax_switchgen.training.step import Recipe, choice_log_probs
from tests import tiny
from tests.hf_models import one_line_error
from tests.launch.conftest import save_checkpoint
from tests.training import synthetic
from tests.training.synthetic import NAMES, VOCABULARY, rollout

# peft 0.21 reads a property that transformers 5.23 has renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)

CANDIDATES = tuple(CandidateOptions(name=name, path="anything") for name in NAMES)
THIS = pool_of(CANDIDATES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint `model`, and `rollouts.jsonl` of the pool `THIS`."""
    folder = tmp_path_factory.mktemp("export")
    save_checkpoint(folder / "model", seed=1)
    made = [rollout(i) for i in range(100)]
    synthetic.write_rollouts(folder / "rollouts.jsonl", made, THIS)
    return folder


def learner_of(folder, on=None, path="model", **changes):
    rollouts = (str(folder / "rollouts.jsonl"),)
    return build_learner(
        CANDIDATES,
        SwitcherSource(path=str(folder / path)),
        synthetic.options(rollouts=rollouts, **changes),
        mesh=on or synthetic.mesh(),
    )


def trained(folder, output, on=None, **changes):
    """A learner, its parameters after an epoch, and log-probabilities of examples."""
    mesh = on or synthetic.mesh()
    learner = learner_of(folder, on=mesh, epochs=1, **changes)
    output.mkdir()
    state = train(learner, output, mesh=mesh)
    examples = learner.split.held_out[:8]
    batch = make_batch(examples, 240, parts=1)
    with jax.set_mesh(mesh):
        logp_BC = choice_log_probs(
            state.params,
            learner.base,
            batch.tokens_ABT[0],
            batch.length_AB[0],
            learner.label_ids_C,
            recipe=Recipe(learner.config, learner.options, 1, in_loop=False),
        )
    return learner, state.params, examples, np.asarray(logp_BC)


def torch_log_probs(model, examples):
    labels = VOCABULARY.encode("01")
    found = []
    with torch.no_grad():
        for example in examples:
            ids = torch.from_numpy(example.ids_T)[None].long()
            logits_V = model(ids).logits[0, -1].double()
            found.append(torch.log_softmax(logits_V, -1)[labels].numpy())
    return np.stack(found)


def our_log_probs(model, examples, lora=None):
    labels = VOCABULARY.encode("01")
    logits_BV = np.stack(
        [tiny.next_logits(model, e.ids_T.tolist(), lora) for e in examples]
    ).astype(np.float64)
    logp_BV = logits_BV - np.log(np.exp(logits_BV).sum(-1, keepdims=True))
    return logp_BV[:, labels]


def test_an_adapter_gives_the_same_probabilities_everywhere(folder, tmp_path):
    """In our loader, in the policy that `generate.py` runs, in PEFT, and merged."""
    learner, params, examples, expected = trained(folder, tmp_path / "run")
    target = tmp_path / "run" / "switcher"
    export_switcher(learner, params, target, synthetic.mesh())
    base = load_transformer(folder / "model", dtype=jnp.float32)
    lora = load_lora(target, base.config, jnp.float32)
    np.testing.assert_allclose(our_log_probs(base, examples, lora), expected, atol=1e-4)
    assert np.abs(our_log_probs(base, examples) - expected).max() > 0.1
    probs_BC = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    np.testing.assert_allclose(policy_probs(base, lora, examples), probs_BC, atol=1e-4)

    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model")
    model = peft.PeftModel.from_pretrained(model, target).eval()
    np.testing.assert_allclose(torch_log_probs(model, examples), expected, atol=1e-4)
    settings = json.loads((target / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(folder / "model")
    assert settings["r"] == 4 and settings["lora_alpha"] == 16

    export_transformer(merge(base, lora), tmp_path / "merged", folder / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(torch_log_probs(model, examples), expected, atol=1e-4)


def test_a_published_adapter_is_our_switcher(folder, tmp_path):
    """A LoRA that PEFT has saved over a Llama: on q, k, v and o, alpha / rank 1 / 4."""
    torch.manual_seed(3)
    modules = [f"{name}_proj" for name in "qkvo"]
    settings = peft.LoraConfig(
        r=8, lora_alpha=2, target_modules=modules, task_type="CAUSAL_LM"
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model")
    model = peft.get_peft_model(model, settings).eval()
    for name, weight in model.named_parameters():
        if "lora_" in name:  # B starts at zero, an adapter that does nothing
            weight.data = 0.5 * torch.randn(weight.shape)
    model.save_pretrained(tmp_path / "published")
    examples = learner_of(folder).split.held_out[:8]
    expected = np.exp(torch_log_probs(model, examples))
    expected /= expected.sum(-1, keepdims=True)
    base = load_transformer(folder / "model", dtype=jnp.float32)
    lora = load_lora(tmp_path / "published", base.config, jnp.float32)
    np.testing.assert_allclose(policy_probs(base, lora, examples), expected, atol=1e-4)
    assert np.abs(policy_probs(base, None, examples) - expected).max() > 0.05


def policy_probs(model, lora, examples):
    """The candidates' probabilities, as an engine gets them."""
    switcher = Switcher(model, VOCABULARY, 2, SwitcherOptions(), lora=lora)
    switcher.open(8, ["query"], tiny.generation(), Buckets(batch=(1, 2, 4)))
    turns = [Turn(i, example.rollout) for i, example in enumerate(examples)]
    return switcher.probs(turns)


class Turn:
    """A request that waits for a decision."""

    def __init__(self, slot, found):
        self.slot, self.query = slot, found.query
        self.history = found.history()


def test_a_whole_model_gives_the_same_probabilities_everywhere(folder, tmp_path):
    learner, params, examples, expected = trained(
        folder, tmp_path / "run", lora_rank=0, learning_rate=1e-3
    )
    target = tmp_path / "run" / "switcher"
    export_switcher(learner, params, target, synthetic.mesh())
    model = load_transformer(target, dtype=jnp.float32)
    np.testing.assert_allclose(our_log_probs(model, examples), expected, atol=1e-4)
    before = load_transformer(folder / "model", dtype=jnp.float32)
    assert np.abs(our_log_probs(before, examples) - expected).max() > 0.1
    theirs = transformers.AutoModelForCausalLM.from_pretrained(target)
    np.testing.assert_allclose(torch_log_probs(theirs, examples), expected, atol=1e-4)
    assert (target / "tokenizer.json").is_file()


@pytest.mark.parametrize("rank", [4, 0])
def test_a_sharded_state_is_exported_whole(folder, tmp_path, rank):
    """Split over eight devices, and bit for bit what is in the state."""
    mesh = synthetic.mesh(2, 2, 2)
    learner, params, _, _ = trained(folder, tmp_path / "run", on=mesh, lora_rank=rank)
    target = tmp_path / "run" / "switcher"
    export_switcher(learner, params, target, mesh)
    if rank:
        found = load_lora(target, learner.config, jnp.float32)
    else:
        found = load_transformer(target, dtype=jnp.float32).arrays()
    jax.tree.map(
        np.testing.assert_array_equal, jax.tree.leaves(found), jax.tree.leaves(params)
    )
    assert not jax.tree.leaves(params)[0].is_fully_replicated


def test_bad_input_is_refused_before_a_model_is_read(folder):
    nowhere = SwitcherSource(path="/nowhere")
    path = folder / "rollouts.jsonl"

    def build(candidates=CANDIDATES, path=path):
        options = synthetic.options(rollouts=(str(path),))
        build_learner(candidates, nowhere, options, mesh=synthetic.mesh())

    moved = (CANDIDATES[0], dataclasses.replace(CANDIDATES[1], path="elsewhere"))
    with one_line_error(f"{path}, line 1", "another pool", THIS.fingerprint):
        build(moved)
    renamed = (CANDIDATES[0], dataclasses.replace(CANDIDATES[1], name="tuned"))
    with one_line_error(path, "pretrained, aligned", "pretrained, tuned"):
        build(renamed)
    with one_line_error("missing.jsonl", "no such file", "collect_rollouts"):
        build(path=folder / "missing.jsonl")
    with one_line_error("/nowhere", "no such folder"):
        build()


def test_a_model_is_loaded_as_training_splits_it(folder):
    """The frozen one and the first parameters: a quarter of every matrix on a device,
    by width and by heads; and what is loaded is what is stored."""
    mesh = synthetic.mesh(2, 2, 2)
    plain = load_transformer(folder / "model", dtype=jnp.float32).arrays()
    frozen = learner_of(folder, on=mesh).base.arrays()
    trained = learner_of(folder, on=mesh, lora_rank=0)
    assert trained.base is None
    for found in (frozen, trained.first_params()):
        jax.tree.map(np.testing.assert_array_equal, found, plain)
        for path, x in found.items():
            share = x.addressable_shards[0].data.size / x.size
            assert share == (1 if x.ndim == 1 else 1 / 4), path


def test_rollouts_of_several_files_are_one_set(folder, tmp_path):
    more = [rollout(i, task="other") for i in range(200, 260)]
    second = synthetic.write_rollouts(tmp_path / "more.jsonl", more, THIS)
    files = (str(folder / "rollouts.jsonl"), str(second))
    learner = build_learner(
        CANDIDATES,
        SwitcherSource(path=str(folder / "model")),
        synthetic.options(rollouts=files),
        mesh=synthetic.mesh(),
    )
    assert len(learner.split.train) + len(learner.split.held_out) == 160


def test_other_rollouts_are_another_training(tmp_path):
    """Not by their name: by what is in them."""
    found = []
    for name, count in (("a", 3), ("b", 3), ("a", 4)):
        path = tmp_path / name
        synthetic.write_rollouts(path, [rollout(i) for i in range(count)])
        options = synthetic.options(rollouts=(str(path),))
        config = {
            "candidates": [],
            "switcher": {
                **{"path": "a", "labels": None, "quantization": None},
                "temperature": float(count),
            },
            "training": {},
        }
        found.append(identity(config, options))
    assert found[0] == found[1] != found[2]
    assert "temperature" not in found[0]["switcher"], "how it chooses is not learned"


def test_labels_of_the_switcher_are_the_ones_learned(folder):
    learner = learner_of(folder)
    assert learner.label_ids_C.tolist() == VOCABULARY.encode("01")
    source = SwitcherSource(path=str(folder / "model"), labels=("A", "B"))
    named = build_learner(CANDIDATES, source, learner.options, mesh=synthetic.mesh())
    assert named.label_ids_C.tolist() == VOCABULARY.encode("AB")
