"""Parts of a data set and their batches, as pure functions of (seed, epoch).

    for batch in batches(part, 128, seed=0, epoch=3, recipe=RECIPES["digits"]): ...
    for batch in ordered_batches(part, 500): ...
    epochs.load(epoch, number)                    # any batch of any epoch, or a shard of it

Images are uint8 until they are in a batch, in memory or in files (`gallery.py`); batches are
float32, normalised by the training part's mean and standard deviation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spacelang.backends.torch.data.augment import RECIPES, Augmentation, augment
from spacelang.backends.torch.data.counter import shuffled, stream_key
from spacelang.backends.torch.data.gallery import Gallery
from spacelang.backends.torch.data.mixup import Drawn, Mixing, draw, mixed
from spacelang.backends.torch.data.prefetch import Prefetcher
from spacelang.backends.torch.data.variation import Views
from spacelang.engines.stream import seed_of

ROUND = 256  # an epoch of repeated samples has a multiple of so many


class Batch(NamedTuple):
    """Some samples: float32 images [B, C, H, W], int64 labels [B], and the samples' ids [B].

    Where others are mixed in, `others` are their labels and `share` is what the own ones keep.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    others: Tensor | None = None
    share: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One part of a data set, its samples in the order of their ids."""

    name: str
    images: Tensor | Gallery  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N]
    ids: Tensor  # int64 [N]: the first 63 bits of the image's digest, a name for its randomness
    mean: tuple[float, ...]  # a channel, of the training part, with pixels in 0..1
    deviation: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def slow(self) -> bool:
        """Whether images are decoded each time that they are taken."""
        return isinstance(self.images, Gallery)


def batches(
    part: Part,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    recipe: Views = RECIPES["none"],
    start: int = 0,
    replay: tuple[int, int] | None = None,
) -> Iterator[Batch]:
    """The shuffled batches of an epoch from batch `start` on; the last may be smaller.

    Order and augmentation depend on (seed, epoch) and the samples alone, so `start` resumes an
    epoch in the middle with the very batches that were to come. With `replay`, a (seed, epoch) of
    its own, images vary as they did there.
    """
    epochs = Epochs(part, batch_size, seed, recipe, (lambda _: replay) if replay else None)
    for number in range(start, batch_count(part, batch_size)):
        yield epochs.load(epoch, number)


class Taken(NamedTuple):
    """Samples as they are in their part: where, the how manieth time from 0, and their pixels."""

    positions: NDArray[np.int64]
    copies: NDArray[np.int64]
    pixels: Tensor  # uint8 [B, C, H, W]


class Shown(NamedTuple):
    """What a shard of a batch is made of: its samples, and what is mixed into each."""

    epoch: int
    own: Taken
    others: Taken | None = None
    drawn: Drawn | None = None


@dataclass
class Epochs:
    """The batches of any epoch, and shards of them, each by itself.

    A shard is the same to the bit whoever loads it, and its images are those of the whole batch:
    what is mixed in comes from the mirrored place in the batch, which may be in another shard.
    Several threads may ask.

    repeats   each image comes so many times in a row, varied anew each time (`repeated`)
    """

    part: Part
    batch_size: int
    seed: int
    recipe: Views = RECIPES["none"]
    replay: Callable[[int], tuple[int, int]] | None = None  # seed and epoch that images vary by
    repeats: float = 0
    _orders: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = field(
        default_factory=dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]], init=False
    )

    def positions(self, epoch: int, number: int) -> NDArray[np.int64]:
        """Where in the part the samples of a batch are, in their order."""
        return self._order(epoch)[0][self._slice(number)]

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The positions of an epoch's samples, and the how manieth time each comes."""
        found = self._orders.get(epoch)
        if found is None:
            order = shuffled(stream_key(self.seed, "order"), epoch, self.part.ids.numpy())
            which, copies = repeated(len(order), self.repeats)
            found = order[which], copies
            # This one and the last: the end of an epoch and the begin of the next are made at once.
            self._orders = dict([*self._orders.items()][-1:]) | {epoch: found}
        return found

    def _slice(self, number: int) -> slice:
        return slice(number * self.batch_size, (number + 1) * self.batch_size)

    def load(
        self,
        epoch: int,
        number: int,
        mixing: Mixing | None = None,
        shard: int = 0,
        shards: int = 1,
    ) -> Batch:
        """A shard of a batch, all of it where there is one; of an empty shard the first sample."""
        return self.vary(self.read(epoch, number, mixing, shard, shards))

    def read(
        self, epoch: int, number: int, mixing: Mixing | None, shard: int, shards: int
    ) -> Shown:
        """What `load` varies; nothing is drawn here but by name."""
        order, copies = self._order(epoch)
        chosen, again = order[self._slice(number)], copies[self._slice(number)]
        first = sum(shard_sizes(len(chosen), shards)[:shard])
        own = first + np.arange(shard_sizes(len(chosen), shards)[shard] or 1)
        own %= len(chosen)

        def taken(which: NDArray[np.int64]) -> Taken:
            places = chosen[which]
            return Taken(places, again[which], self.part.images[torch.from_numpy(places)])

        drawn = _drawn(self.part, mixing, self.seed, epoch, number)
        if drawn is None:
            return Shown(epoch, taken(own))
        return Shown(epoch, taken(own), taken(len(chosen) - 1 - own), drawn)

    def vary(self, shown: Shown) -> Batch:
        """The batch of what was read."""
        batch = self._varied(shown.epoch, shown.own)
        if shown.drawn is None or shown.others is None:
            return batch
        others = self._varied(shown.epoch, shown.others)
        images = mixed(batch.images, others.images, shown.drawn)
        return batch._replace(images=images, others=others.labels, share=shown.drawn.share)

    def _varied(self, epoch: int, taken: Taken) -> Batch:
        """Samples, varied; those that come again by a seed of their own each time."""
        chosen, copies, pixels = taken
        seed, of = self.replay(epoch) if self.replay else (self.seed, epoch)
        places: list[NDArray[np.int64]] = []
        found: list[Batch] = []
        for copy in np.unique(copies).tolist():
            place = np.flatnonzero(copies == copy)
            by = seed_of(seed, "copy", copy) if copy else seed
            batch = _batch(self.part, chosen[place], pixels[torch.from_numpy(place)])
            places.append(place)
            found.append(_changed(self.part, batch, self.recipe, by, of))
        if len(found) == 1:
            return found[0]
        order = torch.from_numpy(np.argsort(np.concatenate(places)))
        images, at = torch.cat([b.images for b in found])[order], torch.from_numpy(chosen)
        return Batch(images, self.part.labels[at], self.part.ids[at])


