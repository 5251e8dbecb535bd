"""Orders of candidates that are better in one thing and worse in another.

A point is a tuple of objectives, each the more the better. A point dominates another if it is
nowhere worse and somewhere better. Sorting is that of NSGA-II (Deb and others, 2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

Point = Sequence[float]


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better."""
    pairs = list(zip(a, b, strict=True))
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


def fronts(points: Sequence[Point]) -> tuple[tuple[int, ...], ...]:
    """Positions of the points in layers: those that none dominates, those then left, and so on.

    Equal points share a layer; within one the positions ascend.
    """
    beaten: list[list[int]] = [[] for _ in points]  # by each point
    above = [0] * len(points)  # how many dominate each point and are in no layer yet
    for i, a in enumerate(points):
        for j in range(i):
            if dominates(a, points[j]):
                beaten[i].append(j)
                above[j] += 1
            elif dominates(points[j], a):
                beaten[j].append(i)
                above[i] += 1
    layers: list[tuple[int, ...]] = []
    layer = [i for i, count in enumerate(above) if count == 0]
    while layer:
        layers.append(tuple(layer))
        following: list[int] = []
        for i in layer:
            for j in beaten[i]:
                above[j] -= 1
                if above[j] == 0:
                    following.append(j)
        layer = sorted(following)
    return tuple(layers)


def front(points: Sequence[Point]) -> tuple[int, ...]:
    """Positions, ascending, of the points that none dominates: the first of `fronts`."""
    kept: list[int] = []
    # A point that dominates another stands before it in this order.
    for i in sorted(range(len(points)), key=lambda i: tuple(points[i]), reverse=True):
        if not any(dominates(points[j], points[i]) for j in kept):
            kept.append(i)
    return tuple(sorted(kept))


def crowding(points: Sequence[Point]) -> tuple[float, ...]:
    """How far apart the neighbours of each point of a layer lie, summed over the objectives.

    The ends of every objective are infinitely free; an objective in which all agree says nothing.
    """
    total = [0.0] * len(points)
    for axis in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda i: (points[i][axis], i))
        low, high = points[order[0]][axis], points[order[-1]][axis]
        if low == high:
            continue
        total[order[0]] = total[order[-1]] = inf
        for before, here, after in zip(order, order[1:], order[2:], strict=False):
            total[here] += (points[after][axis] - points[before][axis]) / (high - low)
    return tuple(total)


def best_first(points: Sequence[Point]) -> tuple[int, ...]:
    """All positions: by layer, within one the freest first, then the earliest.

    For a single objective this is a stable sort, largest first.
    """
    if points and len(points[0]) == 1:
        return tuple(sorted(range(len(points)), key=lambda i: -points[i][0]))
    ranked: list[int] = []
    for layer in fronts(points):
        free = crowding([points[i] for i in layer])
        ranked.extend(i for _, i in sorted(zip((-f for f in free), layer, strict=True)))
    return tuple(ranked)
