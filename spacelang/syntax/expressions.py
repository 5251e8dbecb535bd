"""Expressions to values: numbers, lists, comparisons, names; calls are in `calls.py`.

One row per class of the syntax tree. A number that must be known and holds a decision raises
`NeedsValue`: the nearest block call then makes one alternative per value.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.build import Tensor
from spacelang.ir.condition import (
    FALSE,
    TRUE,
    Condition,
    compare,
    conjunction,
    disjunction,
    is_value,
    negate,
)
from spacelang.ir.dim import Dim, conditional
from spacelang.ir.op import NeedsValue, ops
from spacelang.ir.param import Init
from spacelang.ir.pattern import Hop
from spacelang.syntax import tree
from spacelang.syntax.calls import INITS
from spacelang.syntax.frame import Frame
from spacelang.syntax.functions import FUNCTIONS, MAX_LIST
from spacelang.syntax.scope import Scope, unknown
from spacelang.syntax.values import (
    Broken,
    Candidates,
    Clash,
    Function,
    Module,
    Numbers,
    OpName,
    Pending,
    Picked,
    Text,
    Thing,
    Unbound,
    condition,
    kind,
    number,
)

CONSTANTS: dict[str, Thing] = {"true": True, "false": False, "none": None}
LIMIT = 1 << 63


def evaluate(expr: tree.Expr, frame: Frame, scope: Scope) -> Thing:
    """The value of an expression in a scope of a frame; errors carry the expression's span."""
    row = ROWS.get(type(expr))
    if row is None:
        raise SpaceError(error("SP208", "this is no expression here", expr.span))
    try:
        return row(expr, frame, scope)
    except ZeroDivisionError as failed:
        raise SpaceError(
            error("SP210", f"division by zero in {expr.span.text}", expr.span)
        ) from failed


def known(expr: tree.Expr, frame: Frame, scope: Scope, what: str) -> Fraction:
    """A number that must be known while the graph is built."""
    value = number(evaluate(expr, frame, scope), what, expr.span)
    return known_number(value, what, expr.span)


def known_number(value: Dim, what: str, span: Span) -> Fraction:
    if value.constant is None:
        raise needs(value)
    return value.constant


def whole(expr: tree.Expr, frame: Frame, scope: Scope, what: str) -> int:
    value = known(expr, frame, scope, what)
    if value.denominator != 1:
        raise SpaceError(error("SP302", f"{what} must be whole, not {value}", expr.span))
    return int(value)


def needs(value: Dim) -> Exception:
    """The request to split on a decision of a number, or an error where it holds only free sizes."""
    for symbol in sorted(value.symbols, key=lambda s: s.name):
        if symbol.values:
            return NeedsValue(symbol)
    return SpaceError(error("SP209", f"{value} is not known while the graph is built"))


def hop(node: tree.Hop, frame: Frame, scope: Scope) -> str:
    """A label with its indices computed: `blocks[i - 1]` -> `blocks[2]`."""
    indices = tuple(whole(i, frame, scope, "an index of a label") for i in node.indices)
    return str(Hop(node.name, indices))


def label(path: tree.Path, frame: Frame, scope: Scope) -> str:
    """A label path as text; `_` alone is the empty path."""
    if len(path.hops) == 1 and path.hops[0].name == "_" and not path.hops[0].indices:
        return ""
    return ".".join(hop(h, frame, scope) for h in path.hops)


# Rows.


def _number(expr: tree.Number, frame: Frame, scope: Scope) -> Dim:
    return Dim.of(expr.value)


def _string(expr: tree.String, frame: Frame, scope: Scope) -> str:
    return expr.value


def look_up(name: str, span: Span, frame: Frame, scope: Scope) -> Thing:
    """What a name stands for: a name in scope, an op, a function, or true, false, none."""
    owner = scope.find(name)
    if owner is None:
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name in FUNCTIONS:
            return Function(name)
        if name in ops():
            return OpName(name)
        if INITS.get(name) == 0:
            return Init(name)
        known_names = [*scope.known(), *CONSTANTS, *FUNCTIONS, *ops()]
        raise unknown(name, span, [n for n in known_names if not n.startswith(".")])
    value = owner.names[name]
    if isinstance(value, Clash):
        first, second = value.owners
        raise SpaceError(
            error("SP202", f"{name} is in {first} and in {second}", span).hint(
                f"say which: {first}.{name}"
            )
        )
    if isinstance(value, Broken):
        raise SpaceError(())
    if isinstance(value, Unbound):
        raise SpaceError(
            error("SP205", f"{name} has a value only in some architectures", span, "read here")
            .also(value.span, "set here, under a decision")
            .hint("give it a value before")
        )
    if isinstance(value, tree.Let):
        evaluate_let(value, frame, owner)
        return look_up(name, span, frame, scope)
    assert not isinstance(value, tree.Let | Module), name
    if owner.frame is not None and owner.frame is not frame:
        return frame.thing(owner.frame, value)
    return value


