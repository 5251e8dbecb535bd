"""The ring of sizes: polynomials over decisions and other atoms, exponents may be negative.

    192*heads + 1    H*W/(w*w)    x/(x + 1)

Use `spacelang.ir.dim`, which has these and what is no polynomial. A normal form is the sorted sum
of its terms; what is divided by and nowhere zero cancels, a sum by long division.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

from spacelang.ir.atom import LIMIT, Atom, Divisor, Number, Symbol, Value, atom_order, exact, tidy
from spacelang.ir.enclosure import irrational
from spacelang.ir.facts import exact_table, interval, never_zero, table
from spacelang.ir.functions import Rational, plain
from spacelang.ir.monomial import Monomial, joined, long_division, order, shared, without
from spacelang.ir.spell import spell


@dataclass(frozen=True, eq=False)
class Dim:
    """An immutable size; made by `Dim.of`, arithmetic and the functions of this module."""

    terms: tuple[tuple[Monomial, Rational], ...] = ()
    """Whole coefficients are of type int, which is some twenty times faster than Fraction."""

    @staticmethod
    def of(x: int | float | Fraction | Symbol | Dim) -> Dim:
        """A number (floats by their shortest decimal form), a numeric symbol, or a Dim itself."""
        if isinstance(x, Dim):
            return x
        if isinstance(x, Symbol):
            return _symbol(x)
        if isinstance(x, bool):
            raise TypeError("a boolean is not a size")
        return _whole(x) if isinstance(x, int) else _rational(exact(x))

    @cached_property
    def _hash(self) -> int:
        number = self._number
        return hash(self.terms if number is None else number)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, Dim):
            return self.terms == other.terms
        if isinstance(other, int | Fraction) and not isinstance(other, bool):
            return self.constant == other
        return NotImplemented

    def __bool__(self) -> bool:
        raise TypeError(f"the size {self} has no truth value: compare it")

    @cached_property
    def _number(self) -> Rational | None:
        """Its number if no decision is in it."""
        if not self.terms:
            return 0
        monomial, coefficient = self.terms[0]
        return coefficient if len(self.terms) == 1 and not monomial else None

    @cached_property
    def constant(self) -> Fraction | None:
        """Its number if no decision is in it."""
        return None if self._number is None else Fraction(self._number)

    @cached_property
    def symbols(self) -> frozenset[Symbol]:
        """Every decision in it, those inside atoms and conditions included."""
        return frozenset[Symbol]().union(
            *(atom.symbols for monomial, _ in self.terms for atom, _ in monomial)
        )

    @cached_property
    def opaque_symbols(self) -> frozenset[Symbol]:
        """The decisions inside atoms, where the normal form does not see."""
        return frozenset[Symbol]().union(
            *(
                atom.symbols
                for monomial, _ in self.terms
                for atom, _ in monomial
                if not isinstance(atom, Symbol)
            )
        )

    # Arithmetic.

    def __add__(self, other: Dim | Symbol | int | float | Fraction) -> Dim:
        other = Dim.of(other)
        if not self.terms:
            return other
        if not other.terms:
            return self
        if self._number is not None and other._number is not None:
            return _rational(self._number + other._number)
        total = dict(self.terms)
        for monomial, coefficient in other.terms:
            total[monomial] = total.get(monomial, 0) + coefficient
        return _collect(total)

    def __neg__(self) -> Dim:
        return self._scaled(-1)

    def __sub__(self, other: Dim | Symbol | int | float | Fraction) -> Dim:
        return self + -Dim.of(other)

    def __mul__(self, other: Dim | Symbol | int | float | Fraction) -> Dim:
        other = Dim.of(other)
        if other._number is not None:
            return self._scaled(other._number)
        if self._number is not None:
            return other._scaled(self._number)
        return _product(self, other)

    def __truediv__(self, other: Dim | Symbol | int | float | Fraction) -> Dim:
        """Exact division. ZeroDivisionError by the constant 0."""
        other = Dim.of(other)
        if other._number is not None:
            if other._number == 0:
                raise ZeroDivisionError(f"{self} is divided by 0")
            return self._scaled(Fraction(1, other._number))
        return self * _inverse(other)

    def __floordiv__(self, other: Dim | Symbol | int | float | Fraction) -> Dim:
        from spacelang.ir.nonlinear import floor

        return floor(self / other)

    def __mod__(self, other: Dim | Symbol | int | float | Fraction) -> Dim:
        """`self - other * (self // other)`: the normal form has no atom for remainders."""
        other = Dim.of(other)
        return self - other * (self // other)

    def __pow__(self, exponent: int) -> Dim:
        """A whole constant exponent; `power` takes others."""
        if exponent < 0:
            return 1 / self**-exponent
        result, base = _whole(1), self
        while exponent:
            if exponent & 1:
                result = result * base
            exponent >>= 1
            if exponent:
                base = base * base
        return result

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Symbol | int | float | Fraction) -> Dim:
        return Dim.of(other) - self

    def __rtruediv__(self, other: Symbol | int | float | Fraction) -> Dim:
        return Dim.of(other) / self

    def __rfloordiv__(self, other: Symbol | int | float | Fraction) -> Dim:
        return Dim.of(other) // self

    def __rmod__(self, other: Symbol | int | float | Fraction) -> Dim:
        return Dim.of(other) % self

    def _scaled(self, factor: Rational) -> Dim:
        if factor == 1:
            return self
        if factor == 0:
            return _NOTHING
        if self._number is not None:
            return _rational(self._number * factor)
        return Dim(tuple((monomial, plain(value * factor)) for monomial, value in self.terms))

    # Values.

    @cached_property
    def _ratios(self) -> tuple[tuple[Monomial, int, int], ...]:
        return tuple((m, value.numerator, value.denominator) for m, value in self.terms)

    def at(self, values: Mapping[str, Value]) -> Number:
        """Its value: int when whole, float only with an irrational function in it.

        Unbound without the value of a decision, ArithmeticError where it is undefined or a float
        of it would not be finite.
        """
        total: Number = 0
        for monomial, top, bottom in self._ratios:
            above: Number = top
            below: Number = bottom
            for atom, exponent in monomial:
                value = atom.at(values)
                if exponent == 1:
                    above = above * value
                elif exponent > 0:
                    above = above * value**exponent
                else:
                    below = below * value**-exponent
            if below == 1:
                total = total + above
            elif below == 0:
                raise ZeroDivisionError(f"division by 0 in {self}")
            elif isinstance(above, float) or isinstance(below, float):
                total = total + above / below
            else:
                total = total + Fraction(above) / below
        if isinstance(total, float) and not math.isfinite(total):
            raise OverflowError(f"{self} is no finite number")
        return tidy(total)

    def substitute(self, values: Mapping[str, Dim | Symbol | Value]) -> Dim:
        """All replacements at once, simplified anew.

        A size is simplified by the candidates of its decisions, so what replaces a decision must
        take no value that the decision does not: ValueError.
        """
        names = sorted(symbol.name for symbol in self.symbols if symbol.name in values)
        if not names:
            return self
        # What is no polynomial is made in a module above this one.
        from spacelang.ir.nonlinear import substituted

        return substituted(self, tuple((name, values[name]) for name in names))

    def candidates(self) -> tuple[Fraction, ...]:
        """The distinct values it takes, sorted. ValueError past LIMIT points or with a free symbol.

        ArithmeticError where it is undefined for some of them.
        """
        values = table(self)
        if values is None:
            raise _unlisted(self)
        return tuple(sorted({Fraction(value) for value in values}))

    def bounds(self) -> tuple[Fraction, Fraction]:
        """Its range, of floats as they are: exact up to LIMIT points, else by interval arithmetic;
        ValueError if open."""
        values = table(self) if irrational(self) else None
        if values is not None:
            return Fraction(min(values)), Fraction(max(values))
        low, high = interval(self)
        if not isinstance(low, Fraction) or not isinstance(high, Fraction):
            raise ValueError(f"{self} has no bounds")
        return low, high

    # Text.

    @cached_property
    def _text(self) -> str:
        return spell(self.terms)

    def __str__(self) -> str:
        return self._text


_NOTHING = Dim()


def _unlisted(dim: Dim) -> Exception:
    """Why a size has no list of values."""
    free = sorted(symbol.name for symbol in dim.symbols if symbol.free)
    if free:
        return ValueError(f"{dim} takes any value: {', '.join(free)} is free")
    points = math.prod(len(symbol.points) for symbol in dim.symbols)
    if points > LIMIT:
        return ValueError(f"{dim} has {points:,} points, more than {LIMIT:,}")
    return ArithmeticError(f"{dim} is undefined for some decisions")


@lru_cache(maxsize=65536)
def _whole(number: int) -> Dim:
    return Dim((((), number),)) if number else _NOTHING


def _rational(number: Rational) -> Dim:
    number = plain(number)
    return _whole(number) if isinstance(number, int) else Dim((((), number),))


@lru_cache(maxsize=65536)
def _symbol(symbol: Symbol) -> Dim:
    if not symbol.numeric:
        raise TypeError(f"{symbol.name} is not a size: it takes values that are no numbers")
    return Dim(((((symbol, 1),), 1),))


def of_atom(atom: Atom) -> Dim:
    """An atom as a size; a number if it takes one value."""
    values = exact_table(atom)
    if values is not None and len(values) == 1:
        return _rational(values[0])
    return _raw(((atom, 1),))


def _raw(monomial: Monomial, coefficient: Rational = 1) -> Dim:
    return Dim(((monomial, coefficient),))


def _sorted(total: Mapping[Monomial, Rational]) -> Dim:
    kept = [(monomial, plain(value)) for monomial, value in total.items() if value]
    if len(kept) > 1:
        kept.sort(key=lambda term: order(term[0]))
    return Dim(tuple(kept))


def _collect(total: Mapping[Monomial, Rational]) -> Dim:
    """The normal form of a sum of terms."""
    dim = _sorted(total)
    divisors = {
        atom for monomial, _ in dim.terms for atom, _ in monomial if isinstance(atom, Divisor)
    }
    for divisor in sorted(divisors, key=atom_order):
        if dim.terms and never_zero(divisor.divisor):
            dim = _divided(dim, divisor)
    return dim


def _divided(dim: Dim, divisor: Divisor) -> Dim:
    """Divides the terms over a divisor by it, from its highest power down."""
    layers: dict[int, dict[Monomial, Rational]] = {0: {}}
    for monomial, value in dim.terms:
        depth = -dict(monomial).get(divisor, 0)
        layers.setdefault(depth, {})[without(monomial, divisor)] = value
    total: dict[Monomial, Rational] = {}
    by = dict(divisor.divisor.terms)
    for depth in range(max(layers), 0, -1):
        quotient, remainder = long_division(layers.get(depth, {}), by)
        lower = layers.setdefault(depth - 1, {})
        for monomial, value in quotient.items():
            lower[monomial] = lower.get(monomial, 0) + value
        for monomial, value in remainder.items():
            total[joined(monomial, ((divisor, -depth),))] = value
    return _sorted({**total, **layers[0]})


@lru_cache(maxsize=16384)
def _product(a: Dim, b: Dim) -> Dim:
    total: dict[Monomial, Rational] = {}
    for left, c in a.terms:
        for right, d in b.terms:
            monomial = joined(left, right)
            total[monomial] = total.get(monomial, 0) + c * d
    return _collect(total)


@lru_cache(maxsize=16384)
def _inverse(dim: Dim) -> Dim:
    """1 / dim. Only what is nowhere zero gets a bare negative exponent and so may cancel."""
    if len(dim.terms) == 1:
        monomial, coefficient = dim.terms[0]
        result = _rational(Fraction(1, coefficient))
        for atom, exponent in monomial:
            result = result * _inverse_power(atom, exponent)
        return result
    outside = _raw(shared(dict(dim.terms)) if never_zero(dim) else ())
    rest = dim if outside.constant is not None else dim * _inverse(outside)
    if len(rest.terms) == 1:
        return _inverse(rest) * _inverse(outside)
    coefficient = rest.terms[0][1]
    divisor = Divisor(rest * Fraction(1, coefficient))
    return _inverse(outside * coefficient) * _raw(((divisor, -1),))


def _inverse_power(atom: Atom, exponent: int) -> Dim:
    if exponent < 0:
        return atom.divisor**-exponent if isinstance(atom, Divisor) else _raw(((atom, -exponent),))
    whole = _raw(((atom, 1),))
    return _raw(((atom if never_zero(whole) else Divisor(whole), -exponent),))


def symbol_of(value: Dim | Symbol) -> Symbol | None:
    """The symbol that a size is, if it is just one; None for any other."""
    if isinstance(value, Symbol):
        return value
    if len(value.symbols) != 1:
        return None
    (symbol,) = value.symbols  # of `8 if flag else 4` none that may be a size
    return symbol if symbol.numeric and value == Dim.of(symbol) else None
