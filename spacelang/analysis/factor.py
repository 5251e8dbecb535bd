"""Cost tables and masks of a problem brought to the smallest equal set of dense factors.

Only the figures asked for are kept. A factor within the scope of another is absorbed by it, and a
variable that a factor does not depend on leaves its scope: this is how decisions that cost nothing
disappear before any counting starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacelang.analysis.order import eliminated
from spacelang.analysis.problem import SAFE, Integers, Problem, added, magnitude


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """Costs (one array a figure, 0 where not allowed) and admissibility over the same scope."""

    scope: tuple[str, ...]
    values: tuple[Integers, ...]
    allowed: NDArray[np.bool_]

    def over(self, scope: Sequence[str], shape: tuple[int, ...]) -> Factor:
        """The same factor over a larger scope."""
        return Factor(
            tuple(scope),
            tuple(spread(values, self.scope, scope, shape) for values in self.values),
            spread(self.allowed, self.scope, scope, shape),
        )

    def times(self, other: Factor) -> Factor:
        """Both at once; the scopes are the same."""
        allowed = self.allowed & other.allowed
        sums = (added(a, b) for a, b in zip(self.values, other.values, strict=True))
        values = tuple(np.where(allowed, v, np.zeros_like(v)) for v in sums)
        return Factor(self.scope, values, allowed)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """One figure over a scope."""

    scope: tuple[str, ...]
    values: Integers


def spread(
    array: NDArray[Any], own: Sequence[str], scope: Sequence[str], shape: tuple[int, ...]
) -> NDArray[Any]:
    """`array` over the variables `own`, broadcast to those of `scope` (a view, not a copy)."""
    order = sorted(range(len(own)), key=lambda axis: scope.index(own[axis]))
    sizes = iter(array.shape[axis] for axis in order)
    aligned = tuple(next(sizes) if variable in own else 1 for variable in scope)
    return np.broadcast_to(array.transpose(order).reshape(aligned), shape)


def simplify(problem: Problem, figures: Sequence[int]) -> tuple[Factor, ...]:
    """The problem's factors for some of its figures, absorbed and without needless variables."""
    factors: dict[frozenset[str], Factor] = {}
    for factor in _native(problem, figures):
        lean = _lean(factor)
        _join(factors, lean, problem.domains)
    merged: dict[frozenset[str], Factor] = {}
    for scope, factor in sorted(factors.items(), key=lambda item: -len(item[0])):
        hosts = [other for other in merged if scope < other]
        if not hosts:
            merged[scope] = factor
            continue
        # The smallest host, because broadcasting there makes the fewest distinct entries.
        host = min(hosts, key=lambda other: prod(problem.domains[v] for v in other))
        target = merged[host]
        merged[host] = target.times(factor.over(target.scope, target.allowed.shape))
    place = {variable: index for index, variable in enumerate(problem.domains)}
    lean_factors = (_lean(factor) for factor in merged.values())
    kept = [factor for factor in lean_factors if factor.scope or not _neutral(factor)]
    return tuple(sorted(kept, key=lambda factor: [place[v] for v in factor.scope]))


def extreme(problem: Problem, figure: int, *, largest: bool) -> int | None:
    """The least (or largest) value of a figure over admissible assignments; None without any."""
    sign = -1 if largest else 1
    tables: list[_Table] = []
    offset, width = 0, 0
    factors = simplify(problem, (figure,))
    for factor in factors:
        if not factor.allowed.any():
            return None
        values = _signed(sign, factor)
        low, high = (int(f(values[factor.allowed])) for f in (np.min, np.max))
        offset, width = offset + low, width + high - low
    exact = 2 * width + 2 < SAFE
    for factor in factors:
        values = _signed(sign, factor)
        low = values[factor.allowed].min()
        # One more than any admissible sum stands for "never"; additions saturate there.
        above = np.where(factor.allowed, values - low, width + 1)
        tables.append(_Table(factor.scope, above.astype(np.int64 if exact else object)))

    def reduced(variable: str, touched: list[_Table]) -> _Table:
        scope = _union([table.scope for table in touched])
        shape = problem.shape(scope)
        sums = np.zeros(shape, np.int64 if exact else object)
        for table in touched:
            sums = np.minimum(sums + spread(table.values, table.scope, scope, shape), width + 1)
        rest = tuple(v for v in scope if v != variable)
        return _Table(rest, sums.min(axis=scope.index(variable)))

    held = {v for table in tables for v in table.scope}
    sizes = {v: number for v, number in problem.domains.items() if v in held}
    least = sum(int(table.values) for table in eliminated(tables, sizes, reduced))
    return None if least > width else sign * (offset + least)


def _signed(sign: int, factor: Factor) -> Integers:
    values = factor.values[0]
    return np.asarray(sign * values, values.dtype)


def _native(problem: Problem, figures: Sequence[int]) -> list[Factor]:
    """Tables and masks as they were given, values in int64 where they fit with room to spare."""
    result: list[Factor] = []
    room = min(SAFE // max(len(problem.tables), 1), 1 << 48)  # all of them may be added up
    for table in problem.tables:
        values = tuple(_narrow(table.figures[figure], room) for figure in figures)
        result.append(Factor(table.scope, values, np.ones(problem.shape(table.scope), np.bool_)))
    for mask in problem.masks:
        zeros = tuple(np.zeros(mask.allowed.shape, np.int64) for _ in figures)
        result.append(Factor(mask.scope, zeros, mask.allowed))
    return result


def _narrow(values: Integers, room: int) -> Integers:
    return values.astype(np.int64 if magnitude(values) < room else object)


def _lean(factor: Factor) -> Factor:
    """The factor without the variables along which nothing changes."""
    scope, values, allowed = factor.scope, factor.values, factor.allowed
    for variable in factor.scope:
        axis = scope.index(variable)
        if all(bool((array == array.take([0], axis)).all()) for array in (*values, allowed)):
            values = tuple(np.asarray(array.take(0, axis), array.dtype) for array in values)
            allowed = np.asarray(allowed.take(0, axis))
            scope = (*scope[:axis], *scope[axis + 1 :])
    return Factor(scope, values, allowed)


def _neutral(factor: Factor) -> bool:
    return bool(factor.allowed.all()) and not any(bool(v.any()) for v in factor.values)


def _join(
    factors: dict[frozenset[str], Factor], factor: Factor, domains: Mapping[str, int]
) -> None:
    scope = frozenset(factor.scope)
    known = factors.get(scope)
    if known is None:
        order = {variable: index for index, variable in enumerate(domains)}
        ordered = tuple(sorted(factor.scope, key=order.__getitem__))
        factors[scope] = factor.over(ordered, tuple(domains[v] for v in ordered))
    else:
        factors[scope] = known.times(factor.over(known.scope, known.allowed.shape))


def _union(scopes: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(variable for scope in scopes for variable in scope))
