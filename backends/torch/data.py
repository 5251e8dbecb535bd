"""Image data sets for training: three parts, batches as pure functions of (seed, epoch).

    data = open_data("mnist5k")                     # or "digits", a folder, an .npz file
    for batch in batches(data.train, 128, seed=0, epoch=3, recipe=RECIPES["digits"]): ...
    for batch in ordered_batches(data.validation, 500): ...

The test part is reached through `test_part` alone, which only final evaluation may call (a test
reads the source and holds that). Images stay uint8 in memory; batches are float32, normalised by
the training part's mean and standard deviation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spacelang.backends.torch.augment import RECIPES, Augmentation, augment
from spacelang.backends.torch.counter import shuffled, stream_key
from spacelang.backends.torch.images import READERS, read_images
from spacelang.backends.torch.mix import Drawn, Mixing, draw, mixed
from spacelang.backends.torch.pictures import DataError, Images, Origin
from spacelang.backends.torch.split import PARTS, Split, divide, published_split, split_record
from spacelang.backends.torch.variation import Views
from spacelang.engines.stream import seed_of

# Data sets of fixed content, whose split is committed and compared.
PUBLISHED = ("mnist5k",)
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
    images: Tensor  # uint8 [N, C, H, W]
    labels: Tensor  # int64 [N]
    ids: Tensor  # int64 [N]: the first 63 bits of the image's digest, a name for its randomness
    mean: tuple[float, ...]  # a channel, of the training part, with pixels in 0..1
    deviation: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Labelled images in three parts; the third is for `test_part`."""

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # channels, height, width
    counts: dict[str, int]  # samples of each part
    split_digest: str  # equal digests: the same images in the same parts
    skipped: int  # files of a folder that are no PNG, JPEG or BMP
    train: Part
    validation: Part
    _test: Part
    origins: Mapping[int, Origin] = field(default_factory=dict[int, Origin])  # of training samples


def open_data(
    spec: str, *, size: int | tuple[int, int] | None = None, channels: int | None = None
) -> Dataset:
    """Open a data set by name (`mnist5k`, `digits`) or path (folder of class folders, `.npz`).

    `size` (side, or height and width) and `channels` (1 or 3) are what the network takes; by
    default the images keep theirs. DataError says what is wrong with a source.
    """
    sides = (size, size) if isinstance(size, int) else size
    images = read_images(spec, sides, channels)
    if len(images.classes) < 2:
        raise DataError(f"{images.name}: has {len(images.classes)} class, needs at least 2")
    split = divide(images.digests, images.labels.tolist(), images.fixed, images.cut)
    _check_split(spec, images, split)
    positions = {part: _ordered(images, getattr(split, part)) for part in PARTS}
    mean, deviation = _statistics(images.pixels[positions["train"]])
    parts = {part: _part(part, images, positions[part], mean, deviation) for part in PARTS}
    _, height, width, depth = images.pixels.shape
    return Dataset(
        images.name,
        images.classes,
        (depth, height, width),
        {part: len(parts[part]) for part in PARTS},
        split.digest,
        images.skipped,
        parts["train"],
        parts["validation"],
        parts["test"],
        _origins(images, positions["train"], parts["train"].ids.tolist()),
    )


def test_part(dataset: Dataset) -> Part:
    """The held-out part, for the one last evaluation of a finished network."""
    return dataset._test


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


@dataclass
class Epochs:
    """The batches of any epoch, and shards of them, each by itself.

    A shard is the same to the bit whoever loads it, and its images are those of the whole batch:
    what is mixed in comes from the mirrored place in the batch, which may be in another shard.

    repeats   each image comes so many times in a row, varied anew each time (`repeated`)
    """

    part: Part
    batch_size: int
    seed: int
    recipe: Views = RECIPES["none"]
    replay: Callable[[int], tuple[int, int]] | None = None  # seed and epoch that images vary by
    repeats: float = 0
    _epoch: int = field(default=-1, init=False)
    _order: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), init=False)
    _copies: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), init=False)

    def positions(self, epoch: int, number: int) -> NDArray[np.int64]:
        """Where in the part the samples of a batch are, in their order."""
        if epoch != self._epoch:
            order = shuffled(stream_key(self.seed, "order"), epoch, self.part.ids.numpy())
            which, self._copies = repeated(len(order), self.repeats)
            self._epoch, self._order = epoch, order[which]
        return self._order[self._slice(number)]

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
        chosen = self.positions(epoch, number)
        copies = self._copies[self._slice(number)]
        first = sum(shard_sizes(len(chosen), shards)[:shard])
        own = first + np.arange(shard_sizes(len(chosen), shards)[shard] or 1)
        own %= len(chosen)
        batch = self._varied(epoch, chosen[own], copies[own])
        drawn = _drawn(self.part, mixing, self.seed, epoch, number)
        if drawn is None:
            return batch
        mirrored = len(chosen) - 1 - own
        others = self._varied(epoch, chosen[mirrored], copies[mirrored])
        images = mixed(batch.images, others.images, drawn)
        return batch._replace(images=images, others=others.labels, share=drawn.share)

    def _varied(self, epoch: int, chosen: NDArray[np.int64], copies: NDArray[np.int64]) -> Batch:
        """Samples by position; those that come again vary by a seed of their own each time."""
        seed, of = self.replay(epoch) if self.replay else (self.seed, epoch)
        places: list[NDArray[np.int64]] = []
        found: list[Batch] = []
        for copy in np.unique(copies).tolist():
            places.append(np.flatnonzero(copies == copy))
            by = seed_of(seed, "copy", copy) if copy else seed
            found.append(views(self.part, chosen[places[-1]], self.recipe, seed=by, epoch=of))
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
    batch = _batch(part, torch.from_numpy(positions))
    ids = part.ids.numpy()[positions]
    if not isinstance(recipe, Augmentation):
        found = recipe(batch.images, seed=seed, epoch=epoch, ids=ids, mean=part.mean,
                       deviation=part.deviation)  # fmt: skip
        return batch._replace(images=found)
    varied = augment(batch.images, recipe, seed=seed, epoch=epoch, ids=ids)
    return batch._replace(images=_normalised(part, varied))


