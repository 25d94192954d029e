"""Branches against a loop that reads everything again, and the cost of reading."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import pytest

from jax_switchgen.generation.cached_model import CachedModel
from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.session import Session
from jax_switchgen.generation.speaker import Speaker
from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.policies.simple import Random
from jax_switchgen.rollouts.branching import Branched, Branching, Place, cut_of
from jax_switchgen.tasks.record import Record, Scorer, Task
from tests import tiny

TASK = Task("mine", Scorer.CHOICE, 0, 0, "none")
QUERIES = [
    "hello",
    "Why is the sky so blue?",
    "x",
    "Grüße 🌧",
    "a b c d e f g h i j k l",
]
MODELS = [tiny.random_model(seed) for seed in range(3)]
SPAN = (0.1, 0.9)


def judge(task: Task, record: Record, outputs: Sequence[str]) -> list[float]:
    """A number that tells outputs apart."""
    digests = [hashlib.blake2b(o.encode(), digest_size=2).digest() for o in outputs]
    return [int.from_bytes(d) / 2**16 for d in digests]


def places(queries=QUERIES, each=1) -> list[Place]:
    records = [Record(f"q{i}", query) for i, query in enumerate(queries)]
    return [Place(TASK, record, n) for record in records for n in range(each)]


def pool(models=MODELS, **changes) -> list[Speaker]:
    return [tiny.speaker(f"m{i}", m, **changes) for i, m in enumerate(models)]


def collect(
    speakers, options, where, completions=3, allocation="fixed", span=SPAN
) -> dict[str, Branched]:
    engine = Engine(speakers, Random(len(speakers)), options)
    branching = Branching(
        engine,
        judge,
        where,
        span=span,
        completions=completions,
        allocation=allocation,
    )
    found = list(branching.run())
    assert sorted(str(b.place) for b in found) == sorted(map(str, where))
    return {str(b.place.request.id): b for b in found}


def by_the_book(place: Place, options, completions: int) -> tuple[list, list]:
    """Speakers and texts of the trace, and scores, without any cache; greedy."""
    prompt = tiny.byte_tokenizer().encode(place.record.prompt)
    budget, length = options.max_new_tokens, options.segment_length

    def speak(response: list[int], speaker: int) -> tuple[list[int], bool]:
        count = min(length, budget - len(response))
        new = tiny.greedy(MODELS[speaker], prompt + response, count)
        return new, len(new) < count or len(response) + count == budget

    def drawn(stream: int, response: list[int]) -> int:
        seeds = (options.seed, stream, len(response))
        return int(np.random.default_rng(seeds).random() * len(MODELS))

    def text(ids: list[int]) -> str:
        # In segments: bytes that are no text may decode otherwise as a whole.
        text, vocabulary = "", Vocabulary(tiny.byte_tokenizer())
        for end in range(0, len(ids), length):
            text += vocabulary.text_after(ids[:end], ids[end : end + length])
        return text + vocabulary.decode(ids[vocabulary.whole_length(ids) :])

    cut = cut_of(place.request, options.seed, -(-budget // length), SPAN)
    trace: list[tuple[str, list[int]]] = []
    prefix: list[int] = []
    while len(trace) < cut:
        speaker = drawn(place.request.stream, prefix)
        new, is_end = speak(prefix, speaker)
        if is_end:
            break
        trace.append((f"m{speaker}", new))
        prefix += new
    scores = []
    for speaker in range(len(MODELS)):
        new, is_end = speak(prefix, speaker)
        outputs = []
        for number in range(completions):
            response, done = prefix + new, is_end
            while not done:
                stream = place.completion(number).stream
                more, done = speak(response, drawn(stream, response))
                response = response + more
            outputs.append(text(response))
        scores.append(judge(TASK, place.record, outputs))
    return trace, scores


@pytest.mark.parametrize("segment_length", [4, 8])
def test_branches_are_those_of_the_loop_that_reads_everything_again(segment_length):
    options = tiny.generation(
        segment_length=segment_length, max_new_tokens=24, in_flight=7, seed=5
    )
    found = collect(pool(), options, places())
    for place in places():
        trace, scores = by_the_book(place, options, 3)
        branched = found[str(place.request.id)]
        assert [(s.speaker, s.token_ids) for s in branched.trace] == trace
        assert branched.scores == scores


SAMPLED = tiny.generation(
    temperature=0.9, max_new_tokens=24, segment_length=4, in_flight=9, seed=2
)


@pytest.mark.parametrize(
    "changes",
    [{"in_flight": 5}, {"batch_size": 1}, {"in_flight": 40, "batch_size": 8}],
    ids=str,
)
def test_company_and_room_change_nothing(changes):
    """Law 6; with room for a prefix, three branches, a completion."""
    alone = collect(pool(), SAMPLED, places(each=2))
    other = collect(pool(), dataclasses.replace(SAMPLED, **changes), places(each=2))
    for name, branched in alone.items():
        assert other[name].scores == branched.scores
        assert other[name].trace == branched.trace


def test_too_little_room_is_named():
    options = dataclasses.replace(SAMPLED, in_flight=4)
    with pytest.raises(ValueError, match="room for 5 .* for 4; raise generation.in_fl"):
        collect(pool(), options, places())


def two_tokenizers() -> list[Speaker]:
    merges = (("h", "e"), ("l", "l"), ("Ã", "¼"))
    other = Vocabulary(tiny.byte_tokenizer(merges))
    stop = dict(vocabulary=other, stop_ids=(tiny.STOP + len(merges),))
    return [tiny.speaker("m0", MODELS[0]), tiny.speaker("m1", MODELS[1], **stop)]


@pytest.mark.parametrize("make_pool", [pool, two_tokenizers])
def test_forked_caches_change_nothing(make_pool, monkeypatch):
    shared = collect(make_pool(), SAMPLED, places())
    monkeypatch.setattr(CachedModel, "fork", lambda *_: None)
    monkeypatch.setattr(Session, "catch_up", lambda *_: None)
    again = collect(make_pool(), SAMPLED, places())
    assert {k: b.scores for k, b in shared.items()} == {
        k: b.scores for k, b in again.items()
    }


def test_a_prefix_is_read_once_by_each_candidate():
    """Prompt, prefix and each branch's segment; completions only read each other."""
    options = tiny.generation(max_new_tokens=32, ignore_stop=True, in_flight=40)
    speakers = pool()
    engine = Engine(speakers, Random(3), options)
    where = places(["hello"])
    branching = Branching(
        engine, judge, where, span=(0.75, 0.75), completions=4, allocation="fixed"
    )
    read = []
    reading = CachedModel._prefill

    def note(self, ids, T):
        read.extend((self.name, slot, len(new)) for slot, new in ids.items())
        reading(self, ids, T)

    CachedModel._prefill = note
    try:
        (branched,) = branching.run()
    finally:
        CachedModel._prefill = reading
    # The cut is after 3 of 4 segments, so that branches end with their segment: all
    # reading is of prompt and prefix, in the prefix's slot.
    assert len(branched.trace) == 3 and len({slot for _, slot, _ in read}) == 1
    prompt = len(tiny.byte_tokenizer().encode("hello"))
    for speaker in speakers:
        own = sum(s.speaker == speaker.name for s in branched.trace) * 8
        # All but the last token, which the branch's first step feeds; what a speaker
        # wrote itself needs no reading, but for the last token of each segment.
        known = own - sum(
            a.speaker == speaker.name != b.speaker
            for a, b in zip(branched.trace, branched.trace[1:], strict=False)
        )
        counted = sum(n for name, _, n in read if name == speaker.name)
        assert counted <= prompt + 24 - known, speaker.name
        assert counted >= prompt + 24 - own - 1, speaker.name


