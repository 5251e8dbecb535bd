"""Distillation runs: a training whose steps also learn from a teacher or from its stored outputs.

    lesson = Lesson(Distillation(losses=("soft_cross_entropy",)), teacher=teacher)
    trained = distill(graph, data, Recipe(epochs=60), "runs/student", lesson, seed=0)
    trained = distill(module, data, Recipe(epochs=60), "runs/other", lesson)   # any nn.Module

The folder is that of a training: searched, extracted and gone on with like any other. The teacher
and what is learned from it are part of its identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from spacelang.backends.torch.checkpoint import Checkpoint, Tensors, unpack
from spacelang.backends.torch.data import Batch, Dataset, first_samples, ordered_batches
from spacelang.backends.torch.distill_report import write_distill_report
from spacelang.backends.torch.evaluate import mode
from spacelang.backends.torch.fixed import TRIED, graph_of, module_of
from spacelang.backends.torch.kernels import loss_of
from spacelang.backends.torch.logits.asked import Asked
from spacelang.backends.torch.logits.published import published_epochs
from spacelang.backends.torch.logits.published_replay import PublishedReplay
from spacelang.backends.torch.logits.reader import OnBad
from spacelang.backends.torch.logits.replay import Replay, Stored
from spacelang.backends.torch.logits.store import read_record
from spacelang.backends.torch.losses import (
    LABELLED,
    LOSSES,
    RELATING,
    relating,
    relations,
    soft_labels,
)
from spacelang.backends.torch.optimizer import optimizer_tensors
from spacelang.backends.torch.progress import Reporter
from spacelang.backends.torch.recipe import Recipe
from spacelang.backends.torch.relating import Values, parts, related
from spacelang.backends.torch.run import Json
from spacelang.backends.torch.steady import NotFinite
from spacelang.backends.torch.taps import Tapped
from spacelang.backends.torch.teacher import Teacher, open_teacher, takes
from spacelang.backends.torch.train import TorchTrainer
from spacelang.backends.torch.training import Trained, fits, train
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.distillation import TEACHER, Distillation
from spacelang.engines.protocol import Forward, LossTerm, Metrics, StepPlan
from spacelang.engines.settings import made
from spacelang.engines.stream import seed_of
from spacelang.files import PathLike
from spacelang.ir.graph import Graph

STORED = "soft_labels"


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What a student learns from: the losses, and who answers them.

    A teacher is asked at every step, or, beside a store alone, only where a record is bad.
    """

    engine: Distillation
    teacher: Teacher | None = None
    stored: Stored | None = None

    def identity(self) -> Json:
        """What makes two lessons the same."""
        settings = asdict(self.engine)
        about: Json = {
            n: settings[n] for n in ("losses", "attention", "hidden", "temperature", "heads")
        }
        if self.teacher is not None and self.engine.asks:
            about["teacher"] = self.teacher.digest  # a folder may move
        if self.stored is not None:
            about |= self.stored.identity()
            if self.stored.on_bad == "skip":  # records asked again are those that were written
                about["on_bad"] = "skip"
        return {"distillation": about}

    def trainer(
        self, model: nn.Module, graph: Graph, data: Dataset, recipe: Recipe, seed: int
    ) -> DistillTrainer:
        """Who takes the steps."""
        return DistillTrainer(model, graph, data, recipe, seed, self)

    def check(self, data: Dataset, recipe: Recipe) -> None:
        """SP705 or SP702 where what teaches is not there, or is of other images.

        SP708 where bad records are skipped in a batch of several shards.
        """
        if self.engine.asks and self.teacher is None:
            raise SpaceError(error("SP705", "there is no teacher to ask").hint("--teacher WHO"))
        if self.engine.reads != (self.stored is not None):
            told = f"{STORED} reads a store" if self.engine.reads else f"no loss is {STORED}"
            raise SpaceError(error("SP705", told).hint(f"--store DIR with --loss {STORED}"))
        if self.stored is None:
            return
        if self.stored.on_bad == "skip" and recipe.shards > 1:
            # What an image counts for would depend on the bad ones in the other shards.
            told = error("SP708", "images cannot be skipped where a batch is learned in shards")
            raise SpaceError(told.hint("--shards 1, or --on-bad recompute"))
        if recipe.mixup or recipe.cutmix:
            told = error("SP705", "a store knows nothing of mixed images")
            raise SpaceError(told.hint("--mixup 0 --cutmix 0"))
        if recipe.aug_repeats:
            told = error("SP705", "a store knows one view of an image in an epoch")
            raise SpaceError(told.hint("--aug-repeats 0"))
        self.stored.check(data, recipe.aug, self.teacher)


