"""Seconds of work that is stopped and taken up: those of all calls, kept in a file.

    with Stopwatch(folder / "labels.seconds.json") as watch: ...
    watch.seconds           # what it took from its first call to its end, pauses aside

A call after the end adds nothing; one that is killed outright takes its own seconds along.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from spacelang.files import atomic_write


class Stopwatch:
    """Counts while a block runs."""

    def __init__(self, place: Path) -> None:
        known = json.loads(place.read_text()) if place.exists() else {}
        self.place = place
        self.ended: bool = known.get("ended", False)
        self._before: float = known.get("seconds", 0.0)

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failed: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.ended:
            return
        self._before += time.perf_counter() - self._began
        self.ended = failed is None
        self.place.parent.mkdir(parents=True, exist_ok=True)
        kept = {"seconds": self.seconds, "ended": self.ended}
        atomic_write(self.place, json.dumps(kept) + "\n")

    @property
    def seconds(self) -> float:
        """Of all blocks so far, to a tenth."""
        return round(self._before, 1)
