"""Evolutionary search as AutoFormer publishes it (ICCV 2021), for any decisions.

    search evolution { population = 50  generations = 20  where = "params <= 6M" }

A generation is bred from the best so far: 25 mutants, 25 crossings, and random ones up to the size
of the population; all are within the budget and none was tried before. Several objectives turn the
choice of parents into that of NSGA-II and the result into a Pareto front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from spacelang.diagnostics import SpaceError, error
from spacelang.engines.pareto import best_first, front
from spacelang.engines.pool import Pool, Taken
from spacelang.engines.protocol import (
    ALL_KINDS,
    Candidate,
    Evaluated,
    Event,
    Found,
    GenerationEnded,
    Objective,
    Origin,
    Prober,
    Samples,
)
from spacelang.engines.settings import check
from spacelang.engines.stream import Stream
from spacelang.engines.variation import cross, mutate, pair
from spacelang.ir.decision import Assignment, Kind
from spacelang.ir.graph import Graph

# Where this departs from microsoft/Cream's evolution.py, and why.
DEVIATIONS: Mapping[str, str] = MappingProxyType(
    {
        "uniform-start": "random architectures are exactly uniform over those within the budget; "
        "published: every decision uniform, redrawn until the budget is met",
        "rejected-cached": "what lies outside the budget is remembered; published: costed again "
        "whenever it is drawn again",
        "whole-children": "parents of different depth after 50 redraws give a child that takes "
        "what only one parent has from that one; published: a malformed, shorter tuple",
        "explicit-best": "the last generation counts and the best is returned, of equally accurate "
        "ones the cheapest; published: the last generation is evaluated, but never ranked",
        "one-set": "candidates are scored on the validation part (`part`, `samples`), which "
        "nothing was trained on; published: on 100 training images a class, and for the log on the "
        "test set too",
        "counted-draws": "draws are functions of (seed, generation, child, decision); published: "
        "one global generator",
    }
)
TRIES = 10  # a child: at most so many tries for each that is wanted


@dataclass(frozen=True)
class Evolution:
    """AutoFormer's evolution; the defaults are the published ones.

    generations   bred after the first, random one
    parents       so many of the best of all so far breed
    m_prob        a decision of a layer is redrawn in a mutant
    s_prob        a decision of the whole network (depth, width) is redrawn in a mutant
    where         the budget: "params in 5M..6M and macs <= 1.3G"
    latency       the file of a latency table, for a budget on latency: "latency <= 5ms"
    objectives    what parents and the front are chosen by; figures of cost are minimised
    samples       images a candidate is scored on, of the part `part`; all where None
    """

    name: ClassVar[str] = "evolution"
    kinds: ClassVar[frozenset[Kind]] = ALL_KINDS

    generations: int = 20
    population: int = 50
    parents: int = 10
    mutants: int = 25
    crossovers: int = 25
    m_prob: float = 0.2
    s_prob: float = 0.4
    where: str = ""
    latency: str = ""
    objectives: tuple[Objective, ...] = ("accuracy",)
    part: str = "validation"
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.generations < 0 or self.population < 1 or self.parents < 1:
            raise ValueError("generations >= 0, population >= 1 and parents >= 1 are needed")
        if min(self.mutants, self.crossovers) < 0:
            raise ValueError("mutants and crossovers are not negative")
        if self.mutants + self.crossovers > self.population:
            raise ValueError("mutants and crossovers together are at most the population")
        if not (0 <= self.m_prob <= 1 and 0 <= self.s_prob <= 1):
            raise ValueError("m_prob and s_prob are in 0..1")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objectives are one or more, each once")
        if self.samples is not None and self.samples < 1:
            raise ValueError("samples are at least 1")

    @property
    def planned(self) -> int:
        """The most evaluations that a run makes."""
        return self.population * (self.generations + 1)

    def run(self, space: Graph, trainer: Prober, seed: int) -> Iterator[Event]:
        """Evaluated for each candidate, GenerationEnded, and at the end Found.

        SP701 for a space it cannot search, SP502 for an empty budget, SP703 if nothing of a
        generation can be evaluated and there is nothing to breed from.
        """
        check(self, space)
        pool = Pool(space, self.where, seed, self.latency)
        tried: list[Candidate] = []
        kept: list[Candidate] = []
        for generation in range(self.generations + 1):
            batch, tries = self._breed(pool, kept[: self.parents], generation, seed)
            if not batch:
                break
            scores = trainer.probe(
                (assignment for _, (assignment, _) in batch), Samples(self.part, self.samples)
            )
            for (origin, (assignment, cost)), score in zip(batch, scores, strict=True):
                candidate = Candidate(len(tried), generation, origin, assignment, cost, score)
                tried.append(candidate)
                kept.append(candidate)
                yield Evaluated(candidate, self.planned)
            # A population of elders, of which the first breed; for one objective the best of all.
            kept = ranked(kept, self.objectives)[: max(self.population, self.parents)]
            best = best_of(tried)
            if best is None:
                raise SpaceError(
                    error("SP703", f"none of {len(tried)} candidates could be evaluated").note(
                        tried[-1].score.failure
                    )
                )
            yield GenerationEnded(generation, best, tries)
        yield found(tried, self.objectives, pool.exhausted)

    def _breed(
        self, pool: Pool, elders: Sequence[Candidate], generation: int, seed: int
    ) -> tuple[list[tuple[Origin, Taken]], dict[str, tuple[int, int]]]:
        """The next generation, and of each kind how many were made in how many tries."""
        batch: list[tuple[Origin, Taken]] = []
        tries: dict[str, tuple[int, int]] = {}
        if generation > 0:
            parents = [elder.assignment for elder in elders]
            decisions = pool.space.decisions

            def mutant(attempt: int) -> Assignment:
                name = (seed, "mutation", generation, attempt)
                parent = Stream(*name).choice(parents)
                return mutate(decisions, parent, name, self.m_prob, self.s_prob)

            def crossing(attempt: int) -> Assignment:
                name = (seed, "crossover", generation, attempt)
                return cross(decisions, *pair(parents, name), name)

            kinds: tuple[tuple[Origin, int, Callable[[int], Assignment]], ...] = (
                ("mutation", self.mutants, mutant),
                ("crossover", self.crossovers, crossing),
            )
            for origin, wanted, make in kinds:
                made, tries[origin] = _fresh(pool, wanted, make)
                batch.extend((origin, taken) for taken in made)
        rest = pool.draw(self.population - len(batch), "random", generation)
        batch.extend(("random", taken) for taken in rest)
        return batch, tries


def _fresh(
    pool: Pool, wanted: int, make: Callable[[int], Assignment]
) -> tuple[list[Taken], tuple[int, int]]:
    """Children that are within the budget and new, and (made, tried)."""
    made: list[Taken] = []
    attempt = 0
    while len(made) < wanted and attempt < TRIES * wanted:
        taken = pool.take(make(attempt))
        if taken is not None:
            made.append(taken)
        attempt += 1
    return made, (len(made), attempt)


def point(candidate: Candidate, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """A candidate's objectives, each the more the better."""
    figures = {
        "accuracy": candidate.score.accuracy,
        "params": -candidate.cost.params,
        "macs": -candidate.cost.macs,
        "activations": -candidate.cost.activations,
    }
    return tuple(figures[objective] for objective in objectives)


