"""Sizes in normal form: polynomials over decisions with rational coefficients.

    192*heads + 1    H*W/(w*w)    (k - 1)//2 + min(window, H)    7/2

Exponents may be negative, so exact division by a product needs no atom of its own. Equal normal
forms are equal everywhere; the converse is what `spacelang.ir.prove` settles.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from spacelang.ir.atom import LIMIT, Number, Symbol, Unbound, Value
from spacelang.ir.monomial import Monomial
from spacelang.ir.nonlinear import (
    conditional,
    floor,
    function,
    maximum,
    minimum,
    power,
    rsqrt,
    sqrt,
)
from spacelang.ir.polynomial import Dim, symbol_of

__all__ = [
    "LIMIT",
    "ONE",
    "ZERO",
    "Dim",
    "Monomial",
    "Number",
    "Symbol",
    "Unbound",
    "Value",
    "conditional",
    "floor",
    "function",
    "maximum",
    "minimum",
    "power",
    "product",
    "rsqrt",
    "sqrt",
    "symbol_of",
]

ZERO, ONE = Dim.of(0), Dim.of(1)


def product(sizes: Iterable[Dim]) -> Dim:
    """All sizes multiplied: 1 for none."""
    return prod(sizes, start=ONE)
