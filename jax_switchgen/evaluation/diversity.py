"""How much several answers to one prompt differ, and whether they are any good.

Distance alone is won by gibberish. So an answer of too low a quality is left out before
anything is measured, a system's quality is tested against a reference, and diversity is
read beside quality on a Pareto front, on which the honest baseline is the aligned model
at a higher temperature. Lengths matter too: distinct-n falls and the compression ratio
grows with longer answers, so compare them at one token budget.

Axes: **K** answers to one prompt, **G** different n-grams in them, **D** embedding
dimensions, **P** prompts, **N** systems.
"""

import dataclasses
import functools
import gzip
from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from scipy.cluster import hierarchy

from jax_switchgen.evaluation.statistics import (
    DEFAULT,
    Bootstrap,
    Interval,
    paired_bootstrap,
)

MAX_ORDER = 4


@dataclasses.dataclass(frozen=True)
class Diversity:
    """The diversity of the accepted answers to one prompt.

    Attributes:
      accepted: how many answers passed the gate; with fewer than two, there is no
        diversity: self-BLEU is 1 and distance 0.
      distinct: distinct-1, -2 and -3.
      self_bleu: self-BLEU-4 from 0 to 1, lower is more diverse.
      compression_ratio: higher is more repetitive; 1 without any text.
      distance: mean pairwise 1 - cosine.
      vendi: effective number of different answers, from 1 to `accepted`, 0 for none.
    """

    accepted: int
    distinct: tuple[float, float, float]
    self_bleu: float
    compression_ratio: float
    distance: float
    vendi: float


@dataclasses.dataclass(frozen=True)
class Gate:
    """Whether a system's diversity may count.

    Attributes:
      quality, reference: mean quality of the system and of the reference.
      difference: paired over prompts, system minus reference.
      passed: no part of the interval lies below -margin.
    """

    quality: float
    reference: float
    difference: Interval
    passed: bool


