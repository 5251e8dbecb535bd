"""What was found out of a folder's pictures, kept so that a later start need not decode them.

    stamp = stamp_of(root, files, size, channels)
    listing = kept(stamp) or keep(stamp, looked)

One file a folder and size, in the folder that SPACELANG_CACHE names, or $XDG_CACHE_HOME/spacelang,
or ~/.cache/spacelang. It counts as long as the files have the same names, sizes and times and the
same libraries decode them; who decodes a picture compares its digest. What cannot be read or
written is as if it were not there.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spacelang.backends.torch.data.pictures import BROKEN
from spacelang.files import atomic_write

CACHE = "SPACELANG_CACHE"
FORMAT = 1
DECODERS = ("jpg", "libjpeg_turbo")  # of one Pillow they differ; what PNGs hold, none decides
FRESH = 2.0  # seconds in which a file may change again without another time


class Listing(NamedTuple):
    """The digests of pictures as found, and the sums of their fitted pixels."""

    digests: NDArray[np.uint8]  # [N, 32]
    sums: NDArray[np.int64]  # [N, C, 2]


@dataclass(frozen=True, slots=True)
class Stamp:
    """Where a listing is kept, and what it is of."""

    place: Path
    digest: bytes  # of the names, sizes and times of the files
    count: int
    settled: bool  # whether all files were left alone for a while


def stamp_of(
    root: Path, files: Sequence[Path], size: tuple[int, int] | None, channels: int | None
) -> Stamp | None:
    """The stamp of a folder as it is now; None where there is no place, or a file is not there."""
    features = import_module("PIL.features")
    made_by = " ".join(map(str, (features.version("pil"), *map(features.version, DECODERS))))
    what = f"{FORMAT} {made_by} {os.path.realpath(root)} {size} {channels}"
    seen, newest = hashlib.sha256(what.encode(errors="surrogateescape")), 0
    try:
        for file in files:
            stat = file.stat()
            newest = max(newest, stat.st_mtime_ns)
            name = file.relative_to(root)
            row = f"\n{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
            seen.update(row.encode(errors="surrogateescape"))
        folder = _folder()
    except (OSError, RuntimeError):  # there may be no home
        return None
    key = hashlib.sha256(what.encode(errors="surrogateescape")).hexdigest()[:32]
    settled = newest < (time.time() - FRESH) * 1e9
    return Stamp(folder / f"images-{key}.npz", seen.digest(), len(files), settled)


def kept(stamp: Stamp | None) -> Listing | None:
    """The listing of a stamp, if there is one."""
    if stamp is None:
        return None
    try:
        with np.load(stamp.place, allow_pickle=False) as arrays:  # which compares its checksums
            if arrays["stamp"].tobytes() != stamp.digest:
                return None
            found = Listing(arrays["digests"], arrays["sums"])
    except BROKEN:
        return None
    count, channels = stamp.count, (1, 3)
    known = found.digests.shape == (count, 32) and found.digests.dtype == np.uint8
    summed = found.sums.shape in [(count, c, 2) for c in channels]
    return found if known and summed and found.sums.dtype == np.int64 else None


def keep(stamp: Stamp | None, found: Listing) -> Listing:
    """Keep a listing, where its files are known to be what was looked at."""
    if stamp is not None and stamp.settled:
        content = io.BytesIO()
        digest = np.frombuffer(stamp.digest, np.uint8)
        np.savez(content, stamp=digest, digests=found.digests, sums=found.sums)
        with suppress(OSError):
            stamp.place.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(stamp.place, content.getvalue())
    return found


def _folder() -> Path:
    """Where listings are kept."""
    if own := os.environ.get(CACHE):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "spacelang"
