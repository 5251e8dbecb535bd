"""Functions of numbers that are not rational ones, exact where their value is rational.

    sqrt(4) is 2    rsqrt(64) is 1/8    sqrt(2) is 1.4142...

Arguments outside a function's domain raise ArithmeticError.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

Rational = int | Fraction
Number = Rational | float


def tidy(number: Number) -> Number:
    """A whole Fraction as int, which is some twenty times faster to compute with."""
    return plain(number) if type(number) is Fraction else number


def plain(number: Rational) -> Rational:
    """The same of a rational number."""
    return number.numerator if number.denominator == 1 else number


def _whole_root(radicand: int, degree: int) -> int | None:
    """The whole root of a non-negative number, if there is one."""
    if degree >= radicand.bit_length():  # 2 to the degree is above it
        return radicand if radicand <= 1 else None
    if degree == 2:
        root = math.isqrt(radicand)
    else:
        low, high = 0, 1 << (radicand.bit_length() // degree + 1)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if middle**degree <= radicand else (low, middle - 1)
        root = low
    return root if root**degree == radicand else None


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, float) or isinstance(exponent, float):
        return _float_power(float(base), float(exponent))
    base, exponent = Fraction(base), Fraction(exponent)
    if base == 0 and exponent < 0:
        raise ZeroDivisionError(f"0 to the power of {exponent}")
    if exponent.denominator == 1:
        return tidy(base ** int(exponent))
    if base < 0:
        raise ArithmeticError(f"{base} to the power of {exponent}")
    top = _whole_root(base.numerator, exponent.denominator)
    bottom = _whole_root(base.denominator, exponent.denominator)
    if top is None or bottom is None:
        return _float_power(float(base), float(exponent))
    return tidy(Fraction(top, bottom) ** exponent.numerator)


def _float_power(base: float, exponent: float) -> float:
    if base < 0 or (base == 0 and exponent < 0):  # 0 is also what is smaller than any float
        raise ArithmeticError(f"{base} to the power of {exponent}")
    return math.pow(base, exponent)


def _sqrt(number: Number) -> Number:
    return _power(number, Fraction(1, 2))


def _rsqrt(number: Number) -> Number:
    return _power(number, Fraction(-1, 2))


def _exp(number: Number) -> Number:
    return 1 if number == 0 else math.exp(number)


def _log(number: Number) -> Number:
    if number <= 0:
        raise ArithmeticError(f"the logarithm of {number}")
    if number == 1:
        return 0
    try:
        return math.log(number)
    except (ValueError, OverflowError):  # its float is 0, or none at all
        whole = Fraction(number)
        return math.log(whole.numerator) - math.log(whole.denominator)


def _sin(number: Number) -> Number:
    return 0 if number == 0 else math.sin(number)


def _cos(number: Number) -> Number:
    return 1 if number == 0 else math.cos(number)


def _round(number: Number) -> Number:
    """The nearest whole number, the even one of two."""
    return round(number)


FUNCTIONS: dict[str, Callable[..., Number]] = {
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "power": _power,
    "exp": _exp,
    "log": _log,
    "sin": _sin,
    "cos": _cos,
    "round": _round,
}
