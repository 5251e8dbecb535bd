"""The images of a run's steps and scores, by the names of their parts.

    feed = Feed(data, batch_size=64, seed=0)
    batch = feed.batch(plan)                         # of plan.data, plan.epoch, plan.batch
    feed.batches(Samples("validation"))

Parts are `train` and `validation`, and for steps that take turns the two halves of the first: every
second image in the order of their digests, so that both have the classes of the whole.

Where images are decoded as they are needed, or a GPU waits for them, a few threads make the batches
that come next while one is learned (`data/prefetch.py`). Those of timm's augmentation, which draws
from generators of the whole process, and of stores that are read in turn vary in the step's own
thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from spacelang.backends.torch.data.augment import RECIPES, Augmentation
from spacelang.backends.torch.data.batches import Shown
from spacelang.backends.torch.data.datasets import (
    Batch,
    Dataset,
    Epochs,
    Part,
    batch_count,
    first_samples,
    ordered_batches,
)
from spacelang.backends.torch.data.mixup import Mixing
from spacelang.backends.torch.data.prefetch import Prefetcher
from spacelang.backends.torch.data.tinyvit_augment import TinyvitAugmentation
from spacelang.backends.torch.data.variation import Views
from spacelang.backends.torch.runs.ranks import current
from spacelang.backends.torch.training.evaluate import BATCH
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.protocol import Samples, StepPlan

FIRST, SECOND = "train/first", "train/second"
HELD = 256 << 20  # bytes of normalised images of a part that are kept between two scores
# What varies images by words of each sample alone, in any thread.
BY_SAMPLE = (Augmentation, TinyvitAugmentation)


class Place(NamedTuple):
    """A shard of a batch."""

    epoch: int
    number: int
    shard: int
    shards: int


class Feed:
    """Batches, each a function of the seed and of what was asked; several parts may take turns.

    mixing   how the images of an epoch are mixed
    repeats  how often an image of training comes in a row (`data.repeated`)
    replay   the seed and epoch that the images of an epoch vary by, where it is not their own
    """

    def __init__(
        self,
        data: Dataset,
        batch_size: int,
        seed: int,
        recipe: Views = RECIPES["none"],
        device: torch.device | str = "cpu",
        mixing: Callable[[int], Mixing | None] = lambda epoch: None,
        repeats: float = 0,
    ) -> None:
        self.batch_size, self.seed = batch_size, seed
        self.recipe: Views = recipe
        self.device, self.mixing, self.repeats = torch.device(device), mixing, repeats
        self.parts = {
            "train": data.train,
            FIRST: _half(data.train, FIRST, 0),
            SECOND: _half(data.train, SECOND, 1),
            "validation": data.validation,
        }
        self.replay: Callable[[int], tuple[int, int]] | None = None
        self._epochs: dict[str, Epochs] = {}
        self._lines: dict[str, Prefetcher[Place, Batch | Shown]] = {}
        self._held: dict[Samples, list[Batch]] = {}

    def part(self, name: str) -> Part:
        """A part by its name (SP701 for another)."""
        if name not in self.parts:
            found = error("SP701", f"no part of the data is called {name}")
            raise SpaceError(found.note(f"there are {', '.join(self.parts)}"))
        return self.parts[name]

    def steps(self, name: str) -> int:
        """How many batches an epoch of a part has."""
        return batch_count(self.part(name), self.batch_size, self.repeats)

    def positions(self, plan: StepPlan) -> NDArray[np.int64]:
        """Where the samples of a step's batch are in their part."""
        return self._of(plan.data).positions(plan.epoch, plan.batch)

    def ids(self, plan: StepPlan) -> list[int]:
        """The ids of the samples of a step's batch."""
        return self.part(plan.data).ids[torch.from_numpy(self.positions(plan))].tolist()

    def batch(
        self, plan: StepPlan, shard: int = 0, shards: int = 1, *, ahead: bool = True
    ) -> Batch:
        """The batch of a step, or a shard of it; not `ahead` where the next steps take others."""
        place = Place(plan.epoch, plan.batch, shard, shards)
        if ahead and (self.part(plan.data).slow or self.device.type == "cuda"):
            made = self._line(plan.data).take(place)
        else:
            made = self._made(plan.data, place)
        found = self._of(plan.data).vary(made) if isinstance(made, Shown) else made
        return found._replace(images=found.images.to(self.device))

    def _line(self, name: str) -> Prefetcher[Place, Batch | Shown]:
        """The batches of a part, the next ones made ahead."""
        if name not in self._lines:
            self._of(name)  # which threads then share
            steps = self.steps(name)

            def following(place: Place) -> Place:
                own = current().shards(place.shards)
                if place.shard + 1 in own:
                    return place._replace(shard=place.shard + 1)
                epoch, number = divmod(place.epoch * steps + place.number + 1, steps)
                return Place(epoch, number, own[0], place.shards)

            self._lines[name] = Prefetcher(lambda place: self._made(name, place), following)
        return self._lines[name]

    def _made(self, name: str, place: Place) -> Batch | Shown:
        """A batch, or what it is made of where another thread may not make it."""
        epochs = self._of(name)
        mixing = self.mixing(place.epoch)
        found = epochs.read(place.epoch, place.number, mixing, place.shard, place.shards)
        return epochs.vary(found) if isinstance(epochs.recipe, BY_SAMPLE) else found

    def _of(self, name: str) -> Epochs:
        if name not in self._epochs:
            self._epochs[name] = Epochs(
                self.part(name), self.batch_size, self.seed, self.recipe, self.replay, self.repeats
            )
        return self._epochs[name]

    def batches(self, samples: Samples) -> Sequence[Batch]:
        """What networks are scored on, as it is; kept, if it is not too much."""
        if samples not in self._held:
            part = self.part(samples.part)
            part = part if samples.count is None else first_samples(part, samples.count)
            if 4 * math.prod(part.images.shape) > HELD:
                return ordered_batches(part, BATCH)
            self._held[samples] = [
                b._replace(images=b.images.to(self.device)) for b in ordered_batches(part, BATCH)
            ]
        return self._held[samples]


def _half(part: Part, name: str, first: int) -> Part:
    """Every second sample of a part."""
    return replace(
        part,
        name=name,
        images=part.images[first::2],
        labels=part.labels[first::2],
        ids=part.ids[first::2].contiguous(),
    )
