"""IFEval: whether an answer follows instructions that a program can check.

One function per kind of instruction, with the arguments that the data gives it. Words
are runs of word characters and sentences are split by a rule, not by a trained model.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Check = Callable[..., bool]
_CHECKS: dict[str, Check] = {}


def _check(name: str) -> Callable[[Check], Check]:
    def register(function: Check) -> Check:
        _CHECKS[name] = function
        return function

    return register


def follows(name: str, arguments: Mapping[str, Any], output: str) -> bool:
    """Whether an output follows one instruction.

    Raises:
      ValueError: no check of that name exists, or its arguments do not fit.
    """
    if name not in _CHECKS:
        raise ValueError(
            f"instruction {name!r} is unknown; there are {sorted(_CHECKS)}"
        )
    given = {key: value for key, value in arguments.items() if value is not None}
    if not output.strip():
        return False
    try:
        return bool(_CHECKS[name](output, **given))
    except TypeError as error:
        raise ValueError(f"instruction {name!r}: {error}") from error


def follows_loosely(name: str, arguments: Mapping[str, Any], output: str) -> bool:
    """As `follows`, forgiving a first or last line around the answer, and asterisks."""
    lines = output.split("\n")
    cut = [lines, lines[1:], lines[:-1], lines[1:-1]]
    variants = ["\n".join(kept).strip() for kept in cut]
    variants += [variant.replace("*", "") for variant in variants]
    return any(follows(name, arguments, variant) for variant in variants)


def parse_instructions(details: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments from a record's details.

    Raises:
      ValueError: the two lists are missing or of different lengths.
    """
    given = json.loads(details)
    try:
        names, arguments = given["instruction_id_list"], given["kwargs"]
        return list(zip(names, arguments, strict=True))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"details need instruction_id_list and kwargs, got {details[:80]!r}"
        ) from error


def _compare(count: int, relation: str, bound: int) -> bool:
    if relation not in ("at least", "less than"):
        raise ValueError(f"relation {relation!r} is neither 'at least' nor 'less than'")
    return count >= bound if relation == "at least" else count < bound


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


_ABBREVIATION = re.compile(
    r"\b(?:mr|mrs|ms|dr|prof|st|jr|sr|vs|etc|e\.g|i\.e|inc|ltd|co|no|approx|[a-z])\.$",
    re.I,
)


def count_sentences(text: str) -> int:
    """Sentences end in `.`, `!` or `?` before space; abbreviations do not end one."""
    count, pending = 0, ""
    for piece in re.split(r"(?<=[.!?])[\"')\]*]*(?:\s+|$)|\n\s*\n", text):
        pending = f"{pending} {piece or ''}".strip()
        if pending and not _ABBREVIATION.search(pending):
            count += bool(re.search(r"\w", pending))
            pending = ""
    return count + bool(re.search(r"\w", pending))


def _occurrences(word: str, text: str) -> int:
    return len(re.findall(re.escape(word), text, re.I))


@_check("punctuation:no_comma")
def _no_comma(output: str) -> bool:
    return "," not in output


@_check("length_constraints:number_sentences")
def _number_sentences(output: str, relation: str, num_sentences: int) -> bool:
    return _compare(count_sentences(output), relation, num_sentences)


@_check("length_constraints:number_words")
def _number_words(output: str, relation: str, num_words: int) -> bool:
    return _compare(len(_words(output)), relation, num_words)


@_check("length_constraints:number_paragraphs")
def _number_paragraphs(output: str, num_paragraphs: int) -> bool:
    """Paragraphs are divided by `***`; none but the outermost may be empty."""
    paragraphs = [part.strip() for part in re.split(r"\s?\*\*\*\s?", output)]
    if not all(paragraphs[1:-1]):
        return False
    return sum(map(bool, paragraphs)) == num_paragraphs


