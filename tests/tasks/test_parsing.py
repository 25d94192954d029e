"""Items become records; what cannot be read is one line, and the rest goes on."""

import json

import pytest

from jax_switchgen.tasks.catalogue import TASKS, find_task
from jax_switchgen.tasks.datasets import clean, load_jsonl
from jax_switchgen.tasks.parsing import parse_item, parse_items
from jax_switchgen.tasks.record import Scorer

ARC, GSM8K, POPQA = find_task("arc_challenge"), find_task("gsm8k"), find_task("popqa")
QUESTION = {
    "id": 7,
    "question": "Which is red?",
    "choices": {"1": "grass", "2": "blood", "3": "milk"},
    "answer": "2",
}


def test_option_keys_become_letters():
    record = parse_item(ARC, QUESTION, "0")
    assert record.golds == ("B",)
    assert record.choices == ("grass", "blood", "milk")
    lines = record.prompt.splitlines()
    assert lines[:4] == ["Which is red?", "A) grass", "B) blood", "C) milk"]


def test_aliases_are_json_and_names_may_begin_with_a_bracket():
    item = {"id": 1, "input": "Who?", "output": '["Smith, John", "J. Smith"]'}
    assert parse_item(POPQA, item, "0").golds == ("Smith, John", "J. Smith")
    item["output"] = "[REC]"
    assert parse_item(POPQA, item, "0").golds == ("[REC]",)


def test_permuted_options_keep_their_gold():
    task = find_task("kaleidoscope")
    places = set()
    for number in range(40):
        choices = {"A": "Support", "B": "Oppose", "C": "Either"}
        item = {"id": number, "question": "?", "choices": choices, "answer": "A"}
        record = parse_item(task, item, "0")
        assert record == parse_item(task, item, "0")
        assert record.choices["ABC".index(record.golds[0])] == "Support"
        assert record.category == "Support"
        places.add(record.golds[0])
    assert places == {"A", "B", "C"}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"question": None}, "'question'"),
        ({"choices": None}, "'choices'"),
        ({"choices": {"A": "x"}}, "'choices'"),
        ({"answer": "9"}, "'9' is none of the options 1, 2, 3"),
        ({"answer": None}, "'None' is none of the options"),
    ],
)
def test_each_unreadable_item_is_one_line(change, words):
    records, problems = parse_items(ARC, [QUESTION, {**QUESTION, "id": 8, **change}])
    assert [record.id for record in records] == ["7"]
    (line,) = problems
    assert words in line and "item 2" in line and "\n" not in line


def test_users_file(tmp_path):
    """A missing field, a duplicate id, a gold that is no option, a broken line: one
    line each, and the rest is there."""
    path = tmp_path / "mine.jsonl"
    lines = [
        json.dumps(QUESTION),
        json.dumps({"id": 8, "choices": QUESTION["choices"], "answer": "1"}),
        "",
        json.dumps(QUESTION),
        json.dumps({**QUESTION, "id": 9, "answer": "D"}),
        '{"id": 10,',
        "[1]",
        json.dumps({**QUESTION, "id": "é", "question": "Qué? 🌧️"}),
    ]
    path.write_text("\n".join(lines))
    records, problems = load_jsonl(path, ARC)
    assert [record.id for record in records] == ["7", "é"]
    starts = [f"{path}: line {n}: " for n in (2, 4, 5, 6, 7)]
    assert len(problems) == 5
    assert all(p.startswith(s) for p, s in zip(problems, starts, strict=True))
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="no line can be read; the first: .*line 1: "):
        load_jsonl(path, ARC)


def test_dev_loses_what_test_has_and_items_without_gold_go():
    def item(number, output="1"):
        return {"id": number, "input": f"question  {number}", "output": output}

    items = {"dev": [item(1), item(2), item(3, None)], "test": [item(2), item(2)]}
    records, notes = clean(GSM8K, items)
    assert [r.id for r in records["dev"]] == ["1"]
    assert [r.id for r in records["test"]] == ["2", "2-2"]
    assert len(notes) == 2 and "occur in test" in notes[0]


def test_the_catalogue_has_what_was_promised():
    assert len(TASKS) == 24
    assert all(task.licence for task in TASKS.values())
    assert all(
        (task.scorer is Scorer.LABEL) == bool(task.labels) for task in TASKS.values()
    )
    with pytest.raises(ValueError, match="'gsm9k' is unknown"):
        find_task("gsm9k")
