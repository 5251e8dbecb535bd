"""Searching the search space as S3 (AutoFormerV2, NeurIPS 2021) does: ranges move, then a search.

    search space_evolution { iterations = 3  probes = 1000  threshold = 0.4 }

Each iteration trains the supernet of the space by the sandwich rule, scores architectures drawn
from it, and moves every range the way its error falls, within what the text allows (`within`). In
the space that it comes to, the supernet is trained once more and searched by evolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

from spacelang.analysis.latency import open_model
from spacelang.analysis.subspace import Subspace
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.evolution import Evolution
from spacelang.engines.paths import SinglePath
from spacelang.engines.pool import Pool, encoding
from spacelang.engines.protocol import (
    ALL_KINDS,
    Candidate,
    Evaluated,
    Event,
    Found,
    GenerationEnded,
    Rebuilder,
    Samples,
    SpaceMoved,
    Weights,
)
from spacelang.engines.ranges import (
    Rounding,
    by_value,
    candidates,
    dimensions,
    et_error,
    having,
    moved,
    tendency,
)
from spacelang.engines.settings import check
from spacelang.engines.stream import seed_of
from spacelang.ir.decision import Kind
from spacelang.ir.figures import Between
from spacelang.ir.graph import Graph

# Nothing of the search was published as code, and the paper was not at hand: what we decided.
DEVIATIONS: Mapping[str, str] = MappingProxyType(
    {
        "settings": "recalled of the paper: 3 iterations, a threshold of 0.4, the 50 best, the "
        "error as half the mean of all and half that of the best, the sandwich step with two "
        "random networks, 300 epochs, and the evolution that follows (50 networks, 20 "
        "generations); 1,000 probes are ours",
        "index": "the error is fitted over the number of a candidate (0, 1, 2..), not its value: "
        "only so does one threshold serve depths and widths",
        "steps": "a step is the smallest gap of a range; recalled of the paper: 1 block, 64 "
        "channels, ratio 0.5, window 7, 2 heads",
        "rounding": "moves are rounded towards zero, so that small slopes leave a range as it is; "
        "rounding = floor is the update as it is recalled",
        "probes": "networks are drawn by choices, every decision uniform, again until the budget "
        "is met, as AutoFormer's code draws; one drawn twice counts twice. How the paper draws its "
        "own is not known; drawn uniformly over architectures, hardly one would be shallow",
        "per-block": "an architecture counts for a block's candidate once for each block with it",
        "scratch": "no weights pass from one space to the next unless inherit is true",
        "budget": "a move that would leave no network within the budget is not made; moving ends",
        "hull": "what leaves the hull of the text is dropped, and a range that would leave it "
        "wholly stops at its edge; recalled: what is not above 0 is dropped",
    }
)


@dataclass(frozen=True)
class SpaceEvolution:
    """S3's loop; which of its settings are recalled of the paper, DEVIATIONS say.

    iterations   how often the ranges may move
    epochs       of training of each iteration's supernet, and of the last one's
    paths        random architectures of a sandwich step, beside the largest and the smallest
    probes       architectures drawn by choices to judge the ranges, each scored once
    top          so many of a subspace's best make the second half of its error
    threshold    percentage points of error per candidate that move a range by one step
    inherit      each supernet begins with what its weights share with the last one's
    The rest are the settings of the evolution in the space that was found.
    """

    name: ClassVar[str] = "space_evolution"
    kinds: ClassVar[frozenset[Kind]] = ALL_KINDS
    weights: ClassVar[Weights] = "own"
    moves: ClassVar[bool] = True

    iterations: int = 3
    epochs: int = 300
    paths: int = 2
    probes: int = 1000
    top: int = 50
    threshold: float = 0.4
    rounding: Rounding = "trunc"
    inherit: bool = False
    smoothing: float = 0.1
    generations: int = 20
    population: int = 50
    parents: int = 10
    mutants: int = 25
    crossovers: int = 25
    m_prob: float = 0.2
    s_prob: float = 0.4
    where: str = ""
    latency: str = ""
    part: str = "validation"
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.paths < 0 or self.epochs < 0:
            raise ValueError("iterations, epochs and paths are not negative")
        if self.probes < 1 or self.top < 1:
            raise ValueError("probes and top are at least 1")
        if self.threshold <= 0:
            raise ValueError("the threshold is above 0")
        self._evolution()

    @property
    def planned(self) -> int:
        """The most evaluations that a run makes."""
        return self.iterations * self.probes + self._evolution().planned

    def run(self, space: Graph, trainer: Rebuilder, seed: int) -> Iterator[Event]:
        """Steps and Evaluated of each iteration, SpaceMoved at its end, then those of evolution.

        It stops moving where no range moves. SP701 for a space without a range that can, SP512 for
        a table of latencies without all operations of the hull.
        """
        check(self, space)
        if not dimensions(space):
            raise SpaceError(
                error("SP701", f"no range of {space.name} can move").hint(
                    "say how far: choose width in {192, 256} within 64..512 by 64"
                )
            )
        # A budget that no draw meets, and a table that lacks what a move may lead to, are refused
        # before any training.
        pool = Pool(space, self.where, seed, self.latency)
        if self.latency and self.iterations:
            self._knows(space, trainer)
        pool.draw(1, "begun")
        number = 0
        for iteration in range(self.iterations):
            # Drawn first: a budget that so many draws do not meet costs no training.
            pool = Pool(space, self.where, seed_of(seed, "probes", iteration), self.latency)
            drawn = pool.by_choices(self.probes, iteration)
            yield from self._train(space, trainer, seed_of(seed, "space", iteration))
            once = {encoding(assignment): (assignment, cost) for assignment, cost in drawn}
            scores = trainer.probe((a for a, _ in once.values()), Samples(self.part, self.samples))
            tried: dict[str, Candidate] = {}
            for (name, (assignment, cost)), score in zip(once.items(), scores, strict=True):
                tried[name] = Candidate(number, iteration, "random", assignment, cost, score)
                number += 1
                yield Evaluated(tried[name], self.planned)
            event = self._move(space, iteration, [tried[encoding(a)] for a, _ in drawn])
            moves = event.before != event.after
            if moves and not self._reaches(trainer.space(event.after), seed):
                event = replace(event, after=event.before)
            if event.before == event.after:
                yield event
                break
            space = trainer.rebuild(event.after, self.inherit)
            event = replace(event, sizes=(event.sizes[0], space.size()))
            yield replace(event, shared=shared(event, trainer), inherited=trainer.inherited)
        yield from self._train(space, trainer, seed_of(seed, "space", self.iterations))
        for event in self._evolution().run(space, trainer, seed):
            yield self._counted(event, number)

    def _counted(self, event: Event, before: int) -> Event:
        """An event of the evolution, its candidates counted on from those that judged ranges."""

        def on(candidate: Candidate) -> Candidate:
            return replace(candidate, number=before + candidate.number)

        match event:
            case Evaluated(candidate):
                return Evaluated(on(candidate), self.planned)
            case GenerationEnded():
                return replace(event, best=on(event.best))
            case Found(best, front, evaluated):
                front = tuple(map(on, front))
                return replace(event, best=on(best), front=front, evaluated=before + evaluated)
            case _:
                return event

    def _knows(self, space: Graph, trainer: Rebuilder) -> None:
        """SP512 where the table lacks operations of the hull, as far as they can be listed."""
        whole = [replace(d, values=d.hull) for d in dimensions(space)]
        try:
            open_model(trainer.space(candidates(whole)), self.latency)
        except SpaceError as failed:
            (found,) = failed.diagnostics
            if found.code != "SP512":
                raise
            raise SpaceError(found.hint(f"{found.help} --hull")) from failed

    def _reaches(self, space: Graph, seed: int) -> bool:
        """Whether draws by choices, of probes, and uniform ones, of the search at the end, meet the
        budget in a space."""
        try:
            pool = Pool(space, self.where, seed, self.latency)
            pool.by_choices(self.probes, "reached")
            pool.draw(1, "reached")
        except SpaceError as failed:
            if failed.diagnostics[0].code not in ("SP502", "SP507"):
                raise
            return False
        return True

    def _train(self, space: Graph, trainer: Rebuilder, seed: int) -> Iterator[Event]:
        engine = SinglePath(self.epochs, "sandwich", self.smoothing, self.paths)
        return engine.run(space, trainer, seed)

    def _move(self, space: Graph, iteration: int, drawn: list[Candidate]) -> SpaceMoved:
        """What the candidates of one iteration say, those that were drawn twice twice."""
        scored = [c for c in drawn if not c.score.failure]
        errors = [(c.assignment, 100 * (1 - c.score.accuracy)) for c in scored]
        ranges = dimensions(space)
        slopes = {
            d.name: tendency([et_error(e, self.top) for e in by_value(d, errors)]) for d in ranges
        }
        networks = {
            d.name: having(d, (c.assignment for c in scored)) for d in ranges if len(d.values) > 1
        }
        after = moved(ranges, slopes, self.threshold, self.rounding)
        size = space.size()
        now, then = candidates(ranges), candidates(after)
        return SpaceMoved(iteration, slopes, networks, now, then, (size, size), size)

    def _evolution(self) -> Evolution:
        return Evolution(
            self.generations,
            self.population,
            self.parents,
            self.mutants,
            self.crossovers,
            self.m_prob,
            self.s_prob,
            self.where,
            self.latency,
            part=self.part,
            samples=self.samples,
        )


def shared(move: SpaceMoved, trainer: Rebuilder) -> int | Between | None:
    """How many architectures are in a space before and after its ranges moved: they are counted as
    sub-spaces of the space that has the candidates of both."""
    joined = {name: sorted({*had, *move.after[name]}) for name, had in move.before.items()}
    whole = Subspace(trainer.space(joined))
    was, now = (
        whole.restrict({p: ranges[d.name] for d in dimensions(whole.graph) for p in d.paths})
        for ranges in (move.before, move.after)
    )
    try:
        return (was & now).size
    except SpaceError as failed:
        if failed.diagnostics[0].code not in ("SP507", "SP508"):  # a figure alone ends no run
            raise
        return None
