"""Engines that train the networks of a program: a run folder that a killed run goes on from.

    result = search_program(CyclicDifferentiable(epochs=8), program, data, recipe, "runs/cells")

The folder is that of a training of the network with the decisions, so its weights can be extracted
from; besides it holds `program/`, all networks, `answers.jsonl`, what the trainer answered the
engine, and at the end `<engine>.json` and `report.html`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Protocol

from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.data.preprocessing import IMAGES, preprocessing
from spacelang.backends.torch.reports.search_report import write_search_report
from spacelang.backends.torch.runs.interrupt import Interrupt
from spacelang.backends.torch.runs.progress import Reporter, progress
from spacelang.backends.torch.runs.ranks import current
from spacelang.backends.torch.runs.run import Json, Log, RunFolder, write_graph, write_json
from spacelang.backends.torch.runs.searched import Searched
from spacelang.backends.torch.runs.trackers import Tracker, check_trackers, trackers
from spacelang.backends.torch.searching.cycle_trainer import CycleTrainer
from spacelang.backends.torch.searching.program_folder import hashes, read_program, write_program
from spacelang.backends.torch.searching.search import open_journal
from spacelang.backends.torch.searching.stage_reporter import StageReporter
from spacelang.backends.torch.searching.train_and_search import ANSWERS
from spacelang.backends.torch.training.checkpoint import Checkpoints, shapes_of
from spacelang.backends.torch.training.feed import FIRST, SECOND
from spacelang.backends.torch.training.fsdp_check import check_pieces
from spacelang.backends.torch.training.nonfinite import policy_of
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.torch_compile_check import refuse_compiling
from spacelang.backends.torch.training.training import (
    PROGRAM,
    Tally,
    fits,
    identity,
    note,
    room_for,
)
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.derive import Derivation
from spacelang.engines.protocol import (
    Able,
    Candidate,
    Cycler,
    Derived,
    EpochEnded,
    Evaluated,
    Event,
    Found,
    Stepped,
)
from spacelang.engines.replay import Answers, ReplayedCycles
from spacelang.engines.settings import settings_of
from spacelang.files import PathLike
from spacelang.ir.program import Program

FOLDER = "program"
# What counts of a recipe, and what is the engine's own whatever a recipe says.
TAKEN = ("batch_size", "aug", "amp", "amp_dtype", "channels_last", "grad_checkpointing", "shards",
         "reduce")  # fmt: skip
OWN = ("epochs", "smoothing", "clip_grad")


class ProgramEngine(Able, Protocol):
    """An engine for programs: `passes` epochs of any kind, with smoothed labels and clipping."""

    smoothing: float
    clip_grad: float | None

    @property
    def passes(self) -> int: ...

    def planned_steps(self, first: int, second: int) -> int: ...

    def derivation(self, program: Program) -> Derivation: ...

    def run(self, space: Program, trainer: Cycler, seed: int) -> Iterator[Event]: ...


def open_program(folder: PathLike) -> Program:
    """The program that a run is of (SP702 where it cannot be read)."""
    return read_program(Path(folder) / FOLDER)


def search_program(
    engine: ProgramEngine,
    program: Program,
    data: Dataset,
    recipe: Recipe,
    folder: PathLike,
    *,
    seed: int = 0,
    device: str = "cpu",
    keep: int = 2,
    reporter: Reporter | None = None,
    on_nan: str = "error",
    settings: Mapping[str, object] | None = None,
    log_to: Sequence[str] = (),
) -> Searched:
    """Run an engine to its end in a folder, going on where an earlier call stopped.

    Of the recipe what is TAKEN counts; optimisers and rates are the engine's, what else a recipe
    sets is refused (SP701). `keep`, `on_nan` and `log_to` are those of `train`, but nothing is
    rolled back: rates are constant. Raises Interrupted after a signal (state saved), NotFinite,
    Locked, OSError, SP701 where engine and program do not fit, SP702 for a folder of another run,
    and SP708 for processes that cannot share a batch so.
    """
    current().shards(recipe.shards)
    check_pieces(recipe, current(), several=True)
    refuse_compiling(recipe, engine.name)
    _refuse_ignored(engine, recipe)
    policy = policy_of(on_nan)
    if policy == "rollback":
        found = error(
            "SP701", f"{engine.name} has constant rates: rolled back it meets the same step"
        )
        raise SpaceError(found.hint("--on-nan skip, or lower rates of the engine"))
    check_trackers(log_to)
    graph = engine.derivation(program).space
    for network in program.networks.values():
        fits(network, data)
    recipe = replace(
        recipe, epochs=engine.passes, smoothing=engine.smoothing, clip_grad=engine.clip_grad
    )
    about = identity(graph, data, recipe, seed)
    about["engine"] = {"name": engine.name, "settings": settings_of(engine)}
    about["program"] = {**hashes(program), "shared": _digest(program)}
    with (
        RunFolder(folder, PROGRAM, about, settings) as run,
        Interrupt() as interrupt,
        open_journal(run.path / ANSWERS) as journal,
    ):
        answers = Answers(journal)
        run.begun = lambda: len(answers) > 0
        write_graph(run.path, graph)
        write_json(run.path / IMAGES, preprocessing(data))
        current().lead(lambda: write_program(run.path / FOLDER, program))
        trainer = CycleTrainer(program, data, recipe, seed, device)
        trainer.guard.policy = policy
        trainer.guard.note = lambda record: note(run.path, record)
        room_for(run.path, trainer.networks, keep)
        store = Checkpoints(run.path, graph=graph.hash, keep=keep)
        followers = trackers(log_to, run.path)
        work = Work(run.path, trainer, store, answers, interrupt, followers)
        work.resume()
        result = work.run(engine, program, StageReporter(reporter or progress("quiet")))
        result.keep(run.path)
        write_search_report(run.path, graph, data, result, work.log.entries)
    return result


def _refuse_ignored(engine: ProgramEngine, recipe: Recipe) -> None:
    """SP701 for settings of training that would be taken without a word, and do nothing."""
    usual = Recipe()
    names = [f.name for f in fields(Recipe) if f.name not in (*TAKEN, *OWN)]
    ignored = [name for name in names if getattr(recipe, name) != getattr(usual, name)]
    if ignored:
        headline = f"{engine.name} trains by cycles of its own, without {', '.join(ignored)}"
        raise SpaceError(error("SP701", headline).hint("leave that out"))


def _digest(program: Program) -> str:
    """What a program shares and keeps, as a hash."""
    pool = program.pool and (program.pool.of, program.pool.paths)
    shared = {path: list(names) for path, names in program.shared.items()}
    return hashlib.sha256(json.dumps([shared, pool], sort_keys=True).encode()).hexdigest()


@dataclass
class Work:
    """A run under way in its folder."""

    path: Path
    trainer: CycleTrainer
    store: Checkpoints
    answers: Answers
    interrupt: Interrupt
    followers: Sequence[Tracker] = ()
    answered: int = field(default=0, init=False)  # at the checkpoint that was taken up

    def resume(self) -> None:
        """Take up the newest checkpoint, if there is one, and the log up to it."""
        found = self.store.load(shapes_of(self.trainer.model.state_dict()))
        if found is not None:
            self.trainer.restore(found)
            self.answered = _answered(found.state)
        self.log = Log(self.path, self.trainer.taken, self.followers)
        self.trainer.ranks.same(
            str((self.trainer.taken, self.answered, len(self.log.entries))),
            "the checkpoint that they see: is the folder shared?",
        )

    def save(self, epoch: int) -> None:
        """A checkpoint, after the answers that lead to it and so many finished epochs."""
        self.answers.flush()
        self.trainer.save(self.store, {"answers": len(self.answers)}, epoch=epoch)

    def run(self, engine: ProgramEngine, program: Program, told: StageReporter) -> Searched:
        """The events of an engine; what was answered before is not logged or saved again."""
        replayed = ReplayedCycles(self.trainer, self.answers, self.answers.known(self.answered))
        candidates: list[Candidate] = []
        cycles: list[Derived] = []
        epoch = Epoch()
        found: Found | None = None
        total = engine.planned_steps(self.trainer.steps(FIRST), self.trainer.steps(SECOND))
        for event in engine.run(program, replayed, self.trainer.seed):
            match event:
                case Stepped(plan):
                    epoch.add(event)
                    told.step(plan, total, epoch.whole)
                    if replayed.live and self.interrupt.asked():
                        self.save(plan.epoch)
                        self.interrupt.check()
                case EpochEnded(number):
                    # Written once: a run that stopped right before it finds its line missing.
                    if len(self.log.entries) <= number:
                        self.log.add(epoch.line(number, self.trainer.taken))
                        self.save(number + 1)
                    epoch = Epoch()
                    self.interrupt.check()
                case Derived():
                    cycles.append(event)
                case Evaluated(candidate):
                    candidates.append(candidate)
                    told.reporter.advance(0, accuracy=candidate.score.accuracy)
                case Found():
                    found = event
                    told.reporter.done(best=event.best.score.accuracy)
                case _:
                    pass
        if found is None:
            raise SpaceError(error("SP701", f"{engine.name} ended without a result"))
        return Searched(engine, found, tuple(candidates), cycles=tuple(cycles))


def _answered(state: Mapping[str, object]) -> int:
    """How many answers lead to a checkpoint (SP702 where it does not say)."""
    found = state.get("answers")
    if not isinstance(found, int):
        raise SpaceError(error("SP702", "the checkpoint does not say how many answers lead to it"))
    return found


@dataclass
class Epoch:
    """What the steps of an epoch add up to, by the groups that they move."""

    whole: Tally = field(default_factory=Tally)
    parts: dict[str, list[Stepped]] = field(default_factory=dict[str, list[Stepped]])

    def add(self, event: Stepped) -> None:
        self.whole.add(event)
        if event.metrics.total:
            self.parts.setdefault("+".join(event.plan.groups), []).append(event)

    def line(self, epoch: int, taken: int) -> Json:
        """The log's line of an epoch: its mean loss, and the mean of each term by what it moved."""
        whole = self.whole
        entry: Json = {
            "epoch": epoch + 1,
            "step": taken,
            "loss": whole.mean,
            "train_accuracy": whole.correct / max(1, whole.total),
        }
        for groups, steps in self.parts.items():
            for term in dict.fromkeys(n for step in steps for n in step.metrics.terms):
                values = [s.metrics.terms[term] for s in steps if term in s.metrics.terms]
                entry[f"{groups}: {term}"] = sum(values) / len(values)
        return entry
