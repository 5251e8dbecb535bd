"""The trainer of students with several teachers: what `EngineTrainer` does, by a board of teachers.

    trainer = BoardTrainer(model, graph, data, recipe, seed, teachers, images=4)
    scores = trainer.match(plan, range(len(teachers)))

Each teacher is remembered by images of its own, the first of the training part, and its softmax on
them. The matching network is there from the start.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spacelang.backends.torch.data.datasets import Dataset, first_samples, ordered_batches
from spacelang.backends.torch.distillation.teacher import Teacher, takes
from spacelang.backends.torch.searching.engine_trainer import EngineTrainer
from spacelang.backends.torch.training.fixed import Fixed
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.protocol import Forward
from spacelang.engines.teacher_board import teacher
from spacelang.ir.graph import Graph


class BoardTrainer(EngineTrainer):
    """Trains a student, space or module, by the teacher that a plan names."""

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        data: Dataset,
        recipe: Recipe,
        seed: int,
        teachers: Sequence[Teacher],
        images: int,
    ) -> None:
        super().__init__(model, graph, data, recipe, seed)
        if isinstance(graph, Fixed):  # what it does not keep is not to move either
            self._buffers = dict(model.named_buffers())
        self.teachers = {teacher(n): t.to(str(self.device)) for n, t in enumerate(teachers)}
        self.networks = ("supernet", *self.teachers)
        self._meet(images)

    def _meet(self, count: int) -> None:
        """Remember the teachers (SP705 where one does not fit the student or the images)."""
        some = first_samples(self.data.train, count * len(self.teachers))
        (batch,) = ordered_batches(some, len(some))
        seen = batch.images.to(self.device, self.dtype)
        classes = len(self.data.classes)
        with torch.no_grad():
            for slot, (_, who) in enumerate(self.teachers.items()):
                places = torch.arange(slot * count, (slot + 1) * count) % len(seen)
                images = seen[places.to(self.device)]
                with takes(who, images.shape[1:]):
                    answers = who.logits(images)
                if answers.shape != (count, classes):
                    told = (
                        f"{who.name} tells {answers.shape[-1]} classes apart, the student {classes}"
                    )
                    raise SpaceError(error("SP705", told))
                self.memory.keep(slot, images, answers.softmax(1))
        self._begin(count * classes)

    def _pass(self, number: int, forward: Forward, images: Tensor) -> Tensor:
        if forward.network in self.teachers:
            return self._taught(self.model, forward, images)
        return super()._pass(number, forward, images)

    def _taught(self, model: nn.Module, forward: Forward, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp):
            return self.teachers[forward.network].logits(images)
