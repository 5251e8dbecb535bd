"""Cells at random, by as many epochs as `cyclic_differentiable` would take: what it is measured by.

    luck = made(RandomCells, settings_of(CyclicDifferentiable(epochs=32, warm=2)))

Each is derived from parameters that are drawn, so that every operation and every edge comes as
often, and then built, warmed up and scored as the last cell of a search is. Nothing but the
evaluation network is trained, and its pool stays as it is first drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from spacelang.engines.cyclic_differentiable import Cycles, CyclicDifferentiable
from spacelang.engines.evolution import found
from spacelang.engines.pool import encoding
from spacelang.engines.protocol import Cycler, Event, Origin
from spacelang.engines.stream import Stream
from spacelang.ir.decision import Assignment
from spacelang.ir.program import Program

TRIES = 100  # for a cell that was not drawn before


@dataclass(frozen=True)
class RandomCells(CyclicDifferentiable):
    """The settings are those of the search; it says how many epochs there are, and how a cell is
    trained."""

    name: ClassVar[str] = "random_cells"

    @property
    def planned(self) -> int:
        """The most cells that a run trains: those that the epochs of the search are enough for."""
        return super().passes // self.evaluation_warm

    @property
    def passes(self) -> int:
        """Epochs, each over half of the training part."""
        return self.planned * self.evaluation_warm

    def planned_steps(self, first: int, second: int) -> int:
        """The steps of a run, where the halves have so many batches."""
        return self.passes * self.length(second)

    def run(self, space: Program, trainer: Cycler, seed: int) -> Iterator[Event]:
        """Stepped and EpochEnded; Evaluated for each cell; Found, the best of them.

        SP701 as of a search.
        """
        yield from Luck(self, space, trainer).drawn(seed)


class Luck(Cycles):
    """Cells drawn one after the other."""

    origin: Origin = "random"

    def drawn(self, seed: int) -> Iterator[Event]:
        """The events of all cells; fewer than planned where no other cell is drawn."""
        known = set[str]()
        for number in range(self.engine.planned):
            for attempt in range(TRIES):
                cell = self._cell(seed, number, attempt)
                if encoding(cell) not in known:
                    break
            else:
                break
            known.add(encoding(cell))
            yield from self._build(cell)
            yield self._evaluated(number, cell)
        yield found(self.scored, ("accuracy",), exhausted=False)

    def _cell(self, *name: int) -> Assignment:
        streams = {path: Stream("cell", path, *name) for path in self.derivation.sizes}
        return self.derivation.assignment(
            {p: [streams[p].uniform() for _ in range(n)] for p, n in self.derivation.sizes.items()}
        )
