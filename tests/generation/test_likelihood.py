"""Likelihoods on tiny models, against whole forwards without a cache."""

import math

import jax
import numpy as np
import pytest
from scipy import special

from jax_switchgen.generation.decision import Policy, Speak
from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.likelihood import Likelihood
from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.models.transformer import Transformer
from jax_switchgen.policies.simple import Fixed, ForcedEnds, Random, Schedule
from jax_switchgen.policies.switcher import Switcher, SwitcherOptions
from tests import tiny

MODELS = [tiny.random_model(seed) for seed in range(4)]
WINDOWED = [tiny.random_model(seed, tiny.WINDOWED) for seed in range(2)]
# Responses of one segment, of several with and without white space, and of more than
# one chunk.
PAIRS = [
    ("hello", " yes"),
    ("a prompt of more than a hundred and twenty-eight bytes, so that more than one "
     "chunk is needed to read it, and more than one piece to read the last", " no"),
    ("x", "oneword"),
    ("Grüße 🌧", " Straßen 🌧🌧, wet\n\nagain"),
    ("why?", "unbrokenbyanyspace" * 9),
    ("", "of nothing"),
]  # fmt: skip
ROW = 512
_forward = jax.jit(lambda model, tokens_BT: model(tokens_BT))


def pool(models=MODELS[:3], **changes):
    return [tiny.speaker(f"m{i}", model, **changes) for i, model in enumerate(models)]


def judged(speakers, policy, pairs, **options):
    likelihood = Likelihood(speakers, policy, tiny.generation(**options))
    return list(likelihood.log_likelihoods(pairs))


def naive(model: Transformer, ids: list[int], new: list[int], num=tiny.NUM_TOKENS):
    """Log-probability of `new` after `ids`, and whether each was the likeliest."""
    whole = [*ids, *new]
    tokens_BT = np.zeros((1, ROW), np.int32)
    tokens_BT[0, : len(whole)] = whole
    logits_TV = _forward(model, tokens_BT)[0, len(ids) - 1 : len(whole) - 1, :num]
    log_probs_TV = np.asarray(jax.nn.log_softmax(logits_TV))
    log_prob = log_probs_TV[np.arange(len(new)), new].sum()
    return float(log_prob), log_probs_TV.argmax(-1).tolist() == new


def bytes_of(text: str) -> list[int]:
    """Ids of a text; an empty prompt is the token between documents."""
    return tiny.byte_tokenizer().encode(text, add_special_tokens=False) or [tiny.STOP]


def switcher(models=MODELS, **changes) -> Switcher:
    options = dict(temperature=1.0, top_p=1.0) | changes
    return Switcher(
        models[3], Vocabulary(tiny.byte_tokenizer()), 3, SwitcherOptions(**options)
    )


@pytest.mark.parametrize("models", [MODELS, WINDOWED], ids=["full", "windowed"])
def test_one_model_is_the_sum_of_its_log_probabilities(models):
    """Cutting a response into segments changes nothing."""
    for length in (8, 400):
        found = judged(pool(models), Fixed(1), PAIRS, segment_length=length)
        expected = [naive(models[1], bytes_of(q), bytes_of(r)) for q, r in PAIRS]
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_query_is_asked_in_the_format_of_each_speaker():
    speakers = [*pool(MODELS[:1]), tiny.speaker("c", MODELS[1], prompt_format="chat")]
    ((log_prob, _),) = judged(speakers, Schedule((0, 1)), [("hi", "12345678 yes")])
    first, _ = naive(MODELS[0], bytes_of("hi"), bytes_of("12345678"))
    second, _ = naive(
        MODELS[1], bytes_of("[user] hi\n[assistant] 12345678"), bytes_of(" yes")
    )
    assert log_prob == pytest.approx(first + second, rel=1e-4)


def test_identical_speakers_are_one_model():
    """Under any weights, of any policy."""
    expected = [naive(MODELS[0], bytes_of(q), bytes_of(r)) for q, r in PAIRS]
    for policy in (Random(3), Schedule((0, 2, 1)), switcher()):
        found = judged(pool([MODELS[0]] * 3), policy, PAIRS)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_segment_is_a_mixture_of_its_possible_speakers():
    speakers, policy = pool(), switcher()
    pairs = [(query, response[:4]) for query, response in PAIRS]
    weights_IM = Likelihood(speakers, policy, tiny.generation()).weights(
        [query for query, _ in pairs]
    )
    assert weights_IM.std(-1).min() > 1e-4
    for (query, response), weights_M, (log_prob, _) in zip(
        pairs, weights_IM, judged(speakers, policy, pairs), strict=True
    ):
        single = [naive(m, bytes_of(query), bytes_of(response)) for m in MODELS[:3]]
        joint_M = np.log(weights_M) + [log_p for log_p, _ in single]
        assert log_prob == pytest.approx(special.logsumexp(joint_M), rel=1e-4)


