"""Small candidates for `truth_world.py`, trained here from random weights."""

import dataclasses
import functools
import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import progress
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from truth_world import CANDIDATES, Query

from jax_switchgen.checkpoints.hf import (
    export_transformer,
    load_tokenizer,
    load_transformer,
)
from jax_switchgen.checkpoints.hf_config import read_config
from jax_switchgen.models.transformer import Transformer, init_transformer
from jax_switchgen.policies.switcher import history_text, question_text


@dataclasses.dataclass(frozen=True)
class Size:
    """Of a model."""

    layers: int
    width: int
    heads: int = 4


def write_source(folder: Path, size: Size) -> None:
    """A checkpoint's folder without weights: its config and its tokenizer."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": size.width,
        "intermediate_size": 3 * size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e4,
        "tie_word_embeddings": False,
        "eos_token_id": tokenizer.eos_token_id,
    }
    (folder / "config.json").write_text(json.dumps(config))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte, and one for each text that all prompts share: what small
    models need not learn is left out."""
    n = len(CANDIDATES)
    query = Query((0,), ("a",))
    instruction = query.record(0).prompt.removeprefix(query.text)
    signatures = [history_text("", [(i, "|")]).split("|") for i in range(n)]
    shared = [instruction, question_text(n), *itertools.chain(*signatures)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in shared])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def untrained(source: Path, seed: int) -> Transformer:
    """Random weights of the shape that `source` describes."""
    return init_transformer(read_config(source), jax.random.key(seed))


@dataclasses.dataclass(frozen=True)
class Course:
    """How candidates learn: the first from random weights, the others from the first,
    as checkpoints of one pipeline do."""

    first_steps: int
    further_steps: int
    batch_size: int = 64
    learning_rate: float = 3e-3


def train_candidates(
    queries: Sequence[Query], course: Course, source: Path, folder: Path
) -> None:
    """Makes those of the checkpoints `folder/NAME` that are not there yet."""
    first: Transformer | None = None
    for candidate, name in enumerate(CANDIDATES):
        if (folder / name).is_dir():
            model = load_transformer(folder / name, dtype=jnp.dtype("float32"))
        else:
            # A copy, for training takes the memory of what it begins with.
            model = jax.tree.map(jnp.copy, first or untrained(source, seed=0))
            steps = course.further_steps if candidate else course.first_steps
            examples = make_examples(source, queries, candidate)
            model = train(model, examples, course, steps, name)
            export_transformer(model, folder / name, source)
        first = first or model


@dataclasses.dataclass(frozen=True)
class Examples:
    """Responses that candidates took turns to write, and what one would write there.

    Attributes:
      tokens_NT: int32, prompt and response; the end of a row is padding.
      before_N: int32, the tokens of the prompt.
      targets_NR: int32, the candidate's own token for each token of the response.
    """

    tokens_NT: np.ndarray
    before_N: np.ndarray
    targets_NR: np.ndarray


def make_examples(source: Path, queries: Sequence[Query], candidate: int) -> Examples:
    tokenizer = load_tokenizer(source)
    rng = random.Random(candidate)
    prompts = [query.record(0).prompt for query in queries]
    mixed, own = [], []
    for query in queries:
        speakers = rng.choices(range(len(CANDIDATES)), k=len(query.words))
        mixed.append(query.response(speakers))
        own.append(query.response([candidate] * len(query.words)))
    prompt_ids, mixed_ids, own_ids = (
        tokenizer(texts)["input_ids"] for texts in (prompts, mixed, own)
    )
    rows = [p + r for p, r in zip(prompt_ids, mixed_ids, strict=True)]
    tokens_NT = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for tokens_T, row in zip(tokens_NT, rows, strict=True):
        tokens_T[: len(row)] = row
    before_N = np.array([len(ids) for ids in prompt_ids], np.int32)
    return Examples(tokens_NT, before_N, np.array(own_ids, np.int32))


def train(
    model: Transformer, examples: Examples, course: Course, steps: int, name: str
) -> Transformer:
    """The model after its steps; the given one is used up."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, course.learning_rate, steps // 10, steps
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate))
    opt_state = optimizer.init(model)
    rng = np.random.default_rng(0)
    for step in range(1, steps + 1):
        rows = rng.integers(len(examples.tokens_NT), size=course.batch_size)
        model, opt_state, loss, right = update(
            model,
            opt_state,
            examples.tokens_NT[rows],
            examples.before_N[rows],
            examples.targets_NR[rows],
            optimizer=optimizer,
        )
        if step % 100 == 0 or step == steps:
            progress(
                f"  {name}: step {step}/{steps}, loss {loss:.4f}, "
                f"{right:.1%} of the tokens are right"
            )
    return model


@functools.partial(
    jax.jit, static_argnames="optimizer", donate_argnames=("model", "opt_state")
)
def update(
    model: Transformer,
    opt_state: optax.OptState,
    tokens_BT: jax.Array,
    before_B: jax.Array,
    targets_BR: jax.Array,
    *,
    optimizer: optax.GradientTransformation,
) -> tuple[Transformer, optax.OptState, jax.Array, jax.Array]:
    """One step; also the loss, and the share of tokens that would be right."""
    # The last token of the prompt is followed by the first of the response.
    places_BR = before_B[:, None] - 1 + jnp.arange(targets_BR.shape[1])[None]

    def loss_of(model: Transformer) -> tuple[jax.Array, jax.Array]:
        logits_BTV = model(tokens_BT)
        logits_BRV = jnp.take_along_axis(logits_BTV, places_BR[:, :, None], axis=1)
        loss_BR = optax.softmax_cross_entropy_with_integer_labels(
            logits_BRV, targets_BR
        )
        return loss_BR.mean(), (logits_BRV.argmax(-1) == targets_BR).mean()

    (loss, right), grads = jax.value_and_grad(loss_of, has_aux=True)(model)
    updates, opt_state = optimizer.update(grads, opt_state, model)
    return optax.apply_updates(model, updates), opt_state, loss, right
