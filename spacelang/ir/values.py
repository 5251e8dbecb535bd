"""Facts on the values of decisions, as assignments and conditions give them.

same(3.5, Fraction(7, 2))   same([0, 1], (0, 1))   not same(True, 1)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import cast

from spacelang.ir.atom import Symbol, Unbound, Value, exact, is_numeric

_WORD = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def looked_up(symbol: Symbol, values: Mapping[str, Value]) -> Value:
    """The value of a decision among those of others; Unbound if it is not there."""
    try:
        return values[symbol.name]
    except KeyError:
        raise Unbound(symbol.name) from None


def same(a: object, b: Value) -> bool:
    """Equality of values; a boolean is no number, a list is as good as a tuple."""
    if isinstance(a, list):
        return tuple(cast("list[object]", a)) == b
    if isinstance(a, float):
        return is_numeric(b) and exact(a) == b
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def has(value: object, position: int, source: int) -> bool:
    """Whether a pick has a source at a position. TypeError for what is no pick."""
    if not isinstance(value, tuple | list):
        raise TypeError(f"{value!r} is not a pick")
    sources = cast("Sequence[object]", value)
    return position < len(sources) and sources[position] == source


def value_text(value: Value) -> str:
    """A value as a condition writes it: a word as it is, other strings in quotes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, str) and (not _WORD.fullmatch(value) or value in ("true", "false")):
        return json.dumps(value)
    return str(value)
