"""Extrema over many decisions, one operand after another, so that no table is over all of them.

    max(a, b, c)   ->   m1 = max(a, b), m2 = max(m1, c)     each a variable of few values

What all layers share is as large as the largest that is present needs it: a number that hangs on
every one of their decisions at once. Its running values are variables of the counting problem, each
tied by a mask to the one before it and to one operand; an architecture has one value of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
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
    def scope(self) -> tuple[Symbol, ...]:
        """What its value follows from."""
        own = sorted(self.operand.symbols, key=lambda symbol: symbol.name)
        return (*own, self.before) if self.before is not None else tuple(own)

    def at(self, values: Mapping[str, DecisionValue]) -> int:
        """Which of its values it has."""
        found = Fraction(self.operand.at(values))
        if self.before is not None:
            last = values[self.before.name]
            assert isinstance(last, Fraction)
            found = min(last, found) if self.extremum == "min" else max(last, found)
        return self.symbol.values.index(found)


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
    for number, operand in enumerate(atom.operands):
        values = exact_table(operand)
        if values is None:
            return []
        reached = set(map(Fraction, values))
        if before is not None:
            pick = min if atom.name == "min" else max
            reached = {pick(a, Fraction(b)) for a in before.values for b in reached}
        symbol = Symbol(f"{name}.{number}", tuple(sorted(reached)))
        found.append(Running(symbol, atom.name, before, operand))
        before = symbol
    return found