def ranked(tried: Sequence[Candidate], objectives: Sequence[Objective]) -> list[Candidate]:
    """Those that could be evaluated, the best first, of equals the earliest."""
    scored = [c for c in tried if not c.score.failure]
    return [scored[i] for i in best_first([point(c, objectives) for c in scored])]


def best_of(tried: Sequence[Candidate]) -> Candidate | None:
    """The most accurate, of equals the cheapest, then the earliest; None if all failed."""
    scored = [c for c in tried if not c.score.failure]
    return min(scored, key=_order, default=None)


def _order(candidate: Candidate) -> tuple[float, int, int, int]:
    cost = candidate.cost
    return -candidate.score.accuracy, cost.params, cost.macs, candidate.number


class Unscored(SpaceError):
    """No network of a search has a score (SP703): all processes of a run meet that alike."""


def found(tried: Sequence[Candidate], objectives: Sequence[Objective], exhausted: bool) -> Found:
    """The end of a search; a single objective shows its front over accuracy and parameters."""
    best = best_of(tried)
    if best is None:
        raise Unscored(error("SP703", "no candidate could be evaluated"))
    shown = objectives if len(objectives) > 1 else ("accuracy", "params")
    scored = [c for c in tried if not c.score.failure]
    unbeaten = front([point(c, shown) for c in scored])
    return Found(best, tuple(scored[i] for i in unbeaten), len(tried), exhausted)
