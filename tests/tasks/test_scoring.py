"""Laws of scoring: gold in any form scores, and saying nothing never does."""

import collections
import json

import pytest

from jax_switchgen.tasks.catalogue import TASKS
from jax_switchgen.tasks.record import Record, Scorer, Task
from jax_switchgen.tasks.scoring import score

ESSAY = """The history of gardens is long. In 1620 monks planted 48 trees near a river,
and by 1750 the park had 12 fountains. No one can say whether the background of the
painting was valid, and the committee uses it still. Yes, many love roses; maybe they
like the scent. (A) path may wind between (B) beds.

False modesty is no virtue. The walls cost $3,500. The result is a place of calm, and
the solution was a simple fence. Thus the story of gardens continues."""
EMPTY = ("", "I don't know.", ESSAY)

LETTER_FORMS = (
    *("{}", "({})", "**{}**", "Answer: {}", "Answer: **{}**", "The answer is {}."),
    *(r"\boxed{{{}}}", r"$\boxed{{\text{{{}}}}}$", "The correct option is {}"),
    *("Option {} is right.", "I think it's ({}).", "{}\n\nNothing else fits."),
    "First, (A) is wrong.\n\nTherefore, the correct answer is ({}).",
    "**Final Answer:** {}",
)
FORMS = (
    *("{}", r"\box{{{}}}", r"\boxed{{{}}}", "**{}**", "The answer is {}."),
    *("Answer: {}", "**Answer:** {}", "**Final Answer: {}**", "The answer is:\n\n{}"),
    "I add 3 + 4 = 7, so 7.\n\nThe final answer is \\box{{{}}}.",
    "Step 1. We look.\nStep 2. We see.\nSo the answer is \\boxed{{{}}}",
)


def make(scorer: Scorer, labels: tuple[str, ...] = ()) -> Task:
    return Task("made_up", scorer, 0, 1, "none", labels)


def record(prompt, *golds, choices=(), category="", **details):
    return Record("1", prompt, golds, choices, category, json.dumps(details))


COLOURS = ("Background", "Uses", "Extends")
MADE_UP = [
    (make(Scorer.CHOICE), record("Which colour?", "B", choices=("red", "blue"))),
    (make(Scorer.PUZZLE), record("Pick one:\n(A) red\n(B) blue", "A")),
    (make(Scorer.PUZZLE), record("Is it plausible?", "no")),
    (make(Scorer.PUZZLE), record("not True is", "False")),
    (make(Scorer.PUZZLE), record("Deductively valid or invalid?", "valid")),
    (make(Scorer.PUZZLE), record("((3 - 40)) =", "-37")),
    (make(Scorer.PUZZLE), record("Close: { [ <", "> ] }")),
    (make(Scorer.PUZZLE), record("Sort. List: fig apple", "apple fig")),
    (make(Scorer.INTEGER), record("How many pennies?", "1,600")),
    (make(Scorer.MATH), record("Find x.", r"\frac{3}{4}")),
    (make(Scorer.MATH), record("Parity?", r"\text{even}")),
    (make(Scorer.THEOREM), record("Does it?", "True", answer_type="bool")),
    (make(Scorer.THEOREM), record("How much?", "3.54e-07", answer_type="float")),
    (
        make(Scorer.THEOREM),
        record("Which?", "[1, 2, 4]", answer_type="list of integer"),
    ),
    (make(Scorer.THEOREM), record("(a) x (b) y", "(b)", answer_type="option")),
    (make(Scorer.LABEL, COLOURS), record("Intent?", "Uses")),
    (make(Scorer.ALIASES), record("Capital?", "Var", "Port-la-Montagne", "U.S.")),
]
made_up = pytest.mark.parametrize(
    ("task", "item"),
    MADE_UP,
    ids=[f"{t.scorer.value}-{r.golds[0]}" for t, r in MADE_UP],
)


@made_up
def test_gold_in_all_its_forms_scores_one(task, item):
    forms = LETTER_FORMS if task.scorer is Scorer.CHOICE else FORMS
    for form in forms:
        for gold in item.golds:
            assert score(task, item, form.format(gold)).value == 1.0, form.format(gold)


