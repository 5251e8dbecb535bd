"""Engines that train while they search: a run folder that a killed run goes on from, to the bit.

    result = search_own(PrioritizedPath(epochs=20), graph, data, recipe, "runs/cream", seed=0)

The folder is that of a training, with checkpoints and a log, so its weights can be searched and
extracted from; besides it holds `answers.jsonl`, what the trainer answered the engine, and at the
end `<engine>.json` and `report.html`. Spaces that an engine moves to are trainings of their own in
it: `space-1`, `space-2`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Protocol, cast

from spacelang.backends.torch.data.datasets import Dataset, batch_count
from spacelang.backends.torch.data.preprocessing import IMAGES, preprocessing
from spacelang.backends.torch.inherit import inherit as inherit_weights
from spacelang.backends.torch.reports.search_report import write_search_report
from spacelang.backends.torch.reports.stages import changes
from spacelang.backends.torch.runs.interrupt import Interrupt
from spacelang.backends.torch.runs.progress import Reporter, progress
from spacelang.backends.torch.runs.ranks import current
from spacelang.backends.torch.runs.run import Log, RunFolder, read_graph, write_graph, write_json
from spacelang.backends.torch.runs.searched import Searched
from spacelang.backends.torch.runs.trackers import Tracker, check_trackers, trackers
from spacelang.backends.torch.searching.baselines import search_beside
from spacelang.backends.torch.searching.engine_trainer import EngineTrainer
from spacelang.backends.torch.searching.search import open_journal
from spacelang.backends.torch.searching.stage_reporter import StageReporter
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.checkpoint import MANIFEST, Checkpoints, shapes_of
from spacelang.backends.torch.training.fsdp_check import check_pieces
from spacelang.backends.torch.training.nonfinite import NonFiniteGuard, NotFinite, policy_of
from spacelang.backends.torch.training.optimizers import check_optimizer
from spacelang.backends.torch.training.recalibrate import warn_if_mixed
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.torch_compile_check import refuse_compiling
from spacelang.backends.torch.training.training import (
    KIND,
    OWN,
    Tally,
    epoch_line,
    fits,
    identity,
    note,
    room_for,
)
from spacelang.diagnostics import Source, SpaceError, error
from spacelang.engines.baselines import beside
from spacelang.engines.protocol import (
    Able,
    Candidate,
    EpochEnded,
    Evaluated,
    Event,
    Found,
    GenerationEnded,
    Metrics,
    Samples,
    Score,
    SpaceMoved,
    Stepped,
    StepPlan,
)
from spacelang.engines.ranges import dimensions
from spacelang.engines.rehearse import Rehearsal, rehearse
from spacelang.engines.replay import Answers, FullTrainer, Replayed
from spacelang.engines.settings import settings_of
from spacelang.files import PathLike, atomic_write
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.ir.text import stored
from spacelang.journal import read_journal
from spacelang.passes.narrow import narrow
from spacelang.syntax.ir_text import read

ANSWERS, HULL = "answers.jsonl", "hull.spaceir"


class OwnEngine(Able, Protocol):
    """An engine that trains: `epochs` of each supernet, with smoothed labels."""

    epochs: int
    smoothing: float

    def run(self, space: Graph, trainer: FullTrainer, seed: int) -> Iterator[Event]: ...


@dataclass
class Work:
    """The trainer of the space that a run is in, and where it is kept. Implements `FullTrainer`.

    `path` is the folder of the run and of its first space; the others are in it, and `stack`
    holds their locks. A rate that `guard` halved stays so in all spaces; `follow` gives who is
    told the log of one.
    """

    path: Path
    graph: Graph
    hull: Graph | None
    data: Dataset
    recipe: Recipe
    seed: int
    device: str
    keep: int
    guard: NonFiniteGuard
    follow: Callable[[Path], Sequence[Tracker]]
    stack: ExitStack
    answered: int = field(default=0, init=False)  # at the checkpoint that was taken up
    inherited: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """SP701 for a dimension that only wider ranges have: it could not begin anywhere."""
        known = {dimension.name for dimension in dimensions(self.graph)}
        for dimension in dimensions(self.hull) if self.hull is not None else ():
            if dimension.name not in known:
                found = error("SP701", f"{dimension.name} has no candidates until a range moves")
                raise SpaceError(found.hint("take it in a block: its uses have one range"))
        self.number = _last_space(self.path)
        graph = read_graph(self.folder) if self.number else self.graph
        self._enter(graph, Supernet(graph, seed=self.seed), fresh=False)

    @property
    def folder(self) -> Path:
        """Where the space that the run is in is kept."""
        return self.path / f"space-{self.number}" if self.number else self.path

    def _enter(self, graph: Graph, model: Supernet, fresh: bool) -> None:
        """Be in a space, where its folder was left unless it is begun afresh."""
        folder = self.folder
        if self.number:
            about = identity(graph, self.data, self.recipe, self.seed)
            self.stack.enter_context(RunFolder(folder, KIND, about))
            write_graph(folder, graph)
            write_json(folder / IMAGES, preprocessing(self.data))
        room_for(folder, model, self.keep)
        self.trainer = EngineTrainer(
            model.to(self.device), graph, self.data, self.recipe, self.seed
        )
        self.trainer.guard = self.guard
        self.guard.note = lambda record: note(folder, record)
        self.store = Checkpoints(folder, graph=graph.hash, keep=self.keep)
        if fresh:
            self.guard.skipped = []  # steps count from 0 again
        found = None if fresh else self.store.load(shapes_of(model.state_dict()))
        if found is not None:
            self.trainer.restore(found)
            self.answered = cast(int, found.state["answers"])
        current().same(
            str(self.trainer.taken), "the checkpoint that they see: is the folder shared?"
        )
        self.log = Log(folder, self.trainer.taken, self.follow(folder))

    # Spaces.

    def space(self, ranges: Mapping[str, Sequence[float]]) -> Graph:
        """The graph with these ranges (SP701 where it is not known what they may become)."""
        return _within(self.graph, self.hull, ranges)

    def rebuild(self, ranges: Mapping[str, Sequence[float]], inherit: bool) -> Graph:
        """Go on in another space."""
        graph = self.space(ranges)
        model = Supernet(graph, seed=self.seed)
        self.inherited = inherit_weights(model, self.trainer.whole()) if inherit else 0
        self.number += 1
        self._enter(graph, model, fresh=True)
        return graph

    def save(self, answers: Answers, epoch: int) -> None:
        """A checkpoint, after the answers that lead to it and so many finished epochs."""
        answers.flush()
        self.trainer.save(self.store, {"answers": len(answers)}, epoch=epoch)

    # The trainer's own work.

    @property
    def taken(self) -> int:
        return self.trainer.taken

    def steps(self, data: str) -> int:
        return self.trainer.steps(data)

    def step(self, plan: StepPlan) -> Metrics:
        return self.trainer.step(plan)

    def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
        return self.trainer.probe(assignments, samples)

    def remember(self, slot: int, plan: StepPlan, of: int, images: int) -> None:
        self.trainer.remember(slot, plan, of, images)

    def match(self, plan: StepPlan, slots: Sequence[int]) -> Sequence[float]:
        return self.trainer.match(plan, slots)


def _within(graph: Graph, hull: Graph | None, ranges: Mapping[str, Sequence[float]]) -> Graph:
    """A graph with other ranges (SP701 where it is not known what they may become)."""
    if hull is None:
        found = error("SP701", f"what the ranges of {graph.name} may become is not known")
        raise SpaceError(found.hint("search the .space file, not what was made from it"))
    return narrow(hull, {p: ranges[d.name] for d in dimensions(hull) for p in d.paths})


def search_own(
    engine: OwnEngine,
    graph: Graph,
    data: Dataset,
    recipe: Recipe,
    folder: PathLike,
    *,
    seed: int = 0,
    device: str = "cpu",
    keep: int = 2,
    hull: Graph | None = None,
    reporter: Reporter | None = None,
    on_nan: str = "error",
    settings: Mapping[str, object] | None = None,
    baselines: bool | None = False,
    log_to: Sequence[str] = (),
) -> Searched:
    """Run an engine to its end in a folder, going on where an earlier call stopped.

    Epochs and smoothing of the recipe are the engine's; `hull` is the space over all that its text
    allows, for engines that move ranges, and is kept in the folder. `keep`, `on_nan` and `log_to`
    are those of `train`; a rollback is a run that stopped and goes on. `baselines` are scored by
    the weights that the engine leaves, as many as it scored in its last space. Raises Interrupted
    after a signal (state saved), NotFinite, Locked, OSError, SP701 where engine and space do not
    fit, SP702 for a folder of another run, and SP708 where weights are cut that are needed whole.
    """
    guard = NonFiniteGuard(policy_of(on_nan))
    check_trackers(log_to)
    fits(graph, data)
    check_optimizer(recipe)
    check_pieces(recipe, current(), several=True)
    refuse_compiling(recipe, engine.name)
    if recipe.law != "choices":
        found = error("SP701", f"{engine.name} has a law of its own, not {recipe.law}")
        raise SpaceError(found.hint("leave --law out"))
    _refuse_mixed(engine, recipe)
    if recipe.cooldown_epochs:
        found = error("SP701", f"{engine.name} says itself how long it trains, without cooldown")
        raise SpaceError(found.hint("leave --cooldown-epochs out"))
    recipe = replace(recipe, epochs=engine.epochs, smoothing=engine.smoothing)
    about = identity(graph, data, recipe, seed)
    about["engine"] = {"name": engine.name, "settings": settings_of(engine)}
    hull = hull or _kept_hull(Path(folder))
    about["hull"] = None if hull is None else hull.hash
    trainer = Rehearsal(
        steps=lambda part: batch_count(data.train, recipe.batch_size, recipe.aug_repeats),
        space=lambda ranges: _within(graph, hull, ranges),
    )
    rehearse(engine, graph, trainer, seed)
    warn_if_mixed(graph, recipe.recalibrate)
    follow = cache(lambda folder: trackers(log_to, folder))
    told = reporter or progress("quiet")
    with RunFolder(folder, OWN, about, settings) as run, Interrupt() as interrupt:
        write_graph(run.path, graph)
        write_json(run.path / IMAGES, preprocessing(data))
        if hull is not None and current().first:
            atomic_write(run.path / HULL, stored(hull))
        while True:
            with ExitStack() as stack, open_journal(run.path / ANSWERS) as journal:
                answers = Answers(journal)
                run.begun = partial(bool, answers)
                work = Work(
                    run.path, graph, hull, data, recipe, seed, device, keep, guard, follow, stack
                )
                replayed = Replayed(work, answers, answers.known(work.answered))
                try:
                    result = _run(
                        engine, graph, replayed, work, answers, StageReporter(told), interrupt
                    )
                except NotFinite:
                    if not guard.rolls_back():
                        raise
                    continue
                where = os.path.relpath(work.folder, run.path)
                result.keep(run.path, weights=where)
                last = work.trainer.graph
                write_search_report(run.path, last, data, result, work.log.entries)
                scored = result.found.evaluated - sum(result.judged)
                wanted = beside(engine, scored, baselines)
                if wanted:
                    others = search_beside(wanted, last, replayed, run.path, interrupt, seed, told)
                    result = replace(result, baselines=others)
                    write_search_report(run.path, last, data, result, work.log.entries)
                return result


def _refuse_mixed(engine: OwnEngine, recipe: Recipe) -> None:
    """SP701 where images are mixed in epochs whose loss knows nothing of mixed labels."""
    matched: Sequence[int] = getattr(engine, "matched", range(0))
    if not any(map(recipe.mixing, matched)):
        return
    found = error("SP701", f"{engine.name}: a match knows nothing of mixed images")
    unmixed = f"--mixup 0 --cutmix 0, or --mixup-off-epoch {matched[0]}: the warm-up alone mixes"
    raise SpaceError(found.hint(unmixed))


def _kept_hull(folder: Path) -> Graph | None:
    """The hull that a run was begun with (SP702 where it cannot be read)."""
    place = folder / HULL
    try:
        return read(Source(str(place), place.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as problem:
        raise SpaceError(error("SP702", f"{place}: cannot be read: {problem}")) from problem


def _last_space(folder: Path) -> int:
    """The number of the last space with a checkpoint."""
    begun = (
        path.parent.name.partition("-")[2]
        for path in folder.glob(f"space-*/{MANIFEST}")
        if read_journal(path, salvage=True).entries
    )
    return max((int(text) for text in begun if text.isdecimal()), default=0)


def _run(
    engine: OwnEngine,
    graph: Graph,
    replayed: Replayed,
    work: Work,
    answers: Answers,
    told: StageReporter,
    interrupt: Interrupt,
) -> Searched:
    """The events of an engine; what was answered before is not logged or saved again."""
    candidates: list[Candidate] = []
    moves, judged, boards = list[SpaceMoved](), list[int](), list[EpochEnded]()
    found: Found | None = None
    tally = Tally()
    length = work.steps("train")
    for event in engine.run(graph, cast(FullTrainer, replayed), work.seed):
        match event:
            case Stepped(plan):
                tally.add(event)
                told.step(plan, engine.epochs * length, tally)
                # After the last step of an epoch its end is waited for: it has a line.
                if plan.batch < length - 1 and interrupt.asked():
                    if replayed.live:
                        work.save(answers, plan.epoch)
                    interrupt.check()
            case EpochEnded(epoch):
                boards += [event] if event.board else []
                if replayed.live:
                    work.log.add(epoch_line(work.trainer, epoch, tally))
                    work.save(answers, epoch + 1)
                tally = Tally()
                interrupt.check()
            case Evaluated(candidate, planned):
                candidates.append(candidate)
                told.score(engine.name, planned)
                interrupt.check()
            case GenerationEnded(_, best):
                told.reporter.advance(0, best=best.score.accuracy)
            case SpaceMoved():
                judged.append(len(candidates) - sum(judged))
                moves.append(event)
                told.reporter.say(f"space {len(moves)}: {'; '.join(changes(event))}")
            case Found():
                found = event
                told.reporter.done(best=event.best.score.accuracy)
    if found is None:
        raise SpaceError(error("SP701", f"{engine.name} ended without a result"))
    return Searched(
        engine, found, tuple(candidates), tuple(moves), (), tuple(judged), tuple(boards)
    )
