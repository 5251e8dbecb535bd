"""Training runs: a supernet trained in a folder, resumed by the same call, stopped by signals.

    trained = train(graph, data, Recipe(epochs=60), "runs/a/train", seed=0)
    trained.model                # the supernet, its weights the moving average where there is one

The folder holds `run.json`, checkpoints with their manifest, `log.jsonl` and `summary.csv`. Nothing
that was finished is lost: an epoch exists once its checkpoint does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

from torch import nn

from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.data.preprocessing import IMAGES, preprocessing
from spacelang.backends.torch.data.variation import OfLibraries
from spacelang.backends.torch.runs.interrupt import Interrupt
from spacelang.backends.torch.runs.progress import Reporter, progress
from spacelang.backends.torch.runs.ranks import current
from spacelang.backends.torch.runs.run import (
    Json,
    Log,
    RunFolder,
    part,
    preflight,
    read_log,
    read_record,
    write_graph,
    write_json,
)
from spacelang.backends.torch.runs.trackers import check_trackers, trackers
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.checkpoint import CheckpointError, Checkpoints, shapes_of
from spacelang.backends.torch.training.evaluate import evaluate
from spacelang.backends.torch.training.fixed import Fixed, module_of
from spacelang.backends.torch.training.fsdp_check import check_pieces
from spacelang.backends.torch.training.nonfinite import NonFiniteGuard, NotFinite, policy_of
from spacelang.backends.torch.training.optimizers import check_optimizer
from spacelang.backends.torch.training.recipe import Recipe, recipe_from
from spacelang.backends.torch.training.torch_compile_check import check_compiling
from spacelang.backends.torch.training.trainer import TorchTrainer
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.board import MATCHED, MATCHING
from spacelang.engines.distillation import TEACHER
from spacelang.engines.laws import CandidateWeights
from spacelang.engines.protocol import EpochEnded, Event, Stepped
from spacelang.files import PathLike
from spacelang.ir.graph import Graph
from spacelang.ir.text import stored

Network = TypeVar("Network", bound=nn.Module)
KIND = "training"
OWN = "own"  # an engine that trains its supernet while it searches
PROGRAM = "program"  # one that trains the networks of a program
COPIES = 4  # of the weights in a checkpoint: the model, its average, two moments of AdamW


@dataclass(frozen=True, eq=False)
class Trained(Generic[Network]):
    """A trained supernet: the weights to search and extract from are in `model`. Or a module that
    was given, which is trained and that is all."""

    model: Network
    recipe: Recipe
    seed: int
    steps: int
    log: tuple[Json, ...]
    weights: str  # SHA-256 of the file the weights came from


class Runs(Protocol):
    """An engine, which is run with the trainer of its lesson."""

    def run(self, space: Graph, trainer: Any, seed: int) -> Iterator[Event]: ...


class Lesson(Protocol):
    """What a run learns from besides labels: who plans its steps, who takes them, and its facts."""

    @property
    def engine(self) -> Runs: ...
    @property
    def several(self) -> bool: ...  # whether a step may run a part of the student more than once
    def identity(self) -> Json: ...
    def trainer(
        self, model: nn.Module, graph: Graph, data: Dataset, recipe: Recipe, seed: int
    ) -> TorchTrainer: ...


@dataclass
class Tally:
    """What an epoch adds up to, so far."""

    loss: float = 0.0
    correct: int = 0
    total: int = 0
    steps: int = 0
    terms: dict[str, float] = field(default_factory=dict[str, float])
    taught: dict[str, int] = field(default_factory=dict[str, int])  # steps, by who of several
    matches: int = 0  # of the matching network, to the second order
    matching: float = 0.0

    def add(self, event: Stepped) -> None:
        metrics = event.metrics
        for term in event.plan.losses:
            if term.kind == MATCHING and term.name in metrics.terms:
                self.matches += 1
                self.matching += metrics.terms[term.name]
        if metrics.total == 0:  # the step was left out
            return
        self.loss += metrics.loss
        self.correct += metrics.correct
        self.total += metrics.total
        self.steps += 1
        for forward in event.plan.forwards:
            if forward.network not in ("supernet", TEACHER):
                self.taught[forward.network] = self.taught.get(forward.network, 0) + 1
        kinds: dict[str, list[float]] = {}
        for term in event.plan.losses:
            if term.kind != MATCHING:
                kinds.setdefault(term.kind, []).append(metrics.terms[term.name])
        for kind, values in kinds.items():
            self.terms[kind] = self.terms.get(kind, 0.0) + sum(values) / len(values)

    @property
    def means(self) -> Json:
        """The mean of each kind of loss over passes and steps, where there are several kinds; of
        steps that learn to match how many there were and the mean over those; and of several
        teachers the share of steps that each taught."""
        several = self.terms if len(self.terms) + bool(self.matches) > 1 else {}
        steps = max(1, self.steps)
        found: Json = {f"loss: {name}": value / steps for name, value in several.items()}
        if MATCHED in self.terms or self.matches:
            found["matching steps"] = self.matches
        if self.matches:
            found[f"loss: {MATCHING}"] = self.matching / self.matches
        shares = sorted(self.taught.items())
        return found | {f"taught by {name}": count / steps for name, count in shares}

    @property
    def mean(self) -> float:
        return self.loss / max(1, self.steps)


def identity(graph: Graph, data: Dataset, recipe: Recipe, seed: int) -> Json:
    """What makes two runs the same run (ImportError, SP103 where its images cannot be made)."""
    by = recipe.augmentation
    if isinstance(by, OfLibraries):
        by.check()
    made_by: Json = {"augmented_by": by.version} if isinstance(by, OfLibraries) else {}
    if isinstance(graph, Fixed) and graph.about:
        made_by["student"] = dict(graph.about)
    return {
        "space": graph.name,
        "graph": graph.hash,
        "data": {"name": data.name, "split": data.split_digest, "counts": data.counts},
        "recipe": recipe.as_json(),
        "seed": seed,
        **made_by,
    }


def train(
    graph: Graph,
    data: Dataset,
    recipe: Recipe,
    folder: PathLike,
    *,
    seed: int = 42,
    keep: int = 2,
    device: str = "cpu",
    reporter: Reporter | None = None,
    on_nan: str = "error",
    lesson: Lesson | None = None,
    settings: Mapping[str, object] | None = None,
    log_to: Sequence[str] = (),
) -> Trained[Supernet]:
    """Train the supernet of a space in a folder, going on where an earlier call stopped.

    A module as a graph (`fixed.py`) is trained likewise: `model` is then a copy of that.

    `settings` are for `settings.json`, as those of `search_scratch` and `search_own`.

    `on_nan` is a policy of `nonfinite.py` for a loss or gradient that is not finite; the facts of
    the step are kept in `nan-<step>.json`. `log_to` names trackers. With a `lesson` the supernet
    learns from more than labels, and the run is one of that lesson. Raises Interrupted after a
    signal (state saved), NotFinite where the policy ends, Locked, OSError, SP604 and ImportError
    for a tracker that is not there, and SP702 for a folder of another run.
    """
    guard = NonFiniteGuard(policy_of(on_nan))
    told = reporter or progress("quiet")
    fits(graph, data)
    if isinstance(graph, Fixed):
        graph.check_recipe(recipe)
        graph.same_everywhere()
    check_optimizer(recipe)
    check_pieces(recipe, current(), several=lesson is not None and lesson.several)
    check_compiling(recipe, current(), device)
    check_trackers(log_to)
    if graph.decisions:
        CandidateWeights.read(recipe.law_weights, graph.decisions)
    about = identity(graph, data, recipe, seed) | (lesson.identity() if lesson else {})
    engine: Runs = lesson.engine if lesson else recipe.engine
    with RunFolder(folder, KIND, about, settings) as run, Interrupt() as interrupt:
        model = module_of(graph, seed).to(device)
        store = Checkpoints(run.path, graph=cast(str, about["graph"]), keep=keep)
        make = lesson.trainer if lesson else TorchTrainer
        trainer = make(model, graph, data, recipe, seed)
        room_for(run.path, model, keep)
        if not isinstance(graph, Fixed):
            write_graph(run.path, graph)
        write_json(run.path / IMAGES, preprocessing(data))
        trainer.guard = guard
        guard.note = lambda record: note(run.path, record)
        tally = _resume(trainer, store)
        if guard.policy == "rollback" and trainer.taken == 0:
            trainer.save(store, {"tally": vars(tally)}, epoch=0)
        followers = trackers(log_to, run.path)
        log = Log(run.path, trainer.taken, followers)
        length = trainer.steps("train")
        told.begin("training", recipe.all_epochs * length, "steps")
        told.advance(trainer.taken)
        while True:
            try:
                for event in engine.run(graph, trainer, seed):
                    match event:
                        case Stepped():
                            tally.add(event)
                            told.advance(1, epoch=event.plan.epoch + 1, loss=tally.mean)
                            # After the last step of an epoch its end is waited for: it has a line.
                            if event.plan.batch < length - 1 and interrupt.asked():
                                done = event.plan.epoch
                                trainer.save(store, {"tally": vars(tally)}, epoch=done)
                                interrupt.check()
                        case EpochEnded(epoch):
                            log.add(epoch_line(trainer, epoch, tally))
                            tally = Tally()
                            trainer.save(store, {"tally": vars(tally)}, epoch=epoch + 1)
                            if epoch + 1 < recipe.all_epochs:
                                interrupt.check()
                        case _:
                            pass
                break
            except NotFinite:
                lost = trainer.taken
                if not guard.rolls_back():
                    raise
                tally = _resume(trainer, store)
                told.advance(trainer.taken - lost)
                log = Log(run.path, trainer.taken, followers)
        told.done(loss=cast(float, log.entries[-1]["loss"]))
        trainer.ranks.wait()  # for the last checkpoint
    return load_trained(graph, data, folder, device=device)


def load_trained(
    graph: Graph, data: Dataset | None, folder: PathLike, *, device: str = "cpu"
) -> Trained[Supernet]:
    """The supernet of a finished training (SP702 where it is not finished, SP606 if not its)."""
    record = read_record(folder)
    if record.get("kind") not in (KIND, OWN, PROGRAM):
        raise SpaceError(error("SP702", f"{folder}: holds no training but {record.get('kind')}"))
    recipe = recipe_from(cast(Json, part(record, "recipe", dict)))
    images = cast(Json, part(record, "data", dict))
    model = module_of(graph, 0)
    store = Checkpoints(folder, graph=graph.hash)
    found = store.load(shapes_of(model.state_dict()))
    if found is None:
        raise SpaceError(error("SP702", f"{folder}: nothing was trained yet"))
    if data is not None and images.get("split") != data.split_digest:
        raise SpaceError(
            error("SP702", f"{folder}: was trained on other images, or on another split of them")
            .note(f"there {images}")
            .hint("searching on images that were trained on finds nothing worth having")
        )
    weights = found.tensors["average" if recipe.model_ema else "model"]
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as problem:
        raise CheckpointError(f"{folder}: {problem}") from problem
    log = tuple(e for e in read_log(folder) if cast(int, e["step"]) <= found.record.step)
    if not log or cast(int, log[-1]["epoch"]) < recipe.all_epochs:
        done = cast(int, log[-1]["epoch"]) if log else 0
        raise SpaceError(
            error("SP702", f"{folder}: {done} of {recipe.all_epochs} epochs are trained").hint(
                "repeat the command that trains: it goes on"
            )
        )
    return Trained(
        cast(Supernet, model.to(device).eval()),
        recipe,
        part(record, "seed", int),
        found.record.step,
        log,
        found.record.sha256,
    )


def _resume(trainer: TorchTrainer, store: Checkpoints) -> Tally:
    """Take up the newest checkpoint, if there is one."""
    found = store.load(shapes_of(trainer.model.state_dict()))
    tally = Tally()
    if found is not None:
        trainer.restore(found)
        tally = Tally(**cast(dict, found.state["tally"]))
    trainer.ranks.same(str(trainer.taken), "the checkpoint that they see: is the folder shared?")
    return tally


def room_for(folder: Path, model: nn.Module, keep: int) -> None:
    """OSError where the disk has no room for the checkpoints of a model."""
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    preflight(folder, COPIES * size * (keep + 1))


def note(folder: Path, record: Mapping[str, object]) -> None:
    """Keep the facts of a step that was not finite."""
    write_json(folder / f"nan-{record['step']}.json", record, indent=2)


def epoch_line(trainer: TorchTrainer, epoch: int, tally: Tally) -> Json:
    """The log's line of an epoch; epochs count from 1 there, as people do."""
    recipe, length = trainer.recipe, trainer.steps("train")
    entry: Json = {
        "epoch": epoch + 1,
        "step": trainer.taken,
        "loss": tally.mean,
        "train_accuracy": tally.correct / max(1, tally.total),
        "rate": recipe.rate((epoch + 1) * length - 1, length) * trainer.guard.scale,
        **tally.means,
    }
    last = epoch + 1 == recipe.all_epochs
    if recipe.val_interval and ((epoch + 1) % recipe.val_interval == 0 or last):
        trainer.activate(trainer.graph.decisions.extreme("largest"))
        with trainer.averaged(), trainer.calibrated():
            found = evaluate(trainer.model, trainer.data.validation)
        if not found.failure:
            entry["validation_accuracy"] = found.accuracy
    return entry


