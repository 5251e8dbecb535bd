"""The text of a size, as the language reads it back: `192*heads + 1`, `H*W/(w*w)`, `12 - depth`."""

from __future__ import annotations

from collections.abc import Sequence

from spacelang.ir.atom import Divisor, FloorDivide, atom_text
from spacelang.ir.functions import Rational
from spacelang.ir.monomial import Monomial

Terms = Sequence[tuple[Monomial, Rational]]


def spell(terms: Terms) -> str:
    """The sum, a positive term first if there is one."""
    if not terms:
        return "0"
    first = next((i for i, (_, value) in enumerate(terms) if value > 0), 0)
    ordered = [terms[first], *terms[:first], *terms[first + 1 :]]
    text = ""
    for monomial, value in ordered:
        if not text:
            text = spell_term(monomial, value)
        elif value > 0:
            text += f" + {spell_term(monomial, value)}"
        else:
            text += f" - {spell_term(monomial, -value)}"
    return text


def spell_term(monomial: Monomial, coefficient: Rational) -> str:
    """One term; the language has no power, so `w*w`."""
    above = [atom_text(atom) for atom, exponent in monomial for _ in range(exponent)]
    below: list[str] = []
    apart: list[str] = []  # multiplied out, these could not be told apart when read back
    for atom, exponent in monomial:
        (apart if isinstance(atom, Divisor) else below).extend([atom_text(atom)] * -exponent)
    if not below and not apart and coefficient == 1 and len(above) == 1:
        atom = monomial[0][0]
        # Alone, a floor division needs no parentheses around it.
        return above[0][1:-1] if isinstance(atom, FloorDivide) and above[0][0] == "(" else above[0]
    if abs(coefficient.numerator) != 1 or not above:
        above.insert(0, str(abs(coefficient.numerator)))
    if coefficient.denominator != 1:
        below.insert(0, str(coefficient.denominator))
    text = "*".join(above)
    if below:
        text += f"/{below[0]}" if len(below) == 1 else f"/({'*'.join(below)})"
    text += "".join(f"/{factor}" for factor in apart)
    return f"-{text}" if coefficient < 0 else text
