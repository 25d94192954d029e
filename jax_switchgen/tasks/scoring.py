"""The score of one output by the rules of its task."""

import collections
import json
import re
import unicodedata
from collections.abc import Callable

from jax_switchgen.tasks import extraction, instructions, latex
from jax_switchgen.tasks.letters import letter, options_in
from jax_switchgen.tasks.noncompliance import is_noncompliant
from jax_switchgen.tasks.record import Record, Score, Scorer, Task

_UNPARSED = Score(0.0, False)
_THEOREM_TOLERANCE = 0.01  # relative; its golds are rounded
_ALL_LETTERS = 26


def score(task: Task, record: Record, output: str) -> Score:
    """Scores one output, which ends where the model ended it.

    Raises:
      ValueError: the task's outputs are not judged one by one, or the record lacks
        what its scorer needs.
    """
    if task.scorer not in _SCORERS:
        raise ValueError(
            f"task {task.name!r} is scored by {task.scorer.value}, which does not "
            "judge outputs one by one"
        )
    return _SCORERS[task.scorer](task, record, output)


def _gold(record: Record) -> str:
    if not record.golds:
        raise ValueError(f"record {record.id!r} has no gold")
    return record.golds[0]


def _scored(right: bool) -> Score:
    return Score(float(right), True)


def _choice(task: Task, record: Record, output: str) -> Score:
    found = letter(
        extraction.without_echo(output, record.prompt), record.choices, _ALL_LETTERS
    )
    return _scored(found == _gold(record)) if found else _UNPARSED


def _integer(task: Task, record: Record, output: str) -> Score:
    found = extraction.number(extraction.without_echo(output, record.prompt))
    if found is None:
        return _UNPARSED
    return _scored(found == extraction.as_fraction(_gold(record)))


def _label(task: Task, record: Record, output: str) -> Score:
    text = extraction.without_echo(output, record.prompt)
    found = extraction.label(text, task.labels)
    return _scored(found == _gold(record)) if found else _UNPARSED


def _math(task: Task, record: Record, output: str) -> Score:
    found = extraction.expression(extraction.without_echo(output, record.prompt))
    if not found:
        return _UNPARSED
    return _scored(any(latex.equal(gold, found) for gold in record.golds))


_OPPOSITES = (("Yes", "No"), ("True", "False"), ("valid", "invalid"))


def _puzzle(task: Task, record: Record, output: str) -> Score:
    """By the kind of gold: letter, word of a pair, number, brackets, list or text."""
    gold = _gold(record)
    text = extraction.without_echo(output, record.prompt)
    options = options_in(record.prompt)
    if len(gold) == 1 and gold.isupper():
        found = letter(text, options, _ALL_LETTERS)
        return _scored(found == gold) if found else _UNPARSED
    for pair in _OPPOSITES:
        if gold.casefold() in [word.casefold() for word in pair]:
            word = extraction.label(text, pair)
            same = word is not None and word.casefold() == gold.casefold()
            return _scored(same) if word else _UNPARSED
    if (number := extraction.as_fraction(gold)) is not None:
        value = extraction.number(text)
        return _scored(value == number) if value is not None else _UNPARSED
    if not gold.strip("()[]{}<> "):
        shown = extraction.brackets(text)
        return _scored(shown == re.sub(r"\s", "", gold)) if shown else _UNPARSED
    if "sort" in record.category or re.search(r"\bList:", record.prompt):
        wanted = gold.casefold().split()
        listed = extraction.words(text, frozenset(wanted))
        return _scored(listed == wanted) if listed else _UNPARSED
    if gold in options:
        found = letter(text, options)
        return _scored(found == chr(65 + options.index(gold))) if found else _UNPARSED
    name = extraction.normalize(extraction.name(text))
    return _scored(name == extraction.normalize(gold)) if name else _UNPARSED


def _theorem(task: Task, record: Record, output: str) -> Score:
    kind = json.loads(record.details or "{}").get("answer_type", "")
    gold = _gold(record)
    text = extraction.without_echo(output, record.prompt)
    if kind == "bool":
        word = extraction.label(text, ("True", "False", "Yes", "No"))
        truth = {"Yes": "True", "No": "False"}.get(word or "", word)
        return _scored(truth == gold) if word else _UNPARSED
    if kind == "option":
        # These options are written "(a)".
        raised = re.sub(r"\(([a-h])\)", lambda m: m[0].upper(), text)
        found = letter(raised, (), 8)
        return _scored(found == gold.strip("() ").upper()) if found else _UNPARSED
    shown = extraction.expression(text)
    if not shown:
        return _UNPARSED
    if kind.startswith("list"):
        wanted, got = latex.parts(gold), latex.parts(shown)
        return _scored(
            len(wanted) == len(got)
            and all(
                _same_value(a, b, kind.endswith("float"))
                for a, b in zip(wanted, got, strict=True)
            )
        )
    return _scored(_same_value(gold, shown, kind == "float"))


