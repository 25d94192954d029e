"""A single candidate is the harness's own `hf` model of the same checkpoint."""

from pathlib import Path

import jax.numpy as jnp
import lm_eval
import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import pre_tokenizers, processors

from jax_switchgen.checkpoints.hf import load_tokenizer, load_transformer
from jax_switchgen.evaluation.harness import harness_model
from jax_switchgen.evaluation.systems import Written
from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.policies.simple import Fixed
from tests import hf_models, tiny

POSITIONS = 256
MERGES = (("Ġ", "r"), ("Ċ", "Ċ"), ("y", "e"), ("Ġ", "ye"), ("Ġye", "s"))
PAIRS = [
    ("Q: What is wet?\nA:", " rain"),
    ("Q: What is wet?\nA:", " the sun and the moon"),
    ("Q: What is wet?\nA: ", "rain"),  # their trailing space is the continuation's
    ("Two lines\n\n", "rain"),
    ("", "of nothing"),
    ("Grüße 🌧", " Straßen 🌧🌧\nagain"),
    ("a", " yes yes yes " * 9),
    ("An answer follows:", "no"),
]
LONG = ("More than the positions of the model, yes yes. " * 12, " rain")
TEXTS = ["A text of two lines,\nas they come.", "Köln 🌧", "yes yes, and so on. " * 40]


def plain():
    """Longer tokens than bytes, and none in front of a text."""
    return tiny.byte_tokenizer(MERGES)


def beginning():
    """With a token in front of each text, as Llama and Gemma have it."""
    tokenizer = tiny.byte_tokenizer(MERGES)
    tokenizer.bos_token = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", tokenizer.eos_token_id)]
    )
    return tokenizer


def spaced():
    """With a space before whatever is encoded, as SentencePiece often has it."""
    tokenizer = tiny.byte_tokenizer(MERGES)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.backend_tokenizer.pre_tokenizer = byte_level
    return tokenizer


def save(folder: Path, tokenizer) -> Path:
    """A random model with the tokenizer, which writes letters and ends at <eos>."""
    # As many tokens as the tokenizer has: they count padding of the head as tokens.
    model = hf_models.make_model(
        "llama", vocab_size=len(tokenizer), max_position_embeddings=POSITIONS
    )
    # Ids 0 … 93 are "!" to "~"; random bytes are no text.
    model.lm_head.weight.data[94:] *= 0.3
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    hf_models.save_model(model, folder)
    tokenizer.save_pretrained(folder)
    return folder


def pair(folder: Path, tokenizer, prompt_format: str = "raw", **theirs):
    """Their model and ours."""
    save(folder, tokenizer)
    vocabulary = Vocabulary(load_tokenizer(folder))
    speaker = tiny.speaker(
        "m",
        load_transformer(folder, dtype=jnp.dtype("float32")),
        vocabulary=vocabulary,
        prompt_format=prompt_format,
        stop_ids=(vocabulary.tokenizer.eos_token_id,),
    )
    options = tiny.generation(segment_length=64, max_new_tokens=64)
    ours = harness_model(Written("single:m", [speaker], Fixed(0), options))
    hf = HFLM(str(folder), device="cpu", dtype="float32", batch_size=2, **theirs)
    return hf, ours


def ask(kind: str, *arguments: tuple) -> list[Instance]:
    return [
        Instance(kind, {}, args, 0, ("task", number, 1))
        for number, args in enumerate(arguments)
    ]


@pytest.mark.parametrize("tokenizer", [plain, beginning, spaced])
def test_likelihoods_are_theirs(tmp_path, tokenizer):
    theirs, ours = pair(tmp_path, tokenizer())
    pairs = list(PAIRS)
    if tokenizer is plain:
        pairs.append(LONG)  # they cut the beginning token off, too
    (output,) = ours.generate_until(ask("generate_until", ("a", {"max_gen_toks": 6})))
    pairs.append(("a", output))
    found = ours.loglikelihood(ask("loglikelihood", *pairs))
    expected = theirs.loglikelihood(ask("loglikelihood", *pairs))
    np.testing.assert_allclose(
        [log_prob for log_prob, _ in found], [p for p, _ in expected], atol=1e-3
    )
    greedy = [is_greedy for _, is_greedy in found]
    assert greedy == [is_greedy for _, is_greedy in expected]
    assert greedy[-1] and not all(greedy)


@pytest.mark.parametrize("tokenizer", [plain, beginning])
def test_likelihoods_of_whole_texts_are_theirs(tmp_path, tokenizer):
    """Texts of one window, and of several, whose last one has a full context."""
    # Else they count the beginning twice: as what is read first, and as what follows.
    theirs, ours = pair(tmp_path, tokenizer(), add_bos_token=False)
    asked = ask("loglikelihood_rolling", *((text,) for text in TEXTS))
    assert len(theirs.tok_encode(TEXTS[-1])) > 2 * POSITIONS
    found = ours.loglikelihood_rolling(asked)
    np.testing.assert_allclose(
        found, theirs.loglikelihood_rolling(asked), rtol=1e-6, atol=1e-3
    )


@pytest.mark.parametrize("tokenizer", [plain, beginning])
def test_greedy_texts_are_theirs(tmp_path, tokenizer):
    theirs, ours = pair(tmp_path, tokenizer())
    contexts = [context for context, _ in PAIRS if context]
    if tokenizer is plain:
        contexts.append(LONG[0])
    whole = ours.generate_until(
        ask(
            "generate_until",
            *((c, {"until": [], "max_gen_toks": 40}) for c in contexts),
        )
    )
    assert len(set(whole)) > 3 and all(whole)
    settings = {"until": [whole[0][4:6], whole[1][9:12]], "max_gen_toks": 40}
    asked = ask("generate_until", *((context, settings) for context in contexts))
    found = ours.generate_until(asked)
    assert found == theirs.generate_until(asked)
    assert found[0] == whole[0][:4] and found != whole


def test_a_chat_model_is_theirs_with_its_template(tmp_path):
    tokenizer = plain()
    # They count white space at the end of a template as part of the answer.
    tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace("[assistant] ", "[assistant]")
    folder = tmp_path / "checkpoint"
    theirs, ours = pair(folder, tokenizer, prompt_format="chat")
    lines = [f'{{"question": "{q}"}}\n' for q in ("What is wet?", "Why?", "x")]
    (tmp_path / "data.jsonl").write_text("".join(lines))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(tmp_path / "data.jsonl")},
            "cache_dir": str(tmp_path / "cache"),
        },
        "test_split": "test",
        "doc_to_text": "Q: {{question}}",
    }
    choose = {
        "task": "choose",
        "output_type": "multiple_choice",
        "doc_to_choice": ["rain", "no", "yes yes"],
        "doc_to_target": "0",
        "metric_list": [{"metric": "acc"}],
    }
    write = {
        "task": "write",
        "output_type": "generate_until",
        "doc_to_target": "x",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12},
        "metric_list": [{"metric": "exact_match"}],
    }
    manager = TaskManager(include_defaults=False)
    samples = [
        lm_eval.simple_evaluate(
            model,
            tasks=[common | choose, common | write],
            task_manager=manager,
            bootstrap_iters=0,
            apply_chat_template=True,
            fewshot_as_multiturn=False,
        )["samples"]
        for model in (ours, theirs)
    ]
    for one, other in zip(*(found["choose"] for found in samples), strict=True):
        np.testing.assert_allclose(one["resps"], other["resps"], rtol=1e-5)
    for one, other in zip(*(found["write"] for found in samples), strict=True):
        assert one["resps"] == other["resps"]
