"""Augmentation whose every draw is a function of (seed, epoch, sample).

    recipe = Augmentation(rotate=12, zoom=(0.85, 1.15), shear=8, shift=0.08)
    images = augment(images, recipe, seed=0, epoch=3, ids=batch.ids)

A whole batch is warped at once, and an image comes out the same, to the bit, in any batch.
`VERSION` rises when the pixels of a recipe change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from spacelang.backends.torch.data.counter import stream_key, uniforms, words

VERSION = 1
Draws = dict[str, NDArray[np.float64]]  # name -> a number in [0, 1) for every sample
# The place of each draw in a sample's stream: fixed, so that one option never moves another's.
_DRAWS: tuple[str, ...] = (
    "rotate",
    "zoom",
    "shear",
    "shift_y",
    "shift_x",
    "flip",
    "crop_y",
    "crop_x",
)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How images vary in training. The default changes nothing."""

    rotate: float = 0.0  # degrees, uniform in -rotate..rotate
    zoom: tuple[float, float] = (1.0, 1.0)  # factor, uniform between the two
    shear: float = 0.0  # degrees, uniform in -shear..shear
    shift: float = 0.0  # of the height and of the width, uniform in -shift..shift
    flip: bool = False  # left to right, every second time
    crop: int = 0  # pixels added around, of which a window of the old size is cut
    fill: Literal["zeros", "border", "reflection"] = "zeros"  # what lies outside the image

    def __post_init__(self) -> None:
        low, high = self.zoom
        angles = 0 <= self.rotate <= 180 and 0 <= self.shear < 80
        if not (angles and 0 < low <= high < 100 and 0 <= self.shift <= 1 and self.crop >= 0):
            raise ValueError(f"out of range: {self}")

    @property
    def warps(self) -> bool:
        """Whether pixels are interpolated, and not only moved."""
        return bool(self.rotate or self.shear or self.shift) or self.zoom != (1.0, 1.0)


# By the names that the command line takes.
RECIPES: MappingProxyType[str, Augmentation] = MappingProxyType(
    {
        "none": Augmentation(),
        "digits": Augmentation(rotate=12, zoom=(0.85, 1.15), shear=8, shift=0.08),
        "photos": Augmentation(flip=True, crop=4, fill="reflection"),
    }
)


def augment(
    images: Tensor, recipe: Augmentation, *, seed: int, epoch: int, ids: NDArray[np.int64]
) -> Tensor:
    """Vary float images [B, C, H, W]; `ids` [B] name the samples. The input is not changed."""
    if recipe == RECIPES["none"] or len(ids) == 0:
        return images
    drawn = uniforms(stream_key(seed, "augment"), epoch, ids, len(_DRAWS))
    draws: Draws = dict(zip(_DRAWS, drawn.T, strict=True))
    if recipe.flip:
        chosen = torch.from_numpy(draws["flip"] < 0.5)
        images = torch.where(chosen[:, None, None, None], images.flip(3), images)
    if recipe.crop:
        images = _crop(images, recipe, draws["crop_y"], draws["crop_x"])
    if recipe.warps:
        images = functional.grid_sample(
            images,
            _grid(recipe, draws, images.shape[2], images.shape[3]),
            mode="bilinear",
            padding_mode=recipe.fill,
            align_corners=False,
        )
    return images


def words_of(seed: int, epoch: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """A word of each sample's own stream, 31 bits: what a stored record keeps of its view."""
    drawn = words(stream_key(seed, "augment"), epoch, ids, 1)[:, 0]
    return (drawn >> np.uint64(1)).astype(np.int64)


def _crop(
    images: Tensor, recipe: Augmentation, down: NDArray[np.float64], right: NDArray[np.float64]
) -> Tensor:
    height, width = images.shape[2:]
    margin = recipe.crop
    mode = {"zeros": "constant", "border": "replicate", "reflection": "reflect"}[recipe.fill]
    padded = functional.pad(images, (margin,) * 4, mode=mode)
    places = 2 * margin + 1
    top = torch.from_numpy((down * places).astype(np.int64))
    left = torch.from_numpy((right * places).astype(np.int64))
    sample = torch.arange(len(images))[:, None, None]
    rows = (top[:, None] + torch.arange(height))[:, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, :]
    return padded.permute(0, 2, 3, 1)[sample, rows, columns].permute(0, 3, 1, 2).contiguous()


def _grid(recipe: Augmentation, draws: Draws, height: int, width: int) -> Tensor:
    """Where each output pixel is read, in the units of grid_sample: [B, H, W, 2].

    Element by element, not by a product of matrices: only so is a sample's grid the same to the
    bit whatever stands beside it in the batch.
    """
    samples = range(len(draws["zoom"]))
    rows = [
        _inverse(recipe, {name: float(draw[i]) for name, draw in draws.items()}) for i in samples
    ]
    xx, xy, yx, yy, shift_x, shift_y = torch.tensor(rows, dtype=torch.float32).T[:, :, None, None]
    x = (torch.arange(width, dtype=torch.float32) - (width - 1) / 2)[None, None, :]
    y = (torch.arange(height, dtype=torch.float32) - (height - 1) / 2)[None, :, None]
    source_x = (xx * x + xy * y) * (2 / width) + shift_x
    source_y = (yx * x + yy * y) * (2 / height) + shift_y
    return torch.stack((source_x, source_y), dim=3)


def _inverse(recipe: Augmentation, draw: dict[str, float]) -> tuple[float, ...]:
    """Output pixel -> source pixel: the four entries of (rotate . shear / zoom), and the shifts."""
    angle = math.radians(recipe.rotate) * (2 * draw["rotate"] - 1)
    slant = math.tan(math.radians(recipe.shear) * (2 * draw["shear"] - 1))
    low, high = recipe.zoom
    zoom = low + (high - low) * draw["zoom"]
    sine, cosine = math.sin(angle) / zoom, math.cos(angle) / zoom
    return (
        cosine,
        cosine * slant - sine,
        sine,
        sine * slant + cosine,
        2 * recipe.shift * (2 * draw["shift_x"] - 1),
        2 * recipe.shift * (2 * draw["shift_y"] - 1),
    )
