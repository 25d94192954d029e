"""Whether two formulas are the same: LaTeX in, exact comparison, bounded effort.

Formulas are split into structure (unions, lists, tuples and intervals, matrices,
equations) and scalars, which `formulas` compares.
"""

import re

from jax_switchgen.tasks import formulas

_LONGEST = 400

_SYMBOLS = {
    "−": "-", "–": "-", "×": "*", "·": "*", "÷": "/", "∞": r"\infty ", "π": r"\pi ",
    "√": r"\sqrt ", "∪": r"\cup ", "²": "^2", "³": "^3", "°": "", "±": r"\pm ",
}  # fmt: skip
_REPLACED = [
    (re.compile(pattern), new)
    for pattern, new in [
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![a-z])", ""),
        (r"\\(?:[dtc]frac)", r"\\frac"),
        (r"\\[()\[\]]|\\?\$|\\displaystyle|\\!", ""),
        (r"(?<!\\)\\[,;: ]|~|\\q?quad|\\(?:h|v)space\{[^{}]*\}", " "),
        (r"\\?%|\^\s*\{?\s*\\circ\s*\}?|\\degree", ""),
        (r"\\(?:cdot|times|ast)(?![a-z])", "*"),
        (r"\\div(?![a-z])", "/"),
        (r"\\(?:text|mbox)\s*\{\s*(?:and|or)\s*\}", ","),
        (r"(?<=\d),(?=\d{3}(?!\d))", ""),
        (r"(?<=\d)[eE](?=[+-]?\d)", "*10^"),
        (r"\*10\^([+-]?\d+)", r"*10^{\1}"),
        (r"\+\s*(?=\\infty)", ""),
        (r"\\lbrace|\\\{", "⟨"),
        (r"\\rbrace|\\\}", "⟩"),
        (r"\\lbrack", "["),
        (r"\\rbrack", "]"),
    ]
]
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|normal)?|mbox|math(?:rm|bf|it)|operatorname)\s*\{([^{}]*)\}"
)
# "20 square units", "9 min"; letters next to a digit are variables.
_UNIT = re.compile(
    r"(?<=[\d})])\s+[a-z]{2,20}(?:\.?\s[a-z]{2,20}){0,4}\.?(?:\^\{?\d\}?)?$", re.I
)
_WORD_NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve".split()
    )
}


def normalize(formula: str) -> str:
    """One spelling for formulas that differ in layout, units or currency only."""
    for symbol, command in _SYMBOLS.items():
        formula = formula.replace(symbol, command)
    for pattern, new in _REPLACED:
        formula = pattern.sub(new, formula)
    without = _TEXT.sub(" ", formula).strip()
    if re.search(r"[\w]", without):
        formula = without  # what stood in \text{} was a unit
    else:
        formula = _TEXT.sub(r"\1", formula).strip().casefold()
        formula = re.sub(r"^\((.*)\)$", r"\1", formula)
    formula = _UNIT.sub("", formula.strip().rstrip(".").strip())
    formula = re.sub(r"\s+", " ", formula).strip()
    return _WORD_NUMBERS.get(formula.casefold(), formula)


def equal(gold: str, answer: str) -> bool:
    """Whether two formulas denote the same thing."""
    if max(len(gold), len(answer)) > 2 * _LONGEST:
        return gold.strip() == answer.strip()
    gold, answer = normalize(gold), normalize(answer)
    if _spelling(gold) == _spelling(answer):
        return bool(gold)
    if max(len(gold), len(answer)) > _LONGEST or not gold or not answer:
        return False
    return _same(gold, answer, 0)


def value(formula: str) -> float | None:
    """The real number that a formula without variables denotes."""
    if len(formula) > 2 * _LONGEST:
        return None
    formula = _right_side(normalize(formula))
    return formulas.real_value(formula)


def parts(formula: str) -> list[str]:
    """The elements of a list, set or tuple."""
    formula = normalize(formula)
    while (inner := _unwrap(formula)) is not None:
        formula = inner[1]
    return [part.strip() for part in _split(formula, ",")]


def _spelling(formula: str) -> str:
    return re.sub(r"\s+", "", formula).casefold()


_OPENING, _CLOSING = "([{⟨", ")]}⟩"