def test_a_response_that_ends_early_is_cut_before_its_last_segment():
    """With 40 stop tokens of 257, hardly any prefix comes to its cut."""
    speakers = [
        Speaker(
            f"m{i}",
            model,
            Vocabulary(tiny.byte_tokenizer()),
            prompt_format="raw",
            stop_ids=(tiny.STOP, *range(97 + i, 104 + i)),
        )
        for i, model in enumerate(MODELS)
    ]
    options = dataclasses.replace(SAMPLED, max_new_tokens=80, top_p=1.0)
    where = places(each=6)
    found = collect(speakers, options, where, span=(0.5, 0.9))
    lengths = [len(b.trace) for b in found.values()]
    assert min(lengths) < 10, "no response ended before its cut"
    # What is there could go on: every branch was completed, and all are judged.
    assert all(len(s) == 3 for b in found.values() for s in b.scores)
    assert all(len(s.token_ids) == 4 for b in found.values() for s in b.trace)


@pytest.mark.parametrize("allocation", ["curtailed", "halving"])
def test_allocations_see_the_first_scores_of_fixed(allocation):
    every = collect(pool(), SAMPLED, places(), 8)
    some = collect(pool(), SAMPLED, places(), 8, allocation)
    spent = 0
    for name, branched in some.items():
        for few, all_ in zip(branched.scores, every[name].scores, strict=True):
            assert few == all_[: len(few)]
            spent += len(few)
    assert spent < 8 * 3 * len(QUERIES)


def test_cuts_are_in_the_span_and_uniform():
    requests = [Place(TASK, Record(str(i), "q"), 0).request for i in range(2000)]
    cuts = [cut_of(request, 0, 10, SPAN) for request in requests]
    counts = np.bincount(cuts, minlength=11)
    assert counts[0] == counts[10] == 0
    assert counts[1:10].min() > 150 and counts[1:10].max() < 300
    assert {cut_of(request, 0, 1, SPAN) for request in requests[:9]} == {0}
    assert {cut_of(request, 0, 4, (0, 0)) for request in requests[:9]} == {0}
