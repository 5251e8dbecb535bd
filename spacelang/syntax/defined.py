"""Numbers that have no value for some architecture: divisions by zero, functions outside of their
domain.

    i / (depth - 1) at depth = 1    sqrt(n - 3) at n = 2    8 / (B - 4) at B = 4
"""

from __future__ import annotations

from collections.abc import Sequence

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.condition import Condition, compare
from spacelang.ir.conflict import SETTLE, Conflict, open_question
from spacelang.ir.dim import Dim
from spacelang.ir.doubts import DOMAINS, answer
from spacelang.ir.prove import Proved, Refuted
from spacelang.syntax import tree
from spacelang.syntax.frame import Frame
from spacelang.syntax.values import Thing


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
