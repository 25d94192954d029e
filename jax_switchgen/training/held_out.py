"""How well a switcher chooses on queries that it has not been trained on.

**Regret** is the utility of the best candidate minus that of the chosen one: what the
choice costs, in units of the task's score. Accuracy and calibration are about the
places whose label stands out from noise, regret and loss about all.

Axes: **I** held-out examples, **C** candidates.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from jax_switchgen.tasks.confidence import ece
from jax_switchgen.training.data import (
    Batch,
    Example,
    bucket_of,
    choose_buckets,
    make_batch,
)

Scores = dict[str, float | None]

BUCKETS = 2  # compiling one more takes longer than it saves


class HeldOut:
    """The truth about held-out examples, to score choices with.

    Attributes:
      examples: in the order of all logp_IC.
      buckets: the lengths of the rows of batches.
    """

    def __init__(self, examples: Sequence[Example]):
        self.examples = list(examples)
        self._length_I = np.array([len(example.ids_T) for example in examples])
        self.buckets = choose_buckets(self._length_I, most=BUCKETS)
        rollouts = [example.rollout for example in examples]
        self._target_IC = np.stack([example.target_C for example in examples])
        self._utility_IC = np.array([r.utilities for r in rollouts], np.float64)
        self._label_I = np.array([r.label for r in rollouts])
        self._clear_I = np.array([r.is_clear for r in rollouts])

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """Places of examples, and a batch of one part that begins with them; rows of
        similar length come together, and the last batch is filled up."""
        order_I = np.argsort(self._length_I, kind="stable")
        for begin in range(0, len(order_I), size):
            rows = order_I[begin : begin + size]
            filled = [self.examples[i] for i in np.resize(rows, size)]
            longest = self._length_I[rows].max()
            length = self.buckets[int(bucket_of(self.buckets, longest))]
            yield rows, make_batch(filled, length, parts=1)

    def score(self, logp_IC: np.ndarray) -> Scores:
        """Scores of a model.

        Args:
          logp_IC: of the candidates' labels among all tokens.
        Returns:
          loss; accuracy and regret of the likeliest candidate; ece of its probability;
          label_mass, the probability of all labels together.
        """
        logp_IC = logp_IC.astype(np.float64)
        weight_IC = np.exp(logp_IC - logp_IC.max(-1, keepdims=True))
        probs_IC = weight_IC / weight_IC.sum(-1, keepdims=True)
        choice_I = probs_IC.argmax(-1)
        clear_I, error = self._clear_I, None
        if clear_I.any():
            right_I = choice_I == self._label_I
            confidence_I = np.minimum(probs_IC.max(-1), 1.0)
            error = ece(confidence_I[clear_I], right_I[clear_I])
        return {
            "loss": float(-(self._target_IC * logp_IC).sum(-1).mean()),
            **self.score_choices(choice_I),
            "ece": error,
            "label_mass": float(np.exp(logp_IC).sum(-1).mean()),
        }

    def score_choices(self, choice_I: np.ndarray) -> Scores:
        """Accuracy and regret of given choices."""
        right_I = choice_I == self._label_I
        chosen_I1 = np.take_along_axis(self._utility_IC, choice_I[:, None], 1)
        regret_I = self._utility_IC.max(-1) - chosen_I1[:, 0]
        clear_I = self._clear_I
        accuracy = float(right_I[clear_I].mean()) if clear_I.any() else None
        return {"accuracy": accuracy, "regret": float(regret_I.mean())}

    def baselines(
        self, train: Sequence[Example], candidates: Sequence[str]
    ) -> dict[str, Scores]:
        """Scores of those who do not read: always one candidate, each as often, and the
        label that is most frequent in training."""
        found = {}
        for i, name in enumerate(candidates):
            found[f"always {name}"] = self.score_choices(np.full(len(self.examples), i))
        regret_I = self._utility_IC.max(-1) - self._utility_IC.mean(-1)
        chance = 1 / len(candidates) if self._clear_I.any() else None
        found["random"] = {"accuracy": chance, "regret": float(regret_I.mean())}
        labels = np.array([e.rollout.label for e in train if e.rollout.is_clear] or [0])
        majority = int(np.bincount(labels).argmax())
        found["majority"] = found[f"always {candidates[majority]}"]
        return found

    def by_task(self, logp_IC: np.ndarray) -> dict[str, Scores]:
        """The same scores for each task alone."""
        tasks = np.array([example.rollout.task for example in self.examples])
        found = {}
        for task in sorted(set(tasks.tolist())):
            here = np.flatnonzero(tasks == task)
            part = HeldOut([self.examples[i] for i in here])
            found[task] = {"examples": len(here), **part.score(logp_IC[here])}
        return found
