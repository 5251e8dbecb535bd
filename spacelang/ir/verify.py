"""What every graph keeps, whoever made it: a table of invariants.

They are checked of a text that is read and after every edit; tests do it after every pass.

    report = Report(); verify(graph, report); report.check()

Rows are in stages: a stage is checked only if those before found nothing, so that a row may rely on
what they say. What is found is SP602; storage that cannot be laid out at all keeps its own code
(SP402, SP507, SP103).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spacelang.collector import collector_paused
from spacelang.diagnostics import Report
from spacelang.ir import claims, declared, structure, tables
from spacelang.ir.graph import Graph
from spacelang.ir.subject import Row, Subject

STAGES: tuple[tuple[Row, ...], ...] = (
    (structure.spelling,),
    (structure.names, structure.ids, structure.order, structure.forms),
    (structure.regions, structure.calls, structure.recursion),
    (declared.symbols, declared.options, declared.params),
    (declared.decisions, declared.bindings, declared.rates, declared.batches),
    (
        declared.ranges,
        claims.values,
        claims.types,
        claims.identities,
        claims.borders,
        claims.branches,
        claims.choices,
        tables.outputs,
        tables.rules,
        tables.stored,
        tables.require,
        tables.dialects,
        tables.search,
    ),
    (claims.storage, declared.reads),
)
WALKABLE = STAGES[:5]
"""What must hold before a graph's uses, decisions and storages can be told."""
INVARIANTS: Mapping[str, str] = {
    row.__name__: row.__doc__ or "" for stage in STAGES for row in stage
}
"""Every row with its sentence, in the order in which they are checked."""


@collector_paused()
def verify(graph: Graph, report: Report, stages: Sequence[Sequence[Row]] = STAGES) -> None:
    """Check every invariant of a graph; what is broken goes to the report."""
    subject = Subject(graph)
    for stage in stages:
        found = [finding for row in stage for finding in row(subject)]
        report.extend(found)
        if found:
            return


def verified(graph: Graph) -> Graph:
    """The graph itself, where nothing is broken; else SpaceError."""
    report = Report()
    verify(graph, report)
    report.check()
    return graph
