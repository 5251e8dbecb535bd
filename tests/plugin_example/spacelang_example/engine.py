"""An engine: from the largest architecture downhill, one decision at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from spacelang.engines.protocol import (
    ALL_KINDS,
    Candidate,
    Evaluated,
    Event,
    Found,
    Prober,
    Samples,
)
from spacelang.ir.decision import Kind
from spacelang.ir.graph import Graph


@dataclass(frozen=True)
class Climb:
    """Keep a change of one decision whenever it scores better."""

    name: ClassVar[str] = "climb"
    kinds: ClassVar[frozenset[Kind]] = ALL_KINDS

    rounds: int = 2

    def run(self, space: Graph, trainer: Prober, seed: int) -> Iterator[Event]:
        decisions = space.decisions
        values = decisions.check(decisions.extreme("largest"))
        best: Candidate | None = None
        number = 0
        for generation in range(self.rounds):
            for choice in decisions.values():
                for value in choice.values:
                    assignment = decisions.assignment({**values, choice.path: value})
                    (score,) = trainer.probe([assignment], Samples())
                    made = Candidate(
                        number, generation, "mutation", assignment, space.cost(assignment), score
                    )
                    number += 1
                    yield Evaluated(made, number)
                    if best is None or score.accuracy > best.score.accuracy:
                        best, values = made, {**values, choice.path: value}
        assert best is not None
        yield Found(best, (best,), number, False)
