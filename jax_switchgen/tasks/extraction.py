"""Finding the answer in an output.

One idea serves every kind of answer: the text is searched for cues ("the answer is",
`\\boxed{`, `####`), and the last cue that is followed by an answer of the wanted kind
wins, so that nothing written before it matters. Fallbacks without a cue are narrow:
a long text that merely contains the right word has not answered.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

_STRAIGHT = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "−": "-", "–": "-", "—": ";", "\xa0": " "}
)
_WRAPPERS = re.compile(
    r"\\(?:text(?:bf|it|rm|tt)?|math(?:rm|bf|it)|mbox|operatorname)\s*\{([^{}]*)\}"
)
_TAGS = re.compile(r"</?(?:b|i|u|em|strong)>", re.I)
_STARS = re.compile(r"(?<![\w*])\*(?=\S)([^*\n]{1,300}?)(?<=\S)\*(?![\w*])")
_MANY_STARS = re.compile(r"\*{2,}")
_MARKS = re.compile(r"(?<!\w)_{1,3}(?=\S)|(?<=\S)_{1,3}(?!\w)|`+|~~")
_MATH_MARKS = re.compile(r"\\?\$|\\[()\[\],;!]")


def strip_emphasis(text: str) -> str:
    """Removes Markdown and HTML emphasis; `2 * 3` keeps its star."""
    # Most texts have no such marks, and looking for one is cheap.
    text = text.translate(_STRAIGHT)
    if "<" in text:
        text = _TAGS.sub("", text)
    if "*" in text:
        text = _STARS.sub(r"\1", _MANY_STARS.sub("", text))
    if "_" in text or "`" in text or "~" in text:
        text = _MARKS.sub("", text)
    return text


def plain(text: str) -> str:
    """Text without emphasis, math delimiters and `\\text{}` wrappers."""
    if "\\" in text:
        text = _WRAPPERS.sub(r"\1", text)
    if "\\" in text or "$" in text:
        text = _MATH_MARKS.sub("", text)
    return strip_emphasis(text).strip()


_SHORTEST_ECHO = 20


def without_echo(output: str, prompt: str) -> str:
    """The output without copies of its prompt, with or without the closing request."""
    for copied in (prompt, *(prompt.rsplit(end, 1)[0] for end in ("\n\n", "\n"))):
        if len(copied) >= _SHORTEST_ECHO:
            output = output.replace(copied.rstrip(), "\n")
    return output


def normalize(text: str) -> str:
    """Lower case, runs of anything but letters and digits as one space."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


# Places to look at are found as plain strings: a regular expression of all cues takes
# a millisecond for a page of text.
_NOUNS = (
    *("answer", "choice", "option", "solution", "result", "conclusion", "verdict"),
    *("label", "category", "classification", "intent", "response", "selection"),
)
_VERBS = ("choose", "chose", "pick", "select", "go with", "opt for")
_BOXES = ("\\box", "\\fbox")
_KEYWORDS = (*_NOUNS, *_VERBS, *_BOXES, "####")
_CUE = re.compile(
    rf"""
    \\f?box(?:ed)?\b\s*\{{?
    | \#{{4}}[ \t]
    | \b(?:{"|".join(_NOUNS)})\b
      (?:\s+(?:choice|option|letter|label|here|to|for|of)\b[^.:;?!\n]{{0,80}}?)?
      [ \t]*(?:[:=]|->|→|\b(?:is|was|are|equals|comes[ ]to
        |(?:would|must|should|will|has[ ]to|can[ ]only)[ ]be)\b)[ \t]*:?
    | \b(?:choose|chose|pick|select(?:ed)?|go[ ]with|opt[ ]for)\b
    | (?<![^\n])answer\b(?=\W*$|[ \t]+[(\w]\W*$)
    | (?<=[ #])answer\b(?=\W*$)
    """,
    re.I | re.M | re.X,
)
# The lookbehinds come last, so that only ends of sentences pay for them.
_SENTENCE_END = re.compile(
    r"[\n.!?](?:(?<=\n)|(?=[\s\"')]|$)(?!\s[a-z])(?!(?<=[!?])\s\d)(?<![\s(.][A-Z].)(?<!\bv.)(?<!\bDr.)(?<!\bSt.)"
    r"(?<!\bMr.)(?<!\bMs.)(?<!\bMrs.)(?<!\bJr.)(?<!\bSr.)(?<!\bvs.)(?<!\bMt.)"
    r"(?<!\bCo.)(?<!\bInc.)(?<!\bLtd.)(?<!\be\.g.)(?<!\bi\.e.))"
)
_CLAUSE = re.compile(
    r"[,;:.!?\n]|\b(?:but|so|therefore|thus|hence|and|because|then|hold)\b", re.I
)
NEGATOR = re.compile(
    r"\b(?:not|never|neither|nor|cannot|wrong|incorrect|false|rather than|instead of"
    r"|excluded?|eliminated?|ruled? out|unlike|except|doubt)\b|n't\b",
    re.I,
)
DENIED = re.compile(
    r"[\s)\"']*(?:is|are|was|seems|looks|can be|would be)?\s*"
    r"(?:also|clearly|definitely|therefore|simply|just|too)?\s*"
    r"(?:not\b|isn't|wrong|incorrect|false|eliminated|ruled out|can(?:not|'t)"
    r"|doesn't|does not|impossible|unlikely|out\b)",
    re.I,
)
FILLER = (
    r"(?:[\s,:;\"'(\[{<=-]++|\b(?:therefore|thus|hence|then|so|most|likely|probably"
    r"|clearly|definitely|simply|indeed|still|actually|also|definitively|the|following"
    r"|final|correct|right|best|option|choice|letter|answer|label|category|statement"
    r"|deductively|definite|a clear|approximately|about|exactly|only|equal to)\b){0,16}"
)
PLACEHOLDER = "ANSWER"  # what the prompts themselves put into their box


