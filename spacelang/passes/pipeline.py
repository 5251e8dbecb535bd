"""Running passes: one after the other, storage laid out after each.

What a pass makes is verified where it edits (`ir/edit.py`), and of every pass by tests.

run(graph, "multiplex{path=encoder,every=2}, irpe{method=product,on=k}")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from spacelang.diagnostics import NOWHERE, Report, SpaceError, Span
from spacelang.ir.graph import Graph
from spacelang.passes.base import Pass

Between = Callable[[Pass, Graph, Graph], None]


def apply(step: Pass, graph: Graph, span: Span = NOWHERE) -> Graph:
    """One pass; errors without a place get the step's."""
    report = Report()
    try:
        made = step.run(graph, report)
        report.check()
    except SpaceError as failed:
        raise SpaceError(
            tuple(
                replace(d, primary=replace(d.primary, span=span))
                if d.primary.span is NOWHERE
                else d
                for d in failed.diagnostics
            )
        ) from failed
    return made


def run(graph: Graph, passes: str | Sequence[Pass] | Pass, between: Between | None = None) -> Graph:
    """Run passes in order, given as a pipeline string or as objects; SpaceError if one does not
    fit.

    `between(step, before, after)` is called after each.
    """
    from spacelang.passes.storage_layout import lay_out

    for step in _steps(passes):
        made = lay_out(apply(step, graph))
        if between is not None:
            between(step, graph, made)
        graph = made
    return graph


def _steps(passes: str | Sequence[Pass] | Pass) -> Iterable[Pass]:
    if isinstance(passes, Pass):
        return (passes,)
    if isinstance(passes, str):
        from spacelang.passes.text import parse_pipeline

        return parse_pipeline(passes)
    return passes
