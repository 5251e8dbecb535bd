"""Expressions to values: a table of rows by class of the syntax tree.

    @row(tree.Number)
    def _number(expr, frame, scope): return Dim.of(expr.value)

A number that must be known and holds a decision raises `NeedsValue`: the nearest block call then
makes one alternative per value. Parts of one expression are all tried, so that their errors come
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Any, TypeVar

from spacelang.diagnostics import NOWHERE, Diagnostic, SpaceError, Span, error, placed
from spacelang.ir.atom import atom_text
from spacelang.ir.condition import Condition
from spacelang.ir.conflict import shown
from spacelang.ir.dim import Dim
from spacelang.ir.infer import NeedsValue
from spacelang.ir.pattern import Hop
from spacelang.ops.limits import BITS, Beyond, held_product
from spacelang.syntax import tree
from spacelang.syntax.frame import Frame
from spacelang.syntax.scope import Scope
from spacelang.syntax.session import MAX_WALKED, Exhausted
from spacelang.syntax.values import Candidates, Numbers, Pending, Thing, kind, number

MAX_LIST = 100_000
MAX_TERMS, MAX_TEXT = 500, 20_000
"""How long the normal form of a size may grow: in terms, and in letters."""
MAX_INDEX = 1_000_000

Node = TypeVar("Node", bound=tree.Tree)
Given = TypeVar("Given")
Made = TypeVar("Made")
Row = Callable[[Any, Frame, Scope], Thing]
ROWS: dict[type, Row] = {}


def row(
    of: type[Node],
) -> Callable[[Callable[[Node, Frame, Scope], Thing]], Callable[[Node, Frame, Scope], Thing]]:
    """Enter a function into the table of rows."""

    def enter(
        function: Callable[[Node, Frame, Scope], Thing],
    ) -> Callable[[Node, Frame, Scope], Thing]:
        ROWS[of] = function
        return function

    return enter


def _all_rows() -> Mapping[type, Row]:
    """The table with the rows of all modules; they import this one."""
    import spacelang.syntax.rows as _  # noqa: F401

    return ROWS


def evaluate(expr: tree.Expr, frame: Frame, scope: Scope) -> Thing:
    """The value of an expression in a scope of a frame; errors carry the expression's span."""
    found = ROWS.get(type(expr)) or _all_rows().get(type(expr))
    if found is None:
        raise SpaceError(error("SP208", "this is no expression here", expr.span))
    try:
        value = found(expr, frame, scope)
    except SpaceError as failed:
        if any(d.primary.span is NOWHERE for d in failed.diagnostics):
            raise SpaceError(placed(d, expr.span) for d in failed.diagnostics) from failed
        raise
    except NeedsValue as need:
        if need.span is NOWHERE:
            need.span = expr.span
        raise
    except ArithmeticError as failed:
        raise SpaceError(
            error("SP210", f"{expr.span.text} has no value", expr.span).note(str(failed))
        ) from failed
    if isinstance(value, Dim):
        if value.constant is None:
            frame.origins.setdefault(limited(value, expr.span), expr.span)
    elif isinstance(value, tuple) and not isinstance(expr, tree.Name):
        frame.session.walk(weight(value), expr.span)
    return value


def each(given: Iterable[Given], make: Callable[[Given], Made]) -> list[Made]:
    """`make` of each; the errors of all together if any fails."""
    made: list[Made] = []
    failed: list[Diagnostic] | None = None
    for item in given:
        try:
            made.append(make(item))
        except Exhausted:
            raise
        except SpaceError as found:
            failed = [*(failed or ()), *found.diagnostics]
    if failed is not None:
        raise SpaceError(failed)
    return made


# What may grow.


def limited(value: Dim, span: Span) -> Dim:
    """A size, if it is not beyond what numbers and sizes may grow to (SP103, SP507)."""
    atoms = (atom for monomial, _ in value.terms for atom, _ in monomial)
    if len(value.terms) > MAX_TERMS or sum(len(atom_text(atom)) for atom in atoms) > MAX_TEXT:
        largest = f"a size of more than {MAX_TERMS} terms or {MAX_TEXT:,} letters"
        raise SpaceError(error("SP507", largest, span))
    try:
        for monomial, coefficient in value.terms:
            if max(coefficient.numerator.bit_length(), coefficient.denominator.bit_length()) > BITS:
                raise Beyond("SP103", f"a number of more than {BITS} bits")
            held_product(monomial)
    except Beyond as beyond:
        raise SpaceError(error(beyond.code, str(beyond), span)) from None
    return value


