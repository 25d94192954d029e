"""How diverse systems are on prompts that they answer several times, and how good.

Each seed is one answer, so K seeds give the K answers to a prompt that `diversity`
compares. Systems are compared on equal terms:

- Length: the text measures depend on it, so all answers to a task are cut to one
  number of words, the smallest median of any system. At least half of the answers of
  every system are that long; the minimum would be set by one answer that failed.
- Quality: an answer that is empty, or worse than nearly all answers of the reference,
  does not count, and the mean quality is tested against the reference's. It is judged
  on the whole answer.

Axes: **P** prompts, **K** answers to one, **I** texts, **D** embedding dimensions.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np

from jax_switchgen.evaluation.diversity import (
    Diversity,
    diversity,
    pareto_front,
    quality_gate,
)
from jax_switchgen.evaluation.run import Result
from jax_switchgen.evaluation.statistics import (
    DEFAULT,
    Bootstrap,
    mean_interval,
)
from jax_switchgen.evaluation.tables import MISSING, Row, Table, fields, percent, plain
from jax_switchgen.generation.likelihood import Likelihood
from jax_switchgen.generation.options import GenerationOptions
from jax_switchgen.generation.speaker import Speaker
from jax_switchgen.policies.simple import Fixed

# embedding_ID of texts, and quality_I of (prompt, answer): log-likelihood or reward.
Encoder = Callable[[Sequence[str]], np.ndarray]
Quality = Callable[[Sequence[tuple[str, str]]], np.ndarray]

# The loss of quality that diversity may cost, in standard deviations of the reference's
# answers: a small effect (Cohen 1988), whether quality is in nats or a reward.
MARGIN = 0.2
REJECTED = 0.05  # the share of the reference's own answers that are not good enough

# Each with the most it can be: None is without bound, 0 the number of answers.
_MEASURES: dict[str, tuple[Callable[[Diversity], float], float | None]] = {
    "vendi": (lambda found: found.vendi, 0),
    "distance": (lambda found: found.distance, 2),
    "distinct_1": (lambda found: found.distinct[0], 1),
    "distinct_2": (lambda found: found.distinct[1], 1),
    "distinct_3": (lambda found: found.distinct[2], 1),
    "self_bleu": (lambda found: found.self_bleu, 1),
    "compression_ratio": (lambda found: found.compression_ratio, None),
    "accepted": (lambda found: found.accepted, 0),
}


@dataclasses.dataclass(frozen=True)
class _Answers:
    """What one system wrote to a task; `quality_PK` is NaN where it wrote nothing."""

    texts: list[list[str]]  # by prompt and seed
    quality_PK: np.ndarray

    def cut(self, budget: int) -> list[list[str]]:
        return [[_first_words(text, budget) for text in texts] for texts in self.texts]


def likelihood_quality(speaker: Speaker, options: GenerationOptions) -> Quality:
    """Mean log-likelihood of an answer's tokens after its prompt, under one model.

    The model should be none that writes answers: each finds its own the likeliest.
    """
    judge = Likelihood([speaker], Fixed(0), options)

    def quality(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        total_I = np.array([total for total, _ in judge.log_likelihoods(pairs)])
        tokens_I = [len(speaker.vocabulary.encode(answer)) for _, answer in pairs]
        return total_I / np.array(tokens_I)

    return quality


def measure(
    results: Sequence[Result],
    reference: str,
    *,
    encode: Encoder,
    quality: Quality,
    margin: float = MARGIN,
    rejected: float = REJECTED,
    bootstrap: Bootstrap = DEFAULT,
) -> list[Row]:
    """A row of means over prompts for each task and system.

    Args:
      results: of tasks that are judged by diversity only; all seeds of all systems.
      reference: the system whose quality is the standard.
      encode: gets each different text once, none of them empty.
      quality: gets all pairs of a system at once, no answer of them empty.
      margin: of `diversity.quality_gate`, in standard deviations of the quality of the
        reference's single answers.
      rejected: answers below this quantile of the reference's quality do not count.
    Returns:
      Rows of `system`, `task`, `prompts`, `samples`, `words` (the budget), the
      measures of `Diversity` and `quality`, each with its `_low` and `_high`,
      `quality_difference` to the reference with its own, `passed` (the quality gate;
      None for the reference) and `on_front` (of Vendi score and quality).

    Raises:
      ValueError: there is one seed only, or no answer of the reference.
    """
    rows = []
    for task in dict.fromkeys(result.cell.task for result in results):
        groups: dict[str, list[Result]] = {}
        for result in results:
            if result.cell.task == task:
                groups.setdefault(result.cell.system, []).append(result)
        if min(map(len, groups.values())) < 2:
            raise ValueError(
                f"task {task!r}: diversity compares answers to one prompt; evaluate "
                "with two seeds or more"
            )
        answers = {system: _answers(group, quality) for system, group in groups.items()}
        if reference not in answers or np.isnan(answers[reference].quality_PK).all():
            raise ValueError(f"task {task!r}: {reference!r} has no answer to compare")
        words = _word_budget(answers)
        found = _diversities(answers, reference, encode, rejected, words)
        qualities = _mean_qualities(answers)
        least = margin * float(np.nanstd(answers[reference].quality_PK))
        front = pareto_front(
            np.array([np.mean([one.vendi for one in some]) for some in found.values()]),
            np.array([quality_P.mean() for quality_P in qualities.values()]),
        )
        for system, on_front in zip(answers, front, strict=True):
            row: Row = {"system": system, "task": task, "prompts": len(found[system])}
            row |= {"samples": len(groups[system]), "words": words}
            row |= _means(found[system], len(groups[system]), bootstrap)
            row |= _judged(qualities, system, reference, least, bootstrap)
            rows.append(row | {"on_front": bool(on_front)})
    return rows


def tables(rows: Sequence[Row]) -> list[Table]:
    """The rows of `measure` as the report shows them, a table and a plot per task."""
    found = []
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        first = mine[0]
        columns = ["System", "Vendi", "Quality", "Gate", "Front", "Distance"]
        columns += ["Self-BLEU", "Distinct-1", "Distinct-2", "Distinct-3"]
        found.append(
            {
                "title": f"Diversity: {task}",
                "note": f"Means over {first['prompts']} prompts of the measures of "
                f"{first['samples']} answers to each, cut to {first['words']} words, "
                "with 95 % intervals. More diverse: a higher Vendi score (of how many "
                "different answers), distance and distinct-n, a lower self-BLEU and "
                "compression ratio. Counted: answers that are good enough to be "
                "compared. The gate is passed where the mean quality is below the "
                "reference's by less than a fifth of the standard deviation of its "
                "answers, with confidence. ●, and the dashed line: no other system is "
                "better in both Vendi score and quality.",
                "columns": [*columns, "Compression", "Counted"],
                "rows": [_cells(row) for row in mine],
                "plot": {
                    "x": "Vendi score",
                    "y": "quality",
                    "dots": [_dot(row) for row in mine],
                },
            }
        )
    return found


def _cells(row: Row) -> list[str]:
    gate = {None: MISSING, True: "passed", False: "failed"}[row["passed"]]
    shares = ("self_bleu", "distinct_1", "distinct_2", "distinct_3")
    return [
        *(row["system"], plain(row, "vendi", 2), plain(row, "quality", 2)),
        *(gate, "●" if row["on_front"] else "", plain(row, "distance", 3)),
        *(percent(row, name) for name in shares),
        *(plain(row, "compression_ratio", 2), plain(row, "accepted", 1)),
    ]


def _dot(row: Row) -> Row:
    """A point of the plot with the ends of its intervals."""
    return {
        "system": row["system"],
        **{"x": row["vendi"], "left": row["vendi_low"], "right": row["vendi_high"]},
        **{"y": row["quality"], "low": row["quality_low"], "high": row["quality_high"]},
    }


def _means(found: Sequence[Diversity], samples: int, bootstrap: Bootstrap) -> Row:
    """The measures of all prompts, averaged."""
    row: Row = {}
    for name, (read, most) in _MEASURES.items():
        bounds = None if most is None else (0.0, most or samples)
        values_P = np.array([read(one) for one in found], np.float64)
        if bounds is not None:
            # Three orthogonal answers have a score of 3.0000000000000004.
            values_P = values_P.clip(*bounds)
        row |= fields(name, mean_interval(values_P, bounds=bounds, bootstrap=bootstrap))
    return row


def _judged(
    qualities: dict[str, np.ndarray],
    system: str,
    reference: str,
    margin: float,
    bootstrap: Bootstrap,
) -> Row:
    """Mean quality, and the gate against the reference."""
    own = mean_interval(qualities[system], bounds=None, bootstrap=bootstrap)
    row = fields("quality", own)
    if system == reference:
        return row | fields("quality_difference", None) | {"passed": None}
    gate = quality_gate(
        qualities[system], qualities[reference], margin=margin, bootstrap=bootstrap
    )
    return row | fields("quality_difference", gate.difference) | {"passed": gate.passed}


def _answers(group: Sequence[Result], quality: Quality) -> _Answers:
    texts = [
        [row["output"] for row in several]
        for several in zip(*(result.rows for result in group), strict=True)
    ]
    prompts = [row["prompt"] for row in group[0].rows]
    written_PK = np.array([[bool(text.strip()) for text in row] for row in texts])
    quality_PK = np.full(written_PK.shape, np.nan)
    if written_PK.any():
        quality_PK[written_PK] = quality(
            [
                (prompt, text)
                for prompt, row in zip(prompts, texts, strict=True)
                for text in row
                if text.strip()
            ]
        )
    return _Answers(texts, quality_PK)


def _first_words(text: str, budget: int) -> str:
    """In: " one  two three" and 2. Out: "one  two"."""
    words = list(re.finditer(r"\S+", text))[:budget]
    return text[words[0].start() : words[-1].end()] if words else ""


def _word_budget(answers: dict[str, _Answers]) -> int:
    """The smallest median length of any system, and at least one word."""
    medians = [
        np.median([len(text.split()) for texts in one.texts for text in texts])
        for one in answers.values()
    ]
    return max(1, int(min(medians)))


def _mean_qualities(answers: dict[str, _Answers]) -> dict[str, np.ndarray]:
    """quality_P by system; an empty answer is as bad as the worst one of all."""
    worst = np.nanmin(np.concatenate([one.quality_PK for one in answers.values()]))
    return {
        system: np.where(np.isnan(one.quality_PK), worst, one.quality_PK).mean(1)
        for system, one in answers.items()
    }


def _diversities(
    answers: dict[str, _Answers],
    reference: str,
    encode: Encoder,
    rejected: float,
    budget: int,
) -> dict[str, list[Diversity]]:
    """The diversity of the answers to each prompt, by system."""
    cut = {system: one.cut(budget) for system, one in answers.items()}
    texts = dict.fromkeys(
        text for rows in cut.values() for row in rows for text in row if text
    )
    embedding_ID = encode(list(texts))
    place = {text: i for i, text in enumerate(texts)}
    lowest = np.nanquantile(answers[reference].quality_PK, rejected)
    return {
        system: [
            # An empty text has no embedding; it is not accepted, and none is looked at.
            diversity(
                row,
                embedding_ID[[place.get(text, 0) for text in row]],
                quality_K >= lowest,
            )
            for row, quality_K in zip(cut[system], one.quality_PK, strict=True)
        ]
        for system, one in answers.items()
    }