def fits(graph: Graph, data: Dataset) -> None:
    """SP704 where the images or their classes are not what the network takes, SP507 for a graph
    that a run folder cannot hold."""
    if isinstance(graph, Fixed):
        graph.check(data)
        return
    stored(graph)
    shape = tuple(graph.root.inputs[0].types[0].shape[1:])
    wanted = tuple(int(size.at({})) for size in shape)
    if wanted != data.shape:
        found = error("SP704", f"{data.name}: images are {list(data.shape)}, not {list(wanted)}")
        if len(wanted) != len(data.shape):
            raise SpaceError(found.note(f"{graph.name} takes {list(wanted)}, which is no image"))
        raise SpaceError(
            found.hint("a parameter of the space may say what it takes: --set NAME=..")
        )
    results = [o for o in graph.outputs if not o.training]
    types = {n.id: n.types for n in graph.root.nodes}
    classes = int(types[results[0].value.node][results[0].value.index].shape[-1].at({}))
    if classes != len(data.classes):
        raise SpaceError(
            error("SP704", f"{data.name}: has {len(data.classes)} classes, not {classes}").hint(
                f"--set classes={len(data.classes)}, where the space has such a parameter"
            )
        )


__all__ = [
    "KIND",
    "OWN",
    "PROGRAM",
    "Lesson",
    "Tally",
    "Trained",
    "epoch_line",
    "fits",
    "identity",
    "load_trained",
    "note",
    "room_for",
    "train",
]
