"""The laws of the engine, on tiny models, against loops without a cache."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_switchgen.decoding import programs
from jax_switchgen.generation.buckets import chunk_for
from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.trace import Request, Response
from jax_switchgen.models.transformer import init_transformer
from jax_switchgen.policies.simple import Fixed, ForcedEnds, Random, Schedule
from jax_switchgen.policies.switcher import Switcher, SwitcherOptions, switcher_ids
from tests import tiny

QUERIES = [
    "hello",
    "a prompt of more than a hundred and twenty-eight bytes, so that more than one "
    "chunk is needed to read it, and more than one piece to read the last",
    "x",
    "Grüße 🌧",
    "why?",
]
MODELS = [tiny.random_model(seed) for seed in range(4)]
WINDOWED = [tiny.random_model(seed, tiny.WINDOWED) for seed in range(2)]


def ids_of(response: Response) -> list[int]:
    return [i for segment in response.segments for i in segment.token_ids]


def pool(models=MODELS[:3]):
    return [tiny.speaker(f"m{i}", model) for i, model in enumerate(models)]


def naive_schedule(models, order, query, segment_length, budget) -> list[int]:
    """Re-reads prompt + response for each segment, without a cache."""
    prompt = tiny.byte_tokenizer().encode(query)
    response: list[int] = []
    turn = 0
    while len(response) < budget:
        count = min(segment_length, budget - len(response))
        model = models[order[turn % len(order)]]
        new = tiny.greedy(model, prompt + response, count)
        response += new
        if len(new) < count:
            break
        turn += 1
    return response


@pytest.mark.parametrize("models", [MODELS, WINDOWED], ids=["full", "windowed"])
def test_fixed_policy_is_plain_decoding(models):
    """Laws 1 and 3, with prompts of different lengths in one batch."""
    engine = Engine(pool(models), Fixed(1), tiny.generation())
    for query, response in zip(QUERIES, engine.generate(QUERIES), strict=True):
        prompt = tiny.byte_tokenizer().encode(query)
        assert ids_of(response) == tiny.greedy(models[1], prompt, 40)


def test_identical_speakers_are_plain_decoding():
    """Law 4: under any policy."""
    for policy in (Random(3), Schedule((0, 2, 1)), Fixed(0)):
        engine = Engine(pool([MODELS[0]] * 3), policy, tiny.generation())
        for query, response in zip(QUERIES, engine.generate(QUERIES), strict=True):
            prompt = tiny.byte_tokenizer().encode(query)
            assert ids_of(response) == tiny.greedy(MODELS[0], prompt, 40)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 2, 0), (1,)])
@pytest.mark.parametrize("segment_length", [1, 8])
def test_schedule_is_the_loop_that_reads_everything_again(order, segment_length):
    """Law 5."""
    options = tiny.generation(segment_length=segment_length)
    engine = Engine(pool(), Schedule(order), options)
    for query, response in zip(QUERIES, engine.generate(QUERIES), strict=True):
        expected = naive_schedule(MODELS, order, query, segment_length, 40)
        assert ids_of(response) == expected


def test_windowed_and_full_candidates_take_turns():
    """Law 5 with two architectures of one tokenizer."""
    models = [MODELS[0], WINDOWED[0]]
    engine = Engine(pool(models), Schedule((0, 1)), tiny.generation())
    for query, response in zip(QUERIES, engine.generate(QUERIES), strict=True):
        assert ids_of(response) == naive_schedule(models, (0, 1), query, 8, 40)


@settings(max_examples=6)
@given(
    order=st.permutations(range(12)),
    batch_size=st.sampled_from([1, 2, 4]),
)
def test_a_response_is_the_same_in_any_company(order, batch_size):
    """Law 6: sampled, with a random policy; batch and order change nothing."""
    requests = [Request(QUERIES[i % 5], f"r{i}") for i in range(12)]
    options = tiny.generation(temperature=0.8, top_p=0.9, seed=3)
    alone = [
        Engine(pool(), Random(3), options).generate([request])[0]
        for request in requests[:3]
    ]
    options = dataclasses.replace(options, batch_size=batch_size)
    engine = Engine(pool(), Random(3), options)
    together = {r.request.id: r for r in engine.generate([requests[i] for i in order])}
    for response in alone:
        assert together[response.request.id] == response


@pytest.mark.parametrize("models", [MODELS[:2], WINDOWED], ids=["full", "windowed"])
def test_what_a_full_pass_has_in_common_is_read_once(models, monkeypatch):
    """Law 6, where rows begin alike: here one quarter or two of a cache of 256."""
    shared = []
    decode = programs.decode_segment

    def decoding(*args, **options):
        shared.append((len(args[3].slots_B), options["shared"]))
        return decode(*args, **options)

    monkeypatch.setattr(programs, "decode_segment", decoding)
    queries = ["a" * 81] * 8 + ["b" * 140] * 8 + ["ab " * 23 + str(i) for i in range(4)]
    requests = [Request(query, f"r{i}") for i, query in enumerate(queries)]
    options = tiny.generation(temperature=0.8, seed=3, batch_size=1)
    alone = Engine(pool(models), Random(2), options).generate(requests)
    assert not any(count for _, count in shared)
    shared.clear()
    options = dataclasses.replace(options, batch_size=4)
    assert Engine(pool(models), Random(2), options).generate(requests) == alone
    assert {count for size, count in shared if size == 4} == {0, 64, 128}
    assert not any(count for size, count in shared if size < 4)


def test_seed_and_id_make_the_response():
    options = tiny.generation(temperature=1.0)
    engine = Engine(pool(), Random(3), options)
    same, again, other_id = engine.generate(
        [Request("hi", "a"), Request("hi", "a"), Request("hi", "b")]
    )
    assert same.segments == again.segments
    assert same.segments != other_id.segments
    other_seed = Engine(pool(), Random(3), dataclasses.replace(options, seed=1))
    assert other_seed.generate([Request("hi", "a")])[0].segments != same.segments


def test_candidates_of_one_architecture_share_programs():
    """Law 7: the second and third candidate compile nothing."""
    config = dataclasses.replace(tiny.CONFIG, mlp_dim=56)
    models = [tiny.random_model(seed, config) for seed in range(3)]
    options = tiny.generation(batch_size=1, in_flight=1)
    before = programs.num_compiled()
    Engine(pool(models), Fixed(0), options).generate(["hello"])
    one = programs.num_compiled()
    assert one["decode_segment"] == before["decode_segment"] + 1
    Engine(pool(models), Schedule((0, 1, 2)), options).generate(["hello", "again"])
    assert programs.num_compiled()["decode_segment"] == one["decode_segment"]


def test_programs_are_as_many_as_the_buckets_allow():
    """Batch buckets 1, 2 and four windows; requests and segments add nothing."""
    config = dataclasses.replace(tiny.CONFIG, mlp_dim=64)
    models = [tiny.random_model(seed, config) for seed in range(3)]
    options = tiny.generation(
        segment_length=4, max_new_tokens=180, batch_size=2, in_flight=4
    )
    before = programs.num_compiled()
    Engine(pool(models), Random(3), options).generate(QUERIES * 3)
    after = programs.num_compiled()
    assert after["decode_segment"] - before["decode_segment"] <= 2 * 4
    assert after["prefill"] - before["prefill"] <= 2 * 4


def test_streams_share_caches_of_the_expected_length():
    def cache_shapes(query, expected=()):
        speaker = tiny.speaker("m", MODELS[0])
        policy = Switcher(MODELS[1], speaker.vocabulary, 1, SwitcherOptions())
        options = tiny.generation(cache_gib=0.003, in_flight=64)
        engine = Engine([speaker], policy, options, expected=expected)
        with engine.open([Request(query, 0)]):
            return [
                (m.cache.num_slots, m.cache.length) for m in (speaker, policy.reader)
            ]

    long = "x" * 300
    assert cache_shapes("hi", [long]) == cache_shapes(long) != cache_shapes("hi")


def test_nothing_is_heard_of_a_candidate_before_it_speaks():
    """Law 8: other parameters for candidate 2 leave segments 0 and 1 as they are."""
    order = (0, 1, 2, 0)
    first = Engine(pool(), Schedule(order), tiny.generation()).generate(QUERIES)
    changed = pool([*MODELS[:2], MODELS[3]])
    second = Engine(changed, Schedule(order), tiny.generation()).generate(QUERIES)
    for a, b in zip(first, second, strict=True):
        assert a.segments[:2] == b.segments[:2]
    assert any(a.segments != b.segments for a, b in zip(first, second, strict=True))


def test_probe_of_the_cache_is_one_forward_over_the_text():
    """Law 9."""
    speakers = pool()
    policy = Switcher(
        MODELS[3],
        speakers[0].vocabulary,
        3,
        SwitcherOptions(temperature=1.0, top_p=1.0),
    )
    names = [s.name for s in speakers]
    options = tiny.generation(temperature=1.0)
    for response in Engine(speakers, policy, options).generate(QUERIES):
        history: list[tuple[int, str]] = []
        for segment in response.segments:
            ids = switcher_ids(policy.vocabulary, response.request.query, history, 3)
            logits_V = tiny.next_logits(MODELS[3], ids)
            labels_C = policy.vocabulary.encode("012")
            expected_C = jax.nn.softmax(logits_V[np.array(labels_C)])
            np.testing.assert_allclose(
                list(segment.probs.values()), expected_C, atol=1e-5
            )
            history.append((names.index(segment.speaker), segment.text))
        assert len(response.segments) > 1


def test_nothing_is_prefilled_twice():
    """Every speaker reads the prompt once and what the others wrote once."""
    speakers = pool()
    counts = []
    for speaker in speakers:
        speaker.close = lambda s=speaker: counts.append(s.prefilled)
    options = tiny.generation(ignore_stop=True)
    engine = Engine(speakers, Schedule((0, 1, 2)), options)
    engine.generate(["hello"])
    # Segments of 8: m0 speaks at 0 and 24, m1 at 8 and 32, m2 at 16. When one speaks
    # at n, all but the last token of prompt and response is in its cache.
    prompt = len("hello") - 1
    assert counts == [prompt + 16, prompt + 8 + 16, prompt + 16]


@pytest.mark.parametrize("in_flight", [2, 8])
def test_a_prompt_that_requests_share_is_read_once(in_flight):
    """And one that begins like it from there on, in whole chunks; no token changes."""
    options = tiny.generation(temperature=1.0, in_flight=in_flight, ignore_stop=True)
    other = QUERIES[1][:100] + "another end"
    queries = [QUERIES[1]] * 5 + [other] * 3
    requests = [Request(query, f"r{i}") for i, query in enumerate(queries)]
    speaker = tiny.speaker("m0", MODELS[0])
    counts = []
    speaker.close = lambda: counts.append(speaker.prefilled)
    responses = Engine([speaker], Fixed(0), options).generate(requests)
    chunk = chunk_for(options.segment_length)
    read = len(QUERIES[1]) - 1 + len(other) - 1 - 100 // chunk * chunk
    assert counts == [read]
    for request, response in zip(requests, responses, strict=True):
        assert Engine(pool(), Fixed(0), options).generate([request]) == [response]


def test_forced_speakers_at_both_ends():
    policy = ForcedEnds(Schedule((1,)), first=0, last=2)
    options = tiny.generation(ignore_stop=True)
    (response,) = Engine(pool(), policy, options).generate(["hello"])
    assert [s.speaker for s in response.segments] == ["m0", "m1", "m1", "m1", "m2"]


def test_stop_token_ends_the_response_and_is_not_in_it():
    model = init_transformer(tiny.CONFIG, jax.random.key(0))
    stopped = [
        r
        for r in Engine(
            [tiny.speaker("m", model)],
            Fixed(0),
            tiny.generation(temperature=2.0, max_new_tokens=120),
        ).generate(QUERIES * 4)
        if r.finish_reason == "stop"
    ]
    assert stopped
    for response in stopped:
        assert tiny.STOP not in ids_of(response)
        assert response.output_tokens < 120


def test_ids_decode_to_the_output():
    options = tiny.generation(temperature=1.5, max_new_tokens=120)
    tokenizer = tiny.byte_tokenizer()
    for response in Engine(pool(), Random(3), options).generate(QUERIES):
        text = tokenizer.decode(ids_of(response), skip_special_tokens=True)
        assert text == response.output


def test_padding_of_the_vocabulary_is_never_drawn():
    """Ids 257 … 271 are rows of the embedding without a token."""
    options = tiny.generation(temperature=5.0, ignore_stop=True, max_new_tokens=120)
    for response in Engine(pool(), Random(3), options).generate(QUERIES * 2):
        assert max(ids_of(response)) < tiny.NUM_TOKENS


def test_cues_are_segments_of_their_own():
    options = tiny.generation(final_cue=" So:", stop_cue=" Wait,", ignore_stop=True)
    (response,) = Engine(pool(), Fixed(0), options).generate(["hello"])
    assert [s.speaker for s in response.segments][-2:] == ["cue", "m0"]
    cue = response.segments[-2]
    assert cue.text == " So:" and cue.probs is None
    assert response.output_tokens == 40
    prompt = tiny.byte_tokenizer().encode("hello")
    before = ids_of(response)[: 32 + len(cue.token_ids)]
    assert ids_of(response)[len(before) :] == tiny.greedy(MODELS[0], prompt + before, 8)


def test_a_cue_before_the_first_segment_is_not_in_the_prompt():
    options = tiny.generation(
        final_cue=" So:", ignore_stop=True, segment_length=8, max_new_tokens=8
    )
    (response,) = Engine(pool(), Fixed(0), options).generate(["hello"])
    assert [s.speaker for s in response.segments] == ["cue", "m0"]
    assert response.prompt_tokens == len(tiny.byte_tokenizer().encode("hello"))


def test_after_a_stop_the_response_goes_on_behind_its_cue():
    """The final cue comes once, also where a stop lets another last segment follow."""
    options = tiny.generation(
        temperature=1.0, final_cue=" So:", stop_cue=" Wait,", segment_length=20
    )
    engine = Engine(pool(), Random(3), options)
    stops = 0
    for response in engine.generate([f"query {i}" for i in range(60)]):
        cues = [s.text for s in response.segments if s.speaker == "cue"]
        assert cues.count(" So:") <= 1 and response.segments[-1].speaker != "cue"
        stops += cues.count(" Wait,")
        assert response.finish_reason == "stop" or response.output_tokens == 40
    assert stops > 0


def test_a_segment_may_be_longer_than_the_budget_and_its_cache():
    """Of 256 positions; the tokens are those of one segment of the budget's length."""
    options = tiny.generation(segment_length=300, max_new_tokens=20, ignore_stop=True)
    (response,) = Engine(pool(), Fixed(0), options).generate(["hello"])
    prompt = tiny.byte_tokenizer().encode("hello")
    assert ids_of(response) == tiny.greedy(MODELS[0], prompt, 20)


