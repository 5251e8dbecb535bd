"""What a search is measured against: random search, and the largest and the smallest network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from spacelang.diagnostics import SpaceError, error
from spacelang.engines.evolution import best_of, found
from spacelang.engines.pool import Pool
from spacelang.engines.protocol import (
    ALL_KINDS,
    Candidate,
    Evaluated,
    Event,
    GenerationEnded,
    Prober,
    Samples,
)
from spacelang.engines.settings import check
from spacelang.ir.decision import Kind
from spacelang.ir.graph import Graph

CHUNK = 50  # evaluations between two GenerationEnded


@dataclass(frozen=True)
class RandomSearch:
    """Different architectures, exactly uniform over those within the budget."""

    name: ClassVar[str] = "random"
    kinds: ClassVar[frozenset[Kind]] = ALL_KINDS

    evaluations: int = 1050  # as many as the published evolution makes
    where: str = ""
    latency: str = ""  # the file of a latency table, for a budget on latency
    part: str = "validation"
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.evaluations < 1:
            raise ValueError("evaluations are at least 1")

    @property
    def planned(self) -> int:
        """The most evaluations that a run makes."""
        return self.evaluations

    def run(self, space: Graph, trainer: Prober, seed: int) -> Iterator[Event]:
        """Evaluated for each, GenerationEnded now and then, and at the end Found."""
        check(self, space)
        pool = Pool(space, self.where, seed, self.latency)
        tried: list[Candidate] = []
        for turn, first in enumerate(range(0, self.evaluations, CHUNK)):
            batch = pool.draw(min(CHUNK, self.evaluations - first), "search", turn)
            if not batch:
                break
            scores = trainer.probe((a for a, _ in batch), Samples(self.part, self.samples))
            for (assignment, cost), score in zip(batch, scores, strict=True):
                candidate = Candidate(len(tried), turn, "random", assignment, cost, score)
                tried.append(candidate)
                yield Evaluated(candidate, self.planned)
            best = best_of(tried)
            if best is not None:
                yield GenerationEnded(turn, best, {})
        yield found(tried, ("accuracy",), pool.exhausted)


@dataclass(frozen=True)
class Extreme:
    """One architecture: every number the largest (or the smallest) of its candidates."""

    name: ClassVar[str] = "extreme"
    kinds: ClassVar[frozenset[Kind]] = ALL_KINDS

    which: Literal["largest", "smallest"] = "largest"
    part: str = "validation"
    samples: int | None = None

    def run(self, space: Graph, trainer: Prober, seed: int) -> Iterator[Event]:
        """One Evaluated, then Found. SP701 if the space's requirements exclude that network."""
        check(self, space)
        assignment = space.decisions.extreme(self.which)
        taken = Pool(space).take(assignment)
        if taken is None:
            raise SpaceError(
                error("SP701", f"the {self.which} network of {space.name} is none of the space")
                .note("its `require` excludes it")
                .hint("search under a budget instead: --engine random --where ..")
            )
        for score in trainer.probe((assignment,), Samples(self.part, self.samples)):
            candidate = Candidate(0, 0, self.which, *taken, score)
            yield Evaluated(candidate, 1)
            yield found([candidate], ("accuracy",), exhausted=False)
