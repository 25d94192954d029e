"""Which option of a multiple-choice question an output chooses."""

import re
from typing import NamedTuple

from jax_switchgen.tasks.extraction import (
    DENIED,
    FILLER,
    NEGATOR,
    answers,
    negated_before,
    normalize,
    plain,
)

# Behind these a bare capital A is a letter; before another word it is the article.
_CONNECTORS = r"because|since|as|is|which|for|due|given|from|based|with|in|by|after|not"


class _LetterRules(NamedTuple):
    direct: re.Pattern[str]  # at the beginning of what follows a cue
    standing: re.Pattern[str]  # a letter that is no part of a word
    alone: re.Pattern[str]
    label: re.Pattern[str]


def _letter_rules(count: int) -> _LetterRules:
    one = f"[A-{chr(64 + count)}]"
    no_hedge = (
        rf"(?![\"')\]]*\s*(?:or|and|&|/)\s*(?:(?i:option|choice)\s+)?\(?{one}(?!\w))"
    )
    no_article = rf"(?!(?<=[AI])\s+(?!(?:{_CONNECTORS})\b)[a-z])"
    return _LetterRules(
        direct=re.compile(rf"(?i:{FILLER})({one})(?!\w|'\w){no_hedge}{no_article}"),
        standing=re.compile(rf"{one}(?<!\w.)(?!\w|'\w)"),
        alone=re.compile(rf"\W*(?:(?i:option|choice|answer)\W+)?({one})\W*"),
        label=re.compile(rf"\W*({one})[).:]\s+(.*)"),
    )


# Before and behind a standing letter: "option D", "(D)", "D." at a line's beginning.
_OPTION = re.compile(r"\b(?:option|choice|letter|answer)\s+\(?$", re.I)
_LINE_START = re.compile(r"(?:^|\n)[\s>#-]*$")
_LABEL_END = re.compile(r"[).:](?:\s|$)")
# "The right choice: D is correct", "so D must be true".
_SUBJECT = re.compile(
    r"(?:^|[.,;:!?\n]\s*|\b(?:option|choice|answer|letter|that|so|thus|hence|therefore"
    r"|and|but|only|think|believe|because)\s+)\(?$",
    re.I,
)
_VERDICT = re.compile(
    r"\)?\"?\s+(?:is|must be|seems|appears|would be|has to be|looks)\s+(?:to be\s+)?"
    r"(?:(?!not\b|never\b)\w+\s+){0,3}?"
    r"(?:correct|right|true|best|answer|appropriate|accurate)\b"
)
# "Therefore, D." and "It must be (D)."
_CONCLUSION = re.compile(
    r"\b(?:therefore|thus|hence|so|finally|it's|it is|it must be|that is|must be"
    r"|has to be)\b[\s,:]*(?:it's|it is)?[\s(\"]*(?:(?:option|choice)\s+)?\(?$",
    re.I,
)
_FULL_STOP = re.compile(r"[)\"]*\s*(?:[.!\n]|$)")
_BEFORE = 60


_RULES = {count: _letter_rules(count) for count in range(1, 27)}


def _affirmed(
    rules: _LetterRules, text: str
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Positions and letters: of conclusions, and of mentions as an option.

    A mention that is negated ("not (A)", "(A) is wrong") counts for nothing.
    """
    conclusions: list[tuple[int, str]] = []
    mentions: list[tuple[int, str]] = []
    for match in rules.standing.finditer(text):
        before, end = text[max(0, match.start() - _BEFORE) : match.start()], match.end()
        concluded = (_VERDICT.match(text, end) and _SUBJECT.search(before)) or (
            _FULL_STOP.match(text, end) and _CONCLUSION.search(before)
        )
        mentioned = (
            (before.endswith("(") and text.startswith(")", end))
            or _OPTION.search(before)
            or (_LABEL_END.match(text, end) and _LINE_START.search(before))
        )
        if not (concluded or mentioned):
            continue
        if negated_before(text, match.start()) or DENIED.match(text, end):
            continue
        (conclusions if concluded else mentions).append((match.start(), match[0]))
    return conclusions, mentions


def letter(output: str, choices: tuple[str, ...], count: int = 0) -> str | None:
    """The option that an output chooses, as a letter.

    Args:
      output: the answer as written.
      choices: the texts of the options A, B, …; an answer may name one instead.
      count: how many options there are, where their texts are not known.
    """
    rules = _RULES[min(26, max(1, len(choices) or count))]
    text = plain(output)
    if len(bare := re.sub(r"\W", "", text)) == 1:
        return bare.upper() if rules.alone.fullmatch(bare.upper()) else None
    found, mentions = _affirmed(rules, text)
    for answer in answers(text):
        small = re.fullmatch(r"\W*([a-z])\W*", answer.text)
        match = rules.direct.match(small[1].upper() if small else answer.text)
        end = answer.start + len(answer.text) + 1
        within = [name for at, name in mentions if answer.start <= at < end]
        if match and not DENIED.match(answer.text, match.end()):
            found.append((answer.start, match[1]))
        elif within:
            found.append((answer.start, within[-1]))
    lines = [line for line in text.split("\n") if line.strip()]
    if lines and (match := rules.alone.fullmatch(lines[-1])):
        found.append((len(text), match[1]))
    if found:
        return max(found)[1]
    return _letter_without_cue(text, lines, rules, choices, mentions)


def _letter_without_cue(
    text: str,
    lines: list[str],
    rules: _LetterRules,
    choices: tuple[str, ...],
    mentions: list[tuple[int, str]],
) -> str | None:
    if not lines:
        return None
    if match := rules.alone.fullmatch(lines[0]):
        return match[1]
    if match := rules.label.match(lines[0]):
        # "C. Paris" and an explanation, but not the first line of a copied list.
        after = rules.label.match(lines[1]) if len(lines) > 1 else None
        listed = after is not None and ord(after[1]) == ord(match[1]) + 1
        if not listed and _same_option(match[2], match[1], choices):
            return match[1]
    named = {name for _, name in mentions}
    if named:
        return named.pop() if len(named) == 1 else None
    return _letter_by_text(text, lines, choices)


def _same_option(text: str, name: str, choices: tuple[str, ...]) -> bool:
    index = ord(name) - 65
    return index < len(choices) and normalize(text) == normalize(choices[index])


def _letter_by_text(
    text: str, lines: list[str], choices: tuple[str, ...]
) -> str | None:
    """An option named by its text: alone in an answer, a line or a short output."""
    if not choices:
        return None
    options = [normalize(choice) for choice in choices]
    spans = [answer.text for answer in answers(text)]
    for span in (*spans, text, lines[-1], lines[0]):
        same = [i for i, option in enumerate(options) if option == normalize(span)]
        if len(same) == 1:
            return chr(65 + same[0])
    if len(text.split()) <= 30:
        spans.append(text)
    for span in spans:
        padded = f" {normalize(span)} "
        inside = [i for i, o in enumerate(options) if o and f" {o} " in padded]
        # "Either support or oppose" holds "support" as well: the longest one counts.
        longest = max(inside, key=lambda i: len(options[i]), default=-1)
        if all(f" {options[i]} " in f" {options[longest]} " for i in inside):
            if inside and not NEGATOR.search(span.replace(choices[longest], "")):
                return chr(65 + longest)
    return None


def options_in(prompt: str) -> tuple[str, ...]:
    """The texts of options written as "(A) text" lines in a prompt."""
    lines = re.findall(r"^\(([A-Z])\)\s*(.*)$", prompt, re.M)
    listed = [text for i, (name, text) in enumerate(lines) if name == chr(65 + i)]
    return tuple(listed)
