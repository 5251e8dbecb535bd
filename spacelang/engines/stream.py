"""Random draws that are functions of a name, in plain Python.

    stream = Stream(0, "evolution", "mutation", 3, 17)
    stream.uniform(), stream.below(6), stream.choice(candidates)

No state outlives a decision, so nothing has to be saved to resume, and what one draw is used for
never moves another. The words are BLAKE2b of a counter under the name as key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")
_WORD = 64


class Stream:
    """An endless sequence of independent draws; equal names give equal sequences."""

    def __init__(self, *name: int | str) -> None:
        text = json.dumps(name, separators=(",", ":")).encode()
        self._key = hashlib.blake2b(text, digest_size=32).digest()
        self._drawn = 0

    def word(self) -> int:
        """A whole number of 64 random bits."""
        counter = self._drawn.to_bytes(8, "little")
        self._drawn += 1
        return int.from_bytes(hashlib.blake2b(counter, key=self._key, digest_size=8).digest())

    def uniform(self) -> float:
        """A number in [0, 1), a multiple of 2**-53."""
        return (self.word() >> 11) * 2.0**-53

    def below(self, bound: int) -> int:
        """A whole number 0 <= n < bound, every one exactly as likely; bound is at most 2**64."""
        if not 0 < bound <= 1 << _WORD:
            raise ValueError(f"{bound} is no bound")
        accepted = (1 << _WORD) - (1 << _WORD) % bound  # what lies beyond would favour small ones
        word = self.word()
        while word >= accepted:
            word = self.word()
        return word % bound

    def choice(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.below(len(items))]

    def happens(self, probability: float) -> bool:
        """True with a probability."""
        return self.uniform() < probability


def seed_of(*name: int | str) -> int:
    """A seed in 0..2**63-1 for a generator that takes one."""
    return Stream(*name).word() >> 1
