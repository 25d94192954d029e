"""Where an answer is found: the last cue wins, and only answers count."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_switchgen.tasks import extraction
from jax_switchgen.tasks.letters import letter, options_in

CHOICES = ("red paint", "blue paint", "green paint", "yellow paint")
# Any prose, with cues, letters and numbers of its own, but no boxes of formulas.
prose = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters="\\"), max_size=30),
        st.sampled_from(
            [
                "The answer is (A).",
                "not",
                "(B)",
                "Option C is right",
                "so",
                "7 + 5 = 12",
            ]
        ),
    ),
    max_size=8,
).map(" ".join)
marks = st.sampled_from(["**", "*", "__", "_", "`", "***"])
cases = settings(max_examples=150)


@cases
@given(before=prose, gold=st.sampled_from("ABCD"))
def test_text_before_the_final_cue_does_not_change_the_letter(before, gold):
    assert letter(f"{before}\nThe answer is ({gold}).", CHOICES) == gold


@cases
@given(before=prose, gold=st.integers(-(10**6), 10**6))
def test_text_before_the_final_cue_does_not_change_the_number(before, gold):
    assert extraction.number(f"{before}\nThe answer is {gold:,}.") == gold


@cases
@given(before=prose, gold=st.sampled_from(["yes", "no", "maybe"]))
def test_text_before_the_final_cue_does_not_change_the_label(before, gold):
    output = f"{before}\nFinal answer: {gold}"
    assert extraction.label(output, ("yes", "no", "maybe")) == gold


@cases
@given(before=prose, gold=st.text("abcdefgh", min_size=1, max_size=12))
def test_text_before_the_box_does_not_change_formula_or_name(before, gold):
    output = f"{before}\n\\boxed{{{gold}}}"
    assert extraction.expression(output) == extraction.name(output) == gold


@cases
@given(mark=marks, gold=st.sampled_from("ABCD"), whole=st.booleans())
def test_emphasis_never_matters(mark, gold, whole):
    for plain in ("The answer is {}", "Answer: {}", "({})", "Option {} is right", "{}"):
        marked = (
            f"{mark}{plain.format(gold)}{mark}"
            if whole
            else plain.format(f"{mark}{gold}{mark}")
        )
        assert letter(marked, CHOICES) == gold, marked
        assert extraction.number(f"Answer: {mark}12{mark}") == 12


odd_texts = st.one_of(
    st.text(max_size=300),
    st.text("ABab?.!*_`$\\{}()[] \n1,-=/", max_size=300),
    st.tuples(st.text("?. A1*{$", min_size=1, max_size=3), st.integers(1, 200)).map(
        lambda pair: pair[0] * pair[1]
    ),
)


@cases
@given(text=odd_texts)
def test_no_text_makes_an_extractor_fail(text):
    letter(text, CHOICES)
    extraction.number(text)
    extraction.label(text, ("yes", "no"))
    extraction.brackets(text)
    extraction.name(text)
    extraction.expression(text)


@pytest.mark.parametrize(
    ("output", "gold"),
    [
        # Prose capitals are no letters.
        ("The answer is a bit hidden; on reflection it must be (C).", "C"),
        ("A good guess would be paint. The answer is B.", "B"),
        ("**C**", "C"),
        ("Answer: **B**", "B"),
        (r"\boxed{D}", "D"),
        (r"$\boxed{\text{D}}$", "D"),
        ("The correct option is B", "B"),
        ("Option D is right", "D"),
        # The conclusion, not the first of the options discussed.
        ("A. red is wrong. B. blue is wrong too. The right choice is D", "D"),
        ("It is not (A).", None),
        ("It is not (A) but (C).", "C"),
        ("I don't think the answer is B.", None),
        ("c", "C"),
        ("Answer: c", "C"),
        ("The answer is either A or B.", None),
        ("C\n\nA is too bright and B is too dark.", "C"),
        ("B) blue paint\n\nA) is too bright.", "B"),
        # A copied list of options is no answer.
        ("A) red paint\nB) blue paint\nC) green paint", None),
        ("Therefore, (B).", "B"),
        ("Answer: blue paint", "B"),
        ("It should be green paint.", "C"),
        ("(E)", None),
        ("", None),
        ("I think that paint dries slowly.", None),
    ],
)
def test_the_option_that_is_meant(output, gold):
    assert letter(output, CHOICES) == gold


@pytest.mark.parametrize(
    ("output", "gold"),
    [
        ("150 pennies", 150),
        ("First 3, then 50.\n#### 150", 150),
        ("The answer is 3 * 50 = 150.", 150),
        ("So he pays $1,600.00 for 2 bikes. Final answer: $1,600.00", 1600),
        ("The answer is 5 apples for 2 people.", 5),
        ("5-3", 3),
        ("The answer is -3.", -3),
        (r"\boxed{1,\!000}", 1000),
        ("The answer is 3/4", Fraction(3, 4)),
        ("none", None),
    ],
)
def test_the_number_that_is_meant(output, gold):
    assert extraction.number(output) == gold


@pytest.mark.parametrize(
    ("output", "gold"),
    [
        ("Yes, because it grows.", "yes"),
        ("There is no reason why it would grow.", None),
        ("No one knows. Maybe people differ in this", None),
        ("**Answer:** 'maybe'", "maybe"),
        ("It grew.\n\nno", "no"),
        ("The answer is not yes.", None),
    ],
)
def test_a_label_is_no_ordinary_word(output, gold):
    assert extraction.label(output, ("yes", "no", "maybe")) == gold


@pytest.mark.parametrize("gold", ["> } ]", "} }", ")", "] ) } >"])
@pytest.mark.parametrize(
    "form", ["{}", r"\box{{{}}}", "The answer is {}", "**{}**", "So it is:\n\n{}"]
)
def test_brackets_survive_their_box(gold, form):
    assert extraction.brackets(form.format(gold)) == gold.replace(" ", "")


def test_a_sorted_list_is_the_last_run_of_its_words():
    vocabulary = frozenset({"pear", "fig", "apple"})
    output = "The words are pear, fig, apple. Sorted:\n1. apple\n2. fig\n3. pear\nDone."
    assert extraction.words(output, vocabulary) == ["apple", "fig", "pear"]


def test_options_are_read_from_a_prompt():
    assert options_in("Which?\nOptions:\n(A) one\n(B) two") == ("one", "two")
