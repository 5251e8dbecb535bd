"""Draws of every decision by itself, those that meet a budget: the law by choices.

    ByChoices(counter).redrawn(5, rng, where)     # again and again, exactly where few do
    ByChoices(counter).exact(5, 0, where, {"op[0]": (1, 1, 3)})

What a decision takes that is not live counts for nothing, so an architecture is as likely as its
live decisions make it: one with few of them is likelier than one with many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from spacelang.analysis.budget import Budget
from spacelang.analysis.eliminate import Elimination
from spacelang.analysis.problem import Mask
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.decision import Assignment

if TYPE_CHECKING:
    from spacelang.analysis.count import Counter

CHUNK = 1 << 14  # rows drawn at once
MISSES = 1 << 17  # draws in a row that may lie outside of a budget
SHOWN = 8  # decisions that a message names
FINEST = 1 << 12  # the largest whole number that a weight may be
Weights = Mapping[str, Sequence[int]]  # of the candidates of decisions, by path
EVEN: Weights = MappingProxyType({})


class ByChoices:
    """The draws of one space."""

    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self._last: tuple[object, Elimination] | None = None

    def redrawn(self, n: int, rng: np.random.Generator, where: Budget) -> Iterator[Assignment]:
        """Draws, what misses the budget drawn again; exact ones where too few meet it.

        SP502 where the budget is empty, SP507 where few meet it and no exact table fits.
        """
        counter, decisions = self.counter, self.counter.graph.decisions
        wanted = counter.required.meet(where)
        if not wanted.bands and not wanted.conditions:
            for _ in range(n):
                drawn = {
                    c.path: c.values[int(rng.integers(len(c.values)))] for c in decisions.order
                }
                yield decisions.assignment(drawn)
            return
        if self._is_empty(where):
            raise counter.empty(wanted)
        missed = 0
        while n:
            choices = list(counter.choices)
            drawn = rng.integers(0, counter.shape(choices), (CHUNK, len(choices)))
            rows: list[list[int]] = drawn[counter.inside(drawn, wanted)][:n].tolist()
            missed = 0 if rows else missed + CHUNK
            if missed >= MISSES:
                yield from self.exact(n, int(rng.integers(1 << 62)), where)
                return
            for row in rows:
                yield counter.assignment(row)
            n -= len(rows)

    def exact(self, n: int, seed: int, where: Budget, weights: Weights = EVEN) -> list[Assignment]:
        """Draws that meet the budget, however few do.

        Each candidate is as likely as its weight says, all alike where a decision has none. SP502
        where the budget is empty, SP507 where no exact table fits or a weight is above FINEST.
        """
        if fine := [path for path, own in weights.items() if max(own) > FINEST]:
            shown = ":".join(map(str, weights[fine[0]]))
            found = error("SP507", "weights of candidates are too fine to be counted by")
            found = found.note(f"those of {fine[0]} are {shown}, and at most {FINEST:,} can be")
            raise SpaceError(found.hint("give weights of fewer decimals"))
        wanted = self.counter.required.meet(where)
        rng = np.random.Generator(np.random.PCG64(seed))
        try:
            drawn = self.counter.sampled(self._weighed(wanted, weights), n, rng, wanted)
        except SpaceError as failed:
            never = [path for path, own in weights.items() if 0 in own]
            if not never or failed.diagnostics[0].code != "SP502":
                raise
            # What figures reach is not said: candidates that are never drawn reach that too.
            found = error("SP502", "no architecture that is drawn meets the requirement")
            found = found.note(f"candidates of weight 0: of {', '.join(never[:SHOWN])}")
            raise SpaceError(found.hint("give them a weight")) from failed
        rows: list[list[int]] = drawn.tolist()
        return [self.counter.assignment(row) for row in rows]

    def _is_empty(self, where: Budget) -> bool:
        """Whether it is known that a budget leaves nothing."""
        try:
            return self.counter.size(where) == 0
        except SpaceError:
            return False

    def _weighed(self, wanted: Budget, weights: Weights) -> Elimination:
        """Counts of candidates for all decisions, live or not: so an architecture is there as often
        as draws meet it. A weight is a number of values of one more variable."""
        key = wanted.conditions, tuple((path, tuple(own)) for path, own in weights.items())
        if self._last is None or self._last[0] != key:
            problem = self.counter.problem(wanted.conditions)
            domains, masks = dict(problem.domains), list(problem.masks)
            for path, own in weights.items():
                domains[f"{path} weighs"] = max(own)
                ways = np.arange(max(own)) < np.array(own, np.int64)[:, None]
                masks.append(Mask((path, f"{path} weighs"), ways))
            weighed = replace(problem, domains=domains, masks=tuple(masks))
            self._last = key, Elimination(weighed)
        return self._last[1]
