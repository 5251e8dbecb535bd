"""The number functions of the language: len, sum, min, max, largest, zip and their like."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import cast

from spacelang import plugins
from spacelang.diagnostics import SpaceError, Span, counted, error
from spacelang.ir.condition import compare
from spacelang.ir.conflict import shown
from spacelang.ir.dim import (
    Dim,
    conditional,
    floor,
    function,
    maximum,
    minimum,
    rsqrt,
    sqrt,
)
from spacelang.ops.limits import Beyond, raised
from spacelang.syntax.evaluate import MAX_LIST, entries, known_number, limited, listed
from spacelang.syntax.values import Candidates, Numbers, Thing, kind, number


def _spread(arguments: Sequence[Thing], name: str, span: Span) -> list[Thing]:
    """Entries of a single list, or the arguments themselves."""
    if len(arguments) == 1 and not isinstance(arguments[0], Dim):
        return list(entries(arguments[0], span, f"the argument of {name}"))
    return list(arguments)


def _one(arguments: Sequence[Thing], name: str, span: Span, count: int = 1) -> list[Thing]:
    if len(arguments) != count:
        raise SpaceError(
            error("SP204", f"{name} takes {counted(count, 'argument')}, not {len(arguments)}", span)
        )
    return list(arguments)


def _numbers(arguments: Sequence[Thing], name: str, span: Span) -> list[Dim]:
    found = [number(v, f"an argument of {name}", span) for v in _spread(arguments, name, span)]
    if not found and name != "sum":
        raise SpaceError(error("SP204", f"{name} of nothing", span))
    return found


def _len(arguments: Sequence[Thing], span: Span) -> Dim:
    (value,) = _one(arguments, "len", span)
    if isinstance(value, Candidates):
        return Dim.of(len(value.items))
    return Dim.of(len(entries(value, span, "the argument of len")))


def _sum(arguments: Sequence[Thing], span: Span) -> Dim:
    total = Dim.of(0)
    for value in _numbers(arguments, "sum", span):
        total = limited(total + value, span)
    return total


def _fold(name: str, fold: Callable[[Dim, Dim], Dim]) -> Callable[[Sequence[Thing], Span], Dim]:
    def run(arguments: Sequence[Thing], span: Span) -> Dim:
        first, *rest = _numbers(arguments, name, span)
        for value in rest:
            first = limited(fold(first, value), span)
        return first

    return run


def _largest(arguments: Sequence[Thing], span: Span) -> Thing:
    """The largest candidate of a set, range or decision; of each, for a list."""
    (value,) = _one(arguments, "largest", span)
    return _largest_of(value, span)


def _largest_of(value: Thing, span: Span) -> Thing:
    if isinstance(value, tuple):
        return tuple(_largest_of(v, span) for v in value)
    if isinstance(value, Dim):
        return Dim.of(most(value, span))
    if isinstance(value, Candidates):
        return Dim.of(max(most(number(v, "a candidate", span), span) for v in value.items))
    if isinstance(value, Numbers) and (numbers := listed(value, span)):
        return Dim.of(max(numbers))
    raise SpaceError(error("SP209", f"largest of {kind(value)}", span))


def most(value: Dim, span: Span) -> Fraction:
    """The largest value of a size (SP308 if it has none)."""
    try:
        return value.bounds()[1]
    except ValueError:
        raise SpaceError(error("SP308", f"{shown(value)} has no largest value", span)) from None


def _zip(arguments: Sequence[Thing], span: Span) -> Thing:
    lists = [entries(v, span, "an argument of zip") for v in arguments]
    if len({len(items) for items in lists}) > 1:
        lengths = ", ".join(str(len(items)) for items in lists)
        raise SpaceError(error("SP306", f"zip of lists of {lengths} entries", span))
    return tuple(zip(*lists, strict=True))


def _enumerate(arguments: Sequence[Thing], span: Span) -> Thing:
    (value,) = _one(arguments, "enumerate", span)
    items = value if isinstance(value, tuple) else entries(value, span, "the argument of enumerate")
    return tuple((Dim.of(i), item) for i, item in enumerate(items))


def _reversed(arguments: Sequence[Thing], span: Span) -> Thing:
    (value,) = _one(arguments, "reversed", span)
    return tuple(reversed(entries(value, span, "the argument of reversed")))


def _power(arguments: Sequence[Thing], span: Span) -> Dim:
    """`power(a, b)`; refused before it is computed where it would pass 63 bits (SP103)."""
    base, exponent = _numbers(_one(arguments, "power", span, 2), "power", span)
    try:
        return raised(base, exponent)
    except Beyond as failed:
        raise SpaceError(error(failed.code, str(failed), span)) from None


def _unary(name: str, make: Callable[[Dim], Dim]) -> Callable[[Sequence[Thing], Span], Dim]:
    """A function of one number."""

    def run(arguments: Sequence[Thing], span: Span) -> Dim:
        (value,) = _numbers(_one(arguments, name, span), name, span)
        return make(value)

    return run


def registered(name: str) -> Callable[[Sequence[Thing], Span], Thing]:
    """A pure function of the entry point `spacelang.functions`: of numbers and lists that are
    known, to numbers and lists. What it raises as ValueError or ArithmeticError is SP210."""
    function = plugins.load("spacelang.functions", name)

    def run(arguments: Sequence[Thing], span: Span) -> Thing:
        wanted = inspect.signature(function).parameters.values()
        least = sum(one.default is one.empty for one in wanted)
        if not least <= len(arguments) <= len(wanted):
            _one(arguments, name, span, len(wanted))
        try:
            return _made(function(*(_known(v, name, span) for v in arguments)), name, span)
        except (ValueError, ArithmeticError) as failed:
            raise SpaceError(error("SP210", f"{name} has no value: {failed}", span)) from failed

    return run


def _known(value: Thing, name: str, span: Span) -> object:
    if isinstance(value, tuple):
        return [_known(item, name, span) for item in value]
    what = f"an argument of {name}"
    return known_number(number(value, what, span), what, span)


def _made(value: object, name: str, span: Span) -> Thing:
    """What a registered function returned, as the language holds it (SP209)."""
    if isinstance(value, list | tuple):
        items = cast("Sequence[object]", value)
        return tuple(_made(item, name, span) for item in items[: MAX_LIST + 1])
    if isinstance(value, int | float | Fraction) and not isinstance(value, bool):
        return limited(Dim.of(value), span)
    wrong = f"{name} gives {type(value).__name__}, not numbers"
    raise SpaceError(error("SP209", wrong, span))


def function_called(name: str) -> Callable[[Sequence[Thing], Span], Thing]:
    """The function of a name: built in, or registered."""
    return FUNCTIONS.get(name) or registered(name)


def names() -> list[str]:
    """The functions that there are."""
    return [*FUNCTIONS, *plugins.table("spacelang.functions")]


def _sign(value: Dim) -> Dim:
    """1, 0 or -1."""
    below = conditional(compare("<", value, 0), Dim.of(-1), Dim.of(0))
    return conditional(compare(">", value, 0), Dim.of(1), below)


FUNCTIONS: dict[str, Callable[[Sequence[Thing], Span], Thing]] = {
    "len": _len,
    "sum": _sum,
    "min": _fold("min", minimum),
    "max": _fold("max", maximum),
    "largest": _largest,
    "zip": _zip,
    "enumerate": _enumerate,
    "reversed": _reversed,
    "power": _power,
    "floor": _unary("floor", floor),
    "rsqrt": _unary("rsqrt", rsqrt),
    "sqrt": _unary("sqrt", sqrt),
    "exp": _unary("exp", lambda d: function("exp", d)),
    "log": _unary("log", lambda d: function("log", d)),
    "sin": _unary("sin", lambda d: function("sin", d)),
    "cos": _unary("cos", lambda d: function("cos", d)),
    "abs": _unary("abs", lambda d: maximum(d, -d)),
    "round": _unary("round", lambda d: function("round", d)),
    "sign": _unary("sign", _sign),
}
"""`exp`, `sqrt` and `abs` of a tensor are ops: `calls.py` prefers the op where the argument is a
tensor."""
