"""Image data sets for training, in three parts.

    data = open_data("mnist5k")                     # or "digits", a folder, an .npz file
    for batch in batches(data.train, 128, seed=0, epoch=3, recipe=RECIPES["digits"]): ...
    for batch in ordered_batches(data.validation, 500): ...

The test part is reached through `test_part` alone, which only final evaluation may call (a test
reads the source and holds that).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from spacelang.backends.torch.data.augment import RECIPES
from spacelang.backends.torch.data.batches import (
    Batch,
    Epochs,
    Part,
    batch_count,
    batches,
    first_samples,
    ordered_batches,
    repeated,
    shard_sizes,
    views,
)
from spacelang.backends.torch.data.gallery import Gallery
from spacelang.backends.torch.data.images import READERS, read_images
from spacelang.backends.torch.data.pictures import DataError, Images, Origin
from spacelang.backends.torch.data.split import PARTS, Split, divide, published_split, split_record

# Data sets of fixed content, whose split is committed and compared.
PUBLISHED = ("mnist5k",)


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
    depth, height, width = _shape(images)
    mean, deviation = _statistics(images.sums[positions["train"]], height * width)
    parts = {part: _part(part, images, positions[part], mean, deviation) for part in PARTS}
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
    found = images.pixels
    if isinstance(found, Gallery):
        pictures = found.of(positions.tolist())
    else:
        pictures = torch.from_numpy(np.ascontiguousarray(found[positions].transpose(0, 3, 1, 2)))
    ids = [int.from_bytes(images.digests[i][:8], "big") >> 1 for i in positions]
    return Part(
        name,
        pictures,
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


def _shape(images: Images) -> tuple[int, int, int]:
    """Channels, height, width."""
    found = images.pixels
    if isinstance(found, Gallery):
        return found.channels, *found.size
    return found.shape[3], found.shape[1], found.shape[2]


def _statistics(
    sums: NDArray[np.int64], pixels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel, of images of so many pixels in 0..1, from the exact
    sums of each."""
    mean: list[float] = []
    deviation: list[float] = []
    count = len(sums) * pixels
    for total, squares in sums.sum(0).tolist():
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
