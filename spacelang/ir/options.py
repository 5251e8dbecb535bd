"""Options of ops as nodes hold them: defaults filled in, Python's numbers and lists as sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.dim import Dim
from spacelang.ir.node import Attribute
from spacelang.ir.op import REQUIRED, OpDef


def complete(definition: OpDef, options: Mapping[str, object], span: Span) -> dict[str, Attribute]:
    """The options with defaults filled in and plain numbers as sizes (SP204 if one lacks)."""
    found: dict[str, Attribute] = {}
    for name, option in definition.options.items():
        value = options.get(name, option.default)
        if value is REQUIRED:
            raise SpaceError(error("SP204", f"{definition.name} needs {name}", span))
        found[name] = attribute(value)
    unknown = [name for name in options if name not in definition.options]
    if unknown:
        known = ", ".join(definition.options) or "none"
        raise SpaceError(
            error("SP204", f"{definition.name} has no option {unknown[0]}", span).note(
                f"its options: {known}"
            )
        )
    return found


def attribute(value: object) -> Attribute:
    """A Python value as an attribute: numbers become sizes, lists tuples."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return Dim.of(value)
    if isinstance(value, list | tuple):
        return tuple(attribute(v) for v in cast(Sequence[object], value))
    return cast(Attribute, value)
