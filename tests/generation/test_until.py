"""Stop strings: a response ends with the segment that completes one.

With letters only: where random bytes are cut, they decode to other replacements.
"""

import pytest

from jax_switchgen.generation.engine import Engine
from jax_switchgen.policies.simple import Fixed, Schedule
from jax_switchgen.policies.switcher import Switcher, SwitcherOptions
from tests import tiny

MODELS = [tiny.letters_model(seed) for seed in range(3)]
QUERIES = ["hello", "a longer question, please?", "x"]


def respond(policy, until=(), **options):
    speakers = [tiny.speaker(f"m{i}", model) for i, model in enumerate(MODELS[:2])]
    engine = Engine(speakers, policy, tiny.generation(**options), until=until)
    return engine.generate(QUERIES)


def switcher() -> Switcher:
    vocabulary = tiny.speaker("s", MODELS[2]).vocabulary
    return Switcher(MODELS[2], vocabulary, 2, SwitcherOptions(top_p=1.0))


@pytest.mark.parametrize("policy", [Fixed(0), Schedule((0, 1)), switcher()])
def test_a_stop_string_takes_away_whole_segments_and_changes_none(policy):
    options = dict(temperature=1.0, top_p=0.5, segment_length=4)
    whole = respond(policy, **options)
    # Somewhere inside the first response, across the border of two segments.
    until = whole[0].output[6:9]
    ended = respond(policy, [until], **options)
    for long, short in zip(whole, ended, strict=True):
        written = [(s.speaker, s.token_ids) for s in long.segments]
        kept = [(s.speaker, s.token_ids) for s in short.segments]
        assert kept == written[: len(kept)]
        without_last = "".join(s.text for s in short.segments[:-1])
        assert until not in without_last
        assert (until in short.output) == (until in long.output)
    assert until in ended[0].output and ended[0].finish_reason == "stop"
    assert len(ended[0].segments) < len(whole[0].segments)


def test_a_cue_does_not_keep_a_response_going_beyond_its_stop_string():
    options = dict(segment_length=4, stop_cue=" Wait,", ignore_stop=False)
    whole = respond(Fixed(0), **options)[0]
    until = whole.output[:3]
    ended = respond(Fixed(0), [until], **options)[0]
    assert len(ended.segments) == 1 and ended.finish_reason == "stop"