def weight(value: tuple[Thing, ...]) -> int:
    """The entries of a list, those of lists in it counted where they stand; up to a limit."""
    total, waiting = 0, [value]
    while waiting and total <= MAX_WALKED:
        here = waiting.pop()
        total += 1 + len(here)
        waiting += [inner for inner in here if isinstance(inner, tuple)]
    return total


# Numbers that must be known.


def known(expr: tree.Expr, frame: Frame, scope: Scope, what: str) -> Fraction:
    """A number that must be known while the graph is built."""
    return known_number(number(evaluate(expr, frame, scope), what, expr.span), what, expr.span)


def known_number(value: Dim, what: str, span: Span) -> Fraction:
    if value.constant is None:
        raise needs(value, what, span)
    return value.constant


def whole(expr: tree.Expr, frame: Frame, scope: Scope, what: str) -> int:
    value = known(expr, frame, scope, what)
    if value.denominator != 1:
        raise SpaceError(error("SP302", f"{what} must be whole, not {value}", expr.span))
    return int(value)


def needs(value: Dim, what: str, span: Span) -> Exception:
    """The request to split on a decision of a number, or an error where it holds only free
    sizes."""
    for symbol in sorted(value.symbols, key=lambda s: s.name):
        if symbol.values:
            return NeedsValue(symbol, span)
    return SpaceError(error("SP308", f"{what} must be known, not {shown(value)}", span))


def split_on(truth: Condition, span: Span = NOWHERE) -> Exception:
    """The request to split on a decision of a condition."""
    with_values = [s for s in truth.symbols if s.values]
    if not with_values:
        return SpaceError(error("SP308", f"{shown_condition(truth)} is not known", span))
    return NeedsValue(min(with_values, key=lambda s: s.name), span)


def shown_condition(truth: Condition) -> str:
    return str(truth).replace("%", "")


# Lists.


def listed(value: Numbers, span: Span) -> tuple[Fraction, ...]:
    """The numbers of a range whose end is known (SP507 if there are too many)."""
    stop = known_number(value.stop, "the end of a range", span)
    if value.count(stop) > MAX_LIST:
        raise SpaceError(error("SP507", f"a range of more than {MAX_LIST:,} numbers", span))
    return value.upto(stop)


def entries(value: Thing, span: Span, what: str) -> tuple[Thing, ...]:
    """The entries of a list, or the numbers of a range."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, Numbers):
        return tuple(Dim.of(n) for n in listed(value, span))
    found = error("SP209", f"{what} must be a list, not {kind(value)}", span)
    if kind(value) == "a pick":
        found = found.hint("total(picks) |value, source, position| { .. } reads what is picked")
    if isinstance(value, Candidates | Pending):
        found = found.hint("a set has no order; [..] is a list")
    raise SpaceError(found)


# Labels.


def hop(node: tree.Hop, frame: Frame, scope: Scope) -> str:
    """A label with its indices computed: `blocks[i - 1]` -> `blocks[2]`."""
    indices = tuple(index(i, frame, scope) for i in node.indices)
    return str(Hop(node.name, indices))


def index(expr: tree.Expr, frame: Frame, scope: Scope) -> int:
    """An index of a label: whole and not negative."""
    value = whole(expr, frame, scope, "an index of a label")
    if not 0 <= value <= MAX_INDEX:
        raise SpaceError(error("SP307", f"the index {value} of a label", expr.span))
    return value


def label(path: tree.Path, frame: Frame, scope: Scope) -> str:
    """A label path as text; `_` alone is the empty path."""
    if len(path.hops) == 1 and path.hops[0].name == "_" and not path.hops[0].indices:
        return ""
    wild = next((h for h in path.hops if h.name == "_"), None)
    if wild is not None:
        raise SpaceError(
            error("SP207", "`_` is no label", wild.span).hint("`as _` alone opens no scope")
        )
    return ".".join(hop(h, frame, scope) for h in path.hops)
