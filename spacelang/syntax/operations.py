"""Calls of ops: which arguments are operands and which options, and what kind each option is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from spacelang.diagnostics import SpaceError, Span, counted, error
from spacelang.ir.dim import Dim
from spacelang.ir.level_builder import Tensor
from spacelang.ir.op import OpDef
from spacelang.ir.param import Init
from spacelang.syntax.calls import Arguments, arguments
from spacelang.syntax.frame import Frame
from spacelang.syntax.names import LAYERS
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import OpName, Pending, Picked, Thing, kind, number, settled, tensors

LISTS = {"split", "unstack"}
"""Ops whose value is a list also where it has one entry."""


def call_op(
    definition: OpDef, given: Arguments, frame: Frame, scope: Scope, label: str | None
) -> Thing:
    """Apply an op: its tensor, or the list of them."""
    operands, extra, named, handed = _sorted(definition, given)
    _count(definition, len(operands) - len(handed), given.span)
    options: dict[str, Thing] = {}
    for written in scope.default(definition.name):
        options.update(arguments(written, None, frame, scope, (), given.span).named)
    names = [name for name in definition.options if name != "sizes" or not _open(definition)]
    if len(extra) > len(names):
        raise SpaceError(
            error(
                "SP204",
                f"{definition.name} has {counted(len(names), 'option')}, {len(extra)} given",
                given.span,
            ).note(f"its options: {', '.join(names) or 'none'}")
        )
    for name, value in zip(names, extra, strict=False):
        if name in named:
            raise SpaceError(error("SP204", f"{name} is given twice", given.span))
        options[name] = value
    sizes: object = ()
    if _open(definition):
        sizes = tuple(
            (n, number(named.pop(n), n, given.spans.get(n, given.span)))
            for n in list(named)
            if n not in names
        )
    options.update(named)
    checked: dict[str, object] = {
        name: _option(definition, name, settled(value), given) for name, value in options.items()
    }
    if _open(definition):
        checked["sizes"] = sizes
    if "bias" in handed:
        checked["bias"] = True
    frame.session.spend(1, given.span)
    made = frame.builder.apply(
        definition.name,
        operands,
        checked,
        given=handed,
        label=label,
        prefix=frame.prefix,
        span=given.span,
    )
    return made[0] if len(made) == 1 and definition.name not in LISTS else made


def _open(definition: OpDef) -> bool:
    """Whether an op takes sizes by names of the caller's own."""
    return "open" in definition.traits


def _sorted(
    definition: OpDef, given: Arguments
) -> tuple[list[Tensor], list[Thing], dict[str, Thing], tuple[str, ...]]:
    """Operands in order, positional options, named options, and the optional operands given."""
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
    for place, name in enumerate(definition.operands):
        value = named.get(name)
        if isinstance(value, Tensor):
            del named[name]
            operands.insert(place, value)
    optional = [name[:-1] for name in definition.operands if name.endswith("?")]
    handed = tuple(n for n in optional if isinstance(named.get(n), Tensor))
    operands += [v for name in handed if isinstance(v := named.pop(name), Tensor)]
    return operands, extra, named, handed


def _count(definition: OpDef, count: int, span: Span) -> None:
    """The number of operands must fit; optional ones are given by name (SP204)."""
    wanted = [name for name in definition.operands if not name.endswith("?")]
    many = any(name.endswith("*") for name in wanted)
    least = max(1, len(wanted)) if many else len(wanted)
    if count < least or (count > least and not many):
        text = f"{least} or more tensors" if many else counted(least, "tensor")
        raise SpaceError(error("SP204", f"{definition.name} reads {text}, {count} given", span))


# Options.


def _option(definition: OpDef, name: str, value: Thing, given: Arguments) -> object:
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
    if isinstance(value, Pending):
        raise SpaceError(
            error(
                "SP208", "`choose {..}` stands only for a parameter of a space or block", span
            ).hint(f"choose {name} in {{..}} before, then {definition.name}(.., {name}: {name})")
        )
    if option.kind == "init" and isinstance(value, Dim):
        return Init("constant", (value,))
    if option.kind == "init" and isinstance(value, OpName) and value.name in LAYERS:
        return Init(value.name)
    fits, wanted = ADMITTED[option.kind]
    if value is None and option.default is None:
        return None
    if not fits(value):
        what = f"{name} of {definition.name}"
        raise SpaceError(error("SP209", f"{what} must be {wanted}, not {kind(value)}", span))
    return value


def _size(value: object) -> bool:
    return isinstance(value, Dim)


def _list_of(item: Callable[[object], bool]) -> Callable[[object], bool]:
    """One of them, or a list that is not empty."""

    def fits(value: object) -> bool:
        if not isinstance(value, tuple):
            return item(value)
        entries = cast(tuple[object, ...], value)
        return bool(entries) and all(map(item, entries))

    return fits


def _shape(value: object) -> bool:
    return value == () or _list_of(_list_of(_size))(value)


ADMITTED: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "size": (_size, "a number"),
    "number": (_size, "a number"),
    "rate": (_size, "a number"),
    "whole": (_size, "a number"),
    "sizes": (_list_of(_size), "a number or a list of numbers"),
    "wholes": (_list_of(_size), "a number or a list of numbers"),
    "factors": (_list_of(_size), "a number or a list of numbers"),
    "shape": (_shape, "a list of numbers and lists of them"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "string": (lambda value: isinstance(value, str), "a string"),
    "init": (lambda value: isinstance(value, Init), "an initialisation"),
    "any": (lambda value: not isinstance(value, Picked | Tensor), "known"),
}
"""What each kind of option admits, and how that is called."""