# Models that repeat themselves write hundreds of cues, or sentences without an end.
_LONGEST_ANSWER = 500  # characters
_MOST_CUES = 50
_BRACE = re.compile(r"[{}]")


class Answer(NamedTuple):
    """What follows a cue, up to the end of its sentence or box."""

    start: int
    text: str


def box_content(text: str, start: int) -> str:
    """From behind an opening brace to its partner, or to the end of the line."""
    depth = 1
    for match in _BRACE.finditer(text, start, start + _LONGEST_ANSWER):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return text[start : match.start()]
    return text[start : start + _LONGEST_ANSWER].split("\n")[0]


def sentence_from(text: str, start: int) -> str:
    """The rest of the sentence that `start` lies in, without leading space."""
    while start < len(text) and text[start].isspace():
        start += 1
    limit = min(len(text), start + _LONGEST_ANSWER)
    end = _SENTENCE_END.search(text, start, limit)
    return text[start : end.start() if end else limit]


def negated_before(text: str, start: int) -> bool:
    clause = _CLAUSE.split(text[max(0, start - 80) : start])[-1]
    return bool(NEGATOR.search(clause))


def _cues(text: str) -> list[re.Match[str]]:
    """The cues of a text, the last first."""
    lower = text.lower()
    if len(lower) != len(text):  # a few capitals have two small letters
        lower = "".join(c.lower() if c.isascii() else c for c in text)
    places = set()
    for keyword in _KEYWORDS:
        at = lower.find(keyword)
        while at >= 0:
            places.add(at)
            at = lower.find(keyword, at + 1)
    last = sorted(places, reverse=True)[:_MOST_CUES]
    return [match for at in last if (match := _CUE.match(text, at))]


def answers(text: str) -> Iterator[Answer]:
    """What follows each cue that is not negated, the last cue first."""
    for cue in _cues(text):
        boxed = cue.group().endswith("{")
        found = (box_content if boxed else sentence_from)(text, cue.end()).strip()
        if found in ("", PLACEHOLDER) or negated_before(text, cue.start()):
            continue
        yield Answer(cue.end(), found)


def boxes(text: str) -> list[str]:
    """Contents of `\\box{}` and `\\boxed{}`, but for the prompt's own placeholder."""
    starts = [m.end() for m in re.finditer(r"\\f?box(?:ed)?\s*\{", text)]
    found = [box_content(text, start).strip() for start in starts]
    return [content for content in found if content not in ("", PLACEHOLDER)]


