"""Budgets: conditions over figures and decision paths, from text: `--where 'params in 5M..6M'`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches

from spacelang.analysis.where import FIGURES, Where, of_conditions
from spacelang.diagnostics import Diagnostic, Source, SpaceError
from spacelang.ir.condition import Condition
from spacelang.ir.decision import Choice
from spacelang.ir.graph import Graph
from spacelang.ir.op import NeedsValue
from spacelang.syntax.conflicts import not_known
from spacelang.syntax.frame import Frame
from spacelang.syntax.limits import Reader
from spacelang.syntax.parse import expression
from spacelang.syntax.scope import Library, Scope
from spacelang.syntax.session import Session


def parse_where(graph: Graph, text: str) -> Where:
    """A budget of a graph from its text."""
    return of_conditions(budget(Source("<where>", text), graph.decisions))


def budget(source: Source, decisions: Mapping[str, Choice]) -> Iterator[Condition]:
    """The conditions that a text joins by `and`, written as in `require`."""
    expr = expression(source)
    frame = Frame(Session(Library(None)), "where", expr.span)
    try:
        yield from Reader(frame, Scope().inside(frame), decisions).conditions(expr, strict=False)
    except NeedsValue as need:
        raise SpaceError(not_known(need, frame)) from need
    except SpaceError as failed:
        raise SpaceError(_hinted(found, decisions) for found in failed.diagnostics) from None


def _hinted(found: Diagnostic, decisions: Mapping[str, Choice]) -> Diagnostic:
    """An unknown name, beside the figure or the decision that was probably meant."""
    if found.code != "SP201":
        return found
    near = get_close_matches(found.primary.span.text, [*FIGURES, *decisions], 1)
    return found.hint(f"did you mean {near[0]}?") if near else found
