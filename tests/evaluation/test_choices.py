"""Multiple choice by log-probability, on tiny models against their plain forward."""

import json

import numpy as np
import pytest
from scipy import special

from jax_switchgen.evaluation.choices import ChoiceReader, Choices, choice_rows
from jax_switchgen.evaluation.kept import Kept
from jax_switchgen.evaluation.systems import Written, make_systems
from jax_switchgen.generation.likelihood import Likelihood
from jax_switchgen.policies.simple import Fixed
from jax_switchgen.tasks.parsing import choice_prompt
from jax_switchgen.tasks.record import Record
from tests import tiny

SPEAKERS = [tiny.speaker(f"m{i}", tiny.random_model(i)) for i in range(2)]
LETTERS = "ABC"


def record(i: int, options: int) -> Record:
    texts = ("red", "green", "blue")[:options]
    prompt = choice_prompt(f"Colour {i}?", texts)
    return Record(str(i), prompt, (LETTERS[i % options],), texts)


TEST = [record(i, 2 + i % 2) for i in range(9)]
DEV = [record(i, 3) for i in range(20, 32)]
TASK = Choices("colours", TEST, DEV)
SYSTEMS = ("single:m1", "segments:m1", "random")


def reader(output) -> ChoiceReader:
    made = make_systems(SYSTEMS, SPEAKERS, Fixed(0), tiny.generation())

    def likelihood(name: str) -> Likelihood:
        (system,) = [system for system in made if system.name == name]
        assert isinstance(system, Written)
        return Likelihood(system.speakers, system.policy, system.options)

    return ChoiceReader(Kept(output, {}), ["m0", "m1"], likelihood)


def by_hand(i: int, record: Record) -> np.ndarray:
    """Log-probabilities of the record's letters, from one uncached forward."""
    vocabulary = SPEAKERS[i].vocabulary
    logits_V = tiny.next_logits(SPEAKERS[i].model, vocabulary.encode(record.prompt))
    log_probs_V = special.log_softmax(logits_V[: tiny.NUM_TOKENS])
    letters = LETTERS[: len(record.choices)]
    return np.array([log_probs_V[vocabulary.encode(letter)[0]] for letter in letters])


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    output = tmp_path_factory.mktemp("choices")
    return choice_rows(SYSTEMS, "single:m1", [TASK], reader(output)), output


def test_accuracy_and_confidence_are_those_of_the_models(rows):
    """One model, and the even mixture of two."""
    for name, log_probs in (
        ("single:m1", [by_hand(1, r) for r in TEST]),
        ("random", [np.logaddexp(by_hand(0, r), by_hand(1, r)) for r in TEST]),
    ):
        (found,) = [row for row in rows[0] if row["system"] == name]
        chosen = [LETTERS[int(np.argmax(x))] for x in log_probs]
        right = [a == r.golds[0] for a, r in zip(chosen, TEST, strict=True)]
        confidence = [special.softmax(x).max() for x in log_probs]
        assert found["accuracy"] == pytest.approx(np.mean(right))
        assert found["confidence"] == pytest.approx(np.mean(confidence), abs=1e-4)
        assert sum(count for _, _, count in found["points"]) == len(TEST)


def test_a_system_that_gives_the_same_is_shown_once(rows):
    names = [row["system"] for row in rows[0]]
    assert [name.partition(",")[0] for name in names] == ["single:m1"] * 2 + ["random"]


def test_the_control_has_the_same_answers_and_the_likelier_confidences(rows):
    plain, scaled = rows[0][:2]
    assert "temperature" in scaled["system"]
    assert scaled["accuracy"] == plain["accuracy"]
    assert scaled["confidence"] != plain["confidence"]


def test_what_models_gave_is_kept(rows):
    """Made again without any model; for other records, with one."""
    first, output = rows
    again = ChoiceReader(Kept(output, {}), ["m0", "m1"], no_likelihood)
    assert choice_rows(SYSTEMS, "single:m1", [TASK], again) == first
    fewer = Choices("colours", TEST[:-1], DEV)
    with pytest.raises(AssertionError, match="single:m1"):
        choice_rows(SYSTEMS, "single:m1", [fewer], again)


def no_likelihood(name: str) -> Likelihood:
    raise AssertionError(name)


def test_files_hold_the_whole_vocabularys_log_probabilities(rows):
    """Not normalised to the letters: a model that gives none of them says so."""
    path = rows[1] / "choices/colours/test-candidate-m0.json"
    values = np.array(json.loads(path.read_text())["value"])
    for found, record in zip(values, TEST, strict=True):
        hand = by_hand(0, record)
        np.testing.assert_allclose(found[: len(hand)], hand, atol=1e-4)
        assert special.logsumexp(found) < -1e-3
