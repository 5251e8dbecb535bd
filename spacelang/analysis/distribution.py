"""Distributions of cost, one for each joint value of a scope: {sum: number of ways}.

    scope (width, depth), shape (3, 3)    row 4 = (width 1, depth 1): keys 0 2 5, counts 1 3 1

All rows lie in one array, so that folding and summing treat every row at once. Keys are whole
numbers; several figures are packed into one key beforehand. Counts are int64 while the sum of all
of them stays below 2^62, and Python integers after that; they are never floating point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacelang.analysis.factor import SAFE, spread
from spacelang.analysis.limit import Limit, TooLarge
from spacelang.analysis.problem import Integers

Indices = NDArray[np.int64]
# Codes (distinct) and counts of a slot; and for some points their slots, and the codes each has.
Run = Callable[[int], tuple[Indices, Integers]]
Runs = Callable[[slice], tuple[int, Run, Indices]]

# A dense row is taken where it is at most this many times longer than what is added into it:
# a product costs about as much to sort as reading so many zeros.
DENSE = 24
# Entries of the longest dense row (1 GiB).
LONGEST = 1 << 27
# Python integers take about so many times longer than int64.
WIDE = 8
# Entries treated at once, so that temporary arrays stay within some 100 MB.
BLOCK = 1 << 21
# Products merged by one sort.
SORTED = 1 << 22


@dataclass(frozen=True, eq=False)
class Rows:
    """Row r holds keys[start[r]:start[r+1]], strictly increasing, each with a count above 0.

    `mass` is the sum of all counts; `step` divides every difference of two keys of one row.
    """

    scope: tuple[str, ...]
    shape: tuple[int, ...]
    start: Indices
    keys: Indices
    counts: Integers
    mass: int
    step: int

    @property
    def points(self) -> int:
        return prod(self.shape)

    @cached_property
    def lengths(self) -> Indices:
        return np.diff(self.start)

    @cached_property
    def longest(self) -> int:
        return int(self.lengths.max())

    @cached_property
    def low(self) -> Indices:
        """The first key of each row, 0 for an empty one."""
        return _ends(self, self.start[:-1])

    @cached_property
    def high(self) -> Indices:
        """The last key of each row, 0 for an empty one."""
        return _ends(self, self.start[1:] - 1)

    @cached_property
    def prefix(self) -> Integers:
        """Sums of the counts before each entry, and of all; one longer than `counts`."""
        return before(self.counts)

    @cached_property
    def owner(self) -> Indices:
        """The row of each entry."""
        return np.repeat(np.arange(self.points), self.lengths)

    @cached_property
    def span(self) -> int:
        """Keys of all rows lie in a range of this length; raises TooLarge where codes overflow."""
        span = int(self.high.max() - self._base) + 1
        if span * (self.points + 1) >= SAFE:
            raise TooLarge
        return span

    @cached_property
    def _base(self) -> int:
        return int(self.low.min())

    @cached_property
    def _codes(self) -> Indices:
        return self.owner * self.span + (self.keys - self._base)

    def position(self, row: Indices, key: Indices) -> Indices:
        """The first entry of `row` whose key is at least `key`, or the end of the row."""
        code = row * self.span + np.clip(key - self._base, 0, self.span)
        return np.searchsorted(self._codes, code)

    def ways(self, row: Indices, key: Indices) -> tuple[Indices, Integers]:
        """Where `key` is in `row`, and its count; count 0 where it is not."""
        place = np.minimum(self.position(row, key), len(self.keys) - 1)
        found = (self.keys[place] == key) & (self.owner[place] == row)
        return place, np.where(found, self.counts[place], 0)

    def rows_of(self, scope: Sequence[str], shape: tuple[int, ...]) -> Indices:
        """For each joint value of a larger scope, the row that holds there."""
        own = np.arange(self.points).reshape(self.shape)
        return spread(own, self.scope, scope, shape).reshape(-1)

    def without(self, variable: str) -> tuple[tuple[str, ...], tuple[int, ...], Indices]:
        """The rest of the scope and, for each of its joint values, the rows by `variable`."""
        axis = self.scope.index(variable)
        rows = np.moveaxis(np.arange(self.points).reshape(self.shape), axis, -1)
        rest = (*self.scope[:axis], *self.scope[axis + 1 :])
        shape = (*self.shape[:axis], *self.shape[axis + 1 :])
        return rest, shape, rows.reshape(-1, self.shape[axis])


# Counts whose sum is below it are int64.
NARROW = SAFE
NONE = np.zeros(0, np.int64)
# One way to cost nothing.
UNIT = Rows((), (), np.array([0, 1]), np.zeros(1, np.int64), np.ones(1, np.int64), 1, 0)


def before(counts: Integers) -> Integers:
    """Running sums that begin with 0."""
    result = np.zeros(len(counts) + 1, counts.dtype)
    np.cumsum(counts, out=result[1:])
    return result


def ranges(start: Indices, length: Indices) -> Indices:
    """start[0], start[0]+1, .. (length[0] of them), start[1], ..: one array."""
    ends = np.cumsum(length)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(start - ends + length, length)


def single(scope: tuple[str, ...], keys: Indices, allowed: NDArray[np.bool_]) -> Rows:
    """Rows of one entry, or none where not allowed. Raises TooLarge where codes would overflow."""
    held = allowed.reshape(-1)
    start = np.concatenate([[0], np.cumsum(held)])
    kept = keys.reshape(-1)[held]
    if kept.size and (int(kept.max()) + 1) * (held.size + 1) >= SAFE:
        raise TooLarge
    return Rows(scope, allowed.shape, start, kept, np.ones(len(kept), np.int64), len(kept), 0)


def fold(a: Rows, b: Rows, limit: Limit) -> Rows:
    """The distribution of the sum of two independent costs, over both scopes."""
    scope = a.scope + tuple(variable for variable in b.scope if variable not in a.scope)
    sizes = dict(zip(a.scope + b.scope, a.shape + b.shape, strict=True))
    shape = tuple(sizes[variable] for variable in scope)
    limit.check(prod(shape))
    if (a.span + b.span) * (prod(shape) + 1) >= SAFE:
        raise TooLarge
    left, right = a.rows_of(scope, shape), b.rows_of(scope, shape)
    if int(a.lengths[left].max()) < int(b.lengths[right].max()):
        a, b, left, right = b, a, right, left  # scan the shorter rows
    products = a.lengths[left] * b.lengths[right]
    mass = _product_mass(a, b, left, right)
    wide = mass >= NARROW or a.counts.dtype == object or b.counts.dtype == object
    counts_a, counts_b = (r.counts.astype(object) if wide else r.counts for r in (a, b))
    limit.check(0, int(products.sum()) * (WIDE if wide else 1))
    step = gcd(a.step, b.step)
    unit = max(step, 1)

    def runs(rows: slice) -> tuple[int, Run, Indices]:
        mine, other = left[rows], right[rows]
        extent = (a.high - a.low)[mine] + (b.high - b.low)[other]
        size = np.where(products[rows] > 0, extent // unit + 1, 0)
        offset = before(size)[:-1]
        entries = ranges(a.start[mine], a.lengths[mine])
        owner = np.repeat(np.arange(len(mine)), a.lengths[mine])
        codes = (a.keys[entries] - a.low[mine][owner]) // unit + offset[owner]
        counts = counts_a[entries]

        def run(slot: int) -> tuple[Indices, Integers]:
            held = b.lengths[other] > slot
            place = np.where(held, b.start[other] + slot, 0)
            shift = (b.keys[place] - b.low[other]) // unit
            if bool(held.all()):
                return codes + shift[owner], counts * counts_b[place][owner]
            live = held[owner]
            return (codes + shift[owner])[live], (counts * counts_b[place][owner])[live]

        return int(b.lengths[other].max()), run, size

    low = a.low[left] + b.low[right]
    empty = Rows(scope, shape, NONE, NONE, counts_a[:0], mass, step)
    return _gather(empty, low, products, a.lengths[left], runs, limit)


def sum_out(rows: Rows, variable: str, limit: Limit) -> Rows:
    """The distribution with one variable free: the ways of its values added up."""
    scope, shape, members = rows.without(variable)
    lengths = rows.lengths[members]
    empty = lengths == 0
    low = np.where(empty, np.iinfo(np.int64).max, rows.low[members]).min(axis=1)
    low = np.where(empty.all(axis=1), 0, low)
    high = np.where(empty, np.iinfo(np.int64).min, rows.high[members]).max(axis=1)
    apart = np.where(empty, 0, rows.low[members] - low[:, None])
    step = gcd(rows.step, int(np.gcd.reduce(apart.reshape(-1))))
    unit = max(step, 1)
    total = lengths.sum(axis=1)

    def runs(points: slice) -> tuple[int, Run, Indices]:
        size = np.where(total[points] > 0, (high[points] - low[points]) // unit + 1, 0)
        offset = before(size)[:-1]

        def run(value: int) -> tuple[Indices, Integers]:
            chosen = members[points, value]
            entries = ranges(rows.start[chosen], rows.lengths[chosen])
            owner = np.repeat(np.arange(len(chosen)), rows.lengths[chosen])
            codes = (rows.keys[entries] - low[points][owner]) // unit + offset[owner]
            return codes, rows.counts[entries]

        return members.shape[1], run, size

    empty = Rows(scope, shape, NONE, NONE, rows.counts[:0], rows.mass, step)
    return _gather(empty, low, total, total, runs, limit)


def _gather(
    empty: Rows, low: Indices, products: Indices, loads: Indices, runs: Runs, limit: Limit
) -> Rows:
    """`empty` filled from runs: a code is the row's offset + (key - low) / step."""
    unit = max(empty.step, 1)
    keys, counts, lengths = [empty.keys], [empty.counts], [empty.start]
    made = 0
    for block in _blocks(loads):
        number, run, size = runs(block)
        amount = int(products[block].sum())
        if amount == 0:
            lengths.append(np.zeros(len(size), np.int64))
            continue
        codes, ways = _merged(run, number, amount, int(size.sum()), empty.counts.dtype)
        edges = before(size)
        length = np.diff(np.searchsorted(codes, edges))
        keys.append((codes - np.repeat(edges[:-1], length)) * unit + np.repeat(low[block], length))
        counts.append(ways)
        lengths.append(length)
        made += len(codes)
        limit.check(made)
    merged = np.concatenate(counts)
    return replace(
        empty,
        start=before(np.concatenate(lengths)),
        keys=np.concatenate(keys),
        counts=merged if empty.mass >= NARROW else merged.astype(np.int64),
    )


