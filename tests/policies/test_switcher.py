"""The switcher's labels, its history, and the choice from its probabilities."""

import numpy as np
import pytest

from jax_switchgen.generation.buckets import Buckets
from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.models.lora import Lora, LoraPair
from jax_switchgen.policies.simple import ForcedEnds
from jax_switchgen.policies.switcher import Switcher, SwitcherOptions, switcher_ids
from tests import tiny

VOCABULARY = Vocabulary(tiny.byte_tokenizer())
MODEL = tiny.random_model(7)


class FakeTurn:
    """A request that waits for a decision, with a given uniform."""

    def __init__(self, slot, query, history=(), uniform=0.5):
        self.slot, self.query, self.history = slot, query, list(history)
        self.is_last = False
        self._uniform = uniform

    def uniform(self):
        return self._uniform


def opened(options, lora=None, model=MODEL):
    switcher = Switcher(model, VOCABULARY, 3, options, lora=lora)
    switcher.open(4, ["query"], tiny.generation(), Buckets(batch=(1, 2, 4)))
    return switcher


def test_argmax_at_temperature_zero():
    switcher = opened(SwitcherOptions(temperature=0.0))
    for uniform in (0.0, 0.5, 0.999):
        (choice,) = switcher.step([FakeTurn(0, "query", uniform=uniform)])
        assert choice.speaker == int(np.argmax(choice.probs))


@pytest.mark.parametrize("temperature", [0.001, 0.5, 3.0])
def test_temperature_sharpens_or_flattens(temperature):
    """Also far beyond where powers of the probabilities are 0 in float32."""
    turn = FakeTurn(0, "query")
    (plain_C,) = opened(SwitcherOptions()).probs([turn]).astype(np.float64)
    (probs_C,) = opened(SwitcherOptions(temperature=temperature)).probs([turn])
    expected_C = (plain_C / plain_C.max()) ** (1 / temperature)
    np.testing.assert_allclose(probs_C, expected_C / expected_C.sum(), rtol=1e-3)
    (choice,) = opened(SwitcherOptions(temperature=temperature)).step([turn])
    assert choice.speaker in range(3)


def test_the_nucleus_of_candidates():
    switcher = opened(SwitcherOptions(temperature=1.0, top_p=0.7))
    turns = [FakeTurn(i, "query") for i in range(4)]
    (probs_C, *_) = switcher.probs(turns)
    order = np.argsort(-probs_C)
    size = int(np.searchsorted(np.cumsum(probs_C[order]), 0.7)) + 1
    chosen = set()
    for uniform in np.linspace(0, 0.9999, 50):
        (choice,) = switcher.step([FakeTurn(0, "query", uniform=uniform)])
        chosen.add(choice.speaker)
    assert chosen == set(order[:size].tolist())


def test_only_new_history_is_read():
    """The question leaves the cache again; the history stays in it."""
    switcher = opened(SwitcherOptions())
    query = "a long query " * 20
    switcher.step([FakeTurn(0, query)])
    held = len(switcher.reader.held[0])
    assert held == len(VOCABULARY.encode(query))
    history = [(1, " some text")]
    before = switcher.reader.prefilled
    switcher.step([FakeTurn(0, query, history)])
    assert switcher.reader.prefilled - before < 200
    expected = switcher_ids(VOCABULARY, query, history, 3)
    question = switcher_ids(VOCABULARY, "", [], 3)
    assert switcher.reader.held[0] == expected[: -len(question)]


def test_an_adapter_changes_the_answer_and_shares_the_weights():
    rng = np.random.default_rng(0)
    pair = LoraPair(
        rng.standard_normal((4, 32)).astype(np.float32),
        rng.standard_normal((32, 4)).astype(np.float32),
        2.0,
    )
    lora = Lora(tuple({"q": pair} for _ in range(tiny.CONFIG.num_layers)))
    plain, adapted = opened(SwitcherOptions()), opened(SwitcherOptions(), lora)
    assert adapted.reader.model is plain.reader.model
    turn = FakeTurn(0, "query", [(0, "text")])
    ids = switcher_ids(VOCABULARY, turn.query, turn.history, 3)
    labels_C = np.array(VOCABULARY.encode("012"))
    logits_C = tiny.next_logits(MODEL, ids, lora)[labels_C]
    expected_C = np.exp(logits_C - logits_C.max())
    expected_C /= expected_C.sum()
    np.testing.assert_allclose(adapted.probs([turn])[0], expected_C, atol=1e-5)
    assert np.abs(plain.probs([turn])[0] - expected_C).max() > 1e-3


def test_its_cache_counts_in_the_memory_of_a_slot():
    """Also where its ends are forced; as many bytes as `open` then allocates."""
    switcher = opened(SwitcherOptions())
    allocated = switcher.reader.cache.nbytes / 4
    options = tiny.generation()
    assert switcher.slot_bytes(["query"], options) == allocated
    forced = ForcedEnds(switcher, first=0, last=None)
    assert forced.slot_bytes(["query"], options) == allocated


def test_a_query_beyond_the_switchers_positions_is_refused():
    switcher = opened(SwitcherOptions())
    switcher.check("short", tiny.generation())
    with pytest.raises(ValueError, match="1024 positions of the switcher"):
        switcher.check("x" * 900, tiny.generation())


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (("0", "1", "ten"), "'ten' is 3 tokens"),
        (("0", "1"), "2 entries for 3"),
        (("0", "1", "1"), "not distinct"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(labels, named):
    with pytest.raises(ValueError, match=named) as error:
        Switcher(MODEL, VOCABULARY, 3, SwitcherOptions(labels=labels))
    assert "\n" not in str(error.value)
