"""Plain expressions: numbers, strings, ranges, lists, computed lists and sets."""

from __future__ import annotations

from fractions import Fraction

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dim import Dim
from spacelang.syntax import tree
from spacelang.syntax.evaluate import (
    MAX_LIST,
    each,
    entries,
    evaluate,
    known,
    listed,
    row,
    weight,
)
from spacelang.syntax.frame import Frame
from spacelang.syntax.names import bind
from spacelang.syntax.precount import look_ahead
from spacelang.syntax.scope import Scope
from spacelang.syntax.session import MAX_WALKED
from spacelang.syntax.values import Candidates, Numbers, Pending, Thing, number


@row(tree.Number)
def _number(expr: tree.Number, frame: Frame, scope: Scope) -> Dim:
    return Dim.of(expr.value)


@row(tree.String)
def _string(expr: tree.String, frame: Frame, scope: Scope) -> str:
    return expr.value


@row(tree.Range)
def _range(expr: tree.Range, frame: Frame, scope: Scope) -> Numbers:
    """`a..b`, `a..<b`, with `by` a step above zero; one that ends before it starts is empty."""
    start = known(expr.start, frame, scope, "the start of a range")
    stop = number(evaluate(expr.stop, frame, scope), "the end of a range", expr.stop.span)
    step = Fraction(1) if expr.step is None else known(expr.step, frame, scope, "a step")
    if step <= 0:
        raise SpaceError(
            error("SP103", f"a step of {step}", expr.span).hint("count down with reversed(..)")
        )
    return Numbers(start, stop, step, expr.open)


@row(tree.List)
def _list(expr: tree.List, frame: Frame, scope: Scope) -> tuple[Thing, ...]:
    return tuple(each(expr.items, lambda item: evaluate(item, frame, scope)))


@row(tree.Each)
def _each(expr: tree.Each, frame: Frame, scope: Scope) -> tuple[Thing, ...]:
    """`[e for x in xs]`: unrolled like a loop; `x` is seen in `e` alone."""
    source = entries(evaluate(expr.source, frame, scope), expr.source.span, "the source")
    look_ahead((expr,), frame, scope)
    frame.session.turn(len(source), expr.span)
    made = 0

    def one(item: Thing) -> Thing:
        nonlocal made
        inner = scope.inside(frame)
        bind(expr.names, item, expr.span, inner)
        value = evaluate(expr.value, frame, inner)
        made += weight(value) if isinstance(value, tuple) else 1
        if made > MAX_WALKED:
            frame.session.walk(made, expr.span)
        return value

    return tuple(each(source, one))


@row(tree.Set)
def _set(expr: tree.Set, frame: Frame, scope: Scope) -> Candidates:
    return Candidates(_items(expr.items, frame, scope))


@row(tree.ChooseHere)
def _here(expr: tree.ChooseHere, frame: Frame, scope: Scope) -> Pending:
    return Pending(_items(expr.items, frame, scope), expr.span)


def _items(items: tuple[tree.Expr, ...], frame: Frame, scope: Scope) -> tuple[Thing, ...]:
    """The candidates of a set, ranges in it opened."""
    found: list[Thing] = []
    for item, value in zip(items, each(items, lambda e: evaluate(e, frame, scope)), strict=True):
        if isinstance(value, Numbers):
            found += [Dim.of(n) for n in listed(value, item.span)]
        elif isinstance(value, Candidates):
            found += value.items
        else:
            found.append(value)
        if len(found) > MAX_LIST:
            raise SpaceError(error("SP507", f"a set of more than {MAX_LIST:,} entries", item.span))
    return tuple(found)
