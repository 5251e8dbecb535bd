"""Cream's distillation for any student: a board of teachers, one of which teaches each step.

    engine = TeacherBoard(teachers=3, epochs=60, update_every=100)

Before a step a small network, trained along, matches the student as it is to each teacher; the best
matched one teaches, and counts by its match: (m KD + (2 - m) CE) / 2. In `prioritized_path` the
board is of paths of the student's own supernet and changes; here it is given and stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

from spacelang.engines.board import MATCHED, MATCHING, warn_if_never
from spacelang.engines.distillation import TEACHER
from spacelang.engines.laws import Law, check_weights
from spacelang.engines.paths import Plans, SinglePath
from spacelang.engines.protocol import (
    ALL_KINDS,
    EpochEnded,
    Event,
    Forward,
    LossTerm,
    Matcher,
    Stepped,
    StepPlan,
)
from spacelang.engines.settings import check
from spacelang.ir.decision import Kind
from spacelang.ir.graph import Graph

# Where this departs from Cream's distillation, beside what `prioritized_path` does.
DEVIATIONS: Mapping[str, str] = MappingProxyType(
    {
        "board": "teachers are given, and each is remembered by training images of its own, the "
        "first of the training part as they are; published: paths of the student's own supernet, "
        "by images of the batch that they entered with",
        "from the start": "teachers teach from the first step on; published: after epoch 20, when "
        "the board fills",
        "mode": "a teacher is in evaluation; published: in training, its statistics move",
    }
)


def teacher(number: int) -> str:
    """The name of the `number`-th teacher's network in a plan."""
    return f"{TEACHER}[{number}]"


@dataclass(frozen=True)
class TeacherBoard:
    """What a student learns from several teachers.

    losses        the one that there is: labels are in it
    images        of the training part that each teacher is remembered by
    update_every  steps of an epoch between two updates of the matching network through the
                  student's next loss (second order), MatchWarning where an epoch has no more; 0: it
                  learns by the loss of each step alone
    match_lr      the learning rate of the matching network
    """

    name: ClassVar[str] = "teacher_board"
    kinds: ClassVar[frozenset[Kind]] = ALL_KINDS

    teachers: int = 2
    epochs: int = 300
    law: Law = "choices"
    smoothing: float = 0.1
    losses: tuple[str, ...] = ("matched",)
    images: int = 4
    update_every: int = 200
    match_lr: float = 1e-4
    law_weights: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_weights(self.law, self.law_weights)
        if self.losses != ("matched",):
            raise ValueError("several teachers teach by the loss matched alone, labels are in it")
        if self.law == "sandwich":
            raise ValueError("a step of law sandwich has several networks, a match is of one")
        if self.teachers < 2 or self.images < 1:
            raise ValueError("two teachers, and an image of each, are needed")
        if self.update_every < 0 or self.match_lr < 0:
            raise ValueError("update_every and match_lr are not negative")

    def run(self, space: Graph, trainer: Matcher, seed: int) -> Iterator[Event]:
        """Stepped for each step that is left, EpochEnded after the last of an epoch."""
        check(self, space, fixed=True)
        length = trainer.steps("train")
        if self.update_every:
            warn_if_never(self.update_every, length)
        paths = SinglePath(self.epochs, self.law, self.smoothing, law_weights=self.law_weights)
        plans = Plans(paths, space, seed, length)
        for step in range(trainer.taken, self.epochs * length):
            plan = plans.at(step)
            yield self._step(plan, trainer)
            if plan.batch == length - 1:
                yield EpochEnded(plan.epoch, self.epochs)

    def _step(self, plan: StepPlan, trainer: Matcher) -> Stepped:
        """One update of the weights, after one of the matching network where its turn has come."""
        taught = self.plan(plan, trainer.match(plan, range(self.teachers)))
        if not (self._updates(plan.batch) and "match" in taught.groups):
            return Stepped(taught, trainer.step(taught))
        update = self.update(taught)
        learned = trainer.step(update)
        if not learned.terms:  # left out, and so is the whole step
            return Stepped(update, learned)
        taught = self.plan(plan, trainer.match(plan, range(self.teachers)))  # by what was learned
        done = trainer.step(taught)
        if not done.terms:
            return Stepped(taught, done)
        both = replace(taught, losses=taught.losses + update.losses)
        return Stepped(both, replace(done, terms={**done.terms, **learned.terms}))

    def update(self, taught: StepPlan) -> StepPlan:
        """What the matching network learns before a step, by the teacher that it has chosen."""
        losses = tuple(replace(term, kind=MATCHING) for term in taught.losses)
        return replace(taught, losses=losses, groups=("match",))

    def plan(self, plan: StepPlan, scores: Sequence[float]) -> StepPlan:
        """A step of training by paths, taught by the best matched teacher; by the first, and with
        even weights, where a score is no number."""
        scored = not any(map(math.isnan, scores))
        best = max(range(len(scores)), key=scores.__getitem__) if scored else 0
        labels = {"smoothing": self.smoothing}
        passes = (*plan.forwards, Forward({}, teacher(best), learns=False))
        if not scored:
            losses = (
                LossTerm("cross_entropy", 0.75, labels),
                LossTerm("soft_cross_entropy", 0.25, against=1),
            )
            return replace(plan, forwards=passes, losses=losses)
        options = {**labels, "slot": float(best), "sign": 1.0, "rate": self.match_lr}
        losses = (LossTerm(MATCHED, 1.0, options, against=1),)
        return replace(plan, forwards=passes, losses=losses, groups=("weights", "match"))

    def _updates(self, batch: int) -> bool:
        return self.update_every > 0 and batch > 0 and batch % self.update_every == 0
