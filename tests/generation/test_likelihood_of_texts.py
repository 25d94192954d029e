"""Likelihoods of texts alone, of single words, and in several speakers' tokens."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from tokenizers import pre_tokenizers

from jax_switchgen.generation.judged_text import Tokens, windows
from jax_switchgen.generation.likelihood import Likelihood
from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.models.transformer import Transformer
from jax_switchgen.policies.simple import Fixed, Random
from jax_switchgen.policies.switcher import Switcher, SwitcherOptions
from tests import tiny

MODELS = [tiny.random_model(seed) for seed in range(2)]
MERGES = (("y", "e"), ("ye", "s"), ("Ċ", "Ċ"), ("Ġ", "A"))


def naive(model: Transformer, ids: list[int], new: list[int], num: int) -> float:
    """Log-probability of `new` after `ids`, token by token."""
    total = 0.0
    for place, token in enumerate(new):
        logits_V = tiny.next_logits(model, [*ids, *new[:place]])[:num]
        total += special.log_softmax(logits_V)[token]
    return float(total)


def merging(**changes) -> Vocabulary:
    """A tokenizer with longer tokens than bytes."""
    tokenizer = tiny.byte_tokenizer(MERGES)
    if changes:
        byte_level = pre_tokenizers.ByteLevel(**changes)
        tokenizer.backend_tokenizer.pre_tokenizer = byte_level
    return Vocabulary(tokenizer)


@pytest.mark.parametrize(
    "changes",
    [
        # A space before whatever is encoded, and line ends merged with what follows.
        dict(add_prefix_space=True),
        dict(add_prefix_space=False, use_regex=False),
    ],
)
def test_a_text_in_segments_has_the_tokens_of_the_whole(changes):
    vocabulary = merging(**changes)
    speaker = tiny.speaker("m", MODELS[0], vocabulary=vocabulary)
    texts = ["unbrokenbyspace", "fiveX\n\nnext\n\n\n\nlines yes yes", "a  b   c"]
    for text in texts:
        prompt = vocabulary.encode("hi")
        whole = vocabulary.encode("hi" + text)[len(prompt) :]
        expected = naive(MODELS[0], prompt, whole, len(vocabulary))
        for length in (3, 4, 5, 6, 7):
            judge = Likelihood(
                [speaker], Fixed(0), tiny.generation(segment_length=length)
            )
            ((found, _),) = judge.log_likelihoods([("hi", text)])
            assert found == pytest.approx(expected, rel=1e-4)


def test_no_token_reaches_from_the_prompt_into_the_response():
    """ "yes" is one token, but the prompt ends with the token "ye"."""
    vocabulary = merging()
    speaker = tiny.speaker("m", MODELS[0], vocabulary=vocabulary)
    judge = Likelihood([speaker], Fixed(0), tiny.generation())
    ((found, _),) = judge.log_likelihoods([("ye", "s")])
    prompt, new = vocabulary.encode("ye"), vocabulary.encode("s")
    assert len(vocabulary.encode("yes")) == len(prompt) == len(new) == 1
    expected = naive(MODELS[0], prompt, new, len(vocabulary))
    assert found == pytest.approx(expected, rel=1e-4)


def test_speakers_read_a_text_in_their_own_tokens():
    merged, single = merging(), Vocabulary(tiny.byte_tokenizer())
    speakers = [
        tiny.speaker("bytes", MODELS[0]),
        tiny.speaker("merged", MODELS[1], vocabulary=merged),
    ]
    query, response = "hello", " yes yes"
    judge = Likelihood(speakers, Random(2), tiny.generation())
    ((found, _),) = judge.log_likelihoods([(query, response)])
    assert len(merged.encode(response)) == 4
    each = [
        naive(model, v.encode(query), v.encode(response), len(v))
        for model, v in zip(MODELS, (single, merged), strict=True)
    ]
    assert found == pytest.approx(special.logsumexp(each) - math.log(2), rel=1e-4)


def test_a_text_alone_begins_after_the_token_between_documents():
    texts = [" yes", "a longer text than a segment\nof two lines", ""]
    judge = Likelihood([tiny.speaker("m", MODELS[1])], Fixed(0), tiny.generation())
    found = list(judge.text_log_likelihoods(texts))
    encode = tiny.byte_tokenizer().encode
    expected = [
        naive(MODELS[1], [tiny.STOP], encode(text), tiny.NUM_TOKENS)
        for text in texts[:2]
    ]
    np.testing.assert_allclose(found, [*expected, 0.0], rtol=1e-4)


def uniform_model(config=tiny.CONFIG) -> Transformer:
    """Every token is as likely as the others."""
    arrays = tiny.random_model(0, config).arrays()
    arrays["head"] = jnp.zeros_like(arrays["head"])
    return Transformer(config, arrays)


@pytest.mark.parametrize("with_switcher", [False, True])
def test_every_token_of_a_text_beyond_the_positions_is_judged_once(with_switcher):
    config = dataclasses.replace(tiny.CONFIG, max_positions=300)
    speakers = [tiny.speaker(name, uniform_model(config)) for name in "ab"]
    policy = Random(2)
    if with_switcher:
        # Its history, signed, is several times as long as the text.
        options = SwitcherOptions(temperature=1.0, top_p=1.0)
        model = tiny.random_model(3, config)
        policy = Switcher(model, speakers[0].vocabulary, 2, options)
    texts = ["some words of a long text\n" * 40, "short", "unbroken" * 100]
    found = Likelihood(speakers, policy, tiny.generation()).text_log_likelihoods(texts)
    expected = [-len(text) * math.log(tiny.NUM_TOKENS) for text in texts]
    np.testing.assert_allclose(list(found), expected, rtol=1e-4)


def test_windows_are_as_long_as_every_vocabulary_allows():
    """In code points; the four bytes of an emoji end with one."""
    merged, single = merging(), Vocabulary(tiny.byte_tokenizer())
    text = "yes yes 🌧🌧 yes"
    tokens = [Tokens.of(vocabulary, text) for vocabulary in (merged, single)]
    parts = [(0, 4), (4, 8), (8, 9), (9, 10), (10, 14)]
    assert windows(tokens[:1], text, 2) == parts
    for size in (4, 5, 9, 100):
        parts = windows(tokens, text, size)
        assert "".join(text[start:end] for start, end in parts) == text
        for whole in tokens:
            inside = [whole.between(*part).ids for part in parts]
            assert sum(inside, []) == whole.ids
            assert max(map(len, inside)) <= size


def test_options_are_what_the_forward_says_of_the_next_token():
    """A word counts with and without a space before it, where each is one token."""
    vocabulary = merging()
    speaker = tiny.speaker("m0", MODELS[0], vocabulary=vocabulary)
    judge = Likelihood([speaker], Fixed(0), tiny.generation(batch_size=2))
    queries = ["hello", "a longer query, of more than one piece of 32 tokens", "x"]
    found_IC = judge.option_log_probs(speaker, queries, "AB")
    for query, found_C in zip(queries, found_IC, strict=True):
        logits_V = tiny.next_logits(MODELS[0], vocabulary.encode(query))
        log_probs_V = special.log_softmax(logits_V[: len(vocabulary)])
        ids = [vocabulary.encode(word)[0] for word in ("A", " A", "B")]
        a, a_after_space, b = log_probs_V[ids]
        expected = [np.logaddexp(a, a_after_space), b]
        np.testing.assert_allclose(found_C, expected, rtol=1e-4)
    with pytest.raises(ValueError, match="'m0': 'AB' is not one token"):
        judge.option_log_probs(speaker, queries, ["A", "AB"])
