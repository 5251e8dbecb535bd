"""Subnets: `subnet t of autoformer_t { depth = 13  encoder[_].heads = [3, 3, ..] }`."""

from __future__ import annotations

from collections.abc import Mapping

from spacelang.diagnostics import Report, SpaceError, Span, counted, error
from spacelang.ir.decision import Choice, exact, not_taken
from spacelang.ir.dim import Dim
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Graph
from spacelang.ir.pattern import Pattern
from spacelang.passes.specialize import specialize
from spacelang.syntax import tree
from spacelang.syntax.calls import arguments
from spacelang.syntax.evaluate import evaluate
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.selectors import pattern
from spacelang.syntax.session import Session
from spacelang.syntax.spaces import at_callers, base_of, elaborate
from spacelang.syntax.values import SpaceValue, Thing, kind


def subnet(space: SpaceValue, session: Session, overrides: Mapping[str, Thing]) -> Graph:
    """The network of a subnet: its base with every decision taken."""
    graph, values = subnet_of(space, session, overrides)
    return specialize(graph, graph.decisions.assignment(values))


def subnet_of(
    space: SpaceValue, session: Session, overrides: Mapping[str, Thing]
) -> tuple[Graph, dict[str, DecisionValue]]:
    """The base graph of a subnet, and the values that the subnet gives its decisions."""
    definition = space.definition
    assert isinstance(definition, tree.Subnet)
    base = base_of(space)
    assert base is not None
    if isinstance(base.definition, tree.Subnet):
        raise SpaceError(error("SP209", "a subnet of a subnet", definition.base.span))
    frame = Frame(session, definition.name, definition.span)
    scope = Scope(space.scope)
    scope.frame = frame
    given = dict(overrides)
    source = definition.base
    if source.arguments is not None:
        evaluated = arguments(source.arguments, None, frame, scope, (), source.span)
        params = [p.name for p in base.definition.params]
        if len(evaluated.positional) > len(params):
            raise SpaceError(
                error(
                    "SP204", f"{source.name} takes {counted(len(params), 'argument')}", source.span
                )
            )
        given = {
            **dict(zip(params, evaluated.positional, strict=False)),
            **evaluated.named,
            **given,
        }
    frame.errors.check()
    with at_callers(space):
        graph = elaborate(base, definition.name, session, given)
    return graph, take(graph, lines(space, ()), frame, scope)


def lines(space: SpaceValue, chain: tuple[str, ...]) -> tuple[tree.DecisionOf, ...]:
    """The decisions of a subnet, those of the subnet that it is `like` first."""
    definition = space.definition
    assert isinstance(definition, tree.Subnet)
    if definition.like is None:
        return definition.decisions
    owner = space.scope.find(definition.like)
    other = owner.names[definition.like] if owner is not None else None
    if not isinstance(other, SpaceValue) or not isinstance(other.definition, tree.Subnet):
        raise SpaceError(error("SP201", f"no subnet is called {definition.like}", definition.span))
    if definition.like in chain:
        raise SpaceError(error("SP206", f"{definition.like} is like itself", definition.span))
    return (*lines(other, (*chain, definition.like)), *definition.decisions)


def take(
    graph: Graph, decisions: tuple[tree.DecisionOf, ...], frame: Frame, scope: Scope
) -> dict[str, DecisionValue]:
    """Values of all decisions from the lines of a subnet (SP501, SP504, SP505, SP506).

    A list is dealt out in order of appearance to the decisions that the rest leaves live.
    """
    report = Report()
    taken: dict[str, DecisionValue] = {}
    later: list[tuple[tree.DecisionOf, Pattern, tuple[Thing, ...]]] = []
    for line in decisions:
        try:
            where = pattern(line.path, frame, scope)
            matches = [c for p, c in graph.decisions.items() if where.match(p) is not None]
            if not matches:
                report.add(error("SP504", f"no decision has the path {where}", line.path.span))
                continue
            value = _value(line.value, frame, scope)
            if isinstance(value, tuple) and not (
                matches[0].kind == "pick" and not any(isinstance(v, tuple) for v in value)
            ):
                later.append((line, where, value))
                continue
            for choice in matches:
                _set(choice, value, line.value.span, taken, report)
        except SpaceError as failed:
            report.extend(failed.diagnostics)
    for line, where, value in later:
        live = graph.decisions.live(graph.decisions.complete(taken))
        places = [c for c in live if where.match(c.path) is not None]
        if len(places) != len(value):
            report.add(
                error(
                    "SP505",
                    f"{counted(len(value), 'value')} for {counted(len(places), 'decision')}",
                    line.value.span,
                ).note(
                    f"{where} matches {', '.join(c.path for c in places[:4])}"
                    + (", .." if len(places) > 4 else "")
                )
            )
            continue
        for choice, item, span in zip(places, value, _spans(line.value, len(value)), strict=True):
            _set(choice, item, span, taken, report)
    report.check()
    values = graph.decisions.complete(taken)
    missing = [c.path for c in graph.decisions.live(values) if c.path not in taken]
    if missing:
        raise SpaceError(not_taken(missing, frame.builder.span))
    return values


def _value(expr: tree.Expr, frame: Frame, scope: Scope) -> Thing:
    """A value; a bare word is a candidate's key."""
    if isinstance(expr, tree.Name):
        return {"true": True, "false": False}.get(expr.name, expr.name)
    if isinstance(expr, tree.List):
        return tuple(_value(item, frame, scope) for item in expr.items)
    return evaluate(expr, frame, scope)


def _spans(expr: tree.Expr, count: int) -> list[Span]:
    """Where each entry of a list stands: the whole of what is no list of the text."""
    if isinstance(expr, tree.List):
        return [item.span for item in expr.items]
    return [expr.span] * count


def _set(
    choice: Choice,
    value: Thing,
    span: Span,
    taken: dict[str, DecisionValue],
    report: Report,
) -> None:
    try:
        found = exact(_plain(value))
    except (TypeError, ValueError):
        report.add(error("SP501", f"{kind(value)} is no candidate of {choice.path}", span))
        return
    if not choice.admits(found):
        shown = ", ".join(str(v) for v in choice.values[:12])
        report.add(
            error("SP501", f"{found} is no candidate of {choice.path}", span).note(
                f"{choice.path} takes {shown}"
            )
        )
        return
    taken[choice.path] = found


def _plain(value: Thing) -> object:
    if isinstance(value, Dim):
        return value.constant
    if isinstance(value, tuple):
        return [int(v.constant) for v in value if isinstance(v, Dim) and v.constant is not None]
    return value
