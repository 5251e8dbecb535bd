"""How images vary in training, by the words of the command line: none, digits, `timm ..`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spacelang.backends.torch import timm_augment, tinyvit_augment
from spacelang.backends.torch.augment import RECIPES, Augmentation
from spacelang.backends.torch.timm_augment import TimmAugmentation
from spacelang.backends.torch.tinyvit_augment import TinyvitAugmentation
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


def variation(text: str) -> Variation:
    """How images vary, by the name of a recipe or `timm ..`, `tinyvit ..` (SP103, SP204, SP209)."""
    first = next(iter(text.split()), "")
    if first in READERS:
        return READERS[first](text)
    if text not in RECIPES:
        known = ", ".join((*RECIPES, *(f"'{name} ..'" for name in READERS)))
        raise SpaceError(error("SP103", f"aug is one of {known}, not {text}"))
    return RECIPES[text]
