"""Lessons: what a student learns from, and who answers it.

lesson = Lesson(Distillation(losses=("soft_cross_entropy",)), teacher=teacher)
lesson.check(data, recipe)        # what cannot teach, before anything is trained
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from torch import nn

from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.distillation.board_trainer import BoardTrainer
from spacelang.backends.torch.distillation.distill_trainer import STORED, DistillTrainer
from spacelang.backends.torch.distillation.logits.asked import Asked
from spacelang.backends.torch.distillation.logits.published import published_epochs
from spacelang.backends.torch.distillation.logits.published_replay import PublishedReplay
from spacelang.backends.torch.distillation.logits.reader import OnBad
from spacelang.backends.torch.distillation.logits.replay import Replay, Stored
from spacelang.backends.torch.distillation.logits.store import read_record
from spacelang.backends.torch.distillation.teacher import Teacher, open_teacher, slim
from spacelang.backends.torch.runs.run import Json
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.torch_compile_check import refuse_compiling
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.distillation import Distillation
from spacelang.engines.settings import made
from spacelang.engines.teacher_board import TeacherBoard
from spacelang.ir.graph import Graph


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What a student learns from: the losses, and who answers them.

    A teacher is asked at every step, or, beside a store alone, only where a record is bad.
    """

    engine: Distillation
    teacher: Teacher | None = None
    stored: Stored | None = None

    @property
    def several(self) -> bool:
        """Whether a step runs a part of the student more than once: to give an inner value."""
        return any(term.taps or term.at for term in self.engine.terms)

    def identity(self) -> Json:
        """What makes two lessons the same."""
        settings = asdict(self.engine)
        names = ["losses", "attention", "hidden", "temperature", "heads"]
        names += ["outputs", "ensemble", "joined"] if self.engine.introspects else []
        about: Json = {name: settings[name] for name in names}
        if self.teacher is not None and self.engine.asks:
            about["teacher"] = self.teacher.digest  # a folder may move
        if self.stored is not None:
            about |= self.stored.identity()
            if self.stored.on_bad == "skip":  # records asked again are those that were written
                about["on_bad"] = "skip"
        return {"distillation": about}

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """Who is asked."""
        return () if self.teacher is None else (self.teacher,)

    @property
    def name(self) -> str:
        """What who teaches is called."""
        if self.teacher is not None:
            return self.teacher.name
        return self.stored.teacher if self.stored is not None else "nobody"

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
            told = error("SP705", "there is no teacher to ask").hint("--teacher WHO")
            if self.stored is not None:
                told = told.note("a store keeps probabilities of the last output, no inner values")
            raise SpaceError(told)
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


@dataclass(frozen=True, slots=True, eq=False)
class BoardLesson:
    """What a student learns from several teachers, one of them at each step (Cream)."""

    engine: TeacherBoard
    teachers: tuple[Teacher, ...]

    @property
    def several(self) -> bool:
        """Whether a step runs a part of the student more than once: to be matched."""
        return True

    @property
    def name(self) -> str:
        """What those who teach are called."""
        return ", ".join(teacher.name for teacher in self.teachers)

    def identity(self) -> Json:
        """What makes two lessons the same."""
        settings = asdict(self.engine)
        about: Json = {n: settings[n] for n in ("losses", "images", "update_every", "match_lr")}
        return {"distillation": {**about, "board": [who.digest for who in self.teachers]}}

    def trainer(
        self, model: nn.Module, graph: Graph, data: Dataset, recipe: Recipe, seed: int
    ) -> BoardTrainer:
        """Who takes the steps."""
        return BoardTrainer(model, graph, data, recipe, seed, self.teachers, self.engine.images)

    def check(self, data: Dataset, recipe: Recipe) -> None:
        """SP705 or SP708 where these teachers cannot teach so."""
        refuse_compiling(recipe, self.engine.name)
        if self.engine.teachers != len(self.teachers):
            told = f"the board is of {self.engine.teachers} teachers, not of {len(self.teachers)}"
            raise SpaceError(error("SP705", told).hint(f"TeacherBoard({len(self.teachers)})"))
        if len({who.digest for who in self.teachers}) < len(self.teachers):
            raise SpaceError(error("SP705", "a teacher stands on the board twice"))
        if recipe.mixup or recipe.cutmix:
            told = error("SP705", "a match knows nothing of mixed images")
            raise SpaceError(told.hint("--mixup 0 --cutmix 0"))


def engine_of(recipe: Recipe, settings: Mapping[str, object]) -> Distillation:
    """The engine of a recipe with settings of its own (SP204, SP209, SP103)."""
    return cast(Distillation, made(Distillation, {**_of_recipe(recipe), **settings}))


def board_of(recipe: Recipe, settings: Mapping[str, object]) -> TeacherBoard:
    """The engine of several teachers, likewise."""
    return cast(TeacherBoard, made(TeacherBoard, {**_of_recipe(recipe), **settings}))


def _of_recipe(recipe: Recipe) -> Json:
    found: Json = {name: getattr(recipe, name) for name in ("law", "law_weights", "smoothing")}
    return {**found, "epochs": recipe.all_epochs}


def lesson(
    data: Dataset,
    recipe: Recipe,
    settings: Mapping[str, object],
    *,
    teachers: Sequence[tuple[str, Mapping[str, Any]]],
    store: str | None,
    on_bad: OnBad,
    device: str,
    epochs: int | None = None,
) -> Lesson | BoardLesson:
    """What a command line asks for: teachers, each with the options of `open_teacher`, a store, of
    which a run that goes on reads the first `epochs`, as it was begun."""
    if len(teachers) > 1:
        if store is not None:
            told = error("SP705", "a store keeps the answers of one teacher")
            told = told.note("which of several is asked hangs on the student as it is at the step")
            raise SpaceError(told.hint("leave --store out, or name one --teacher"))
        engine = board_of(recipe, {**settings, "teachers": len(teachers)})
        opened = (slim(open_teacher(who, data, **options)) for who, options in teachers)
        return BoardLesson(engine, tuple(opened))
    engine = engine_of(recipe, settings)
    who: Teacher | None = None
    if teachers:
        who = open_teacher(teachers[0][0], data, **teachers[0][1])
    stored: Stored | None = None
    if store is not None and published_epochs(store):
        stored = PublishedReplay(store, data, on_bad=on_bad, epochs=epochs)
    elif store is not None:
        about, _ = read_record(store)
        asked = Asked(who, data.train, about, device) if who is not None else None
        stored = Replay(store, on_bad=on_bad, asked=asked, epochs=epochs)
    return Lesson(engine, who, stored)
