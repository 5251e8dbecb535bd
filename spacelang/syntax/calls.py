"""Calls as they are written: of ops, blocks, functions and control forms; pipes and labels.

An argument that is a tensor, or a list of them, fills the operands of an op in order; any other
positional argument fills its options in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.build import Tensor, complete
from spacelang.ir.dim import Dim
from spacelang.ir.op import OpDef, lookup
from spacelang.ir.param import Init
from spacelang.syntax import tree
from spacelang.syntax.frame import Frame
from spacelang.syntax.functions import FUNCTIONS
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import (
    Closure,
    Function,
    OpName,
    Pending,
    Thing,
    kind,
    number,
    tensors,
)

INITS = {
    "trunc_normal": 1, "normal": 1, "fan_out": 0, "uniform_out": 0, "ones": 0, "zeros": 0,
    "constant": 1,
}  # fmt: skip


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
    from spacelang.syntax.expressions import evaluate

    positional: list[Thing] = list(first)
    named: dict[str, Thing] = {}
    spans: dict[str, Span] = {}
    for item in given:
        value = evaluate(item.value, frame, scope)
        if item.name is None:
            if named:
                raise SpaceError(
                    error("SP204", "an argument without a name after named ones", item.span)
                )
            positional.append(value)
        elif item.name in named:
            raise SpaceError(error("SP204", f"{item.name} is given twice", item.span))
        else:
            named[item.name], spans[item.name] = value, item.span
    return Arguments(tuple(positional), named, spans, region, span)


def call(
    expr: tree.CallOf,
    frame: Frame,
    scope: Scope,
    label: str | None,
    first: tuple[Thing, ...],
) -> Thing:
    """The value of a call. `label` is its path, None where it has none; `first` was piped in."""
    from spacelang.syntax.expressions import evaluate
    from spacelang.syntax.forms import FORMS

    if isinstance(expr.callee, tree.Name) and scope.find(expr.callee.name) is None:
        if expr.callee.name in FORMS:
            given = arguments(expr.arguments, expr.region, frame, scope, first, expr.span)
            return FORMS[expr.callee.name](given, frame, scope)
        if expr.callee.name in INITS:
            return _init(expr, frame, scope)
    callee = evaluate(expr.callee, frame, scope)
    given = arguments(expr.arguments, expr.region, frame, scope, first, expr.span)
    return apply(callee, given, frame, scope, label, expr.callee.span)


def apply(
    callee: Thing, given: Arguments, frame: Frame, scope: Scope, label: str | None, span: Span
) -> Thing:
    """Call a value that is an op, a block or a function."""
    from spacelang.syntax.blocks import call_block

    if isinstance(callee, Closure):
        _no_region(given, callee.name)
        return call_block(callee, given, frame, label)
    if isinstance(callee, Function):
        if given.positional and isinstance(given.positional[0], Tensor):
            callee = OpName(callee.name)
        else:
            if label is not None:
                raise SpaceError(error("SP207", "a label on a number", given.span))
            _no_region(given, callee.name)
            if given.named:
                raise SpaceError(
                    error("SP204", f"{callee.name} takes no named arguments", given.span)
                )
            return FUNCTIONS[callee.name](given.positional, given.span)
    if isinstance(callee, OpName):
        _no_region(given, callee.name)
        return call_op(lookup(callee.name), given, frame, scope, label)
    raise SpaceError(error("SP209", f"{kind(callee)} cannot be called", span))


def _no_region(given: Arguments, name: str) -> None:
    if given.region is not None:
        raise SpaceError(error("SP204", f"{name} takes no |..| {{ .. }}", given.region.span))


def call_op(
    definition: OpDef, given: Arguments, frame: Frame, scope: Scope, label: str | None
) -> Thing:
    """Apply an op: its tensor, or the list of them."""
    operands: list[Tensor] = []
    extra: list[Thing] = []
    for value in given.positional:
        if isinstance(value, Tensor):
            operands.append(value)
        elif (many := tensors(value)) is not None:
            operands += many
        else:
            extra.append(value)
    named = dict(given.named)
    optional = [name[:-1] for name in definition.operands if name.endswith("?")]
    handed = tuple(n for n in optional if isinstance(named.get(n), Tensor))
    for place, name in enumerate(definition.operands):
        value = named.get(name)
        if isinstance(value, Tensor):
            operands.insert(place, value)
            del named[name]
    operands += [v for name in handed if isinstance(v := named.pop(name), Tensor)]
    _count(definition, len(operands) - len(handed), given.span)
    options: dict[str, Thing] = {}
    for written in scope.default(definition.name):
        defaults = arguments(written, None, frame, scope, (), given.span)
        options.update(defaults.named)
    names = list(definition.options)
    if len(extra) > len(names):
        raise SpaceError(
            error(
                "SP204",
                f"{definition.name} has {len(names)} options, {len(extra)} given",
                given.span,
            )
        )
    for name, value in zip(names, extra, strict=False):
        if name in named:
            raise SpaceError(error("SP204", f"{name} is given twice", given.span))
        options[name] = value
    if "open" in definition.traits:
        sizes = {n: named.pop(n) for n in list(named) if n not in definition.options}
        options["sizes"] = tuple(
            (n, number(v, n, given.spans.get(n, given.span))) for n, v in sizes.items()
        )
    options.update(named)
    for name, value in options.items():
        options[name] = _option(definition, name, value, given)
    if "bias" in handed:
        options["bias"] = True
    complete(definition, options, given.span)
    made = frame.builder.apply(
        definition.name,
        operands,
        options,
        given=handed,
        label=label,
        prefix=frame.prefix,
        span=given.span,
    )
    frame.session.spend(1, given.span)
    return made[0] if len(made) == 1 and definition.name not in LISTS else made


LISTS = {"split", "unstack"}


def _count(definition: OpDef, count: int, span: Span) -> None:
    """The number of operands must fit (SP204)."""
    least = sum(not n.endswith(("?", "*")) for n in definition.operands)
    most = 1 << 30 if any(n.endswith("*") for n in definition.operands) else len(
        [n for n in definition.operands]
    )  # fmt: skip
    if any(n.endswith("*") for n in definition.operands):
        least = 1
    if not least <= count <= most:
        wanted = str(least) if least == most else f"{least} or more"
        raise SpaceError(
            error("SP204", f"{definition.name} reads {wanted} tensors, {count} given", span)
        )


def _option(definition: OpDef, name: str, value: Thing, given: Arguments) -> Thing:
    """An option's value in the form that its kind asks for (SP204, SP209)."""
    option = definition.options.get(name)
    span = given.spans.get(name, given.span)
    if option is None:
        known = ", ".join(definition.options) or "none"
        raise SpaceError(
            error("SP204", f"{definition.name} has no option {name}", span).note(
                f"its options: {known}"
            )
        )
    what = f"{name} of {definition.name}"
    if option.kind == "init" and isinstance(value, Dim):
        return Init("constant", (value,))
    if option.kind in ("size", "number", "rate"):
        return number(value, what, span)
    if option.kind == "whole":
        return number(value, what, span)
    if option.kind in ("sizes", "wholes", "factors", "shape") and not isinstance(
        value, Dim | tuple
    ):
        raise SpaceError(
            error("SP209", f"{what} must be a number or a list, not {kind(value)}", span)
        )
    wanted = {"bool": bool, "string": str}.get(option.kind)
    if wanted is not None and not isinstance(value, wanted):
        raise SpaceError(
            error("SP209", f"{what} must be {_ARTICLE[option.kind]}, not {kind(value)}", span)
        )
    if isinstance(value, Pending):
        raise SpaceError(
            error(
                "SP208", "`choose {..}` stands only for a parameter of a space or block", span
            ).hint(f"choose {name} in {{..}} before, then {definition.name}(.., {name}: {name})")
        )
    return value


