"""Products of atoms with whole exponents, and long division of sums of them.

A monomial is sorted by the atoms' names; a sum is a mapping of monomials to coefficients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

from spacelang.ir.atom import Atom, Divisor, atom_order
from spacelang.ir.functions import Rational

Monomial = tuple[tuple[Atom, int], ...]
Sum = Mapping[Monomial, Rational]


def order(monomial: Monomial) -> tuple[int, tuple[tuple[tuple[str, bool], int], ...]]:
    """Highest degree first, then by name."""
    degree = sum(exponent for _, exponent in monomial)
    return -degree, tuple((atom_order(atom), -exponent) for atom, exponent in monomial)


def by_name(factors: Iterable[tuple[Atom, int]]) -> Monomial:
    """The factors in canonical order, those of exponent 0 left out."""
    kept = [factor for factor in factors if factor[1]]
    return tuple(sorted(kept, key=lambda factor: atom_order(factor[0])))


def joined(a: Monomial, b: Monomial) -> Monomial:
    """The product of two monomials."""
    if not a or not b:
        return a or b
    exponents = dict(a)
    for atom, exponent in b:
        exponents[atom] = exponents.get(atom, 0) + exponent
    return by_name(exponents.items())


def without(monomial: Monomial, atom: Atom) -> Monomial:
    """The monomial with one atom left out."""
    return tuple(factor for factor in monomial if factor[0] != atom)


def shared(terms: Sum) -> Monomial:
    """The largest monomial that divides every term; divisors are not taken out."""
    lowest: dict[Atom, int] = {}
    for atom in {atom for monomial in terms for atom, _ in monomial}:
        if not isinstance(atom, Divisor):
            lowest[atom] = min(dict(monomial).get(atom, 0) for monomial in terms)
    return by_name(lowest.items())


def long_division(
    terms: Sum, divisor: Sum
) -> tuple[dict[Monomial, Rational], dict[Monomial, Rational]]:
    """Quotient and remainder in the lexical order of the atoms' names."""
    if any(exponent < 0 for monomial in divisor for _, exponent in monomial):
        return {}, dict(terms)  # a quotient within the divisor
    atoms = [atom for atom, _ in by_name({(atom, 1) for m in (*terms, *divisor) for atom, _ in m})]
    # Lexical order bounds the loop only for whole exponents: negative ones are lifted first.
    lift = [max([0, *(-dict(m).get(atom, 0) for m in terms)]) for atom in atoms]

    def vector(monomial: Monomial, shift: Iterable[int]) -> tuple[int, ...]:
        exponents = dict(monomial)
        return tuple(exponents.get(a, 0) + s for a, s in zip(atoms, shift, strict=True))

    def monomial(vector: tuple[int, ...]) -> Monomial:
        exponents = ((a, v - s) for a, v, s in zip(atoms, vector, lift, strict=True))
        return tuple((atom, exponent) for atom, exponent in exponents if exponent)

    nothing = [0] * len(atoms)
    by = {vector(m, nothing): value for m, value in divisor.items()}
    lead = max(by)
    rest = {vector(m, lift): value for m, value in terms.items() if value}
    quotient: dict[Monomial, Rational] = {}
    remainder: dict[Monomial, Rational] = {}
    while rest:
        top = max(rest)
        step = tuple(x - y for x, y in zip(top, lead, strict=True))
        if min(step) < 0:
            remainder[monomial(top)] = rest.pop(top)
            continue
        factor = Fraction(rest[top]) / by[lead]
        quotient[monomial(step)] = factor
        for key, value in by.items():
            place = tuple(x + y for x, y in zip(key, step, strict=True))
            left = rest.get(place, 0) - factor * value
            if left:
                rest[place] = left
            else:
                rest.pop(place, None)
    return quotient, remainder
