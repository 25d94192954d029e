"""The fingerprint of a pool tells candidates apart."""

import dataclasses

import pytest

from jax_switchgen.policies.build import CandidateOptions
from jax_switchgen.rollouts.pool import pool_of

P = CandidateOptions(name="p", path="a", prompt_format="raw")
F = CandidateOptions(name="f", path="b", adapter="c")


def test_a_pool_is_its_candidates_in_order():
    pool = pool_of([P, F])
    assert pool.candidates == ("p", "f")
    assert pool == pool_of((dataclasses.replace(P), F)), "built twice"
    found = {pool_of(chosen).fingerprint for chosen in ([P, F], [F, P], [P])}
    assert len(found) == 3


def test_the_fingerprint_is_the_same_in_every_process():
    """Rollouts of today are read by the program of tomorrow."""
    assert pool_of([P, F]).fingerprint == "151886e5d4ac5cc5"


@pytest.mark.parametrize(
    "field", ["name", "path", "adapter", "prompt_format", "quantization"]
)
def test_every_field_of_a_candidate_counts(field):
    other = dataclasses.replace(P, **{field: "other"})
    assert pool_of([other, F]).fingerprint != pool_of([P, F]).fingerprint