def test_weights_are_those_of_the_engines_first_decision():
    speakers, policy = pool(), switcher()
    queries = [query for query, _ in PAIRS]
    options = tiny.generation(batch_size=2)
    weights_IM = Likelihood(speakers, policy, options).weights(queries)
    responses = Engine(speakers, policy, options).generate(queries)
    for weights_M, response in zip(weights_IM, responses, strict=True):
        first = list(response.segments[0].probs.values())
        np.testing.assert_allclose(weights_M, first, atol=1e-5)
    fixed = Likelihood(speakers, Schedule((2, 0)), options).weights(["hi"])
    assert fixed.tolist() == [[0, 0, 1]]


def test_segments_are_judged_one_after_the_other():
    """Each by all speakers, given what stands before it."""
    segments = ["one two", " three", " fourfiv", "e"]
    before = "hello"
    expected = 0.0
    for segment in segments:
        ids, new = bytes_of(before), bytes_of(segment)
        each = [naive(model, ids, new)[0] for model in MODELS[:3]]
        expected += special.logsumexp(each) - math.log(3)
        before += segment
    ((found, _),) = judged(pool(), Random(3), [("hello", "".join(segments))])
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_schedule_gives_each_segment_to_its_speaker():
    text = "12345678abcdefgh-"
    ((found, _),) = judged(pool(), Schedule((2, 0)), [("hi", text)])
    parts = [("hi", text[:8], 2), ("hi" + text[:8], text[8:16], 0)]
    parts.append(("hi" + text[:16], text[16:], 2))
    expected = sum(naive(MODELS[m], bytes_of(q), bytes_of(r))[0] for q, r, m in parts)
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_forced_last_speaker_waits_for_the_budget():
    """A response that stops earlier has no forced end, as in the engine."""
    speakers, policy = pool(), ForcedEnds(Schedule((0,)), first=None, last=1)
    budget = dict(segment_length=8, max_new_tokens=16)
    (short, long) = judged(
        speakers, policy, [("hi", "short"), ("hi", "12345678long")], **budget
    )
    assert short[0] == pytest.approx(
        naive(MODELS[0], bytes_of("hi"), bytes_of("short"))[0], rel=1e-4
    )
    first, _ = naive(MODELS[0], bytes_of("hi"), bytes_of("12345678"))
    last, _ = naive(MODELS[1], bytes_of("hi12345678"), bytes_of("long"))
    assert long[0] == pytest.approx(first + last, rel=1e-4)
    likelihood = Likelihood(speakers, policy, tiny.generation(**budget))
    assert likelihood.weights(["hi"]).tolist() == [[1, 0, 0]]


def test_a_partial_response_in_the_user_turn():
    """The public code's way, as the engine writes with `partial_in="user"`."""
    speakers = pool(prompt_format="chat")
    pair = ("hi", "12345678 yes")
    ((found, _),) = judged(speakers, Schedule((0, 1)), [pair], partial_in="user")
    prompt = "[user] {}\n[assistant] "
    first, _ = naive(MODELS[0], bytes_of(prompt.format("hi")), bytes_of("12345678"))
    second, _ = naive(
        MODELS[1], bytes_of(prompt.format("hi 12345678")), bytes_of(" yes")
    )
    assert found == pytest.approx(first + second, rel=1e-4)


def test_what_the_engine_writes_greedily_is_greedy():
    models = [tiny.letters_model(seed) for seed in range(3)]
    queries = [query for query, _ in PAIRS]
    for policy in (Fixed(2), Schedule((0, 1))):
        written = [
            (response.request.query, response.output)
            for response in Engine(pool(models), policy, tiny.generation()).generate(
                queries
            )
        ]
        assert all(len(text) == 40 for _, text in written)
        assert all(greedy for _, greedy in judged(pool(models), policy, written))
        others = [(query, text[:-1] + "🌧") for query, text in written]
        assert not any(greedy for _, greedy in judged(pool(models), policy, others))


class Weighted(Policy):
    """Draws with given probabilities."""

    def step(self, turns):
        return [Speak(1, (0.2, 0.7, 0.1)) for _ in turns]


def test_one_text_of_a_mixture_is_greedy():
    """What the likeliest speaker writes, however likely others find their own."""
    models = [tiny.letters_model(seed) for seed in range(3)]
    texts = [
        Engine(pool(models), Fixed(i), tiny.generation(max_new_tokens=5))
        .generate(["hello"])[0]
        .output
        for i in range(3)
    ]
    assert len(set(texts)) == 3
    pairs = [("hello", text) for text in texts]
    greedy = [is_greedy for _, is_greedy in judged(pool(models), Weighted(), pairs)]
    assert greedy == [False, True, False]


def test_neither_order_nor_batch_size_change_anything():
    policy = switcher()
    expected = judged(pool(), policy, PAIRS)
    # The longest prompt and the longest response meet in a batch.
    turned = judged(pool(), policy, PAIRS[1:] + PAIRS[:1])
    np.testing.assert_allclose(turned[-1:] + turned[:-1], expected, rtol=1e-4)
    found = judged(pool(), policy, PAIRS[::-1], batch_size=2)
    np.testing.assert_allclose(found[::-1], expected, rtol=1e-4)


def test_a_text_beyond_the_positions_after_a_prompt_is_refused():
    with pytest.raises(ValueError, match="1024 positions of 'm0'"):
        judged(pool(), Fixed(0), [("hi", "x" * 1100)])
