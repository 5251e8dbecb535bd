"""Brackets after a value: entries and parts of a list, indices and slices of a tensor."""

from __future__ import annotations

from fractions import Fraction

from spacelang.diagnostics import SpaceError, Span, counted, error
from spacelang.ir.agreement import one_type
from spacelang.ir.build import Level, Tensor
from spacelang.ir.dim import Dim
from spacelang.ir.prove import feasible
from spacelang.syntax import tree
from spacelang.syntax.evaluate import evaluate, known_number, listed, row, whole
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import Numbers, Picked, Place, Thing, kind, number, tensors


@row(tree.Item)
def _item(expr: tree.Item, frame: Frame, scope: Scope) -> Thing:
    value = evaluate(expr.value, frame, scope)
    if isinstance(value, Tensor):
        return _slice(value, expr, frame, scope)
    if isinstance(value, tuple) and len(expr.indices) == 1:
        return _entry(value, expr.indices[0], frame, scope)
    if isinstance(value, tuple):
        raise SpaceError(error("SP301", "a list has one index", expr.span).hint("xs[i][j]"))
    if isinstance(value, Picked) and len(expr.indices) == 1:
        return _place(value, expr.indices[0], frame, scope)
    raise SpaceError(error("SP209", f"{kind(value)} has no entries", expr.span))


# Lists.


def _entry(items: tuple[Thing, ...], index: tree.Index, frame: Frame, scope: Scope) -> Thing:
    """`xs[i]`, `xs[-1]`, `xs[a..b]`, `xs[a..]`."""
    match index:
        case tree.Full():
            return items
        case tree.Leading():
            raise SpaceError(error("SP209", "`..` stands for axes of a tensor", index.span))
        case tree.Rest(start):
            first = known_number(_number(start, frame, scope), "the start of a slice", index.span)
            if not 0 <= first <= len(items) or first.denominator != 1:
                raise SpaceError(
                    error("SP307", f"from {first} of a list of {len(items)}", index.span)
                )
            return items[int(first) :]
        case _:
            at = evaluate(index, frame, scope)
    if isinstance(at, Place):
        return at_place(items, at, frame, index.span)
    if isinstance(at, Numbers):
        return tuple(items[_position(n, items, index.span)] for n in listed(at, index.span))
    place = known_number(number(at, "an index", index.span), "an index", index.span)
    return items[_position(place, items, index.span)]


def _place(picked: Picked, index: tree.Index, frame: Frame, scope: Scope) -> Place:
    """`inputs[0]`: which entry of its list a pick has at a position."""
    if isinstance(index, tree.Full | tree.Rest | tree.Leading):
        raise SpaceError(error("SP209", "a position of a pick is a number", index.span))
    at = whole(index, frame, scope, "a position of a pick")
    if not 0 <= at < picked.count:
        raise SpaceError(error("SP307", f"position {at} of {picked.count} picks", index.span))
    return Place(picked.symbol, at)


def at_place(items: tuple[Thing, ...], place: Place, frame: Frame, span: Span) -> Tensor:
    """The tensor of a list that stands where a pick says, of those that it may be here (SP307)."""
    build = frame.builder
    truths = {index: place.among((index,)) for index in place.indices}
    open_ = [i for i, truth in truths.items() if feasible((*build.guards, truth)) is not False]
    if open_[-1] >= len(items):
        raise SpaceError(error("SP307", f"entry {open_[-1]} of a list of {len(items)}", span))
    sources = tensors(tuple(items[i] for i in open_))
    if sources is None:
        raise SpaceError(error("SP209", "a place of a pick is an index among tensors", span))
    if len(sources) == 1:
        return sources[0]
    conditions = [truths[i] for i in open_]
    regions: list[Level] = []
    for truth, source in zip(conditions, sources, strict=True):
        regions.append(build.open(truth))
        build.use(source)
        build.close()
    type = one_type(build.level, sources, regions, build.explain, [span] * len(sources))
    return build.choose(conditions, regions, [[s] for s in sources], (type,), span)[0]


def _number(expr: tree.Expr, frame: Frame, scope: Scope) -> Dim:
    return number(evaluate(expr, frame, scope), "the start of a slice", expr.span)


def _position(at: Fraction, items: tuple[Thing, ...], span: Span) -> int:
    if at.denominator != 1 or not -len(items) <= at < len(items):
        raise SpaceError(error("SP307", f"entry {at} of a list of {len(items)}", span))
    return int(at)


# Tensors.


def _slice(x: Tensor, expr: tree.Item, frame: Frame, scope: Scope) -> Tensor:
    """`x[:, 0]` drops an axis, `x[:, 1..]` keeps it; `..` stands for the axes that are not
    written."""
    if sum(isinstance(i, tree.Leading) for i in expr.indices) > 1:
        raise SpaceError(error("SP301", "`..` stands twice in one index", expr.span))
    leading = any(isinstance(i, tree.Leading) for i in expr.indices)
    written = len(expr.indices) - leading
    if written > x.type.rank:
        many = f"{counted(written, 'index')} of {counted(x.type.rank, 'axis')}"
        raise SpaceError(error("SP301", many, expr.span))
    given: list[object] = []
    for index in expr.indices:
        if isinstance(index, tree.Leading):
            given += [None] * (x.type.rank - len(expr.indices) + 1)
        else:
            given.append(_part(index, x.shape[len(given)], frame, scope))
    frame.session.spend(1, expr.span)
    return frame.builder.one("slice", [x], {"index": tuple(given)}, span=expr.span)


def _part(index: tree.Index, size: Dim, frame: Frame, scope: Scope) -> object:
    """What one axis is read at: None for all, a number, or (start, stop)."""
    match index:
        case tree.Full() | tree.Leading():
            return None
        case tree.Rest(start):
            return _start(_number(start, frame, scope), size), size
        case _:
            at = evaluate(index, frame, scope)
    if isinstance(at, Numbers):
        if at.step != 1:
            raise SpaceError(error("SP307", "a slice takes every entry", index.span))
        stop = at.stop if at.open else at.stop + 1
        return Dim.of(at.start), stop
    return number(at, "an index", index.span)


def _start(start: Dim, size: Dim) -> Dim:
    return size + start if start.constant is not None and start.constant < 0 else start