@_check("length_constraints:nth_paragraph_first_word")
def _nth_paragraph(
    output: str, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    paragraphs = [part for part in re.split(r"\n\n", output) if part.strip()]
    if len(paragraphs) != num_paragraphs or nth_paragraph > len(paragraphs):
        return False
    word = paragraphs[nth_paragraph - 1].split()[0].lstrip("'\"")
    return re.split(r"[.,?!'\"]", word)[0].casefold() == first_word.casefold()


@_check("keywords:existence")
def _existence(output: str, keywords: Sequence[str]) -> bool:
    return all(_occurrences(word, output) for word in keywords)


@_check("keywords:forbidden_words")
def _forbidden(output: str, forbidden_words: Sequence[str]) -> bool:
    return not any(
        re.search(rf"\b{re.escape(word)}\b", output, re.I) for word in forbidden_words
    )


@_check("keywords:frequency")
def _frequency(output: str, relation: str, keyword: str, frequency: int) -> bool:
    return _compare(_occurrences(keyword, output), relation, frequency)


@_check("keywords:letter_frequency")
def _letter_frequency(
    output: str, let_relation: str, letter: str, let_frequency: int
) -> bool:
    return _compare(
        output.casefold().count(letter.casefold()), let_relation, let_frequency
    )


@_check("detectable_format:number_highlighted_sections")
def _highlights(output: str, num_highlights: int) -> bool:
    found = re.findall(r"\*[^\n*]*\*", output) + re.findall(r"\*\*[^\n*]*\*\*", output)
    return sum(bool(part.strip("* ")) for part in found) >= num_highlights


@_check("detectable_format:title")
def _title(output: str) -> bool:
    return any(title.strip("<> ") for title in re.findall(r"<<[^\n]{1,300}?>>", output))


@_check("detectable_format:number_bullet_lists")
def _bullets(output: str, num_bullets: int) -> bool:
    bullets = re.findall(r"^\s*(?:\*[^*]|-)", output, re.M)
    return len(bullets) == num_bullets


@_check("detectable_format:json_format")
def _json(output: str) -> bool:
    text = re.sub(r"^\s*```(?:json)?|```\s*$", "", output, flags=re.I).strip()
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


@_check("detectable_format:multiple_sections")
def _sections(output: str, section_spliter: str, num_sections: int) -> bool:
    marks = re.findall(rf"\s?{re.escape(section_spliter)}\s?\d+\s?", output)
    return len(marks) >= num_sections


_FIXED_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


@_check("detectable_format:constrained_response")
def _constrained(output: str) -> bool:
    return any(answer in output for answer in _FIXED_ANSWERS)


@_check("detectable_content:number_placeholders")
def _placeholders(output: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[[^\[\]]{0,300}\]", output)) >= num_placeholders


@_check("detectable_content:postscript")
def _postscript(output: str, postscript_marker: str) -> bool:
    letters = re.sub(r"[^a-z]", "", postscript_marker.casefold())
    spaced = r"\.?\s?".join(letters)
    return bool(re.search(rf"(?:^|\s){spaced}", output.casefold()))


@_check("startend:quotation")
def _quotation(output: str) -> bool:
    text = output.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


@_check("startend:end_checker")
def _end(output: str, end_phrase: str) -> bool:
    ending = output.strip().strip('"').casefold()
    return ending.endswith(end_phrase.strip().casefold())


@_check("combination:repeat_prompt")
def _repeat(output: str, prompt_to_repeat: str) -> bool:
    return output.strip().casefold().startswith(prompt_to_repeat.strip().casefold())


@_check("combination:two_responses")
def _two_responses(output: str) -> bool:
    responses = [part.strip() for part in output.split("******")]
    if not all(responses[1:-1]):
        return False
    kept = [part for part in responses if part]
    return len(kept) == 2 and kept[0] != kept[1]


@_check("change_case:english_lowercase")
def _lowercase(output: str) -> bool:
    return output.islower() and _is_latin(output)


@_check("change_case:english_capital")
def _capital(output: str) -> bool:
    return output.isupper() and _is_latin(output)


def _is_latin(text: str) -> bool:
    """A stand-in for language detection: other scripts are not English."""
    letters = [char for char in text if char.isalpha()]
    return sum(char.isascii() for char in letters) >= 0.9 * len(letters)


@_check("change_case:capital_word_frequency")
def _capital_words(output: str, capital_relation: str, capital_frequency: int) -> bool:
    capitals = [word for word in re.findall(r"[\w'-]+", output) if word.isupper()]
    return _compare(len(capitals), capital_relation, capital_frequency)
