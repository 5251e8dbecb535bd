"""The decisions that a cost hangs on at once, summand by summand: what a table of it is over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.facts import surely_whole

if TYPE_CHECKING:
    from spacelang.analysis.cost import Term
    from spacelang.analysis.running import Extrema

MAX_POINTS = 1 << 20
"""How many points a table has at most."""
Scope = tuple[Symbol, ...]


def scopes(term: Term, order: Mapping[str, int]) -> Mapping[Scope, Dim]:
    """The summands of a term by the decisions that they, or its conditions, speak of."""
    guards = {symbol for guard in term.guards for symbol in guard.symbols}
    found: dict[Scope, Dim] = {}
    for piece in _pieces(term.size):
        scope = tuple(sorted({*piece.symbols, *guards}, key=lambda s: order[s.name]))
        found[scope] = found.get(scope, Dim.of(0)) + piece
    return found


def check_scopes(extrema: Extrema, sizes: Mapping[str, int]) -> None:
    """SP507 for a cost of which no table has so few points; `sizes` of all decisions and running
    values, in their order."""
    order = {name: place for place, name in enumerate(sizes)}
    for variable in extrema.variables:
        if variable.points > MAX_POINTS:
            raise too_wide([symbol.name for symbol in variable.scope])
    for terms in extrema.terms.values():
        for scope in {scope for term in terms for scope in scopes(term, order)}:
            names = [symbol.name for symbol in scope]
            if prod(sizes[name] for name in names) > MAX_POINTS:
                raise too_wide(names)


def too_wide(scope: Sequence[str]) -> SpaceError:
    """SP507 for a cost that no table fits; a running extremum among them is told by what it is."""
    names = [name for name in scope if not name.startswith("%")]
    more = "" if len(names) == len(scope) else ", and on the layers before"
    headline = f"a cost hangs on {len(names)} decisions at once{more}"
    return SpaceError(error("SP507", headline).note(", ".join(names)))


def _pieces(size: Dim) -> Iterator[Dim]:
    """The summands of a size, those that are not whole by themselves kept together."""
    rest = Dim.of(0)
    for monomial, coefficient in size.terms:
        piece = Dim(((monomial, coefficient),))
        if surely_whole(piece):
            yield piece
        else:
            rest = rest + piece
    if rest != Dim.of(0):
        yield rest
