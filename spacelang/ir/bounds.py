"""Arithmetic of ranges: their ends are exact numbers or infinities.

(2, 3) * (-1, inf)    1/(2, 4)    (-1, 2) to the power of 2

An end is a float only where it is an infinity. No end is lost: a sum or product with an infinity is
one, however large or small the exact number is.
"""

from __future__ import annotations

import math
from fractions import Fraction

Bound = Fraction | float
"""An end of a range: exact, or an infinity."""
Interval = tuple[Bound, Bound]

EVERYTHING: Interval = (-math.inf, math.inf)


def plus(a: Bound, b: Bound) -> Bound:
    """The sum of two ends of one side."""
    if isinstance(a, float):
        return a
    return b if isinstance(b, float) else a + b


def _times(a: Bound, b: Bound) -> Bound:
    if a == 0 or b == 0:
        return Fraction(0)
    if isinstance(a, float) or isinstance(b, float):
        return math.inf if (a > 0) == (b > 0) else -math.inf
    return a * b


def multiplied(a: Interval, b: Interval) -> Interval:
    """What products of two numbers of these ranges may be."""
    corners = [_times(x, y) for x in a for y in b]
    return min(corners), max(corners)


def reciprocal(a: Interval) -> Interval:
    """What 1 over a number of this range may be; everything if that may be zero."""
    low, high = a
    if low <= 0 <= high:
        return EVERYTHING
    return _inverse(high), _inverse(low)


def _inverse(a: Bound) -> Bound:
    return Fraction(0) if isinstance(a, float) else 1 / a


def powered(a: Interval, exponent: int) -> Interval:
    """What whole powers of a number of this range may be."""
    factor = reciprocal(a) if exponent < 0 else a
    if exponent % 2 == 0:
        factor = _even(factor)
    result: Interval = (Fraction(1), Fraction(1))
    for _ in range(abs(exponent) // 2 if exponent % 2 == 0 else abs(exponent)):
        result = multiplied(result, factor)
    return result


def _even(a: Interval) -> Interval:
    """The range of a square."""
    ends = [_times(end, end) for end in a]
    return (Fraction(0) if a[0] <= 0 <= a[1] else min(ends)), max(ends)


def floored(a: Interval) -> Interval:
    """The range of what is rounded down."""
    low, high = (end if isinstance(end, float) else Fraction(math.floor(end)) for end in a)
    return low, high
