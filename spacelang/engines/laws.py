"""What a step of training draws: the laws of paths, and the weights of candidates.

    CandidateWeights.read(("depth=1:1:2", "encoder[_].ratio=2:1:1"), graph.decisions)

The law "choices" draws every live decision uniformly, as published; "weighted" by weights, one for
each candidate in its order, uniformly where none are given; "architectures" is uniform over the
networks; "sandwich" takes the largest, the smallest and some networks drawn by choices (Yu and
Huang, ICCV 2019).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from math import gcd, isfinite, lcm, nextafter
from typing import Literal

from spacelang.diagnostics import SpaceError, error
from spacelang.engines.pool import assemble
from spacelang.engines.stream import Stream
from spacelang.ir.decision import Assignment, Choice, Decisions
from spacelang.ir.dim import Value
from spacelang.ir.pattern import Pattern, parse_pattern

Law = Literal["choices", "architectures", "sandwich", "weighted"]


def whole(weights: Sequence[float]) -> tuple[int, ...]:
    """The least whole numbers in the ratios that the decimals have: 0.05 is one in 20."""
    exact = [Fraction(float.__repr__(float(weight))) for weight in weights]
    unit = lcm(*(number.denominator for number in exact))
    counts = [int(number * unit) for number in exact]
    return tuple(count // gcd(*counts) for count in counts)


def check_weights(law: Law, texts: Sequence[str]) -> None:
    """ValueError where a law and its weights do not go together, or for a text that is none."""
    if (law == "weighted") != bool(texts):
        need = "needs weights" if law == "weighted" else "has no use for weights"
        raise ValueError(f"the law {law} {need}: PATH=W:W.., one W a candidate")
    for text in texts:
        _parsed(text)


def _parsed(text: str) -> tuple[Pattern, tuple[float, ...]]:
    path, equals, numbers = text.partition("=")
    try:
        weights = tuple(float(number) for number in numbers.split(":"))
    except ValueError:
        weights = ()
    fine = all(isfinite(w) and w >= 0 for w in weights) and 0 < sum(weights) < float("inf")
    if not (path and equals and fine):
        raise ValueError(f"{text!r} is no weight of a law: PATH=W:W.., W >= 0, one above 0")
    return parse_pattern(path.strip()), weights


@dataclass(frozen=True)
class CandidateWeights:
    """The weights of a decision's candidates, by path, and their sums up to each; others are
    uniform."""

    weights: Mapping[str, tuple[float, ...]]
    sums: Mapping[str, tuple[float, ...]]

    @classmethod
    def read(cls, texts: Sequence[str], decisions: Decisions) -> CandidateWeights:
        """Weights for a space; of two texts for one decision the later counts.

        SP504 for a path that no decision has, SP103 for another number of weights than candidates.
        """
        given: dict[str, tuple[float, ...]] = {}
        for text in texts:
            pattern, weights = _parsed(text)
            chosen = [
                choice for choice in decisions.order if pattern.match(choice.path) is not None
            ]
            if not chosen:
                found = error("SP504", f"the law weighs {pattern}, and no decision has that path")
                known = ", ".join(choice.path for choice in decisions.order[:8])
                raise SpaceError(found.note(f"the first are {known}"))
            for choice in chosen:
                if len(choice.values) != len(weights):
                    headline = f"{choice.path} has {len(choice.values)} candidates"
                    raise SpaceError(error("SP103", f"{headline}, the law weighs {len(weights)}"))
                given[choice.path] = weights
        return cls(given, {path: tuple(accumulate(own)) for path, own in given.items()})

    @cached_property
    def whole(self) -> Mapping[str, tuple[int, ...]]:
        """The weights as whole numbers."""
        return {path: whole(own) for path, own in self.weights.items()}

    def draw(self, decisions: Decisions, name: tuple[int | str, ...]) -> Assignment:
        """An architecture, each live decision drawn by its weights."""
        return assemble(decisions, lambda choice: self._taken(choice, Stream(*name, choice.path)))

    def _taken(self, choice: Choice, stream: Stream) -> Value:
        sums = self.sums.get(choice.path)
        if sums is None:
            return stream.choice(choice.values)
        # Rounding may bring the smallest of sums up to the whole.
        place = min(stream.uniform() * sums[-1], nextafter(sums[-1], 0))
        return choice.values[bisect_right(sums, place)]
