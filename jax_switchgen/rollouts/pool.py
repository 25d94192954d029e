"""Which pool a rollout is about: labels of one pool teach nothing about another."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Protocol


class Candidate(Protocol):
    """What decides how a candidate speaks, as `policies.build.CandidateOptions`."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def adapter(self) -> str | None: ...
    @property
    def prompt_format(self) -> str: ...
    @property
    def quantization(self) -> str | None: ...


@dataclasses.dataclass(frozen=True)
class Pool:
    """A pool as rollouts know it.

    Attributes:
      fingerprint: 16 hexadecimal digits; equal for the same candidates in one order.
      candidates: their names, in the order of labels and utilities.
    """

    fingerprint: str
    candidates: tuple[str, ...]


def pool_of(candidates: Sequence[Candidate]) -> Pool:
    """The pool of a config's `candidates`.

    Weights are not read, only named: training needs the switcher's model alone, and
    would fetch 48 GB of others for the paper's pool.
    """
    fields = ("name", "path", "adapter", "prompt_format")
    described = [{field: getattr(c, field) for field in fields} for c in candidates]
    for candidate, description in zip(candidates, described, strict=True):
        # Younger than the first rollouts, whose fingerprints say nothing of it.
        if candidate.quantization is not None:
            description["quantization"] = candidate.quantization
    text = json.dumps(described, sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return Pool(digest, tuple(c.name for c in candidates))
