"""Every kind of checkable instruction accepts and rejects."""

import json

import pytest

from jax_switchgen.tasks.catalogue import TASKS
from jax_switchgen.tasks.instructions import count_sentences, follows
from jax_switchgen.tasks.record import Record
from jax_switchgen.tasks.scoring import score

least = {"relation": "at least"}
CASES = [
    ("punctuation:no_comma", {}, "one two", "one, two"),
    *[
        (f"length_constraints:number_{what}", {**least, f"num_{what}": 2}, yes, no)
        for what, yes, no in [
            ("sentences", "Hi Dr. Li. Bye!", "Hi Dr. Li"),
            ("words", "two words", "one"),
        ]
    ],
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "elm"},
        "oak\n\nElm, tall",
        "elm\n\noak",
    ),
    ("keywords:existence", {"keywords": ["sea", "sky"]}, "Sea and sky", "sea"),
    ("keywords:forbidden_words", {"forbidden_words": ["kill"]}, "skill", "Kill it"),
    ("keywords:frequency", {**least, "keyword": "a b", "frequency": 1}, "a b", "ab"),
    (
        "keywords:letter_frequency",
        {"let_relation": "less than", "letter": "q", "let_frequency": 2},
        "Queen",
        "Qq",
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 1},
        "*a*",
        "a",
    ),
    ("detectable_format:title", {}, "<<Title>>\ntext", "Title"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a"),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\na\nSECTION 2\nb",
        "SECTION 1",
    ),
    ("detectable_format:constrained_response", {}, "My answer is no.", "no"),
    ("detectable_content:number_placeholders", {"num_placeholders": 1}, "[a]", "a"),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        "P.P.S hi",
        "P.S",
    ),
    ("startend:quotation", {}, '"quoted"', "quoted"),
    ("startend:end_checker", {"end_phrase": "The end."}, "So. THE END.", "The end. So"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi"}, "say hi\nhi", "hi"),
    ("combination:two_responses", {}, "a******b", "a******a"),
    ("change_case:english_lowercase", {}, "small", "Small"),
    ("change_case:english_capital", {}, "LOUD", "Loud"),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 2},
        "NO WAY",
        "NO way",
    ),
]


@pytest.mark.parametrize(
    ("name", "given", "yes", "no"), CASES, ids=[c[0] for c in CASES]
)
def test_instruction(name, given, yes, no):
    assert follows(name, {**given, "unused": None}, yes)
    assert not follows(name, given, no)
    assert not follows(name, given, " ")


def test_unknown_instructions_and_arguments_are_told():
    with pytest.raises(ValueError, match="unknown"):
        follows("keywords:rhyme", {}, "text")
    with pytest.raises(ValueError, match="keywords:existence"):
        follows("keywords:existence", {"words": []}, "text")


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("One", 1), ("One. Two? Mr. X!", 3), ("a\n\nb", 2)]
)
def test_sentences_are_counted(text, count):
    assert count_sentences(text) == count


def test_the_score_is_all_of_them_and_the_share_is_a_detail():
    details = {
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
        "kwargs": [{}, {}],
    }
    item = Record("1", "Write.", details=json.dumps(details))
    found = score(TASKS["ifeval"], item, 'Here it is:\n"no comma"')
    assert found.value == 0.0 and found.parsed
    assert found.details == {"instructions": 0.5, "loose": 1.0}


def test_every_real_instruction_has_a_check(records):
    for item in records("ifeval"):
        score(TASKS["ifeval"], item, "text")