def test_events_add_up_to_the_responses():
    """Cues included; the response comes with its last segment."""
    options = tiny.generation(final_cue=" So:", ignore_stop=True)
    engine = Engine(pool(), Schedule((0, 1, 2)), options)
    segments: dict[str, list] = {}
    for event in engine.stream([Request(q, q) for q in QUERIES]):
        segments.setdefault(event.request.query, []).append(event.segment)
        if event.response is not None:
            assert event.response.segments == segments.pop(event.request.query)
    assert not segments


def test_partial_in_the_user_turn_is_a_fresh_reply():
    """The public code's way: prompt(query + " " + partial) for each segment."""
    speakers = [
        tiny.speaker(f"m{i}", m, prompt_format="chat") for i, m in enumerate(MODELS[:2])
    ]
    options = tiny.generation(partial_in="user", ignore_stop=True)
    (response,) = Engine(speakers, Schedule((0, 1)), options).generate(["hello"])
    vocabulary = speakers[0].vocabulary
    text = ""
    for turn, segment in enumerate(response.segments):
        query = f"hello {text}" if text else "hello"
        prompt = vocabulary.encode(f"[user] {query}\n[assistant] ")
        # ignore_stop: a drawn <eos> is an ordinary token.
        logits = tiny.next_logits(MODELS[turn % 2], prompt)[: tiny.NUM_TOKENS]
        assert segment.token_ids[0] == int(logits.argmax())
        text += segment.text


def test_sharded_mesh_writes_the_same_tokens():
    """Law 6 on eight devices: weights split over four, greedy in float32."""
    from jax.sharding import Mesh

    from jax_switchgen.models.sharding import param_shardings

    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "tensor"))
    shardings = param_shardings(tiny.CONFIG, mesh)
    sharded = []
    for model in MODELS[:3]:
        arrays = {
            path: jax.device_put(x, shardings[path])
            for path, x in model.arrays().items()
        }
        sharded.append(type(model)(model.config, arrays))
    one = Engine(pool(), Schedule((0, 1, 2)), tiny.generation()).generate(QUERIES)
    with jax.set_mesh(mesh):
        engine = Engine(pool(sharded), Schedule((0, 1, 2)), tiny.generation())
        many = engine.generate(QUERIES)
    assert [ids_of(r) for r in many] == [ids_of(r) for r in one]
