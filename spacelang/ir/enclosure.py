"""What a size surely is at a point where floats are in it, and whether a condition surely holds.

    sqrt(3)*sqrt(3) at {}    within 2**-46 of 3, so that nothing tells it from 3

A float is no proof: `sqrt(n)*sqrt(n)` comes out as 2.9999999999999996. Here every function that is
not a rational one has a range with exact ends that holds its true value, all else is exact, and
what is asked of a size is answered where the whole range gives one answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, cast

from spacelang.ir.atom import (
    Atom,
    Conditional,
    Divisor,
    Extremum,
    FloorDivide,
    Function,
    Symbol,
    Value,
)
from spacelang.ir.bounds import (
    EVERYTHING,
    Bound,
    Interval,
    floored,
    multiplied,
    plus,
    powered,
    reciprocal,
)
from spacelang.ir.functions import FUNCTIONS, Rational

if TYPE_CHECKING:
    from spacelang.ir.condition import Compare, Condition
    from spacelang.ir.dim import Dim, Monomial

ERROR = Fraction(1, 1 << 46)
"""A float of a function is so near to the true value, relative to it: some 64 of the last bits."""
TINY = Fraction(1, 1 << 1070)
"""And by so much more where floats lose their last bits."""

RANGES: Mapping[str, Interval] = {
    **dict.fromkeys(("sqrt", "rsqrt", "exp"), (Fraction(0), math.inf)),
    **dict.fromkeys(("sin", "cos"), (Fraction(-1), Fraction(1))),
}
"""What a function is at most and at least, whatever it is given."""


@lru_cache(maxsize=65536)
def irrational(what: Dim | Atom | Condition) -> bool:
    """Whether a function such as sqrt is in it, so that floats may be, or may decide."""
    match what:
        case Symbol():
            return False
        case Function():
            return True
        case FloorDivide(numerator, denominator):
            return irrational(numerator) or irrational(denominator)
        case Extremum(_, operands):
            return any(map(irrational, operands))
        case Conditional(condition, then, otherwise):
            return irrational(condition) or irrational(then) or irrational(otherwise)
        case Divisor(divisor):
            return irrational(divisor)
        case _:
            return any(map(irrational, _parts(what)))


def _parts(what: Dim | Condition) -> Iterable[Dim | Atom | Condition]:
    """The atoms of a size, the sides or operands of a condition: by their fields, for the modules
    of their classes import this one."""
    terms: tuple[tuple[Monomial, Rational], ...] = getattr(what, "terms", ())
    if terms:
        return (atom for monomial, _ in terms for atom, _ in monomial)
    if hasattr(what, "left"):
        compared = cast("Compare", what)
        return compared.left, compared.right
    inner: tuple[Condition, ...] = getattr(what, "operands", ())
    return inner


def enclosed(size: Dim | Atom, values: Mapping[str, Value]) -> Interval:
    """A range that holds the true value, a point if that is known. ArithmeticError where it is
    undefined, Unbound without the value of a decision."""
    if not irrational(size):
        value = Fraction(size.at(values))
        return value, value
    match size:
        case Function():
            return _called(size, values)
        case FloorDivide():
            below = reciprocal(enclosed(size.denominator, values))
            return floored(multiplied(enclosed(size.numerator, values), below))
        case Extremum():
            lows, highs = zip(*(enclosed(o, values) for o in size.operands), strict=True)
            pick = min if size.name == "min" else max
            return pick(lows), pick(highs)
        case Conditional():
            truth = told(size.condition, values)
            if truth is not None:
                return enclosed(size.then if truth else size.otherwise, values)
            (a, b), (c, d) = enclosed(size.then, values), enclosed(size.otherwise, values)
            return min(a, c), max(b, d)
        case Divisor():
            return enclosed(size.divisor, values)
        case Symbol():
            raise TypeError(f"{size} is exact")
        case _:
            return summed(size, lambda atom: enclosed(atom, values))


def summed(size: Dim, look: Callable[[Atom], Interval]) -> Interval:
    """The range of a size by those of its atoms."""
    low: Bound = Fraction(0)
    high: Bound = Fraction(0)
    for monomial, coefficient in size.terms:
        term: Interval = (Fraction(coefficient), Fraction(coefficient))
        for atom, exponent in monomial:
            term = multiplied(term, powered(look(atom), exponent))
        low, high = plus(low, term[0]), plus(high, term[1])
    return low, high


def _called(atom: Function, values: Mapping[str, Value]) -> Interval:
    """A function of its table at what its operands may be: each rises or falls throughout in each
    operand, but for sine and cosine."""
    ranges = [enclosed(operand, values) for operand in atom.operands]
    function, widest = FUNCTIONS[atom.name], RANGES.get(atom.name, EVERYTHING)
    if all(low == high for low, high in ranges):
        exact = function(*(low for low, _ in ranges))
        if not isinstance(exact, float):
            return Fraction(exact), Fraction(exact)
    if any(isinstance(end, float) for ends in ranges for end in ends):
        return widest
    if atom.name == "round":
        low, high = (Fraction(round(end)) for end in ranges[0])
        return low, high
    try:
        ends = [_outward(Fraction(low), Fraction(high)) for low, high in ranges]
        if atom.name in ("sin", "cos"):
            (low, high), middle = ends[0], Fraction(function(ends[0][0]))
            around = Fraction(high) - Fraction(low) + ERROR
            return max(Fraction(-1), middle - around), min(Fraction(1), middle + around)
        if atom.name != "exp" and ends[0][0] <= 0:  # a root, logarithm or power near the edge
            return widest
        found = [Fraction(function(*corner)) for corner in product(*ends)]
    except OverflowError:
        return widest
    low, high = min(found), max(found)
    down, up = _outward(low - abs(low) * ERROR - TINY, high + abs(high) * ERROR + TINY)
    return max(_end(down), widest[0]), min(_end(up), widest[1])


def _end(number: float) -> Bound:
    return Fraction(number) if math.isfinite(number) else number


def _outward(low: Fraction, high: Fraction) -> tuple[float, float]:
    """Floats at or beyond the ends of a range."""
    down, up = float(low), float(high)
    return (
        math.nextafter(down, -math.inf) if down > low else down,
        math.nextafter(up, math.inf) if up < high else up,
    )


def told(condition: Condition, values: Mapping[str, Value]) -> bool | None:
    """Whether a condition holds at a point; None where a float is too close to tell.

    ArithmeticError where it is undefined, Unbound without the value of a decision.
    """
    if not irrational(condition):
        return condition.at(values)
    from spacelang.ir.condition import All, Any, Compare

    match condition:
        case Compare():
            truth = _compared(
                condition.op, enclosed(condition.left, values), enclosed(condition.right, values)
            )
            return truth if truth == condition.at(values) else None
        case All() | Any():
            deciding, doubt = isinstance(condition, Any), False
            try:
                for operand in condition.operands:
                    truth = told(operand, values)
                    if truth is deciding:
                        return deciding
                    doubt = doubt or truth is None
            except ArithmeticError:  # of what is perhaps not read
                if doubt:
                    return None
                raise
            return None if doubt else not deciding
        case _:
            raise TypeError(f"{condition} is exact")


def _compared(op: str, left: Interval, right: Interval) -> bool | None:
    """Whether `left op right` of any two numbers of these ranges; None if it hangs on which."""
    (low, high), (least, most) = left, right
    match op:
        case "<":
            return True if high < least else False if low >= most else None
        case "<=":
            return True if high <= least else False if low > most else None
        case _:
            apart = high < least or low > most
            same = low == high == least == most
            return (op == "!=") == apart if apart or same else None
