"""Stored outputs in the epochs of a training: which stored epoch, which images, which records.

    replay = Replay(folder, about, on_bad="skip")
    records, good = replay.read(epoch, batch.ids)

A store of E epochs is read in turn: epoch e of the training is e mod E there. What is wrong with a
record is found before anyone learns from it: a damaged block, a sample without a record, one of
another view of its image.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spacelang.backends.torch.data.augment import words_of
from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.data.variation import Variation, Views
from spacelang.backends.torch.distillation.logits.asked import Asked
from spacelang.backends.torch.distillation.logits.reader import LogitStore, OnBad
from spacelang.backends.torch.distillation.logits.record import Records
from spacelang.backends.torch.distillation.logits.store import (
    aug_digest,
    data_digest,
    epochs_of,
    first_of,
    read_record,
    refuse_images,
    refuse_other,
)
from spacelang.backends.torch.distillation.teacher import Teacher
from spacelang.diagnostics import SpaceError, error
from spacelang.files import PathLike


class Stored(Protocol):
    """What a training asks of stored outputs.

    teacher       whose they are
    temperature   of their probabilities
    epochs        so many are read in turn
    """

    @property
    def on_bad(self) -> OnBad: ...

    @property
    def teacher(self) -> str: ...

    @property
    def temperature(self) -> float: ...

    @property
    def epochs(self) -> int: ...

    def identity(self) -> dict[str, object]:
        """What makes two of them the same."""
        ...

    def check(self, data: Dataset, aug: str, teacher: Teacher | None) -> None:
        """SP702 unless they are of these images, so varied, and of this teacher."""
        ...

    def seeded(self, epoch: int) -> tuple[int, int]:
        """The seed and the epoch that the images of an epoch of the training vary by."""
        ...

    def views(self, how: Variation) -> Views:
        """What makes the images."""
        ...

    def read(self, epoch: int, ids: NDArray[np.int64]) -> tuple[Records, NDArray[np.bool_]]:
        """The records of samples [N] in an epoch of the training, and which are good."""
        ...


class Replay:
    """A store as a training reads it. SP702, now, for one that is unfinished or not whole.

    epochs   the first so many, though there may be more by now: those that a run was begun with
    on_bad   "error" raises SP702 at a bad record; "skip" says it is not good; "recompute" asks the
             teacher again, whose record is then the very one that was written
    """

    def __init__(
        self,
        folder: PathLike,
        *,
        on_bad: OnBad = "error",
        asked: Asked | None = None,
        epochs: int | None = None,
    ) -> None:
        self.folder, self.asked = Path(folder), asked
        self.on_bad: OnBad = on_bad
        self.about, self.probe = read_record(folder)
        if on_bad == "recompute" and asked is None:
            found = error("SP705", "nobody is there to recompute bad records")
            raise SpaceError(found.hint("--on-bad recompute needs the --teacher of the store"))
        found = epochs_of(folder)
        self.epochs = next((n for n, epoch in enumerate(found) if n != epoch), len(found))
        if self.epochs == 0:
            told = error("SP702", f"{folder}: no epoch of the store is finished")
            raise SpaceError(told.hint("`spacelang store write` goes on where it stopped"))
        self.epochs = first_of(folder, self.epochs, epochs)
        for epoch in range(self.epochs):  # sizes, headers and checksums of all files
            self._open(epoch)
        self._stored: tuple[int, LogitStore, dict[int, Records]] | None = None
        self.bad = 0  # records that were left out or asked again, so far

    @property
    def teacher(self) -> str:
        return self.about.teacher

    @property
    def temperature(self) -> float:
        return self.about.temperature

    def identity(self) -> dict[str, object]:
        """What makes two stores the same."""
        return {"store": asdict(self.about), "epochs": self.epochs}

    def check(self, data: Dataset, aug: str, teacher: Teacher | None) -> None:
        """SP702 unless the store is of these images, so varied, and of this teacher."""
        about = self.about
        wanted = replace(
            about,
            data=data.name,
            data_digest=data_digest(data),
            aug=aug,
            aug_digest=aug_digest(aug, about.seed),
            classes=len(data.classes),
        )
        if teacher is not None:
            wanted = replace(wanted, teacher=teacher.name, teacher_digest=teacher.digest)
        refuse_other(self.folder, about, wanted)
        refuse_images(self.folder, self.probe, data.train, about)

    def seeded(self, epoch: int) -> tuple[int, int]:
        """The seed and the epoch that the images of an epoch of a training vary by."""
        return self.about.seed, self.of(epoch)

    def views(self, how: Variation) -> Views:
        """What makes the images: the augmentation of the run, which is that of the store."""
        return how

    def of(self, epoch: int) -> int:
        """The stored epoch that an epoch of a training reads."""
        return epoch % self.epochs

    def read(self, epoch: int, ids: NDArray[np.int64]) -> tuple[Records, NDArray[np.bool_]]:
        """The records of samples [N] in an epoch of a training, and which are good."""
        stored = self.of(epoch)
        if self._stored is None or self._stored[0] != stored:
            self._stored = stored, self._open(stored), {}
        _, store, again = self._stored
        records, good = store.read(ids)
        other = good & (records.seeds != words_of(self.about.seed, stored, ids))
        if other.any():
            if self.on_bad == "error":
                sample = int(ids[np.argmax(other)])
                raise SpaceError(error("SP702", f"{store.folder}: sample {sample}: another view"))
            good &= ~other
        bad = np.flatnonzero(~good)
        self.bad += len(bad)
        if len(bad) and self.asked is not None and self.on_bad == "recompute":
            samples = [int(sample) for sample in ids[bad].tolist()]
            if any(sample not in again for sample in samples):
                again |= self.asked.records(stored, (s for s in samples if s not in again))
            for row, sample in zip(bad.tolist(), samples, strict=True):
                one = again[sample]
                records.ids[row], records.seeds[row] = sample, one.seeds[0]
                records.classes[row], records.probabilities[row] = (
                    one.classes[0],
                    one.probabilities[0],
                )
            good = np.ones(len(ids), bool)
        return records, good

    def _open(self, epoch: int) -> LogitStore:
        contents = self.about.contents
        return LogitStore(self.folder, epoch=epoch, contents=contents, on_bad=self.on_bad)


def verify(folder: PathLike) -> dict[str, list[str]]:
    """What is wrong with each finished epoch of a store; SP702 where it is no store."""
    about, _ = read_record(folder)
    found: dict[str, list[str]] = {}
    for epoch in epochs_of(folder):
        try:
            store = LogitStore(folder, epoch=epoch, contents=about.contents, on_bad="skip")
            wrong = store.verify()
            if not wrong:
                records, _ = store.read(store.ids)
                other = records.seeds != words_of(about.seed, epoch, records.ids)
                wrong = [f"sample {s}: of another view" for s in records.ids[other].tolist()]
        except SpaceError as failed:
            wrong = [failed.diagnostics[0].headline]
        found[f"epoch-{epoch:05d}"] = wrong
    return found
