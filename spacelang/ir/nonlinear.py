"""Rounding, extrema, conditionals and functions of sizes; replacing decisions inside them.

An atom is simplified when it is made, by the candidates of its own decisions: `min(window, 56)`
with windows of 7 and 14 is `window`, `(k - 1)//2` with odd kernels is `(k - 1)/2`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache

from spacelang.ir.atom import (
    FUNCTIONS,
    Atom,
    Conditional,
    Divisor,
    Extremum,
    FloorDivide,
    Function,
    Symbol,
)
from spacelang.ir.condition import FALSE, TRUE, Compare, Condition, Not, negate
from spacelang.ir.enclosure import irrational
from spacelang.ir.facts import columns, exact_table, interval, surely_whole, truths
from spacelang.ir.functions import Rational
from spacelang.ir.monomial import Monomial, by_name, joined
from spacelang.ir.polynomial import Dim, of_atom
from spacelang.ir.replace import Replacement, check_replacement, replacement_size

Size = Dim | Symbol | int | float | Fraction


# Rounding down.


def floor(a: Size) -> Dim:
    """The largest whole number that is not above `a`."""
    size = Dim.of(a)
    return _floor(size) if size.constant is None else Dim.of(math.floor(size.constant))


@lru_cache(maxsize=16384)
def _floor(quotient: Dim) -> Dim:
    outside: dict[Monomial, Rational] = {}
    inside: dict[Monomial, Rational] = {}
    for monomial, value in quotient.terms:
        if _term_whole(monomial, value):
            outside[monomial] = value
        elif not monomial:
            outside[()] = math.floor(value)
            inside[()] = value - outside[()]
        else:
            inside[monomial] = value
    whole = _picked(quotient, outside)
    rest = _picked(quotient, inside)
    return whole + _floor_of_rest(rest)


def _picked(dim: Dim, terms: Mapping[Monomial, Rational]) -> Dim:
    """The given terms, in the order they have in `dim`."""
    return Dim(tuple((m, terms[m]) for m, _ in dim.terms if terms.get(m)))


def _term_whole(monomial: Monomial, value: Rational) -> bool:
    term = Dim(((monomial, value),))
    if surely_whole(term):
        return True
    values = exact_table(term)
    return values is not None and all(Fraction(v).denominator == 1 for v in values)


def _floor_of_rest(rest: Dim) -> Dim:
    """The floor of what has no whole terms left."""
    if rest.constant is not None:
        return Dim.of(math.floor(rest.constant))
    numerator, denominator = _fraction(rest)
    values = exact_table(rest)
    if values is None and irrational(rest):  # nothing exact follows from floats
        return of_atom(FloorDivide(numerator, denominator))
    low, high = interval(rest)
    if (
        isinstance(low, Fraction)
        and isinstance(high, Fraction)
        and math.floor(low) == math.floor(high)
    ):
        return Dim.of(math.floor(low))
    if values is not None:
        parts = {Fraction(value) - math.floor(value) for value in values}
        if len(parts) == 1:  # always whole, or always as far above a whole number
            return rest - parts.pop()
        rows = columns(numerator, denominator)
        if rows is not None:
            remainders = {top % bottom for top, bottom in rows}
            if len(remainders) == 1:
                return (numerator - Fraction(remainders.pop())) / denominator
    nested = _nested(rest)
    return of_atom(FloorDivide(numerator, denominator)) if nested is None else nested


def _fraction(dim: Dim) -> tuple[Dim, Dim]:
    """Numerator and denominator, both without negative exponents."""
    depths: dict[Atom, int] = {}
    for monomial, _ in dim.terms:
        for atom, exponent in monomial:
            if exponent < 0:
                depths[atom] = max(depths.get(atom, 0), -exponent)
    scale = math.lcm(*(value.denominator for _, value in dim.terms))
    denominator = Dim.of(scale) * _expanded(by_name(depths.items()))
    numerator = Dim.of(0)
    for monomial, value in dim.terms:
        numerator += _expanded(joined(monomial, by_name(depths.items()))) * (value * scale)
    return numerator, denominator


def _expanded(monomial: Monomial) -> Dim:
    """A monomial without negative exponents, its divisors multiplied out."""
    result = Dim.of(1)
    for atom, exponent in monomial:
        result *= (atom.divisor if isinstance(atom, Divisor) else of_atom(atom)) ** exponent
    return result


def _nested(rest: Dim) -> Dim | None:
    """floor((n//d + i)/m) is floor((n/d + i)/m) for a positive whole m and a whole i."""
    (monomial, value), *others = rest.terms
    if len(monomial) != 1 or monomial[0][1] != 1 or value.numerator != 1:
        return None
    inner = monomial[0][0]
    shift: Rational = 0
    if others:
        (second, shift), *more = others
        if second or more or (shift * value.denominator).denominator != 1:
            return None
    if not isinstance(inner, FloorDivide):
        return None
    return floor(inner.numerator / inner.denominator * value + shift)


# Extrema, conditionals, functions.


def minimum(a: Size, b: Size) -> Dim:
    """The smaller of two sizes."""
    return _extremum("min", Dim.of(a), Dim.of(b))


def maximum(a: Size, b: Size) -> Dim:
    """The larger of two sizes."""
    return _extremum("max", Dim.of(a), Dim.of(b))


@lru_cache(maxsize=16384)
def _extremum(name: str, a: Dim, b: Dim) -> Dim:
    kept: list[Dim] = []
    for operand in (*_operands(name, a), *_operands(name, b)):
        if any(_wins(name, other, operand) for other in kept):
            continue
        kept = [other for other in kept if not _wins(name, operand, other)]
        kept.append(operand)
    if len(kept) == 1:
        return kept[0]
    return of_atom(Extremum(name, tuple(sorted(kept, key=str))))


def _operands(name: str, dim: Dim) -> tuple[Dim, ...]:
    """The operands of a nested extremum of the same kind, else the size itself."""
    if len(dim.terms) == 1:
        monomial, coefficient = dim.terms[0]
        if coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1:
            atom = monomial[0][0]
            if isinstance(atom, Extremum) and atom.name == name:
                return atom.operands
    return (dim,)


def _wins(name: str, winner: Dim, loser: Dim) -> bool:
    """Whether the first is the extremum of the two everywhere."""
    low, high = interval(loser - winner)
    return low >= 0 if name == "min" else high <= 0


def conditional(condition: Condition, a: Size, b: Size) -> Dim:
    """`a` where the condition holds, else `b`."""
    return _conditional(condition, Dim.of(a), Dim.of(b))


@lru_cache(maxsize=16384)
def _conditional(condition: Condition, a: Dim, b: Dim) -> Dim:
    if isinstance(condition, Not) or (isinstance(condition, Compare) and condition.op == "!="):
        return _conditional(negate(condition), b, a)
    if condition in (TRUE, FALSE):
        return a if condition == TRUE else b
    if a == b:
        return a
    decided = truths(condition)
    if decided is not None and len(decided) == 1:
        return a if True in decided else b
    atom = Conditional(condition, a, b)
    for side in () if irrational(atom) else (a, b):
        rows = columns(atom, side)
        if rows is not None and all(x == y for x, y in rows):
            return side
    return of_atom(atom)


def function(name: str, *operands: Size) -> Dim:
    """A function of the table FUNCTIONS; exact where its value is rational. KeyError if unknown."""
    sizes = tuple(Dim.of(operand) for operand in operands)
    constants = [size.constant for size in sizes if size.constant is not None]
    if len(constants) == len(sizes):
        value = FUNCTIONS[name](*constants)
        if not isinstance(value, float):
            return Dim.of(value)
    if name not in FUNCTIONS:
        raise KeyError(name)
    return of_atom(Function(name, sizes))


def sqrt(a: Size) -> Dim:
    """The square root; a number if `a` is a perfect square."""
    return function("sqrt", a)


def rsqrt(a: Size) -> Dim:
    """1 / sqrt(a); a number if `a` is a perfect square."""
    return function("rsqrt", a)


def power(a: Size, b: Size) -> Dim:
    """`a` to the power of `b`; a polynomial if `b` is a whole constant."""
    base, exponent = Dim.of(a), Dim.of(b)
    if exponent.constant is not None and exponent.constant.denominator == 1:
        return base ** int(exponent.constant)
    return function("power", base, exponent)


# Substitution.


@lru_cache(maxsize=65536)
def substituted(dim: Dim, items: tuple[tuple[str, Replacement], ...]) -> Dim:
    """`dim` with the named decisions replaced; see `Dim.substitute`."""
    mapping = dict(items)
    for symbol in dim.symbols:
        if symbol.name in mapping:
            check_replacement(symbol, mapping[symbol.name])
    values = {k: v for k, v in items if not isinstance(v, Dim | Symbol)}
    if all(symbol.name in values for symbol in dim.symbols):
        value = dim.at(values)
        if not isinstance(value, float):
            return Dim.of(value)
    total = Dim.of(0)
    for monomial, coefficient in dim.terms:
        term = Dim.of(coefficient)
        for atom, exponent in monomial:
            factor = _rebuilt(atom, mapping)
            if exponent > 0:
                term = term * factor**exponent
            for _ in range(-exponent):  # one by one, as it is spelt: multiplied out it is another
                term = term / factor
        total = total + term
    return total


def _rebuilt(atom: Atom, mapping: Mapping[str, Replacement]) -> Dim:
    match atom:
        case Symbol():
            return replacement_size(atom, mapping.get(atom.name, atom))
        case FloorDivide():
            return atom.numerator.substitute(mapping) // atom.denominator.substitute(mapping)
        case Extremum():
            combine = minimum if atom.name == "min" else maximum
            first, *rest = (operand.substitute(mapping) for operand in atom.operands)
            for operand in rest:
                first = combine(first, operand)
            return first
        case Conditional():
            condition = atom.condition.substitute(mapping)
            if condition in (TRUE, FALSE):  # the other side may be undefined now
                return (atom.then if condition == TRUE else atom.otherwise).substitute(mapping)
            then, otherwise = atom.then.substitute(mapping), atom.otherwise.substitute(mapping)
            return conditional(condition, then, otherwise)
        case Divisor():
            return atom.divisor.substitute(mapping)
        case Function():
            return function(atom.name, *(operand.substitute(mapping) for operand in atom.operands))
