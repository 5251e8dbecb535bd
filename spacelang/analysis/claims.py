"""What a space requires of its architectures: whether any meets it, and whether it excludes any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from spacelang.diagnostics import Diagnostic, SpaceError, Span, warning
from spacelang.ir.condition import Condition

if TYPE_CHECKING:
    from spacelang.analysis.count import Counter
    from spacelang.analysis.where import Band
    from spacelang.ir.graph import Graph

DRAWS = 1_000
"""Architectures that are tried before a budget is counted."""


def empty(graph: Graph) -> Iterator[Diagnostic]:
    """SP502 if no architecture meets the requirements, SP511 for those that exclude nothing."""
    if not graph.require:
        return
    from spacelang.analysis.queries import counter

    tables = counter(graph)
    try:
        if not _any(tables):
            yield from tables.empty(tables.required).diagnostics
            return
        for text in _idle(graph, tables):
            yield warning("SP511", f"{text} excludes nothing", _place(graph))
    except SpaceError as failed:
        yield from failed.diagnostics


def _any(tables: Counter) -> bool:
    """Whether some architecture meets what is required: a draw does, or the count says so."""
    import numpy as np

    from spacelang.analysis.where import Where

    required = tables.required
    free = Where(conditions=required.conditions)
    for figure, band in required.bands.items():
        low, high = tables.extremes(figure)
        if _outside(band, low, high):
            return False
    if not required.bands:
        return tables.size(free) != 0
    ...
