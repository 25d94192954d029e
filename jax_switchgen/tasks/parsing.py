"""From an item, as the public data and users' own files spell it, to a record.

    choice                    {"id", "question", "choices": {"A": text, …}, "answer"}
    judged without a gold     {"id", "input"}
    all others                {"id", "input", "output"}

`output` may be a list of accepted answers, also as JSON text, for aliases.
"""

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jax_switchgen.tasks.record import Record, Scorer, Task

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CHOOSE = (
    "Please select the correct answer by choosing the letter corresponding to your "
    "choice."
)
_BOX = "Please provide the final, direct answer wrapped exactly as \\box{ANSWER}"
_NO_GOLD = (
    *(Scorer.REWARD, Scorer.DIVERSITY, Scorer.NONCOMPLIANCE, Scorer.COMPLIANCE),
    Scorer.INSTRUCTIONS,
)


def parse_item(task: Task, item: Mapping[str, Any], default_id: str) -> Record:
    """The record of one item.

    Raises:
      ValueError: a field is missing or of another type, or the gold is no option; one
        line that names the field.
    """
    id_ = str(item.get("id", default_id))
    category = str(item.get("category") or item.get("domain") or "")
    if task.scorer is Scorer.CHOICE:
        return _choice(task, item, id_, category)
    prompt = _text(item, "input")
    if task.scorer in _NO_GOLD:
        keys = ("instruction_id_list", "kwargs", "reference")
        details = {key: item[key] for key in keys if key in item}
        if task.scorer is Scorer.INSTRUCTIONS and "instruction_id_list" not in item:
            raise ValueError("field 'instruction_id_list' is missing")
        return Record(id_, prompt, category=category, details=json.dumps(details or {}))
    if item.get("output") is None:
        raise ValueError("field 'output' (the gold) is missing")
    golds = _golds(task, item["output"])
    details = {"answer_type": item["answer_type"]} if "answer_type" in item else {}
    return Record(
        id_,
        f"{prompt}\n\n{_BOX}",
        golds,
        category=category,
        details=json.dumps(details),
    )


def parse_items(
    task: Task, items: Iterable[Mapping[str, Any]]
) -> tuple[list[Record], list[str]]:
    """The records of all readable items, and one line for each other."""
    records: dict[str, Record] = {}
    problems = []
    for number, item in enumerate(items, start=1):
        try:
            record = parse_item(task, item, default_id=str(number))
            if record.id in records:
                raise ValueError(f"id {record.id!r} occurs before")
        except ValueError as error:
            problems.append(f"{task.name}: item {number}: {error}; left out")
        else:
            records[record.id] = record
    return list(records.values()), problems


def question_of(item: Mapping[str, Any]) -> str:
    """What makes two items the same question, whatever their options."""
    return " ".join(str(item.get("question") or item.get("input")).split())


def choice_prompt(question: str, choices: Sequence[str]) -> str:
    """The user message of a multiple-choice question."""
    options = [f"{x}) {text}" for x, text in zip(LETTERS, choices, strict=False)]
    return "\n".join([question, *options, _CHOOSE])


def _choice(task: Task, item: Mapping[str, Any], id_: str, category: str) -> Record:
    question = _text(item, "question")
    choices = item.get("choices")
    if not isinstance(choices, Mapping) or not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(
            f"field 'choices' must map 2 to {len(LETTERS)} keys to texts, is "
            f"{choices!r}"
        )
    keys = sorted(choices)
    gold = str(item.get("answer"))
    if gold not in keys:
        raise ValueError(f"gold {gold!r} is none of the options {', '.join(keys)}")
    if task.name == "blend":
        # The question repeats its options and asks in another way than ours.
        question = question.partition(" Without any explanation")[0]
    if task.name == "kaleidoscope":
        # Half of the golds are "A": the place must tell nothing.
        category = category or str(choices[gold])
        random.Random(id_).shuffle(keys)
    texts = tuple(str(choices[key]) for key in keys)
    letter = LETTERS[keys.index(gold)]
    return Record(id_, choice_prompt(question, texts), (letter,), texts, category)


def _golds(task: Task, output: Any) -> tuple[str, ...]:
    if task.scorer is Scorer.ALIASES and isinstance(output, str):
        if re.match(r"\s*\[", output):
            try:
                output = json.loads(output)
            except json.JSONDecodeError:
                pass  # a name that begins with a bracket
    golds = tuple(map(str, output)) if isinstance(output, list) else (str(output),)
    if not golds or not all(gold.strip() for gold in golds):
        raise ValueError(f"field 'output' has an empty gold: {output!r}")
    if task.labels and golds[0] not in task.labels:
        raise ValueError(f"gold {golds[0]!r} is none of {', '.join(task.labels)}")
    return golds


def _text(item: Mapping[str, Any], field: str) -> str:
    value = item.get(field)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"field {field!r} is missing or no text")
    return value
