"""Which entries of a table complete given sums so that the total lies within a band.

One figure is a sorted search, two are sums over rectangles, three or more a look at every entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spacelang.analysis.distribution import Indices, Rows
from spacelang.analysis.limit import TooLarge
from spacelang.analysis.plane import Plane
from spacelang.analysis.problem import Integers

# Entries looked at, all queries together, where there are three figures or more.
LOOKS = 1 << 28


@dataclass(frozen=True, slots=True)
class Band:
    """Inclusive bounds of each packed figure; `radices` are the sizes of the figures in a key."""

    lower: tuple[int, ...]
    upper: tuple[int, ...]
    radices: tuple[int, ...]

    def split(self, keys: Indices) -> tuple[Indices, ...]:
        """The figures of packed keys, the last one varying fastest."""
        parts: list[Indices] = []
        for radix in reversed(self.radices[1:]):
            keys, part = np.divmod(keys, radix)
            parts.append(part)
        return (keys, *reversed(parts))


class Region:
    """The entries of `searched`, by row, that together with what is `done` lie within the band."""

    def __init__(self, searched: Rows, band: Band) -> None:
        self.searched, self.band = searched, band

    def weights(self, row: Indices, done: Indices) -> Integers:
        """For each query, a row and a packed sum, the ways to complete it."""
        if len(self.band.radices) == 1:
            begin, end = self._line(row, done)
            return self.searched.prefix[end] - self.searched.prefix[begin]
        if len(self.band.radices) > 2 and int(self.searched.lengths[row].sum()) > LOOKS:
            raise TooLarge
        result = np.zeros(len(row), self.searched.counts.dtype)
        for which, some in _by_row(row):
            keys, counts = self._row(which)
            if len(self.band.radices) == 2:
                plane = Plane(self.band.split(keys)[1], counts)
                result[some] = plane.sums(*self._rectangle(keys, done[some]))
            else:
                for query in some.tolist():
                    result[query] = counts[self._within(keys, int(done[query]))].sum()
        return result

    def select(self, row: Indices, done: Indices, skip: Integers) -> Indices:
        """For each query the entry that its first `skip` ways do not reach."""
        if len(self.band.radices) == 1:
            begin, _ = self._line(row, done)
            target = self.searched.prefix[begin] + skip
            return np.searchsorted(self.searched.prefix, target, side="right") - 1
        result = np.empty(len(row), np.int64)
        for which, some in _by_row(row):
            keys, counts = self._row(which)
            first = int(self.searched.start[which])
            if len(self.band.radices) == 2:
                plane = Plane(self.band.split(keys)[1], counts)
                begin, end, low, _ = self._rectangle(keys, done[some])
                result[some] = first + plane.select(begin, end, low, skip[some])
            else:
                for query in some.tolist():
                    held = self._within(keys, int(done[query]))
                    place = np.searchsorted(np.cumsum(counts[held]), skip[query], side="right")
                    result[query] = first + held[place]
        return result

    def _row(self, row: int) -> tuple[Indices, Integers]:
        held = slice(int(self.searched.start[row]), int(self.searched.start[row + 1]))
        return self.searched.keys[held], self.searched.counts[held]

    def _line(self, row: Indices, done: Indices) -> tuple[Indices, Indices]:
        (lower,), (upper,) = self.band.lower, self.band.upper
        begin = self.searched.position(row, lower - done)
        return begin, self.searched.position(row, upper + 1 - done)

    def _rectangle(self, keys: Indices, done: Indices) -> tuple[Indices, Indices, Indices, Indices]:
        """Ranges of x as indices within a row, half-open ranges of y as values."""
        x, y = self.band.split(done)
        (left, bottom), (right, top) = self.band.lower, self.band.upper
        radix = self.band.radices[1]
        begin = np.searchsorted(keys, (left - x) * radix)
        end = np.searchsorted(keys, (right + 1 - x) * radix)
        return begin, end, bottom - y, top + 1 - y

    def _within(self, keys: Indices, done: int) -> Indices:
        held = np.ones(len(keys), np.bool_)
        parts = self.band.split(keys + done)
        for part, lower, upper in zip(parts, self.band.lower, self.band.upper, strict=True):
            held &= (lower <= part) & (part <= upper)
        return np.flatnonzero(held)


def _by_row(row: Indices) -> Iterator[tuple[int, Indices]]:
    for which in np.unique(row):
        yield int(which), np.flatnonzero(row == which)
