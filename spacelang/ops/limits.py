"""How far tables and their formulas may grow, in texts of both kinds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache

from spacelang.ir.atom import (
    Atom,
    Conditional,
    Divisor,
    Extremum,
    FloorDivide,
    Function,
    Number,
    Symbol,
)
from spacelang.ir.dim import Dim, Monomial, power
from spacelang.ir.enclosure import irrational
from spacelang.ir.functions import Rational

MAX_SIDE, MAX_ENTRIES = 1 << 16, 1 << 24
"""Of a table: places on an axis, and in all."""
BITS = 63
"""Of a number in a text."""
MAX_BITS = 1 << 10
"""Of a number that a formula computes on its way."""
MAX_SIZE_BITS = 4 * MAX_BITS
"""Of a product of sizes, above its line and below it."""
FLOAT_BITS = 1 << 10
"""Of the whole number that a float is rounded to."""
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
    wide = max((_spread(monomial) for monomial, _ in base.terms), default=1)
    known = exponent.constant
    times = times if known is None else math.ceil(abs(known))
    if (len(base.terms) > 1 or wide > 1) and times > MAX_POWER:
        raise Beyond("SP507", f"a sum to the power of more than {MAX_POWER}")
    if _ways(max(len(base.terms), wide), times) > MAX_TERMS:
        raise Beyond("SP507", f"a size of more than {MAX_TERMS:,} terms")
    return power(base, exponent)


def _ways(terms: int, times: int) -> int:
    """How many terms a sum of so many has to a power."""
    return math.comb(terms + times - 1, times)


def _spread(monomial: Monomial) -> int:
    """How many terms the divisors of a product have where they are multiplied out."""
    return math.prod(
        _ways(len(atom.divisor.terms), abs(exponent))
        for atom, exponent in monomial
        if isinstance(atom, Divisor)
    )


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
    """A size itself, if its terms are few, with short numbers, low exponents and values of
    MAX_SIZE_BITS at most."""
    if len(size.terms) > MAX_TERMS:
        raise Beyond("SP507", f"a size of more than {MAX_TERMS:,} terms")
    for monomial, coefficient in size.terms:
        held(coefficient)
        held_product(monomial)
    return size


def held_product(monomial: Monomial) -> None:
    """Beyond if a product of atoms is of more than MAX_SIZE_BITS for some architecture, or of more
    than MAX_TERMS terms where what it divides by is multiplied out."""
    if not monomial or (len(monomial) == 1 and monomial[0][1] == 1):
        return  # what is in an atom was held when that was made
    factors = sum(abs(exponent) for _, exponent in monomial)
    if factors > 4 * BITS or sum(_product_bits(monomial)) > MAX_SIZE_BITS:
        raise Beyond("SP103", f"a product of more than {MAX_SIZE_BITS:,} bits")
    if _spread(monomial) > MAX_TERMS:
        raise Beyond("SP507", f"a size of more than {MAX_TERMS:,} terms")


Bits = tuple[int, int]
"""At most how many bits stand above the line of a fraction and below it."""


def _number_bits(number: Rational) -> Bits:
    return abs(number.numerator).bit_length(), (number.denominator - 1).bit_length()


def _product_bits(monomial: Monomial) -> Bits:
    above = below = 0
    for atom, exponent in monomial:
        top, bottom = _bits(atom) if exponent > 0 else reversed(_bits(atom))
        above, below = above + abs(exponent) * top, below + abs(exponent) * bottom
    return above, below


@lru_cache(maxsize=65536)
def _size_bits(size: Dim) -> Bits:
    parts = [
        (top + above, bottom + below)
        for (top, bottom), (above, below) in (
            (_number_bits(number), _product_bits(monomial)) for monomial, number in size.terms
        )
    ]
    line = sum(below for _, below in parts)
    most = max((above + line - below for above, below in parts), default=0)
    return most + (len(parts) - 1).bit_length() if parts else 0, line


@lru_cache(maxsize=65536)
def _bits(atom: Atom) -> Bits:
    """Of an exact value of an atom; floats are short, and what is free is tried with few bits."""
    match atom:
        case Symbol():
            return _widest(_number_bits(n) for n in atom.points if isinstance(n, int | Fraction))
        case FloorDivide(numerator, denominator):
            (above, _), (_, below) = _size_bits(numerator), _size_bits(denominator)
            return max(above + below, FLOAT_BITS if irrational(atom) else 0), 0
        case Extremum(_, operands):
            return _widest(map(_size_bits, operands))
        case Conditional(_, then, otherwise):
            return _widest((_size_bits(then), _size_bits(otherwise)))
        case Divisor(divisor):
            return _size_bits(divisor)
        case Function("power"):
            return 4 * BITS, 4 * BITS
        case Function("round", (operand,)):
            return max(_size_bits(operand)[0], FLOAT_BITS if irrational(operand) else 0), 0
        case Function("sqrt" | "rsqrt" as name, (operand,)) if not irrational(operand):
            above, below = _size_bits(operand)
            return (above, below) if name == "sqrt" else (below, above)
        case Function():
            return 0, 0


def _widest(sides: Iterable[Bits]) -> Bits:
    tops, bottoms = zip(*sides, strict=True) if (sides := tuple(sides)) else ((0,), (0,))
    return max(tops), max(bottoms)
