"""Costs as whole keys from 0: offset and divisor taken out, rounded to bins where asked.

    figure = offset + step * key + rest,  0 <= rest <= slack

Exactly scaled, the step divides every difference and the slack is 0. With bins, factors are joined
first, since each factor is rounded once and the slack is the sum over factors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import combinations, count
from math import gcd, prod

import numpy as np

from spacelang.analysis.distribution import Rows, single
from spacelang.analysis.factor import SAFE, Factor
from spacelang.analysis.limit import TooLarge
from spacelang.analysis.problem import Integers
from spacelang.analysis.region import Band

# Joint values of a factor that bins are made of; the more, the fewer roundings.
JOINED = 1 << 13


@dataclass(frozen=True, slots=True)
class Figure:
    """How the keys of one figure are read."""

    offset: int
    step: int
    slack: int
    peak: int

    def keys(self, lower: int | None, upper: int | None, *, sure: bool) -> tuple[int, int]:
        """The keys whose figures may lie within the bounds; if `sure`, those that all do."""
        early, late = (0, self.slack) if sure else (self.slack, 0)
        least, most = 0, self.peak
        if lower is not None:
            least = max(least, -(-(lower - self.offset - early) // self.step))
        if upper is not None:
            most = min(most, (upper - self.offset - late) // self.step)
        return least, most


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """Factors as rows of one packed key, and how each figure is read from it."""

    rows: tuple[Rows, ...]
    figures: tuple[Figure, ...]

    @property
    def exact(self) -> bool:
        return not any(figure.slack for figure in self.figures)

    def band(
        self, lower: Sequence[int | None], upper: Sequence[int | None], *, sure: bool
    ) -> Band | None:
        """The band in keys; None where no key lies in it."""
        sides = [
            figure.keys(least, most, sure=sure)
            for figure, least, most in zip(self.figures, lower, upper, strict=True)
        ]
        if any(least > most for least, most in sides):
            return None
        least, most = zip(*sides, strict=True) if sides else ((0,), (0,))
        radices = tuple(figure.peak + 1 for figure in self.figures) or (1,)
        return Band(tuple(least), tuple(most), radices)


def scale(factors: Sequence[Factor], figures: int, bins: int | None = None) -> Scaled:
    """The factors in keys, with at most about `bins` keys a figure. Raises TooLarge at 2^62."""
    keys: list[list[Integers]] = []
    readings: list[Figure] = []
    for figure in range(figures):
        reading, columns = _scale_figure([f.values[figure] for f in factors], factors, bins)
        readings.append(reading)
        keys.append(columns)
    if prod(reading.peak + 1 for reading in readings) >= SAFE:
        raise TooLarge
    rows: list[Rows] = []
    for index, factor in enumerate(factors):
        packed = np.zeros(factor.allowed.shape, np.int64)
        for reading, columns in zip(readings, keys, strict=True):
            packed = packed * (reading.peak + 1) + columns[index].astype(np.int64)
        rows.append(single(factor.scope, packed, factor.allowed))
    return Scaled(tuple(rows), tuple(readings))


def join(
    factors: Sequence[Factor], domains: Mapping[str, int], most: int = JOINED
) -> tuple[Factor, ...]:
    """Fewer, larger factors of at most `most` joint values each, the smallest unions first.

    Two join only where what they share with others lies within one of them already, so that no
    variables become neighbours that were not.
    """
    groups = dict(enumerate(factors))
    uses = Counter(variable for factor in factors for variable in factor.scope)
    pairs: list[tuple[int, int, int]] = []
    number = count(len(factors))

    def offer(first: int, second: int) -> None:
        size = prod(domains[v] for v in {*groups[first].scope, *groups[second].scope})
        if size <= most:
            heappush(pairs, (size, first, second))

    for first, second in combinations(groups, 2):
        offer(first, second)
    while pairs:
        _, first, second = heappop(pairs)
        if first not in groups or second not in groups:
            continue
        a, b = groups[first], groups[second]
        both = Counter((*a.scope, *b.scope))
        shared = {variable for variable in both if uses[variable] > both[variable]}
        if not shared.issubset(a.scope) and not shared.issubset(b.scope):
            continue
        scope = a.scope + tuple(variable for variable in b.scope if variable not in a.scope)
        shape = tuple(domains[variable] for variable in scope)
        del groups[first], groups[second]
        uses.subtract(set(a.scope).intersection(b.scope))
        new, others = next(number), tuple(groups)
        groups[new] = a.over(scope, shape).times(b.over(scope, shape))
        for other in others:
            offer(other, new)
    return tuple(groups.values())


def _scale_figure(
    columns: Sequence[Integers], factors: Sequence[Factor], bins: int | None
) -> tuple[Figure, list[Integers]]:
    """One figure's reading, and its keys in each factor; 0 where not allowed."""
    offset, span, divisor = 0, 0, 0
    apart: list[Integers] = []
    for values, factor in zip(columns, factors, strict=True):
        held = values[factor.allowed]
        least = int(held.min()) if held.size else 0
        apart.append(np.where(factor.allowed, values - least, 0))
        offset, span = offset + least, span + (int(held.max()) - least if held.size else 0)
        divisor = gcd(divisor, int(np.gcd.reduce(apart[-1].reshape(-1))))
    step = max(divisor, 1)
    if bins is not None:
        step = max(step, -(-span // bins))
    keys: list[Integers] = []
    slack, peak = 0, 0
    for values, factor in zip(apart, factors, strict=True):
        held = values[factor.allowed]
        shift, width = _rounding(held, step)
        key = np.where(factor.allowed, (values + shift) // step, 0)
        least = int(key[factor.allowed].min()) if held.size else 0
        key = np.where(factor.allowed, key - least, 0)
        offset, slack, peak = offset - shift + least * step, slack + width, peak + int(key.max())
        keys.append(key)
    return Figure(offset, step, slack, peak), keys


def _rounding(values: Integers, step: int) -> tuple[int, int]:
    """What to add before dividing so that the remainders span least, and that span.

    Remainders lie on a circle; it is cut where the gap between neighbours is widest.
    """
    if not values.size:
        return 0, 0
    rests = np.unique(values % step)
    after = np.append(rests[1:], rests[0] + step)
    widest = int(np.argmax(after - rests))
    return (-int(after[widest])) % step, step - int((after - rests)[widest])
