"""Writing a store: shard by shard, taken up where a crash left it.

    with StoreWriter(folder, epoch=3, contents=contents) as writer:
        for batch in batches_of(writer.missing(ids)): writer.add(top(teacher(batch), ...))
    finish(folder, epoch=3)

Several processes write one epoch, each under a rank of its own; `finish` makes it a store.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from spacelang.backends.torch.distillation.logits.manifest import (
    Contents,
    Manifest,
    Shard,
    epoch_folder,
    read_contents,
    read_shard,
    write_manifest,
)
from spacelang.backends.torch.distillation.logits.record import Records, faults
from spacelang.backends.torch.distillation.logits.shard import open_shard, write_shard
from spacelang.diagnostics import SpaceError, error
from spacelang.files import PathLike, sweep
from spacelang.journal import Journal, JournalError, read_journal

SHARD = 1 << 16  # records of a file


class StoreWriter:
    """Writes records of one epoch; what it wrote before a crash is there, and is not asked again.

    A file is written when `size` records are together; those after the last are lost in a crash.
    """

    def __init__(
        self, store: PathLike, *, epoch: int, contents: Contents, rank: int = 0, size: int = SHARD
    ) -> None:
        self.contents, self._rank, self._size = contents, rank, size
        self.folder = epoch_folder(store, epoch)
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)
        self._journal = Journal(_place(self.folder, rank))
        self._shards = _known(self._journal, contents)
        if not self._journal.entries:
            self._journal.append({"contents": asdict(contents)})
        self._waiting: list[Records] = []
        self._written = set(_ids(self.folder, self._shards, contents.k).tolist())

    def missing(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some samples that have no record yet, in their order."""
        return ids[[sample not in self._written for sample in ids.tolist()]]

    def add(self, records: Records) -> None:
        """Add records; SP702, and none added, for one that nobody could train on, or a repeat."""
        wrong = faults(records, self.contents.classes)
        if records.probabilities.shape[1] != self.contents.k:
            raise SpaceError(error("SP702", f"records of {records.probabilities.shape[1]} classes"))
        if wrong:
            row, reason = min(wrong.items())
            raise SpaceError(error("SP702", f"sample {records.ids[row]}: {reason}"))
        fresh: set[int] = set()
        for sample in records.ids.tolist():
            if sample in self._written or sample in fresh:
                raise SpaceError(error("SP702", f"sample {sample} has a record already"))
            fresh.add(sample)
        self._written |= fresh
        self._waiting.append(records)
        while sum(map(len, self._waiting)) >= self._size:
            self._write(self._size)

    def close(self) -> None:
        """Write what is left; the writer is used up."""
        if self._waiting:
            self._write(sum(map(len, self._waiting)))
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failed: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if failed is None:
            self.close()
        else:
            self._journal.close()

    def _write(self, count: int) -> None:
        together = joined(self._waiting)
        name = f"shard-{self._rank}-{len(self._shards):05d}.safetensors"
        shard = write_shard(self.folder, name, together.take(slice(count)))
        self._journal.append({"shard": asdict(shard)})
        self._shards.append(shard)
        self._waiting = [together.take(slice(count, None))] if len(together) > count else []


def finish(store: PathLike, *, epoch: int, expected: int | None = None) -> Manifest:
    """Make what the writers of an epoch wrote a store.

    SP702 if they wrote different contents, a sample twice, or not `expected` samples.
    """
    folder = epoch_folder(store, epoch)
    found: list[tuple[Contents, list[Shard]]] = []
    for place in sorted(folder.glob("shards-*.jsonl")):
        contents, shards = _read(place)
        found.append((contents, shards))
    if not found or any(contents != found[0][0] for contents, _ in found):
        raise SpaceError(error("SP702", f"{folder}: nothing was written, or different contents"))
    contents = found[0][0]
    shards = [shard for _, rank in found for shard in rank]
    ids = _ids(folder, shards, contents.k)
    if len(np.unique(ids)) < len(ids):
        raise SpaceError(error("SP702", f"{folder}: a sample was written twice, by two processes"))
    if expected is not None and len(ids) != expected:
        raise SpaceError(
            error("SP702", f"{folder}: {len(ids):,} of {expected:,} samples are written").hint(
                "write the rest, then finish again"
            )
        )
    manifest = Manifest(epoch, contents, tuple(shards))
    write_manifest(folder, manifest)
    return manifest


def joined(parts: list[Records]) -> Records:
    """Records one after the other."""
    if len(parts) == 1:
        return parts[0]
    return Records(
        np.concatenate([p.ids for p in parts]),
        np.concatenate([p.seeds for p in parts]),
        np.concatenate([p.classes for p in parts]),
        np.concatenate([p.probabilities for p in parts]),
    )


def _place(folder: Path, rank: int) -> Path:
    return folder / f"shards-{rank}.jsonl"


def _read(place: Path) -> tuple[Contents, list[Shard]]:
    try:
        first, *rest = read_journal(place).entries
        return read_contents(first["contents"]), [read_shard(entry["shard"]) for entry in rest]
    except (JournalError, KeyError, ValueError) as problem:
        raise SpaceError(error("SP702", f"{place}: cannot be read: {problem}")) from problem


def _known(journal: Journal, contents: Contents) -> list[Shard]:
    """The shards of an earlier process, if it wrote the same."""
    if not journal.entries:
        return []
    found, shards = _read(journal.path)
    if found != contents:
        journal.close()
        raise SpaceError(
            error("SP702", f"{journal.path.parent}: holds outputs of other contents").hint(
                "choose another folder"
            )
        )
    return shards


def _ids(folder: Path, shards: list[Shard], k: int) -> NDArray[np.int64]:
    parts = [open_shard(folder, shard, k)[0].ids for shard in shards]
    return np.concatenate([np.empty(0, np.int64), *parts])
