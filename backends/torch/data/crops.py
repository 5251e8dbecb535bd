"""Crops of photographs that come with scikit-image and scikit-learn, which load nothing.

    textures       3 surfaces, grey: brick, grass, gravel          1,080 crops
    photographs    which of 10 colour photographs is it from       3,534 crops

A crop is 64 x 64 pixels and is scaled to what the network takes. The three parts lie beside each
other in the photograph (columns 0 to 60 %, 80 % and 100 %), so none shares a pixel with another:
what is learned has to hold elsewhere in the picture. Within a part crops overlap; those in which
there is nothing to see, as the black around the retina, are left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE, ROWS = 64, 12
LEVELS = 16  # of 255, between the darkest and the brightest value: fewer are nothing to see
# Part -> where it begins and ends, and how many columns of crops it has.
BANDS: Mapping[str, tuple[float, float, int]] = MappingProxyType(
    {"train": (0.0, 0.6, 20), "validation": (0.6, 0.8, 5), "test": (0.8, 1.0, 5)}
)
SKIMAGE, SKLEARN = ("skimage", "data"), ("sklearn", "datasets/images")
SETS: Mapping[str, Mapping[str, tuple[tuple[str, str], str]]] = MappingProxyType(
    {
        "textures": {name: (SKIMAGE, f"{name}.png") for name in ("brick", "grass", "gravel")},
        "photographs": {
            "astronaut": (SKIMAGE, "astronaut.png"),
            "cat": (SKIMAGE, "chelsea.png"),
            "china": (SKLEARN, "china.jpg"),
            "coffee": (SKIMAGE, "coffee.png"),
            "flower": (SKLEARN, "flower.jpg"),
            "galaxies": (SKIMAGE, "hubble_deep_field.jpg"),
            "motorcycle": (SKIMAGE, "motorcycle_left.png"),
            "retina": (SKIMAGE, "retina.jpg"),
            "rocket": (SKIMAGE, "rocket.jpg"),
            "tissue": (SKIMAGE, "ihc.png"),
        },
    }
)


class Crops(NamedTuple):
    """Crops [N, 64, 64, C], their labels, and the part of each."""

    pixels: NDArray[np.uint8]
    labels: NDArray[Any]
    parts: tuple[str, ...]


def scales(name: str) -> bool:
    """Whether a name is that of a set of crops, which are scaled to what a network takes."""
    return name in SETS


def read_crops(name: str) -> Crops:
    """A set of crops (ImportError where its package is missing, OSError where a file of it is)."""
    pixels: list[NDArray[np.uint8]] = []
    labels: list[str] = []
    parts: list[str] = []
    for label, (where, file) in SETS[name].items():
        picture = _picture(where, file)
        for part, (begin, end, columns) in BANDS.items():
            height, width = picture.shape[:2]
            first, last = round(begin * width), round(end * width) - SIDE
            for top in np.linspace(0, height - SIDE, ROWS).astype(int):
                for left in np.linspace(first, last, columns).astype(int):
                    crop = picture[top : top + SIDE, left : left + SIDE]
                    if np.ptp(crop) >= LEVELS:
                        pixels.append(crop)
                        labels.append(label)
                        parts.append(part)
    return Crops(np.stack(pixels), np.array(labels), tuple(parts))


def _picture(where: tuple[str, str], file: str) -> NDArray[np.uint8]:
    """The pixels [H, W, 1 or 3] of a picture in a package."""
    from PIL import Image

    package, folder = where
    place = os.path.dirname(str(import_module(package).__file__))
    with Image.open(os.path.join(place, folder, file)) as image:
        pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels
