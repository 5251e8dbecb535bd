"""How large a space is and how far its costs reach, in plain Python: what `info` asks.

    extent(graph)  ->  Extent(size=280804921344, params=(4922536, 10517272), macs=(..), ..)

One elimination carries (ways, least, most of each figure) together: factors are joined by products
and sums, and a decision is eliminated by sums, minima and maxima. `count.py` answers everything
else, with numpy, whose import takes longer than all of this; where a space requires something of
its figures, or its decisions hang together too closely, it answers here too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from spacelang.analysis.cost import Term
from spacelang.analysis.order import eliminated
from spacelang.analysis.running import Running, apart
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.condition import TRUE, Condition
from spacelang.ir.decision import Choice
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.figures import FIGURES, Between

if TYPE_CHECKING:
    from spacelang.analysis.cost import CostModel
    from spacelang.ir.graph import Graph

# Points of one table. Beyond, `count.py` does the work.
POINTS = 1 << 17

Scope = tuple[str, ...]
# Ways, then the least and the most of each figure; no entry where no architecture is.
Entry = tuple[int, tuple[Fraction, ...], tuple[Fraction, ...]]
Rows = dict[tuple[int, ...], Entry]
Candidates = Mapping[str, Sequence[DecisionValue]]
NOTHING = (Fraction(0),) * len(FIGURES)
ONE_WAY: Entry = (1, NOTHING, NOTHING)


class TooWide(Exception):
    """Too many decisions hang together for tables in plain Python."""


@dataclass(frozen=True)
class Extent:
    """The number of architectures, and the least and the most of each figure over them.

    What the space requires of figures counts for the size, and not for the ranges.
    """

    size: int | Between
    params: tuple[int, int]
    macs: tuple[int, int]
    activations: tuple[int, int]


@dataclass(frozen=True)
class Factor:
    """Entries by candidate numbers of the decisions of a scope."""

    scope: Scope
    rows: Rows


def extent(graph: Graph) -> Extent:
    """The extent of a graph (SP502 if no architecture meets its requirements on decisions)."""
    from spacelang.analysis.queries import counter, model

    choices: Mapping[str, Choice] = graph.decisions
    kept = [c for c in graph.require if all(s.name in choices for s in c.symbols)]
    try:
        ways, least, most = _plain(model(graph), choices, kept)
    except TooWide:
        counted = counter(graph)
        return Extent(counted.size(), *(counted.extremes(figure) for figure in FIGURES))
    if not ways:
        raise SpaceError(error("SP502", "no architecture meets the requirement"))
    ranges = [(_whole(low), _whole(high)) for low, high in zip(least, most, strict=True)]
    limited = len(kept) < len(graph.require)
    return Extent(counter(graph).size() if limited else ways, *ranges)


def ways(graph: Graph) -> int | None:
    """The number of architectures, of a graph that requires nothing of figures; None of others,
    and where too many decisions hang together."""
    choices: Mapping[str, Choice] = graph.decisions
    if not all(s.name in choices for c in graph.require for s in c.symbols):
        return None
    candidates = {path: choice.values for path, choice in choices.items()}
    try:
        factors = [
            *_liveness(choices, candidates),
            *(_mask(condition, candidates) for condition in graph.require),
        ]
        return _eliminate(factors, {path: len(values) for path, values in candidates.items()})[0]
    except TooWide:
        return None


def _plain(model: CostModel, choices: Mapping[str, Choice], require: Sequence[Condition]) -> Entry:
    extrema = apart(model.terms)
    candidates = {path: choice.values for path, choice in choices.items()}
    candidates |= {v.symbol.name: v.symbol.values for v in extrema.variables}
    factors = [
        *_liveness(choices, candidates),
        *(_mask(condition, candidates) for condition in require),
        *(_tie(variable, candidates) for variable in extrema.variables),
        *_costs(extrema.terms, candidates),
    ]
    return _eliminate(factors, {path: len(values) for path, values in candidates.items()})


def _liveness(choices: Mapping[str, Choice], candidates: Candidates) -> Iterator[Factor]:
    """A decision that is not live takes its first candidate: each architecture counts once."""
    for path, choice in choices.items():
        if choice.live == TRUE:
            continue
        scope = (*sorted(s.name for s in choice.live.symbols), path)
        rows: Rows = {}
        for point, values in _points(scope, candidates):
            if point[-1] == 0 or choice.live.at(values):
                rows[point] = ONE_WAY
        yield Factor(scope, rows)


def _mask(condition: Condition, candidates: Candidates) -> Factor:
    scope = tuple(sorted(s.name for s in condition.symbols))
    points = _points(scope, candidates)
    return Factor(scope, {p: ONE_WAY for p, v in points if condition.at(v)})


def _tie(variable: Running, candidates: Candidates) -> Factor:
    """A running extremum has the value that follows, and no other."""
    scope = tuple(symbol.name for symbol in variable.scope)
    if prod(len(candidates[name]) for name in scope) > POINTS:
        raise TooWide
    pick = min if variable.extremum == "min" else max
    before = list(enumerate(variable.of_before()))
    points = product(*(range(len(candidates[symbol.name])) for symbol in variable.own))
    rows: Rows = {}
    for point, own in zip(points, variable.of_operand(candidates), strict=True):
        for number, last in before:
            rows[*point, number, pick(own, last)] = ONE_WAY
        if not before:
            rows[*point, own] = ONE_WAY
    return Factor((*scope, variable.symbol.name), rows)


def _costs(figures: Mapping[str, Sequence[Term]], candidates: Candidates) -> Iterator[Factor]:
    """The figures as additive tables, one a scope."""
    sums: dict[Scope, dict[tuple[int, ...], list[Fraction]]] = {}
    for number, figure in enumerate(FIGURES):
        for scope, term in _terms(figures[figure]):
            rows = sums.setdefault(scope, {})
            for point, values in _points(scope, candidates):
                cell = rows.setdefault(point, [Fraction(0)] * len(FIGURES))
                if all(guard.at(values) for guard in term.guards):
                    cell[number] += Fraction(term.size.at(values))
    for scope, rows in sums.items():
        yield Factor(scope, {p: (1, tuple(v), tuple(v)) for p, v in rows.items()})


def _terms(terms: Sequence[Term]) -> Iterator[tuple[Scope, Term]]:
    """The summands of the terms, added up by the decisions that they hang on."""
    for term in terms:
        guards = {symbol for guard in term.guards for symbol in guard.symbols}
        pieces: dict[Scope, Dim] = {}
        for monomial, coefficient in term.size.terms:
            piece = Dim(((monomial, coefficient),))
            scope = _names({*piece.symbols, *guards})
            pieces[scope] = pieces.get(scope, Dim.of(0)) + piece
        for scope, size in pieces.items():
            yield scope, Term(term.guards, size)


def _names(symbols: set[Symbol]) -> Scope:
    return tuple(sorted(symbol.name for symbol in symbols))


def _points(
    scope: Scope, candidates: Candidates
) -> Iterator[tuple[tuple[int, ...], dict[str, DecisionValue]]]:
    """Every joint value of a scope, as candidate numbers and as values."""
    lists = [candidates[path] for path in scope]
    if prod(map(len, lists)) > POINTS:
        raise TooWide
    numbers = product(*(range(len(values)) for values in lists))
    for point, values in zip(numbers, product(*lists), strict=True):
        yield point, dict(zip(scope, values, strict=True))


def _eliminate(factors: Sequence[Factor], sizes: Mapping[str, int]) -> Entry:
    """Join all factors and eliminate all decisions, the cheapest first."""
    named = {path: sizes[path] for path in sorted(sizes)}
    result: Entry = ONE_WAY
    for factor in eliminated(factors, named, partial(_reduced, sizes=sizes)):
        found = factor.rows.get(())
        if found is None:
            return (0, NOTHING, NOTHING)
        result = _joined(result, found)
    return result


def _reduced(path: str, factors: Sequence[Factor], *, sizes: Mapping[str, int]) -> Factor:
    """The factors joined, and one decision summed out of them."""
    rest = sorted({name for factor in factors for name in factor.scope} - {path})
    scope = (*rest, path)
    if prod(sizes[name] for name in scope) > POINTS:
        raise TooWide
    places = [[scope.index(name) for name in factor.scope] for factor in factors]
    rows: Rows = {}
    for point in product(*(range(sizes[name]) for name in scope)):
        entry: Entry | None = ONE_WAY
        for factor, place in zip(factors, places, strict=True):
            found = factor.rows.get(tuple(point[i] for i in place))
            if found is None:
                break
            entry = _joined(entry, found)
        else:
            before = rows.get(point[:-1])
            rows[point[:-1]] = entry if before is None else _either(before, entry)
    return Factor(tuple(rest), rows)


def _joined(a: Entry, b: Entry) -> Entry:
    return (
        a[0] * b[0],
        tuple(map(Fraction.__add__, a[1], b[1])),
        tuple(map(Fraction.__add__, a[2], b[2])),
    )


def _either(a: Entry, b: Entry) -> Entry:
    return a[0] + b[0], tuple(map(min, a[1], b[1])), tuple(map(max, a[2], b[2]))


def _whole(number: Fraction) -> int:
    if number.denominator != 1:
        raise SpaceError(error("SP602", f"a cost of {number} is not whole"))
    return int(number)


def median(graph: Graph, figure: str) -> int | None:
    """The least value that at least half of the architectures keep to; None where only bounds are
    known. Found by bisection over exact counts."""
    from spacelang.analysis.budget import Budget
    from spacelang.analysis.queries import counter

    counted = counter(graph)

    def within(bound: int | None) -> int | None:
        found = counted.size(Budget({figure: (None, bound)}))
        return found if isinstance(found, int) else None

    total = within(None)
    low, high = counted.extremes(figure)
    while total is not None and low < high:
        middle = (low + high) // 2
        ways = within(middle)
        if ways is None:
            return None
        low, high = (low, middle) if 2 * ways >= total else (middle + 1, high)
    return low if total is not None else None
