"""`require`: limits of a block hold for each of its uses, those of a space are read at its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from spacelang.diagnostics import SpaceError, Span, warning
from spacelang.ir.condition import Condition, conjunction, disjunction, negate
from spacelang.ir.decision import Choice
from spacelang.ir.infer import NeedsValue
from spacelang.syntax import tree
from spacelang.syntax.conflicts import not_known
from spacelang.syntax.frame import Frame
from spacelang.syntax.limits import Reader
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
    here = conjunction(*frame.builder.guards)
    for found in reader.conditions(statement.condition):
        frame.require.append(disjunction(negate(here), found))


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
