"""Storage rules: which slices of one storage the candidates read (`weights { path: rule }`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from spacelang.diagnostics import NOWHERE, Span
from spacelang.ir.dialect import ForeignHop
from spacelang.ir.pattern import Pattern


@dataclass(frozen=True)
class StorageRule:
    """`pattern: kind(argument)`.

    kind: entangle (argument "", "flat", "centre" or an index table), store (a number), separate,
    tie (every n).
    The pattern is the path of a decision, whose factors it slices, or of a parameter.
    """

    pattern: Pattern
    kind: str
    argument: str | int = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.pattern}: {self.kind}" + (
            f"({self.argument})" if self.argument != "" else ""
        )


@dataclass(frozen=True)
class Tie:
    """`pattern: tie`: what matches, calls or parameters, reads one set of weights.

    The leader is the first match in the order of the text; of each `every` consecutive ones, if
    that is given; or the path `to`, its indices computed from what the pattern binds. What `own`
    names inside a call that is tied stays its own. With `slices` ("leading" or "centre") what is
    tied may read tensors of other sizes, of whose largest it reads slices, and nothing else need
    stand at the path `to`.
    """

    pattern: Pattern
    every: int | None = None
    to: tuple[ForeignHop, ...] | None = None
    own: tuple[Pattern, ...] = ()
    slices: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    def __str__(self) -> str:
        given = [".".join(map(str, self.to))] if self.to is not None else []
        if self.every is not None:
            given.append(f"every: {self.every}")
        if self.own:
            given.append(f"own: [{', '.join(map(str, self.own))}]")
        if self.slices:
            given.append(f"slices: {self.slices}")
        return f"{self.pattern}: tie" + (f"({', '.join(given)})" if given else "")
