"""Tables that no proof settles are computed, place by place.

i // 14 - j // 14 <= 13    at each of the 196 x 196 places of a table
"""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType

from spacelang.ir.condition import RELATIONS, Condition
from spacelang.ir.dim import LIMIT, Dim, Symbol, Value
from spacelang.ir.enclosure import irrational
from spacelang.ir.entries import MARK
from spacelang.ir.prove import Answer, Proved, Refuted, Unsettled
from spacelang.ir.search import domains, nearest, satisfied, span

TRIED = 1 << 18
"""So many places are computed, those of all decisions together."""


@lru_cache(maxsize=1024)
def at_each(relation: str, subject: Dim, guards: tuple[Condition, ...]) -> Answer | None:
    """Whether a number is `<=`, `<`, `==` or `!=` 0, by each assignment of its decisions, and there
    by all places of its tables; None where a guard on what is not in it, or a symbol, leaves that
    open."""
    if any(symbol.free for symbol in subject.symbols):
        return None
    own = frozenset(symbol for symbol in subject.symbols if MARK.match(symbol.name))
    near = [g for g in guards if g.symbols <= subject.symbols and not irrational(g)]
    outer = [guard for guard in near if not guard.symbols & own]
    decided = domains(subject.symbols - own, outer)
    if span(decided, decided) > LIMIT:
        return None
    names = tuple(sorted(symbol.name for symbol in subject.symbols))
    assigned: list[tuple[dict[str, Value], Dim, list[Condition], dict[Symbol, tuple[Value, ...]]]]
    assigned, points = [], 0
    for point in nearest(decided, decided):
        if not all(satisfied(guard, point) for guard in outer):
            continue
        try:
            inside = [guard.substitute(point) for guard in near if guard.symbols & own]
            number = subject.substitute(point)
        except ArithmeticError:
            return None
        places = domains(own, inside)
        assigned.append((point, number, inside, places))
        points += span(places, places)
    if points > TRIED:
        return Unsettled(names, points)
    for point, number, inside, places in assigned:
        for place in nearest(places, places):
            if not all(satisfied(guard, place) for guard in inside):
                continue
            try:
                holds = RELATIONS[relation](number.at(place), 0)
            except ArithmeticError:
                return None
            if not holds:
                apart = len(near) == len(guards)
                return Refuted(MappingProxyType(point | place)) if apart else None
    return Proved(points)
