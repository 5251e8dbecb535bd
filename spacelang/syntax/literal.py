"""Values of parameters as the language writes them: what --set takes.

literal(Candidates((Dim.of(8), Dim.of(16))))     # "{8, 16}"
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import cast

from spacelang.ir.dim import Dim
from spacelang.syntax.values import Candidates, Numbers

WORDS = {True: "true", False: "false", None: "none"}


def literal(value: object) -> str:
    """The text of a value; a set of Python is written in order."""
    match value:
        case bool() | None:
            return WORDS[value]
        case str():
            return json.dumps(value)
        case Fraction():
            return str(int(value)) if value.denominator == 1 else str(float(value))
        case Dim() if value.constant is not None:
            return literal(value.constant)
        case Numbers(start, stop, step, open_):
            return f"{literal(start)}{'..<' if open_ else '..'}{literal(stop)} by {literal(step)}"
        case Candidates(items):
            return "{" + ", ".join(map(literal, items)) + "}"
        case set() | frozenset():
            return "{" + ", ".join(map(literal, sorted(cast("set[int]", value)))) + "}"
        case list() | tuple():
            return f"[{', '.join(map(literal, cast('tuple[object, ...]', value)))}]"
        case _:
            return str(value)
