"""Escaping, and numbers as people read them."""

from __future__ import annotations

from html import escape

from spacelang.render import visible
from spacelang.report.model import Score, Value
from spacelang.statistics import wilson

_CHUNK = 1000  # below the length at which `visible` cuts a message
_MOST_BITS = 14_000  # Python prints whole numbers of up to 4,300 digits
_UNITS = ((10**9, "G"), (10**6, "M"), (10**3, "K"))
_NAMES = {"params": "parameters", "macs": "multiply-accumulates", "activations": "activations"}


def html(text: object) -> str:
    """Any text, safe inside an element or an attribute, control characters made visible."""
    raw = str(text)
    shown = (visible(raw[start : start + _CHUNK]) for start in range(0, len(raw), _CHUNK))
    return escape("".join(shown))


def exact(number: int) -> str:
    """A whole number with its digits in groups."""
    if number.bit_length() > _MOST_BITS:
        return f"about 10^{round(number.bit_length() * 0.30103):,}"
    return f"{number:,}"


def compact(number: float) -> str:
    """A number in about four digits, as HTML: 84.2K, 5.894M, 1.30 times 10 to the 18."""
    if number >= 10**15:
        digits = len(str(int(number))) if number < 10**4000 else 0
        if not digits:
            return exact(int(number))
        lead = int(number) // 10 ** (digits - 3)
        return f"{lead / 100:.2f} &#215; 10<sup>{digits - 1}</sup>"
    for unit, letter in _UNITS:
        if number >= unit:
            places = 3 if number < 10 * unit else 2 if number < 100 * unit else 1
            return f"{number / unit:.{places}f}{letter}"
    return f"{number:,.0f}"


def tick(number: float) -> str:
    """A number beside an axis, without needless zeros."""
    for unit, letter in _UNITS:
        if abs(number) >= unit:
            return f"{number / unit:g}{letter}"
    return f"{number:g}"


def percent(share: float, places: int = 1) -> str:
    """A share as a percentage."""
    return f"{100 * share:.{places}f} %"


def scored(score: Score) -> str:
    """An accuracy, with as many places as its number of images carries."""
    return percent(score.accuracy, 1 if score.total <= 2000 else 2)


def interval(score: Score) -> str:
    """The 95 % Wilson interval of an accuracy, in percent."""
    low, high = wilson(score.correct, score.total)
    return f"{100 * low:.1f} to {100 * high:.1f}"


def value(chosen: Value) -> str:
    """A decision's value."""
    if isinstance(chosen, bool):
        return "yes" if chosen else "no"
    if isinstance(chosen, float):
        return f"{chosen:.12g}"
    if isinstance(chosen, tuple):
        return "{" + ", ".join(map(str, chosen)) + "}"
    return str(chosen)


def cost_name(cost: str) -> str:
    """What an axis of costs is called."""
    return _NAMES.get(cost, cost)
