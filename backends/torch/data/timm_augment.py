"""timm's augmentation, with draws that are a function of (seed, epoch, sample).

    recipe = TimmAugmentation(aa="rand-m9-mstd0.5-inc1", reprob=0.25)
    images = recipe(images, seed=0, epoch=3, ids=ids, mean=part.mean, deviation=part.deviation)

On the command line `--aug 'timm aa=rand-m9-mstd0.5-inc1 reprob=0.25'`; names, values and defaults
are those of the flags of timm's training script. timm draws from the global generators of Python,
NumPy and torch (on the processor): each sample gets them seeded anew, and they are given back as
they were.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spacelang.backends.torch.data.augment_settings import check_cuts, read_named
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.stream import seed_of
from spacelang.extras import install

PREFIX = "timm"


@dataclass(frozen=True, slots=True)
class TimmAugmentation:
    """Settings of `timm.data.create_transform` by the flags of timm's `train.py`, whose defaults
    they have.

    scale, ratio   of the area that is cut out, and its sides
    aa             a policy by name: "rand-m9-mstd0.5-inc1", "augmix-m5-w4-d2", "original", ..
    reprob, remode, recount   random erasing, after normalisation as in timm
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    vflip: float = 0.0
    color_jitter: float = 0.4
    aa: str = ""
    interpolation: Literal["random", "bilinear", "bicubic"] = "random"
    reprob: float = 0.0
    remode: Literal["const", "rand", "pixel"] = "pixel"
    recount: int = 1

    def __post_init__(self) -> None:
        check_cuts(self.scale, self.ratio, self.recount, (self.hflip, self.vflip, self.reprob))
        if self.color_jitter < 0:
            raise ValueError("color_jitter >= 0 is needed")

    @classmethod
    def read(cls, text: str) -> TimmAugmentation:
        """From `timm NAME=VALUE ..`, pairs with a colon (SP204, SP209, SP103; ImportError)."""
        return read_named(cls, "timm", text)

    def check(self) -> None:
        """ImportError without timm, SP103 for a policy that it does not know."""
        try:
            self.transform((3, 8, 8), (0.0,) * 3, (1.0,) * 3)
        except (ValueError, AssertionError, KeyError, AttributeError) as problem:
            raise SpaceError(
                error("SP103", f"timm has no policy {self.aa}: {problem}")
            ) from problem

    @property
    def version(self) -> str:
        """Of what makes the pixels."""
        return " ".join(f"{name} {version(name)}" for name in ("timm", "torchvision", "pillow"))

    def transform(
        self, shape: tuple[int, int, int], mean: Sequence[float], deviation: Sequence[float]
    ) -> Any:
        """timm's transform of an image [C, H, W], to normalised pixels."""
        return _transform(self, shape, tuple(mean), tuple(deviation))

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
        channels, height, width = images.shape[1:]
        if channels not in (1, 3):
            raise SpaceError(
                error("SP704", f"timm varies images of 1 or 3 channels, not {channels}")
            )
        transform = self.transform((channels, height, width), mean, deviation)
        pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        picture = import_module("PIL.Image").fromarray
        varied: list[Tensor] = []
        with _generators_kept():
            for pixel, sample in zip(pixels, ids, strict=True):
                _seed(seed_of(seed, "timm", epoch, int(sample)))
                image = picture(pixel[:, :, 0] if channels == 1 else pixel)
                try:
                    varied.append(transform(image))
                except ValueError as failed:  # as Pillow 13 has it of what timm 1.0 asks for
                    told = f"timm could not vary the image {int(sample)}: {failed}"
                    hint = f"a smaller magnitude, or another version; here is {self.version}"
                    raise SpaceError(error("SP704", told).hint(hint)) from failed
        return torch.stack(varied) if varied else images


@lru_cache(maxsize=8)
def _transform(
    recipe: TimmAugmentation,
    shape: tuple[int, int, int],
    mean: tuple[float, ...],
    deviation: tuple[float, ...],
) -> Any:
    try:
        data = import_module("timm.data")
    except ImportError as missing:
        text = f"--aug timm: {missing}; {install('timm')}"
        raise ImportError(text, name=missing.name) from missing
    return data.create_transform(
        shape,
        is_training=True,
        scale=recipe.scale,
        ratio=recipe.ratio,
        hflip=recipe.hflip,
        vflip=recipe.vflip,
        color_jitter=recipe.color_jitter,
        auto_augment=recipe.aa or None,
        interpolation=recipe.interpolation,
        mean=mean,
        std=deviation,
        re_prob=recipe.reprob,
        re_mode=recipe.remode,
        re_count=recipe.recount,
    )


def _seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number % (1 << 32))
    torch.default_generator.manual_seed(number)  # not those of other devices


@contextmanager
def _generators_kept() -> Generator[None]:
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
