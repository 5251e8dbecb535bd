"""Exact counting and exactly uniform sampling of the assignments of a problem, within a band.

    space = Elimination(problem)
    space.size                                             # all admissible assignments
    space.count([5_000_000, None], [6_000_000, None])      # Exact(value=5164334576)
    space.sample(4, numpy.random.default_rng(0))           # indices [4, variables]

Variables are eliminated over the scopes of the cost tables; the value of a table is a distribution
{sum: number of ways}. Only figures with a band enter. Where a table would explode, costs are
rounded into bins: `count` then gives exact bounds, and `sample` keeps those draws that lie in the
band, which is still exactly uniform.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from spacelang.analysis.distribution import Indices
from spacelang.analysis.factor import extreme, simplify
from spacelang.analysis.halves import Pairs
from spacelang.analysis.limit import Limit, TooLarge
from spacelang.analysis.plan import Plan, Proposal
from spacelang.analysis.problem import (
    BandTooNarrow,
    CountingError,
    EmptyBand,
    Mask,
    Problem,
    Table,
    TooEntangled,
)
from spacelang.analysis.region import Band
from spacelang.analysis.scale import JOINED, join, scale
from spacelang.analysis.tree import build
from spacelang.ir.figures import Between

__all__ = [
    "BandTooNarrow",
    "CountingError",
    "Elimination",
    "EmptyBand",
    "Exact",
    "Mask",
    "Problem",
    "Table",
    "TooEntangled",
]

# Entries of one exact table: some gigabytes and a minute at the worst.
ENTRIES = 1 << 24
# Beyond so many, a sample tries rounded costs or a table of one figure, which are set up sooner.
QUICK = 1 << 20
# Entries of one table of rounded costs.
COARSE = 1 << 23
# Keys of a single figure where costs are rounded, an eighth as many for each further one; and
# how many times finer they may become for draws.
BINS = 1 << 14
FINER = (8, 64)
# A proposal that keeps fewer than one in KEPT of PROBE draws gives way to the next.
PROBE = 1 << 12
KEPT = 64
# Draws of the last proposal without success, all told.
PATIENCE = 1 << 18
# Draws made at once.
BATCH = 1 << 16
# Bands whose weights are kept.
REMEMBERED = 8

Bound = Sequence[int | None]


@dataclass(frozen=True, slots=True)
class Exact:
    """A number of assignments."""

    value: int


class Elimination:
    """The admissible assignments of a problem; exact tables hold at most `entries` sums each.

    Tables are made when first needed, and kept.
    """

    def __init__(self, problem: Problem, entries: int = ENTRIES) -> None:
        self.problem = problem
        self.entries = entries
        self._plans: dict[tuple[tuple[int, ...], int | None], Plan] = {}
        self._failed: dict[tuple[tuple[int, ...], int | None], int] = {}
        self._pairs: dict[tuple[int, Band], Pairs] = {}
        self._bounds: dict[int, tuple[int, int] | None] = {}

    @cached_property
    def size(self) -> int:
        """The number of admissible assignments. Raises TooEntangled where no table fits."""
        nothing = (None,) * self.problem.figures
        made = self._attempt((), nothing, nothing, self.entries)
        if made is None:
            raise TooEntangled("the variables hang together too closely for exact tables")
        return made.number

    def bounds(self, figure: int) -> tuple[int, int]:
        """The least and the largest value of a figure. Raises EmptyBand without assignments."""
        result = self._extremes(figure)
        if result is None:
            raise EmptyBand("no assignment is admissible")
        return result

    def count(self, lower: Bound, upper: Bound) -> Exact | Between:
        """How many assignments have every figure within its inclusive bounds; None is no bound."""
        figures = self._asked(lower, upper)
        if figures is None:
            return Exact(0)
        if not figures:
            return Exact(self.size)
        for entries, bins, fewest in ((self.entries, None, 0), (COARSE, _bins(figures), 1)):
            made = self._attempt(figures, lower, upper, entries, bins, fewest)
            if made is None:
                continue
            most = sure = made.number
            if not made.plan.scaled.exact:
                inner = self._weighed(made.plan, made.limit, lower, upper, sure=True)
                sure = inner.total * made.plan.multiple if inner else 0
            return Exact(most) if sure == most else Between(sure, most)
        return Between(0, self.size)

    def sample(
        self,
        number: int,
        rng: np.random.Generator,
        lower: Bound | None = None,
        upper: Bound | None = None,
    ) -> Indices:
        """Independent draws [number, variables] of value indices, in the order of the domains.

        Every admissible assignment within the inclusive band is drawn equally often, exactly.
        Raises EmptyBand where there is none, and BandTooNarrow where exact tables do not fit and
        hardly any draw from rounded ones lies in the band.
        """
        nothing = (None,) * self.problem.figures
        lower = nothing if lower is None else lower
        upper = nothing if upper is None else upper
        figures = self._asked(lower, upper)
        if figures is None:
            raise EmptyBand("no admissible assignment lies within the band")
        kept = [np.zeros((0, len(self.problem.domains)), np.int64)]
        proposals = self._proposals(figures, lower, upper)
        proposal = next(proposals, None)
        if proposal is None:
            raise TooEntangled("the variables hang together too closely for tables")
        missing, tried, found = number, 0, 0
        while missing:
            # As many as should be kept, going by those before.
            wanted = missing * (tried + 1) // (found + 1) if tried else missing
            drawn = proposal.draw(min(max(wanted, missing, 64), BATCH), rng)
            inside = drawn[self._holds(drawn, proposal.plan, figures, lower, upper)][:missing]
            kept.append(inside)
            missing, tried, found = missing - len(inside), tried + len(drawn), found + len(inside)
            if missing and tried >= PROBE and found * KEPT < tried:
                finer = next(proposals, None)
                if finer:
                    proposal, tried, found = finer, 0, 0
                elif tried > PATIENCE * (found + 1):
                    raise BandTooNarrow(
                        f"exact tables do not fit, and of {tried} draws {found} are in the band"
                    )
        return np.concatenate(kept)

    def _proposals(
        self, figures: tuple[int, ...], lower: Bound, upper: Bound
    ) -> Iterator[Proposal]:
        """Ways to draw from the band or a little around it, the quickest to set up first."""

        def made(
            *ways: tuple[tuple[int, ...], int, int | None, int],
        ) -> Iterator[Proposal]:
            for some, entries, bins, fewest in ways:
                found = self._attempt(some, lower, upper, entries, bins, fewest)
                if found:
                    yield self._some(found)

        first = _bins(figures)
        exact, rounded = (figures, self.entries, None, 0), (figures, COARSE, first, 1)
        yield from made((figures, min(QUICK, self.entries), None, 0))
        if len(figures) > 1:  # made sooner than exact tables of one figure, and more is kept
            yield from made(rounded)
        singles = made(*(((figure,), self.entries, None, 0) for figure in figures))
        yield from sorted(singles, key=lambda single: single.number)
        if len(figures) < 2:
            yield from made(rounded)
        finer = ((figures, self.entries, first * n, first * n) for n in FINER)
        yield from made(exact, *finer, ((), self.entries, None, 0))

    def _attempt(
        self,
        figures: tuple[int, ...],
        lower: Bound,
        upper: Bound,
        entries: int,
        bins: int | None = None,
        fewest: int = 0,
    ) -> Proposal | None:
        """The pairs that may lie in the band, with `bins` halved down to `fewest` if need be."""
        while True:
            limit = Limit(min(entries, self.entries))
            try:
                plan = self._plan(figures, limit, bins)
                pairs = self._weighed(plan, limit, lower, upper, sure=False)
                return Proposal(self.problem, plan, limit, pairs)
            except TooLarge:
                if bins is None or bins // 2 < fewest:
                    return None
                bins //= 2

    def _asked(self, lower: Bound, upper: Bound) -> tuple[int, ...] | None:
        """The figures whose bounds exclude something; None where one excludes everything."""
        if len(lower) != self.problem.figures or len(upper) != self.problem.figures:
            raise ValueError(f"bounds are wanted for each of {self.problem.figures} figures")
        asked: list[int] = []
        for figure, (low, high) in enumerate(zip(lower, upper, strict=True)):
            if low is None and high is None:
                continue
            extremes = self._extremes(figure)
            if extremes is None:
                return None
            least, most = extremes
            low, high = (least if low is None else low), (most if high is None else high)
            if low > high or low > most or high < least:
                return None
            if low > least or high < most:
                asked.append(figure)
        return tuple(asked)

    def _extremes(self, figure: int) -> tuple[int, int] | None:
        if figure not in self._bounds:
            least = extreme(self.problem, figure, largest=False)
            most = extreme(self.problem, figure, largest=True)
            self._bounds[figure] = None if least is None or most is None else (least, most)
        return self._bounds[figure]

    def _plan(self, figures: tuple[int, ...], limit: Limit, bins: int | None) -> Plan:
        """The elimination for some figures, made once. Raises TooLarge."""
        key = figures, bins
        if key not in self._plans:
            if self._failed.get(key, 0) >= limit.entries:
                raise TooLarge
            try:
                self._plans[key] = self._made(figures, limit, bins)
            except TooLarge:
                self._failed[key] = limit.entries
                raise
        # Whether it fits must not depend on what was asked before.
        limit.check(self._plans[key].used)
        return self._plans[key]

    def _made(self, figures: tuple[int, ...], limit: Limit, bins: int | None) -> Plan:
        domains = self.problem.domains
        factors = simplify(self.problem, figures)
        bound = {variable for factor in factors for variable in factor.scope}
        free = tuple(variable for variable in domains if variable not in bound)
        if bins is not None:
            factors = join(factors, domains, min(JOINED, limit.entries))
        scaled = scale(factors, len(figures), bins)
        root = build(scaled.rows, domains, limit)
        return Plan(figures, scaled, root, limit.used, free, self.problem.points(free))

    def _weighed(
        self, plan: Plan, limit: Limit, lower: Bound, upper: Bound, *, sure: bool
    ) -> Pairs | None:
        """The pairs at the root whose keys may (if `sure`, must) lie in the band."""
        band = plan.scaled.band(
            [lower[figure] for figure in plan.figures],
            [upper[figure] for figure in plan.figures],
            sure=sure,
        )
        if band is None:
            return None
        key = id(plan), band
        if key not in self._pairs:
            if len(self._pairs) >= REMEMBERED:
                self._pairs.pop(next(iter(self._pairs)))
            self._pairs[key] = Pairs(plan.root, band, Limit(limit.entries))
        limit.check(self._pairs[key].used)
        return self._pairs[key]

    def _holds(
        self, drawn: Indices, plan: Plan, figures: tuple[int, ...], lower: Bound, upper: Bound
    ) -> NDArray[np.bool_]:
        """Which assignments lie in the band; figures that the plan settles need no look."""
        held = np.ones(len(drawn), np.bool_)
        for figure in figures:
            if plan.scaled.exact and figure in plan.figures:
                continue
            total = self.problem.total(figure, drawn)
            low, high = lower[figure], upper[figure]
            if low is not None:
                held &= (total >= low).astype(np.bool_)
            if high is not None:
                held &= (total <= high).astype(np.bool_)
        return held

    @staticmethod
    def _some(proposal: Proposal) -> Proposal:
        if not proposal.number:
            raise EmptyBand("no admissible assignment lies within the band")
        return proposal


def _bins(figures: tuple[int, ...]) -> int:
    return BINS >> 3 * max(len(figures) - 1, 0)
