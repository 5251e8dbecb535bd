"""What a trainer answered an engine, kept so that the engine can be brought back to where it was.

    answers = Answers(journal)
    replayed = Replayed(trainer, answers, answers.known(checkpointed))
    for event in engine.run(graph, replayed, seed): ...

An engine is a function of its settings, its seed and the trainer's answers. Started again over the
answers up to a checkpoint it makes the same plans and keeps the same board, without work; then the
trainer, restored from that checkpoint, goes on. So a step's answer is written with the checkpoint
that holds its weights; a score, which changes no weight, as soon as it is there. Work between a
checkpoint and a score (weights that are copied) is done again, and the score is taken as written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Generic, Protocol, TypeVar, cast

from spacelang.diagnostics import SpaceError, error
from spacelang.engines.protocol import (
    Cycler,
    Group,
    Matcher,
    Metrics,
    Rebuilder,
    Samples,
    Score,
    Slots,
    StepPlan,
    Trainer,
)
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.journal import Journal

Answer = Mapping[str, object]
Asked = TypeVar("Asked", bound=Trainer)
PROBE = "probe"


class FullTrainer(Matcher, Rebuilder, Protocol):
    """A trainer that can do all that an engine may ask."""


class Answers:
    """The answers of a run, in a journal; an entry holds some and says where they stand.

    Entries of an end that was lost are written again by the run that goes on, and win.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._all: list[Answer] = []
        self._new: list[Answer] = []
        self._lost: deque[Answer] = deque()  # what may come again, the next first
        for entry in journal.entries:
            start, some = entry.get("from"), entry.get("answers")
            if not (isinstance(start, int) and isinstance(some, list)) or not 0 <= start <= len(
                self._all
            ):
                raise SpaceError(error("SP702", f"{journal.path}: a line is no answers"))
            self._all[start:] = cast(list[Answer], some)

    def known(self, count: int) -> tuple[Answer, ...]:
        """The answers up to a checkpoint that counted them, and the scores right after it.

        What comes later has to be worked for again, but for scores (`score`). SP702 where the
        journal is shorter than the checkpoint says.
        """
        if count > len(self._all):
            raise SpaceError(
                error("SP702", f"{self._journal.path}: {len(self._all)} answers, not {count}").hint(
                    "restore the file from a copy, or start the run in another folder"
                )
            )
        while count < len(self._all) and PROBE in self._all[count]:
            count += 1
        self._lost = deque(self._all[count:])
        del self._all[count:]
        return tuple(self._all)

    def score(self, assignment: object) -> object:
        """The score in an end that was lost, where the same is asked next; None without one.

        All that led to it has come out as it did then: where something does not, the end is
        forgotten.
        """
        if not self._lost or self._lost[0].get(PROBE) != assignment:
            return None
        return self._lost[0]["answer"]

    def __len__(self) -> int:
        return len(self._all) + len(self._new)

    def add(self, answer: Answer) -> None:
        """A new answer, not yet on disk."""
        self._new.append(answer)
        if self._lost and self._lost.popleft() != answer:
            self._lost.clear()

    def flush(self) -> None:
        """All answers are on disk when this returns."""
        if self._new:
            self._journal.append({"from": len(self._all), "answers": self._new})
            self._all += self._new
            self._new = []


