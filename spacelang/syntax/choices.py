"""Decisions as they are written: `choose width in ..`, `choose op { .. }`, `choose a in 2 of
xs`."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import perm

from spacelang.diagnostics import Diagnostic, SpaceError, Span, error
from spacelang.ir.agreement import one_type
from spacelang.ir.build import Level, Tensor
from spacelang.ir.condition import Condition, conjunction, is_value
from spacelang.ir.decision import Choice, Kind
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.figures import FIGURES
from spacelang.syntax import tree
from spacelang.syntax.evaluate import entries, evaluate, hop, listed, row, whole
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.session import Exhausted
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

MAX_CANDIDATES = 10_000
TAKEN = {"B": "the batch", **dict.fromkeys(FIGURES, "a figure")}
"""Names that limits and sizes read otherwise."""


def candidates(value: Thing, what: str, span: Span) -> tuple[DecisionValue, ...]:
    """The candidates of a set or a range; none at all is SP503, as is one twice."""
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
    kinds = {type(v) if isinstance(v, str | bool) else float for v in found}
    if len(kinds) > 1:
        raise SpaceError(error("SP209", f"the candidates of {what} are of different kinds", span))
    seen: set[DecisionValue] = set()
    for v in found:
        if v in seen:
            raise SpaceError(error("SP503", f"{v} is twice among the candidates of {what}", span))
        seen.add(v)
    return found


def declare(
    frame: Frame,
    path: str,
    values: tuple[DecisionValue, ...],
    span: Span,
    hull: tuple[DecisionValue, ...] | None = None,
) -> Thing:
    """Declare a decision of this block: its value (known where this alternative fixes it)."""
    if frame.session.hulls and hull is not None:
        values = hull
    choice = _decided(frame, path, "dim", values, span, hull)
    fixed = frame.fixed.get("." + choice.path)
    if fixed is not None:
        assert not isinstance(fixed, tuple)
        return fixed if isinstance(fixed, str | bool) else Dim.of(fixed)
    if all(not isinstance(v, str | bool) for v in values):
        return Dim.of(choice.symbol)
    first, *others = values
    return Text(choice.symbol) if others or isinstance(first, tuple) else _word(first)


def _word(value: DecisionValue) -> Thing:
    assert isinstance(value, str | bool)
    return value


def target(path: tree.Path, frame: Frame, scope: Scope) -> str:
    """The path of a decision with its indices computed."""
    return ".".join(hop(h, frame, scope) for h in path.hops)


def choose(statement: tree.Choose, frame: Frame, scope: Scope) -> None:
    """`choose name[i] in domain within hull`: declares `name[i]` and binds `name`."""
    if len(statement.given) > 1:
        raise SpaceError(error("SP209", "a decision is one value, not several", statement.span))
    path = target(statement.target, frame, scope)
    if isinstance(statement.domain, tree.Draw):
        value: Thing = _draw(statement, statement.domain, path, frame, scope)
    else:
        domain = statement.domain
        values = candidates(evaluate(domain, frame, scope), path, domain.span)
        hull = None
        if statement.hull is not None:
            hull = _hull(statement.hull, values, path, frame, scope)
        value = declare(frame, path, values, statement.span, hull)
    scope.bind(statement.name, value, statement.span)


def _hull(
    expr: tree.Expr,
    values: tuple[DecisionValue, ...],
    path: str,
    frame: Frame,
    scope: Scope,
) -> tuple[DecisionValue, ...]:
    """The candidates that a range search may move to; those of the start are among them (SP501)."""
    hull = candidates(evaluate(expr, frame, scope), f"the hull of {path}", expr.span)
    inside = set(hull)
    outside = next((v for v in values if v not in inside), None)
    if outside is not None:
        raise SpaceError(error("SP501", f"{outside} of {path} is not within its hull", expr.span))
    return hull


def _draw(
    statement: tree.Choose, domain: tree.Draw, path: str, frame: Frame, scope: Scope
) -> Picked | Text:
    """`choose inputs in 2 of states`: a set of `count` entries; their order is a spelling.

    One of a set of words is a path, whose alternatives stand in a `when`.
    """
    if statement.hull is not None:
        raise SpaceError(error("SP208", "a pick has no hull", statement.hull.span))
    count = whole(domain.count, frame, scope, "the number of picks")
    source = evaluate(domain.source, frame, scope)
    if isinstance(source, Candidates) and count == 1:
        return _words(candidates(source, path, domain.source.span), path, frame, statement.span)
    sources = None
    if isinstance(source, Dim):
        number = whole(domain.source, frame, scope, f"what {path} draws from")
    else:
        sources = tensors(entries(source, domain.source.span, "the source"))
        if sources is None:
            raise SpaceError(error("SP209", f"{path} picks among tensors", domain.source.span))
        number = len(sources)
    if not 1 <= count <= number:
        raise SpaceError(error("SP501", f"{count} of {number} cannot be picked", domain.span))
    if count > MAX_CANDIDATES or perm(number, count) > MAX_CANDIDATES:
        raise SpaceError(
            error("SP507", f"{path} has more than {MAX_CANDIDATES:,} orders", statement.span)
        )
    values = tuple(combinations(range(number), count))
    choice = _decided(frame, path, "pick", values, statement.span)
    return Picked(choice.symbol, count, tuple(sources or ()))


def _words(values: tuple[DecisionValue, ...], path: str, frame: Frame, span: Span) -> Text:
    """A path by the names of its alternatives."""
    if not all(isinstance(value, str) for value in values):
        raise SpaceError(error("SP209", f"the alternatives of {path} are words", span))
    choice = _decided(frame, path, "path", values, span)
    fixed = frame.fixed.get("." + choice.path)
    return Text(choice.symbol if fixed is None else Symbol(choice.symbol.name, (fixed,)))


def _decided(
    frame: Frame,
    path: str,
    kind: Kind,
    values: tuple[DecisionValue, ...],
    span: Span,
    hull: tuple[DecisionValue, ...] | None = None,
) -> Choice:
    if path in TAKEN:
        raise SpaceError(error("SP202", f"{path} is {TAKEN[path]}, not a decision", span))
    frame.session.decide((frame.alike, frame.path(path)), len(values), span)
    live = conjunction(*frame.builder.guards)
    choice = Choice(frame.path(path), kind, values, hull, live, span)
    frame.builder.decide(choice)
    return choice


@row(tree.ChoosePath)
def _choose_path(expr: tree.ChoosePath, frame: Frame, scope: Scope) -> Thing:
    """`choose op { a: .. b: .. }`: one alternative; each has a scope `op.a` of its own."""
    path = target(expr.target, frame, scope)
    names = tuple(option.name for option in expr.options)
    twice = next((o for i, o in enumerate(expr.options) if o.name in names[:i]), None)
    if twice is not None:
        raise SpaceError(
            error("SP503", f"{twice.name} is twice among the alternatives", twice.span)
        )
    choice = _decided(frame, path, "path", names, expr.span)
    before, build, level = frame.prefix, frame.builder, frame.builder.level
    regions: list[Level] = []
    results: list[Tensor] = []
    conditions: list[Condition] = []
    taken: list[tree.Option] = []
    failed: list[Diagnostic] | None = None
    fixed = frame.fixed.get("." + choice.path)
    for option in expr.options:
        if fixed is not None and fixed != option.name:
            continue
        truth = is_value(choice.symbol, option.name)
        frame.prefix = f"{choice.path}.{option.name}"
        try:
            regions.append(build.open(truth))
            results.append(_alternative(option, frame, scope))
            conditions.append(truth)
            taken.append(option)
        except Exhausted:
            raise
        except SpaceError as found:
            failed = [*(failed or ()), *found.diagnostics]
        finally:
            build.level, frame.prefix = level, before
    if failed is not None:
        raise SpaceError(failed)
    type = one_type(build.level, results, regions, build.explain, [option.span for option in taken])
    made = [[value] for value in results]
    return build.choose(conditions, regions, made, (type,), expr.span, choice.path)[0]


def _alternative(option: tree.Option, frame: Frame, scope: Scope) -> Tensor:
    if isinstance(option.value, tree.Body):
        from spacelang.syntax.forms import run_region

        value = run_region(tree.Region((), option.value, span=option.span), (), frame, scope)
    else:
        value = evaluate(option.value, frame, scope)
    if isinstance(value, Tensor):
        return value
    raise SpaceError(
        error("SP209", f"an alternative is {kind(value)}, not a tensor", option.span).hint(
            "choose name in {..} chooses between values"
        )
    )


# `choose {..}` where a parameter is given.


def pending(value: Thing) -> bool:
    """Whether a `choose {..}` is in an argument."""
    return isinstance(value, Pending) or (
        isinstance(value, tuple) and any(pending(v) for v in value)
    )


def pend(value: Thing, name: str, frame: Frame) -> Thing:
    """An argument with every `choose {..}` in it declared: `ratio`, or `widths[0]` in a list."""
    if isinstance(value, Pending):
        return declare(frame, name, candidates(value, name, value.span), value.span)
    if isinstance(value, tuple):
        return tuple(pend(v, f"{name}[{i}]", frame) for i, v in enumerate(value))
    return value


def mark_presence(frame: Frame, symbols: frozenset[Symbol]) -> None:
    """Decisions in a loop's bound are of the kind `presence`."""
    for symbol in symbols:
        home, name = frame.origin(symbol.name)
        choice = home.builder.decisions.get(name)
        if choice is not None and choice.kind == "dim":
            home.builder.decisions[name] = replace(choice, kind="presence")
