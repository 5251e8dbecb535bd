"""TinyViT's contraction (ECCV 2022): smaller and smaller networks around the best so far.

    search contraction { bounds = ["params <= 11M", "params <= 6M"]  keep = 3 }

It begins with the largest network. Under each bound it makes networks whose factors differ a little
from those kept, trains each from scratch, and keeps the best for the next, tighter bound. Nothing
is shared: `probe` of its trainer trains what it scores (`Scratch` of the PyTorch backend).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import count, islice
from types import MappingProxyType
from typing import ClassVar

from spacelang.diagnostics import SpaceError, error
from spacelang.engines.evolution import best_of, found, ranked
from spacelang.engines.pool import Name, Pool, Taken, assemble, encoding
from spacelang.engines.protocol import (
    Candidate,
    Evaluated,
    Event,
    GenerationEnded,
    Prober,
    Samples,
    Weights,
)
from spacelang.engines.settings import check
from spacelang.engines.stream import Stream
from spacelang.ir.decision import Assignment, Choice, Kind, exact
from spacelang.ir.dim import Value
from spacelang.ir.graph import Graph

# No code was released; the procedure is a maintainer's description (microsoft/Cream, issue 141).
DEVIATIONS: Mapping[str, str] = MappingProxyType(
    {
        "moves": "how many factors change and by how much, how many networks are tried and kept, "
        "and the bounds between the sizes were not published: they are settings",
        "throughput": "bounds are exact figures (params, macs, activations), and latency and "
        "throughput by the model of a table; published: measured throughput",
        "order": "that widths do not shrink from stage to stage is left to the space's `require`",
    }
)
TRIES = 50  # a child: at most so many tries for each that is wanted


@dataclass(frozen=True)
class Contraction:
    """One round a bound.

    population   networks tried in a round
    keep         of them the best are the bases of the next round
    factors      at most so many decisions of a base change in a child, at least one
    reach        and each by at most so many candidates up or down
    latency      the file of a latency table, for bounds as "latency <= 5ms" and "throughput >= 200"
    """

    name: ClassVar[str] = "contraction"
    kinds: ClassVar[frozenset[Kind]] = frozenset(("dim", "presence", "path"))
    weights: ClassVar[Weights] = "scratch"

    bounds: tuple[str, ...] = ("",)
    population: int = 20
    keep: int = 3
    factors: int = 4
    reach: int = 2
    latency: str = ""
    part: str = "validation"
    samples: int | None = None

    def __post_init__(self) -> None:
        if not self.bounds:
            raise ValueError("at least one bound is needed")
        if min(self.population, self.keep, self.factors, self.reach) < 1:
            raise ValueError("population, keep, factors and reach are at least 1")

    @property
    def planned(self) -> int:
        """The most networks that a run trains."""
        return len(self.bounds) * self.population

    def run(self, space: Graph, trainer: Prober, seed: int) -> Iterator[Event]:
        """Evaluated for each network, GenerationEnded a bound, and at the end Found.

        Where no network near those kept meets a bound, those between are passed without training;
        SP502 where that leads no closer. SP703 where none can be scored.
        """
        check(self, space)
        bases: Sequence[Assignment] = (space.decisions.extreme("largest"),)
        number = 0
        pools = [Pool(space, bound, seed, self.latency) for bound in self.bounds]
        for turn, (bound, pool) in enumerate(zip(self.bounds, pools, strict=True)):
            batch = self._reached(pool, bases, (seed, "contraction", turn))
            if not batch:
                raise SpaceError(
                    error("SP502", f"no network near those kept meets {bound or 'the space'!r}")
                    .note(f"{self.factors} factors change by up to {self.reach} candidates")
                    .note(*pool.seen)
                    .hint("let more change (factors, reach), or put a bound between")
                )
            scores = trainer.probe((a for a, _ in batch), Samples(self.part, self.samples))
            tried: list[Candidate] = []
            for (assignment, cost), score in zip(batch, scores, strict=True):
                candidate = Candidate(number, turn, "mutation", assignment, cost, score)
                number += 1
                tried.append(candidate)
                yield Evaluated(candidate, self.planned)
            best = best_of(tried)
            if best is None:
                raise SpaceError(
                    error("SP703", f"none of {len(tried)} networks could be trained").note(
                        tried[-1].score.failure
                    )
                )
            bases = [c.assignment for c in ranked(tried, ("accuracy",))[: self.keep]]
            yield GenerationEnded(turn, best, {})
            if turn == len(self.bounds) - 1:
                yield replace(found(tried, ("accuracy",), exhausted=False), evaluated=number)

    def _reached(self, pool: Pool, bases: Sequence[Assignment], name: Name) -> list[Taken]:
        """Networks within the bound near the bases. Where there are none, near those of their
        children that are the least beyond it, and so on as long as that leads closer."""
        nearest, attempts = min(map(pool.excess, bases)), count()
        while True:
            within, beyond = self._children(pool, bases, name, attempts)
            closer = sorted(beyond, key=pool.excess)[: self.keep]
            if within or not closer or pool.excess(closer[0]) >= nearest:
                return within
            bases, nearest = closer, pool.excess(closer[0])

    def _children(
        self, pool: Pool, bases: Sequence[Assignment], name: Name, attempts: Iterator[int]
    ) -> tuple[list[Taken], Collection[Assignment]]:
        """Different networks within the bound, fewer than wanted where few tries hit it; and what
        missed it."""
        within = [taken for base in bases if (taken := pool.take(base)) is not None]
        within = within[: self.population]
        beyond: dict[str, Assignment] = {}
        for attempt in islice(attempts, TRIES * self.population):
            if len(within) == self.population or pool.exhausted:
                break
            child = self._child(pool.space, bases, (*name, attempt))
            taken = pool.take(child)
            if taken is not None:
                within.append(taken)
            elif not within:  # else nobody asks
                beyond[encoding(child)] = child
        return within, beyond.values()

    def _child(self, space: Graph, bases: Sequence[Assignment], name: Name) -> Assignment:
        """A base with some of its factors moved; a factor that becomes live is drawn."""
        stream = Stream(*name)
        base = {path: exact(value) for path, value in stream.choice(bases).items()}
        movable = [path for path in base if len(space.decisions[path].values) > 1]
        wanted = 1 + stream.below(min(self.factors, len(movable))) if movable else 0
        changing: set[str] = set()
        while len(changing) < wanted:
            changing.add(stream.choice(movable))

        def take(choice: Choice) -> Value:
            kept = base.get(choice.path)
            if kept is None:
                return Stream(*name, choice.path).choice(choice.values)
            if choice.path not in changing:
                return kept
            return Stream(*name, choice.path).choice(_near(choice, kept, self.reach))

        return assemble(space.decisions, take)


def _near(choice: Choice, value: Value, reach: int) -> list[Value]:
    """The other candidates within `reach` places; of paths, which have no order, all others."""
    numbers = [v for v in choice.values if isinstance(v, Fraction)]
    if len(numbers) < len(choice.values) or not isinstance(value, Fraction):
        return [v for v in choice.values if v != value]
    numbers.sort()
    place = numbers.index(value)
    near = numbers[max(0, place - reach) : place + reach + 1]
    return [v for v in near if v != value]