@made_up
@pytest.mark.parametrize("output", EMPTY, ids=["empty", "ignorant", "essay"])
def test_saying_nothing_scores_nothing(task, item, output):
    found = score(task, item, output)
    assert found.value == 0.0
    assert not (found.parsed and not output)


@made_up
def test_an_echo_of_the_prompt_is_no_answer(task, item):
    assert score(task, item, item.prompt).value == 0.0


@pytest.mark.parametrize("scorer", [Scorer.REWARD, Scorer.DIVERSITY])
def test_outputs_that_are_not_judged_alone_are_refused(scorer):
    with pytest.raises(ValueError, match="one by one"):
        score(make(scorer), record("Write.", "x"), "text")


@pytest.mark.parametrize(
    ("kind", "gold", "output", "value"),
    [
        ("float", "3.0", "The answer is 3.02", 1.0),
        ("float", "3.0", "The answer is 3.1", 0.0),
        ("integer", "300", "The answer is 301", 0.0),
        ("list of float", "[0.5, 0.66667]", r"\boxed{[0.5, \frac{2}{3}]}", 1.0),
        ("bool", "False", "No, it does not.", 1.0),
    ],
)
def test_only_floats_of_theorems_have_a_tolerance(kind, gold, output, value):
    item = record("Find it.", gold, answer_type=kind)
    assert score(make(Scorer.THEOREM), item, output).value == value


@pytest.mark.parametrize(
    ("output", "value"),
    [
        ("It is Paris, the City of Light.", 1.0),
        ("Paris", 1.0),
        ("Parisian", 0.0),
        ("It is not Paris.", 0.0),
        ("Let us see: give us time.", 0.0),
        ("The answer is the US.", 1.0),
        ("city of light", 1.0),
    ],
)
def test_an_alias_is_found_as_whole_words(output, value):
    item = record("Where?", "Paris", "City of Light", "US")
    assert score(make(Scorer.ALIASES), item, output).value == value


def test_brevity_is_a_metric_of_its_own():
    item = record("Where?", "Paris")
    short, long = (
        score(make(Scorer.ALIASES), item, text)
        for text in ("Paris", "The answer is the lovely town of Paris")
    )
    assert short.value == long.value == 1.0
    assert short.details["f1"] == 1.0 > long.details["f1"] > 0


REAL = [
    name
    for name, task in TASKS.items()
    if task.scorer not in (Scorer.REWARD, Scorer.DIVERSITY)
]
CHOICE_TASKS = [name for name in REAL if TASKS[name].scorer is Scorer.CHOICE]
GOLD_TASKS = [
    name
    for name in REAL
    if TASKS[name].scorer
    not in (Scorer.NONCOMPLIANCE, Scorer.COMPLIANCE, Scorer.INSTRUCTIONS)
]


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


@pytest.mark.parametrize("name", GOLD_TASKS)
def test_constant_outputs_on_real_records(records, name):
    items, task = records(name), TASKS[name]
    for output in EMPTY:
        assert mean(score(task, item, output).value for item in items) <= 0.02
    assert mean(score(task, item, item.prompt).value for item in items) <= 0.1
    cut = mean(score(task, item, f"Q: {item.prompt[:-3]}").value for item in items)
    assert cut <= 0.1


@pytest.mark.parametrize("name", GOLD_TASKS)
def test_gold_scores_one_on_real_records(records, name):
    task = TASKS[name]
    forms = LETTER_FORMS if task.scorer is Scorer.CHOICE else FORMS
    lost = [
        (item.golds[0], form)
        for item in records(name)
        for form in forms
        # Some names were published with line breaks inside.
        if score(task, item, form.format(" ".join(item.golds[0].split()))).value < 1
    ]
    assert not lost


@pytest.mark.parametrize("name", CHOICE_TASKS)
def test_always_a_is_the_share_of_gold_a(records, name):
    items = records(name)
    golds = collections.Counter(item.golds for item in items)
    right = sum(score(TASKS[name], item, "A").value for item in items)
    assert right == golds["A",]
