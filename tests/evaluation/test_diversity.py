"""Copies have no diversity, orthogonal answers all of it, gibberish wins nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from sacrebleu import sentence_bleu
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from jax_switchgen.evaluation.diversity import (
    compression_ratio,
    distinct_n,
    diversity,
    mean_distance,
    pareto_front,
    quality_gate,
    self_bleu,
    semantic_classes,
    vendi_score,
)

words = st.sampled_from(["the", "a", "cat", "sat,", "ran.", "42", "don't", "été"])
texts = st.lists(st.lists(words, max_size=12).map(" ".join), min_size=2, max_size=6)
embeddings = nps.arrays(
    np.float64,
    st.tuples(st.integers(2, 7), st.integers(1, 5)),
    elements=st.integers(-4, 4).map(float),
).filter(lambda rows: (np.abs(rows).sum(1) > 0).all())


@pytest.mark.parametrize("K", [1, 2, 10])
def test_vendi_is_1_for_copies_and_K_for_orthogonal_answers(K):
    rng = np.random.default_rng(K)
    copies = np.tile(rng.normal(size=32), (K, 1)) * rng.uniform(0.1, 9, (K, 1))
    rotation, _ = np.linalg.qr(rng.normal(size=(32, 32)))
    assert vendi_score(copies) == pytest.approx(1)
    assert vendi_score(rotation[:K]) == pytest.approx(K)
    assert semantic_classes(copies, 0.1) == 1
    assert semantic_classes(rotation[:K], 0.1) == K


def test_vendi_counts_groups():
    """Two copies each of three orthogonal answers are three answers."""
    assert vendi_score(np.repeat(np.eye(3), 2, 0)) == pytest.approx(3)
    assert mean_distance(np.repeat(np.eye(3), 2, 0)) == pytest.approx(12 / 15)


@settings(max_examples=60)
@given(rows=embeddings, order=st.randoms(use_true_random=False))
def test_embedding_measures_ignore_order_and_length_of_rows(rows, order):
    permutation = list(range(len(rows)))
    order.shuffle(permutation)
    scaled = rows[permutation] * np.linspace(0.5, 3, len(rows))[:, None]
    for measure in (vendi_score, mean_distance):
        assert measure(rows) == pytest.approx(measure(scaled), abs=1e-9)
    assert 1 - 1e-9 <= vendi_score(rows) <= min(rows.shape) + 1e-9
    assert vendi_score(np.repeat(rows, 2, 0)) == pytest.approx(vendi_score(rows))
    assert 1 <= semantic_classes(rows, 0.3) <= len(rows)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = (1 - unit @ unit.T)[np.triu_indices(len(rows), 1)]
    assert mean_distance(rows) == pytest.approx(pairs.mean(), abs=1e-9)


@settings(max_examples=80)
@given(answers=texts, order=st.randoms(use_true_random=False))
def test_self_bleu_is_sacrebleu_against_the_others(answers, order):
    if all(answers):
        expected = [
            sentence_bleu(
                answer, answers[:i] + answers[i + 1 :], use_effective_order=True
            ).score
            for i, answer in enumerate(answers)
        ]
        assert self_bleu(answers) == pytest.approx(np.mean(expected) / 100)
    shuffled = list(answers)
    order.shuffle(shuffled)
    assert self_bleu(answers) == pytest.approx(self_bleu(shuffled))
    assert distinct_n(answers, 2) == distinct_n(shuffled, 2)
    assert compression_ratio(answers) == compression_ratio(shuffled)


@settings(max_examples=150)
@given(text=st.text("ab1 0.,-!&;<>'$%\n\té"), other=st.text("ab1 .,-\n"))
def test_any_punctuation_is_cut_as_sacrebleu_cuts_it(text, other):
    if Tokenizer13a()(text.rstrip()).strip():
        expected = [
            sentence_bleu(first, [second], use_effective_order=True).score / 100
            for first, second in ((text, other), (other, text))
        ]
        assert self_bleu([text, other]) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("answer", ["", "Yes.", "The cat sat on the mat, twice."])
def test_copies_have_no_diversity_even_if_empty(answer):
    report = diversity([answer] * 5, np.ones((5, 3)))
    assert report.self_bleu == pytest.approx(1)
    assert report.vendi == pytest.approx(1) and report.distance == pytest.approx(0)
    n_grams = distinct_n([answer], 1)
    assert report.distinct[0] == pytest.approx(n_grams / 5)


def test_distinct_n_counted_by_hand():
    """6 words of 4 kinds; 4 pairs of 3 kinds; no five words in a row."""
    answers = ["a b c", "a b d"]
    assert distinct_n(answers, 1) == pytest.approx(4 / 6)
    assert distinct_n(answers, 2) == pytest.approx(3 / 4)
    assert distinct_n(answers, 5) == 0


def test_repetition_compresses():
    rng = np.random.default_rng(0)
    varied = ["".join(rng.choice(list("abcdefghij"), 400)) for _ in range(10)]
    assert compression_ratio([varied[0]] * 10) > 3 * compression_ratio(varied)
    assert compression_ratio([]) == compression_ratio([""]) == 1


def test_gibberish_wins_nothing_behind_the_gate():
    """Random letters beat every real answer, until only accepted ones count."""
    rng = np.random.default_rng(0)
    good = ["It will rain today.", "It will rain all day.", "Rain is likely today."]
    noise = ["".join(rng.choice(list("qxzjkv"), 20)) for _ in good]
    embeddings_KD = np.concatenate(
        [np.eye(8)[:1] + 0.3 * np.eye(8)[1:4], np.eye(8)[5:]]
    )
    ungated = [
        diversity(answers, rows)
        for answers, rows in ((good, embeddings_KD[:3]), (noise, embeddings_KD[3:]))
    ]
    assert ungated[1].vendi > ungated[0].vendi
    assert ungated[1].self_bleu < ungated[0].self_bleu
    accepted_K = np.array([True] * 3 + [False] * 3)
    mixed = diversity(good + noise, embeddings_KD, accepted_K)
    assert mixed == ungated[0]
    nothing = diversity(noise, embeddings_KD[3:], np.zeros(3, bool))
    assert (nothing.vendi, nothing.distance, nothing.self_bleu) == (0, 0, 1)


def test_the_gate_passes_what_is_surely_no_worse_than_the_margin():
    rng = np.random.default_rng(0)
    reference_P = rng.normal(5, 3, 200)
    slightly_worse_P = reference_P - 0.1 + rng.normal(0, 0.3, 200)
    assert quality_gate(slightly_worse_P, reference_P, margin=0.5).passed
    assert not quality_gate(slightly_worse_P, reference_P, margin=0.1).passed
    assert not quality_gate(reference_P - 2, reference_P, margin=0.5).passed
    # Too few prompts to tell.
    noisy_P = reference_P[:8] + rng.normal(0, 3, 8)
    assert not quality_gate(noisy_P, reference_P[:8], margin=0.5).passed


points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1)


@settings(max_examples=60)
@given(systems=points)
def test_the_front_is_what_nothing_dominates(systems):
    front_N = pareto_front(*np.transpose(systems))
    assert front_N.any()
    for (x, y), on_front in zip(systems, front_N, strict=True):
        dominated = any(a >= x and b >= y and (a > x or b > y) for a, b in systems)
        assert on_front == (not dominated)


def test_the_front_of_its_docstring():
    front_N = pareto_front(np.array([1, 2, 3, 2]), np.array([5, 4, 1, 3]))
    assert front_N.tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: self_bleu(["one"]), "sample more"),
        (lambda: mean_distance(np.ones((1, 3))), "sample more"),
        (lambda: vendi_score(np.array([[1.0, 0], [0, 0]])), "embedding 1"),
        (lambda: vendi_score(np.ones(3)), "answers, dims"),
        (lambda: diversity(["a"], np.ones((2, 3))), "one of each"),
        (lambda: pareto_front(np.array([np.nan]), np.ones(1)), "finite"),
        (lambda: quality_gate(np.ones(3), np.ones(3), margin=-1), "margin=-1"),
    ],
)
def test_what_cannot_be_judged_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
