"""Sizes, conditions and candidates of `.spaceir` text: from pieces of the parse to the algebra.

    4*%width + 1    (H if window < H else window)    op is "k3" and depth > 12    {3, 7/2, 4}

A name means what the block that is read knows by it; nothing else is a name here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple, NoReturn

from spacelang.diagnostics import Source, SpaceError, Span, error
from spacelang.ir.condition import (
    FALSE,
    TRUE,
    Condition,
    chosen,
    compare,
    conjunction,
    disjunction,
    is_value,
    negate,
)
from spacelang.ir.dim import (
    Dim,
    Symbol,
    Value,
    conditional,
    floor,
    function,
    maximum,
    minimum,
)
from spacelang.ir.functions import FUNCTIONS
from spacelang.ir.known import Symbols
from spacelang.ops.limits import MAX_TERMS, Beyond, held_size, raised
from spacelang.syntax.tokens import Token

DIGITS = 64
OPERANDS = 500


class Piece(NamedTuple):
    """A rule of the grammar with what it holds: pieces and tokens, None for what was left out."""

    rule: str
    children: list[Any]
    start: int
    end: int


Part = Piece | Token


class Values:
    """Reads the values of one block of a text; `symbols` are what its names mean."""

    def __init__(self, source: Source, symbols: Symbols | None = None) -> None:
        self.source = source
        self.symbols: Symbols = symbols or {}
        self._memo: dict[str, Dim] = {}

    def span(self, part: Part) -> Span:
        return Span(self.source, part.start, part.end)

    def fail(self, headline: str, part: Part, label: str = "") -> NoReturn:
        raise SpaceError(error("SP603", headline, self.span(part), label))

    def guarded(self, what: str, part: Part, make: Callable[[], Any]) -> Any:
        """What `make` makes; what the algebra refuses is an error at this place."""
        try:
            return make()
        except Beyond as failed:
            raise SpaceError(error(failed.code, str(failed), self.span(part))) from failed
        except (ArithmeticError, ValueError, TypeError) as failed:
            raise SpaceError(error("SP603", f"{what}: {failed}", self.span(part))) from failed

    # Words.

    def word(self, token: Token) -> str:
        """A name, plain or in quotes."""
        if token.kind == "NAME":
            return token.text
        if token.kind == "QUOTED":
            return self.string(token, token.text[1:])
        self.fail("a name is wanted here", token)

    def string(self, part: Part, text: str | None = None) -> str:
        token = part.children[0] if isinstance(part, Piece) else part
        try:
            return json.loads(token.text if text is None else text)
        except ValueError:
            self.fail("this text has an escape that means nothing", token)

    def whole(self, token: Token) -> int:
        if len(token.text) > DIGITS:
            self.fail(f"a number of more than {DIGITS} digits", token)
        return int(token.text)

    # Candidates.

    def candidates(self, piece: Piece) -> tuple[Value, ...]:
        return tuple(self.candidate(child) for child in piece.children if child is not None)

    def candidate(self, piece: Piece) -> Value:
        match piece.rule:
            case "true" | "false":
                return piece.rule == "true"
            case "string":
                return self.string(piece)
            case "wholes":
                return tuple(self.whole(t) for t in piece.children if t is not None)
            case _:
                minus, top, bottom = piece.children
                below = 1 if bottom is None else self.whole(bottom)
                if not below:
                    self.fail("a fraction over 0", piece)
                return Fraction(self.whole(top) * (1 if minus is None else -1), below)

    # Sizes.

    def symbol(self, token: Token) -> Symbol:
        name = self.word(token)
        found = self.symbols.get(name)
        if found is None:
            self.fail(f"{name} is neither a size nor a decision here", token)
        return found

    def dim(self, part: Part) -> Dim:
        """A size; one text means one size all over a block."""
        if isinstance(part, Token):
            self.fail("a size is wanted here", part)
        text = self.source.text[part.start : part.end]
        found = self._memo.get(text)
        if found is None:
            found = self.guarded("this is no size", part, lambda: self._dim(part))
            self._memo[text] = found
        return found

    def _dim(self, part: Piece) -> Dim:
        """A size that is held to the limits of all texts, as each part of it is."""
        return held_size(self._read(part))

    def _read(self, part: Piece) -> Dim:
        children = part.children
        match part.rule:
            case "number":
                return Dim.of(self.whole(children[0]))
            case "size_of":
                return Dim.of(self.symbol(children[0]))
            case "negative":
                return -self._dim(children[0])
            case "sum" | "term":
                total = self._dim(children[0])
                for sign, other in zip(children[1::2], children[2::2], strict=True):
                    total = self._bounded(sign, total, self._dim(other))
                return total
            case "either":
                then, truth, otherwise = children
                return conditional(self.condition(truth), self._dim(then), self._dim(otherwise))
            case "function":
                return self._function(children[0], [self._dim(child) for child in children[1:]])
            case _:
                self.fail("a size is wanted here", part)

    def _bounded(self, sign: Token, a: Dim, b: Dim) -> Dim:
        terms = len(a.terms) + len(b.terms) if sign.kind in ("PLUS", "MINUS") else (
            len(a.terms) * len(b.terms))  # fmt: skip
        if terms > MAX_TERMS:
            raise Beyond("SP507", f"a size of more than {MAX_TERMS:,} terms")
        return ARITHMETIC[sign.kind](a, b)

    def _function(self, token: Token, arguments: list[Dim]) -> Dim:
        name = self.word(token)
        first, *rest = arguments
        if len(arguments) > OPERANDS:
            raise Beyond("SP507", f"a function of more than {OPERANDS} numbers")
        if name in FOLDS:
            for other in rest:
                first = FOLDS[name](first, other)
            return first
        if len(arguments) != (2 if name == "power" else 1):
            self.fail(f"{name} takes another number of arguments", token)
        if name == "floor":
            return floor(first)
        if name not in FUNCTIONS:
            self.fail(f"no function is called {name}", token)
        if name != "power":
            return function(name, first)
        return raised(first, rest[0])

    # Conditions.

    def condition(self, piece: Piece) -> Condition:
        return self.guarded("this is no condition", piece, lambda: self._condition(piece))

    def _condition(self, piece: Piece) -> Condition:
        children = piece.children
        match piece.rule:
            case "true":
                return TRUE
            case "false":
                return FALSE
            case "any":
                return disjunction(*(self._condition(child) for child in children))
            case "all":
                return conjunction(*(self._condition(child) for child in children))
            case "compare":
                left, relation, right = children
                return compare(relation.text, self.dim(left), self.dim(right))
            case "is":
                return self._is(*children)
            case "is_not":
                return negate(self._is(*children))
            case "picked":
                return self._chosen(*children)
            case "not_picked":
                return negate(self._chosen(*children))
            case _:
                self.fail("a condition is wanted here", piece)

    def _is(self, token: Token, value: Part) -> Condition:
        if isinstance(value, Token):
            return is_value(self.symbol(token), self.word(value))
        if value.rule != "number":
            return is_value(self.symbol(token), self.candidate(value))
        # `inputs[1] is 4`: only a pick is compared with a number, and the position is in its name.
        pick, _, position = self.word(token).rpartition("[")
        if not pick or not position.rstrip("]").isdecimal():
            self.fail("a position of a pick is wanted here", token)
        return self._source(token, pick, int(position.rstrip("]")), value.children[0])

    def _chosen(self, token: Token, position: Token, source: Token) -> Condition:
        return self._source(token, self.word(token), self.whole(position), source)

    def _source(self, token: Token, pick: str, position: int, source: Token) -> Condition:
        symbol = self.symbols.get(pick)
        if symbol is None:
            self.fail(f"{pick} is no decision here", token)
        return chosen(symbol, position, self.whole(source))


FOLDS: Mapping[str, Callable[[Dim, Dim], Dim]] = {"min": minimum, "max": maximum}
ARITHMETIC: Mapping[str, Callable[[Dim, Dim], Dim]] = {
    "PLUS": lambda a, b: a + b,
    "MINUS": lambda a, b: a - b,
    "STAR": lambda a, b: a * b,
    "SLASH": lambda a, b: a / b,
    "FLOOR": lambda a, b: a // b,
}
