"""Training a supernet one path at a time: every step a random architecture (AutoFormer's law).

    for event in SinglePath(epochs=70).run(graph, trainer, seed=0): ...

The plan of a step is a function of the seed and the number of the step. What it draws is the law
(`laws.py`). A network without decisions is simply trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from spacelang.diagnostics import SpaceError, error
from spacelang.engines.laws import CandidateWeights, Law, check_weights
from spacelang.engines.pool import REDRAWS, Pool
from spacelang.engines.protocol import (
    ALL_KINDS,
    EpochEnded,
    Event,
    Forward,
    LossTerm,
    Stepped,
    StepPlan,
    Trainer,
)
from spacelang.engines.settings import check
from spacelang.engines.stream import seed_of
from spacelang.ir.decision import Assignment, Kind
from spacelang.ir.graph import Graph


@dataclass(frozen=True)
class SinglePath:
    """Path sampling by a law: no distillation, and no budget while training.

    `paths` are those that the sandwich draws; its ends are the ends of every range, whether the
    requirements of the space admit them or not, so that every weight is trained.
    """

    name: ClassVar[str] = "single_path"
    kinds: ClassVar[frozenset[Kind]] = ALL_KINDS

    epochs: int = 300
    law: Law = "choices"
    smoothing: float = 0.1  # of labels
    paths: int = 2
    law_weights: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_weights(self.law, self.law_weights)
        if self.epochs < 0 or self.paths < 0 or not 0 <= self.smoothing < 1:
            raise ValueError("epochs >= 0, paths >= 0 and smoothing in 0..1 are needed")

    def run(self, space: Graph, trainer: Trainer, seed: int) -> Iterator[Event]:
        """Stepped for each step that is left, EpochEnded after the last of an epoch."""
        check(self, space, fixed=True)
        length = trainer.steps("train")
        plans = Plans(self, space, seed, length)
        for step in range(trainer.taken, self.epochs * length):
            plan = plans.at(step)
            yield Stepped(plan, trainer.step(plan))
            if plan.batch == length - 1:
                yield EpochEnded(plan.epoch, self.epochs)


@dataclass
class Plans:
    """The plans of a run, by the number of the step; `length` is that of an epoch."""

    engine: SinglePath
    space: Graph
    seed: int
    length: int
    _epoch: int = field(default=-1, init=False)
    _drawn: tuple[Assignment, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        self._pool = Pool(self.space) if self.space.require else None
        # A network without decisions is simply trained, by whatever law.
        weights = self.engine.law_weights if self.space.decisions else ()
        self._weights = CandidateWeights.read(weights, self.space.decisions)

    def at(self, step: int) -> StepPlan:
        """The plan of a step."""
        epoch, batch = divmod(step, self.length)
        passes = tuple(Forward(path) for path in self._paths(step, epoch, batch))
        smoothing = {"smoothing": self.engine.smoothing}
        losses = tuple(LossTerm(options=smoothing, of=number) for number in range(len(passes)))
        return StepPlan(step, epoch, batch, passes, losses)

    def _paths(self, step: int, epoch: int, batch: int) -> tuple[Assignment, ...]:
        if not self.space.decisions or self.engine.law in ("choices", "weighted"):
            return (self._by_choices(step),)
        if self.engine.law == "sandwich":
            drawn = (self._by_choices(step, number) for number in range(self.engine.paths))
            ends = (self.space.decisions.extreme(which) for which in ("largest", "smallest"))
            return (*ends, *drawn)
        if epoch != self._epoch:  # an epoch's draws are made together: a draw alone costs as much
            seed = seed_of(self.seed, "path", epoch)
            self._epoch, self._drawn = epoch, tuple(self.space.sample(self.length, seed))
        return (self._drawn[batch],)

    def _by_choices(self, step: int, *number: int) -> Assignment:
        name, weights = (self.seed, "path", step, *number), self._weights

        def draw(attempt: int) -> Assignment:
            return weights.draw(self.space.decisions, (*name, attempt))

        if self._pool is None:
            return draw(0)
        drawn = self._pool.redrawn(draw, lambda: weights.whole, *name)
        if drawn is None:
            found = error("SP502", f"{REDRAWS:,} draws met no network of {self.space.name}")
            raise SpaceError(
                found.note(*self._pool.inexact).hint(
                    "--law architectures draws within any requirement directly"
                )
            )
        return drawn[0]
