"""Text never changes hands inside a character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_switchgen.generation.draft import Draft
from jax_switchgen.generation.engine import Engine
from jax_switchgen.generation.text import Vocabulary
from jax_switchgen.generation.trace import Request
from jax_switchgen.policies.simple import Schedule
from tests import tiny

BYTES = Vocabulary(tiny.byte_tokenizer())
# Another tokenizer: common pairs are one token, so ids cannot change hands.
PAIRS = Vocabulary(tiny.byte_tokenizer((("t", "h"), ("i", "n"), ("Ġ", "a"))))


@given(st.text(max_size=12), st.integers(0, 60))
def test_whole_characters_only(text, cut):
    ids = BYTES.encode(text)[:cut]
    whole = BYTES.whole_length(ids)
    decoded = BYTES.decode(ids[:whole])
    if "\ufffd" not in text:
        assert text.startswith(decoded)
        assert len(decoded) == len(text.encode()[:cut].decode(errors="ignore"))


@given(st.text(max_size=20), st.lists(st.integers(1, 4), min_size=1, max_size=40))
def test_pieces_of_text_add_up(text, sizes):
    """However a text is cut into segments, their texts join to it."""
    if "\ufffd" in text:
        return
    ids, pieces, at = BYTES.encode(text), [], 0
    for size in [*sizes, len(ids)]:
        pieces.append(BYTES.text_after(ids[:at], ids[at : at + size]))
        at += size
    assert "".join(pieces) == text


def test_fingerprints_tell_tokenizers_apart():
    assert BYTES.fingerprint != PAIRS.fingerprint
    assert BYTES.fingerprint == Vocabulary(tiny.byte_tokenizer()).fingerprint
    more = tiny.byte_tokenizer()
    more.add_special_tokens({"pad_token": "<pad>"})
    assert Vocabulary(more).fingerprint == BYTES.fingerprint


def test_an_unfinished_character_is_not_handed_over():
    draft = Draft(Request("q"), 0, max_new_tokens=20, segment_length=5, seed=0)
    draft.ids_in(BYTES)
    draft.append(["a"], 0, BYTES.encode("ab🌧")[:4])  # two of the emoji's four bytes
    assert draft.text == "ab"
    assert draft.ids_in(PAIRS) == PAIRS.encode("ab")
    assert draft.segments[0].token_ids == BYTES.encode("ab")
    assert draft.written == 4  # the budget is spent all the same


def test_an_unfinished_character_goes_on_in_one_tokenizer():
    draft = Draft(Request("q"), 0, max_new_tokens=20, segment_length=5, seed=0)
    ids = BYTES.encode("ab🌧!")
    for part in (ids[:4], ids[4:]):
        draft.ids_in(BYTES)
        draft.append(["a"], 0, part)
    assert [s.text for s in draft.segments] == ["ab", "🌧!"]
    assert draft.respond("length").output == "ab🌧!"


@pytest.mark.parametrize("segment_length", [1, 6])
def test_two_tokenizers_take_turns_like_the_naive_loop(segment_length):
    """Text hand-over, greedy: prompt + encode(text so far) read anew each time."""
    models = [tiny.random_model(0), tiny.random_model(1)]
    vocabularies = [BYTES, PAIRS]
    speakers = [
        tiny.speaker(f"m{i}", m, vocabulary=v, stop_ids=())
        for i, (m, v) in enumerate(zip(models, vocabularies, strict=True))
    ]
    options = tiny.generation(segment_length=segment_length, max_new_tokens=36)
    for query in ("hello", "the thin 🌧 thing"):
        (response,) = Engine(speakers, Schedule((0, 1)), options).generate([query])
        text, written, turn, outputs = "", 0, 0, []
        while written < 36:
            v = vocabularies[turn % 2]
            ids = v.encode(query) + v.encode(text)
            new: list[int] = []
            for _ in range(segment_length):
                logits_V = tiny.next_logits(models[turn % 2], ids + new)[: len(v)]
                new.append(int(logits_V.argmax()))
            prefix = v.encode(text)
            text += v.text_after(prefix, new)
            written += len(new)
            outputs.append(text)
            turn += 1
        assert response.output.startswith(text)
        assert "".join(s.text for s in response.segments) == text
