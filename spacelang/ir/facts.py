"""What is known of a size without asking for a proof: its values, its range, its common divisor.

Values come from enumeration of the size's own decisions (at most LIMIT points); past that, and for
free sizes, from interval arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, cast

from spacelang.ir.atom import (
    LIMIT,
    Atom,
    Conditional,
    Divisor,
    Extremum,
    FloorDivide,
    Function,
    Number,
    Symbol,
    Value,
)
from spacelang.ir.bounds import (
    EVERYTHING,
    Interval,
    floored,
    multiplied,
    reciprocal,
)
from spacelang.ir.enclosure import RANGES, enclosed, irrational, summed, told
from spacelang.ir.functions import Rational, plain

if TYPE_CHECKING:
    from spacelang.ir.condition import Condition
    from spacelang.ir.dim import Dim


def count(symbols: Iterable[Symbol]) -> int | None:
    """How many points the symbols span; None if one of them is free."""
    total = 1
    for symbol in symbols:
        if symbol.free:
            return None
        total *= len(symbol.points)
    return total


def enumerable(symbols: Iterable[Symbol]) -> bool:
    """Whether the symbols span few enough points to visit each."""
    total = count(symbols)
    return total is not None and total <= LIMIT


def points(symbols: Iterable[Symbol]) -> Iterator[dict[str, Value]]:
    """Every assignment of the symbols, in a fixed order."""
    ordered = sorted(symbols, key=lambda symbol: symbol.name)
    names = [symbol.name for symbol in ordered]
    for values in product(*(symbol.points for symbol in ordered)):
        yield dict(zip(names, values, strict=True))


def columns(*sizes: Dim | Atom) -> list[tuple[Number, ...]] | None:
    """The sizes' values at every common point; None if too many, free or somewhere undefined."""
    symbols = frozenset[Symbol]().union(*(size.symbols for size in sizes))
    if not enumerable(symbols):
        return None
    if len(symbols) == 1:
        (symbol,) = symbols
        found = [_column(size, symbol) for size in sizes]
        kept = [column for column in found if column is not None]
        return list(zip(*kept, strict=True)) if len(kept) == len(found) else None
    try:
        return [tuple(size.at(point) for size in sizes) for point in points(symbols)]
    except ArithmeticError:
        return None


@lru_cache(maxsize=256)
def _column(size: Dim | Atom, symbol: Symbol) -> tuple[Number, ...] | None:
    """The values of what hangs on one decision; None where it is somewhere undefined.

    That of a conditional is put together of those of its sides: a chain of many is looked at once
    for each of them, and not from its start.
    """
    atom = size if isinstance(size, Conditional) else _conditional(size)
    each = [{symbol.name: value} for value in symbol.points]
    try:
        if atom is not None:
            then, otherwise = _column(atom.then, symbol), _column(atom.otherwise, symbol)
            if then is not None and otherwise is not None:  # else undefined where it is not taken
                rows = zip(each, then, otherwise, strict=True)
                return tuple(a if atom.condition.at(point) else b for point, a, b in rows)
        return tuple(size.at(point) for point in each)
    except ArithmeticError:
        return None


def _conditional(size: Dim | Atom) -> Conditional | None:
    """The conditional that a size is, if it is just one."""
    terms = getattr(size, "terms", ())
    if len(terms) != 1 or terms[0][1] != 1 or len(terms[0][0]) != 1:
        return None
    ((atom, exponent),) = terms[0][0]
    return atom if isinstance(atom, Conditional) and exponent == 1 else None


@lru_cache(maxsize=65536)
def table(size: Dim | Atom) -> tuple[Number, ...] | None:
    """The distinct values of a size; None if too many points, free or somewhere undefined."""
    rows = columns(size)
    return None if rows is None else tuple(dict.fromkeys(value for (value,) in rows))


@lru_cache(maxsize=65536)
def truths(condition: Condition) -> frozenset[bool] | None:
    """The truth values a condition takes; None if too many points, free, undefined or too close to
    tell."""
    if not enumerable(condition.symbols):
        return None
    try:
        found = [told(condition, point) for point in points(condition.symbols)]
    except ArithmeticError:
        return None
    kept = frozenset(truth for truth in found if truth is not None)
    return None if None in found else kept


def exact_table(size: Dim | Atom) -> tuple[Rational, ...] | None:
    """As `table`, but None if a value is not known exactly: a float, or what one decides."""
    if not irrational(size):
        values = table(size)
        return None if values is None else cast("tuple[Rational, ...]", values)
    ranges = enclosures(size) or (EVERYTHING,)
    kept = [plain(low) for low, high in ranges if low == high and isinstance(low, Fraction)]
    return tuple(dict.fromkeys(kept)) if len(kept) == len(ranges) else None


@lru_cache(maxsize=4096)
def enclosures(size: Dim | Atom) -> tuple[Interval, ...] | None:
    """A range that holds the true value, for each point; None if too many, free or undefined."""
    if not enumerable(size.symbols):
        return None
    try:
        return tuple(enclosed(size, point) for point in points(size.symbols))
    except ArithmeticError:
        return None


def _visited(size: Dim | Atom) -> Interval | None:
    """The range of a size by each of its points; None if too many, free or undefined."""
    values = table(size)
    if values is None:
        return None
    if not irrational(size):
        return Fraction(min(values)), Fraction(max(values))
    lows, highs = zip(*(enclosures(size) or (EVERYTHING,)), strict=True)
    return min(lows), max(highs)


