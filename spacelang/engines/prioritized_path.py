"""Cream of the Crop (NeurIPS 2020): paths are taught by the best paths met so far.

    search prioritized_path { epochs = 120  board = 10  warm_epochs = 20 }

Each step trains one random path. After a warm-up the best of them stand on a board, and one of the
board teaches the path of the step: the one that a small network, trained along, matches to it. The
result is the first of the board; nothing else is searched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from types import MappingProxyType
from typing import ClassVar, Literal

from spacelang.diagnostics import SpaceError, error
from spacelang.engines.board import MATCHED, MATCHING, Board, Entry, Ties, warn_if_never
from spacelang.engines.evolution import found
from spacelang.engines.laws import whole
from spacelang.engines.pool import REDRAWS, Pool, assemble, encoding
from spacelang.engines.protocol import (
    Candidate,
    EpochEnded,
    Evaluated,
    Event,
    Forward,
    LossTerm,
    Matcher,
    Samples,
    Stepped,
    StepPlan,
    Weights,
)
from spacelang.engines.settings import check
from spacelang.engines.stream import Stream
from spacelang.ir.decision import Assignment, Choice, Kind, plain
from spacelang.ir.dim import Value
from spacelang.ir.figures import Cost
from spacelang.ir.graph import Graph

# Where the defaults depart from microsoft/Cream's code, and what gives the published behaviour.
DEVIATIONS: Mapping[str, str] = MappingProxyType(
    {
        "match": "the weight of a teacher comes from its own score; published (match = reference): "
        "from the score of the board's last entry, with the sign turned",
        "second-order": "the matching network learns through an exact inner step by the learning "
        "rate of the weights; published: through the first tensor of the path alone, by its own "
        "learning rate, and the inner step is really taken",
        "ties": "of equally accurate paths the cheaper leads; published: the dearer",
        "frequencies": "sampling = board counts a candidate of a decision once more than the board "
        "has it, so that none is lost; published: the board's of all decisions together, and never "
        "in use",
        "features": "a path is remembered by its own outputs; published: by its teacher's",
        "unscored": "where no score is a number the first of the board teaches; published: a crash",
        "optimiser": "the matching network has an AdamW of its own, without decay, at a constant "
        "rate; published: two groups of the weights' SGD, at a rate that decays with theirs",
        "recipe": "weights are trained by the settings of training, by default AdamW with a decay "
        "of 0.05, a warm-up and a cosine; published: Nesterov's SGD and a linear fall to 0, which "
        "is --opt sgd --weight-decay 1e-4 --sched poly --decay-rate 1 --min-lr 0 --warmup-epochs 0",
        "statistics": "matching asks without moving batch-norm statistics; published: each image "
        "of the board moves them",
        "end": "the board is scored on the validation part at the end; published: one random path "
        "after each epoch",
    }
)

Name = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Lesson:
    """The entry that teaches, and the slot whose match weighs what it says; None: evenly."""

    teacher: Entry
    judge: int | None


@dataclass(frozen=True)
class PrioritizedPath:
    """Cream's training; the defaults are the published ones but for DEVIATIONS.

    board          entries of the board
    images         of a batch that an entry is remembered by
    warm_epochs    up to and with this epoch, counted from 0, there is no board
    update_every   steps of an epoch between two updates of the matching network (second order);
                   MatchWarning where an epoch has no more
    gap            percentage points by which a dearer path must beat the worst of the board
    pick           who teaches: the best matched entry (meta), or the first of the board (top1)
    sampling       uniform; prior (`probabilities`, by the number of a candidate); or board, as
                   often as the board has a candidate, and once more
    second_order   also train the matching network through the student's next loss
    match_lr       the learning rate of the matching network
    """

    name: ClassVar[str] = "prioritized_path"
    kinds: ClassVar[frozenset[Kind]] = frozenset(("path", "presence"))
    weights: ClassVar[Weights] = "own"

    epochs: int = 120
    board: int = 10
    images: int = 4
    warm_epochs: int = 20
    update_every: int = 200
    gap: float = 5.0
    pick: Literal["meta", "top1"] = "meta"
    sampling: Literal["uniform", "prior", "board"] = "uniform"
    probabilities: tuple[float, ...] = (0.05, 0.2, 0.05, 0.5, 0.05, 0.15)
    match: Literal["winner", "reference"] = "winner"
    ties: Ties = "cheaper"
    features: Literal["own", "teacher"] = "own"
    second_order: bool = True
    match_lr: float = 1e-4
    smoothing: float = 0.1
    where: str = ""
    part: str = "validation"
    samples: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.warm_epochs < 0:
            raise ValueError("epochs >= 1 and warm_epochs >= 0 are needed")
        if min(self.board, self.images, self.update_every) < 1:
            raise ValueError("board, images and update_every are at least 1")
        if not 0 <= self.smoothing < 1 or min(self.gap, self.match_lr) < 0:
            raise ValueError("smoothing is in 0..1, the gap and match_lr are not negative")
        if any(p < 0 for p in self.probabilities) or sum(self.probabilities) <= 0:
            raise ValueError("probabilities are not negative, and one is above 0")

    @property
    def matched(self) -> range:
        """The epochs with steps whose teacher is matched."""
        first = self.warm_epochs + 1 if self.pick == "meta" else self.epochs
        return range(first, self.epochs)

    @property
    def planned(self) -> int:
        """The most evaluations that a run makes."""
        return self.board

    def run(self, space: Graph, trainer: Matcher, seed: int) -> Iterator[Event]:
        """Stepped for each step, EpochEnded; then the board as Evaluated, and Found.

        SP701 for decisions other than paths and presences, for a prior that does not fit them, and
        where training would end before any path could enter the board.
        """
        check(self, space)
        self._check_prior(space)
        if self.epochs < self.warm_epochs + 2:
            found = error("SP701", "training would end before a path could enter the board")
            needed = f"epochs is {self.epochs}: at least warm_epochs + 2 = {self.warm_epochs + 2}"
            raise SpaceError(found.hint(needed))
        pool = Pool(space, self.where)
        board = Board(self.board, self.gap, self.ties)
        length = trainer.steps("train")
        if self.second_order and self.pick == "meta":
            warn_if_never(self.update_every, length)
        step = 0
        for epoch in range(self.epochs):
            for batch in range(length):
                path, cost = self._draw(pool, board, (seed, "path", epoch, batch))
                plan = StepPlan(step, epoch, batch, (Forward(path),), self._losses(None))
                lesson = self._lesson(plan, board, trainer)
                if lesson is not None and lesson.judge is not None and self._matches(batch):
                    update = _taught(plan, lesson, self._matching(lesson), "match")
                    yield Stepped(update, trainer.step(update))
                    step += 1
                    plan = replace(plan, step=step)
                    lesson = self._lesson(plan, board, trainer)  # by what was learned
                if lesson is not None:
                    groups = ("weights",) if lesson.judge is None else ("weights", "match")
                    plan = _taught(plan, lesson, self._losses(lesson), *groups)
                metrics = trainer.step(plan)
                step += 1
                if epoch > self.warm_epochs and metrics.total:  # 0: the step was left out
                    slot = board.offer(path, cost, 100 * metrics.correct / metrics.total)
                    if slot is not None:
                        of = 1 if self.features == "teacher" and lesson is not None else 0
                        trainer.remember(slot, plan, of, self.images)
                yield Stepped(plan, metrics)
            kept = tuple((entry.accuracy / 100, entry.assignment) for entry in board.entries)
            yield EpochEnded(epoch, self.epochs, kept)
        yield from self._end(board, trainer)

    # A path, drawn.

    def _draw(self, pool: Pool, board: Board, name: Name) -> tuple[Assignment, Cost]:
        def draw(number: int) -> Assignment:
            return assemble(
                pool.space.decisions,
                lambda c: self._candidate(c, board, Stream(*name, number, c.path)),
            )

        def weights() -> Mapping[str, Sequence[int]]:
            given = {c.path: self._weights(c, board) for c in pool.space.decisions.order}
            return {path: whole(own) for path, own in given.items() if own}

        drawn = pool.redrawn(draw, weights, *name)
        if drawn is None:
            found = error("SP502", f"{REDRAWS:,} draws met no path within {self.where!r}")
            raise SpaceError(found.note(*pool.inexact))
        return drawn

    def _candidate(self, choice: Choice, board: Board, stream: Stream) -> Value:
        weights = self._weights(choice, board)
        if not weights:
            return stream.choice(choice.values)
        reached = stream.uniform() * math.fsum(weights)
        for value, weight in zip(choice.values, weights, strict=True):
            reached -= weight
            if reached < 0:
                return value
        return max(zip(weights, choice.values, strict=True), key=itemgetter(0))[1]

    def _weights(self, choice: Choice, board: Board) -> Sequence[float]:
        """Of the candidates of a decision; none where all are alike."""
        if self.sampling == "prior" and choice.kind == "path":
            return self.probabilities
        if self.sampling == "board":
            counted = board.frequencies(choice.path)
            return [1 + counted[plain(value)] for value in choice.values]  # so none is lost
        return ()

    def _check_prior(self, space: Graph) -> None:
        if self.sampling != "prior":
            return
        for choice in space.decisions.values():
            if choice.kind == "path" and len(choice.values) != len(self.probabilities):
                count = len(self.probabilities)
                headline = f"{choice.path} has {len(choice.values)} candidates, the prior {count}"
                raise SpaceError(error("SP701", headline, choice.span))

    # Its teacher.

    def _lesson(self, plan: StepPlan, board: Board, trainer: Matcher) -> Lesson | None:
        """Who teaches the path of a step, and whose match weighs it."""
        if not board.entries:
            return None
        first, last = board.entries[0], board.entries[-1]
        if self.pick == "top1":
            return Lesson(first, None)
        scores = trainer.match(plan, [entry.slot for entry in board.entries])
        if any(map(math.isnan, scores)):
            return Lesson(first, None)
        winner = board.entries[max(range(len(scores)), key=scores.__getitem__)]
        return Lesson(winner, winner.slot if self.match == "winner" else last.slot)

    def _matches(self, batch: int) -> bool:
        wanted = self.second_order and self.pick == "meta"
        return wanted and batch > 0 and batch % self.update_every == 0

    def _losses(self, lesson: Lesson | None) -> tuple[LossTerm, ...]:
        """(m KD + (2 - m) CE) / 2, where m is 1/2 or the sigmoid of a match."""
        options = {"smoothing": self.smoothing}
        if lesson is None:
            return (LossTerm("cross_entropy", 1.0, options),)
        if lesson.judge is None:
            return (
                LossTerm("cross_entropy", 0.75, options),
                LossTerm("soft_cross_entropy", 0.25, against=1),
            )
        return (LossTerm(MATCHED, 1.0, {**options, **self._judge(lesson)}, against=1),)

    def _matching(self, lesson: Lesson) -> tuple[LossTerm, ...]:
        options = {"smoothing": self.smoothing, **self._judge(lesson)}
        return (LossTerm(MATCHING, 1.0, options, against=1),)

    def _judge(self, lesson: Lesson) -> dict[str, float]:
        slot = -1 if lesson.judge is None else lesson.judge
        sign = 1 if self.match == "winner" else -1
        return {"slot": slot, "sign": sign, "rate": self.match_lr}

    def _end(self, board: Board, trainer: Matcher) -> Iterator[Event]:
        """The board, scored; its first is what was found."""
        distinct = {encoding(e.assignment): e for e in reversed(board.entries)}
        entries = sorted(distinct.values(), key=board.entries.index)
        scores = trainer.probe((e.assignment for e in entries), Samples(self.part, self.samples))
        scored: list[Candidate] = []
        for number, (entry, score) in enumerate(zip(entries, scores, strict=True)):
            scored.append(Candidate(number, 0, "random", entry.assignment, entry.cost, score))
            yield Evaluated(scored[-1], len(entries))
        yield replace(found(scored, ("accuracy",), exhausted=False), best=scored[0])


def _taught(plan: StepPlan, lesson: Lesson, losses: tuple[LossTerm, ...], *groups: str) -> StepPlan:
    """A step of one path, with a pass of its teacher."""
    passes = (*plan.forwards, Forward(lesson.teacher.assignment, learns=False))
    return replace(plan, forwards=passes, losses=losses, groups=groups)