def evaluate_let(let: tree.Let, frame: Frame, scope: Scope) -> None:
    """Bind the names of a `let`."""
    bind(let.names, evaluate(let.value, frame, scope), let.span, scope)


def bind(names: tuple[str, ...], value: Thing, span: Span, scope: Scope) -> None:
    """Bind one name to a value, or several to the entries of a list (SP306)."""
    if len(names) == 1:
        scope.bind(names[0], value, span)
        return
    if not isinstance(value, tuple):
        raise SpaceError(error("SP306", f"{len(names)} names for {kind(value)}", span))
    if len(value) != len(names):
        raise SpaceError(error("SP306", f"{len(names)} names for {len(value)} values", span))
    for name, item in zip(names, value, strict=True):
        scope.bind(name, item, span)


def _name(expr: tree.Name, frame: Frame, scope: Scope) -> Thing:
    return look_up(expr.name, expr.span, frame, scope)


def _field(expr: tree.Field, frame: Frame, scope: Scope) -> Thing:
    if isinstance(expr.value, tree.Name):
        owner = scope.find("." + expr.value.name)
        if owner is not None:
            module = owner.names["." + expr.value.name]
            if isinstance(module, Module):
                found = module.scope.find(expr.name)
                if found is None:
                    raise unknown(expr.name, expr.span, module.scope.known())
                return look_up(expr.name, expr.span, frame, found)
    raise SpaceError(
        error("SP208", "a path is no value", expr.span).hint("x.y names what `use x` brought")
    )


def _unary(expr: tree.Unary, frame: Frame, scope: Scope) -> Thing:
    value = evaluate(expr.operand, frame, scope)
    if expr.operator == "not":
        truth = condition(value, expr.operand.span)
        return not truth if isinstance(truth, bool) else negate(truth)
    if isinstance(value, Tensor):
        return frame.builder.one("mul", [value], {"number": Dim.of(-1)}, span=expr.span)
    return -number(value, "the operand of -", expr.operand.span)


ARITHMETIC: dict[str, Callable[[Dim, Dim], Dim]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
}
OPS = {"+": "add", "-": "sub", "*": "mul", "/": "div"}
COMPARISONS = {"==", "!=", "<", "<=", ">", ">="}


def _binary(expr: tree.Binary, frame: Frame, scope: Scope) -> Thing:
    # A chain leans to the left; it is folded in a loop so that its length costs no stack.
    chain: list[tree.Binary] = []
    left: tree.Expr = expr
    while isinstance(left, tree.Binary):
        chain.append(left)
        left = left.left
    value = evaluate(left, frame, scope)
    for link in reversed(chain):
        value = _apply(link, value, frame, scope)
    return value


def _apply(expr: tree.Binary, left: Thing, frame: Frame, scope: Scope) -> Thing:
    operator = expr.operator
    if operator in ("and", "or"):
        return _logic(operator, condition(left, expr.left.span), expr, frame, scope)
    right = evaluate(expr.right, frame, scope)
    if operator in ("in", "not in"):
        found = _member(left, right, expr)
        return found if operator == "in" else _not(found)
    if operator in COMPARISONS:
        return _compare(operator, left, right, expr)
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        return _tensor(operator, left, right, expr, frame)
    if isinstance(left, tuple) and isinstance(right, tuple) and operator == "+":
        if len(left) + len(right) > MAX_LIST:
            raise SpaceError(error("SP507", f"a list of more than {MAX_LIST:,} entries", expr.span))
        return (*left, *right)
    a = number(left, f"the left of {operator}", expr.left.span)
    b = number(right, f"the right of {operator}", expr.right.span)
    result = ARITHMETIC[operator](a, b)
    if result.constant is not None and abs(result.constant.numerator) >= LIMIT:
        raise SpaceError(error("SP103", "a number of more than 63 bits", expr.span))
    return result


def _tensor(operator: str, left: Thing, right: Thing, expr: tree.Binary, frame: Frame) -> Tensor:
    if operator not in OPS:
        raise SpaceError(error("SP209", f"tensors know no {operator}", expr.span))
    build = frame.builder
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return build.one(OPS[operator], [left, right], span=expr.span)
    if isinstance(left, Tensor):
        scalar = number(right, f"the right of {operator}", expr.right.span)
        return build.one(OPS[operator], [left], {"number": scalar}, span=expr.span)
    assert isinstance(right, Tensor)
    scalar = number(left, f"the left of {operator}", expr.left.span)
    return build.one(
        OPS[operator], [right], {"number": scalar, "flipped": operator in "-/"}, span=expr.span
    )


