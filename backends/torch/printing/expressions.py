"""Sizes, numbers and conditions as Python expressions, for printed supernets.

    64 * heads      int(width * ratio)      depth > 12 and op == "conv"

Names stand for exact values: ints, Fractions, words, booleans and tuples, so that all arithmetic is
exact as in the algebra.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from math import lcm

from spacelang.backends.torch.printing.spell import quoted
from spacelang.ir.atom import Atom, Conditional, Divisor, Extremum, FloorDivide, Function
from spacelang.ir.condition import All, Any, Chosen, Compare, Condition, Is, Not
from spacelang.ir.dim import Dim, Symbol, Value
from spacelang.ir.functions import FUNCTIONS, Rational
from spacelang.ir.monomial import Monomial


@dataclass
class Expressions:
    """Expressions over `name(symbol)`; `helpers` collects the functions that they call."""

    name: Callable[[Symbol], str]
    helpers: dict[str, Callable[..., object]] = field(
        default_factory=dict[str, Callable[..., object]]
    )

    def size(self, dim: Dim) -> str:
        """A whole number."""
        if whole(dim):
            return self.sum(dim)
        shared = lcm(*(coefficient.denominator for _, coefficient in dim.terms))
        if whole(dim * shared):
            return f"{self._tight(dim * shared)} // {shared}"
        return f"int({self.sum(dim)})"

    def number(self, dim: Dim) -> str:
        """Any number, as PyTorch takes it."""
        return self.sum(dim) if whole(dim) else f"float({self.sum(dim)})"

    def sum(self, dim: Dim) -> str:
        """The exact value."""
        if dim.constant is not None:
            return literal(dim.constant)
        terms = [self._term(monomial, coefficient) for monomial, coefficient in dim.terms]
        first = next((i for i, t in enumerate(terms) if not t.startswith("-")), 0)
        ordered = [terms[first], *terms[:first], *terms[first + 1 :]]
        return " + ".join(ordered).replace("+ -", "- ")

    def _term(self, monomial: Monomial, coefficient: Rational) -> str:
        above = [self._power(a, e) for a, e in monomial if e > 0]
        below = [self._power(a, -e) for a, e in monomial if e < 0]
        if abs(coefficient.numerator) != 1 or not above:
            above.insert(0, str(abs(coefficient.numerator)))
        if coefficient.denominator != 1:
            below.insert(0, str(coefficient.denominator))
        text = " * ".join(above)
        if below:
            under = below[0] if len(below) == 1 else f"({' * '.join(below)})"
            text = f"Fraction({text}) / {under}"
        return f"-{text}" if coefficient < 0 else text

    def _power(self, atom: Atom, exponent: int) -> str:
        text = self._atom(atom)
        return text if exponent == 1 else f"{text} ** {exponent}"

    def _atom(self, atom: Atom) -> str:
        match atom:
            case Symbol():
                return self.name(atom)
            case FloorDivide(numerator, denominator):
                return f"({self._tight(numerator)} // {self._tight(denominator)})"
            case Extremum(name, operands):
                return f"{name}({', '.join(map(self.sum, operands))})"
            case Conditional(condition, then, otherwise):
                truth = self.condition(condition)
                return f"({self.sum(then)} if {truth} else {self.sum(otherwise)})"
            case Divisor(divisor):
                return self._tight(divisor)
            case Function(name, operands):
                function = FUNCTIONS[name]
                self.helpers[function.__name__] = function
                return f"{function.__name__}({', '.join(map(self.sum, operands))})"

    def _tight(self, dim: Dim) -> str:
        text = self.sum(dim)
        return f"({text})" if " " in text else text

    def condition(self, condition: Condition) -> str:
        match condition:
            case Compare(op, left, right):
                if left.constant is not None and right.constant is None:
                    mirrored = {"<": ">", "<=": ">="}.get(op, op)
                    return f"{self.sum(right)} {mirrored} {self.sum(left)}"
                return f"{self.sum(left)} {op} {self.sum(right)}"
            case Is(symbol, True):
                return self.name(symbol)
            case Is(symbol, False):
                return f"not {self.name(symbol)}"
            case Is(symbol, value):
                return f"{self.name(symbol)} == {literal(value)}"
            case Chosen(symbol, position, source):
                return f"{self.name(symbol)}[{position}:{position + 1}] == ({source},)"
            case Not(operand):
                return f"not ({self.condition(operand)})"
            case All(operands):
                return " and ".join(map(self._operand, operands)) or "True"
            case Any(operands):
                return " or ".join(map(self._operand, operands)) or "False"

    def _operand(self, condition: Condition) -> str:
        text = self.condition(condition)
        return f"({text})" if isinstance(condition, All | Any | Not) else text


def literal(value: Value) -> str:
    """An exact value as Python source."""
    if isinstance(value, Fraction):
        if value.denominator == 1:
            return str(value.numerator)
        return f"Fraction({value.numerator}, {value.denominator})"
    return quoted(value) if isinstance(value, str) else repr(value)


def whole(dim: Dim) -> bool:
    """Whether it is made of whole numbers by steps that leave them whole."""
    return all(
        coefficient.denominator == 1 and all(e > 0 and _whole(a) for a, e in monomial)
        for monomial, coefficient in dim.terms
    )


def _whole(atom: Atom) -> bool:
    match atom:
        case Symbol():
            return bool(atom.values) and all(
                isinstance(v, Fraction) and v.denominator == 1 for v in atom.values
            )
        case FloorDivide(numerator, denominator):
            return whole(numerator) and whole(denominator)
        case Extremum(_, operands):
            return all(map(whole, operands))
        case Conditional(_, then, otherwise):
            return whole(then) and whole(otherwise)
        case _:
            return False
