"""Labelled images before they are split, and how pictures of files become pixels of one size."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spacelang.diagnostics import SpaceError, error
from spacelang.extras import install

if TYPE_CHECKING:
    from spacelang.backends.torch.data.gallery import Gallery

Pixels = NDArray[np.uint8]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})
FORMATS = ("PNG", "JPEG", "BMP")
MAX_BYTES = 4 << 30  # of pixels, held in memory; of folders more are decoded when they are needed
# What a broken file makes Pillow, zipfile and numpy raise.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Warning,
)


class DataError(SpaceError):
    """A data set that cannot be used, and why."""

    def __init__(self, headline: str, help: str = "") -> None:
        super().__init__(error("SP704", headline).hint(help))


class Origin(NamedTuple):
    """Where an image is in its source: its number there (in the folder of its part), its file."""

    number: int
    file: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """All labelled images of a source, before they are split."""

    name: str
    pixels: Pixels | Gallery  # [N, H, W, C] where it is an array
    labels: NDArray[np.int64]  # [N], positions in `classes`
    classes: tuple[str, ...]
    digests: tuple[bytes, ...]  # of each image as found, before it was fitted
    sums: NDArray[np.int64]  # [N, C, 2]: `sums_of` each
    fixed: dict[int, str] = field(default_factory=dict)  # position -> part, where the source says
    cut: tuple[str, ...] = ("test", "validation")  # the parts that the split has to make
    skipped: int = 0  # files that are no PNG, JPEG or BMP
    origins: tuple[Origin, ...] = ()


def _pillow(module: str = "Image") -> Any:
    """A module of Pillow's (SP704 where it is not installed)."""
    try:
        return import_module(f"PIL.{module}")
    except ImportError as missing:
        told = f"pictures are read and scaled by Pillow: {missing}"
        raise DataError(told, install("data")) from missing


def open_picture(file: Path, *, upright: bool = True) -> Pixels:
    """The pixels [H, W, 1 or 3] of an image file, turned as it says where it shall be upright."""
    bomb = _pillow().DecompressionBombError
    try:
        # Only a regular file: opening a pipe would wait for ever.
        if not file.is_file():
            raise OSError("not a regular file")
        return decode(file, upright=upright)
    except (*BROKEN, bomb) as broken:
        raise DataError(f"{file}: cannot be read as an image: {broken}") from broken


def decode(source: Path | IO[bytes], *, upright: bool = True) -> Pixels:
    """The pixels [H, W, 1 or 3] of a file; BROKEN or DecompressionBombError where it has none."""
    image = _pillow()
    with image.open(source, formats=FORMATS) as picture:
        # Of these Pillow warns; to make that an error is no matter of a thread alone.
        if image.MAX_IMAGE_PIXELS and math.prod(picture.size) > image.MAX_IMAGE_PIXELS:
            most = image.MAX_IMAGE_PIXELS
            raise image.DecompressionBombError(f"{picture.size} exceeds limit of {most} pixels")
        return pixels_of(picture, upright=upright)


def pixels_of(picture: Any, *, upright: bool = True) -> Pixels:
    """A picture of Pillow's as pixels [H, W, 1 or 3]; ValueError where its file is of a format
    that is not read, and BROKEN where the file breaks off."""
    if picture.format not in (None, *FORMATS):  # it has none where it was made of an array
        raise ValueError(f"it is {picture.format}, not {', '.join(FORMATS)}")
    found = _pillow("ImageOps").exif_transpose(picture) if upright else picture
    if found.mode.startswith("I"):  # 16 bits a pixel
        return (np.asarray(found).astype(np.int64) // 257).astype(np.uint8)[..., None]
    grey = found.mode in ("1", "L", "LA", "La")
    pixels = np.asarray(found.convert("L" if grey else "RGB"))
    return pixels[..., None] if grey else pixels


def picture_of(pixels: Pixels) -> Any:
    """Pixels [H, W, 1 or 3] as a picture of Pillow's."""
    return _pillow().fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def fit(picture: Any, size: Sequence[int], channels: int) -> Pixels:
    """Convert, scale to cover the size, and crop at the centre."""
    picture = picture.convert("L" if channels == 1 else "RGB")
    height, width = size
    if picture.size != (width, height):
        bicubic = _pillow().Resampling.BICUBIC
        picture = _pillow("ImageOps").fit(picture, (width, height), bicubic)
    pixels = np.asarray(picture)
    return pixels[..., None] if channels == 1 else pixels


def sums_of(image: Pixels) -> NDArray[np.int64]:
    """The sum of a channel's pixels and that of their squares, [C, 2], of an image [H, W, C]."""
    flat = image.reshape(-1, image.shape[-1]).astype(np.int64)
    return np.stack([flat.sum(0), (flat * flat).sum(0)], 1)


def held(shape: Sequence[int]) -> bool:
    """Whether pixels of a shape are few enough to be held in memory."""
    return math.prod(shape) <= MAX_BYTES


def refuse_large(shape: Sequence[int], name: str) -> None:
    """SP704 for more bytes of pixels than are held in memory."""
    if not held(shape):
        raise DataError(
            f"{name}: more than {MAX_BYTES >> 30} GiB of pixels, which are held in memory",
            "write its images to class folders, which may be larger, or use a smaller image size",
        )
