"""What a proof failed on, as messages say it: sizes, and an architecture where it fails."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from spacelang.diagnostics import Diagnostic
from spacelang.ir.dim import LIMIT, Dim, Value
from spacelang.ir.node import TensorType
from spacelang.ir.prove import Unsettled


@dataclass(frozen=True)
class Conflict:
    """What a proof failed on: the sizes, and the decisions of an architecture where it fails.

    `example` is None where neither a proof nor an architecture was found.
    """

    sizes: tuple[Dim, ...]
    example: Mapping[str, Value] | None = None


LONG = 28
"""A size whose text is longer is shown by its values, where it has few."""


def shown(value: Dim | TensorType) -> str:
    """A size or a type as messages show it: what a caller binds is named as the caller names it."""
    if isinstance(value, TensorType):
        body = f"[{', '.join(map(shown, value.shape))}]"
        return body if value.dtype == "f32" else f"{value.dtype}{body}"
    text = bare(str(value))
    values = values_of(value) if len(text) > LONG else ()
    return "|".join(map(str, values)) if 0 < len(values) <= 4 else text


def bare(text: str) -> str:
    """A size without the signs of those that a block is given, and of indices (`%n`, `%0i`)."""
    return re.sub(r"%\d*", "", text)


def values_of(size: Dim) -> tuple[Fraction, ...]:
    """The values that a size takes, in order; none where they cannot be listed."""
    try:
        return size.candidates()
    except (ValueError, ArithmeticError):
        return ()


def plainly(found: Diagnostic, conflict: Conflict) -> Diagnostic:
    """The diagnostic with the sizes of a conflict and its example as notes."""
    found = found.note(" against ".join(map(shown, conflict.sizes)))
    return found if conflict.example is None else found.note(example_text(conflict.example))


def example_text(example: Mapping[str, object]) -> str:
    """A counter-example as a line: `first disagreement: width = 192, encoder[0].heads = 4`."""
    values = {n: str(v).lower() if isinstance(v, bool) else v for n, v in example.items()}
    known = ", ".join(f"{name} = {value}" for name, value in values.items())
    return f"first disagreement: {known}" if known else "in every architecture"


Explain = Callable[[Diagnostic, Conflict], Diagnostic]


def open_question(verdict: Unsettled, tried: int = LIMIT) -> str:
    """What an unsettled proof hangs on, of which at most so many points are tried, as a note."""
    names = ", ".join(map(bare, verdict.symbols))
    hangs = f"it hangs on {names}" if names else "it is too near to a bound for floats to tell"
    if verdict.points <= tried:
        return hangs
    return f"{hangs}: {verdict.points:,} combinations, of which {tried:,} are tried"


SETTLE = "let fewer decisions meet in one size, or give them fewer candidates"
