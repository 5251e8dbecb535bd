"""What a space requires of its architectures: whether any meets it, and whether it excludes any.

An architecture shows either. A few draws mostly find one; only where they do not, all are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING

from spacelang.diagnostics import Diagnostic, SpaceError, placed, warning
from spacelang.ir.condition import TRUE
from spacelang.ir.prove import Proved, holds

if TYPE_CHECKING:
    from spacelang.analysis.budget import Band, Budget
    from spacelang.analysis.count import Counter
    from spacelang.ir.condition import Condition
    from spacelang.ir.graph import Graph

FEW, MANY = 1 << 5, 1 << 12
"""Architectures that are drawn one by one, and at once, before a budget is counted."""


def claims(graph: Graph) -> Iterator[Diagnostic]:
    """SP502 if no architecture meets the requirements, SP511 for those that exclude nothing."""
    if not graph.require:
        return
    first = graph.stated.get(graph.require[0], graph.root.span)
    try:
        if _each_met(graph):
            idle = [c for c in graph.require if isinstance(holds(c), Proved)]
        else:
            from spacelang.analysis.budget import Budget

            drawn = Drawn(graph, Budget.of(graph.require))
            yield from (empty := [placed(d, first) for d in _empty(graph, drawn)])
            idle = [c for c in graph.require if not empty and _idle(Budget.of((c,)), drawn)]
        for condition in idle:
            span = graph.stated.get(condition)
            text = str(condition) if span is None else " ".join(span.text.split())
            yield warning("SP511", f"{text} excludes nothing", span or graph.root.span)
    except SpaceError as failed:
        yield from (placed(d, first) for d in failed.diagnostics)


def _each_met(graph: Graph) -> bool:
    """Whether what is required speaks of one decision at a time, which is always there and has a
    candidate that meets it; nothing is drawn or counted then."""
    asked: dict[str, list[Condition]] = {}
    for condition in graph.require:
        if len(condition.symbols) != 1:
            return False
        (symbol,) = condition.symbols
        asked.setdefault(symbol.name, []).append(condition)
    choices = graph.decisions
    return all(
        path in choices
        and choices[path].live == TRUE
        and any(all(c.at({path: v}) for c in conditions) for v in choices[path].values)
        for path, conditions in asked.items()
    )


def _empty(graph: Graph, drawn: Drawn) -> Sequence[Diagnostic]:
    """SP502 where no architecture meets what is required."""
    from spacelang.analysis.extent import ways
    from spacelang.analysis.queries import counter

    if drawn.meet() or ways(graph):
        return ()
    tables = counter(graph)
    return () if _met(graph, tables) else tables.empty(tables.required).diagnostics


class Drawn:
    """Architectures that meet what is required of decisions, by the figures that it bounds.

    Every decision is drawn by itself, and an architecture when it is first looked at.
    """

    def __init__(self, graph: Graph, required: Budget) -> None:
        self.graph, self.required = graph, required
        self._figures: list[Mapping[str, int]] = []
        self._left = self._draw()

    def meet(self) -> bool:
        """Whether one of them is within all bands; SP507 where the costs could not be counted.

        Conditions on decisions are counted, so that those that cannot be are told.
        """
        from spacelang.analysis.queries import model
        from spacelang.analysis.running import apart
        from spacelang.analysis.scopes import check_scopes

        if self.required.conditions:
            return False
        extrema = apart(model(self.graph).terms)
        sizes = {path: len(choice.values) for path, choice in self.graph.decisions.items()}
        sizes |= {v.symbol.name: len(v.symbol.values) for v in extrema.variables}
        check_scopes(extrema, sizes)
        return self.show(lambda figures: _inside(figures, self.required.bands))

    def show(self, shows: Callable[[Mapping[str, int]], bool]) -> bool:
        """Whether one of them shows something."""
        if any(map(shows, self._figures)):
            return True
        for figures in self._left:
            self._figures.append(figures)
            if shows(figures):
                return True
        return False

    def _draw(self) -> Iterator[Mapping[str, int]]:
        from spacelang.analysis.queries import model

        source, order, bands = Random(0), self.graph.decisions.order, self.required.bands
        for _ in range(FEW):
            values = {choice.path: source.choice(choice.values) for choice in order}
            for choice in order:  # what is not live takes its first candidate
                if not choice.live.at(values):
                    values[choice.path] = choice.values[0]
            live = all(c.live.at(values) or values[c.path] == c.values[0] for c in order)
            if live and all(condition.at(values) for condition in self.required.conditions):
                terms = {figure: model(self.graph).terms[figure] for figure in bands}
                yield {f: sum(term.at(values) for term in terms[f]) for f in bands}


def _inside(figures: Mapping[str, int], bands: Mapping[str, Band]) -> bool:
    """Whether all figures are within their bands."""
    return all(_meet(band, figures[name], figures[name]) for name, band in bands.items())


def _met(graph: Graph, tables: Counter) -> bool:
    """Whether some architecture meets what is required: one that was tried, or the count says
    so."""
    import numpy as np

    required = tables.required
    for figure, band in required.bands.items():
        low, high = tables.extremes(figure)
        if not _meet(band, low, high):
            return False
    if required.bands:
        source = np.random.Generator(np.random.PCG64(0))
        sizes = [len(choice.values) for choice in graph.decisions.values()]
        tried = source.integers(0, np.array(sizes, np.int64), (MANY, len(sizes)))
        inside = np.ones(MANY, bool)
        for figure, costs in tables.costs(tried).items():
            low, high = required.bands.get(figure, (None, None))
            inside &= (costs >= low) if low is not None else True
            inside &= (costs <= high) if high is not None else True
        rows: list[list[int]] = tried[inside][:64].tolist()
        for row in rows:
            choices = zip(graph.decisions.values(), row, strict=True)
            values = {choice.path: choice.values[index] for choice, index in choices}
            if all(condition.at(values) for condition in required.conditions):
                return True
    return tables.size() != 0


def _meet(band: Band, low: int, high: int) -> bool:
    """Whether a band and a range have a number in common."""
    return (band[0] is None or band[0] <= high) and (band[1] is None or low <= band[1])


def _idle(alone: Budget, drawn: Drawn) -> bool:
    """Whether every architecture meets a condition: none that was drawn misses it, and all lie
    inside."""
    from spacelang.analysis.queries import counter

    if drawn.show(lambda figures: not _inside(figures, alone.bands)):
        return False
    for figure, (least, most) in alone.bands.items():
        low, high = counter(drawn.graph).extremes(figure)
        if (least is not None and least > low) or (most is not None and most < high):
            return False
    return all(isinstance(holds(part), Proved) for part in alone.conditions)
