"""Whether values that one place may have are of one type: what leaves `when`, `if` and paths.

a: [B, 8*heads]   b: [B, 16]        one type where heads is 2, two shapes (SP205) elsewhere
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from spacelang.diagnostics import Diagnostic, SpaceError, Span, error
from spacelang.ir.condition import Condition
from spacelang.ir.conflict import Conflict, open_question, shown
from spacelang.ir.level_builder import Level, Tensor
from spacelang.ir.node import TensorType
from spacelang.ir.prove import Proved, Refuted, Unsettled, equal

Explain = Callable[[Diagnostic, Conflict, Sequence[Tensor]], Diagnostic]
"""Completes a diagnostic by what its conflict is about; the tensors are those whose sizes
conflict."""


def one_type(
    level: Level,
    ways: Sequence[Tensor],
    regions: Sequence[Level],
    explain: Explain,
    spans: Sequence[Span],
) -> TensorType:
    """The type of what is one of several values, by region of a level: the first of theirs that
    each other has too where it is there, or of what the regions read (SP205)."""
    refused: list[SpaceError] = []
    for value in ways:
        try:
            for other, region, span in zip(ways, regions, spans, strict=True):
                if other is not value:
                    same_type(value, other, region.guards, explain, span)
        except SpaceError as found:
            refused.append(found)
        else:
            return value.type
    for value in dict.fromkeys(v for region in regions for v in region.imports):
        type = level.type_of(value)
        pairs = zip(ways, regions, strict=True)
        if all(_agree(type, way.type, region.guards) for way, region in pairs):
            return type
    raise refused[0]


def same_type(
    a: Tensor, b: Tensor, guards: tuple[Condition, ...], explain: Explain, span: Span
) -> None:
    """SP205 unless both are of one type for every architecture that meets the guards."""
    found = error(
        "SP205",
        "this value leaves with two shapes",
        span,
        f"{shown(a.type)} or {shown(b.type)}",
    )
    if a.type.rank != b.type.rank or a.type.dtype != b.type.dtype:
        raise SpaceError(explain(found, Conflict((), {}), (a, b)))
    for m, n in zip(a.shape, b.shape, strict=True):
        verdict = equal(m, n, guards)
        if isinstance(verdict, Refuted):
            raise SpaceError(explain(found, Conflict((m, n), verdict.example), (a, b)))
        if isinstance(verdict, Unsettled):
            found = explain(replace(found, code="SP308"), Conflict((m, n)), (a, b))
            raise SpaceError(found.note(open_question(verdict)))


def _agree(a: TensorType, b: TensorType, guards: tuple[Condition, ...]) -> bool:
    """Whether two types are one for every architecture that meets the guards."""
    return (a.rank, a.dtype) == (b.rank, b.dtype) and all(
        isinstance(equal(m, n, guards), Proved) for m, n in zip(a.shape, b.shape, strict=True)
    )
