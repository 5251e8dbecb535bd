"""The opaque factors of a size: decisions, and what a polynomial cannot express.

    width   (k - 1)//2   min(window, H)   max(a, b)   (a if c else b)   1/(x + 1)   rsqrt(dim)

Plain data with exact evaluation. `spacelang.ir.dim` makes them and simplifies them while it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

from spacelang.ir.functions import FUNCTIONS, Number, tidy

if TYPE_CHECKING:
    from spacelang.ir.condition import Condition
    from spacelang.ir.dim import Dim

Value = Fraction | int | str | bool | tuple[int, ...]

NORMAL = (Fraction, str, bool, tuple)

LIMIT = 4096
"""How many points an enumeration may visit."""


class Unbound(KeyError):
    """A size or condition was evaluated without the value of one of its decisions."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"no value for {self.name!r}"


def exact(number: int | float | Fraction) -> Fraction:
    """The fraction that is meant: a float counts as its shortest decimal form (3.3 is 33/10)."""
    if isinstance(number, float):
        if not math.isfinite(number):
            raise ValueError(f"{number} is not a size")
        return Fraction(float.__repr__(number))  # repr of a NumPy float names its type
    return Fraction(number)


def is_numeric(value: Value) -> bool:
    """Whether a decision's value is a number; booleans are not."""
    return isinstance(value, int | float | Fraction) and not isinstance(value, bool)


def normal_value(value: Value) -> Value:
    """Numbers become Fractions, all else stays."""
    if type(value) in NORMAL:  # at once: whether something is a Fraction is slow to tell
        return value
    if isinstance(value, int | float | Fraction) and not isinstance(value, bool):
        return exact(value)
    return value


def plain_value(value: Value) -> Value:
    """Whole numbers become int, other numbers Fraction, all else stays."""
    if isinstance(value, int | float | Fraction) and not isinstance(value, bool):
        fraction = exact(value)
        return fraction.numerator if fraction.denominator == 1 else fraction
    return value


class Values(tuple[Value, ...]):
    """The values of a decision. Symbols that differ in their names alone share one, and with it
    what follows from the values."""

    @staticmethod
    def of(values: tuple[Value, ...]) -> Values:
        """The values, numbers as fractions."""
        return values if isinstance(values, Values) else Values(map(normal_value, values))

    @cached_property
    def kinds(self) -> tuple[bool, ...]:
        """Which of them are booleans, which are equal to numbers."""
        return tuple(isinstance(value, bool) for value in self)

    @cached_property
    def numeric(self) -> bool:
        """Whether all are numbers."""
        return all(map(is_numeric, self))

    @cached_property
    def points(self) -> tuple[Value, ...]:
        """The distinct ones, the default first: numbers from the largest down, else as given."""
        distinct = tuple(dict.fromkeys(self))
        if self.numeric:
            numbers = (value for value in distinct if isinstance(value, Fraction))
            return tuple(plain_value(value) for value in sorted(numbers, reverse=True))
        return tuple(plain_value(value) for value in distinct)

    @cached_property
    def told(self) -> frozenset[tuple[Value, bool]]:
        """The distinct ones, each with whether it is a boolean."""
        return frozenset((value, isinstance(value, bool)) for value in self.points)


