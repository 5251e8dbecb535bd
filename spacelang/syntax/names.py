"""Names: what a word stands for where it is read, and how `let` binds one."""

from __future__ import annotations

from collections.abc import Mapping

from spacelang import plugins
from spacelang.diagnostics import SpaceError, Span, counted, error
from spacelang.ir.op import Interval, ops
from spacelang.ir.param import Init
from spacelang.ir.prove import Proved, holds
from spacelang.syntax import tree
from spacelang.syntax.evaluate import evaluate, row, split_on
from spacelang.syntax.frame import Frame
from spacelang.syntax.functions import FUNCTIONS
from spacelang.syntax.functions import names as functions
from spacelang.syntax.scope import Scope, unknown
from spacelang.syntax.values import (
    Broken,
    Clash,
    Function,
    Later,
    Module,
    OpName,
    Pending,
    Thing,
    Torn,
    Unbound,
    has_tensor,
    kind,
)

CONSTANTS: dict[str, Thing] = {"true": True, "false": False, "none": None}
INITS: Mapping[str, tuple[Interval, ...]] = {
    "trunc_normal": (Interval(0),),
    "normal": (Interval(0),),
    "fan_out": (),
    "uniform_out": (),
    "ones": (),
    "zeros": (),
    "constant": (Interval(),),
}
"""Ways to start a parameter, and what each of the numbers that it takes may be."""
LAYERS = ("linear", "linear_bias", "conv", "conv_bias")
"""Ways to start a parameter as layers start theirs, where nothing else is said."""


def callable_ops() -> list[str]:
    """The ops that may be called by name; the others are written otherwise (`+`, `x[..]`)."""
    return [name for name, definition in ops().items() if "written" not in definition.traits]


@row(tree.Name)
def _name(expr: tree.Name, frame: Frame, scope: Scope) -> Thing:
    return look_up(expr.name, expr.span, frame, scope)


def look_up(name: str, span: Span, frame: Frame, scope: Scope) -> Thing:
    """What a name stands for: a name in scope, an op, a function, or true, false, none."""
    owner = scope.find(name)
    if owner is None:
        return _built_in(name, span, scope)
    value = owner.names[name]
    match value:
        case Clash(_, (first, second)):
            raise SpaceError(
                error("SP202", f"{name} is in {first} and in {second}", span).hint(
                    f"say which: {first}.{name}"
                )
            )
        case Broken():
            raise SpaceError(())
        case Torn(_, truth):
            raise split_on(truth, span)
        case Unbound(_, place, ways):
            for truth, known in ways if owner.frame in (None, frame) else ():
                if isinstance(holds(truth, frame.builder.guards), Proved):
                    return known
            raise SpaceError(
                error("SP205", f"{name} has a value only in some architectures", span, "read here")
                .also(place, "set here, under a decision")
                .hint("give it a value before")
            )
        case Later(let, home):
            if home.names[name] is value:
                evaluate_let(let, frame, home)
            owner.names[name] = home.names[name]
            return look_up(name, span, frame, scope)
        case Module():
            raise unknown(name, span, scope.known())
        case _:
            here = owner.frame
            return value if here is None or here is frame else frame.thing(here, value)


def _built_in(name: str, span: Span, scope: Scope) -> Thing:
    if name in CONSTANTS:
        return CONSTANTS[name]
    if name in FUNCTIONS:
        return Function(name)
    if name in ops() and "written" not in ops()[name].traits:
        return OpName(name)
    if INITS.get(name) == () or name in LAYERS:
        return Init(name)
    if name in plugins.table("spacelang.functions"):
        return Function(name)
    from spacelang.syntax.forms import FORMS

    known = [*scope.known(), *CONSTANTS, *functions(), *FORMS, *INITS, *callable_ops()]
    raise unknown(name, span, known)


@row(tree.Field)
def _field(expr: tree.Field, frame: Frame, scope: Scope) -> Thing:
    """`vit.mlp`: what a used file holds; `lib.conv.conv_bn` after `use lib.conv`."""
    file = "." + _dotted(expr.value)
    owner = scope.find(file)
    module = owner.names[file] if owner is not None else None
    if isinstance(module, Module):
        if expr.name not in module.scope.names:
            raise unknown(expr.name, expr.span, module.scope.known())
        return look_up(expr.name, expr.span, frame, module.scope)
    raise SpaceError(
        error("SP208", "a path is no value", expr.span).hint("x.y names what `use x` brought")
    )


def _dotted(expr: tree.Expr) -> str:
    """Names joined by dots, as `use` has them; of what is no such path nothing that a file has."""
    match expr:
        case tree.Name(name):
            return name
        case tree.Field(value, name):
            return f"{_dotted(value)}.{name}"
        case _:
            return ""


def evaluate_let(let: tree.Let, frame: Frame, scope: Scope) -> None:
    """Bind the names of a `let`; one of a file that reads itself is SP206."""
    open_lets = frame.session.lets
    if any(let is other for other in open_lets):
        names = " reads ".join(", ".join(one.names) for one in (*open_lets, let))
        raise SpaceError(error("SP206", "a `let` that reads itself", let.span).note(names))
    open_lets.append(let)
    try:
        value = evaluate(let.value, frame, scope)
    except SpaceError:
        scope.names.update(dict.fromkeys(let.names, Broken()))
        raise
    finally:
        open_lets.pop()
    if has_tensor(value):
        raise SpaceError(
            error(
                "SP209", f"`let` binds what is known at once; this is {kind(value)}", let.value.span
            ).hint(f"{', '.join(let.names)} = ..")
        )
    if isinstance(value, Pending):
        raise SpaceError(
            error("SP208", "`choose {..}` stands only for a parameter", let.value.span).hint(
                f"choose {let.names[0]} in {{..}}"
            )
        )
    bind(let.names, value, let.span, scope)


def bind(names: tuple[str, ...], value: Thing, span: Span, scope: Scope) -> None:
    """Bind one name to a value, or several to the entries of a list (SP306)."""
    if len(names) == 1:
        scope.bind(names[0], value, span)
        return
    if not isinstance(value, tuple):
        raise SpaceError(error("SP306", f"{counted(len(names), 'name')} for {kind(value)}", span))
    if len(value) != len(names):
        raise SpaceError(
            error(
                "SP306", f"{counted(len(names), 'name')} for {counted(len(value), 'value')}", span
            )
        )
    for name, item in zip(names, value, strict=True):
        scope.bind(name, item, span)
