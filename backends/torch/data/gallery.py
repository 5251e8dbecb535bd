"""Pictures of a folder: their pixels in memory, or decoded when a batch needs them.

    read = read_pictures(root, files, (224, 224), 3)
    read.pixels                        # uint8 [N, H, W, C], or a Gallery where that is too much
    gallery.shape                      # [N, C, H, W], as of a tensor
    gallery[torch.tensor([5, 2])]      # uint8 [2, C, H, W]
    gallery[:100]                      # a gallery of the first ones

Every picture is looked at once, for its digest and its sums; those of a gallery are kept
(`listing.py`), so that a later start need not decode them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spacelang.backends.torch.data import listing
from spacelang.backends.torch.data.listing import Listing
from spacelang.backends.torch.data.pictures import (
    DataError,
    Pixels,
    fit,
    held,
    open_picture,
    picture_of,
    sums_of,
)
from spacelang.backends.torch.data.prefetch import Prefetcher
from spacelang.backends.torch.data.split import image_digest


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """Pictures of files, fitted to one size. Each is still what it was when it was looked at."""

    files: tuple[str, ...]
    digests: tuple[bytes, ...]  # of each as found
    size: tuple[int, int]
    channels: int
    listing: Path | None  # where the digests are kept, if they are

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[N, C, H, W]"""
        return (len(self.files), self.channels, *self.size)

    @overload
    def __getitem__(self, which: slice) -> Gallery: ...
    @overload
    def __getitem__(self, which: Tensor) -> Tensor: ...
    def __getitem__(self, which: slice | Tensor) -> Gallery | Tensor:
        """Some of them as a gallery, or decoded: uint8 [B, C, H, W] (SP704)."""
        if isinstance(which, slice):
            return self.of(range(len(self))[which])
        found = torch.empty((len(which), *self.shape[1:]), dtype=torch.uint8)
        for row, number in enumerate(which.tolist()):
            found[row] = torch.from_numpy(self._decoded(number).transpose(2, 0, 1).copy())
        return found

    def of(self, positions: Iterable[int]) -> Gallery:
        """Some of them, in that order."""
        chosen = list(positions)
        files = tuple(self.files[number] for number in chosen)
        return replace(self, files=files, digests=tuple(self.digests[n] for n in chosen))

    def _decoded(self, number: int) -> Pixels:
        seen = _look(Path(self.files[number]), self.size, self.channels)
        if seen.digest != self.digests[number]:
            told = "put it back, or start again: other images are another run"
            if self.listing is not None:
                told += f"; if it is as it was, remove {self.listing}, made by another decoder"
            raise DataError(
                f"{self.files[number]}: holds another image than when it was first read", told
            )
        return seen.pixels


class Read(NamedTuple):
    """The pictures of a folder, and what is known of each as found."""

    pixels: Pixels | Gallery
    digests: tuple[bytes, ...]
    sums: NDArray[np.int64]  # [N, C, 2], of the fitted pixels


class _Seen(NamedTuple):
    digest: bytes  # of the picture as found
    pixels: Pixels  # fitted, [H, W, C]
    sums: NDArray[np.int64]  # of those, [C, 2]


def read_pictures(
    root: Path, files: Sequence[Path], size: tuple[int, int] | None, channels: int | None
) -> Read:
    """The pictures of some files of a folder, in their order, fitted as `read_images` says."""
    first = _look(files[0], size, channels)
    sides = (first.pixels.shape[0], first.pixels.shape[1])
    shape = (len(files), *sides, channels or 3)
    if held(shape):
        pixels = np.empty(shape, np.uint8)
        found = _looked(files, size, channels, pixels)
        return Read(pixels[..., : found.sums.shape[1]], _rows(found), found.sums)
    stamp = listing.stamp_of(root, files, size, channels)
    found = listing.kept(stamp) or listing.keep(stamp, _looked(files, size, channels))
    digests, place = _rows(found), None if stamp is None else stamp.place
    made = Gallery(tuple(map(str, files)), digests, sides, found.sums.shape[1], place)
    return Read(made, digests, found.sums)


def _looked(
    files: Sequence[Path],
    size: tuple[int, int] | None,
    channels: int | None,
    pixels: Pixels | None = None,
) -> Listing:
    """Look at every file; the pixels go where they are wanted. SP704 for different sizes."""
    line = Prefetcher[int, _Seen](
        lambda number: _look(files[number], size, channels),
        lambda number: number + 1 if number + 1 < len(files) else None,
    )
    digests = np.empty((len(files), 32), np.uint8)
    sums = np.empty((len(files), channels or 3, 2), np.int64)
    sides, depth = "", 1
    for number, file in enumerate(files):
        seen = line.take(number)
        sides = sides or _sides(seen.pixels)
        if _sides(seen.pixels) != sides:
            raise DataError(
                f"images differ in size: {files[0]} is {sides}, {file} {_sides(seen.pixels)}",
                "say the size they shall have",
            )
        depth = max(depth, seen.pixels.shape[2])
        digests[number] = np.frombuffer(seen.digest, np.uint8)
        sums[number] = seen.sums  # a grey image has its one channel three times
        if pixels is not None:
            pixels[number] = seen.pixels
    return Listing(digests, sums[:, :depth])


def _look(file: Path, size: tuple[int, int] | None, channels: int | None) -> _Seen:
    found = open_picture(file)
    depth = channels or found.shape[2]
    fitted = fit(picture_of(found), size or found.shape[:2], depth)
    return _Seen(image_digest(found), fitted, sums_of(fitted))


def _rows(found: Listing) -> tuple[bytes, ...]:
    return tuple(row.tobytes() for row in found.digests)


def _sides(pixels: Pixels) -> str:
    return f"{pixels.shape[0]} x {pixels.shape[1]}"
