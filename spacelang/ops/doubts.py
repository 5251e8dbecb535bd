"""What of a size may have no value: divisors that may be zero, functions outside of their domain.

8//(i - 3) + sqrt(n)    i - 3 where i may be 3, sqrt(n) where n may be below 0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

from spacelang.ir.atom import Atom, Conditional, Divisor, Extremum, FloorDivide, Function, Symbol
from spacelang.ir.condition import All, Any, Compare, Condition
from spacelang.ir.dim import Dim
from spacelang.ir.facts import Bound, interval, never_zero, table

Doubts = frozenset[Dim | Function]
NONE: Doubts = frozenset()
LARGEST_EXPONENT = 700
"""Of e, so that the power is a float."""
DOMAINS: Mapping[str, Callable[[Bound], bool]] = {
    "sqrt": lambda number: number >= 0,
    "rsqrt": lambda number: number > 0,
    "log": lambda number: number > 0,
    "exp": lambda number: number <= LARGEST_EXPONENT,
    **dict.fromkeys(("sin", "cos", "round"), math.isfinite),
}
"""For which numbers a function of one has a value. Each is a range, so its ends tell."""


@lru_cache(maxsize=16384)
def doubts(size: Dim | Condition) -> Doubts:
    """The divisors and functions in it, at any depth, that are not known to have a value wherever
    its decisions are."""
    match size:
        case Dim(terms):
            return NONE.union(*(_atom(atom) for monomial, _ in terms for atom, _ in monomial))
        case Compare(_, left, right):
            return doubts(left) | doubts(right)
        case All(operands) | Any(operands):
            return NONE.union(*map(doubts, operands))
        case _:
            return NONE


def _atom(atom: Atom) -> Doubts:
    match atom:
        case Symbol():
            return NONE
        case FloorDivide(numerator, denominator):
            return doubts(numerator) | _divisor(denominator)
        case Divisor(divisor):
            return _divisor(divisor)
        case Extremum(_, operands):
            return NONE.union(*map(doubts, operands))
        case Conditional(condition, then, otherwise):
            return doubts(condition) | doubts(then) | doubts(otherwise)
        case Function(_, operands):
            own = NONE if _has_value(atom) else frozenset((atom,))
            return own.union(*map(doubts, operands))


def _divisor(divisor: Dim) -> Doubts:
    return doubts(divisor) | (NONE if never_zero(divisor) else frozenset((divisor,)))


def _has_value(atom: Function) -> bool:
    if table(atom) is not None:
        return True
    inside = DOMAINS.get(atom.name)
    return inside is not None and all(map(inside, interval(atom.operands[0])))
