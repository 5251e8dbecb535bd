"""Storage rules: which slices of one storage the candidates read (`weights { path: rule }`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from spacelang.diagnostics import NOWHERE, Span
from spacelang.ir.pattern import Pattern


@dataclass(frozen=True)
class StorageRule:
    """`pattern: kind(argument)`.

    kind: entangle (argument "", "flat" or "centre"), store (a number), separate, tie (every n).
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
