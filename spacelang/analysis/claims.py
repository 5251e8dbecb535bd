"""What a space requires of its architectures: whether any meets it, and whether it excludes any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from spacelang.diagnostics import Diagnostic, SpaceError, placed, warning
from spacelang.ir.prove import Proved, holds

if TYPE_CHECKING:
    from spacelang.analysis.count import Counter
    from spacelang.analysis.where import Band
    from spacelang.ir.condition import Condition
    from spacelang.ir.graph import Graph

DRAWS = 1 << 12
"""Architectures that are tried before a budget is counted."""


def claims(graph: Graph) -> Iterator[Diagnostic]:
    """SP502 if no architecture meets the requirements, SP511 for those that exclude nothing."""
    if not graph.require:
        return
    from spacelang.analysis.queries import counter

    tables = counter(graph)
    first = graph.stated.get(graph.require[0], graph.root.span)
    try:
        if not _met(graph, tables):
            yield from (placed(d, first) for d in tables.empty(tables.required).diagnostics)
            return
        for condition in graph.require:
            if _idle(condition, tables):
                span = graph.stated.get(condition)
                text = str(condition) if span is None else " ".join(span.text.split())
                yield warning("SP511", f"{text} excludes nothing", span or graph.root.span)
    except SpaceError as failed:
        yield from (placed(d, first) for d in failed.diagnostics)


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
        tried = source.integers(0, np.array(sizes, np.int64), (DRAWS, len(sizes)))
        inside = np.ones(DRAWS, bool)
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


def _idle(condition: Condition, tables: Counter) -> bool:
    """Whether every architecture meets a condition."""
    from spacelang.analysis.where import of_conditions

    alone = of_conditions((condition,))
    for figure, (least, most) in alone.bands.items():
        low, high = tables.extremes(figure)
        if (least is not None and least > low) or (most is not None and most < high):
            return False
    return all(isinstance(holds(part), Proved) for part in alone.conditions)
