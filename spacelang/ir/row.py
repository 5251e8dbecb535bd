"""Shape rows asked once: a row is a pure function of operand types, options and guards.

    found = inferred(definition, infer)
    found.types, found.params, found.views

A space applies one op to equal operands hundreds of times (the alternatives of a path, the layers
of a stage), and the verifier asks all of them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from spacelang.ir.infer import Infer
from spacelang.ir.node import TensorType
from spacelang.ir.op import OpDef
from spacelang.ir.param import Param, View
from spacelang.ir.ranges import check_options

KEPT = 1 << 14
"""How many answers are kept; past that the table starts anew."""


@dataclass(frozen=True)
class Inferred:
    """What a shape row found: result types, and what the op declares, by role; all who ask for the
    same share it."""

    types: tuple[TensorType, ...]
    params: Mapping[str, Param]
    views: Mapping[str, View]


_KNOWN: dict[object, Inferred] = {}


def inferred(definition: OpDef, infer: Infer) -> Inferred:
    """What the shape row of an op finds. What it raises is not kept: an error tells its place.

    The span of a parameter is that of the first who asked. Kept apart by the class of `infer`: what
    was not checked (`Settled`) is never reused as checked.
    """
    row = definition.shape_row
    if row is None:
        infer.fail("SP604", f"the op {infer.name} has no shape row")
    options = tuple(infer.options.items())
    key = (type(infer), row, infer.name, infer.types, options, infer.given, infer.guards)
    found = _KNOWN.get(key)
    if found is None:
        check_options(definition, infer)
        result = row(infer)
        types = (result,) if isinstance(result, TensorType) else tuple(result)
        found = Inferred(
            types, MappingProxyType(dict(infer.params)), MappingProxyType(dict(infer.views))
        )
        if len(_KNOWN) >= KEPT:
            _KNOWN.clear()
        _KNOWN[key] = found
    return found
