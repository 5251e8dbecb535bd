"""`require`: limits of a block hold for each of its uses, those of a space are read at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from spacelang.diagnostics import SpaceError, Span, error, warning
from spacelang.ir.condition import Condition, conjunction, disjunction, negate
from spacelang.ir.decision import Choice
from spacelang.ir.infer import NeedsValue
from spacelang.syntax import tree
from spacelang.syntax.conflicts import not_known
from spacelang.syntax.constraints import Reader, Unmet, unmet
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.session import Exhausted


def require(statement: tree.Require, frame: Frame, scope: Scope) -> None:
    """A limit on the architectures of a space, or on every use of a block.

    That of a space is read when all decisions are known (`deferred`).
    """
    if frame.caller is None:
        frame.deferred.append((statement.condition, scope.snapshot(), frame.builder.guards))
        return
    reader = Reader(frame, scope, frame.builder.decisions, figures=())
    demand(reader.conditions(statement.condition), frame)


def told(truth: bool | Condition, frame: Frame, span: Span) -> Iterator[Condition]:
    """A limit that has no text."""
    if unmet(truth, frame.builder.guards):
        raise Unmet(error("SP502", "this limit never holds", span), frame.builder.guards)
    if not isinstance(truth, bool):
        yield truth


def demand(limits: Iterable[Condition], frame: Frame) -> None:
    """Require limits of each use of a block.

    An alternative that never meets one is left out: what is fixed in it is one value of many.
    """
    here = conjunction(*frame.builder.guards)
    try:
        frame.require.extend(disjunction(negate(here), found) for found in limits)
    except Unmet as failed:
        if not frame.apart:
            raise
        frame.require.append(negate(here))
        frame.unmet.extend(failed.diagnostics)


def deferred(frame: Frame, decisions: Mapping[str, Choice]) -> Iterator[tuple[Condition, Span]]:
    """The limits of a space, in the decisions of its graph, and where they are written."""
    for expr, scope, guards in frame.deferred:
        reader = Reader(frame, scope, decisions)
        here = conjunction(*guards)
        try:
            with frame.builder.under(here):
                limits = list(reader.conditions(expr))
        except NeedsValue as need:
            frame.errors.add(not_known(need, frame))
            continue
        except Exhausted as spent:
            frame.errors.extend(spent.diagnostics)
            return
        except SpaceError as failed:
            frame.errors.extend(failed.diagnostics)
            continue
        for limit in limits:
            yield disjunction(negate(here), limit), expr.span
        if not limits and reader.open(expr):
            text = " ".join(expr.span.text.split())
            frame.session.remarks.append(warning("SP511", f"{text} excludes nothing", expr.span))
