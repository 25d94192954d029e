"""From rollouts to batches: prompts, targets, the split, and the order of examples.

A batch is a pure function of the seed and the step, so that the step is all that a run
needs to know of its place in the data.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from flax import struct

from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.policies.switcher import switcher_ids
from jax_switchgen.rollouts.records import Rollout
from jax_switchgen.training.options import TrainingOptions

MULTIPLE = 8  # rows of a vector register on TPU
# Each length is a program of its own; with as few as keep padding below this share of
# all tokens, no more are compiled than pay. More than batches in an epoch never do: few
# examples of many lengths (42 in 5 batches) stay above.
MOST_PADDING = 0.09
MOST_BUCKETS = 16

_ROUNDS, _ORDER = 0, 1  # streams of the seed, so that no two of its uses draw alike


@dataclasses.dataclass(frozen=True)
class Example:
    """One choice to learn.

    Attributes:
      ids_T: int32, what the switcher reads; the choice is the token after them.
      target_C: float32, the probability that each candidate should get.
    """

    rollout: Rollout
    ids_T: np.ndarray
    target_C: np.ndarray


@dataclasses.dataclass(frozen=True)
class Split:
    """All examples.

    Attributes:
      too_long, unclear: how many were left out.
    """

    train: list[Example]
    held_out: list[Example]
    too_long: int
    unclear: int


@struct.dataclass
class Batch:
    """Examples in A parts of B rows; the end of a row is padding.

    Attributes:
      tokens_ABT: int32.
      length_AB: int32, tokens before the padding.
      target_ABC: float32.
    """

    tokens_ABT: np.ndarray
    length_AB: np.ndarray
    target_ABC: np.ndarray


def make_split(
    rollouts: Sequence[Rollout],
    vocabulary: Vocabulary,
    options: TrainingOptions,
    max_length: int,
) -> Split:
    """The examples of the tasks to learn.

    Raises:
      ValueError: there are too few; one line that says of what.
    """
    tasks = options.tasks or sorted({rollout.task for rollout in rollouts})
    train: list[Example] = []
    held_out: list[Example] = []
    too_long = unclear = 0
    for rollout in rollouts:
        if rollout.task not in tasks:
            continue
        held = is_held_out(rollout, options.held_out)
        # Held-out ones stay: a switcher will meet such queries too.
        if options.drop_unclear and not rollout.is_clear and not held:
            unclear += 1
            continue
        candidates = len(rollout.utilities)
        ids = switcher_ids(vocabulary, rollout.query, rollout.history(), candidates)
        if len(ids) > max_length:
            too_long += 1
            continue
        target_C = target(rollout, options.soft_labels)
        example = Example(rollout, np.array(ids, np.int32), target_C)
        (held_out if held else train).append(example)
    for task in tasks:
        if not any(example.rollout.task == task for example in train):
            raise ValueError(
                f"task {task!r} has no rollout to train on ({too_long} too long and "
                f"{unclear} unclear are left out of all {len(rollouts)}); collect "
                "more, raise training.max_length, or change training.tasks"
            )
    if len(train) < options.batch_size:
        raise ValueError(
            f"training.batch_size={options.batch_size} is more than the {len(train)} "
            "training examples; lower it or collect more rollouts"
        )
    return Split(train, held_out, too_long, unclear)


def is_held_out(rollout: Rollout, share: float) -> bool:
    """Decided by the query's id alone: all places of one query fall on one side, now
    and when more rollouts are added."""
    name = f"{rollout.task}\n{rollout.id}".encode()
    digest = hashlib.blake2b(name, digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def target(rollout: Rollout, temperature: float | None) -> np.ndarray:
    """float32[C]: 1 at the label, or the softmax of the utilities."""
    if temperature is None:
        return np.eye(len(rollout.utilities), dtype=np.float32)[rollout.label]
    scaled_C = np.asarray(rollout.utilities, np.float64) / temperature
    weight_C = np.exp(scaled_C - scaled_C.max())
    return (weight_C / weight_C.sum()).astype(np.float32)


def make_batch(examples: Sequence[Example], length: int, parts: int) -> Batch:
    """Rows padded to `length`, in `parts` parts."""
    rows, candidates = len(examples), len(examples[0].target_C)
    tokens_NT = np.zeros((rows, length), np.int32)
    for tokens_T, example in zip(tokens_NT, examples, strict=True):
        tokens_T[: len(example.ids_T)] = example.ids_T
    length_N = np.array([len(example.ids_T) for example in examples], np.int32)
    target_NC = np.stack([example.target_C for example in examples])
    return Batch(
        tokens_ABT=tokens_NT.reshape(parts, -1, length),
        length_AB=length_N.reshape(parts, -1),
        target_ABC=target_NC.reshape(parts, -1, candidates),
    )


def choose_buckets(length_N: np.ndarray, most: int) -> tuple[int, ...]:
    """At most `most` ascending lengths; each example is padded to the next one that is
    not below it. Placed where padding is least, by dynamic programming.

    In: lengths 10, 11, 12 and 100, at most 2. Out: 16, 104.
    """
    rounded_N = -(-np.asarray(length_N, np.int64) // MULTIPLE) * MULTIPLE
    size_U, count_U = np.unique(rounded_N, return_counts=True)
    up_to_U = np.concatenate([[0], np.cumsum(count_U)])
    # cost_UU[i, j]: tokens of the lengths from i to j when all are padded to length j.
    first_U1, last_1U = np.arange(len(size_U))[:, None], np.arange(len(size_U))[None]
    cost_UU = (up_to_U[last_1U + 1] - up_to_U[first_U1]) * size_U[None]
    never = np.iinfo(np.int64).max // 4
    cost_UU = np.where(first_U1 <= last_1U, cost_UU, never)
    best_U = cost_UU[0]  # of the lengths up to each, in one bucket
    starts: list[np.ndarray] = []  # of the last bucket, for one bucket more each time
    while len(starts) + 1 < min(most, len(size_U)):
        before_U = np.concatenate([[never], best_U[:-1]])
        total_UU = before_U[:, None] + cost_UU
        starts.append(np.argmin(total_UU, axis=0))
        best_U = np.min(total_UU, axis=0)
    ends = [len(size_U) - 1]
    for start_U in reversed(starts):
        ends.append(int(start_U[ends[-1]]) - 1)
    return tuple(int(size_U[end]) for end in reversed(ends))


def bucket_of(buckets: tuple[int, ...], length_N: np.ndarray) -> np.ndarray:
    """int64[N], the place in `buckets` of the one that each length is padded to."""
    return np.searchsorted(np.asarray(buckets), length_N)


class Batches:
    """The training batches of all steps.

    Every epoch takes as many examples of each task as its weight says; each task goes
    round and round in an order that is new every time. Within an epoch, examples of
    similar length share a batch, and batches come in random order.

    Attributes:
      buckets: the lengths of rows.
      padding: share of the first epoch's tokens.
      per_epoch: steps of one epoch; what is left of its examples is passed over.
    """

    def __init__(self, examples: Sequence[Example], options: TrainingOptions):
        self._examples = examples
        self._options = options
        names = np.array([example.rollout.task for example in examples])
        tasks = options.tasks or sorted(set(names.tolist()))
        self._tasks = [np.flatnonzero(names == task) for task in tasks]
        self._length_N = np.array([len(example.ids_T) for example in examples])
        self._counts = self._draws()
        self.per_epoch = sum(self._counts) // options.batch_size
        found = []
        for most in range(1, min(MOST_BUCKETS, self.per_epoch) + 1):
            self.buckets = choose_buckets(self._length_N, most)
            found.append((self._padding(self._order(0)), self.buckets))
            if found[-1][0] <= MOST_PADDING:
                break
        self.padding, self.buckets = min(found, key=lambda tried: tried[0])
        self._epoch = -1
        self._plan: list[np.ndarray] = []

    def __len__(self) -> int:
        """Steps of the whole training."""
        return self.per_epoch * self._options.epochs

    def examples(self, step: int) -> list[Example]:
        """The examples of a step, counted from 0."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._plan = epoch, self._order(epoch)
        return [self._examples[i] for i in self._plan[place]]

    def batch(self, step: int) -> Batch:
        examples = self.examples(step)
        longest = max(len(example.ids_T) for example in examples)
        length = self.buckets[int(bucket_of(self.buckets, np.array(longest)))]
        return make_batch(examples, length, self._options.accumulation)

    def _draws(self) -> list[int]:
        """Examples of each task in an epoch."""
        sizes = [len(task) for task in self._tasks]
        weights = np.array(self._options.weights or sizes)
        # Rounded after summing up, so that together they are as many as there are.
        ends = np.round(weights.cumsum() * (sum(sizes) / weights.sum())).astype(int)
        return np.maximum(np.diff(ends, prepend=0), 1).tolist()

    def _order(self, epoch: int) -> list[np.ndarray]:
        """The examples of each batch of an epoch, as indices."""
        drawn = [
            self._stream(task, epoch * count, count)
            for task, count in enumerate(self._counts)
        ]
        rng = np.random.default_rng((self._options.seed, _ORDER, epoch))
        size = self._options.batch_size
        chosen_N = rng.permutation(np.concatenate(drawn))[: self.per_epoch * size]
        # Stable: within a bucket the order stays random.
        bucket_N = bucket_of(self.buckets, self._length_N[chosen_N])
        by_length_N = chosen_N[np.argsort(bucket_N, kind="stable")]
        batches_SB = by_length_N.reshape(self.per_epoch, size)
        return list(batches_SB[rng.permutation(self.per_epoch)])

    def _stream(self, task: int, start: int, count: int) -> np.ndarray:
        """Part of the endless sequence of a task's examples."""
        own_N = self._tasks[task]
        rounds = range(start // len(own_N), -(-(start + count) // len(own_N)))
        streams = [(self._options.seed, _ROUNDS, task, r) for r in rounds]
        shuffled = [np.random.default_rng(s).permutation(own_N) for s in streams]
        offset = start - rounds.start * len(own_N)
        return np.concatenate(shuffled)[offset : offset + count]

    def _padding(self, plan: list[np.ndarray]) -> float:
        length_SB = self._length_N[np.stack(plan)]
        bucket_S = bucket_of(self.buckets, length_SB.max(axis=1))
        tokens = np.array(self.buckets)[bucket_S].sum() * length_SB.shape[1]
        return 1 - float(length_SB.sum() / tokens)