def _split(formula: str, separator: str) -> list[str]:
    """Splits at a separator outside all brackets and environments."""
    found, depth, start, i = [], 0, 0, 0
    while i < len(formula):
        if formula.startswith(r"\begin", i) or formula[i] in _OPENING:
            depth += 1
        elif formula.startswith(r"\end", i) or formula[i] in _CLOSING:
            depth -= 1
        elif depth == 0 and formula.startswith(separator, i):
            found.append(formula[start:i])
            i += len(separator)
            start = i
            continue
        i += 1
    return [*found, formula[start:]]


def _unwrap(formula: str) -> tuple[str, str] | None:
    """The brackets around a whole formula, and what they hold."""
    formula = formula.strip()
    if len(formula) < 2 or formula[0] not in _OPENING or formula[-1] not in _CLOSING:
        return None
    depth = 0
    for i, char in enumerate(formula):
        depth += (char in _OPENING) - (char in _CLOSING)
        if depth == 0 and i < len(formula) - 1:
            return None
    return formula[0] + formula[-1], formula[1:-1]


_MATRIX = re.compile(
    r"\\begin\{([pbBvV]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}", re.S
)


def _same(gold: str, answer: str, depth: int) -> bool:
    gold, answer = gold.strip(), answer.strip()
    if _spelling(gold) == _spelling(answer):
        return True
    if depth > 8:
        return False
    rows = [_MATRIX.fullmatch(side) for side in (gold, answer)]
    if rows[0] and rows[1]:
        cells = [
            [_split(row, "&") for row in re.split(r"\\\\", m[2].strip().rstrip("\\"))]
            for m in rows
            if m
        ]
        return [len(row) for row in cells[0]] == [len(row) for row in cells[1]] and all(
            _same(a, b, depth + 1)
            for row_a, row_b in zip(*cells, strict=True)
            for a, b in zip(row_a, row_b, strict=True)
        )
    for separator in (r"\cup", ","):
        lists = [_members(side, separator) for side in (gold, answer)]
        if max(map(len, lists)) > 1:
            return _same_members(lists[0], lists[1], depth)
    wrapped = [_unwrap(side) for side in (gold, answer)]
    inner = [
        _split(pair[1] if pair else side, ",")
        for pair, side in zip(wrapped, (gold, answer), strict=True)
    ]
    if max(map(len, inner)) > 1:
        if not (wrapped[0] and wrapped[1]) or wrapped[0][0] != wrapped[1][0]:
            return False
        if wrapped[0][0] == "⟨⟩":
            return _same_members(inner[0], inner[1], depth)
        return len(inner[0]) == len(inner[1]) and all(
            _same(a, b, depth + 1) for a, b in zip(*inner, strict=True)
        )
    return _same_scalar(gold, answer)


def _members(formula: str, separator: str) -> list[str]:
    """Elements of a list without order; `a \\pm b` is two, braces are no tuple."""
    if separator == "," and (pair := _unwrap(formula)) and pair[0] == "⟨⟩":
        formula = pair[1]
    found = []
    for part in _split(formula, separator):
        if separator == "," and r"\pm" in part:
            found += [part.replace(r"\pm", sign) for sign in "+-"]
        else:
            found.append(part)
    return found


def _same_members(gold: list[str], answer: list[str], depth: int) -> bool:
    if len(gold) != len(answer) or len(gold) > 30:
        return False
    left = list(answer)
    for item in gold:
        match = next((o for o in left if _same(item, o, depth + 1)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _right_side(formula: str) -> str:
    """What a variable is said to equal: `x = 5`, `f(x) = 5`, `x \\in (0, 1)`."""
    match = re.match(
        r"\s*[a-zA-Z](?:_\{?\w+\}?)?(?:\([a-z]\))?\s*(?:=|\\in\b)", formula
    )
    return formula[match.end() :].strip() if match else formula


def _same_scalar(gold: str, answer: str) -> bool:
    sides = [_right_side(gold), _right_side(answer)]
    if sides != [gold, answer]:
        return _same(sides[0], sides[1], 7)
    if "=" in answer and "=" not in gold:
        # "2 + 3 = 5": what a chain of equations ends in.
        sides[1] = answer.rsplit("=", 1)[1]
    elif ("=" in gold) != ("=" in answer):
        return False
    bases = [re.search(r"_\{?(\d+)\}?$", side) for side in sides]
    if bases[0] and bases[1] and bases[0][1] != bases[1][1]:
        return False
    plain = [re.sub(r"(?<=\d)_\{?\d+\}?$", "", side) for side in sides]
    return formulas.identical(*plain)
