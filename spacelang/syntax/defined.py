"""Numbers that have no value for some architecture: divisions by zero, functions outside of their
domain, floats beyond the largest; and what floats are too close to tell.

    i / (depth - 1) at depth = 1    sqrt(n - 3) at n = 2    8 / (B - 4) at B = 4
    exp(n) * exp(n) at n = 500      floor(sqrt(n) * sqrt(n)) at n = 3
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.condition import Condition, compare
from spacelang.ir.conflict import SETTLE, Conflict, open_question
from spacelang.ir.definedness import DOMAINS, answer
from spacelang.ir.definedness import finite as within_floats
from spacelang.ir.dim import Dim, Value
from spacelang.ir.enclosure import enclosed, irrational, told
from spacelang.ir.facts import enumerable, points
from spacelang.ir.prove import Proved, Refuted, Unsettled
from spacelang.ir.search import satisfied
from spacelang.syntax import tree
from spacelang.syntax.frame import Frame
from spacelang.syntax.values import Thing

WHOLE = ("floor", "round", "sign")
"""Functions of numbers with whole values, which a float near to two of them does not tell."""


def never_zero(divisor: Dim, expr: tree.Binary, frame: Frame) -> None:
    """SP210 if a divisor is zero for some architecture that reaches this place, SP308 where that is
    not settled."""
    span = expr.right.span
    if divisor.constant == 0:
        raise SpaceError(error("SP210", f"{expr.span.text} divides by zero", span))
    claim, wrong = compare("!=", divisor, 0), f"{expr.span.text} divides by zero"
    open_claim, hint = "a divisor is never zero", f"max({span.text}, 1)"
    _need(claim, (divisor,), wrong, open_claim, hint, span, frame)


def in_domain(name: str, arguments: Sequence[Thing], span: Span, frame: Frame) -> None:
    """SP210 if a function of numbers has no value for some architecture that reaches this place,
    SP308 where that is not settled; a known number tells by itself."""
    domain, sizes = DOMAINS.get(name), tuple(a for a in arguments if isinstance(a, Dim))
    if domain is None or len(sizes) < len(arguments) or not any(s.symbols for s in sizes):
        return
    wrong, open_claim = f"{span.text} has no value", f"{name} has a value"
    _need(domain(*sizes), sizes, wrong, open_claim, "", span, frame)


def finite(number: Dim, span: Span, frame: Frame) -> None:
    """SP210 if a number is larger than a float can be for some architecture that reaches this
    place."""
    if not irrational(number) or any(symbol.free for symbol in number.symbols):
        return
    verdict = answer(within_floats(number), frame.builder.guards)
    if isinstance(verdict, Refuted):
        found = error("SP210", f"{span.text} is larger than a float can be", span)
        if verdict.example:
            found = frame.builder.explain(found, Conflict((), verdict.example), ())
        raise SpaceError(found)


def telling(what: Dim | Condition, span: Span, frame: Frame) -> None:
    """SP308 if a whole number or a condition hangs on floats that are too close to tell what it is
    for some architecture that reaches this place."""
    if not irrational(what) or not enumerable(what.symbols):
        return
    near = [guard for guard in frame.builder.guards if guard.symbols <= what.symbols]
    for point in points(what.symbols):
        if any(satisfied(guard, point) is False for guard in near) or _told(what, point):
            continue
        found = error("SP308", f"not settled for the whole space: what {span.text} is", span)
        if point:
            sizes = (what,) if isinstance(what, Dim) else ()
            found = frame.builder.explain(found, Conflict(sizes, point), ())
        found = found.note(open_question(Unsettled((), 1)))
        raise SpaceError(found.hint("ask it of whole numbers, or of round(..), which are exact"))


def _told(what: Dim | Condition, point: Mapping[str, Value]) -> bool:
    try:
        if not isinstance(what, Dim):
            return told(what, point) is not None
        low, high = enclosed(what, point)
    except ArithmeticError:  # it has no value, and that is asked for by itself
        return True
    return low == high


def _need(
    claim: Condition,
    sizes: tuple[Dim, ...],
    wrong: str,
    open_claim: str,
    hint: str,
    span: Span,
    frame: Frame,
) -> None:
    if any(symbol.rate for symbol in claim.symbols):
        return  # told where it has a value
    verdict = answer(claim, frame.builder.guards)
    if isinstance(verdict, Proved):
        return
    if isinstance(verdict, Refuted):
        found = error("SP210", wrong, span)
        found = frame.builder.explain(found, Conflict(sizes, verdict.example), ())
        raise SpaceError(found.hint(hint) if hint else found)
    found = error("SP308", f"not settled for the whole space: {open_claim}", span)
    found = found.note(open_question(verdict))
    raise SpaceError(found.hint(f"{hint}; or {SETTLE}" if hint else SETTLE))
