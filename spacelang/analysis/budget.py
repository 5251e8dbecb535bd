"""Budgets: `params in 5M..6M and macs <= 1.3G and depth >= 13` as bands and conditions.

A band bounds a figure, both ends included. What speaks of decisions alone is a condition; anything
else (a product of a figure and a decision, `or` over figures) is refused with SP508. Latency, in
nanoseconds, and throughput, in images a second rounded down, are bands too, of which no counting
knows: `exact` is the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil, floor

from spacelang.diagnostics import NOWHERE, SpaceError, Span, error
from spacelang.ir.condition import Compare, Condition
from spacelang.ir.definedness import conjuncts
from spacelang.ir.dim import Dim
from spacelang.ir.figures import LATENCY, MEASURED, THROUGHPUT, TIMED

Band = tuple[int | None, int | None]
NEVER = 1 << 62
"""Nanoseconds: the latency of a throughput below 0."""
LONG = 100
"""Of a condition in a message, in characters."""


@dataclass(frozen=True)
class Budget:
    """Bands of figures, and conditions on decisions."""

    bands: Mapping[str, Band] = field(default_factory=dict[str, Band])
    conditions: tuple[Condition, ...] = ()

    @classmethod
    def of(cls, conditions: Iterable[Condition], span: Span = NOWHERE) -> Budget:
        """The budget of `require` statements (SP508 for what cannot be solved exactly)."""
        budget = cls()
        for condition in conditions:
            for part in conjuncts(condition):
                budget = budget.meet(_one(part, span))
        return budget

    def meet(self, other: Budget) -> Budget:
        """What meets both."""
        bands = dict(self.bands)
        for figure, band in other.bands.items():
            bands[figure] = _meet(bands.get(figure, (None, None)), band)
        return Budget(bands, (*self.conditions, *other.conditions))

    @property
    def timed(self) -> bool:
        """Whether it bounds what is measured."""
        return any(figure in self.bands for figure in TIMED)

    def window(self, images: int) -> Band:
        """The window of latency, in nanoseconds, of a pass over so many images.

        A throughput is what such a pass comes to, n = images * 10^9 // latency, so a bound on it is
        one on the latency.
        """
        slow, fast = self.bands.get(THROUGHPUT, (None, None))
        work = images * 10**9
        least = None if fast is None else work // (fast + 1) + 1 if fast >= 0 else NEVER
        most = None if slow is None or slow <= 0 else work // slow
        return _meet(self.bands.get(LATENCY, (None, None)), (least, most))

    @property
    def exact(self) -> Budget:
        """The same without these: what can be counted."""
        return replace(self, bands={f: b for f, b in self.bands.items() if f not in TIMED})


def _meet(a: Band, b: Band) -> Band:
    low = [n for n in (a[0], b[0]) if n is not None]
    high = [n for n in (a[1], b[1]) if n is not None]
    return max(low, default=None), min(high, default=None)


def _one(condition: Condition, span: Span) -> Budget:
    figures = [s for s in condition.symbols if s.name in MEASURED and s.free]
    if not figures:
        return Budget(conditions=(condition,))
    if isinstance(condition, Compare) and len(condition.symbols) == 1:
        (symbol,) = figures
        # left - right = a * figure + b
        difference = condition.left - condition.right
        b = difference.substitute({symbol.name: 1}).constant
        c = difference.substitute({symbol.name: 2}).constant
        if b is not None and c is not None and c != b:
            slope, offset = c - b, 2 * b - c
            if difference != slope * Dim.of(symbol) + offset:
                raise _refused(condition, span)
            return Budget({symbol.name: _band(condition.op, slope, -offset / slope)})
    raise _refused(condition, span)


def _refused(condition: Condition, span: Span) -> SpaceError:
    text = str(condition)
    text = text if len(text) <= LONG else f"{text[: LONG - 20]} .. {text[-16:]}"
    return SpaceError(
        error("SP508", f"{text} cannot be solved exactly", span).hint(
            "bound each figure by numbers: params in 5M..6M and macs <= 1.3G"
        )
    )


def _band(op: str, slope: Fraction, bound: Fraction) -> Band:
    """`slope * (figure - bound) op 0` for a whole figure."""
    if op == "==":
        return ceil(bound), floor(bound)
    if op == "!=":
        raise SpaceError(error("SP508", "`!=` on a figure cannot be solved exactly"))
    strict = op == "<"
    if slope > 0:
        return None, (ceil(bound) - 1 if strict else floor(bound))
    return (floor(bound) + 1 if strict else ceil(bound)), None