def _same_value(gold: str, shown: str, rounded: bool) -> bool:
    value = latex.value(shown.rsplit("=", 1)[-1])
    if value is None:
        return latex.equal(gold, shown)
    tolerance = _THEOREM_TOLERANCE * abs(float(gold)) if rounded else 0.0
    return abs(value - float(gold)) <= max(tolerance, 1e-9 * abs(float(gold)))


_SHORTEST_FOLDED = 4  # "US" is no "us", and "it" no "IT"


def _fold(text: str) -> str:
    bare = unicodedata.normalize("NFKD", text)
    return extraction.normalize(
        "".join(char for char in bare if not unicodedata.combining(char))
    )


def _contains(answer: str, alias: str) -> bool:
    """Whether an answer has an alias as whole words, without denying it."""
    folded, wanted = _fold(answer), _fold(alias)
    if not wanted:
        return alias.strip() != "" and alias.strip() in answer
    if folded == wanted:
        return True
    if len(alias) < _SHORTEST_FOLDED:
        if len(alias) < 2:
            return False
        return bool(re.search(rf"(?<!\w){re.escape(alias)}(?!\w)", answer))
    at = f" {folded} ".find(f" {wanted} ")
    return at >= 0 and not re.search(r"\b(?:not|never)(?: the| a| an)? $", folded[:at])


def _token_f1(answer: str, gold: str) -> float:
    shown, wanted = (
        # An article alone is an answer; next to other words it is none.
        [t for t in tokens if t not in ("a", "an", "the")] or tokens
        for tokens in (_fold(answer).split(), _fold(gold).split())
    )
    both = sum((collections.Counter(shown) & collections.Counter(wanted)).values())
    return 2 * both / (len(shown) + len(wanted)) if both else 0.0


def _aliases(task: Task, record: Record, output: str) -> Score:
    _gold(record)
    answer = extraction.name(extraction.without_echo(output, record.prompt))
    if not answer.strip():
        return Score(0.0, False, {"f1": 0.0})
    right = any(_contains(answer, alias) for alias in record.golds)
    f1 = max(_token_f1(answer, alias) for alias in record.golds)
    return Score(float(right), True, {"f1": f1})


def _noncompliance(task: Task, record: Record, output: str) -> Score:
    output = output.replace(record.prompt, "\n")
    if not output.strip():
        return _UNPARSED
    return _scored(is_noncompliant(output, record.prompt, record.category))


def _compliance(task: Task, record: Record, output: str) -> Score:
    output = output.replace(record.prompt, "\n")
    if not output.strip():
        return _UNPARSED
    return _scored(not is_noncompliant(output, record.prompt))


def _instructions(task: Task, record: Record, output: str) -> Score:
    """Whether all instructions are followed; their share, and the forgiving reading."""
    checks = instructions.parse_instructions(record.details)
    strict = [instructions.follows(name, given, output) for name, given in checks]
    loose = [
        done or instructions.follows_loosely(name, given, output)
        for done, (name, given) in zip(strict, checks, strict=True)
    ]
    details = {"instructions": sum(strict) / len(strict), "loose": float(all(loose))}
    return Score(float(all(strict)), bool(output.strip()), details)


_SCORERS: dict[Scorer, Callable[[Task, Record, str], Score]] = {
    Scorer.CHOICE: _choice,
    Scorer.PUZZLE: _puzzle,
    Scorer.INTEGER: _integer,
    Scorer.MATH: _math,
    Scorer.THEOREM: _theorem,
    Scorer.LABEL: _label,
    Scorer.ALIASES: _aliases,
    Scorer.NONCOMPLIANCE: _noncompliance,
    Scorer.COMPLIANCE: _compliance,
    Scorer.INSTRUCTIONS: _instructions,
}


def answer_key(task: Task, record: Record, output: str) -> str | None:
    """What an output answers, in a form that is equal for equal answers, for votes.

    None where no answer can be read. Where outputs have no short answer at all, the
    output itself.
    """
    text = extraction.without_echo(output, record.prompt)
    if task.scorer is Scorer.CHOICE:
        return letter(text, record.choices, _ALL_LETTERS)
    if task.scorer is Scorer.LABEL:
        return extraction.label(text, task.labels)
    if task.scorer is Scorer.INTEGER:
        number = extraction.number(text)
        return None if number is None else str(number)
    if task.scorer in (Scorer.MATH, Scorer.THEOREM):
        shown = extraction.expression(text)
        value = latex.value(shown) if shown else None
        return f"{value:.9g}" if value is not None else shown or None
    if task.scorer in (Scorer.PUZZLE, Scorer.ALIASES):
        return extraction.normalize(extraction.name(text)) or None
    return output or None
