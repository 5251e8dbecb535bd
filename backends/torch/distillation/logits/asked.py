"""Asking a teacher for records: the same ones whoever asks, in any order, for any batch.

    asked = Asked(teacher, data.train, about)
    records = asked.chunk(epoch=3, number=17)      # of 64 samples, always the same ones

    written = write_store(folder, teacher, data, about, epochs=90)

What a matrix product gives for a row may depend, in its last bit, on the rows beside it. So samples
are always asked in the same company: the training part in its order, 64 at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spacelang.backends.torch.data.augment import words_of
from spacelang.backends.torch.data.datasets import Dataset, Part, views
from spacelang.backends.torch.data.variation import variation
from spacelang.backends.torch.distillation.logits.manifest import NAME, epoch_folder
from spacelang.backends.torch.distillation.logits.record import Records, top
from spacelang.backends.torch.distillation.logits.store import About, begin
from spacelang.backends.torch.distillation.logits.writer import SHARD, StoreWriter, finish
from spacelang.backends.torch.distillation.teacher import Teacher, takes
from spacelang.backends.torch.runs.interrupt import Interrupt
from spacelang.backends.torch.runs.progress import Reporter, progress
from spacelang.backends.torch.runs.run import preflight
from spacelang.diagnostics import SpaceError, error
from spacelang.files import Lock, Locked, PathLike

CHUNK = 64


class Asked:
    """A teacher's records of the training images. Equal images are one sample."""

    def __init__(self, teacher: Teacher, part: Part, about: About, device: str = "cpu") -> None:
        self.teacher, self.part, self.about = teacher.to(device), part, about
        self.device = device
        ids = part.ids.numpy()
        first = np.unique(ids, return_index=True)[1]
        self._positions = np.sort(first)
        self._place = {int(ids[p]): n for n, p in enumerate(self._positions.tolist())}

    @property
    def chunks(self) -> range:
        """The numbers of all chunks."""
        return range(-(-len(self._positions) // CHUNK))

    def ids(self, chunk: int) -> NDArray[np.int64]:
        """The samples of a chunk."""
        return self.part.ids.numpy()[self._chosen(chunk)]

    @property
    def samples(self) -> int:
        return len(self._positions)

    def _chosen(self, chunk: int) -> NDArray[np.int64]:
        return self._positions[chunk * CHUNK : (chunk + 1) * CHUNK]

    def chunk(self, epoch: int, number: int) -> Records:
        """The records of a chunk in an epoch (SP705 for answers that are none)."""
        about = self.about
        recipe = variation(about.aug)
        batch = views(self.part, self._chosen(number), recipe, seed=about.seed, epoch=epoch)
        logits = self.teacher.logits(batch.images.to(self.device)).cpu()
        if logits.dim() != 2 or logits.shape[1] != about.classes:
            told = f"the teacher gives {list(logits.shape[1:])}, not {about.classes} classes"
            raise SpaceError(error("SP705", told))
        if not bool(logits.isfinite().all()):
            raise SpaceError(error("SP705", "an answer of the teacher is not finite"))
        ids = batch.ids.numpy()
        seeds = words_of(about.seed, epoch, ids)
        return top(logits, about.k, ids=ids, seeds=seeds, temperature=about.temperature)

    def records(self, epoch: int, ids: Iterable[int]) -> dict[int, Records]:
        """The record of each of some samples, and of those that are asked with them."""
        chunks = sorted({self._place[sample] // CHUNK for sample in ids})
        found: dict[int, Records] = {}
        for number in chunks:
            records = self.chunk(epoch, number)
            for row, sample in enumerate(records.ids.tolist()):
                found[sample] = records.take(slice(row, row + 1))
        return found


@dataclass(frozen=True)
class Written:
    """What a call of `write_store` did: records that it wrote, epochs that others are writing."""

    folder: Path
    epochs: int
    records: int
    busy: tuple[int, ...]


def write_store(
    folder: PathLike,
    teacher: Teacher,
    data: Dataset,
    about: About,
    *,
    epochs: int,
    shard: int = SHARD,
    device: str = "cpu",
    reporter: Reporter | None = None,
    begun: Callable[[], object] | None = None,
) -> Written:
    """Write a teacher's outputs for epochs 0 to `epochs` - 1, going on where a call stopped.

    `begun` is called once the folder is known to be this store, before anything is asked for it.
    Several processes may write one store: each takes epochs that no other has. Interrupted after a
    signal, with all that was asked written; Locked where every epoch that is left has its writer;
    SP702 for a store of other contents.
    """
    told, place = reporter or progress("quiet"), Path(folder)
    asked = Asked(teacher, data.train, about, device)
    with takes(teacher, data.shape):
        asked.chunk(0, 0)  # a teacher of other classes or sizes is told before a folder is made
    begin(place, about, data.train)
    if begun is not None:
        begun()
    left = [epoch for epoch in range(epochs) if not _finished(place, epoch)]
    preflight(place, len(left) * asked.samples * (4 * about.k + 16))
    told.begin("asking the teacher", len(left) * asked.samples, "records")
    written, busy, taken = 0, list[Locked](), list[int]()
    with Interrupt() as interrupt:
        for epoch in left:
            target = epoch_folder(place, epoch)
            target.mkdir(exist_ok=True)
            lock = Lock(target)
            try:
                lock.acquire()
            except Locked as failed:
                busy.append(failed)
                taken.append(epoch)
                continue
            try:
                if not _finished(place, epoch):
                    written += _write(place, epoch, asked, shard, told, interrupt)
            finally:
                lock.release()
            interrupt.check()
    if busy and not written:
        raise busy[0]
    told.done()
    return Written(place, epochs, written, tuple(taken))


def _finished(folder: Path, epoch: int) -> bool:
    return (epoch_folder(folder, epoch) / NAME).exists()


def _write(
    folder: Path, epoch: int, asked: Asked, shard: int, told: Reporter, interrupt: Interrupt
) -> int:
    """Write what is missing of an epoch, and finish it unless a signal came."""
    count = 0
    contents = asked.about.contents
    with StoreWriter(folder, epoch=epoch, contents=contents, size=shard) as writer:
        for number in asked.chunks:
            ids = asked.ids(number)
            missing = writer.missing(ids)
            if len(missing):
                records = asked.chunk(epoch, number)
                writer.add(records.take(np.flatnonzero(np.isin(ids, missing))))
                count += len(missing)
            told.advance(len(ids), epoch=epoch + 1)
            if interrupt.number is not None:
                break
    if interrupt.number is None:
        finish(folder, epoch=epoch, expected=asked.samples)
    return count
