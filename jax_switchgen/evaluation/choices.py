"""Multiple choice by log-probability: accuracy and calibration without any parsing.

The confidence of a system is p(its letter) / sum of p(letters) at the place where the
answer begins, of the mixture sum over m of w_m p_m with the policy's probabilities w_m
of that first segment. The control is the reference with one temperature fitted on dev:
it costs nothing, and may do as much as any collaboration.

What a model gives to the letters depends on no policy, so it is computed once for all
systems, and kept.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jax_switchgen.evaluation.calibration import (
    calibration,
    choice_confidence,
    fit_temperature,
    mixture_logits,
)
from jax_switchgen.evaluation.kept import Kept
from jax_switchgen.generation.likelihood import Likelihood
from jax_switchgen.tasks.parsing import LETTERS, choice_prompt
from jax_switchgen.tasks.record import Record

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Choices:
    """A multiple-choice task; without `dev` there is no control."""

    task: str
    test: Sequence[Record]
    dev: Sequence[Record]


class ChoiceReader:
    """Log-probabilities of letters, and of policies; computed once and kept.

    Args:
      candidates: their names.
      likelihood: of a system by its name; not called for what is kept.
    """

    def __init__(
        self,
        kept: Kept,
        candidates: Sequence[str],
        likelihood: Callable[[str], Likelihood],
    ):
        self._kept = kept
        self._candidates = candidates
        self._likelihood = likelihood

    def letters(
        self, system: str, task: str, split: str, records: Sequence[Record]
    ) -> np.ndarray:
        """float (I, M, C) over each model's whole vocabulary, -inf beyond a record's
        options; the same for all systems of a pool."""
        queries = [record.prompt for record in records]
        words = LETTERS[: max(len(record.choices) for record in records)]

        def compute(index: int) -> list:
            judge = self._likelihood(system)
            speaker = judge.speakers[index]
            return judge.option_log_probs(speaker, queries, words).tolist()

        found = [
            self._kept.get(
                f"choices/{task}/{split}-candidate-{name}",
                [words, queries],
                functools.partial(compute, index),
            )
            for index, name in enumerate(self._candidates)
        ]
        options_I = np.array([len(record.choices) for record in records])
        beyond_IC = np.arange(len(words))[None] >= options_I[:, None]
        return np.where(beyond_IC[:, None], -np.inf, np.stack(found, axis=1))

    def weights(
        self, system: str, task: str, split: str, records: Sequence[Record]
    ) -> np.ndarray:
        """float (I, M), the policy's probabilities for the first segment."""
        queries = [record.prompt for record in records]
        return np.array(
            self._kept.get(
                f"choices/{task}/{split}-system-{system}",
                queries,
                lambda: self._likelihood(system).weights(queries).tolist(),
            )
        )


def choice_rows(
    systems: Sequence[str],
    reference: str,
    tasks: Sequence[Choices],
    reader: ChoiceReader,
) -> list[Row]:
    """A row of metrics, and the points of its curve, for each system and task.

    A system that gives the same probabilities as an earlier one (segments change
    nothing here) is left out.
    """
    rows = []
    for task in tasks:
        seen: list[np.ndarray] = []
        letters_IMC = reader.letters(systems[0], task.task, "test", task.test)
        blank_IMC = _blank(systems[0], task, reader)
        for system in systems:
            weights_IM = reader.weights(system, task.task, "test", task.test)
            logits_IC = _mixture(weights_IM, letters_IMC)
            if any(np.array_equal(logits_IC, before) for before in seen):
                continue
            seen.append(logits_IC)
            corrected_IC = logits_IC - _mixture(weights_IM, blank_IMC)
            row = _row(system, task, logits_IC)
            row["accuracy_corrected"] = _accuracy(task, corrected_IC)
            rows.append(row)
            if system == reference and task.dev:
                temperature = _temperature(system, task, reader)
                name = f"{system}, temperature {temperature:.2f} fitted on dev"
                rows.append(_row(name, task, logits_IC / temperature))
    return rows


def _mixture(weights_IM: np.ndarray, letters_IMC: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return mixture_logits(np.log(weights_IM), letters_IMC)


def _temperature(system: str, task: Choices, reader: ChoiceReader) -> float:
    letters_IMC = reader.letters(system, task.task, "dev", task.dev)
    weights_IM = reader.weights(system, task.task, "dev", task.dev)
    return fit_temperature(_mixture(weights_IM, letters_IMC), _golds(task.dev))


def _blank(system: str, task: Choices, reader: ChoiceReader) -> np.ndarray:
    """What the letters get where question and options are empty, as (I, M, C).

    Subtracting it takes out a model's liking for a letter (Zhao et al. 2021).
    """
    counts = sorted({len(record.choices) for record in task.test})
    empty = [
        Record(f"{count} options", choice_prompt("", ("",) * count), (), ("",) * count)
        for count in counts
    ]
    letters_NMC = reader.letters(system, task.task, "blank", empty)
    blank_IMC = letters_NMC[[counts.index(len(r.choices)) for r in task.test]]
    # Where there is no option, nothing is subtracted from nothing.
    return np.where(np.isfinite(blank_IMC), blank_IMC, 0.0)


def _golds(records: Sequence[Record]) -> np.ndarray:
    return np.array([LETTERS.index(record.golds[0]) for record in records])


def _accuracy(task: Choices, logits_IC: np.ndarray) -> float:
    return float((logits_IC.argmax(1) == _golds(task.test)).mean())


def _row(system: str, task: Choices, logits_IC: np.ndarray) -> Row:
    confidence_I, choice_I = choice_confidence(logits_IC)
    found = calibration(confidence_I, choice_I == _golds(task.test))
    curve = found.reliability
    return {
        "system": system,
        "task": task.task,
        "kind": "calibration",
        "n": found.items,
        "accuracy": found.accuracy,
        "accuracy_corrected": None,
        "confidence": found.confidence,
        "ece": found.ece.plain,
        "ece_debiased": found.ece.debiased,
        "ece_low": found.ece.low,
        "ece_high": found.ece.high,
        "ece_floor": found.ece_floor,
        "brier": found.brier,
        "nll": found.nll,
        "auroc": found.auroc,
        "aurc": found.aurc,
        "points": np.stack(
            [curve.confidence_B, curve.accuracy_B, curve.count_B], axis=1
        ).tolist(),
    }
