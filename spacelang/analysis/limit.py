"""How much an exact table may take, counted in entries and never in time.

The same question gets the same kind of answer on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

# Products that all folds of an elimination may add up, for each entry that a table may have.
WORK = 16


class TooLarge(Exception):
    """An exact table would pass the limit; the caller falls back to coarser ones."""


@dataclass(slots=True)
class Limit:
    """How many entries one table may have; all folds together may add up WORK times as many.

    `used` is the smallest limit that would have let everything pass so far.
    """

    entries: int
    used: int = 0
    work: int = 0

    def check(self, entries: int, products: int = 0) -> None:
        """Raise TooLarge if a table, or the work up to it, passes the limit."""
        self.work += products
        self.used = max(self.used, entries, -(-self.work // WORK))
        if self.used > self.entries:
            raise TooLarge
