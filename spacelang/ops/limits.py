"""How far tables and their formulas may grow, in texts of both kinds."""

from __future__ import annotations

from spacelang.ir.atom import Number
from spacelang.ir.dim import Dim, power

MAX_SIDE, MAX_ENTRIES = 1 << 16, 1 << 24
"""Of a table: places on an axis, and in all."""
BITS = 63
"""Of a number in a text."""
MAX_BITS = 1 << 10
"""Of a number that a formula computes on its way."""
MAX_TERMS = 2_000
MAX_DEPTH = 64
"""How deep numbers may stand in each other, as brackets of a text."""
MAX_POWER = 8
"""Of a sum of terms, which is multiplied out."""


class Beyond(ArithmeticError):
    """What is not computed as it would grow past a limit; `code` is that of the diagnostic."""

    def __init__(self, code: str, headline: str) -> None:
        super().__init__(headline)
        self.code = code


def raised(base: Dim, exponent: Dim) -> Dim:
    """`power` of two sizes; Beyond, before it is computed, where it may pass 63 bits by far."""
    largest, times = _magnitude(base), _magnitude(exponent)
    if times * largest.bit_length() > 4 * BITS or times > 4 * BITS:
        raise Beyond("SP103", f"a power of more than {BITS} bits")
    if len(base.terms) > 1 and times > MAX_POWER:
        raise Beyond("SP507", f"a sum to the power of more than {MAX_POWER}")
    return power(base, exponent)


def _magnitude(value: Dim) -> int:
    """A whole number above the size of a number and of its inverse; 2^8 for a free one."""
    try:
        ends = [abs(n) for n in value.bounds()]
    except ValueError:
        return 1 << 8
    return 1 + int(max([*ends, *(1 / n for n in ends if n)]))


def held(number: Number) -> Number:
    """A number itself, if it is of MAX_BITS at most."""
    if isinstance(number, float):
        return number
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > MAX_BITS:
        raise Beyond("SP103", f"a number of more than {MAX_BITS:,} bits")
    return number


def held_size(size: Dim) -> Dim:
    """A size itself, if its terms are few, with short numbers and low exponents."""
    if len(size.terms) > MAX_TERMS:
        raise Beyond("SP507", f"a size of more than {MAX_TERMS:,} terms")
    for monomial, coefficient in size.terms:
        held(coefficient)
        if sum(abs(exponent) for _, exponent in monomial) > 4 * BITS:
            raise Beyond("SP103", f"a power of more than {BITS} bits")
    return size
