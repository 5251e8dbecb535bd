"""Formulas: the entry of a table at each of its places, as words in postfix order.

    "0 -10000 i1 i0 <= if"     0 where the second index is at most the first, else -10000

`i0`, `i1` are indices and `n0`, `n1` sizes that a table is given. Written so, a formula names no
decision: what a block or a use of it knows stands in the sizes alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from spacelang.diagnostics import SpaceError, counted, error
from spacelang.ir.atom import (
    Atom,
    Conditional,
    Divisor,
    Extremum,
    FloorDivide,
    Function,
    Number,
    Symbol,
    tidy,
)
from spacelang.ir.condition import All, Any, Compare, Condition, compare, conjunction, disjunction
from spacelang.ir.dim import Dim, Monomial, conditional, function, maximum, minimum, power
from spacelang.ir.functions import FUNCTIONS

MAX_WORDS = 2_000
_PLACE = re.compile(r"([in])(0|[1-9]\d{0,3})")
_NUMBER = re.compile(r"-?\d{1,40}(/[1-9]\d{0,39})?")
BINARY: Mapping[str, Callable[[Number, Number], Number]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b if isinstance(a, float) or isinstance(b, float) else Fraction(a) / b,
    "//": lambda a, b: a // b,
    "min": min,
    "max": max,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "and": lambda a, b: bool(a) and bool(b),
    "or": lambda a, b: bool(a) or bool(b),
    "power": FUNCTIONS["power"],
}
UNARY = {name: function for name, function in FUNCTIONS.items() if name != "power"}


def formula(entry: Dim, indices: Sequence[Symbol]) -> tuple[str, tuple[Dim, ...]]:
    """An entry as words, and the sizes that they call `n0`, `n1`: all in it but the indices."""
    writer = _Writer({symbol.name: f"i{axis}" for axis, symbol in enumerate(indices)})
    words = writer.dim(entry)
    if len(words) > MAX_WORDS:
        raise SpaceError(error("SP507", f"an entry of a table of more than {MAX_WORDS:,} words"))
    return " ".join(words), tuple(writer.sizes)


def mistake(words: str, indices: int, sizes: int) -> str:
    """What is wrong with the words of a formula; nothing where it has a value."""
    height, number = 0, {"i": indices, "n": sizes}
    split = words.split()
    if len(split) > MAX_WORDS:
        return f"it has more than {MAX_WORDS:,} words"
    for word in split:
        place = _PLACE.fullmatch(word)
        if place is not None and int(place[2]) >= number[place[1]]:
            return f"it has no {word}"
        plain = place is not None or _NUMBER.fullmatch(word) is not None
        taken = 0 if plain else 2 if word in BINARY else 1 if word in UNARY else 3
        if taken == 3 and word != "if":
            return f"{word} is no word"
        if height < taken:
            return f"{word} lacks an operand"
        height += 1 - taken
    return "" if height == 1 else f"it leaves {counted(height, 'value')}"


def entry_at(words: str, indices: Sequence[Number], sizes: Sequence[Number]) -> Number:
    """The value of a formula at a place, exact where it is rational. ArithmeticError if none."""
    known = {"i": indices, "n": sizes}
    stack: list[Number] = []
    for word in words.split():
        place = _PLACE.fullmatch(word)
        if place is not None:
            stack.append(known[place[1]][int(place[2])])
        elif word in BINARY:
            last = stack.pop()
            stack.append(BINARY[word](stack.pop(), last))
        elif word in UNARY:
            stack.append(UNARY[word](stack.pop()))
        elif word == "if":
            truth, other, value = stack.pop(), stack.pop(), stack.pop()
            stack.append(value if truth else other)
        else:
            stack.append(tidy(Fraction(word)))
    (found,) = stack
    return found


def entry_of(words: str, indices: Sequence[Dim], sizes: Sequence[Dim]) -> Dim:
    """A formula as a size of its indices and sizes: what `formula` wrote. ArithmeticError where a
    part of it has no value."""
    known = {"i": indices, "n": sizes}
    stack: list[Dim | Condition] = []
    for word in words.split():
        place = _PLACE.fullmatch(word)
        if place is not None:
            stack.append(known[place[1]][int(place[2])])
        elif word in SIZES:
            last = _number(stack.pop())
            stack.append(SIZES[word](_number(stack.pop()), last))
        elif word in COMPARED:
            last = _number(stack.pop())
            stack.append(compare(word, _number(stack.pop()), last))
        elif word in JOINED:
            last = _truth(stack.pop())
            stack.append(JOINED[word](_truth(stack.pop()), last))
        elif word in UNARY:
            stack.append(function(word, _number(stack.pop())))
        elif word == "if":
            truth, other, value = _truth(stack.pop()), stack.pop(), stack.pop()
            stack.append(conditional(truth, _number(value), _number(other)))
        else:
            stack.append(Dim.of(Fraction(word)))
    (found,) = stack
    return _number(found)


SIZES: Mapping[str, Callable[[Dim, Dim], Dim]] = {
    "+": Dim.__add__,
    "-": Dim.__sub__,
    "*": Dim.__mul__,
    "/": Dim.__truediv__,
    "//": Dim.__floordiv__,
    "min": minimum,
    "max": maximum,
    "power": power,
}
COMPARED = ("<", "<=", "==", "!=")
JOINED: Mapping[str, Callable[[Condition, Condition], Condition]] = {
    "and": conjunction,
    "or": disjunction,
}


def _number(found: Dim | Condition) -> Dim:
    return found if isinstance(found, Dim) else conditional(found, Dim.of(1), Dim.of(0))


def _truth(found: Dim | Condition) -> Condition:
    return compare("!=", found, 0) if isinstance(found, Dim) else found


class _Writer:
    """Words of sizes and conditions; what no index is in becomes one of `sizes`."""

    def __init__(self, indices: Mapping[str, str]) -> None:
        self.indices = indices
        self.sizes: list[Dim] = []

    def dim(self, dim: Dim) -> list[str]:
        if dim.constant is not None:
            return [str(dim.constant)]
        if not self._indexed(dim):
            if dim not in self.sizes:
                self.sizes.append(dim)
            return [f"n{self.sizes.index(dim)}"]
        terms: dict[Monomial, Dim] = {}
        for monomial, number in dim.terms:
            own = tuple(f for f in monomial if self._indexed(f[0]))
            rest = Dim(((tuple(f for f in monomial if f not in own), number),))
            terms[own] = terms.get(own, Dim.of(0)) + rest
        # Whole numbers alone are exact: fractions share one divisor, which comes last.
        numbers = [c for c in (number.constant for number in terms.values()) if c is not None]
        scale = math.lcm(*(number.denominator for number in numbers))
        words: list[str] = []
        for own, number in terms.items():
            words += [*self._term(own, number * scale), *(["+"] if words else [])]
        return words if scale == 1 else [*words, str(scale), "/"]

    def _term(self, monomial: Monomial, number: Dim) -> list[str]:
        """A number times its atoms; 1 is left out before a factor."""
        words = [] if number == 1 and any(e > 0 for _, e in monomial) else self.dim(number)
        for atom, exponent in sorted(monomial, key=lambda factor: -factor[1]):
            for _ in range(abs(exponent)):
                sign = "*" if exponent > 0 else "/"
                words += [*self.atom(atom), *([sign] if words else [])]
        return words

    def atom(self, atom: Atom) -> list[str]:
        match atom:
            case Symbol():
                return [self.indices[atom.name]] if self._indexed(atom) else self.dim(Dim.of(atom))
            case FloorDivide():
                return [*self.dim(atom.numerator), *self.dim(atom.denominator), "//"]
            case Extremum():
                first, *others = map(self.dim, atom.operands)
                return [*first, *(w for other in others for w in (*other, atom.name))]
            case Conditional():
                sides = (*self.dim(atom.then), *self.dim(atom.otherwise))
                return [*sides, *self.condition(atom.condition), "if"]
            case Divisor():
                return self.dim(atom.divisor)
            case Function():
                return [*(w for operand in atom.operands for w in self.dim(operand)), atom.name]

    def condition(self, condition: Condition) -> list[str]:
        if not self._indexed(condition):
            return self.dim(conditional(condition, Dim.of(1), Dim.of(0)))
        match condition:
            case Compare(op, left, right):
                numbers = (number for _, number in (*left.terms, *right.terms))
                scale = math.lcm(*(number.denominator for number in numbers))
                return [*self.dim(left * scale), *self.dim(right * scale), op]
            case All(operands) | Any(operands):
                word = "and" if isinstance(condition, All) else "or"
                first, *others = map(self.condition, operands)
                return [*first, *(w for other in others for w in (*other, word))]
            case _:
                raise TypeError(f"{condition} compares no numbers")

    def _indexed(self, what: Dim | Condition | Atom) -> bool:
        return any(symbol.name in self.indices for symbol in what.symbols)
