"""Decisions as they are written: `choose width in ..`, `choose op { .. }`, `choose a in 2 of xs`."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import comb

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.build import Level, Tensor
from spacelang.ir.condition import Condition, conjunction, is_value
from spacelang.ir.decision import Choice, Kind
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.syntax import tree
from spacelang.syntax.expressions import entries, evaluate, hop, listed, whole
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import (
    Candidates,
    Numbers,
    Pending,
    Picked,
    Text,
    Thing,
    candidate,
    kind,
    tensors,
)

MAX_CANDIDATES = 100_000


def candidates(value: Thing, what: str, span: Span) -> tuple[DecisionValue, ...]:
    """The candidates of a set, a range or a list; none at all is SP503, as is one twice."""
    if isinstance(value, Numbers):
        found: tuple[DecisionValue, ...] = listed(value, span)
    elif isinstance(value, Candidates | Pending):
        found = tuple(candidate(v, what, span) for v in value.items)
    else:
        raise SpaceError(
            error(
                "SP209", f"{what} is chosen from a set or a range, not from {kind(value)}", span
            ).hint(f"choose {what} in {{192, 240}}")
        )
    if not found:
        raise SpaceError(error("SP503", f"{what} has no candidate", span))
    if len(found) > MAX_CANDIDATES:
        raise SpaceError(
            error("SP507", f"{what} has more than {MAX_CANDIDATES:,} candidates", span)
        )
    twice = next((v for i, v in enumerate(found) if v in found[:i]), None)
    if twice is not None:
        raise SpaceError(error("SP503", f"{twice} is twice among the candidates of {what}", span))
    if len({isinstance(v, str | bool) for v in found}) > 1:
        raise SpaceError(error("SP209", f"the candidates of {what} are of different kinds", span))
    return found


def declare(
    frame: Frame,
    path: str,
    values: tuple[DecisionValue, ...],
    kind: Kind,
    span: Span,
    hull: tuple[DecisionValue, ...] | None = None,
) -> Thing:
    """Declare a decision of this block: its value (known where this alternative fixes it)."""
    live = conjunction(*frame.builder.guards)
    choice = Choice(frame.path(path), kind, values, hull, live, span)
    frame.builder.decide(choice)
    fixed = frame.fixed.get("." + choice.path)
    if fixed is not None:
        assert not isinstance(fixed, tuple)
        return fixed if isinstance(fixed, str | bool) else Dim.of(fixed)
    if all(not isinstance(v, str | bool) for v in values):
        return Dim.of(choice.symbol)
    return Text(choice.symbol)


def choose(statement: tree.Choose, frame: Frame, scope: Scope) -> None:
    """`choose name[i] in domain within hull`: declares `name[i]` and binds `name`."""
    path = hop(statement.target, frame, scope)
    if isinstance(statement.domain, tree.Draw):
        scope.bind(statement.target.name, _draw(statement, path, frame, scope), statement.span)
        return
    domain = statement.domain
    values = candidates(evaluate(domain, frame, scope), path, domain.span)
    hull = None
    if statement.hull is not None:
        hull = candidates(
            evaluate(statement.hull, frame, scope), f"the hull of {path}", statement.hull.span
        )
        outside = [v for v in values if v not in hull]
        if outside:
            raise SpaceError(
                error("SP501", f"{outside[0]} of {path} is not within its hull", domain.span).also(
                    statement.hull.span, "the hull"
                )
            )
    value = declare(frame, path, values, "dim", statement.span, hull)
    scope.bind(statement.target.name, value, statement.span)


def _draw(statement: tree.Choose, path: str, frame: Frame, scope: Scope) -> Picked:
    """`choose inputs in 2 of states`: a set of `count` entries; their order is a spelling."""
    assert isinstance(statement.domain, tree.Draw)
    count = whole(statement.domain.count, frame, scope, "the number of picks")
    sources = entries(
        evaluate(statement.domain.source, frame, scope), statement.domain.source.span, "the source"
    )
    if not 1 <= count <= len(sources):
        raise SpaceError(
            error("SP501", f"{count} of {len(sources)} cannot be picked", statement.domain.span)
        )
    if comb(len(sources), count) > MAX_CANDIDATES:
        raise SpaceError(error("SP507", f"{path} has too many candidates", statement.span))
    values = tuple(combinations(range(len(sources)), count))
    live = conjunction(*frame.builder.guards)
    choice = Choice(frame.path(path), "pick", values, None, live, statement.span)
    frame.builder.decide(choice)
    values_of = tensors(sources)
    if values_of is None:
        raise SpaceError(error("SP209", f"{path} picks among tensors", statement.domain.span))
    return Picked(choice.symbol, count, tuple(values_of))


def choose_path(expr: tree.ChoosePath, frame: Frame, scope: Scope) -> Thing:
    """`choose op { a: .. b: .. }`: one alternative; each has a scope `op.a` of its own."""
    path = hop(expr.target, frame, scope)
    names = tuple(option.name for option in expr.options)
    twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
    if twice is not None:
        raise SpaceError(error("SP503", f"{twice} is twice among the alternatives", expr.span))
    full = frame.path(path)
    choice = Choice(full, "path", names, None, conjunction(*frame.builder.guards), expr.span)
    frame.builder.decide(choice)
    before, build = frame.prefix, frame.builder
    regions: list[Level] = []
    results: list[list[Tensor]] = []
    conditions: list[Condition] = []
    fixed = frame.fixed.get("." + full)
    try:
        for option in expr.options:
            if fixed is not None and fixed != option.name:
                continue
            truth = is_value(choice.symbol, option.name)
            frame.prefix = f"{full}.{option.name}"
            build.open(truth)
            value = evaluate(option.value, frame, scope)
            if not isinstance(value, Tensor):
                raise SpaceError(
                    error("SP209", f"an alternative is {kind(value)}, not a tensor", option.span)
                )
            regions.append(build.close())
            results.append([value])
            conditions.append(truth)
    finally:
        frame.prefix = before
    first = results[0][0].type
    for region, (value,), option in zip(regions[1:], results[1:], expr.options[1:], strict=False):
        build.same_type(value.type, first, region.guards, option.span)
    return build.choose(conditions, regions, results, (first,), expr.span, full)[0]


def pend(value: Thing, name: str, frame: Frame) -> Thing:
    """An argument with every `choose {..}` in it declared: `ratio`, or `widths[0]` in a list."""
    if isinstance(value, Pending):
        return declare(frame, name, candidates(value, name, value.span), "dim", value.span)
    if isinstance(value, tuple):
        return tuple(pend(v, f"{name}[{i}]", frame) for i, v in enumerate(value))
    return value


def mark_presence(frame: Frame, symbols: frozenset[Symbol]) -> None:
    """Decisions in a loop's bound are of the kind `presence`."""
    for symbol in symbols:
        here: Frame = frame
        name: str = symbol.name
        while name not in here.builder.decisions and here.caller is not None:
            found = next((i for i in here.imports.values() if i.size.name == name), None)
            if found is None:
                break
            name, here = found.symbol.name, found.frame or here.caller
        choice = here.builder.decisions.get(name)
        if choice is not None and choice.kind == "dim":
            here.builder.decisions[name] = replace(choice, kind="presence")



