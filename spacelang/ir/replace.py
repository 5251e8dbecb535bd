"""What may stand for a decision, and whether it fits.

A size is simplified by the candidates of its decisions, so what replaces one must take no others.
"""

from __future__ import annotations

from collections.abc import Iterable

from spacelang.ir.atom import Symbol, Value, plain_value
from spacelang.ir.facts import exact_table
from spacelang.ir.polynomial import Dim

Replacement = Dim | Symbol | Value


def replacement_size(symbol: Symbol, replacement: Replacement) -> Dim:
    """What stands for a numeric symbol, as a size. TypeError if it is no number."""
    if isinstance(replacement, bool | str | tuple):
        raise TypeError(f"{symbol.name} = {replacement!r} is not a number")
    return Dim.of(replacement)


def check_replacement(symbol: Symbol, replacement: Replacement) -> None:
    """ValueError if the replacement is known to take a value which the symbol does not."""
    if symbol.rate or (isinstance(replacement, Symbol) and symbol.alike(replacement)):
        return
    if isinstance(replacement, Dim):
        values: Iterable[object] | None = exact_table(replacement)
    elif isinstance(replacement, Symbol):
        values = replacement.points or None
        if values is None and not symbol.free:
            raise ValueError(f"{replacement.name} is free, {symbol.name} is not")
    else:
        values = (plain_value(replacement),)
    for value in values or ():
        if symbol.free:
            fits = isinstance(value, int) and not isinstance(value, bool) and value > 0
        else:
            # 1 == True in Python, but a number is no answer to a yes-or-no decision.
            fits = (value, isinstance(value, bool)) in symbol.told
        if not fits:
            raise ValueError(f"{symbol.name} is never {value}")
