"""What a run's summary counts."""

import time

from jax_switchgen.generation.display import Tally
from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.trace import Request
from jax_switchgen.policies.simple import Fixed
from tests import tiny


def test_text_that_the_system_inserted_is_not_counted():
    options = tiny.generation(final_cue=" So:", ignore_stop=True)
    speakers = [tiny.speaker("m0", tiny.random_model(0))]
    requests = [Request(f"query {i}", i) for i in range(3)]
    tally = Tally(time.perf_counter())
    for event in Engine(speakers, Fixed(0), options).stream(requests):
        tally.add(event)
    assert tally.tokens == {"m0": 3 * options.max_new_tokens}
    assert tally.segments == {"m0": 3 * 5}
    assert tally.switches == 0 and not tally.written
