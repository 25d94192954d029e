"""Formulas are equal by what they denote, and no comparison hangs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_switchgen.tasks import latex


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("7", r"\text{7}"),
        ("5", "x = 5"),
        (r"60^\circ", "60"),
        (r"50\%", "50"),
        (r"\frac{1}{2}", "0.5"),
        (r"\dfrac38", "3/8"),
        (r"4\sqrt5", r"\sqrt{80}"),
        ("(x-1)^3(x+1)^3", "(x^2-1)^3"),
        (r"[4,\infty)", r"[4, +\infty)"),
        ("-1, 8", "8,-1"),
        (
            r"\begin{pmatrix} 5 \\ 12 \end{pmatrix}",
            r"\begin{bmatrix}5\\12\end{bmatrix}",
        ),
        (r"6\frac{1}{6}\text{ feet}", "37/6"),
        (r"\mbox{four}", "4"),
        (r"1,\!000,\!000", "1000000"),
        (r"\{1,2\}", "2,1"),
        (r"\text{(C)}", "C"),
        (r"2 \sin b \cos a", r"2\cos a\sin b"),
        (r"2 \sec x", r"\frac{2}{\cos x}"),
        (r"(-\infty, -8) \cup (-8, \infty)", r"(-\infty,-8)\cup(-8,\infty)"),
        (r"1+\sqrt2, 1-\sqrt2", r"1 \pm \sqrt{2}"),
        ("12", "12.0"),
    ],
)
def test_other_spellings_are_equal(gold, answer):
    assert latex.equal(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"[4,\infty)", r"(4,\infty)"),
        ("(4,-1)", "(-1,4)"),
        (r"3-\sqrt3", "1.268"),
        ("x^2", "x"),
        ("even", "neve"),
        (r"\frac13", "0.333"),
        ("100", "101"),  # no tolerance of a per cent
        ("2", ""),
    ],
)
def test_other_values_are_not(gold, answer):
    assert not latex.equal(gold, answer)


@pytest.mark.parametrize(
    "formula",
    [
        *("(" * 390, r"\sqrt" * 75, "x^" * 190, "9!!!!!!", "|" * 390, "{" * 190),
        *("((((9^9)^9)^9)^9)^9", "e^{e^{e^{e^{100}}}}", "1e999999999", "," * 390),
        *(r"\begin{pmatrix}" * 25, "5 " + "abc" * 100, "5" + " ab" * 120 + "!"),
        "9^{9^{9^{9}}}",
    ],
)
def test_hostile_formulas_end(formula):
    assert not latex.equal(formula, "5")
    assert not latex.equal("(5, 6)", formula)
    latex.value(formula)


@settings(max_examples=200)
@given(st.text("x12+-*/^(){}\\frac sqrt,=[]|!.", max_size=60))
def test_any_text_is_compared_without_an_error(text):
    latex.equal(text, "1/2")
    assert latex.equal(text, text) == bool(latex.normalize(text))


@settings(max_examples=100)
@given(st.fractions(max_denominator=999))
def test_fractions_are_exact(number):
    a, b = number.numerator, number.denominator
    assert latex.equal(rf"\frac{{{a}}}{{{b}}}", f"{a}/{b}")
    assert not latex.equal(rf"\frac{{{a}}}{{{b}}}", f"({a * 10**9 + 1})/({b * 10**9})")
