"""Operators: arithmetic on numbers and tensors, comparisons, `in`, `and or not`, `a if c else
b`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import NoReturn

from spacelang.diagnostics import NOWHERE, SpaceError, Span, error
from spacelang.ir.agreement import one_type
from spacelang.ir.build import Level, Tensor
from spacelang.ir.condition import (
    CONDITIONS,
    TRUE,
    Condition,
    compare,
    conjunction,
    disjunction,
    negate,
)
from spacelang.ir.condition import is_value as is_word
from spacelang.ir.dim import Dim, conditional
from spacelang.ir.enclosure import irrational
from spacelang.syntax import tree
from spacelang.syntax.defined import finite, never_zero, telling
from spacelang.syntax.evaluate import MAX_LIST, each, entries, evaluate, limited, row, split_on
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.values import (
    Candidates,
    Numbers,
    Picked,
    Place,
    Text,
    Thing,
    condition,
    decided,
    is_value,
    kind,
    number,
)

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
WALKING = {*COMPARISONS, "in", "not in"}
"""What looks at every entry of a list."""


@row(tree.Unary)
def _unary(expr: tree.Unary, frame: Frame, scope: Scope) -> Thing:
    value = evaluate(expr.operand, frame, scope)
    if expr.operator == "not":
        truth = condition(value, expr.operand.span)
        return not truth if isinstance(truth, bool) else decided(negate(truth))
    if isinstance(value, Tensor):
        return frame.builder.one("mul", [value], {"number": Dim.of(-1)}, span=expr.span)
    return -number(value, "the operand of -", expr.operand.span)


@row(tree.Binary)
def _binary(expr: tree.Binary, frame: Frame, scope: Scope) -> Thing:
    # A chain leans to the left; it is folded in a loop so that its length costs no stack.
    chain: list[tree.Binary] = []
    left: tree.Expr = expr
    while isinstance(left, tree.Binary):
        chain.append(left)
        left = left.left
    if chain[-1].operator in ("and", "or"):
        value = evaluate(left, frame, scope)
    else:
        value, right = each((left, chain[-1].right), lambda e: evaluate(e, frame, scope))
        value = _apply(chain.pop(), value, right, frame)
    for link in reversed(chain):
        if link.operator in ("and", "or"):
            value = _logic(link, condition(value, link.left.span), frame, scope)
        else:
            value = _apply(link, value, evaluate(link.right, frame, scope), frame)
    return value


def _apply(expr: tree.Binary, left: Thing, right: Thing, frame: Frame) -> Thing:
    operator = expr.operator
    if isinstance(expr.right, tree.Labelled) and isinstance(expr.right.value, tree.Name):
        name = expr.right.value.name
        raise SpaceError(
            error(
                "SP207", f"this names {name}, not the result of {operator}", expr.right.span
            ).hint(f"put the whole into brackets: (.. {operator} {name}) as ..")
        )
    if operator in WALKING:
        frame.session.walk(sum(len(v) for v in (left, right) if isinstance(v, tuple)), expr.span)
    if operator in COMPARISONS or operator in ("in", "not in"):
        if operator in COMPARISONS:
            truth = compared(operator, left, right, expr.span)
        else:
            found = member(left, right, expr.right.span)
            truth = found if operator == "in" else _not(found)
        if isinstance(truth, CONDITIONS):
            telling(truth, expr.span, frame)
        return truth
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        return _tensor(operator, left, right, expr, frame)
    if isinstance(left, tuple) and isinstance(right, tuple) and operator == "+":
        if len(left) + len(right) > MAX_LIST:
            raise SpaceError(error("SP507", f"a list of more than {MAX_LIST:,} entries", expr.span))
        return (*left, *right)
    a = number(left, f"the left of {operator}", expr.left.span)
    b = number(right, f"the right of {operator}", expr.right.span)
    if operator in ("/", "//", "%"):
        never_zero(b, expr, frame)
    result = limited(ARITHMETIC[operator](a, b), expr.span)
    if operator in ("//", "%") and (irrational(a) or irrational(b)):
        telling(a // b, expr.span, frame)
    finite(result, expr.span, frame)
    return result


def _tensor(operator: str, left: Thing, right: Thing, expr: tree.Binary, frame: Frame) -> Tensor:
    if operator not in OPS:
        raise SpaceError(error("SP209", f"tensors know no {operator}", expr.span))
    build, op = frame.builder, OPS[operator]
    frame.session.spend(1, expr.span)
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return build.one(op, [left, right], span=expr.span)
    if isinstance(left, Tensor):
        scalar = number(right, f"the right of {operator}", expr.right.span)
        if operator == "/":
            never_zero(scalar, expr, frame)
        return build.one(op, [left], {"number": scalar}, span=expr.span)
    assert isinstance(right, Tensor)
    scalar = number(left, f"the left of {operator}", expr.left.span)
    flipped = {"number": scalar, "flipped": operator in "-/"}
    return build.one(op, [right], flipped, span=expr.span)


# Truth.


def _not(value: bool | Condition) -> bool | Condition:
    return not value if isinstance(value, bool) else decided(negate(value))


def _logic(
    expr: tree.Binary, left: bool | Condition, frame: Frame, scope: Scope
) -> bool | Condition:
    """`and`, `or`: the right side is read only where the left leaves it open."""
    if isinstance(left, bool) and left == (expr.operator == "or"):
        return left
    build = frame.builder
    level = build.level
    if not isinstance(left, bool):
        build.open(left if expr.operator == "and" else negate(left))
    try:
        right = condition(evaluate(expr.right, frame, scope), expr.right.span)
    finally:
        build.level = level
    if isinstance(left, bool):
        return right
    if isinstance(right, bool):
        return left if right == (expr.operator == "and") else right
    join = conjunction if expr.operator == "and" else disjunction
    return decided(join(left, right))


def compared(operator: str, left: Thing, right: Thing, span: Span) -> bool | Condition:
    """`left operator right`; values of different kinds are not equal."""
    left, right = (Text(v.symbol) if isinstance(v, Picked) else v for v in (left, right))
    if isinstance(left, Place) or isinstance(right, Place):
        return _placed(operator, left, right, span)
    if isinstance(left, Dim) and isinstance(right, Dim):
        return decided(compare(operator, left, right))
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        raise SpaceError(error("SP209", "tensors are not compared", span))
    if operator not in ("==", "!="):
        _no_order(left, right, span)
    if _truths(left, right):
        a, b = condition(left, span), condition(right, span)
        same = decided(disjunction(*_both(a, b), *_both(_not(a), _not(b))))
    elif isinstance(left, Text) and isinstance(right, Text):
        same = _same_words(left, right)
    elif isinstance(left, Text):
        same = _is(left, right)
    elif isinstance(right, Text):
        same = _is(right, left)
    elif isinstance(left, tuple) and isinstance(right, tuple):
        same = _same_lists(left, right, span)
    else:
        same = type(left) is type(right) and left == right
    return same if operator == "==" else _not(same)


def _truths(*values: Thing) -> bool:
    """Whether all are true or false, and a condition is among them."""
    return any(isinstance(v, CONDITIONS) for v in values) and all(
        isinstance(v, (bool, *CONDITIONS)) or (isinstance(v, Text) and v.boolean) for v in values
    )


def _placed(operator: str, left: Thing, right: Thing, span: Span) -> bool | Condition:
    """A place of a pick beside a number or another place: by the indices that it may be."""
    found: list[Condition] = []
    for a, before in _indices(left, span):
        for b, after in _indices(right, span):
            if compare(operator, a, b) == TRUE:
                found.append(conjunction(before, after))
    return decided(disjunction(*found))


def _indices(value: Thing, span: Span) -> list[tuple[Dim, Condition]]:
    """The numbers that a side of a comparison may be, each with its condition."""
    if isinstance(value, Place):
        return [(Dim.of(i), value.among((i,))) for i in value.indices]
    if isinstance(value, Dim) and value.constant is not None:
        return [(value, TRUE)]
    wrong = f"a place of a pick is compared with known numbers, not with {kind(value)}"
    raise SpaceError(error("SP209", wrong, span))


def _is(decision: Text, value: Thing) -> bool | Condition:
    """Whether a decision takes a value; a pick takes a list in any order."""
    if not isinstance(value, tuple):
        return is_value(decision, value)
    known = [v.constant for v in value if isinstance(v, Dim)]
    places = sorted(n for n in known if n is not None)
    if len(places) != len(value):
        return False
    orders = [v for v in decision.symbol.values if isinstance(v, tuple) and sorted(v) == places]
    return decided(disjunction(*(is_word(decision.symbol, order) for order in orders)))


def _same_words(left: Text, right: Text) -> bool | Condition:
    """Whether two decisions among words take one value."""
    a, b = left.symbol, right.symbol
    others = set(b.values)
    values = [v for v in a.values if v in others]
    return decided(disjunction(*(conjunction(is_word(a, v), is_word(b, v)) for v in values)))


def _same_lists(left: tuple[Thing, ...], right: tuple[Thing, ...], span: Span) -> bool | Condition:
    if len(left) != len(right):
        return False
    found: list[Condition] = []
    for a, b in zip(left, right, strict=True):
        same = compared("==", a, b, span)
        if same is False:
            return False
        if not isinstance(same, bool):
            found.append(same)
    return decided(conjunction(*found)) if found else True


def _no_order(left: Thing, right: Thing, span: Span) -> NoReturn:
    raise SpaceError(error("SP209", f"{kind(left)} and {kind(right)} have no order", span))


def member(left: Thing, right: Thing, span: Span) -> bool | Condition:
    """Whether a value is in a set, a list or a range of numbers."""
    items = right.items if isinstance(right, Candidates) else None
    if items is None and not isinstance(right, tuple | Numbers):
        raise SpaceError(error("SP209", f"nothing is in {kind(right)}", span))
    if items is None:
        items = entries(right, span, "the right of in")
    found: list[Condition] = []
    for item in items:
        same = compared("==", left, item, span)
        if same is True:
            return True
        if not isinstance(same, bool):
            found.append(same)
    return decided(disjunction(*found)) if found else False


@row(tree.Either)
def _either(expr: tree.Either, frame: Frame, scope: Scope) -> Thing:
    """`a if c else b`: one of them where c is known, else a size, condition or tensor by
    decision."""
    from spacelang.syntax.branches import settled

    truth = condition(evaluate(expr.condition, frame, scope), expr.condition.span)
    truth = settled(truth, frame, expr.condition.span)
    if isinstance(truth, bool):
        return evaluate(expr.value if truth else expr.other, frame, scope)
    build = frame.builder
    conditions = (truth, negate(truth))
    level = build.level
    values: list[Thing] = []
    regions: list[Level] = []
    for side, here in zip((expr.value, expr.other), conditions, strict=True):
        regions.append(build.open(here))
        try:
            values.append(evaluate(side, frame, scope))
        finally:
            build.level = level
    a, b = values
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        type = one_type(
            build.level, (a, b), regions, build.explain, (expr.value.span, expr.other.span)
        )
        return build.choose(conditions, regions, [[a], [b]], (type,), expr.span)[0]
    joined = either(truth, a, b)
    if joined is None:
        raise split_on(truth, expr.span)
    return joined


def either(truth: Condition, a: Thing, b: Thing) -> Dim | bool | Condition | None:
    """A size or a truth value that is `a` where the condition holds, else `b`; None for others."""
    if isinstance(a, Dim) and isinstance(b, Dim):
        return conditional(truth, a, b)
    if _truths(a, b) or (isinstance(a, bool) and isinstance(b, bool)):
        sides = _both(truth, condition(a, NOWHERE)), _both(negate(truth), condition(b, NOWHERE))
        return decided(disjunction(*chain(*sides)))
    return None


def _both(truth: bool | Condition, value: Thing) -> list[Condition]:
    """Where both hold, if anywhere."""
    if truth is False or value is False:
        return []
    return [conjunction(*(v for v in (truth, value) if isinstance(v, CONDITIONS)))]
