"""Reading a store: records by sample, in any order, by any number of processes.

    store = LogitStore(folder, epoch=3, contents=contents)
    records, good = store.read(batch.ids)

Files are mapped, not read; a block is verified the first time one of its records is asked for, and
never again. What is damaged is refused, or left out where `on_bad` says so: nobody trains on it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spacelang.backends.torch.distillation.logits.manifest import (
    Contents,
    epoch_folder,
    read_manifest,
)
from spacelang.backends.torch.distillation.logits.record import BLOCK, Records, faults, index_type
from spacelang.backends.torch.distillation.logits.shard import block_is_whole, open_shard
from spacelang.diagnostics import SpaceError, error
from spacelang.files import PathLike

OnBad = Literal["error", "skip", "recompute"]


class LogitStore:
    """The records of one epoch of a store.

    on_bad   what `read` does with a sample whose record is missing or damaged: "error" raises
             SP702; else the sample is not `good`, and the caller leaves it out or asks the teacher
    """

    def __init__(
        self,
        store: PathLike,
        *,
        epoch: int,
        contents: Contents | None = None,
        on_bad: OnBad = "error",
    ) -> None:
        self.folder = epoch_folder(store, epoch)
        self.on_bad: OnBad = on_bad
        manifest = read_manifest(self.folder, contents)
        if manifest.epoch != epoch:
            raise SpaceError(error("SP702", f"{self.folder}: is of epoch {manifest.epoch}"))
        self.contents = manifest.contents
        opened = [open_shard(self.folder, s, self.contents.k) for s in manifest.shards]
        self._shards = [records for records, _ in opened]
        self._sums = [sums for _, sums in opened]
        self._names = [shard.file for shard in manifest.shards]
        self._starts = np.cumsum([0, *map(len, self._shards)])
        ids = np.concatenate([np.empty(0, np.int64), *(s.ids for s in self._shards)])
        self._order = np.argsort(ids, kind="stable")
        self._ids = ids[self._order]
        if (self._ids[1:] == self._ids[:-1]).any():
            raise SpaceError(error("SP702", f"{self.folder}: is damaged: a sample stands twice"))
        self._bad: dict[tuple[int, int], str] = {}
        self._verified = [np.zeros(len(sums), bool) for sums in self._sums]

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The samples that have a record, in rising order."""
        return self._ids

    def read(self, ids: NDArray[np.int64]) -> tuple[Records, NDArray[np.bool_]]:
        """The records of samples [N], and which of them are good; the others hold nothing."""
        places = np.searchsorted(self._ids, ids)
        places[places == len(self._ids)] = 0
        good = self._ids[places] == ids if len(self._ids) else np.zeros(len(ids), bool)
        if not good.all():
            self._refuse(int(ids[np.argmin(good)]), "has no record")
        rows = self._order[places] if len(self._ids) else places
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        found = _empty(len(ids), self.contents)
        for number in np.unique(numbers[good]).tolist():
            chosen = np.flatnonzero(good & (numbers == number))
            local = rows[chosen] - self._starts[number]
            self._verify(number, local // BLOCK)
            if self._bad:
                bad = np.array([(number, at) in self._bad for at in local.tolist()])
                if bad.any():
                    at = int(np.argmax(bad))
                    self._refuse(int(ids[chosen[at]]), self._bad[number, int(local[at])])
                    good[chosen[bad]] = False
                    chosen, local = chosen[~bad], local[~bad]
            part = self._shards[number].take(local)
            found.ids[chosen], found.seeds[chosen] = part.ids, part.seeds
            found.classes[chosen], found.probabilities[chosen] = part.classes, part.probabilities
        return found, good

    def verify(self) -> list[str]:
        """Read every block; what is wrong with which samples, nothing where all is whole."""
        for number, sums in enumerate(self._sums):
            self._verify(number, np.arange(len(sums)))
        return [
            f"{self._names[number]}: sample {self._shards[number].ids[row]}: {why}"
            for (number, row), why in sorted(self._bad.items())
        ]

    def _verify(self, number: int, blocks: NDArray[np.int64]) -> None:
        fresh = np.unique(blocks[~self._verified[number][blocks]])
        shard = self._shards[number]
        for block in fresh.tolist():
            rows = range(block * BLOCK, min(len(shard), (block + 1) * BLOCK))
            if block_is_whole(shard, self._sums[number], block):
                wrong = faults(shard.take(slice(rows.start, rows.stop)), self.contents.classes)
                found = {rows.start + row: reason for row, reason in wrong.items()}
            else:
                found = dict.fromkeys(rows, "its block is damaged")
            self._bad |= {(number, row): reason for row, reason in found.items()}
        self._verified[number][fresh] = True

    def _refuse(self, sample: int, why: str) -> None:
        if self.on_bad == "error":
            raise SpaceError(
                error("SP702", f"{self.folder}: sample {sample}: {why}").hint(
                    "--on-bad recompute asks the --teacher again, also in a run that was begun; "
                    "skip leaves such samples out, from the start of a run"
                )
            )


def _empty(count: int, contents: Contents) -> Records:
    return Records(
        np.full(count, -1, np.int64),
        np.zeros(count, np.int64),
        np.zeros((count, contents.k), index_type(contents.classes)),
        np.zeros((count, contents.k), np.float16),
    )
