"""Moving the candidates of a space: its dimensions, how good each candidate is, and where to go.

    ranges = dimensions(graph)              # "width[0]", "layers[0].blocks[_].heads": one each
    errors = by_value(dimension, tried)     # the errors of what was tried, by candidate
    shift = move(tendency([et_error(e, 50) for e in errors]), 0.4, "trunc")

After S3 (NeurIPS 2021): the error of a subspace is the mean of what its architectures
expect and what its best reach (E-T error); its slope over the candidates of a dimension says which
way the dimension has to move. The paper's body was not at hand: what is ours is named in
`space_evolution.DEVIATIONS`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from spacelang.ir.decision import Assignment, Choice, exact, plain
from spacelang.ir.dim import Value
from spacelang.ir.graph import Graph

Rounding = Literal["trunc", "floor"]
_USE = re.compile(r"\[\d+\](?=\.[^\[\]]*(?:\[\d+\])?$)")  # the index of the last block's use


@dataclass(frozen=True, slots=True)
class Dimension:
    """A range that moves as one: all decisions that the uses of a block take alike.

    `step` is how far one move goes; `hull` what the text allows (`within`).
    """

    name: str
    paths: tuple[str, ...]
    values: tuple[Fraction, ...]
    hull: tuple[Fraction, ...]

    @property
    def step(self) -> Fraction:
        """The smallest gap between two candidates, or in the hull where there is only one."""
        known = self.values if len(self.values) > 1 else self.hull
        return min((b - a for a, b in pairwise(known)), default=Fraction(0))

    def moved(self, steps: int) -> Dimension:
        """Every candidate so many steps up; those that leave the hull are dropped.

        A dimension that would lose all goes only as far as it keeps one.
        """
        while steps:
            wanted = (value + steps * self.step for value in self.values)
            kept = tuple(value for value in wanted if value in self.hull)
            if kept:
                return replace(self, values=kept)
            steps -= 1 if steps > 0 else -1
        return self


def dimension_name(path: str) -> str:
    """`layers[0].blocks[3].heads` -> `layers[0].blocks[_].heads`; `width[2]` stays."""
    return _USE.sub("[_]", path)


def dimensions(space: Graph) -> tuple[Dimension, ...]:
    """The dimensions of a space, those decisions of numbers that have a hull, in text order."""
    grouped: dict[str, list[Choice]] = {}
    for choice in space.decisions.values():
        if choice.hull is not None and all(isinstance(v, Fraction) for v in choice.hull):
            grouped.setdefault(dimension_name(choice.path), []).append(choice)
    return tuple(
        Dimension(
            name,
            tuple(c.path for c in group),
            _numbers(c.values for c in group),
            _numbers(c.hull or () for c in group),
        )
        for name, group in grouped.items()
    )


def _numbers(lists: Iterable[Iterable[Value]]) -> tuple[Fraction, ...]:
    return tuple(sorted({v for values in lists for v in values if isinstance(v, Fraction)}))


def candidates(ranges: Iterable[Dimension]) -> dict[str, list[int | float]]:
    """The ranges as plain numbers by name: what a record holds and a trainer builds from."""
    found: dict[str, list[int | float]] = {}
    for dimension in ranges:
        found[dimension.name] = [
            n for v in dimension.values if isinstance(n := plain(v), int | float)
        ]
    return found


def by_value(
    dimension: Dimension, tried: Iterable[tuple[Assignment, float]]
) -> tuple[tuple[float, ...], ...]:
    """The errors of the architectures that have each candidate, in the order of the candidates.

    An architecture whose blocks take a candidate n times counts n times.
    """
    buckets: dict[Fraction, list[float]] = {value: [] for value in dimension.values}
    for assignment, error in tried:
        for path in dimension.paths:
            if path in assignment:
                value = exact(assignment[path])
                if isinstance(value, Fraction) and value in buckets:
                    buckets[value].append(error)
    return tuple(tuple(buckets[value]) for value in dimension.values)


def having(dimension: Dimension, drawn: Iterable[Assignment]) -> tuple[int, ...]:
    """How many of some architectures have each candidate, in whatever block."""
    taken = [{exact(a[path]) for path in dimension.paths if path in a} for a in drawn]
    return tuple(sum(value in own for own in taken) for value in dimension.values)


def et_error(errors: Sequence[float], top: int) -> float:
    """(mean of all + mean of the `top` smallest) / 2; NaN of nothing."""
    if not errors:
        return math.nan
    best = sorted(errors)[:top]
    return (math.fsum(errors) / len(errors) + math.fsum(best) / len(best)) / 2


def tendency(errors: Sequence[float]) -> float:
    """The least-squares slope over the index of the candidates; 0 for fewer than two known."""
    known = [(x, y) for x, y in enumerate(errors) if not math.isnan(y)]
    if len(known) < 2:
        return 0.0
    middle = sum(x for x, _ in known) / len(known)
    mean = math.fsum(y for _, y in known) / len(known)
    spread = math.fsum((x - middle) ** 2 for x, _ in known)
    return math.fsum((x - middle) * (y - mean) for x, y in known) / spread


def move(slope: float, threshold: float, rounding: Rounding) -> int:
    """How many steps to go against the slope of the error: -floor(w / t), or towards zero.

    `floor` is the published listing as it is remembered; it moves up at the slightest fall.
    """
    turns = slope / threshold
    return -(math.floor(turns) if rounding == "floor" else math.trunc(turns))


def moved(
    ranges: Sequence[Dimension], slopes: Mapping[str, float], threshold: float, rounding: Rounding
) -> tuple[Dimension, ...]:
    """The ranges of the next space."""
    return tuple(d.moved(move(slopes[d.name], threshold, rounding)) for d in ranges)
