"""Calls as they are written: of ops, blocks, functions and control forms; pipes and labels.

An argument that is a tensor, or a list of them, fills the operands of an op in order; any other
positional argument fills its options in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spacelang.diagnostics import SpaceError, Span, counted, error, placed
from spacelang.ir.build import Tensor
from spacelang.ir.dim import Dim
from spacelang.ir.op import lookup
from spacelang.ir.param import Init
from spacelang.ir.ranges import outside
from spacelang.syntax import tree
from spacelang.syntax.defined import WHOLE, finite, in_domain, telling
from spacelang.syntax.evaluate import each, evaluate, label, row
from spacelang.syntax.frame import Frame
from spacelang.syntax.functions import function_called
from spacelang.syntax.names import INITS
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import Closure, Function, OpName, Thing, kind, number

STARTS = ("init", "bias_init")
"""Options that say how a parameter starts."""


@dataclass(frozen=True)
class Arguments:
    """Evaluated arguments of a call, piped ones first."""

    positional: tuple[Thing, ...]
    named: dict[str, Thing]
    spans: dict[str, Span]
    region: tree.Region | None
    span: Span


def arguments(
    given: Sequence[tree.Argument],
    region: tree.Region | None,
    frame: Frame,
    scope: Scope,
    first: tuple[Thing, ...],
    span: Span,
) -> Arguments:
    """Evaluate arguments in order; a name given twice is SP204."""
    positional: list[Thing] = list(first)
    named: dict[str, Thing] = {}
    spans: dict[str, Span] = {}

    def one(item: tree.Argument) -> None:
        value = _argument(item, frame, scope)
        if item.name is None:
            if named:
                raise SpaceError(
                    error("SP204", "an argument without a name after named ones", item.span)
                )
            positional.append(value)
        elif item.name in named:
            raise SpaceError(
                error("SP204", f"{item.name} is given twice", item.span, "again here").also(
                    spans[item.name], "first here"
                )
            )
        else:
            named[item.name], spans[item.name] = value, item.span

    each(given, one)
    return Arguments(tuple(positional), named, spans, region, span)


def _argument(item: tree.Argument, frame: Frame, scope: Scope) -> Thing:
    """The value of an argument; after `init:` a block does not hide an initialisation."""
    call = item.value
    if item.name in STARTS and isinstance(call, tree.CallOf) and isinstance(call.callee, tree.Name):
        owner = scope.find(call.callee.name)
        hidden = owner is not None and isinstance(owner.names[call.callee.name], Closure)
        if hidden and call.callee.name in INITS:
            return _init(call, frame, scope)
    return evaluate(call, frame, scope)


@row(tree.CallOf)
def _call(expr: tree.CallOf, frame: Frame, scope: Scope) -> Thing:
    return call(expr, frame, scope, None, ())


def call(
    expr: tree.CallOf, frame: Frame, scope: Scope, label: str | None, first: tuple[Thing, ...]
) -> Thing:
    """The value of a call. `label` is its path, None where it has none; `first` was piped in."""
    from spacelang.syntax.forms import FORMS, LABELLED

    if isinstance(expr.callee, tree.Name) and scope.find(expr.callee.name) is None:
        if expr.callee.name in FORMS:
            name = expr.callee.name
            if label is not None and (not label or name not in LABELLED):
                _no_label(expr)
            given = arguments(expr.arguments, expr.region, frame, scope, first, expr.span)
            made = FORMS[name](given, frame, scope)
            if label is None or not isinstance(made, Tensor):
                return made
            return frame.builder.tag(made, frame.path(label))
        if expr.callee.name in INITS:
            return _init(expr, frame, scope)
    callee = evaluate(expr.callee, frame, scope)
    given = arguments(expr.arguments, expr.region, frame, scope, first, expr.span)
    return apply(callee, given, frame, scope, label, expr.callee.span)


def _no_label(expr: tree.CallOf) -> None:
    name = expr.callee.span.text
    raise SpaceError(
        error("SP207", f"{name} opens no scope of its own", expr.span).hint(
            f"({name}(..)) as .. names the result"
        )
    )


def apply(
    callee: Thing, given: Arguments, frame: Frame, scope: Scope, label: str | None, span: Span
) -> Thing:
    """Call a value that is an op, a block or a function."""
    from spacelang.syntax.blocks import call_block
    from spacelang.syntax.operations import call_op

    if isinstance(callee, Function) and any(isinstance(v, Tensor) for v in given.positional):
        # `exp` and `sqrt` of a number are functions, of a tensor they are ops.
        callee = OpName(callee.name)
    match callee:
        case Closure():
            _no_region(given, callee.name)
            return call_block(callee, given, frame, label)
        case OpName(name):
            _no_region(given, name)
            return call_op(lookup(name), given, frame, scope, label)
        case Function(name):
            _no_region(given, name)
            if label is not None:
                raise SpaceError(error("SP207", "a label on a number", given.span))
            if given.named:
                raise SpaceError(error("SP204", f"{name} takes no named arguments", given.span))
            found = function_called(name)(given.positional, given.span)
            in_domain(name, given.positional, given.span, frame)
            if isinstance(found, Dim):
                finite(found, given.span, frame)
                if name in WHOLE:
                    telling(found, given.span, frame)
            return found
        case _:
            raise SpaceError(error("SP209", f"{kind(callee)} cannot be called", span))


def _no_region(given: Arguments, name: str) -> None:
    if given.region is not None:
        raise SpaceError(error("SP204", f"{name} takes no |..| {{ .. }}", given.region.span))


def _init(expr: tree.CallOf, frame: Frame, scope: Scope) -> Init:
    """`trunc_normal(0.02)`: how a parameter starts."""
    name = expr.callee.span.text
    given = arguments(expr.arguments, expr.region, frame, scope, (), expr.span)
    if given.named or given.region is not None:
        raise SpaceError(error("SP204", f"{name} takes numbers alone", expr.span))
    return init_of(name, given.positional, frame, expr.span)


def init_of(name: str, given: Sequence[Thing], frame: Frame, span: Span) -> Init:
    """How a parameter starts, by the name of a rule and its numbers (SP204, SP103)."""
    wanted, what = INITS[name], f"an argument of {name}"
    if len(given) != len(wanted):
        raise SpaceError(error("SP204", f"{name} takes {counted(len(wanted), 'number')}", span))
    numbers = tuple(number(value, what, span) for value in given)
    for interval, found in zip(wanted, numbers, strict=True):
        wrong = outside(interval, found, frame.builder.guards, what)
        if wrong is not None:
            raise SpaceError(placed(wrong, span))
    return Init(name, numbers)


# Pipes and labels.


@row(tree.Pipe)
def _pipe(expr: tree.Pipe, frame: Frame, scope: Scope) -> Thing:
    """`a |> f(b) as l |> g`: the value so far is the first argument of the next call."""
    chain: list[tree.Pipe] = []
    left: tree.Expr = expr
    while isinstance(left, tree.Pipe):
        chain.append(left)
        left = left.value
    value = evaluate(left, frame, scope)
    for link in reversed(chain):
        value = _step(link.call, value, frame, scope)
    return value


def _step(step: tree.Expr, value: Thing, frame: Frame, scope: Scope) -> Thing:
    match step:
        case tree.Labelled():
            return labelled(step, frame, scope, (value,))
        case tree.CallOf():
            return call(step, frame, scope, None, (value,))
        case tree.Name() | tree.Field():
            return call(tree.CallOf(step, (), span=step.span), frame, scope, None, (value,))
        case _:
            raise SpaceError(
                error("SP209", "a pipe leads into a call", step.span).hint(
                    "x |> linear(width) |> gelu"
                )
            )


@row(tree.Labelled)
def _labelled(expr: tree.Labelled, frame: Frame, scope: Scope) -> Thing:
    return labelled(expr, frame, scope, ())


def labelled(expr: tree.Labelled, frame: Frame, scope: Scope, first: tuple[Thing, ...]) -> Thing:
    """`call as path` names the call; `(value) as path` names the value (SP207 on a number)."""
    path = label(expr.label, frame, scope)
    inner = expr.value
    if isinstance(inner, tree.Name | tree.Field) and first:
        inner = tree.CallOf(inner, (), span=inner.span)
    if isinstance(inner, tree.CallOf):
        return call(inner, frame, scope, path, first)
    if first:
        raise SpaceError(error("SP209", "a pipe leads into a call", inner.span))
    value = evaluate(inner, frame, scope)
    if not isinstance(value, Tensor):
        raise SpaceError(error("SP207", f"a label on {kind(value)}", expr.span))
    if not path and not frame.prefix:
        raise SpaceError(error("SP207", "`as _` stands on calls only", expr.span))
    return frame.builder.tag(value, frame.path(path))