def sentences(text: str) -> list[str]:
    """Sentences and lines, without empty ones."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


_NUMBER = re.compile(
    r"(?<![\w.,)])-?\s?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+(?![\d/]))?"
    r"|(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
)
_CHAIN = re.compile(r"^[^=.]*?\d[\d\s+*/x×÷().,-]*=\s*")


def as_fraction(text: str) -> Fraction | None:
    """An exact number from its digits, or None: "1,600", "-3.5", "3/4"."""
    digits = re.sub(r"[,\s]", "", text)
    try:
        return Fraction(digits)
    except (ValueError, ZeroDivisionError):
        return None


def numbers(text: str) -> list[Fraction]:
    """All numbers of a text, in order."""
    # No number of interest has 40 digits; longer runs only cost time.
    found = (as_fraction(m.group()) for m in _NUMBER.finditer(text) if len(m[0]) < 40)
    return [value for value in found if value is not None]


def number(output: str) -> Fraction | None:
    """The number after the last cue that has one, else the last number."""
    text = plain(output)
    for answer in answers(text):
        # "The answer is 3 * 50 = 150" ends in its value.
        chain = _CHAIN.match(answer.text)
        found = numbers(answer.text[chain.end() :] if chain else answer.text)
        if found:
            return found[-1] if "=" in answer.text and not chain else found[0]
    last = _last_number(text)
    return as_fraction(last) if last else None


def _last_number(text: str) -> str | None:
    """The last number as it is written."""
    for line in reversed(text.split("\n")):
        if found := [m.group() for m in _NUMBER.finditer(line) if len(m[0]) < 40]:
            return found[-1]
    return None


_LONGEST_SETTLED = 300  # characters of a sentence that settles on a label


def label(output: str, labels: tuple[str, ...]) -> str | None:
    """The label that an output settles on.

    Without a cue, only the first and last sentence count, and there only a label that
    stands alone, opens the sentence before a comma or follows a copula: "no" and
    "background" are also plain English words.
    """
    by_name = {name.casefold(): name for name in labels}
    names = "|".join(re.escape(n) for n in sorted(labels, key=len, reverse=True))
    text = plain(output)
    direct = re.compile(rf"(?:{FILLER})({names})(?![\w-])", re.I)
    for answer in answers(text):
        if match := direct.match(answer.text):
            return by_name[match[1].casefold()]
    parts = sentences(text)
    copula = re.compile(
        rf"\b(?:is|are|as|be|to|returns|=)[\s:\"'(]+(?:deductively\s+|logically\s+"
        rf"|therefore\s+)?({names})[\"')]*\s*$",
        re.I,
    )
    opening = re.compile(
        rf"\W*(?:so|therefore|thus|hence)?\W*({names})\s*(?:[,;:]|$)", re.I
    )
    alone = re.compile(rf"\W*({names})\W*", re.I)
    for part in [part[:_LONGEST_SETTLED] for part in parts[-1:] + parts[:1]]:
        match = alone.fullmatch(part) or opening.match(part) or copula.search(part)
        if match and not negated_before(part, match.start(1)):
            return by_name[match[1].casefold()]
    return None


def words(output: str, vocabulary: frozenset[str]) -> list[str]:
    """The last run of at least two words of the vocabulary: a sorted list, say."""
    run: list[str] = []
    best: list[str] = []
    for token in re.findall(r"[^\W\d_][\w'-]*", plain(output).casefold()):
        if token in vocabulary:
            run.append(token)
        elif token != "and":
            best, run = (run if len(run) > 1 else best), []
    return run if len(run) > 1 else best


def brackets(output: str) -> str | None:
    """The closing brackets of an answer, without spaces.

    They cannot be told from a box's own brace by balance: a box ends with its line.
    """
    text = strip_emphasis(_WRAPPERS.sub(r"\1", output)).strip()
    boxed = re.findall(r"\\f?box(?:ed)?\s*\{([^\n]*)\}", text)
    candidates = boxed[-1:] or [answer.text for answer in _bracket_answers(text)]
    lines = [line for line in text.split("\n") if line.strip()]
    for candidate in candidates + lines[-1:]:
        shown = re.sub(r"[\\$\"'.,:\s]", "", candidate)
        if shown and not shown.strip("()[]{}<>"):
            return shown
    return None


def _bracket_answers(text: str) -> Iterator[Answer]:
    for cue in _cues(text):
        line = text[cue.end() :].lstrip().split("\n", 1)[0]
        yield Answer(cue.end(), line)


_ABSTAINED = re.compile(r"\W*i(?: do not|'m not| don't| am not) (?:know|sure)\b", re.I)
LONGEST_NAME = 40  # words: who lists everything has not answered


def name(output: str) -> str:
    """A short answer: the last box, else the last cue's, else the opening."""
    text = plain(output)
    if found := boxes(text):
        return found[-1]
    if _ABSTAINED.match(text):
        return ""
    for answer in answers(text):
        return " ".join(answer.text.split()[:LONGEST_NAME])
    if len(text.split()) <= LONGEST_NAME:
        return text
    opening = next(iter(sentences(text)), "")
    return " ".join(opening.split()[:LONGEST_NAME])


_MATH = re.compile(
    r"\$\$?([^$]{1,400})\$|\\\(([^\n]{1,400}?)\\\)|\\\[(.{1,400}?)\\\]", re.S
)

_COMMANDS = re.compile(r"\\(?:text|mbox|begin|end)\s*\{[^{}]*\}|\\[a-zA-Z]+")
_PROSE = re.compile(r"[a-zA-Z']{2,}[ ,.]+[a-zA-Z']{2,}|\n")


def expression(output: str) -> str | None:
    """A formula: the last box, else after the last cue, else the last one written."""
    text = strip_emphasis(output)
    if found := boxes(text):
        return found[-1]
    for answer in answers(text):
        if formulas := _MATH.findall(answer.text):
            return "".join(formulas[0])
        shown = re.split(r",?\s+(?:which|because|since|as|where|so)\b", answer.text)[0]
        if re.search(r"[\d\\]|^\W*[\w()]+\W*$", shown) and len(shown) <= 200:
            return shown
    if formulas := _MATH.findall(text):
        return "".join(formulas[-1])
    if len(text) <= 200 and not _PROSE.search(_COMMANDS.sub("", text)):
        return text.strip() or None
    return _last_number(text)
