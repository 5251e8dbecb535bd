"""Control forms: cascade, total and table, which take a region.

A region is a body handed to a form, run in the frame where it is written with its names bound anew.
"""

from __future__ import annotations

from collections.abc import Callable

from spacelang.diagnostics import SpaceError, Span, counted, error
from spacelang.ir.build import Tensor
from spacelang.ir.dim import Dim
from spacelang.syntax import tree
from spacelang.syntax.calls import Arguments
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.tables import table
from spacelang.syntax.values import Picked, Thing, kind, number, tensors


def run_region(region: tree.Region, values: tuple[Thing, ...], frame: Frame, scope: Scope) -> Thing:
    """The value that a region returns for these values of its names."""
    from spacelang.syntax.statements import protect, run_body

    protect(region.names, region.span)
    if len(region.names) != len(values):
        raise SpaceError(
            error(
                "SP306", f"this form hands over {counted(len(values), 'value')}", region.span
            ).note(f"the region names {len(region.names)}")
        )
    inner = scope.inside(frame)
    for name, value in zip(region.names, values, strict=True):
        inner.bind(name, value, region.span)
    return run_body(region.body, frame, inner, region.span)


def _tensors(value: Thing, name: str, span: Span) -> list[Tensor]:
    found = tensors(value)
    if found is not None:
        return found
    raise SpaceError(error("SP209", f"{name} reads a list of tensors, not {kind(value)}", span))


def _cascade(given: Arguments, frame: Frame, scope: Scope) -> Tensor:
    """`cascade(parts, axis: 1) |i, part| { .. }`: each part plus the result of the part before it.

    The results stand side by side along `axis` again (EfficientViT).
    """
    if given.region is None:
        raise SpaceError(error("SP204", "cascade needs a region |i, part| { .. }", given.span))
    if len(given.positional) != 1 or set(given.named) - {"axis"}:
        raise SpaceError(error("SP204", "cascade(parts, axis: a) |i, part| { .. }", given.span))
    parts = _tensors(given.positional[0], "cascade", given.span)
    axis = number(given.named.get("axis", Dim.of(-1)), "axis of cascade", given.span)
    made: list[Tensor] = []
    for i, part in enumerate(parts):
        if made:
            part = frame.builder.one("add", [part, made[-1]], span=given.span)
        value = run_region(given.region, (Dim.of(i), part), frame, scope)
        if not isinstance(value, Tensor):
            raise SpaceError(error("SP209", "the region returns a tensor", given.region.span))
        made.append(value)
    return frame.builder.one("concat", made, {"axis": axis}, span=given.span)


def _total(given: Arguments, frame: Frame, scope: Scope) -> Tensor:
    """`total(list)`, or `total(picks) |value, source, position| { .. }`: the sum."""
    from spacelang.syntax.picks import picked_values

    if len(given.positional) != 1 or given.named:
        raise SpaceError(error("SP204", "total(list) |value, source, position| { .. }", given.span))
    value = given.positional[0]
    if isinstance(value, Picked):
        parts = picked_values(value, given, frame, scope)
    elif given.region is None:
        parts = _tensors(value, "total", given.span)
    else:
        items = _tensors(value, "total", given.span)
        made = tuple(
            run_region(given.region, (item, Dim.of(i), Dim.of(i)), frame, scope)
            for i, item in enumerate(items)
        )
        parts = _tensors(made, "total", given.span)
    if len(parts) == 1:
        return parts[0]
    return frame.builder.one("sum_of", parts, span=given.span)


FORMS: dict[str, Callable[[Arguments, Frame, Scope], Thing]] = {
    "cascade": _cascade,
    "total": _total,
    "table": table,
}
LABELLED = {"table"}
"""Forms whose value is one node, which a label names."""
