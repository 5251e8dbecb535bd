"""The files of TinyViT's release that hold a teacher's outputs: rank{r}-keys.txt, -values.bin.

    store = PublishedLogits("logits_top100_epoch0", k=100, classes=21841)
    records = store.read(["n01440764_10026", "n01440764_10027"])

values.bin is a run of records of 4 + 4 K bytes, little-endian: the seed (int32), K classes (int16)
and K probabilities (float16), largest first; line i of keys.txt names record i. The files have no
header and no checksum: only their sizes and the sense of each record can be checked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spacelang.backends.torch.distillation.logits.record import Records, faults, index_type
from spacelang.diagnostics import SpaceError, error
from spacelang.files import PathLike

_EPOCH = re.compile(r"logits_top(?P<k>[0-9]{1,6})_epoch(?P<epoch>[0-9]{1,6})")


class PublishedLogits:
    """One epoch, of all ranks; keys are as in the release, ids the places of the records."""

    def __init__(self, folder: PathLike, *, k: int, classes: int) -> None:
        self.k, self.classes = k, classes
        layout = np.dtype([("seed", "<i4"), ("classes", "<i2", (k,)), ("values", "<f2", (k,))])
        self._place: dict[str, tuple[int, int]] = {}
        self._ranks: list[np.memmap[tuple[int], np.dtype[np.void]]] = []
        self._nothing = np.zeros((), layout)
        for values in sorted(Path(folder).glob("rank*-values.bin")):
            keys = values.with_name(values.name.replace("-values.bin", "-keys.txt"))
            try:
                names = keys.read_text("utf-8").splitlines()
                size = values.stat().st_size
            except (OSError, UnicodeDecodeError) as problem:
                raise SpaceError(error("SP702", f"{keys}: cannot be read: {problem}")) from problem
            if size != len(names) * layout.itemsize:
                raise SpaceError(
                    error("SP702", f"{values}: is cut off, or not of {k} classes").note(
                        f"{len(names):,} keys need {len(names) * layout.itemsize:,} bytes, "
                        f"it has {size:,}"
                    )
                )
            rank = len(self._ranks)
            for row, name in enumerate(names):
                # A sample that padding gave to two ranks: the first is as good.
                self._place.setdefault(name, (rank, row))
            if names:
                self._ranks.append(np.memmap(values, layout, "r"))
        if not self._place:
            raise SpaceError(error("SP702", f"{folder}: no rank*-values.bin with records"))

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, key: str) -> bool:
        return key in self._place

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys, in the order of the files."""
        return tuple(self._place)

    def take(self, keys: Sequence[str]) -> tuple[Records, dict[int, str]]:
        """The records of some keys, and what is wrong with which; one that is missing is empty."""
        places = [self._place.get(key) for key in keys]
        rows = [self._nothing if p is None else self._ranks[p[0]][p[1]] for p in places]
        found = np.array(rows, self._nothing.dtype)
        records = Records(
            np.arange(len(keys), dtype=np.int64),
            found["seed"].astype(np.int64),
            found["classes"].astype(np.int64).astype(index_type(self.classes)),
            found["values"].astype(np.float16),
        )
        missing = {row: "there is none" for row, place in enumerate(places) if place is None}
        return records, faults(records, self.classes) | missing

    def read(self, keys: Sequence[str]) -> Records:
        """The records of some keys (SP702 for one that is missing or makes no sense)."""
        records, wrong = self.take(keys)
        if wrong:
            row, reason = min(wrong.items())
            raise SpaceError(error("SP702", f"the record of {keys[row]!r}: {reason}"))
        return records


def named(folder: PathLike) -> tuple[int, int] | None:
    """K and the epoch by the name of a folder; None where that is another."""
    found = _EPOCH.fullmatch(Path(folder).resolve().name)
    return (int(found["k"]), int(found["epoch"])) if found is not None else None


def published_epochs(folder: PathLike) -> dict[int, tuple[Path, int]]:
    """The epochs below a folder, those before the first gap: their folders and K."""
    found = {n[1]: (p, n[0]) for p in sorted(Path(folder).glob("logits_top*")) if (n := named(p))}
    return {epoch: found[epoch] for n, epoch in enumerate(sorted(found)) if n == epoch}