def _not(value: bool | Condition) -> bool | Condition:
    return not value if isinstance(value, bool) else negate(value)


def _logic(
    operator: str, left: bool | Condition, expr: tree.Binary, frame: Frame, scope: Scope
) -> bool | Condition:
    if isinstance(left, bool) and left == (operator == "or"):
        return left
    right = condition(evaluate(expr.right, frame, scope), expr.right.span)
    if isinstance(left, bool):
        return right
    if isinstance(right, bool):
        return left if right == (operator == "and") else right
    return decided(conjunction(left, right) if operator == "and" else disjunction(left, right))


def decided(value: Condition) -> bool | Condition:
    """A condition as a boolean where it is one."""
    return True if value == TRUE else False if value == FALSE else value


def _compare(operator: str, left: Thing, right: Thing, expr: tree.Binary) -> bool | Condition:
    if isinstance(left, Dim) and isinstance(right, Dim):
        return decided(compare(operator, left, right))
    if operator not in ("==", "!="):
        raise SpaceError(error("SP209", f"{kind(left)} and {kind(right)} have no order", expr.span))
    if isinstance(left, Text):
        same = _is(left, right)
    elif isinstance(right, Text):
        same = _is(right, left)
    else:
        same = type(left) is type(right) and not isinstance(left, Tensor) and left == right
    return same if operator == "==" else _not(same)


def _is(decision: Text, value: Thing) -> bool | Condition:
    """Whether a decision among strings or booleans takes a value."""
    if not isinstance(value, str | bool) or value not in decision.symbol.values:
        return False
    return decided(is_value(decision.symbol, value))


def _member(left: Thing, right: Thing, expr: tree.Binary) -> bool | Condition:
    if isinstance(right, Candidates):
        items = right.items
    elif isinstance(right, tuple | Numbers):
        items = entries(right, expr.right.span, "the right of in")
    else:
        raise SpaceError(error("SP209", f"nothing is in {kind(right)}", expr.right.span))
    found: list[Condition] = []
    for item in items:
        same = _compare("==", left, item, expr)
        if same is True:
            return True
        if not isinstance(same, bool):
            found.append(same)
    return decided(disjunction(*found)) if found else False


def _either(expr: tree.Either, frame: Frame, scope: Scope) -> Thing:
    truth = condition(evaluate(expr.condition, frame, scope), expr.condition.span)
    if isinstance(truth, bool):
        return evaluate(expr.value if truth else expr.other, frame, scope)
    a, b = evaluate(expr.value, frame, scope), evaluate(expr.other, frame, scope)
    if isinstance(a, Dim) and isinstance(b, Dim):
        return conditional(truth, a, b)
    raise split_on(truth)


def split_on(truth: Condition) -> Exception:
    """The request to split on a decision of a condition."""
    with_values = [s for s in truth.symbols if s.values]
    return NeedsValue(min(with_values, key=lambda s: s.name))


def _range(expr: tree.Range, frame: Frame, scope: Scope) -> Numbers:
    start = known(expr.start, frame, scope, "the start of a range")
    stop = number(evaluate(expr.stop, frame, scope), "the end of a range", expr.stop.span)
    step = Fraction(1) if expr.step is None else known(expr.step, frame, scope, "a step")
    if step <= 0:
        raise SpaceError(
            error("SP103", f"a step of {step}", expr.span).hint("count down with reversed(..)")
        )
    return Numbers(start, stop, step, expr.open)


def listed(value: Numbers, span: Span) -> tuple[Fraction, ...]:
    """The numbers of a range whose end is known; at most 10^6 of them (SP507)."""
    if value.stop.constant is None:
        raise needs(value.stop)
    stop = value.stop.constant
    if (stop - value.start) / value.step > MAX_LIST:
        raise SpaceError(error("SP507", f"a range of more than {MAX_LIST:,} numbers", span))
    return value.upto(stop)