class DistillTrainer(TorchTrainer):
    """Trains a supernet by what a lesson asks of it.

    bridges   maps from the student's hidden states to the teacher's width, by pair, for
              `hidden_states`; they learn with the student, and are no part of it
    """

    kinds = (*LOSSES, STORED, *RELATING)
    alone = (*LABELLED, STORED)
    mixable = (*LOSSES, *RELATING)
    networks = ("supernet", TEACHER)

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        data: Dataset,
        recipe: Recipe,
        seed: int,
        lesson: Lesson,
    ) -> None:
        super().__init__(model, graph, data, recipe, seed)
        self.lesson = lesson
        self._soft_labels = loss_of("soft_labels", soft_labels)
        self._relating = relating(loss_of("relations", relations))
        if (stored := lesson.stored) is not None:
            self.feed.recipe = stored.views(recipe.augmentation)
            self.feed.replay = stored.seeded
        terms = lesson.engine.terms
        self._own_taps = [p for t in terms for own, _ in t.taps for p in own.paths]
        given = [p for t in terms for _, other in t.taps for p in other.paths]
        self.tapped = Tapped(model, self._own_taps) if self._own_taps else None
        if self.tapped is not None and (self._network is not model or self.pieces is not None):
            told = error("SP708", f"{recipe.reduce} does not see the layers that are compared")
            raise SpaceError(told.hint("--reduce explicit"))
        self.teacher: Teacher | None = None
        self.asked: Tapped | None = None
        if lesson.teacher is not None and lesson.engine.asks:
            self.teacher = lesson.teacher.to(str(self.device))
            self.asked = self.teacher.tapped(given)
        self.values: dict[int, Values] = {}  # of the passes of the step, by path
        self.kept: tuple[Tensor, Tensor] | None = None  # stored classes and probabilities
        self.bridges = nn.ModuleDict()
        self.builder: torch.optim.AdamW | None = None
        self._try()

    # Before anything is trained.

    def _try(self) -> None:
        """One pass of the largest and of the smallest network through every loss (SP705).

        Makes the bridges, whose widths are then known.
        """
        (batch,) = ordered_batches(first_samples(self.data.train, TRIED), TRIED)
        images = batch.images.to(self.device)
        with mode(self.model, training=False), torch.no_grad():
            answers = self._answers(images)
            for which in ("largest", "smallest"):
                self.activate(self.graph.decisions.extreme(which))
                logits, own = self._student(images)
                if answers is not None and answers[0].shape != logits.shape:
                    counts = answers[0].shape[-1], logits.shape[-1]
                    told = "the teacher tells {} classes apart, the student {}".format(*counts)
                    raise SpaceError(error("SP705", told))
                for term in self.lesson.engine.terms:
                    if term.taps and answers is not None:
                        self._build(term, own, answers[1])
                        related(term, own, answers[1], self._bridge, self._relating)
        if len(self.bridges):
            self.bridges.to(self.device)
            decay = self.recipe.weight_decay
            self.builder = torch.optim.AdamW(self.bridges.parameters(), lr=0.0, weight_decay=decay)

    def _answers(self, images: Tensor) -> tuple[Tensor, Values] | None:
        """What the teacher says (SP705 where it cannot take the images)."""
        if self.asked is None or self.teacher is None:
            return None
        with takes(self.teacher, images.shape[1:]):
            return self._ask(images)

    def _build(self, term: LossTerm, own: Values, given: Values) -> None:
        """A bridge for each pair of hidden states, from the width of the largest network."""
        if term.kind != "hidden_states":
            return
        for number, (left, right) in enumerate(term.taps):
            if str(number) in self.bridges:
                continue
            if left.paths[0] not in own:
                raise SpaceError(error("SP705", f"the largest network has no {left}"))
            width = parts(left, own, term.kind)[0].shape[-1]
            wanted = parts(right, given, term.kind)[0].shape[-1]
            bridge = cast(nn.Linear, nn.utils.skip_init(nn.Linear, width, wanted))
            generator = torch.Generator().manual_seed(seed_of(self.seed, "bridge", number))
            nn.init.trunc_normal_(bridge.weight, std=0.02, generator=generator)
            nn.init.zeros_(bridge.bias)
            self.bridges[str(number)] = bridge

    def _bridge(self, number: int, hidden: Tensor) -> Tensor:
        """A hidden state in the teacher's width; of a narrower network the first columns map it."""
        bridge = cast(nn.Linear, self.bridges[str(number)])
        return nn.functional.linear(hidden, bridge.weight[:, : hidden.shape[-1]], bridge.bias)

    # Steps.

    def step(self, plan: StepPlan) -> Metrics:
        if self.builder is not None:
            self.builder.zero_grad(set_to_none=True)
        return super().step(plan)

    def _pass(self, number: int, forward: Forward, images: Tensor) -> Tensor:
        if forward.network == TEACHER:
            logits, self.values[number] = self._ask(images)
            return logits
        self.activate(forward.assignment)
        logits, self.values[number] = self._student(images)
        return logits

    def _ask(self, images: Tensor) -> tuple[Tensor, Values]:
        assert self.teacher is not None
        assert self.asked is not None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp):
            logits, values = self.asked(self.teacher.see(images))
        return logits.float(), values

    def _student(self, images: Tensor) -> tuple[Tensor, Values]:
        if self.tapped is None:
            return self._logits(images), {}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp):
            logits, values = self.tapped(images)
        return logits.float(), values

    def _value(
        self, term: LossTerm, logits: Tensor, labels: Tensor, outputs: Mapping[int, Tensor]
    ) -> Tensor:
        if term.kind == STORED:
            assert self.kept is not None
            assert self.lesson.stored is not None
            temperature = self.lesson.stored.temperature
            return self._soft_labels(logits / temperature, *self.kept).mean() * temperature**2
        if term.kind in RELATING:
            given = self.values[term.against or 0]
            found = related(term, self.values[term.of], given, self._bridge, self._relating)
            return logits.sum() * 0 if found is None else found
        return super()._value(term, logits, labels, outputs)

    def _update(self, plan: StepPlan, loss: float) -> None:
        slopes = [p.grad for p in self.bridges.parameters() if p.grad is not None]
        if not all(bool(torch.isfinite(slope).all()) for slope in slopes):
            self.optimizer.zero_grad()
            raise NotFinite("gradient", plan, self.feed.ids(plan), self._masks(plan.step))
        super()._update(plan, loss)
        if self.builder is not None:
            for group in self.builder.param_groups:
                group["lr"] = self._rate(plan)
            self.builder.step()

    # Images and what is stored of them.

    def _learning(self) -> list[nn.Parameter]:
        return [*super()._learning(), *self.bridges.parameters()]

    def images_of(self, plan: StepPlan, shard: int = 0) -> Batch:
        """The batch of a step and its records; images whose record is not good are left out."""
        batch = super().images_of(plan, shard)
        if self.lesson.stored is None:
            return batch
        records, good = self.lesson.stored.read(plan.epoch, batch.ids.numpy())
        if not good.any():
            told = error("SP702", f"no image of step {plan.step} has a record that can be used")
            raise SpaceError(told.hint("write the store again, or --on-bad recompute"))
        chosen = torch.from_numpy(good)
        classes = torch.from_numpy(records.classes.astype("int64"))
        kept = classes[chosen], torch.from_numpy(records.probabilities)[chosen]
        self.kept = kept[0].to(self.device), kept[1].to(self.device)
        return Batch(batch.images[chosen], batch.labels[chosen], batch.ids[chosen])

    # Checkpoints.

    def _pack(self) -> tuple[Tensors, dict[str, object]]:
        tensors, settings = super()._pack()
        if self.builder is None:
            return tensors, settings
        state, numbers = optimizer_tensors(self.builder, self.bridges)
        more = {"bridges": dict(self.bridges.state_dict()), "builder": state}
        return {**tensors, **more}, {**settings, "builder": numbers}

    def restore(self, checkpoint: Checkpoint) -> None:
        super().restore(checkpoint)
        if self.builder is not None:
            found = checkpoint.tensors
            kept = {"model": found.get("bridges", {}), "optimizer": found.get("builder", {})}
            settings = cast(Mapping[str, object], checkpoint.state.get("builder", {}))
            unpack(kept, settings, self.bridges, self.builder)


