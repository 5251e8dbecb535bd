"""TinyViT's augmentation, every draw of which follows from one 31-bit word a sample.

    recipe = TinyvitAugmentation(aa="rand-m9-mstd0.5-inc1", reprob=0.25)
    image = recipe.vary(picture, word, (224, 224), mean, deviation)

On the command line `--aug 'tinyvit reprob=0.25'`. The order of the draws is that of TinyViT
(ECCV 2022): crop, flips, RandAugment, erasing, all of one PCG64 generator, and erased pixels of an
MT19937 that is seeded by it. So the words in TinyViT's published stores give the published views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spacelang.backends.torch.data.augment import words_of
from spacelang.backends.torch.data.augment_settings import check_cuts, read_named
from spacelang.backends.torch.data.rand_augment import Draws, Policy
from spacelang.extras import install

PREFIX = "tinyvit"
TRIES = 10  # for a crop, and for a box to erase, that fits
ERASED = (0.02, 1 / 3)  # of the area
SHAPES = (0.3, 1 / 0.3)  # of the boxes
FRAME = 224  # pixels of the square that boxes are drawn in


@dataclass(frozen=True)
class TinyvitAugmentation:
    """Settings of TinyViT's stack; the defaults are its recipes'.

    scale, ratio   of the area that is cut out, and its sides
    aa             RandAugment; none where it is empty
    reprob, remode, recount   random erasing, after normalisation
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    vflip: float = 0.0
    aa: str = "rand-m9-mstd0.5-inc1"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    reprob: float = 0.25
    remode: Literal["const", "rand", "pixel"] = "pixel"
    recount: int = 1

    def __post_init__(self) -> None:
        check_cuts(self.scale, self.ratio, self.recount, (self.hflip, self.vflip, self.reprob))
        if self.aa:
            Policy.read(self.aa)

    @classmethod
    def read(cls, text: str) -> TinyvitAugmentation:
        """From `tinyvit NAME=VALUE ..`, pairs with a colon (SP204, SP209, SP103)."""
        return read_named(cls, "tinyvit", text)

    def check(self) -> None:
        """ImportError without Pillow."""
        try:
            import_module("PIL.Image")
        except ImportError as missing:
            text = f"--aug tinyvit: {missing}; {install('data')}"
            raise ImportError(text, name=missing.name) from missing

    @property
    def version(self) -> str:
        """Of what makes the pixels."""
        return f"pillow {version('pillow')}"

    @cached_property
    def _resample(self) -> Any:
        return getattr(import_module("PIL.Image").Resampling, self.interpolation.upper())

    def __call__(
        self,
        images: Tensor,
        *,
        seed: int,
        epoch: int,
        ids: NDArray[np.int64],
        mean: Sequence[float],
        deviation: Sequence[float],
    ) -> Tensor:
        """Vary float images [B, C, H, W] of 0..1 and normalise them; C is 1 or 3."""
        size = (images.shape[2], images.shape[3])
        seeds = words_of(seed, epoch, ids).tolist()
        varied = [
            self.vary(picture, word, size, mean, deviation)
            for picture, word in zip(pictures(images), seeds, strict=True)
        ]
        return torch.stack(varied) if varied else images

    def vary(
        self,
        picture: Any,
        word: int,
        size: tuple[int, int],
        mean: Sequence[float],
        deviation: Sequence[float],
    ) -> Tensor:
        """A picture of Pillow's as TinyViT varies it by a word: normalised, [C, *size]."""
        draws = Draws(word)
        picture = self._cropped(picture, draws, size)
        flips = import_module("PIL.Image").Transpose
        for share, flip in (
            (self.hflip, flips.FLIP_LEFT_RIGHT),
            (self.vflip, flips.FLIP_TOP_BOTTOM),
        ):
            if share > 0 and draws.share() < share:
                picture = picture.transpose(flip)
        if self.aa:
            fill = [min(255, round(255 * value)) for value in mean]
            colour = tuple(fill) if len(fill) > 1 else fill[0]
            warp = {"fillcolor": colour, "resample": self._resample}
            picture = Policy.read(self.aa).change(picture, draws, warp)
        pixels = np.asarray(picture, np.uint8)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        image = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float().div_(255)
        centre, spread = (torch.tensor(values)[:, None, None] for values in (mean, deviation))
        image = image.sub_(centre).div_(spread)
        self._erase(image, draws)
        return image

    def _cropped(self, picture: Any, draws: Draws, size: tuple[int, int]) -> Any:
        width, height = picture.size
        left, top, wide, high = self._window(width, height, draws)
        box = (left, top, left + wide, top + high)
        return picture.crop(box).resize(size[::-1], self._resample)

    def _window(self, width: int, height: int, draws: Draws) -> tuple[int, int, int, int]:
        narrow, broad = self.ratio
        for _ in range(TRIES):
            area = draws.between(*self.scale) * (width * height)
            ratio = math.exp(draws.between(math.log(narrow), math.log(broad)))
            wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if wide <= width and high <= height:
                top = draws.whole(0, height - high)
                return draws.whole(0, width - wide), top, wide, high
        wide, high = width, height
        if width / height < narrow:
            high = round(width / narrow)
        elif width / height > broad:
            wide = round(height * broad)
        return (width - wide) // 2, (height - high) // 2, wide, high

    def _erase(self, image: Tensor, draws: Draws) -> None:
        """Boxes are drawn in a square of 224 pixels and scaled to the image, [C, H, W]."""
        if self.reprob == 0 or draws.share() > self.reprob:
            return
        channels, height, width = image.shape
        count = 1 if self.recount == 1 else draws.whole(1, self.recount)
        for _ in range(count):
            for _ in range(TRIES):
                area = draws.between(*ERASED) * (FRAME * FRAME) / count
                ratio = math.exp(draws.between(*(math.log(side) for side in SHAPES)))
                high, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
                if wide >= FRAME or high >= FRAME:
                    continue
                down, right = draws.whole(0, FRAME - high), draws.whole(0, FRAME - wide)
                top = min(round(down * height / FRAME), height - 1)
                left = min(round(right * width / FRAME), width - 1)
                high = min(round(high * height / FRAME), height - top)
                wide = min(round(wide * width / FRAME), width - left)
                filling = self._filling((channels, high, wide), draws)
                image[:, top : top + high, left : left + wide] = filling
                break

    def _filling(self, shape: tuple[int, int, int], draws: Draws) -> Tensor:
        if self.remode == "const":
            return torch.zeros(shape[0], 1, 1)
        seed = draws.whole(0, 1 << 30)
        sizes = shape if self.remode == "pixel" else (shape[0], 1, 1)
        drawn = np.random.Generator(np.random.MT19937(seed)).normal(size=sizes)
        return torch.tensor(drawn, dtype=torch.float32)


def pictures(images: Tensor) -> list[Any]:
    """Float images [B, 1 or 3, H, W] of 0..1 as pictures of Pillow's."""
    picture = import_module("PIL.Image").fromarray
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    grey = images.shape[1] == 1
    return [picture(pixel[:, :, 0] if grey else pixel) for pixel in pixels]