def _merged(
    run: Run, number: int, products: int, size: int, dtype: np.dtype[Any]
) -> tuple[Indices, Integers]:
    """All runs added up; codes of one run are distinct, so a dense row may be added to by index."""
    if size <= min(DENSE * products + BLOCK // 64, LONGEST):
        dense = np.zeros(size, dtype)
        for slot in range(number):
            codes, counts = run(slot)
            dense[codes] += counts
        held = np.flatnonzero(dense)
        return held, dense[held]
    return _sorted_runs(run, 0, number, products)


def _sorted_runs(run: Run, first: int, last: int, products: int) -> tuple[Indices, Integers]:
    middle = (first + last) // 2
    if products > SORTED and last - first > 1:
        parts = [
            _sorted_runs(run, first, middle, products // 2),
            _sorted_runs(run, middle, last, products // 2),
        ]
    else:
        parts = [run(slot) for slot in range(first, last)]
        if len(parts) == 1:
            return parts[0]
    codes = np.concatenate([part[0] for part in parts])
    counts = np.concatenate([part[1] for part in parts])
    if not len(codes):
        return codes, counts
    order = np.argsort(codes, kind="stable" if len(parts) == 2 else None)
    codes = codes[order]
    edges = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    return codes[edges], np.add.reduceat(counts[order], edges)


def _blocks(loads: Indices) -> Iterator[slice]:
    """Consecutive points of at most BLOCK entries together, or one point."""
    ends = np.cumsum(loads)
    first = 0
    while first < len(loads):
        reached = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, reached + BLOCK, side="right")))
        yield slice(first, last)
        first = last


def _ends(rows: Rows, place: Indices) -> Indices:
    if not len(rows.keys):
        return np.zeros(rows.points, np.int64)
    return np.where(rows.lengths > 0, rows.keys[np.clip(place, 0, len(rows.keys) - 1)], 0)


def _product_mass(a: Rows, b: Rows, left: Indices, right: Indices) -> int:
    """The exact sum of all counts of a fold."""
    if a.mass * b.mass * len(left) < SAFE:
        return int((row_mass(a)[left] * row_mass(b)[right]).sum())
    return int((row_mass(a).astype(object)[left] * row_mass(b).astype(object)[right]).sum())


def row_mass(rows: Rows) -> Integers:
    """The sum of the counts of each row."""
    return np.diff(rows.prefix[rows.start])