def distill(
    student: Graph | nn.Module,
    data: Dataset,
    recipe: Recipe,
    folder: PathLike,
    lesson: Lesson,
    *,
    seed: int = 42,
    keep: int = 2,
    device: str = "cpu",
    reporter: Reporter | None = None,
    on_nan: str = "error",
    settings: Mapping[str, object] | None = None,
    log_to: Sequence[str] = (),
    name: str = "",
) -> Trained[Any]:
    """Train a student in a folder, going on where an earlier call stopped, and write its report.

    The student is a space, or any module, of which a copy is trained (`fixed.py`); `name` is what
    such a one is called, else its class. Its taps are the names of its modules.

    What cannot teach it is refused before the folder is there: SP705 for a teacher that does not
    fit, SP702 for a store of other contents or that is not whole. Else as `training.train`.
    """
    graph = graph_of(student, data, recipe, name)
    fits(graph, data)
    lesson.check(data, recipe)
    lesson.trainer(module_of(graph, seed).to(device), graph, data, recipe, seed)
    made = train(
        graph, data, recipe, folder, seed=seed, keep=keep, device=device, reporter=reporter,
        on_nan=on_nan, settings=settings, log_to=log_to, lesson=lesson,
    )  # fmt: skip
    source, who = _name_of(lesson), lesson.teacher
    write_distill_report(folder, graph, data, made, lesson.engine, source, who)
    return made


