"""Whether two scalar formulas are identical: a parser and an exact evaluator.

They are identical if they agree at several points: in exact fractions where the
operations allow it, otherwise to 30 of 40 digits. That decides as surely as a computer
algebra system does, which has no time limit (and needs a parser generator to read
LaTeX). Sizes of trees, exponents and arguments are limited instead, so every comparison
ends in milliseconds; a formula beyond a limit is equal to its own spelling only.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import mpmath

_LARGEST_ARGUMENT = 10_000
_LARGEST_BITS = 20_000
_DEEPEST = 40
_MOST_VARIABLES = 6

_CTX = mpmath.mp.clone()
_CTX.dps = 40

Node = tuple[Any, ...]  # an operation and its operands


class Refusal(ValueError):
    """A formula that cannot be read, or not be evaluated within the limits."""


# mpmath raises ValueError too, at poles.
_REFUSALS = (ValueError, ZeroDivisionError, OverflowError, RecursionError)
_FUNCTIONS = {
    **{
        name: getattr(_CTX, name) for name in ("sin", "cos", "tan", "sec", "csc", "cot")
    },
    **{name: getattr(_CTX, name) for name in ("sinh", "cosh", "tanh", "exp", "ln")},
    **{"arcsin": _CTX.asin, "arccos": _CTX.acos, "arctan": _CTX.atan, "log": _CTX.log},
}
_GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu "
    "nu xi rho sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi "
    "Psi Omega ell hbar".split()
)
_NAMES = "|".join(sorted([*_FUNCTIONS, "sqrt", "pi"], key=len, reverse=True))
_TOKEN = re.compile(
    rf"\s*(\d+(?:\.\d*)?|\.\d+|\\[a-zA-Z]+|(?:{_NAMES})(?![a-z])|[a-zA-Z]|[-+*/^_!|(){{}}\[\]])"
)


class _Parser:
    """Recursive descent over sums, products, powers and atoms."""

    def __init__(self, text: str):
        self.tokens: list[str] = []
        position = 0
        text = text.strip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise Refusal(text)
            self.tokens.append(match[1].removeprefix("\\"))
            position = match.end()
        self.at = 0
        self.depth = 0
        self.bars = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise Refusal(f"expected {expected or 'more'}, got {token!r}")
        self.at += 1
        return token

    def whole(self) -> Node:
        node = self.sum()
        if self.peek():
            raise Refusal(self.peek())
        return node

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise Refusal("too deep")
        if self.peek() == "+":
            self.take()
        node = self.product()
        while self.peek() in ("+", "-"):
            node = (self.take(), node, self.product())
        self.depth -= 1
        return node

    def product(self) -> Node:
        if self.peek() == "-":
            self.take()
            return ("neg", self.product())
        node = self.power()
        while True:
            if self.peek() in ("*", "/"):
                operator = self.take()
                negative = self.peek() == "-" and bool(self.take())
                right = self.power()
                node = (operator, node, ("neg", right) if negative else right)
            elif self.starts_atom():
                fraction = self.peek() == "frac"
                right = self.power()
                mixed = fraction and node[0] == "num" and _is_proper(node, right)
                node = ("+" if mixed else "*", node, right)
            else:
                return node

    def starts_atom(self) -> bool:
        token = self.peek()
        if token == "|":
            return self.bars == 0
        return bool(token) and (token[0].isalnum() or token[0] in ".({[")

    def power(self) -> Node:
        node = self.atom()
        while self.peek() == "!":
            self.take()
            node = ("!", node)
        if self.peek() == "^":
            self.take()
            node = ("^", node, self.argument())
        return node

    def argument(self) -> Node:
        """One operand of `^`, `\\frac` or `\\sqrt`: a group, a digit or a symbol."""
        if self.peek() == "-":
            self.take()
            return ("neg", self.argument())
        token = self.peek()
        if token.isdigit() and len(token) > 1 and self.tokens[self.at - 1] != "^":
            # \frac34 and \sqrt34 take one digit each.
            self.tokens[self.at : self.at + 1] = [token[0], token[1:]]
        return self.atom()

    def group(self, closing: str) -> Node:
        bars, self.bars = self.bars, 0
        node = self.sum()
        self.bars = bars
        self.take(closing)
        return node

    def atom(self) -> Node:
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            return ("num", Fraction(token if token[-1] != "." else token[:-1]))
        if token in "({[":
            return self.group({"(": ")", "{": "}", "[": "]"}[token])
        if token == "|":
            self.bars += 1
            node = self.sum()
            self.bars -= 1
            self.take("|")
            return ("abs", node)
        if token == "frac":
            return ("/", self.argument(), self.argument())
        if token == "sqrt":
            degree: Node = ("num", Fraction(2))
            if self.peek() == "[":
                self.take()
                degree = self.group("]")
            return ("^", self.argument(), ("/", ("num", Fraction(1)), degree))
        if token in ("binom", "dbinom"):
            return ("binom", self.argument(), self.argument())
        if token in _FUNCTIONS:
            return self.function(token)
        if token in ("pi", "e", "i"):
            return ("const", token)
        if len(token) == 1 and token.isalpha() or token in _GREEK:
            return ("var", token + self.subscript())
        raise Refusal(token)

    def subscript(self) -> str:
        if self.peek() != "_":
            return ""
        self.take()
        if self.peek() != "{":
            return "_" + self.take()
        start = self.at
        while self.take() != "}":
            pass
        return "_" + "".join(self.tokens[start + 1 : self.at - 1])

    def function(self, name: str) -> Node:
        base: Node | None = None
        exponent: Node | None = None
        while self.peek() in ("_", "^"):
            if self.take() == "_":
                base = self.argument()
            else:
                exponent = self.argument()
        if self.peek() in ("(", "{", "["):
            inner = self.atom()
        else:
            inner = self.power()
            while self.starts_atom() and self.peek() not in _FUNCTIONS:
                inner = ("*", inner, self.power())
        node: Node = ("call", name, inner)
        if base is not None:
            node = ("/", node, ("call", name, base))
        return ("^", node, exponent) if exponent is not None else node


def _is_proper(whole: Node, part: Node) -> bool:
    """Whether 2 and 1/4 stand for the mixed number two and a quarter."""
    return (
        part[0] == "/"
        and part[1][0] == part[2][0] == "num"
        and part[1][1] < part[2][1]
        and all(n[1].denominator == 1 for n in (whole, part[1], part[2]))
    )


def _evaluate(node: Node, values: Mapping[str, Fraction], exact: bool) -> Any:
    kind = node[0]
    if kind == "num" or kind == "var":
        number = node[1] if kind == "num" else values[node[1]]
        return number if exact else _CTX.mpf(number.numerator) / number.denominator
    if kind == "const":
        if exact:
            raise Refusal("irrational")
        return {"pi": +_CTX.pi, "e": +_CTX.e, "i": _CTX.mpc(0, 1)}[node[1]]
    if kind == "call":
        if exact:
            raise Refusal("irrational")
        return _FUNCTIONS[node[1]](_small(_evaluate(node[2], values, exact)))
    operands = [_evaluate(operand, values, exact) for operand in node[1:]]
    if exact and sum(_bits(o) for o in operands) > _LARGEST_BITS:
        raise Refusal("too large")
    return _OPERATIONS[kind](*operands)


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, Fraction):
        if exponent.denominator != 1:
            raise Refusal("irrational")
        if _bits(base) * abs(exponent) > _LARGEST_BITS:
            raise Refusal("too large")
        return base ** int(exponent)
    return _CTX.power(base, _small(exponent))


def _factorial(number: Any) -> Any:
    whole = int(number.real)
    if number != whole or not 0 <= whole <= 300:
        raise Refusal("too large")
    exact = Fraction(math.factorial(whole))
    return exact if isinstance(number, Fraction) else _CTX.mpf(exact.numerator)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "neg": lambda a: -a,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": _power,
    "abs": abs,
    "!": _factorial,
    "binom": lambda a, b: _factorial(a) / (_factorial(b) * _factorial(a - b)),
}


def _bits(number: Fraction) -> int:
    return number.numerator.bit_length() + number.denominator.bit_length()


def _small(number: Any) -> Any:
    if not abs(number) < _LARGEST_ARGUMENT:
        raise Refusal("too large")
    return number


# The same golds come back with every sample.
@functools.lru_cache(maxsize=4096)
def _tree(formula: str) -> Node | None:
    # A plain word is no product of its letters: "on" is not "no".
    if re.fullmatch(r"[a-zA-Z]{3,}", formula) or len(formula) > 400:
        return None
    try:
        return _Parser(formula).whole()
    except _REFUSALS:
        return None


def _variables(node: Node) -> set[str]:
    if node[0] == "var":
        return {node[1]}
    inner = [_variables(part) for part in node[1:] if isinstance(part, tuple)]
    return set().union(*inner)


_POINTS = (Fraction(7, 5), Fraction(-13, 11), Fraction(29, 17))


def identical(gold: str, answer: str) -> bool:
    """Whether two scalar formulas are the same function of the same variables."""
    left, right = _tree(gold), _tree(answer)
    if left is None or right is None:
        return False
    names = sorted(_variables(left) | _variables(right))
    if len(names) > _MOST_VARIABLES:
        return False
    points = [
        # Distinct multiples, so that no symmetry between variables is hit.
        {name: point * (1 + Fraction(i, 3)) for i, name in enumerate(names)}
        for point in (_POINTS if names else _POINTS[:1])
    ]
    try:
        return _agree(left, right, points, exact=True)
    except _REFUSALS:
        pass
    try:
        return _agree(left, right, points, exact=False)
    except _REFUSALS:
        return False


def _agree(
    left: Node, right: Node, points: list[dict[str, Fraction]], exact: bool
) -> bool:
    for values in points:
        a, b = (_evaluate(tree, values, exact) for tree in (left, right))
        if exact:
            if a != b:
                return False
        elif not abs(a - b) < (1 + abs(a)) * _CTX.mpf(10) ** -30:
            return False
    return True


def real_value(formula: str) -> float | None:
    """The real number that a formula without variables denotes."""
    tree = _tree(formula)
    if tree is None or _variables(tree):
        return None
    try:
        number = _CTX.mpmathify(_evaluate(tree, {}, exact=False))
        return float(number.real) if abs(number.imag) < 1e-12 else None
    except _REFUSALS:
        return None
