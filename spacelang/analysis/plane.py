"""Weighted points in the plane: exact sums over rectangles, and draws from within them.

Points are given in order of x; a rectangle is a range of their indices with a half-open range of y.
Both questions go down a wavelet tree, one bit of y's rank a level. Levels are made while all
queries go down together and are not kept: the memory is that of one level.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spacelang.analysis.distribution import Indices, before
from spacelang.analysis.problem import Integers

# Queries treated at once, so that their temporary arrays stay in the cache.
QUERIES = 1 << 15


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One bit of the ranks: where each point goes, zeros first, in stable order.

    `zeros[i]` points of the first i have bit 0, of weight `weight[i]`.
    """

    bit: int
    zeros: Indices
    weight: Integers

    def down(self, place: Indices, ones: Indices | bool) -> Indices:
        """A border between points, in the order of the next level, among the zeros or the ones."""
        before_it = self.zeros[place]
        return np.where(ones, self.zeros[-1] + place - before_it, before_it)


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """The points' y, in order of x, and their weights."""

    heights: Indices
    weights: Integers

    def sums(self, begin: Indices, end: Indices, low: Indices, high: Indices) -> Integers:
        """The weight of the points begin <= index < end with low <= y < high, for each query."""
        ordered, ranks, bits = self._ranked()
        upper = np.searchsorted(ordered, high)
        lower = np.minimum(np.searchsorted(ordered, low), upper)
        result = np.zeros(len(begin), self.weights.dtype)
        borders = [
            (rank, begin.copy(), end.copy(), sign) for rank, sign in ((upper, 1), (lower, -1))
        ]
        for level in _levels(ranks, self.weights, bits):
            for rank, first, last, sign in borders:
                for some in _pieces(len(result)):
                    ones = (rank[some] >> level.bit) & 1 == 1
                    inside = level.weight[last[some]] - level.weight[first[some]]
                    result[some] += sign * np.where(ones, inside, 0)
                    first[some] = level.down(first[some], ones)
                    last[some] = level.down(last[some], ones)
        return result

    def select(self, begin: Indices, end: Indices, low: Indices, skip: Integers) -> Indices:
        """The point reached when the weights in a rectangle, ordered by y, pass `skip` [queries].

        Points are begin <= index < end with y at least `low`; `skip` is below their weight.
        """
        ordered, ranks, bits = self._ranked()
        bottom = np.full(len(begin), np.iinfo(np.int64).min)
        rest = skip + self.sums(begin, end, bottom, low)
        first, last = begin.copy(), end.copy()
        order = np.arange(len(ranks))
        for level in _levels(ranks, self.weights, bits):
            inside = level.weight[last] - level.weight[first]
            ones = rest >= inside
            rest = rest - np.where(ones, inside, 0)
            first, last = level.down(first, ones), level.down(last, ones)
            order = _apart(order, (ranks[order] >> level.bit) & 1 == 1)
        # Here every range holds points of one y, in order of x.
        total = before(self.weights[order])
        return order[np.searchsorted(total, total[first] + rest, side="right") - 1]

    def _ranked(self) -> tuple[Indices, Indices, int]:
        ordered, ranks = np.unique(self.heights, return_inverse=True)
        return ordered, ranks, len(ordered).bit_length()


def _levels(ranks: Indices, weights: Integers, bits: int) -> Iterator[Level]:
    for bit in reversed(range(bits)):
        ones = (ranks >> bit) & 1 == 1
        zeros = before((~ones).astype(np.int64))
        yield Level(bit, zeros, before(np.where(ones, 0, weights)))
        ranks, weights = _apart(ranks, ones), _apart(weights, ones)


def _apart(values: Integers, ones: Integers) -> Integers:
    return np.concatenate([values[~ones], values[ones]])


def _pieces(length: int) -> Iterator[slice]:
    for first in range(0, length, QUERIES):
        yield slice(first, first + QUERIES)
