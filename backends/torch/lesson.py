"""Lessons: what a student learns from, and who answers it.

    lesson = Lesson(Distillation(losses=("soft_cross_entropy",)), teacher=teacher)
    lesson.check(data, recipe)        # what cannot teach, before anything is trained
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from torch import nn

from spacelang.backends.torch.data import Dataset
from spacelang.backends.torch.distill_trainer import STORED, DistillTrainer
from spacelang.backends.torch.logits.asked import Asked
from spacelang.backends.torch.logits.published import published_epochs
from spacelang.backends.torch.logits.published_replay import PublishedReplay
from spacelang.backends.torch.logits.reader import OnBad
from spacelang.backends.torch.logits.replay import Replay, Stored
from spacelang.backends.torch.logits.store import read_record
from spacelang.backends.torch.recipe import Recipe
from spacelang.backends.torch.run import Json
from spacelang.backends.torch.teacher import Teacher, open_teacher
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.distillation import Distillation
from spacelang.engines.settings import made
from spacelang.ir.graph import Graph


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

