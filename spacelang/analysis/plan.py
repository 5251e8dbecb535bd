"""An elimination made for some figures, and draws from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spacelang.analysis.distribution import Indices
from spacelang.analysis.halves import Pairs
from spacelang.analysis.limit import Limit
from spacelang.analysis.problem import EmptyBand, Problem
from spacelang.analysis.scale import Scaled
from spacelang.analysis.tree import Root


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """An elimination for some figures; `used` is the least limit that lets it be made.

    `free` are the variables that nothing depends on, with `multiple` joint values.
    """

    figures: tuple[int, ...]
    scaled: Scaled
    root: Root
    used: int
    free: tuple[str, ...]
    multiple: int


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """The assignments of a band, or of a little more where costs were rounded."""

    problem: Problem
    plan: Plan
    limit: Limit
    pairs: Pairs | None

    @property
    def number(self) -> int:
        """How many they are."""
        return self.pairs.total * self.plan.multiple if self.pairs else 0

    def draw(self, number: int, rng: np.random.Generator) -> Indices:
        """Value indices [number, variables], in the order of the domains; there must be some."""
        if self.pairs is None:
            raise EmptyBand("no admissible assignment lies within the band")
        values = self.pairs.draw(rng, number)
        for variable in self.plan.free:
            values[variable] = rng.integers(0, self.problem.domains[variable], number)
        result = np.empty((number, len(values)), np.int64)
        for column, variable in enumerate(self.problem.domains):
            result[:, column] = values[variable]
        return result