def diversity(
    texts: Sequence[str],
    embeddings_KD: np.ndarray,
    accepted_K: np.ndarray | None = None,
) -> Diversity:
    """All measures of the K answers to one prompt.

    Args:
      texts: the answers, cut to one token budget for all systems.
      embeddings_KD: float, one row per answer, from any encoder; padding masked out.
      accepted_K: bool, answers good enough to count; None accepts all.
    """
    embeddings_KD = np.asarray(embeddings_KD)
    kept_K = np.ones(len(texts), bool) if accepted_K is None else np.asarray(accepted_K)
    if not len(texts) == len(embeddings_KD) == len(kept_K) or kept_K.dtype != bool:
        raise ValueError(
            f"{len(texts)} texts, {len(embeddings_KD)} embeddings and {len(kept_K)} "
            f"{kept_K.dtype} marks of acceptance, not one of each per answer"
        )
    texts = [text for text, kept in zip(texts, kept_K, strict=True) if kept]
    several = len(texts) > 1
    counts = _ngram_counts(texts, MAX_ORDER)
    return Diversity(
        accepted=len(texts),
        distinct=(_distinct(counts[0]), _distinct(counts[1]), _distinct(counts[2])),
        self_bleu=_self_bleu(counts) if several else 1.0,
        compression_ratio=compression_ratio(texts),
        distance=mean_distance(embeddings_KD[kept_K]) if several else 0.0,
        vendi=vendi_score(embeddings_KD[kept_K]) if texts else 0.0,
    )


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams / n-grams, over all texts (Li et al. 2016, arXiv 1510.03055).

    Words as in BLEU (13a). 0 where no text has n words.
    """
    return _distinct(_ngram_counts(texts, n)[-1])


def self_bleu(texts: Sequence[str]) -> float:
    """Mean BLEU-4 of each text against all others (Zhu et al. 2018, arXiv 1802.01886).

    sacrebleu's sentence BLEU (13a words, effective order, exponential smoothing), from
    0 to 1. An empty text scores 1 where another one is empty too, as every copy does.
    """
    if len(texts) < 2:
        raise ValueError(f"self-BLEU compares answers, got {len(texts)}: sample more")
    return _self_bleu(_ngram_counts(texts, MAX_ORDER))


def compression_ratio(texts: Sequence[str]) -> float:
    """UTF-8 bytes / gzipped bytes (Shaib et al. 2024, arXiv 2403.00553).

    Texts are sorted first, or the ratio would depend on their order. Level 6 is that of
    the gzip program; 9 takes up to twice as long for 0.6 %.
    """
    raw = "\n".join(sorted(texts)).encode("utf-8", "surrogatepass")
    return len(raw) / len(gzip.compress(raw, 6, mtime=0)) if raw else 1.0


def mean_distance(embeddings_KD: np.ndarray) -> float:
    """Mean of 1 - cosine over all pairs of rows; float, at least two rows."""
    unit_KD = _unit_rows(embeddings_KD)
    K = len(unit_KD)
    if K < 2:
        raise ValueError("a distance needs two answers, got one: sample more")
    # The sum over all ordered pairs, K of which pair a row with itself.
    cosines = float((unit_KD.sum(0) ** 2).sum()) - K
    return max(0.0, 1 - cosines / (K * (K - 1)))


def vendi_score(embeddings_KD: np.ndarray) -> float:
    """exp of the entropy of the eigenvalues of cosines/K (Friedman and Dieng 2023, 3).

    1 for K copies, K for K orthogonal rows. The eigenvalues are the squared singular
    values of the unit rows over sqrt(K).
    """
    unit_KD = _unit_rows(embeddings_KD)
    share_K = np.linalg.svd(unit_KD, compute_uv=False) ** 2 / len(unit_KD)
    share_K = share_K[share_K > 1e-12]
    return float(np.exp(-(share_K * np.log(share_K)).sum()))


def semantic_classes(embeddings_KD: np.ndarray, threshold: float) -> int:
    """Clusters of average linkage, cut at a cosine distance that was fixed on dev."""
    unit_KD = _unit_rows(embeddings_KD)
    if len(unit_KD) == 1:
        return 1
    # Half the squared distance of unit vectors is 1 - cosine, but never below 0.
    row_E, column_E = np.triu_indices(len(unit_KD), 1)
    distance_E = ((unit_KD[row_E] - unit_KD[column_E]) ** 2).sum(1) / 2
    tree = hierarchy.linkage(distance_E, "average")
    return int(hierarchy.fcluster(tree, threshold, "distance").max())


def quality_gate(
    quality_P: np.ndarray,
    reference_P: np.ndarray,
    *,
    margin: float,
    bootstrap: Bootstrap = DEFAULT,
) -> Gate:
    """Non-inferiority of quality: worse by less than the margin, with confidence.

    Args:
      quality_P, reference_P: float, mean quality of the answers to each prompt: reward,
        or log-likelihood per token under a model that took no part.
      margin: the loss of quality that diversity may cost, chosen on dev.
    """
    if not margin >= 0:
        raise ValueError(f"margin={margin} must be 0 or more")
    difference = paired_bootstrap(
        quality_P, reference_P, bounds=None, bootstrap=bootstrap
    ).difference
    return Gate(
        quality=float(np.mean(quality_P)),
        reference=float(np.mean(reference_P)),
        difference=difference,
        passed=bool(difference.low >= -margin),
    )


def pareto_front(diversity_N: np.ndarray, quality_N: np.ndarray) -> np.ndarray:
    """front_N, bool: no other system is better in one and at least equal in the other.

    In: diversity [1, 2, 3, 2], quality [5, 4, 1, 3]. Out: [True, True, True, False].
    """
    points_N2 = np.stack([diversity_N, quality_N], 1).astype(np.float64)
    if not np.isfinite(points_N2).all():
        raise ValueError("a system without a finite diversity or quality has no place")
    as_good_NN = (points_N2[:, None] >= points_N2).all(-1)
    better_NN = (points_N2[:, None] > points_N2).any(-1)
    dominated_N = np.any(as_good_NN & better_NN, axis=0)
    return np.logical_not(dominated_N)


@functools.cache
def _tokenizer() -> Tokenizer13a:
    """One for the process: it remembers 65,536 results."""
    return Tokenizer13a()


def _words(text: str) -> list[str]:
    """Words of sacrebleu's default tokenizer, which treats a space as any border.

    So it can cut one run of letters at a time, and runs come back: whole texts take
    nine times as long. Only a hyphen at the end of a line joins two runs.
    """
    cut = _tokenizer()
    return [
        word
        for run in text.rstrip().replace("-\n", "").split()
        for word in cut(run).split()
    ]


def _ngram_counts(texts: Sequence[str], max_order: int) -> list[np.ndarray]:
    """counts_KG, int64, for n = 1 … max_order: how often each text has each n-gram.

    All texts are laid end to end and n-grams numbered from those of n - 1, which takes
    a quarter of the time of counting tuples. Those that run from one text into the
    next keep a number and are not counted: their column is 0.
    """
    words_K = [_words(text) for text in texts]
    flat = [word for words in words_K for word in words]
    number = {word: i for i, word in enumerate(dict.fromkeys(flat))}
    word = np.array([number[word] for word in flat], np.int64)
    owner = np.repeat(np.arange(len(texts)), [len(words) for words in words_K])
    gram, result = word, []
    for n in range(1, max_order + 1):
        if n > 1:
            gram = gram[:-1] * len(number) + word[n - 1 :]
            _, gram = np.unique(gram, return_inverse=True)
        G = int(gram.max(initial=-1)) + 1
        inside = owner[: len(gram)] == owner[n - 1 :]
        cell = owner[: len(gram)][inside] * G + gram[inside]
        counts = np.bincount(cell, minlength=len(texts) * G)
        result.append(counts.reshape(len(texts), G))
    return result


def _distinct(counts_KG: np.ndarray) -> float:
    """Different n-grams / n-grams, 0 without any."""
    return float((counts_KG.sum(0) > 0).sum() / max(1, counts_KG.sum()))


def _self_bleu(counts: list[np.ndarray]) -> float:
    """Mean BLEU in [0, 1] from counts_KG of n = 1 … 4, for two texts or more."""
    totals, matches = [], []
    for counts_KG in counts:
        # The most that the others have of an n-gram is the record of all texts, or the
        # runner-up for the text that holds the record: linear in K.
        second_G, first_G = np.partition(counts_KG, len(counts_KG) - 2, axis=0)[-2:]
        others_KG = np.where(counts_KG == first_G, second_G, first_G)
        totals.append(counts_KG.sum(1))
        matches.append(np.minimum(counts_KG, others_KG).sum(1))
    lengths = [int(length) for length in totals[0]]
    scores = []
    for k, length in enumerate(lengths):
        others = lengths[:k] + lengths[k + 1 :]
        if length == 0:
            scores.append(float(0 in others))
            continue
        bleu = BLEU.compute_bleu(
            [int(match_K[k]) for match_K in matches],
            [int(total_K[k]) for total_K in totals],
            length,
            min(others, key=lambda other: (abs(other - length), other)),
            smooth_method="exp",
            effective_order=True,
        )
        scores.append(bleu.score / 100)
    return float(np.mean(scores))


def _unit_rows(embeddings_KD: np.ndarray) -> np.ndarray:
    """float64 rows of length 1, or a ValueError."""
    embeddings_KD = np.asarray(embeddings_KD, np.float64)
    if embeddings_KD.ndim != 2 or not len(embeddings_KD):
        raise ValueError(f"embeddings must be (answers, dims): {embeddings_KD.shape}")
    norm_K = np.linalg.norm(embeddings_KD, axis=1)
    if not np.all(np.isfinite(norm_K) & (norm_K > 0)):
        raise ValueError(
            f"embedding {np.argmin(norm_K > 0)} is 0 or not finite and has no direction"
        )
    return embeddings_KD / norm_K[:, None]