_ARTICLE = {"bool": "true or false", "string": "a string"}


def _init(expr: tree.CallOf, frame: Frame, scope: Scope) -> Init:
    """`trunc_normal(0.02)`: how a parameter starts."""
    assert isinstance(expr.callee, tree.Name)
    given = arguments(expr.arguments, expr.region, frame, scope, (), expr.span)
    wanted = INITS[expr.callee.name]
    if len(given.positional) != wanted or given.named:
        raise SpaceError(error("SP204", f"{expr.callee.name} takes {wanted} numbers", expr.span))
    return Init(
        expr.callee.name, tuple(number(v, "an argument", expr.span) for v in given.positional)
    )


def pipe(expr: tree.Pipe, frame: Frame, scope: Scope) -> Thing:
    """`a |> f(b) as l |> g`: the value so far is the first argument of the next call."""
    from spacelang.syntax.expressions import evaluate

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
    if isinstance(step, tree.Labelled):
        return labelled(step, frame, scope, (value,))
    if isinstance(step, tree.CallOf):
        return call(step, frame, scope, None, (value,))
    if isinstance(step, tree.Name | tree.Field):
        return call(tree.CallOf(step, (), span=step.span), frame, scope, None, (value,))
    raise SpaceError(
        error("SP209", "a pipe leads into a call", step.span).hint("x |> linear(width) |> gelu")
    )


def labelled(expr: tree.Labelled, frame: Frame, scope: Scope, first: tuple[Thing, ...]) -> Thing:
    """`call as path` names the call; `(value) as path` names the value (SP207 on a number)."""
    from spacelang.syntax.expressions import evaluate, label

    path = label(expr.label, frame, scope)
    inner = expr.value
    if isinstance(inner, tree.Name | tree.Field) and first:
        inner = tree.CallOf(inner, (), span=inner.span)
    if isinstance(inner, tree.CallOf):
        return call(inner, frame, scope, path, first)
    value = evaluate(inner, frame, scope)
    if not isinstance(value, Tensor):
        raise SpaceError(error("SP207", f"a label on {kind(value)}", expr.span))
    if not path:
        raise SpaceError(error("SP207", "`as _` stands on calls only", expr.span))
    return frame.builder.tag(value, frame.path(path))
