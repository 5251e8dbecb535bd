"""Conditions over figures and decision paths, from text: `--where 'params in 5M..6M'`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from spacelang.diagnostics import Source, SpaceError, error
from spacelang.ir.condition import Condition, compare
from spacelang.ir.dim import Dim, Symbol
from spacelang.syntax import tree
from spacelang.syntax.expressions import evaluate
from spacelang.syntax.frame import Frame, Session
from spacelang.syntax.parse import expression
from spacelang.syntax.scope import Library, Scope, unknown
from spacelang.syntax.values import Text, condition, number


def budget(source: Source, names: Mapping[str, Symbol]) -> Iterator[Condition]:
    """The conditions that `and` joins in a text; names are figures and decision paths."""
    expr = expression(source)
    frame = Frame(Session(Library(None)), "where", expr.span)
    scope = Scope()
    scope.frame = frame
    resolved = _paths(expr, names, scope)
    parts: list[tree.Expr] = [resolved]
    while parts:
        part = parts.pop(0)
        if isinstance(part, tree.Binary) and part.operator == "and":
            parts[:0] = [part.left, part.right]
            continue
        yield from _one(part, frame, scope)


def _one(expr: tree.Expr, frame: Frame, scope: Scope) -> Iterator[Condition]:
    if (
        isinstance(expr, tree.Binary)
        and expr.operator == "in"
        and isinstance(expr.right, tree.Range)
        and expr.right.step is None
    ):
        left = number(evaluate(expr.left, frame, scope), "the left of in", expr.left.span)
        low = number(evaluate(expr.right.start, frame, scope), "the start", expr.right.span)
        high = number(evaluate(expr.right.stop, frame, scope), "the end", expr.right.span)
        yield compare("<=", low, left)
        yield compare("<" if expr.right.open else "<=", left, high)
        return
    truth = condition(evaluate(expr, frame, scope), expr.span)
    if truth is True:
        return
    if truth is False:
        from spacelang.ir.condition import FALSE

        yield FALSE
        return
    yield truth


def _paths(expr: tree.Expr, names: Mapping[str, Symbol], scope: Scope) -> tree.Expr:
    """The expression with every path a plain name that is bound in the scope."""
    match expr:
        case tree.Name() | tree.Field() | tree.Item():
            path = "".join(expr.span.text.split())
            if path not in names:
                if isinstance(expr, tree.Name) and expr.name in ("true", "false", "none"):
                    return expr
                raise unknown(path, expr.span, list(names))
            symbol = names[path]
            scope.bind(path, Dim.of(symbol) if symbol.numeric else Text(symbol), expr.span)
            return tree.Name(path, span=expr.span)
        case tree.Binary(operator, left, right):
            if isinstance(right, tree.Name) and right.name not in names:
                right = tree.String(right.name, span=right.span)
            return tree.Binary(
                operator, _paths(left, names, scope), _paths(right, names, scope), span=expr.span
            )
        case tree.Unary(operator, operand):
            return tree.Unary(operator, _paths(operand, names, scope), span=expr.span)
        case tree.Range(start, stop, step, open_):
            return tree.Range(
                _paths(start, names, scope), _paths(stop, names, scope), step, open_, span=expr.span
            )
        case tree.Number() | tree.String() | tree.Set() | tree.List():
            return expr
        case _:
            raise SpaceError(
                error("SP101", "a budget compares figures and decisions", expr.span).hint(
                    "params in 5M..6M and macs <= 1.3G and depth >= 13"
                )
            )
