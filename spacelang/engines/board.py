"""Cream's prioritized board: the best paths that training has met so far.

    board = Board(10, gap=5.0)
    slot = board.offer(assignment, cost, accuracy=61.7)     # None: not admitted

Entries go by accuracy on the batch they were trained on, never scored again; a path that is much
better, or a little better and cheaper, takes the place of the worst, as in Cream's code.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from spacelang.ir.decision import Assignment
from spacelang.ir.figures import Cost

Ties = Literal["cheaper", "dearer"]
MATCHED, MATCHING = "matched", "matching"
"""Losses: of a student by its best matched teacher, and the one that the matching network learns by
to the second order."""


class MatchWarning(UserWarning):
    """A matching network that learns less than was asked for."""


def warn_if_never(update_every: int, length: int) -> None:
    """MatchWarning where an epoch of so many steps is too short for a second-order update."""
    if update_every >= length:
        told = f"an epoch has {length} steps, and update_every is {update_every}"
        without = "the matching network learns by the loss of each step alone"
        warnings.warn(f"{told}: {without}", MatchWarning, stacklevel=2)


@dataclass(frozen=True, slots=True)
class Entry:
    """A path, the percentage of its batch that it got right, and where its outputs are kept."""

    accuracy: float
    assignment: Assignment
    cost: Cost
    slot: int


@dataclass
class Board:
    """At most `size` entries, the best first; `ties` says which of equally accurate ones leads."""

    size: int = 10
    gap: float = 5.0
    ties: Ties = "cheaper"
    entries: list[Entry] = field(default_factory=list[Entry])

    def __post_init__(self) -> None:
        self._free = list(range(self.size, -1, -1))  # one more: the newest before the worst leaves

    def admits(self, accuracy: float, macs: int) -> bool:
        """Whether a path may enter: there is room, or it is better than the worst as demanded."""
        if len(self.entries) < self.size:
            return True
        worst = self.entries[-1]
        if accuracy > worst.accuracy + self.gap:
            return True
        return accuracy > worst.accuracy and macs < worst.cost.macs

    def offer(self, assignment: Assignment, cost: Cost, accuracy: float) -> int | None:
        """Enter a path if it may; the slot where its outputs belong, None if it was refused.

        The same path may stand on the board several times, as published.
        """
        if not self.admits(accuracy, cost.macs):
            return None
        entry = Entry(accuracy, assignment, cost, self._free.pop())
        sign = 1 if self.ties == "cheaper" else -1
        self.entries.append(entry)
        self.entries.sort(key=lambda e: (-e.accuracy, sign * e.cost.macs))  # of equals the elder
        if len(self.entries) > self.size:
            self._free.append(self.entries.pop().slot)
        return entry.slot if entry in self.entries else None

    def frequencies(self, path: str) -> Counter[object]:
        """How often each candidate of a decision stands on the board."""
        return Counter(e.assignment[path] for e in self.entries if path in e.assignment)