def entries(value: Thing, span: Span, what: str) -> tuple[Thing, ...]:
    """The entries of a list, or the numbers of a range."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, Numbers):
        return tuple(Dim.of(n) for n in listed(value, span))
    if isinstance(value, Picked):
        return value.sources[: value.count]
    raise SpaceError(error("SP209", f"{what} must be a list, not {kind(value)}", span))


def _list(expr: tree.List, frame: Frame, scope: Scope) -> tuple[Thing, ...]:
    return tuple(evaluate(item, frame, scope) for item in expr.items)


def _each(expr: tree.Each, frame: Frame, scope: Scope) -> tuple[Thing, ...]:
    source = entries(evaluate(expr.source, frame, scope), expr.source.span, "the source")
    found: list[Thing] = []
    for item in source:
        inner = Scope(scope)
        inner.frame = frame
        bind(expr.names, item, expr.span, inner)
        found.append(evaluate(expr.value, frame, inner))
    return tuple(found)


def _set(expr: tree.Set, frame: Frame, scope: Scope) -> Candidates:
    items: list[Thing] = []
    for item in expr.items:
        value = evaluate(item, frame, scope)
        many = listed(value, item.span) if isinstance(value, Numbers) else None
        items += [Dim.of(n) for n in many] if many is not None else [value]
    return Candidates(tuple(items))


def _here(expr: tree.ChooseHere, frame: Frame, scope: Scope) -> Pending:
    made = _set(tree.Set(expr.items, span=expr.span), frame, scope)
    return Pending(made.items, expr.span)


def _item(expr: tree.Item, frame: Frame, scope: Scope) -> Thing:
    value = evaluate(expr.value, frame, scope)
    if isinstance(value, Tensor):
        return _slice(value, expr, frame, scope)
    if isinstance(value, tuple) and len(expr.indices) == 1:
        return _entry(value, expr.indices[0], expr, frame, scope)
    raise SpaceError(error("SP209", f"{kind(value)} has no entries", expr.span))


def _entry(
    items: tuple[Thing, ...], index: tree.Index, expr: tree.Item, frame: Frame, scope: Scope
) -> Thing:
    if isinstance(index, tree.Full):
        return items
    if isinstance(index, tree.Rest):
        return items[whole(index.start, frame, scope, "the start of a slice") :]
    if isinstance(index, tree.Leading):
        raise SpaceError(error("SP209", "`..` stands for axes of a tensor", index.span))
    at = evaluate(index, frame, scope)
    if isinstance(at, Numbers):
        return tuple(items[_position(n, items, index.span)] for n in listed(at, index.span))
    place = known_number(number(at, "an index", index.span), "an index", index.span)
    return items[_position(place, items, index.span)]


def _position(at: Fraction, items: tuple[Thing, ...], span: Span) -> int:
    if at.denominator != 1 or not -len(items) <= at < len(items):
        raise SpaceError(error("SP307", f"entry {at} of a list of {len(items)}", span))
    return int(at)


def _slice(x: Tensor, expr: tree.Item, frame: Frame, scope: Scope) -> Tensor:
    given: list[object] = []
    for index in expr.indices:
        axis = len(given)
        if isinstance(index, tree.Leading):
            given += [None] * (x.type.rank - len(expr.indices) + 1)
            continue
        if axis >= x.type.rank:
            raise SpaceError(
                error(
                    "SP301",
                    f"{len(expr.indices)} indices of a tensor of {x.type.rank} axes",
                    expr.span,
                )
            )
        size = x.shape[axis]
        if isinstance(index, tree.Full):
            given.append(None)
        elif isinstance(index, tree.Rest):
            given.append((_start(evaluate(index.start, frame, scope), size, index.span), size))
        else:
            at = evaluate(index, frame, scope)
            if isinstance(at, Numbers):
                given.append((Dim.of(at.start), at.stop if at.open else at.stop + 1))
            else:
                given.append(number(at, "an index", index.span))
    return frame.builder.one("slice", [x], {"index": tuple(given)}, span=expr.span)


def _start(value: Thing, size: Dim, span: Span) -> Dim:
    start = number(value, "the start of a slice", span)
    return size + start if start.constant is not None and start.constant < 0 else start


def _call(expr: tree.CallOf, frame: Frame, scope: Scope) -> Thing:
    from spacelang.syntax.calls import call

    return call(expr, frame, scope, None, ())


def _pipe(expr: tree.Pipe, frame: Frame, scope: Scope) -> Thing:
    from spacelang.syntax.calls import pipe

    return pipe(expr, frame, scope)


def _labelled(expr: tree.Labelled, frame: Frame, scope: Scope) -> Thing:
    from spacelang.syntax.calls import labelled

    return labelled(expr, frame, scope, ())


def _choose_path(expr: tree.ChoosePath, frame: Frame, scope: Scope) -> Thing:
    from spacelang.syntax.choices import choose_path

    return choose_path(expr, frame, scope)


ROWS: dict[type, Callable[..., Thing]] = {
    tree.Number: _number,
    tree.String: _string,
    tree.Name: _name,
    tree.Field: _field,
    tree.Unary: _unary,
    tree.Binary: _binary,
    tree.Either: _either,
    tree.Range: _range,
    tree.List: _list,
    tree.Each: _each,
    tree.Set: _set,
    tree.ChooseHere: _here,
    tree.Item: _item,
    tree.CallOf: _call,
    tree.Pipe: _pipe,
    tree.Labelled: _labelled,
    tree.ChoosePath: _choose_path,
}
