"""Paths that parameters and decisions of a block hold, each of them one (SP203)."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.condition import Condition
from spacelang.ir.prove import feasible

PARAMETER = ("two parameters called", "label the calls apart: linear(..) as fc2")
DECISION = ("two decisions of the path", "give each its index: choose width[i] in ..")
"""What may hold a path alone, in words, and what to do about two."""
Owned = tuple[tuple[str, str], str]
"""One of these, and the path that it holds."""
Held = tuple[tuple[tuple[Condition, ...], Span], ...]
"""Under which conditions, and where, it was taken."""


def take(
    owned: Iterable[Owned],
    claims: MutableMapping[Owned, Held],
    guards: tuple[Condition, ...],
    span: Span,
) -> None:
    """Take paths where some conditions hold; SP203 if one is taken.

    What excludes each other may have one path: then it is one.
    """
    mine = ((guards, span),)
    for one in owned:
        held = claims.get(one)
        if held is None:
            claims[one] = mine
            continue
        for there, before in held:
            if feasible((*there, *guards)) is not False:
                (what, hint), path = one
                raise SpaceError(
                    error("SP203", f"{what} {path}", span, "again here")
                    .also(before, "first here")
                    .hint(hint)
                )
        claims[one] = (*held, *mine)