@dataclass(frozen=True, eq=False)
class Symbol:
    """A decision, or a size handed to a block by its caller.

    `values` is empty for a free size (a batch axis): any positive whole number. A `rate` is any
    number at all and stands in no size: it only scales, or is an index that a pattern binds.
    """

    name: str
    values: tuple[Value, ...] = ()
    rate: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", Values.of(self.values))

    @property
    def _domain(self) -> Values:
        return Values.of(self.values)

    @cached_property
    def _hash(self) -> int:
        # Symbols of one name mostly are one; fractions are slow to hash.
        return hash((self.name, len(self.values)))

    def __hash__(self) -> int:
        return self._hash

    def alike(self, other: Symbol) -> bool:
        """Whether they are the same but for their names."""
        if self.rate != other.rate:
            return False
        a, b = self.values, other.values
        return a is b or (a == b and self._domain.kinds == other._domain.kinds)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Symbol) and self.name == other.name and self.alike(other)

    def called(self, name: str) -> Symbol:
        """The same under another name."""
        return self if name == self.name else Symbol(name, self.values, self.rate)

    @property
    def free(self) -> bool:
        """Whether it stands for any positive whole number, or as a rate for any at all."""
        return not self.values

    @property
    def numeric(self) -> bool:
        """Whether it may stand in a size."""
        return self._domain.numeric

    @property
    def points(self) -> tuple[Value, ...]:
        """Its distinct values, the default first: numbers from the largest down, else as given."""
        return self._domain.points

    @property
    def told(self) -> frozenset[tuple[Value, bool]]:
        """Its distinct values, each with whether it is a boolean: 1 is True to Python."""
        return self._domain.told

    @cached_property
    def symbols(self) -> frozenset[Symbol]:
        """Itself, as the one symbol in it."""
        return frozenset((self,))

    def at(self, values: Mapping[str, Value]) -> Number:
        """Its number. Unbound if it has none, TypeError if the value is no number."""
        try:
            value = values[self.name]
        except KeyError:
            raise Unbound(self.name) from None
        if type(value) is int:
            return value
        if isinstance(value, bool | str | tuple):
            raise TypeError(f"{self.name} = {value!r} is not a number")
        return tidy(exact(value))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class FloorDivide:
    """`numerator // denominator`, rounded down."""

    numerator: Dim
    denominator: Dim

    @cached_property
    def symbols(self) -> frozenset[Symbol]:
        """The decisions in both sides."""
        return self.numerator.symbols | self.denominator.symbols

    @cached_property
    def _hash(self) -> int:
        return hash((FloorDivide, self.numerator, self.denominator))

    def __hash__(self) -> int:
        return self._hash

    def at(self, values: Mapping[str, Value]) -> Number:
        """Its value; Unbound without the value of a decision, ArithmeticError by 0."""
        denominator = self.denominator.at(values)
        if denominator == 0:
            raise ZeroDivisionError(f"{self.denominator} is 0 in {self}")
        return math.floor(self.numerator.at(values) // denominator)

    @cached_property
    def text(self) -> str:
        """As the language writes it: `(a//b)`."""
        if self.denominator.constant == 1:
            return f"floor({self.numerator})"
        return f"({tight(self.numerator)}//{tight(self.denominator)})"

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Extremum:
    """`min(...)` or `max(...)` of two or more sizes; `name` is which."""

    name: str
    operands: tuple[Dim, ...]

    @cached_property
    def symbols(self) -> frozenset[Symbol]:
        """The decisions in all operands."""
        return frozenset[Symbol]().union(*(operand.symbols for operand in self.operands))

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.operands))

    def __hash__(self) -> int:
        return self._hash

    def at(self, values: Mapping[str, Value]) -> Number:
        """The least or the largest of its operands; Unbound without the value of a decision."""
        numbers = [operand.at(values) for operand in self.operands]
        return min(numbers) if self.name == "min" else max(numbers)

    @cached_property
    def text(self) -> str:
        """As the language writes it: `max(a, b)`."""
        return f"{self.name}({', '.join(str(operand) for operand in self.operands)})"

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Conditional:
    """`then if condition else otherwise`; only the side taken is evaluated."""

    condition: Condition
    then: Dim
    otherwise: Dim

    @cached_property
    def symbols(self) -> frozenset[Symbol]:
        """The decisions in the condition and in both sides."""
        return self.condition.symbols | self.then.symbols | self.otherwise.symbols

    @cached_property
    def _hash(self) -> int:
        return hash((self.condition, self.then, self.otherwise))

    def __hash__(self) -> int:
        return self._hash

    def at(self, values: Mapping[str, Value]) -> Number:
        """The side that the condition picks; Unbound without the value of a decision."""
        return (self.then if self.condition.at(values) else self.otherwise).at(values)

    @cached_property
    def text(self) -> str:
        """As the language writes it: `(a if c else b)`."""
        return f"({self.then} if {self.condition} else {self.otherwise})"

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Divisor:
    """What is divided by and does not cancel by itself: a sum, or a factor that may be zero.

    It occurs with negative exponents only.
    """

    divisor: Dim

    @property
    def symbols(self) -> frozenset[Symbol]:
        """The decisions in what divides."""
        return self.divisor.symbols

    def __hash__(self) -> int:
        return hash((Divisor, self.divisor))

    def at(self, values: Mapping[str, Value]) -> Number:
        """What divides; Unbound without the value of a decision."""
        return self.divisor.at(values)

    @cached_property
    def text(self) -> str:
        """As the language writes it, in brackets."""
        return tight(self.divisor)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Function:
    """A function of the table FUNCTIONS that is not a rational one."""

    name: str
    operands: tuple[Dim, ...]

    @cached_property
    def symbols(self) -> frozenset[Symbol]:
        """The decisions in its operands."""
        return frozenset[Symbol]().union(*(operand.symbols for operand in self.operands))

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.operands))

    def __hash__(self) -> int:
        return self._hash

    def at(self, values: Mapping[str, Value]) -> Number:
        """Exact where the result is rational, else a float. ArithmeticError where undefined."""
        return FUNCTIONS[self.name](*(operand.at(values) for operand in self.operands))

    @cached_property
    def text(self) -> str:
        """As the language writes it: `sqrt(a)`."""
        return f"{self.name}({', '.join(str(operand) for operand in self.operands)})"

    def __str__(self) -> str:
        return self.text


Atom = Symbol | FloorDivide | Extremum | Conditional | Divisor | Function


def atom_text(atom: Atom) -> str:
    """How an atom is written as a factor."""
    return atom.name if isinstance(atom, Symbol) else atom.text


def atom_order(atom: Atom) -> tuple[str, bool]:
    """What atoms are sorted by; a divisor is written like the factor that it divides by."""
    return atom_text(atom), isinstance(atom, Divisor)


def tight(dim: Dim) -> str:
    """A size as an operand that needs no parentheses, or with them."""
    text = str(dim)
    if dim.constant is not None:
        return text if text.isdigit() else f"({text})"
    (monomial, coefficient), *rest = dim.terms
    single = not rest and coefficient == 1 and len(monomial) == 1 and monomial[0][1] == 1
    if single and not isinstance(monomial[0][0], FloorDivide):
        return text
    return f"({text})"
