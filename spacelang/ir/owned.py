"""Paths that parameters and decisions of a block hold, each of them one (SP203)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, MutableMapping
from itertools import pairwise

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


def apart(claims: Mapping[Owned, Held]) -> None:
    """SP203 for a parameter whose name a layer has too: a tensor `a` beside `a.weight`."""
    held = {path: held for (kind, path), held in claims.items() if kind is PARAMETER}
    if found := below_another(held):
        layer, path = found
        raise SpaceError(
            error("SP203", f"a parameter and a layer called {layer}", held[layer][0][1], "this one")
            .also(held[path][0][1], f"and one called {path}")
            .hint(f"give one of them another label; in a state dict {layer} is a tensor or a layer")
        )


def below_another(paths: Collection[str]) -> tuple[str, str] | None:
    """A path and one below it, where there are two such among them: `a`, and `a.b` or `a[0]`."""
    # With a dot at its end a path is the beginning of what is below it, which sorts right after it.
    named = {path.replace("[", ".") + ".": path for path in paths}
    for layer, below in pairwise(sorted(named)):
        if below.startswith(layer):
            return named[layer], named[below]
    return None
