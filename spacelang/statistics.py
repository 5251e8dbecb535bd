"""The two pieces of statistics that a report of a search needs."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

NORMAL_975 = 1.959963984540054  # the 97.5 % point of the normal distribution


def wilson(successes: int, trials: int, z: float = NORMAL_975) -> tuple[float, float]:
    """Wilson's score interval of a proportion; 95 % by default. ValueError for impossible counts.

    Unlike the textbook interval it never leaves 0..1 and is not empty at 0 or all successes.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes of {trials} trials")
    share = successes / trials
    scale = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    half = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / scale
    low = 0.0 if successes == 0 else max(0.0, middle - half)  # exact ends, free of rounding
    high = 1.0 if successes == trials else min(1.0, middle + half)
    return low, high


def pareto_front(costs: Sequence[float], gains: Sequence[float]) -> tuple[int, ...]:
    """Positions of the points that no other beats: cheapest first, each dearer one gaining more.

    Of equal points the first is kept.
    """
    front: list[int] = []
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -gains[i], i))
    for position in order:
        if not front or gains[position] > gains[front[-1]]:
            front.append(position)
    return tuple(front)
