"""Things that a few threads make before they are asked for.

    line = Prefetcher(load, following)       # following(place): the place that comes next, or None
    batch = line.take(place)            # what load(place) gives

What is made is a function of its place: it is the same whoever makes it, whenever, and whether or
not it was foreseen. `make` may not draw from generators that the whole process shares.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Generic, TypeVar

MOST = 8
Place = TypeVar("Place", bound=Hashable)
Made = TypeVar("Made")


class Prefetcher(Generic[Place, Made]):
    """What is made at places that follow each other, the next ones while one is used."""

    def __init__(
        self, make: Callable[[Place], Made], following: Callable[[Place], Place | None]
    ) -> None:
        self._make, self._following = make, following
        self._begun: dict[Place, Future[Made]] = {}

    def take(self, place: Place) -> Made:
        """What is made at a place; raises what making it raised."""
        wanted = [place]
        while len(wanted) <= threads() and (after := self._following(wanted[-1])) is not None:
            wanted.append(after)
        before = self._begun
        self._begun = {p: before.pop(p, None) or _pool().submit(self._make, p) for p in wanted}
        for left in before.values():
            left.cancel()
        return self._begun.pop(place).result()


def threads() -> int:
    """How many threads make things, and so how many things wait at most."""
    return min(MOST, len(os.sched_getaffinity(0)))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), "spacelang-ahead")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of the threads
