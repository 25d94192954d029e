"""Prompts, targets, the split, and the order of examples."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest

from jax_switchgen.generation.buckets import Buckets
from jax_switchgen.policies.switcher import Switcher, SwitcherOptions
from jax_switchgen.training.data import (
    MOST_PADDING,
    Batches,
    Example,
    bucket_of,
    choose_buckets,
    is_held_out,
    make_split,
    target,
)
from tests import tiny
from tests.hf_models import one_line_error
from tests.training import synthetic
from tests.training.synthetic import VOCABULARY, rollout


def split_of(rollouts, max_length=1024, **changes):
    options = synthetic.options(**changes)
    return make_split(rollouts, VOCABULARY, options, max_length)


def made_up(lengths, task="a"):
    """Examples of given lengths, without texts."""
    target_C = np.array([1, 0], np.float32)
    return [
        Example(rollout(i, task=task), np.zeros(length, np.int32), target_C)
        for i, length in enumerate(lengths)
    ]


def test_training_reads_the_prompt_of_inference():
    """The very ids that the switcher in an engine reads before it chooses."""
    split = split_of([rollout(i) for i in range(40)], held_out=0.0)
    read = {}

    class Reader(Switcher):
        def probs(self, turns):
            self.reader.choose = lambda contexts, *rest: read.update(contexts)
            return super().probs(turns)

    class Turn:
        def __init__(self, slot, found):
            self.slot, self.query = slot, found.query
            self.history = found.history()

    model = tiny.random_model(0)
    switcher = Reader(model, VOCABULARY, 2, SwitcherOptions())
    switcher.open(4, ["query"], tiny.generation(), Buckets(batch=(1, 2, 4)))
    turns = [Turn(i, example.rollout) for i, example in enumerate(split.train)]
    switcher.probs(turns)
    assert len(read) == 40
    for i, example in enumerate(split.train):
        assert example.ids_T.tolist() == read[i]


def test_targets_are_labels_or_a_softmax_of_utilities():
    found = rollout(0, utilities=(0.5, 0.7), label=1)
    np.testing.assert_array_equal(target(found, None), [0, 1])
    expected = 1 / (1 + np.exp(-0.2 / 0.1))
    np.testing.assert_allclose(target(found, 0.1), [1 - expected, expected], rtol=1e-6)
    tied = rollout(0, utilities=(0.7, 0.7), label=0)
    np.testing.assert_array_equal(target(tied, 0.1), [0.5, 0.5])


def test_the_split_goes_by_query():
    """All places of one query fall on one side, whatever else is in the file."""
    places = [rollout(i, id=f"q{i % 50}", query=f"place {i}") for i in range(200)]
    split = split_of(places)
    trained = {example.rollout.id for example in split.train}
    held_out = {example.rollout.id for example in split.held_out}
    assert not trained & held_out and len(trained | held_out) == 50
    assert len(split.train) + len(split.held_out) == 200
    share = np.mean([is_held_out(rollout(i), 0.2) for i in range(3000)])
    assert share == pytest.approx(0.2, abs=0.03)
    fewer = split_of(places[:100])
    assert {e.rollout.id for e in fewer.held_out} <= held_out


def test_long_and_unclear_examples_are_left_out_and_counted():
    rollouts = [rollout(i) for i in range(100)]
    rollouts += [rollout(200 + i, query="x" * 900) for i in range(5)]
    rollouts += [rollout(300 + i, mark=("tie", "noise")[i % 2]) for i in range(20)]
    split = split_of(rollouts, max_length=400, drop_unclear=True)
    assert split.too_long == 5
    assert all(example.rollout.is_clear for example in split.train)
    kept = [e for e in split.held_out if not e.rollout.is_clear]
    assert split.unclear + len(kept) == 20 and kept
    assert split_of(rollouts, max_length=400).unclear == 0


def test_tasks_say_what_is_learned():
    """All, some or one of them, in training and in what is held out."""
    rollouts = [rollout(i, task="abc"[i % 3]) for i in range(180)]

    def found(**changes):
        split = split_of(rollouts, **changes)
        return Counter(e.rollout.task for e in split.train + split.held_out)

    assert found() == dict(a=60, b=60, c=60)
    assert found(tasks=("c", "a")) == dict(a=60, c=60)
    assert found(tasks=("b",)) == dict(b=60)
    with one_line_error("task 'd'", "training.tasks"):
        split_of(rollouts, tasks=("a", "d"))


def test_what_cannot_be_trained_on_is_one_line():
    with one_line_error("'shouting'", "no rollout", "30 too long", "max_length"):
        split_of([rollout(i) for i in range(30)], max_length=20)
    with one_line_error("batch_size=16", "training examples", "collect more"):
        split_of([rollout(i) for i in range(5)], held_out=0.0)


def test_batches_are_a_function_of_seed_and_step():
    """Asked in any order, by a new process, the same; another seed, another order."""
    examples = split_of([rollout(i) for i in range(120)]).train
    batches = Batches(examples, synthetic.options(epochs=4))
    steps = list(range(len(batches)))
    forward = [batches.batch(step).tokens_ABT.tobytes() for step in steps]
    again = Batches(examples, synthetic.options(epochs=4))
    backward = [again.batch(step).tokens_ABT.tobytes() for step in reversed(steps)]
    assert forward == backward[::-1]
    other = Batches(examples, synthetic.options(epochs=4, seed=1))
    assert forward != [other.batch(step).tokens_ABT.tobytes() for step in steps]


def test_an_epoch_takes_each_example_once():
    """Up to the rest that fills no batch, which is another one each time."""
    examples = made_up(range(50, 171))
    batches = Batches(examples, synthetic.options(epochs=3))
    assert batches.per_epoch == 7 and len(batches) == 21
    orders = []
    for epoch in range(3):
        steps = range(7 * epoch, 7 * (epoch + 1))
        ids = [e.rollout.id for step in steps for e in batches.examples(step)]
        assert len(ids) == len(set(ids)) == 7 * 16
        orders.append(ids)
    assert orders[0] != orders[1] and set(orders[0]) != set(orders[1])


def test_weights_are_shares_of_every_epoch():
    """30 examples of one task and 90 of another at 1:1 are 60 each; the few go round
    twice, each of them as often."""
    examples = made_up([80] * 30, task="few") + made_up([80] * 90, task="many")
    options = synthetic.options(
        tasks=("many", "few"), weights=(1.0, 1.0), batch_size=12, epochs=3
    )
    batches = Batches(examples, options)
    assert batches.per_epoch == 10
    drawn = [
        [
            e.rollout
            for step in range(10 * n, 10 * (n + 1))
            for e in batches.examples(step)
        ]
        for n in range(3)
    ]
    for epoch in drawn:
        assert Counter(r.task for r in epoch) == {"few": 60, "many": 60}
        few = Counter(r.id for r in epoch if r.task == "few")
        assert len(few) == 30 and set(few.values()) == {2}
    many = Counter(r.id for epoch in drawn for r in epoch if r.task == "many")
    assert len(many) == 90 and set(many.values()) == {2}, "180 draws of 90 examples"
    three = dataclasses.replace(options, weights=(3.0, 1.0))
    epoch = [e for step in range(10) for e in Batches(examples, three).examples(step)]
    assert Counter(e.rollout.task for e in epoch) == {"many": 90, "few": 30}


@pytest.mark.parametrize("count", [150, 2000])
def test_less_than_a_tenth_is_padding_and_shapes_are_few(count):
    """A query of 20 to 150 tokens, and a trace of 10 to 90 % of 256; over all epochs,
    with the batches whose examples come from two buckets."""
    rng = np.random.default_rng(0)
    lengths = 50 + rng.integers(20, 150, count) + rng.integers(25, 230, count)
    batches = Batches(made_up(lengths), synthetic.options(epochs=2, accumulation=2))
    tokens = real = 0
    shapes = set()
    for step in range(len(batches)):
        batch = batches.batch(step)
        shapes.add(batch.tokens_ABT.shape)
        tokens += batch.tokens_ABT.size
        real += batch.length_AB.sum()
        if step + 1 == batches.per_epoch:
            assert batches.padding == pytest.approx(1 - real / tokens)
    assert 1 - real / tokens < 0.1
    assert {shape[2] for shape in shapes} <= {*batches.buckets}
    assert all(shape[:2] == (2, 8) and shape[2] % 8 == 0 for shape in shapes)
    # No more than it takes: each is a program that takes seconds to compile.
    assert len(batches.buckets) <= min(11, batches.per_epoch)
    assert 0.05 < batches.padding < 0.1


def test_few_examples_are_few_programs():
    """Where no number of buckets helps, none is compiled that does not."""
    lengths = np.random.default_rng(0).integers(60, 400, 42)
    batches = Batches(made_up(lengths), synthetic.options(batch_size=8))
    assert batches.per_epoch == 5 and len(batches.buckets) <= 5
    assert batches.padding > MOST_PADDING
    steps = range(batches.per_epoch)
    tokens = sum(batches.batch(step).tokens_ABT.size for step in steps)
    real = sum(batches.batch(step).length_AB.sum() for step in steps)
    assert batches.padding == pytest.approx(1 - real / tokens)
    assert len(Batches(made_up(lengths), synthetic.options()).buckets) <= 2


def test_equal_lengths_are_one_program():
    assert Batches(made_up([80] * 40), synthetic.options()).buckets == (80,)


def test_buckets_are_the_best_of_their_number():
    """Against all ways to place as many."""
    rng = np.random.default_rng(1)
    length_N = np.concatenate([rng.integers(10, 30, 40), rng.integers(60, 100, 20)])

    def padded(buckets):
        return int(np.array(buckets)[bucket_of(buckets, length_N)].sum())

    found = choose_buckets(length_N, most=3)
    rest = [b for b in range(8, 104, 8) if b < found[-1]]
    best = min(padded((*two, found[-1])) for two in itertools.combinations(rest, 2))
    assert len(found) == 3 and padded(found) == best
    assert choose_buckets(np.array([10, 11, 12, 100]), most=2) == (16, 104)
    assert choose_buckets(np.array([10, 11, 12, 100]), most=9) == (16, 104)
    assert choose_buckets(np.array([7]), most=4) == (8,)


def test_rows_hold_their_ids_and_then_padding():
    split = split_of([rollout(i) for i in range(120)])
    batches = Batches(split.train, synthetic.options(accumulation=4))
    batch, examples = batches.batch(0), batches.examples(0)
    for i, example in enumerate(examples):
        a, b = divmod(i, 4)
        length = batch.length_AB[a, b]
        row_T = batch.tokens_ABT[a, b]
        assert row_T[:length].tolist() == example.ids_T.tolist()
        assert not row_T[length:].any()
        np.testing.assert_array_equal(batch.target_ABC[a, b], example.target_C)
