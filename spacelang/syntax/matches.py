"""Functions over the matches of a path: `sum(depth[_])`, `max(encoder[_].heads)`, `len(..)`.

A decision that an architecture leaves out is left out of the list. Each match makes the size
longer, and where it is conditional twice as long: its length is checked at every step.
"""

from __future__ import annotations

from collections.abc import Sequence

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.condition import FALSE, TRUE, Condition, disjunction
from spacelang.ir.decision import Choice
from spacelang.ir.dim import ONE, ZERO, Dim, conditional, maximum, minimum
from spacelang.syntax.evaluate import limited


def fold(name: str, choices: Sequence[Choice], span: Span) -> Dim:
    """The value of a function of decisions (SP508 for one that cannot leave entries out, SP507
    for one that is too long)."""
    if name == "len":
        return _sum([(c.live, ONE) for c in choices], span)
    words = next((c for c in choices if not c.symbol.numeric), None)
    if words is not None:
        raise SpaceError(error("SP209", f"{name} of {words.path}, which is no number", span))
    sizes = [(c.live, Dim.of(c.symbol)) for c in choices]
    if name == "sum":
        return _sum(sizes, span)
    if name in EXTREMES:
        return _extreme(name, sizes, span)
    known = ", ".join(("sum", "len", *EXTREMES))
    raise SpaceError(
        error("SP508", f"{name} of the matches of a path", span).note(f"there are {known}")
    )


def _sum(sizes: Sequence[tuple[Condition, Dim]], span: Span) -> Dim:
    total = ZERO
    for live, size in sizes:
        total = limited(total + (size if live == TRUE else conditional(live, size, ZERO)), span)
    return total


EXTREMES = {"min": minimum, "max": maximum}


def _extreme(name: str, sizes: Sequence[tuple[Condition, Dim]], span: Span) -> Dim:
    """The largest or smallest of those that are there; 0 where none is."""
    found, present = ZERO, FALSE
    for live, size in sizes:
        joined = EXTREMES[name](found, size)
        if present == FALSE:
            joined = size
        elif present != TRUE:
            joined = conditional(present, joined, size)
        found = limited(joined if live == TRUE else conditional(live, joined, found), span)
        present = disjunction(present, live)
    return found
