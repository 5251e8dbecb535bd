"""How many architectures a space has, under any budget, and exactly uniform samples of them.

Every monomial of a cost is an integer table over its decisions; a decision that is not live must
take its first candidate. `eliminate.py` does the counting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from spacelang.analysis.budget import Budget
from spacelang.analysis.choices import ByChoices
from spacelang.analysis.cost import CostModel, Term
from spacelang.analysis.eliminate import Elimination, Exact
from spacelang.analysis.problem import (
    SAFE,
    BandTooNarrow,
    EmptyBand,
    Integers,
    Mask,
    Problem,
    Table,
    TooEntangled,
    added,
    kind,
)
from spacelang.analysis.running import apart
from spacelang.analysis.scopes import MAX_POINTS, scopes, too_wide
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.condition import TRUE, Condition
from spacelang.ir.decision import Assignment, Choice
from spacelang.ir.dim import Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.figures import FIGURES, Between

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spacelang.ir.graph import Graph

CHUNK = 1 << 14  # rows costed at once: what stays in cache
Law = Literal["architectures", "choices"]


def _asked(low: int | None, high: int | None) -> str:
    """A band in words."""
    if low is None:
        return "any" if high is None else f"at most {high:,}"
    return f"at least {low:,}" if high is None else f"{low:,} to {high:,}"


class Counter:
    """Counting and sampling for one graph; tables are made once, eliminations once per budget."""

    def __init__(self, graph: Graph, model: CostModel) -> None:
        self.graph, self.model = graph, model
        self.choices: Mapping[str, Choice] = graph.decisions
        self.extrema = apart(model.terms)
        self.values = {path: choice.values for path, choice in self.choices.items()}
        self.values |= {v.symbol.name: v.symbol.values for v in self.extrema.variables}
        self._problems: dict[tuple[Condition, ...], Elimination] = {}

    @cached_property
    def required(self) -> Budget:
        """What the space itself requires."""
        return Budget.of(self.graph.require)

    def size(self, where: Budget | None = None) -> int | Between:
        """The exact number of architectures, or exact bounds where no joint table fits."""
        wanted = self.required.meet(where or Budget())
        elimination = self._elimination(wanted.conditions)
        low, high = _bounds(wanted)
        try:
            counted = elimination.count(low, high)
        except TooEntangled as failed:
            raise _beyond(failed) from failed
        return counted.value if isinstance(counted, Exact) else counted

    def extremes(self, figure: str) -> tuple[int, int]:
        """The least and the largest value of a figure over the space (limits on figures aside)."""
        try:
            elimination = self._elimination(self.required.conditions)
            return elimination.bounds(FIGURES.index(figure))
        except EmptyBand as failed:
            raise SpaceError(error("SP502", "no architecture meets the requirement")) from failed

    def draw(
        self, n: int, seed: int, where: Budget | None = None, law: Law = "architectures"
    ) -> list[Assignment]:
        """`n` architectures; law "architectures" is uniform over them, "choices" over each choice.

        Raises SP502 where the budget is empty, with what can be reached.
        """
        rng = np.random.Generator(np.random.PCG64(seed))
        if law == "choices":
            return list(self.by_choices.redrawn(n, rng, where or Budget()))
        rows: list[list[int]] = self.draw_indices(n, rng, where).tolist()
        return [self.assignment(row) for row in rows]

    def draw_indices(
        self, n: int, rng: np.random.Generator, where: Budget | None = None
    ) -> NDArray[np.int64]:
        """The same as candidate numbers [n, decisions], a decision that is not live at 0."""
        wanted = self.required.meet(where or Budget())
        return self.sampled(self._elimination(wanted.conditions), n, rng, wanted)

    def sampled(
        self, elimination: Elimination, n: int, rng: np.random.Generator, wanted: Budget
    ) -> NDArray[np.int64]:
        """The candidate numbers of `n` draws from an elimination within a budget."""
        low, high = _bounds(wanted)
        try:
            drawn = elimination.sample(n, rng, low, high)
        except EmptyBand as failed:
            raise self.empty(wanted) from failed
        except (TooEntangled, BandTooNarrow) as failed:
            raise _beyond(failed) from failed
        return drawn[:, : len(self.choices)]

    def costs(self, indices: NDArray[np.int64]) -> Mapping[str, Integers]:
        """The figures of many architectures at once, given as `draw_indices` gives them."""
        total = [np.zeros(len(indices), held) for held in self._kinds]
        for start in range(0, len(indices), CHUNK):
            columns = self._columns(np.ascontiguousarray(indices[start : start + CHUNK].T))
            for table in self._tables:
                row = self._rows(table.scope, columns)
                for figure, values in enumerate(table.figures):
                    if values.any():
                        total[figure][start : start + CHUNK] += values.ravel()[row]
        return dict(zip(FIGURES, total, strict=True))

    @cached_property
    def _kinds(self) -> tuple[type[np.int64] | type[object], ...]:
        return tuple(kind(self._tables, figure) for figure in range(len(FIGURES)))

    @cached_property
    def by_choices(self) -> ByChoices:
        """Draws of every decision by itself."""
        return ByChoices(self)

    def inside(self, drawn: NDArray[np.int64], wanted: Budget) -> NDArray[np.bool_]:
        """Which architectures, given by candidate numbers, are within bands and conditions."""
        inside: NDArray[np.bool_] = np.ones(len(drawn), np.bool_)
        for scope, truth in map(self._truth, wanted.conditions):
            inside &= truth.ravel()[self._rows(scope, drawn.T)]
        costs = self.costs(drawn)
        for figure, (low, high) in wanted.bands.items():
            if low is not None:
                inside &= costs[figure] >= low
            if high is not None:
                inside &= costs[figure] <= high
        return inside

    def _columns(self, columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Candidate numbers [decisions, many] with those of the running extrema below them."""
        for scope, numbers in self._running:
            columns = np.vstack([columns, numbers.ravel()[self._rows(scope, columns)]])
        return columns

    def _rows(self, scope: Sequence[str], columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where architectures, [decisions, many], stand in a flat table of a scope."""
        row = np.zeros(columns.shape[1], np.int64)
        for path, count in zip(scope, self.shape(scope), strict=True):
            row = row * count + columns[self._order[path]]
        return row

    def assignment(self, row: Sequence[int]) -> Assignment:
        """An architecture from its candidate numbers."""
        values = {p: c.values[i] for (p, c), i in zip(self.choices.items(), row, strict=True)}
        return self.graph.decisions.assignment(values)

    def meets(self, values: Mapping[str, DecisionValue], where: Budget) -> bool:
        """Whether an architecture is within bands and conditions."""
        if not all(c.at(values) for c in where.conditions):
            return False
        if not where.bands:
            return True
        cost = self.model.at(values)
        return all(
            (low is None or low <= getattr(cost, f)) and (high is None or getattr(cost, f) <= high)
            for f, (low, high) in where.bands.items()
        )

    def empty(self, where: Budget) -> SpaceError:
        """SP502 with the reachable minimum and maximum of every bounded figure."""
        notes: list[str] = []
        for figure, (low, high) in where.bands.items():
            try:
                least, most = self._elimination(where.conditions).bounds(FIGURES.index(figure))
            except EmptyBand:
                continue
            notes.append(f"{figure} reaches {least:,} to {most:,}; asked for {_asked(low, high)}")
        return SpaceError(error("SP502", "no architecture meets the requirement").note(*notes))

    # Tables.

    def _elimination(self, conditions: Sequence[Condition]) -> Elimination:
        key = tuple(conditions)
        if key not in self._problems:
            self._problems[key] = Elimination(self.problem(conditions, self._liveness))
        return self._problems[key]

    def problem(self, conditions: Sequence[Condition], more: Sequence[Mask] = ()) -> Problem:
        """Candidates for all decisions, live or not, under conditions and more masks."""
        domains = {path: len(values) for path, values in self.values.items()}
        masks = (*more, *self._masks(conditions), *self._ties())
        return Problem(domains, self._tables, masks, len(FIGURES))

    @cached_property
    def _tables(self) -> tuple[Table, ...]:
        sums: dict[tuple[str, ...], list[Integers | None]] = {}
        for number, figure in enumerate(FIGURES):
            for scope, values in self.tables(figure):
                slot = sums.setdefault(scope, [None] * len(FIGURES))
                before = slot[number]
                slot[number] = values if before is None else added(before, values)
        return tuple(
            Table(
                scope,
                tuple(np.zeros(self.shape(scope), np.int64) if v is None else v for v in made),
            )
            for scope, made in sums.items()
        )

    def tables(self, figure: str) -> Iterator[tuple[tuple[str, ...], Integers]]:
        """A figure as additive integer tables over the candidates of a few decisions each."""
        memo: dict[object, Integers] = {}
        for term in self.extrema.terms[figure]:
            for scope, size in scopes(term, self._order).items():
                names = tuple(s.name for s in scope)
                key = _anonymous(scope, Term(term.guards, size))
                if key not in memo:
                    memo[key] = self._table(names, Term(term.guards, size))
                yield names, memo[key]

    def _table(self, scope: tuple[str, ...], term: Term) -> Integers:
        shape = self.shape(scope)
        if prod(shape) > MAX_POINTS:
            raise too_wide(scope)
        lists = [self.values[p] for p in scope]
        flat = [_exact(term, dict(zip(scope, point, strict=True))) for point in product(*lists)]
        scale = _common(flat)
        if scale != 1:
            raise SpaceError(error("SP602", "a cost is not whole by itself").note(str(term.size)))
        whole = [int(v) for v in flat]
        peak = max((abs(v) for v in whole), default=0)
        return np.array(whole, np.int64 if peak < SAFE else object).reshape(shape)

    def shape(self, scope: Sequence[str]) -> tuple[int, ...]:
        """How many candidates some decisions have."""
        return tuple(len(self.values[p]) for p in scope)

    @cached_property
    def _order(self) -> Mapping[str, int]:
        return {path: i for i, path in enumerate(self.values)}

    @cached_property
    def _running(self) -> tuple[tuple[tuple[str, ...], NDArray[np.int64]], ...]:
        """For each running extremum the number of its value, over what that follows from."""
        found: list[tuple[tuple[str, ...], NDArray[np.int64]]] = []
        for variable in self.extrema.variables:
            scope = tuple(symbol.name for symbol in variable.scope)
            if variable.points > MAX_POINTS:
                raise too_wide(scope)
            numbers = np.array(variable.of_operand(self.values), np.int64)
            if variable.before is not None:
                pick = np.minimum if variable.extremum == "min" else np.maximum
                numbers = pick.outer(numbers, np.array(variable.of_before(), np.int64))
            found.append((scope, numbers.reshape(self.shape(scope))))
        return tuple(found)

    def _ties(self) -> Iterator[Mask]:
        """A running extremum has the value that follows, and no other."""
        for variable, (scope, numbers) in zip(self.extrema.variables, self._running, strict=True):
            every = np.arange(len(variable.symbol.values))
            yield Mask((*scope, variable.symbol.name), numbers[..., None] == every)

    @cached_property
    def _liveness(self) -> tuple[Mask, ...]:
        masks: list[Mask] = []
        for path, choice in self.choices.items():
            if choice.live == TRUE:
                continue
            scope, truth = self._truth(choice.live, extra=path)
            first = np.zeros(len(choice.values), bool)
            first[0] = True
            masks.append(Mask((*scope, path), truth[..., None] | first))
        return tuple(masks)

    def _masks(self, conditions: Sequence[Condition]) -> Iterator[Mask]:
        for condition in conditions:
            yield Mask(*self._truth(condition))

    def _truth(
        self, condition: Condition, extra: str = ""
    ) -> tuple[tuple[str, ...], NDArray[np.bool_]]:
        names = tuple(sorted((s.name for s in condition.symbols), key=lambda n: self._order[n]))
        shape = self.shape(names)
        if prod(shape) > MAX_POINTS:
            raise SpaceError(
                error("SP508", f"{condition} hangs on {len(names)} decisions at once").hint(
                    "bound fewer decisions together"
                )
            )
        lists = [self.choices[p].values for p in names]
        flat = [condition.at(dict(zip(names, point, strict=True))) for point in product(*lists)]
        return names, np.array(flat, bool).reshape(shape)


def _beyond(failed: Exception) -> SpaceError:
    """SP507 for a question whose exact tables do not fit into memory."""
    return SpaceError(
        error("SP507", "this budget cannot be answered exactly")
        .note(str(failed))
        .hint("bound one figure only, or widen the band")
    )


def _exact(term: Term, values: Mapping[str, DecisionValue]) -> int | Fraction | float:
    if not all(g.at(values) for g in term.guards):
        return 0
    return term.size.at(values)


def _common(values: Sequence[int | Fraction | float]) -> int:
    return max((getattr(v, "denominator", 1) for v in values), default=1)


def _anonymous(scope: Sequence[Symbol], term: Term) -> object:
    """The same key for terms that differ only in which decisions they speak of."""
    names = {s.name: Symbol(f"#{i}", s.values) for i, s in enumerate(scope)}
    return (
        tuple(s.values for s in scope),
        tuple(str(g.substitute({s.name: names[s.name] for s in g.symbols})) for g in term.guards),
        term.size.substitute({s.name: names[s.name] for s in term.size.symbols}),
    )


def _bounds(where: Budget) -> tuple[list[int | None], list[int | None]]:
    bands = [where.bands.get(f, (None, None)) for f in FIGURES]
    return [b[0] for b in bands], [b[1] for b in bands]
