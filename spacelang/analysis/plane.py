"""Weighted points in the plane: exact sums over rectangles, and draws from within them.

Points are given in order of x; a rectangle is a range of their indices with a half-open range of y.
Both questions go down a wavelet tree, one bit of y's rank a level. Levels are made while all
queries go down together and are not kept: the memory is that of one level.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spacelang.analysis.distribution import Indices, before
from spacelang.analysis.problem import Integers

# Queries treated at once, so that their temporary arrays stay in the cache.
QUERIES = 1 << 15


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One bit of the ranks: points with 0 go first, in stable order, `order` says from where.

    `zeros[i]` points of the first i have bit 0; `weight[j]` is the weight of the first j of those.
    """

    bit: int
    zeros: Indices
    weight: Integers
    order: Indices

    def down(self, place: Indices, low: Indices, ones: NDArray[np.bool_]) -> Indices:
        """A border between points in the order of the next level; `low` is zeros[place]."""
        return np.where(ones, place - low + self.zeros[-1], low)


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """The points' y, in order of x, and their weights."""

    heights: Indices
    weights: Integers

    def sums(self, begin: Indices, end: Indices, bottom: Indices, top: Indices) -> Integers:
        """The weight of the points begin <= index < end with bottom <= y < top, for each query."""
        ordered, ranks, bits = self._ranked()
        upper = np.searchsorted(ordered, top)
        lower = np.minimum(np.searchsorted(ordered, bottom), upper)
        result = np.zeros(len(begin), self.weights.dtype)
        borders = [
            (rank, begin.copy(), end.copy(), sign) for rank, sign in ((upper, 1), (lower, -1))
        ]
        for level in _levels(ranks, self.weights, bits):
            for rank, first, last, sign in borders:
                for some in _pieces(len(result)):
                    ones = (rank[some] >> level.bit) & 1 == 1
                    low, high = level.zeros[first[some]], level.zeros[last[some]]
                    inside = level.weight[high] - level.weight[low]
                    result[some] += sign * np.where(ones, inside, 0)
                    first[some] = level.down(first[some], low, ones)
                    last[some] = level.down(last[some], high, ones)
        return result

    def select(self, begin: Indices, end: Indices, bottom: Indices, skip: Integers) -> Indices:
        """The point reached when the weights in a rectangle, ordered by y, pass `skip` [queries].

        Points are begin <= index < end with y at least `bottom`; `skip` is below their weight.
        """
        _, ranks, bits = self._ranked()
        lowest = np.full(len(begin), np.iinfo(np.int64).min)
        rest = skip + self.sums(begin, end, lowest, bottom)
        first, last = begin.copy(), end.copy()
        order = np.arange(len(ranks))
        for level in _levels(ranks, self.weights, bits):
            low, high = level.zeros[first], level.zeros[last]
            inside = level.weight[high] - level.weight[low]
            ones = (rest >= inside).astype(np.bool_)
            rest = rest - np.where(ones, inside, 0)
            first, last = level.down(first, low, ones), level.down(last, high, ones)
            order = order[level.order]
        # Here every range holds points of one y, in order of x.
        total = before(self.weights[order])
        return order[np.searchsorted(total, total[first] + rest, side="right") - 1]

    def _ranked(self) -> tuple[Indices, Indices, int]:
        ordered, ranks = np.unique(self.heights, return_inverse=True)
        return ordered, ranks, len(ordered).bit_length()


def _levels(ranks: Indices, weights: Integers, bits: int) -> Iterator[Level]:
    for bit in reversed(range(bits)):
        ones = (ranks >> bit) & 1
        order = np.concatenate([np.flatnonzero(ones == 0), np.flatnonzero(ones)])
        ranks, weights = ranks[order], weights[order]
        yield Level(bit, before(1 - ones), before(weights), order)


def _pieces(length: int) -> Iterator[slice]:
    for first in range(0, length, QUERIES):
        yield slice(first, first + QUERIES)
