"""The images of a run's steps and scores, by the names of their parts.

    feed = Feed(data, batch_size=64, seed=0)
    batch = feed.batch(plan)                         # of plan.data, plan.epoch, plan.batch
    feed.batches(Samples("validation"))

Parts are `train` and `validation`, and for steps that take turns the two halves of the first: every
second image in the order of their digests, so that both have the classes of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from spacelang.backends.torch.augment import RECIPES
from spacelang.backends.torch.data import (
    Batch,
    Dataset,
    Part,
    batch_count,
    batches,
    first_samples,
    ordered_batches,
)
from spacelang.backends.torch.evaluate import BATCH
from spacelang.backends.torch.timm_augment import Variation
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.protocol import Samples, StepPlan

FIRST, SECOND = "train/first", "train/second"


class Feed:
    """Batches, each a function of the seed and of what was asked; several parts may take turns."""

    def __init__(
        self,
        data: Dataset,
        batch_size: int,
        seed: int,
        recipe: Variation = RECIPES["none"],
        device: torch.device | str = "cpu",
    ) -> None:
        self.batch_size, self.seed, self.recipe = batch_size, seed, recipe
        self.device = torch.device(device)
        self.parts = {
            "train": data.train,
            FIRST: _half(data.train, FIRST, 0),
            SECOND: _half(data.train, SECOND, 1),
            "validation": data.validation,
        }
        self._coming: dict[str, tuple[int, int, Iterator[Batch]]] = {}

    def part(self, name: str) -> Part:
        """A part by its name (SP701 for another)."""
        if name not in self.parts:
            found = error("SP701", f"no part of the data is called {name}")
            raise SpaceError(found.note(f"there are {', '.join(self.parts)}"))
        return self.parts[name]

    def steps(self, name: str) -> int:
        """How many batches an epoch of a part has."""
        return batch_count(self.part(name), self.batch_size)

    def batch(self, plan: StepPlan) -> Batch:
        """The batch of a step; what comes next of the same epoch is at hand."""
        epoch, number, coming = self._coming.get(plan.data, (-1, -1, iter(())))
        if (epoch, number) != (plan.epoch, plan.batch):
            coming = batches(
                self.part(plan.data),
                self.batch_size,
                seed=self.seed,
                epoch=plan.epoch,
                recipe=self.recipe,
                start=plan.batch,
            )
        self._coming[plan.data] = plan.epoch, plan.batch + 1, coming
        found = next(coming)
        return found._replace(images=found.images.to(self.device))

    def batches(self, samples: Samples) -> Iterable[Batch]:
        """What networks are scored on, as it is."""
        part = self.part(samples.part)
        part = part if samples.count is None else first_samples(part, samples.count)
        return ordered_batches(part, BATCH)


def _half(part: Part, name: str, first: int) -> Part:
    """Every second sample of a part."""
    return replace(
        part,
        name=name,
        images=part.images[first::2],
        labels=part.labels[first::2],
        ids=part.ids[first::2].contiguous(),
    )