def ordered_batches(part: Part, batch_size: int) -> Iterator[Batch]:
    """All samples once, in the order of the part, as they are: for evaluation."""
    for positions in torch.arange(len(part)).split(batch_size):
        batch = _batch(part, positions)
        yield batch._replace(images=_normalised(part, batch.images))


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


def _batch(part: Part, positions: Tensor) -> Batch:
    """Samples by position, pixels as float32 in 0..1."""
    pixels = part.images[positions].to(torch.float32).div_(255)
    return Batch(pixels, part.labels[positions], part.ids[positions])


def _normalised(part: Part, images: Tensor) -> Tensor:
    mean, deviation = torch.tensor(part.mean), torch.tensor(part.deviation)
    return (images - mean[:, None, None]) / deviation[:, None, None]


def _ordered(images: Images, positions: tuple[int, ...]) -> NDArray[np.int64]:
    """Positions by digest, then label: the order of the source leaves no trace."""
    key = sorted(positions, key=lambda i: (images.digests[i], int(images.labels[i])))
    return np.array(key, np.int64)


def _part(
    name: str,
    images: Images,
    positions: NDArray[np.int64],
    mean: tuple[float, ...],
    deviation: tuple[float, ...],
) -> Part:
    pixels = np.ascontiguousarray(images.pixels[positions].transpose(0, 3, 1, 2))
    ids = [int.from_bytes(images.digests[i][:8], "big") >> 1 for i in positions]
    return Part(
        name,
        torch.from_numpy(pixels),
        torch.from_numpy(images.labels[positions]),
        torch.tensor(ids, dtype=torch.int64),
        mean,
        deviation,
    )


def _origins(images: Images, positions: NDArray[np.int64], ids: Sequence[int]) -> dict[int, Origin]:
    """Where each sample came from; of equal images the first in the source."""
    found: dict[int, Origin] = {}
    for sample, position in zip(ids, positions.tolist(), strict=True):
        origin = images.origins[position]
        if sample not in found or origin < found[sample]:
            found[sample] = origin
    return found


def _statistics(pixels: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel, of pixels in 0..1, from exact sums of integers."""
    mean: list[float] = []
    deviation: list[float] = []
    values = np.arange(256)
    for channel in range(pixels.shape[3]):
        histogram = np.bincount(pixels[..., channel].ravel(), minlength=256)
        count, total = int(histogram.sum()), int((histogram * values).sum())
        squares = int((histogram * values * values).sum())
        mean.append(total / count / 255)
        spread = (count * squares - total * total) / (count * count)
        deviation.append(max(spread**0.5 / 255, 1 / 255))  # a blank channel is not blown up
    return tuple(mean), tuple(deviation)


def _check_split(spec: str, images: Images, split: Split) -> None:
    """Refuse a split that leaves a part empty, shares an image, or is not the published one."""
    part_of: dict[bytes, str] = {}
    for part in PARTS:
        positions = getattr(split, part)
        if not positions:
            raise DataError(
                f"{images.name}: no images are left for {part} ({len(images.labels)} in all)",
                "every part needs some: three images of a class at the very least",
            )
        for position in positions:
            other = part_of.setdefault(images.digests[position], part)
            if other != part:
                raise DataError(f"{images.name}: {other} and {part} hold the same image")
    if spec in PUBLISHED and published_split(spec) != split_record(spec, split):
        raise DataError(
            f"{spec}: the images do not give the published split {split.digest[:16]}...",
            "the package that holds them has changed: install the version that is pinned",
        )


__all__ = [
    "PUBLISHED",
    "READERS",
    "RECIPES",
    "Batch",
    "DataError",
    "Dataset",
    "Epochs",
    "Part",
    "batch_count",
    "batches",
    "first_samples",
    "open_data",
    "ordered_batches",
    "repeated",
    "shard_sizes",
    "test_part",
    "views",
]
