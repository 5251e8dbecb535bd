"""What a search is measured against: random search, and the largest and the smallest network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from spacelang.analysis.budget import Band, Budget
from spacelang.analysis.queries import counter, parsed
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.evolution import best_of, found
from spacelang.engines.pool import Pool
from spacelang.engines.protocol import (
    ALL_KINDS,
    Able,
    Candidate,
    Evaluated,
    Event,
    GenerationEnded,
    Prober,
    Samples,
)
from spacelang.engines.settings import check
from spacelang.ir.decision import Assignment, Kind
from spacelang.ir.graph import Graph

CHUNK = 50  # evaluations between two GenerationEnded
End = Literal["largest", "smallest"]


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
    """The largest or the smallest network, or both.

    Every number of it is the largest (or the smallest) of its candidates; where a budget or the
    space's requirements exclude that network, it is one with the most (or the fewest) parameters
    that they allow. A window of latency is left aside, which no count knows.
    """

    name: ClassVar[str] = "extreme"
    kinds: ClassVar[frozenset[Kind]] = ALL_KINDS

    which: Literal["largest", "smallest", "both"] = "largest"
    where: str = ""
    part: str = "validation"
    samples: int | None = None

    @property
    def ends(self) -> tuple[End, ...]:
        """Those that are asked for."""
        return ("largest", "smallest") if self.which == "both" else (self.which,)

    def run(self, space: Graph, trainer: Prober, seed: int) -> Iterator[Event]:
        """One Evaluated each, then Found. SP502 for an empty budget, SP701 where the budget
        excludes the network and no exact count finds another; of both the one that is found."""
        check(self, space)
        ends = self._found(space)
        scores = trainer.probe(ends.values(), Samples(self.part, self.samples))
        tried: list[Candidate] = []
        for (which, assignment), score in zip(ends.items(), scores, strict=True):
            cost = space.cost(assignment)
            tried.append(Candidate(len(tried), 0, which, assignment, cost, score))
            yield Evaluated(tried[-1], len(ends))
        yield found(tried, ("accuracy",), exhausted=False)

    def _found(self, space: Graph) -> dict[End, Assignment]:
        """The ends that can be found, one at least."""
        ends: dict[End, Assignment] = {}
        for which in self.ends:
            try:
                ends[which] = self._end(space, which)
            except SpaceError as failed:
                last = which == self.ends[-1] and not ends
                if last or failed.diagnostics[0].code != "SP701":
                    raise
        return ends

    def _end(self, space: Graph, which: End) -> Assignment:
        """The network at one end of what is allowed."""
        known = counter(space)
        asked = (parsed(space, self.where) or Budget()).exact
        allowed = known.required.meet(asked)
        plain = space.decisions.extreme(which)
        if known.meets(space.decisions.check(plain), allowed):
            return plain
        size = known.size(asked)
        if size == 0:
            raise known.empty(allowed)
        if not isinstance(size, int):
            raise _uncounted(space, which)
        low, high = known.extremes("params")

        def none(band: Band) -> bool:
            left = known.size(asked.meet(Budget({"params": band})))
            if not isinstance(left, int) and left.lower == 0:  # nobody knows whether it is empty
                raise _uncounted(space, which)
            return left == 0

        while low < high:  # the end is in low..high
            middle = (low + high) // 2
            if which == "smallest":
                low, high = (middle + 1, high) if none((None, middle)) else (low, middle)
            else:
                low, high = (low, middle) if none((middle + 1, None)) else (middle + 1, high)
        try:
            (found_there,) = known.draw(1, 0, asked.meet(Budget({"params": (low, low)})))
        except SpaceError as failed:
            if failed.diagnostics[0].code != "SP507":
                raise
            raise _uncounted(space, which) from failed
        return found_there


def _uncounted(space: Graph, which: End) -> SpaceError:
    """SP701 for an end that no exact count finds."""
    return SpaceError(
        error("SP701", f"the {which} network of {space.name} is not within the budget")
        .note("what the budget leaves is more than can be counted")
        .hint("search at random instead: --engine random --where ..")
    )


def beside(
    engine: Able, evaluated: int, asked: bool | None = True, *, anew: bool = False
) -> tuple[RandomSearch | Extreme, ...]:
    """What a search that scored so many networks is measured against, by the same images and within
    the same budget (the last, where there are several): luck by as many scores, and the ends of
    the space. Nothing for baselines themselves.

    None of them where they are not `asked` for; where nothing was said (None) all but luck at the
    cost of another search, where each network is trained `anew`.
    """
    if asked is False or isinstance(engine, RandomSearch | Extreme):
        return ()
    bounds: tuple[str, ...] = getattr(engine, "bounds", ("",))
    budget: str = getattr(engine, "where", bounds[-1])
    part: str = getattr(engine, "part", Samples().part)
    samples: int | None = getattr(engine, "samples", None)
    latency: str = getattr(engine, "latency", "")
    ends = Extreme("both", budget, part, samples)
    if anew and asked is None:
        return (ends,)
    return RandomSearch(evaluated, budget, latency, part, samples), ends
