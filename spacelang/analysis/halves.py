"""The two halves of a root searched against each other: the assignments within a band.

    root point p, entry a of one half:  low <= shift[p] + a + b <= high  for entries b of the other

A pair (p, a) weighs the ways of p, times the ways of a, times the ways of all b that complete it.
"""

from __future__ import annotations

import numpy as np

from spacelang.analysis.distribution import NARROW, Indices, Rows, before, ranges
from spacelang.analysis.draw import below, unfold, walk
from spacelang.analysis.factor import SAFE
from spacelang.analysis.limit import Limit
from spacelang.analysis.problem import Integers
from spacelang.analysis.region import Band, Region
from spacelang.analysis.tree import Node, Root

# Pairs added up together: few, so that a draw among them is cheap.
GROUP = 64
# Bits of a limb in exact products of int64.
LIMB = 21


class Pairs:
    """All root points with the entries of one half, and their weights under a band."""

    total: int
    used: int

    def __init__(self, root: Root, band: Band, limit: Limit) -> None:
        self._root = root
        points = np.flatnonzero(root.ways > 0)
        tables = [half.rows for half in root.halves]
        rows = [table.rows_of(root.scope, root.shape) for table in tables]
        times = [
            _search_time(tables[k], tables[1 - k], rows[k][points], rows[1 - k][points], band)
            for k in (0, 1)
        ]
        self._first = int(times[1] < times[0])
        given = tables[self._first]
        own, other = rows[self._first][points], rows[1 - self._first]
        limit.check(int(given.lengths[own].sum()))
        self.used = limit.used
        entry = ranges(given.start[own], given.lengths[own])
        point = np.repeat(points, given.lengths[own])
        self._region = Region(tables[1 - self._first], band)
        self._other_row = other
        weight = self._region.weights(other[point], root.shift[point] + given.keys[entry])
        held = np.flatnonzero(weight)
        self._point, self._entry, self._weight = point[held], entry[held], weight[held]
        most = max((int(ways) for ways in root.ways), default=0)
        narrow = given.mass * most < NARROW
        self._ways = root.ways.astype(np.int64) if narrow else root.ways
        sums = _group_sums(self._share(slice(None)), self._weight)
        self.total = int(sums.sum())
        self._reached = before(sums.astype(np.int64) if self.total < NARROW else sums)

    def _share(self, pairs: slice | Indices) -> Integers:
        """The ways of the point and of the entry of some pairs."""
        counts = self._root.halves[self._first].rows.counts
        return counts[self._entry[pairs]] * self._ways[self._point[pairs]]

    def draw(self, rng: np.random.Generator, number: int) -> dict[str, Indices]:
        """The value of every variable of the root and below it, in each of `number` draws."""
        root = self._root
        drawn = below(rng, np.full(number, self.total, self._reached.dtype))
        group = np.searchsorted(self._reached, drawn, side="right") - 1
        rest = drawn - self._reached[group]
        inside = np.arange(GROUP)[None, :] + GROUP * group[:, None]
        member = np.minimum(inside, len(self._weight) - 1)
        weight = self._share(member).astype(self._reached.dtype) * self._weight[member]
        reached = np.cumsum(np.where(inside == member, weight, 0), axis=1)
        pair = member[np.arange(number), (reached <= rest[:, None]).sum(axis=1)]
        point, entry = self._point[pair], self._entry[pair]
        done = root.shift[point] + root.halves[self._first].rows.keys[entry]
        skip = below(rng, self._weight[pair])
        partner = self._region.select(self._other_row[point], done, skip)
        starts: list[tuple[Node, Indices]] = []
        for node in root.constants:
            row = node.rows.rows_of(root.scope, root.shape)[point]
            starts.append((node, node.rows.start[row]))
        values: dict[str, Indices] = {}
        for variable, size in zip(reversed(root.scope), reversed(root.shape), strict=True):
            point, values[variable] = np.divmod(point, size)
        for which, entries in ((self._first, entry), (1 - self._first, partner)):
            if root.halves[which].nodes:
                starts.extend(unfold(rng, root.halves[which], entries))
        walk(rng, starts, values)
        return values


def _search_time(given: Rows, searched: Rows, own: Indices, other: Indices, band: Band) -> int:
    """What it takes to look for the partners of all given entries, in nanoseconds or so."""
    queries = int(given.lengths[own].sum())
    if len(band.radices) != 2:
        return queries
    return 80 * queries + 40 * int(searched.lengths[np.unique(other)].sum())


def _group_sums(a: Integers, b: Integers) -> Integers:
    """Exact sums of a * b over groups of GROUP neighbours, as Python integers."""
    starts = np.arange(0, len(a), GROUP)
    if not len(a):
        return np.zeros(0, object)
    if a.dtype == object or b.dtype == object:
        return np.add.reduceat(a.astype(object) * b.astype(object), starts)
    if int(a.max()) * int(b.max()) * GROUP < SAFE:
        return np.add.reduceat(a * b, starts).astype(object)
    # Limbs are below 2^21, their products below 2^42, and the sums of a group below 2^48.
    low = (1 << LIMB) - 1
    limbs = [[(values >> (LIMB * k)) & low for k in range(3)] for values in (a, b)]
    result = np.zeros(len(starts), object)
    for i, x in enumerate(limbs[0]):
        for j, y in enumerate(limbs[1]):
            result += np.add.reduceat(x * y, starts).astype(object) << (LIMB * (i + j))
    return result
