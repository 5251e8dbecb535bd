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
            return _decimal(value)
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


def _decimal(value: Fraction) -> str:
    """Exactly: a number that was written with a point has a denominator of twos and fives."""
    places = 0
    while (10**places) % value.denominator and places < 64:
        places += 1
    if (10**places) % value.denominator:
        return str(float(value))
    digits = str(abs(int(value * 10**places))).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)