def atom_interval(atom: Atom) -> Interval:
    """The same of an atom."""
    visited = _visited(atom)
    if visited is not None:
        return visited
    match atom:
        case Symbol():
            # Enumerable symbols were settled above: this one is free or has too many values.
            if atom.free:
                return EVERYTHING if atom.rate else (Fraction(1), math.inf)
            low, high = atom.points[-1], atom.points[0]  # numbers from the largest down
            assert isinstance(low, int | Fraction)
            assert isinstance(high, int | Fraction)
            return Fraction(low), Fraction(high)
        case FloorDivide():
            below = reciprocal(interval(atom.denominator))
            return floored(multiplied(interval(atom.numerator), below))
        case Extremum():
            lows, highs = zip(*(interval(operand) for operand in atom.operands), strict=True)
            pick = min if atom.name == "min" else max
            return pick(lows), pick(highs)
        case Conditional():
            (a, b), (c, d) = interval(atom.then), interval(atom.otherwise)
            return min(a, c), max(b, d)
        case Divisor():
            return interval(atom.divisor)
        case Function():
            return RANGES.get(atom.name, EVERYTHING)


@lru_cache(maxsize=65536)
def interval(dim: Dim) -> Interval:
    """A range that holds every value: exact ends if enumerable and without functions that are not
    rational, else by interval arithmetic."""
    if grows(dim):
        smallest = {symbol.name: symbol.points[-1] for symbol in dim.symbols}
        largest = {symbol.name: symbol.points[0] for symbol in dim.symbols}
        return Fraction(dim.at(smallest)), Fraction(dim.at(largest))
    visited = _visited(dim)
    if visited is not None:
        return visited
    return summed(dim, atom_interval)


def grows(dim: Dim) -> bool:
    """Whether it is a sum of products of decisions that are never negative, so that it grows with
    each: its ends are those of all decisions."""
    return all(
        coefficient > 0
        and all(
            isinstance(atom, Symbol) and exponent > 0 and _never_negative(atom)
            for atom, exponent in monomial
        )
        for monomial, coefficient in dim.terms
    )


def _never_negative(symbol: Symbol) -> bool:
    smallest = symbol.points[-1] if symbol.points else None
    return isinstance(smallest, int | Fraction) and smallest >= 0


def never_zero(dim: Dim) -> bool:
    """Whether the size is certainly not zero anywhere."""
    values = table(dim)
    if values is not None:
        ranges = (enclosures(dim) or (EVERYTHING,)) if irrational(dim) else ()
        return 0 not in values and all(low > 0 or high < 0 for low, high in ranges)
    if len(dim.terms) == 1:  # a product is zero only if a factor is
        return all(_atom_never_zero(atom) for atom, exponent in dim.terms[0][0] if exponent > 0)
    low, high = interval(dim)
    return low > 0 or high < 0


def _atom_never_zero(atom: Atom) -> bool:
    if isinstance(atom, Symbol):
        return 0 not in atom.points and not atom.rate
    low, high = atom_interval(atom)
    return low > 0 or high < 0


def _common(numbers: Iterable[int | Fraction]) -> Fraction:
    """The greatest common divisor of rational numbers: each is a whole multiple of it."""
    top, bottom = 0, 1
    for number in numbers:
        joint = math.lcm(bottom, number.denominator)
        top = math.gcd(top * (joint // bottom), number.numerator * (joint // number.denominator))
        bottom = joint
    return Fraction(top, bottom)


@lru_cache(maxsize=65536)
def _atom_content(atom: Atom, exponent: int) -> Fraction | None:
    values = exact_table(atom)
    if values is not None and not (exponent < 0 and 0 in values):
        return _common(Fraction(value) ** exponent for value in values)
    if exponent < 0:
        return None
    match atom:
        case Symbol() if atom.free:
            known = None if atom.rate else Fraction(1)
        case Symbol():
            known = _common(value for value in atom.points if isinstance(value, int | Fraction))
        case FloorDivide():
            known = Fraction(1)
        case Extremum():
            known = _joint(content(operand) for operand in atom.operands)
        case Conditional():
            known = _joint((content(atom.then), content(atom.otherwise)))
        case Function(name="round"):
            known = Fraction(1)
        case Divisor() | Function():
            known = None
    return None if known is None else known**exponent


def _joint(contents: Iterable[Fraction | None]) -> Fraction | None:
    kept: list[Fraction] = []
    for part in contents:
        if part is None:
            return None
        kept.append(part)
    return _common(kept)


@lru_cache(maxsize=65536)
def content(dim: Dim) -> Fraction | None:
    """A number of which every value is a whole multiple, from the terms alone; None if unknown."""
    return _joint(_term_content(monomial, factor) for monomial, factor in dim.terms)


def _term_content(monomial: tuple[tuple[Atom, int], ...], coefficient: Rational) -> Fraction | None:
    total = Fraction(abs(coefficient))
    for atom, exponent in monomial:
        part = _atom_content(atom, exponent)
        if part is None:
            return None
        total *= part
    return total


def surely_whole(dim: Dim) -> bool:
    """Whether the terms show it whole everywhere: each term's common divisor is whole."""
    known = content(dim)
    return known is not None and known.denominator == 1
