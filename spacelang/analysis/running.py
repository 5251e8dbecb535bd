"""Extrema over many decisions, one operand after another, so that no table is over all of them.

    max(a, b, c)   ->   m1 = max(a, b), m2 = max(m1, c)     each a variable of few values

What all layers share is as large as the largest that is present needs it: a number that hangs on
every one of their decisions at once. Its running values are variables of the counting problem, each
tied by a mask to the one before it and to one operand; an architecture has one value of each. What
has fewer points as it stands than these masks stays as it is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import prod

from spacelang.analysis.cost import Term
from spacelang.ir.atom import LIMIT, Atom, Extremum
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.facts import exact_table


@dataclass(frozen=True)
class Running:
    """A variable: the extremum of the one before it, if there is one, and of an operand."""

    symbol: Symbol
    extremum: str
    before: Symbol | None
    operand: Dim

    @property
    def own(self) -> tuple[Symbol, ...]:
        """The decisions in its operand."""
        return tuple(sorted(self.operand.symbols, key=lambda symbol: symbol.name))

    @property
    def scope(self) -> tuple[Symbol, ...]:
        """What its value follows from."""
        return (*self.own, self.before) if self.before is not None else self.own

    @property
    def points(self) -> int:
        """How many entries a mask over its scope and itself has."""
        return prod(len(symbol.values) for symbol in (*self.scope, self.symbol))

    def of_operand(self, candidates: Mapping[str, Sequence[DecisionValue]]) -> list[int]:
        """Where its operand stands among its values, at each point of `own`, the last fastest.

        The extremum of two such numbers is the number of the extremum, as the values ascend.
        """
        names = [symbol.name for symbol in self.own]
        points = product(*(candidates[name] for name in names))
        return [
            self._place(Fraction(self.operand.at(dict(zip(names, point, strict=True)))))
            for point in points
        ]

    def of_before(self) -> list[int]:
        """Where the values of the one before it stand among its own; empty if there is none."""
        values = self.before.values if self.before is not None else ()
        return [self._place(value) for value in values]

    def _place(self, number: DecisionValue) -> int:
        return bisect_left(self.symbol.values, number)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Extrema:
    """Terms in which large extrema are variables, and these in the order in which they follow."""

    terms: Mapping[str, Sequence[Term]]
    variables: Sequence[Running]


def apart(terms: Mapping[str, Sequence[Term]]) -> Extrema:
    """The terms of every figure with their extrema over more than LIMIT points taken apart."""
    known: dict[Extremum, Symbol | None] = {}
    variables: list[Running] = []

    def standing_for(atom: Atom) -> Symbol | None:
        if not isinstance(atom, Extremum) or _points(atom) <= LIMIT:
            return None
        if atom not in known:
            chain = _chain(atom, f"%{atom.name}{len(known)}")
            if sum(running.points for running in chain) >= _points(atom):
                chain = []
            known[atom] = chain[-1].symbol if chain else None
            variables.extend(chain)
        return known[atom]

    def told(size: Dim) -> Dim:
        total = Dim.of(0)
        for monomial, coefficient in size.terms:
            made = {atom: symbol for atom, _ in monomial if (symbol := standing_for(atom))}
            piece = Dim(((tuple(f for f in monomial if f[0] not in made), coefficient),))
            for atom, exponent in monomial:
                if atom in made:
                    piece = piece * Dim.of(made[atom]) ** exponent
            total = total + piece
        return total

    parts = {
        figure: [Term(term.guards, told(term.size)) for term in own]
        for figure, own in terms.items()
    }
    return Extrema(parts if variables else terms, variables)


def _points(atom: Extremum) -> int:
    return prod(len(symbol.points) for symbol in atom.symbols)


def _chain(atom: Extremum, name: str) -> list[Running]:
    """The running values of an extremum; none where those of an operand cannot be listed."""
    found: list[Running] = []
    before: Symbol | None = None
    reached: set[Fraction] = set()
    for number, operand in enumerate(atom.operands):
        values = exact_table(operand)
        if values is None:
            return []
        own = set(map(Fraction, values))
        reached = _extrema(atom.name, reached, own) if found else own
        symbol = Symbol(f"{name}.{number}", tuple(sorted(reached)))
        found.append(Running(symbol, atom.name, before, operand))
        before = symbol
    return found


def _extrema(name: str, a: set[Fraction], b: set[Fraction]) -> set[Fraction]:
    """The extrema of one number of each of two sets: all but what the other set is beyond of."""
    if name == "min":
        end = min(max(a), max(b))
        return {number for number in a | b if number <= end}
    end = max(min(a), min(b))
    return {number for number in a | b if number >= end}
