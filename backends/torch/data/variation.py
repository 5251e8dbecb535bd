"""How images vary in training, by the words of the command line: none, digits, `timm ..`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spacelang.backends.torch.data import timm_augment, tinyvit_augment
from spacelang.backends.torch.data.augment import RECIPES, Augmentation
from spacelang.backends.torch.data.timm_augment import TimmAugmentation
from spacelang.backends.torch.data.tinyvit_augment import TinyvitAugmentation
from spacelang.diagnostics import SpaceError, error

# Their pixels change with the versions of libraries.
OfLibraries = TimmAugmentation | TinyvitAugmentation
Variation = Augmentation | OfLibraries


class Varies(Protocol):
    """What varies images and normalises them."""

    def __call__(
        self,
        images: Tensor,
        *,
        seed: int,
        epoch: int,
        ids: NDArray[np.int64],
        mean: Sequence[float],
        deviation: Sequence[float],
    ) -> Tensor: ...


Views = Augmentation | Varies

READERS: Mapping[str, Callable[[str], OfLibraries]] = MappingProxyType(
    {
        timm_augment.PREFIX: TimmAugmentation.read,
        tinyvit_augment.PREFIX: TinyvitAugmentation.read,
    }
)


# Settings of timm's augmentation that are settings of training too, as flags of its script.
IN_AUG = ("aa", "color_jitter", "hflip", "vflip", "reprob", "remode", "recount")


def with_aug(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings with what is `IN_AUG` put into the text of `aug` (SP103 where it has no place).

    `{"aa": "original", "reprob": "0.25"}` is `{"aug": "timm aa=original reprob=0.25"}`.
    """
    own = {name: value for name, value in settings.items() if name in IN_AUG}
    rest = {name: value for name, value in settings.items() if name not in IN_AUG}
    if not own:
        return rest
    aug = str(rest.get("aug", "none"))
    first, *words = aug.split() or [""]
    if aug == "none":
        first = timm_augment.PREFIX
    elif first not in READERS:
        names = ", ".join(own)
        told = error("SP103", f"training: {names} say how timm varies images, and aug is {aug}")
        raise SpaceError(told.hint("--aug timm"))
    texts = {word.partition("=")[0]: word for word in words}
    texts |= {name: f"{name}={value}" for name, value in own.items()}
    return {**rest, "aug": " ".join([first, *texts.values()])}


def variation(text: str) -> Variation:
    """How images vary, by the name of a recipe or `timm ..`, `tinyvit ..` (SP103, SP204, SP209)."""
    first = next(iter(text.split()), "")
    if first in READERS:
        return READERS[first](text)
    if text not in RECIPES:
        known = ", ".join((*RECIPES, *(f"'{name} ..'" for name in READERS)))
        raise SpaceError(error("SP103", f"aug is one of {known}, not {text}"))
    return RECIPES[text]
