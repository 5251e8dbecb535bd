"""Budgets: conditions over figures and decision paths, from text: `--where 'params in 5M..6M'`.

A latency is bounded by times, `latency in 3ms..5ms` (ns, us, ms, s), and nothing else is;
a throughput by images a second, `throughput >= 200`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from spacelang.analysis.budget import Budget
from spacelang.diagnostics import Diagnostic, Source, SpaceError, error
from spacelang.ir.condition import Condition
from spacelang.ir.decision import Choice
from spacelang.ir.figures import LATENCY, MEASURED
from spacelang.ir.graph import Graph
from spacelang.ir.infer import NeedsValue
from spacelang.syntax import tree
from spacelang.syntax.conflicts import not_known
from spacelang.syntax.constraints import Reader
from spacelang.syntax.frame import Frame
from spacelang.syntax.parse import expression
from spacelang.syntax.scope import Library, Scope
from spacelang.syntax.session import Session
from spacelang.syntax.tokens import TIMES, is_time


def parse_where(graph: Graph, text: str) -> Budget:
    """A budget of a graph from its text."""
    return Budget.of(budget(Source("<where>", text), graph.decisions))


def budget(source: Source, decisions: Mapping[str, Choice]) -> Iterator[Condition]:
    """The conditions that a text joins by `and`, written as in `require`."""
    expr = expression(source, times=True)
    frame = Frame(Session(Library(None)), "where", expr.span)
    try:
        reader = Reader(frame, Scope().inside(frame), decisions, MEASURED)
        found = [*reader.conditions(expr, strict=False)]
    except NeedsValue as need:
        raise SpaceError(not_known(need, frame)) from need
    except SpaceError as failed:
        raise SpaceError(_hinted(found, decisions) for found in failed.diagnostics) from None
    if LATENCY not in decisions:
        _check_times(expr)
    yield from found


def _check_times(expr: tree.Expr) -> None:
    """SP209 for a latency that is bounded by a number without a unit, or anything else by a time.

    Zero needs no unit.
    """
    if isinstance(expr, tree.Binary) and expr.operator in ("and", "or"):
        _check_times(expr.left)
        _check_times(expr.right)
        return
    parts = [*tree.below(expr)]
    timed = any(isinstance(node, tree.Name) and node.name == LATENCY for node in parts)
    for node in parts:
        if not isinstance(node, tree.Number) or is_time(node.span.text) == timed or not node.value:
            continue
        if timed:
            found = error("SP209", "a latency is bounded by a time", node.span, "no unit")
            raise SpaceError(found.hint(f"write {node.span.text}ms; units are {', '.join(TIMES)}"))
        raise SpaceError(error("SP209", "a time bounds a latency alone", node.span, "a time"))


def _hinted(found: Diagnostic, decisions: Mapping[str, Choice]) -> Diagnostic:
    """An unknown name, beside the figure or the decision that was probably meant."""
    if found.code != "SP201":
        return found
    near = get_close_matches(found.primary.span.text, [*MEASURED, *decisions], 1)
    return found.hint(f"did you mean {near[0]}?") if near else found