class Replaying(Generic[Asked]):
    """A trainer whose first answers are those that are known. Implements `Trainer`.

    `live` is whether the trainer itself was asked anything yet.
    """

    def __init__(self, trainer: Asked, answers: Answers, known: Sequence[Answer]) -> None:
        self._trainer, self._answers, self._known = trainer, answers, known
        self._at = 0
        self._taken = 0
        self.live = False

    @property
    def taken(self) -> int:
        """Steps in this space so far, as the engine has seen them."""
        return self._taken

    def steps(self, data: str) -> int:
        """How many batches an epoch of a part of the data has."""
        return self._trainer.steps(data)

    def step(self, plan: StepPlan) -> Metrics:
        """The metrics of a step: those that are recorded, else of a step that is taken and
        recorded."""
        self._taken = plan.step + 1
        if (kept := self._kept("step", plan.step)) is not None:
            return Metrics(**cast(dict[str, Any], kept))
        metrics = self._trainer.step(plan)
        self._answers.add({"step": plan.step, "answer": asdict(metrics)})
        return metrics

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        """Scores in order; new ones are on disk first."""
        for assignment in assignments:
            asked = dict(assignment)
            kept = self._kept(PROBE, asked)
            if kept is None:
                kept = self._answers.score(asked)
                if kept is None:
                    (score,) = self._trainer.probe([assignment], samples)
                    kept = asdict(score)
                self._answers.add({PROBE: asked, "answer": kept})
                self._answers.flush()
            yield Score(**cast(dict[str, Any], kept))

    def _once(self, kind: str, what: object, work: Callable[[], None]) -> None:
        """What has no answer and changes the trainer: done once, and told to be done."""
        if self._kept(kind, what) is None:
            work()
            self._answers.add({kind: what, "answer": True})

    def _kept(self, kind: str, what: object) -> object:
        """The next known answer; None where the trainer has to be asked (SP702 if another's)."""
        if self._at == len(self._known):
            self.live = True
            return None
        kept = self._known[self._at]
        if kept.get(kind) != what:
            raise SpaceError(
                error("SP702", f"answer {self._at} of the run is to another question")
                .note(f"{kind} {what} was asked, {dict(kept)} is kept")
                .hint("start the run in another folder")
            )
        self._at += 1
        return kept["answer"]


class Replayed(Replaying[FullTrainer]):
    """As `FullTrainer`."""

    inherited: int = 0

    def remember(self, slot: int, plan: StepPlan, of: int, images: int) -> None:
        """As the trainer's, once: what a record has is not done again."""
        self._once("remember", slot, lambda: self._trainer.remember(slot, plan, of, images))

    def match(self, plan: StepPlan, slots: Sequence[int]) -> Sequence[float]:
        """The scores of the trainer, recorded as text that is exact for every float."""
        kept = self._kept("match", plan.step)
        if kept is None:
            # As text: JSON holds no infinities, and Python's spelling of floats is exact.
            kept = [repr(float(score)) for score in self._trainer.match(plan, slots)]
            self._answers.add({"match": plan.step, "answer": kept})
        return [float(text) for text in cast(list[str], kept)]

    def space(self, ranges: Mapping[str, Sequence[float]]) -> Graph:
        """The graph of these ranges, which no answer is needed for."""
        return self._trainer.space(ranges)

    def rebuild(self, ranges: Mapping[str, Sequence[float]], inherit: bool) -> Graph:
        """The graph of other ranges; by a record without training again."""
        self._taken = 0
        wanted = {name: list(values) for name, values in ranges.items()}
        kept = self._kept("rebuild", wanted)
        if kept is not None:
            self.inherited = cast(int, kept)
            return self._trainer.space(ranges)
        graph = self._trainer.rebuild(ranges, inherit)
        self.inherited = self._trainer.inherited
        self._answers.add({"rebuild": wanted, "answer": self.inherited})
        return graph


class ReplayedCycles(Replaying[Cycler]):
    """As `Cycler`."""

    def reset(self, groups: Sequence[Group]) -> None:
        """As the trainer's, once."""
        names = [group.name for group in groups]
        self._once("reset", names, lambda: self._trainer.reset(groups))

    def alphas(self, network: str) -> Mapping[str, Sequence[float]]:
        """The architecture parameters of a network, by decision, as recorded where they are."""
        kept = self._kept("alphas", network)
        if kept is None:
            kept = {path: list(v) for path, v in self._trainer.alphas(network).items()}
            self._answers.add({"alphas": network, "answer": kept})
        return cast(Mapping[str, Sequence[float]], kept)

    def weigh(self, network: str, values: Mapping[str, Sequence[float]]) -> None:
        """As the trainer's, once."""
        self._once("weigh", network, lambda: self._trainer.weigh(network, values))

    def renew(self, slots: Slots, number: int) -> None:
        """As the trainer's, once."""
        self._once("renew", number, lambda: self._trainer.renew(slots, number))

    def copy(self, source: Slots, target: Slots) -> None:
        """As the trainer's, once."""
        names = [source.network, target.network]
        self._once("copy", names, lambda: self._trainer.copy(source, target))