def _name_of(lesson: Lesson) -> str:
    if lesson.teacher is not None:
        return lesson.teacher.name
    return lesson.stored.teacher if lesson.stored is not None else "nobody"


def engine_of(recipe: Recipe, settings: Mapping[str, object]) -> Distillation:
    """The engine of a recipe with settings of its own (SP204, SP209, SP103)."""
    names = ("law", "law_weights", "smoothing")
    of_recipe = {name: getattr(recipe, name) for name in names} | {"epochs": recipe.all_epochs}
    return cast(Distillation, made(Distillation, {**of_recipe, **settings}))


def lesson(
    data: Dataset,
    recipe: Recipe,
    settings: Mapping[str, object],
    *,
    teacher: str | None,
    options: Mapping[str, Any],
    store: str | None,
    on_bad: OnBad,
    device: str,
) -> Lesson:
    """What a command line asks for; `options` are those of `open_teacher`."""
    engine = engine_of(recipe, settings)
    who = open_teacher(teacher, data, **options) if teacher is not None else None
    stored: Stored | None = None
    if store is not None and published_epochs(store):
        stored = PublishedReplay(store, data, on_bad=on_bad)
    elif store is not None:
        about, _ = read_record(store)
        asked = Asked(who, data.train, about, device) if who is not None else None
        stored = Replay(store, on_bad=on_bad, asked=asked)
    return Lesson(engine, who, stored)


__all__ = ["DistillTrainer", "Lesson", "distill", "engine_of", "lesson"]
