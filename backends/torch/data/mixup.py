"""Mixup and cutmix: two images in one, and their labels by the same shares.

    drawn = draw(Mixing(mixup=0.8, cutmix=1.0), seed, epoch, batch, (height, width))
    images = mixed(images, others, drawn);  loss = drawn.share * ours + (1 - drawn.share) * theirs

As timm mixes whole batches (Zhang and others, 2018; Yun and others, 2019): each image with that of
the mirrored place in its batch. What is drawn is a function of (seed, epoch, batch), so processes
that share a batch mix it alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from spacelang.engines.stream import seed_of

Box = tuple[int, int, int, int]  # top, bottom, left, right


@dataclass(frozen=True, slots=True)
class Mixing:
    """How often and how much: alpha of the shares, and the chance of each batch."""

    mixup: float = 0.0
    cutmix: float = 0.0
    chance: float = 1.0
    switch: float = 0.5  # of cutmix, where there are both


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn for a batch: how much of the own image stays, and where the other is put."""

    share: float
    box: Box | None = None


def draw(mixing: Mixing, seed: int, epoch: int, batch: int, size: tuple[int, int]) -> Drawn | None:
    """What a batch of images [.., height, width] gets; None where it stays as it is."""
    chance = Random(seed_of(seed, "mix", epoch, batch))
    if chance.random() >= mixing.chance:
        return None
    both = mixing.mixup > 0 and mixing.cutmix > 0
    cuts = chance.random() < mixing.switch if both else mixing.cutmix > 0
    alpha = mixing.cutmix if cuts else mixing.mixup
    share = chance.betavariate(alpha, alpha)
    if not cuts:
        return Drawn(share)
    height, width = size
    box = _box(share, height, width, chance.randrange(height), chance.randrange(width))
    top, bottom, left, right = box
    return Drawn(1 - (bottom - top) * (right - left) / (height * width), box)


def mixed(images: Tensor, others: Tensor, drawn: Drawn) -> Tensor:
    """Images [B, C, H, W] with the others in them."""
    if drawn.box is None:
        return images * drawn.share + others * (1 - drawn.share)
    top, bottom, left, right = drawn.box
    found = images.clone(memory_format=torch.preserve_format)
    found[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return found


def _box(share: float, height: int, width: int, row: int, column: int) -> Box:
    """The box around a place that covers what is not kept, cut off at the borders."""
    ratio = (1 - share) ** 0.5
    tall, wide = int(height * ratio), int(width * ratio)
    return (
        max(0, row - tall // 2),
        min(height, row + (tall + 1) // 2),
        max(0, column - wide // 2),
        min(width, column + (wide + 1) // 2),
    )
