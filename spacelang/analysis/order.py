"""The order in which variables are eliminated, cheapest first, and eliminating in it.

    order([("width", "heads"), ("width", "ratio")], {"width": 3, "heads": 2, "ratio": 4})
    ["heads", "width", "ratio"]     # 6 joint values with width, then 12, then 4

To eliminate a variable joins all factors that hold it: that costs the number of joint values of the
variables around it. What is left of them then stand around each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush
from math import prod
from typing import Protocol, TypeVar


class Scoped(Protocol):
    """What hangs on some variables."""

    @property
    def scope(self) -> tuple[str, ...]: ...


Factor = TypeVar("Factor", bound=Scoped)


def order(scopes: Iterable[tuple[str, ...]], sizes: Mapping[str, int]) -> list[str]:
    """All variables of `sizes`, in the order to eliminate them; of two that cost the same the
    earlier one in `sizes`."""
    around: dict[str, set[str]] = {variable: set() for variable in sizes}
    for scope in dict.fromkeys(scopes):
        for variable in scope:
            around[variable].update(scope)
    for variable, beside in around.items():
        beside.discard(variable)
    costs = {v: size * prod(sizes[w] for w in around[v]) for v, size in sizes.items()}
    place = {variable: number for number, variable in enumerate(sizes)}
    heap = [(costs[v], place[v], v) for v in sizes]
    heapify(heap)
    found: list[str] = []
    while heap:
        cost, _, variable = heappop(heap)
        if costs.get(variable) != cost:
            continue  # it has another cost by now, or is gone
        found.append(variable)
        del costs[variable]
        beside = around.pop(variable)
        for other in beside:
            new = beside - around[other] - {other}
            costs[other] = costs[other] // sizes[variable] * prod(sizes[v] for v in new)
            around[other] |= new
            around[other].remove(variable)
            heappush(heap, (costs[other], place[other], other))
    return found


def eliminated(
    factors: Iterable[Factor],
    sizes: Mapping[str, int],
    reduced: Callable[[str, list[Factor]], Factor],
) -> list[Factor]:
    """The factors without variables that are left: `reduced(variable, those that hold it)` joins
    some and takes the variable out."""
    given = list(factors)
    variables = order([factor.scope for factor in given], sizes)
    turn = {variable: number for number, variable in enumerate(variables)}
    waiting: dict[str, list[Factor]] = {variable: [] for variable in variables}
    done: list[Factor] = []

    def place(factor: Factor) -> None:
        first = min(factor.scope, key=turn.__getitem__, default=None)
        (done if first is None else waiting[first]).append(factor)

    for factor in given:
        place(factor)
    for variable in variables:
        place(reduced(variable, waiting.pop(variable)))
    return done
