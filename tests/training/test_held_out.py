"""What is said about choices, by hand."""

import numpy as np
import pytest

from jax_switchgen.rollouts.pool import Pool
from jax_switchgen.training.data import Example, target
from jax_switchgen.training.held_out import HeldOut
from tests.training.synthetic import rollout

POOL = Pool("f", ("p", "f", "a"))


def example(i, utilities, mark="clear", length=10, task="a"):
    label = int(np.argmax(utilities))
    found = rollout(
        i,
        utilities=utilities,
        counts=(4, 4, 4),
        label=label,
        mark=mark,
        task=task,
        id=str(i),
        trace=(),
        pool=POOL,
    )
    return Example(found, np.zeros(length, np.int32), target(found, None))


EXAMPLES = [
    example(0, (1.0, 0.0, 0.5)),
    example(1, (0.2, 0.6, 0.4), task="b"),
    example(2, (0.3, 0.4, 0.9)),
    example(3, (0.5, 0.5, 0.4), mark="tie"),
]


def logp(*probs):
    return np.log(np.array(probs, np.float32))


def test_scores_of_a_model():
    held_out = HeldOut(EXAMPLES)
    logp_IC = logp([0.6, 0.2, 0.1], [0.1, 0.2, 0.3], [0.1, 0.2, 0.6], [0.2, 0.1, 0.7])
    scores = held_out.score(logp_IC)
    assert scores["accuracy"] == pytest.approx(2 / 3), "of the clear ones"
    assert scores["regret"] == pytest.approx((0 + 0.2 + 0 + 0.1) / 4), "of all"
    golds = np.array([0.6, 0.2, 0.6, 0.2])
    assert scores["loss"] == pytest.approx(-np.log(golds).mean(), rel=1e-5)
    assert scores["label_mass"] == pytest.approx((0.9 + 0.6 + 0.9 + 1) / 4, rel=1e-5)
    # Two are right at 2/3, which is 1/3 too low, and one is wrong at 1/2.
    assert scores["ece"] == pytest.approx((2 * (1 / 3) + 1 / 2) / 3, rel=1e-5)


def test_improbable_labels_are_scored_too():
    """An untrained model may give a number next to nothing: e^-800 is 0."""
    scores = HeldOut(EXAMPLES[:1]).score(np.float32([[-800, -801, -802]]))
    assert scores["accuracy"] == 1 and np.isfinite(scores["ece"])
    assert scores["loss"] == 800 and scores["label_mass"] == 0


def test_baselines_do_not_read():
    held_out = HeldOut(EXAMPLES)
    train = [example(i, (0.1, 0.2, 0.9)) for i in range(3)] + EXAMPLES[:2]
    found = held_out.baselines(train, ("p", "f", "a"))
    assert list(found) == ["always p", "always f", "always a", "random", "majority"]
    assert found["always a"]["accuracy"] == pytest.approx(1 / 3)
    assert found["always a"]["regret"] == pytest.approx((0.5 + 0.2 + 0 + 0.1) / 4)
    assert found["majority"] == found["always a"]
    assert found["random"]["accuracy"] == pytest.approx(1 / 3)
    means = [0.5, 0.4, 1.6 / 3, 1.4 / 3]
    expected = np.mean(np.array([1.0, 0.6, 0.9, 0.5]) - means)
    assert found["random"]["regret"] == pytest.approx(expected)


def test_where_nothing_is_clear_there_is_no_accuracy():
    held_out = HeldOut([EXAMPLES[3]])
    scores = held_out.score(logp([0.5, 0.3, 0.2]))
    assert scores["accuracy"] is None and scores["ece"] is None
    assert scores["regret"] == 0
    assert held_out.baselines(EXAMPLES, ("p", "f", "a"))["random"]["accuracy"] is None


def test_scores_by_task():
    held_out = HeldOut(EXAMPLES)
    logp_IC = logp([0.6, 0.2, 0.1], [0.1, 0.2, 0.3], [0.1, 0.2, 0.6], [0.2, 0.1, 0.7])
    found = held_out.by_task(logp_IC)
    assert {task: s["examples"] for task, s in found.items()} == {"a": 3, "b": 1}
    assert found["b"]["regret"] == pytest.approx(0.2)
    assert found["a"]["accuracy"] == 1


def test_batches_cover_every_example_once_by_length():
    lengths = [10, 200, 12, 190, 14, 180, 16]
    examples = [example(i, (1.0, 0.0, 0.0), length=n) for i, n in enumerate(lengths)]
    rows, shapes = [], []
    for places, batch in HeldOut(examples).batches(4):
        shapes.append(batch.tokens_ABT.shape)
        assert batch.length_AB[0, : len(places)].tolist() == [
            lengths[i] for i in places
        ]
        rows += places.tolist()
    assert sorted(rows) == list(range(7))
    assert [shape[:2] for shape in shapes] == [(1, 4), (1, 4)]
    assert shapes[0][2] == 16 and shapes[1][2] >= 200
