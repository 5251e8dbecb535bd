"""Distillation runs: a training whose steps also learn from a teacher or from its stored outputs.

    lesson = Lesson(Distillation(losses=("soft_cross_entropy",)), teacher=teacher)
    trained = distill(graph, data, Recipe(epochs=60), "runs/student", lesson, seed=0)
    trained = distill(module, data, Recipe(epochs=60), "runs/other", lesson)   # any nn.Module
    trained = distill(graph, data, recipe, "runs/board", BoardLesson(TeacherBoard(3), teachers))

The folder is that of a training: searched, extracted and gone on with like any other. The teacher
and what is learned from it are part of its identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.distillation.distill_report import write_distill_report
from spacelang.backends.torch.distillation.distill_trainer import DistillTrainer
from spacelang.backends.torch.distillation.lesson import BoardLesson, Lesson, engine_of, lesson
from spacelang.backends.torch.runs.progress import Reporter
from spacelang.backends.torch.training.fixed import graph_of, module_of
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.training import Trained, fits, train
from spacelang.files import PathLike
from spacelang.ir.graph import Graph


def distill(
    student: Graph | nn.Module,
    data: Dataset,
    recipe: Recipe,
    folder: PathLike,
    lesson: Lesson | BoardLesson,
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
    losses, teachers = lesson.engine.losses, lesson.teachers
    write_distill_report(folder, graph, data, made, losses, lesson.name, teachers)
    return made


__all__ = ["BoardLesson", "DistillTrainer", "Lesson", "distill", "engine_of", "lesson"]
