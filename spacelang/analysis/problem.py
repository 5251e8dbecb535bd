"""A counting problem: variables with finite domains, additive integer costs, and 0/1 constraints.

    Problem({"depth": 3, "heads[0]": 2}, (Table(("depth", "heads[0]"), (params,)),), (), figures=1)

An assignment gives every variable an index into its domain. It is admissible when every mask holds
there; its figures are the sums of what the tables say there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

# int64, or object holding Python integers where int64 would not do.
Integers = NDArray[Any]
SAFE = 1 << 62
"""Sums and counts below it may be added once more within int64."""


class CountingError(ValueError):
    """What a counting problem cannot answer, with the reason."""


class EmptyBand(CountingError):
    """No admissible assignment lies within what was asked."""


class TooEntangled(CountingError):
    """The variables hang together so closely that no exact table fits into memory."""


class BandTooNarrow(CountingError):
    """Exact tables do not fit, and too few of the draws from coarser ones lie within the band."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One additive cost: for each figure an array over the domains of `scope`, in that order."""

    scope: tuple[str, ...]
    figures: tuple[Integers, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A constraint: over the domains of `scope`, what is not `allowed` is not admissible."""

    scope: tuple[str, ...]
    allowed: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Variables with the sizes of their domains, tables of `figures` costs each, and masks."""

    domains: Mapping[str, int]
    tables: tuple[Table, ...]
    masks: tuple[Mask, ...]
    figures: int

    def __post_init__(self) -> None:
        for variable, size in self.domains.items():
            if size < 1:
                raise ValueError(f"{variable} has no value")
        for table in self.tables:
            if len(table.figures) != self.figures:
                raise ValueError(f"a table has {len(table.figures)} figures, not {self.figures}")
            for values in table.figures:
                self._check(table.scope, values.shape)
        for mask in self.masks:
            self._check(mask.scope, mask.allowed.shape)

    def shape(self, scope: Sequence[str]) -> tuple[int, ...]:
        """The domain sizes of some variables."""
        return tuple(self.domains[variable] for variable in scope)

    def points(self, scope: Sequence[str]) -> int:
        """How many joint values some variables have."""
        return prod(self.shape(scope))

    def total(self, figure: int, assignments: NDArray[np.int64]) -> Integers:
        """One figure of each row of `assignments` [n, variables], exactly; [n]."""
        column = {variable: index for index, variable in enumerate(self.domains)}
        result = np.zeros(len(assignments), kind(self.tables, figure))
        for table in self.tables:
            values = table.figures[figure]
            where = tuple(assignments[:, column[variable]] for variable in table.scope)
            result += values.astype(result.dtype)[where]
        return result

    def _check(self, scope: tuple[str, ...], shape: tuple[int, ...]) -> None:
        if len(set(scope)) != len(scope):
            raise ValueError(f"a variable occurs twice in the scope {scope}")
        for variable in scope:
            if variable not in self.domains:
                raise ValueError(f"{variable} has no domain")
        if shape != self.shape(scope):
            raise ValueError(f"an array over {scope} has shape {shape}, not {self.shape(scope)}")


def kind(tables: Iterable[Table], figure: int) -> type[np.int64] | type[object]:
    """What sums of a figure are held in."""
    peak = sum(magnitude(table.figures[figure]) for table in tables)
    return np.int64 if peak < SAFE else object


def added(a: Integers, b: Integers) -> Integers:
    """The sum of two arrays of one shape, exactly."""
    fits = magnitude(a) + magnitude(b) < SAFE
    kind = np.int64 if fits and a.dtype != object and b.dtype != object else object
    # What NumPy makes of an array without axes is no array.
    return np.asarray(np.add(a, b, dtype=kind), kind)


def magnitude(values: Integers) -> int:
    """The largest absolute value in an array."""
    return max(abs(int(values.max())), abs(int(values.min())))