def _drawn(part: Part, mixing: Mixing | None, seed: int, epoch: int, number: int) -> Drawn | None:
    height, width = part.images.shape[2:]
    return None if mixing is None else draw(mixing, seed, epoch, number, (height, width))


def views(
    part: Part, positions: NDArray[np.int64], recipe: Views, *, seed: int, epoch: int
) -> Batch:
    """Some samples by position, varied as in an epoch of a seed."""
    pixels = part.images[torch.from_numpy(positions)]
    return _changed(part, _batch(part, positions, pixels), recipe, seed, epoch)


def _changed(part: Part, batch: Batch, recipe: Views, seed: int, epoch: int) -> Batch:
    """A batch of plain pixels, varied and normalised."""
    ids = batch.ids.numpy()
    if not isinstance(recipe, Augmentation):
        found = recipe(batch.images, seed=seed, epoch=epoch, ids=ids, mean=part.mean,
                       deviation=part.deviation)  # fmt: skip
        return batch._replace(images=found)
    varied = augment(batch.images, recipe, seed=seed, epoch=epoch, ids=ids)
    return batch._replace(images=_normalised(part, varied))


@dataclass(frozen=True, slots=True, eq=False)
class Ordered(Sequence[Batch]):
    """Batches of a part in its order, as they are: those of some numbers."""

    part: Part
    batch_size: int
    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, which: int) -> Batch: ...
    @overload
    def __getitem__(self, which: slice) -> Ordered: ...
    def __getitem__(self, which: int | slice) -> Batch | Ordered:
        if isinstance(which, slice):
            return dataclasses.replace(self, numbers=self.numbers[which])
        return self._load(self.numbers[which])

    def __iter__(self) -> Iterator[Batch]:
        if not self.part.slow:
            yield from map(self._load, self.numbers)
            return
        line = Prefetcher(self.__getitem__, lambda n: n + 1 if n + 1 < len(self) else None)
        yield from map(line.take, range(len(self)))

    def _load(self, number: int) -> Batch:
        first = number * self.batch_size
        positions = np.arange(first, min(first + self.batch_size, len(self.part)))
        pixels = self.part.images[torch.from_numpy(positions)]
        batch = _batch(self.part, positions, pixels)
        return batch._replace(images=_normalised(self.part, batch.images))


def ordered_batches(part: Part, batch_size: int) -> Ordered:
    """All samples once, in the order of the part, as they are: for evaluation."""
    return Ordered(part, batch_size, range(batch_count(part, batch_size)))


def batch_count(part: Part, batch_size: int, repeats: float = 0) -> int:
    """How many batches an epoch has."""
    return -(-_shown(len(part), repeats) // batch_size)


def repeated(count: int, repeats: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of so many samples an epoch shows, in its order, and the how manieth time from 0.

    Repeated augmentation (Hoffer and others, 2020) as timm and DeiT have it: each comes `repeats`
    times in a row, in all as many as there are, cut to a multiple of 256; so an epoch sees one of
    `repeats` samples. Where these authors give the copies to different processes, which then see
    one batch of them together, here the batch is that one whatever the processes.
    """
    shown = np.arange(_shown(count, repeats))
    which = (shown // repeats).astype(np.int64) if repeats else shown
    return which, shown - np.searchsorted(which, which)


def _shown(count: int, repeats: float) -> int:
    """How many samples an epoch shows."""
    return count // ROUND * ROUND if repeats and count >= ROUND else count


def shard_sizes(count: int, shards: int) -> list[int]:
    """How many of so many samples each shard has: the first ones one more where it does not divide.

    Sizes of 0 are there where shards are more than samples.
    """
    least, more = divmod(count, shards)
    return [least + (number < more) for number in range(shards)]


def first_samples(part: Part, count: int) -> Part:
    """A part of only the first `count` samples: a fixed random choice, since ids are digests."""
    return dataclasses.replace(
        part,
        images=part.images[:count],
        labels=part.labels[:count],
        ids=part.ids[:count],
    )


def _batch(part: Part, positions: NDArray[np.int64], pixels: Tensor) -> Batch:
    """Samples by position, their pixels as float32 in 0..1."""
    at = torch.from_numpy(positions)
    return Batch(pixels.to(torch.float32).div_(255), part.labels[at], part.ids[at])


def _normalised(part: Part, images: Tensor) -> Tensor:
    mean, deviation = torch.tensor(part.mean), torch.tensor(part.deviation)
    return (images - mean[:, None, None]) / deviation[:, None, None]
