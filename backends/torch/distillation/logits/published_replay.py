"""TinyViT's published stores in the epochs of a training: which records, and the very images.

    replay = PublishedReplay("logits/", data)             # of logits_top100_epoch0, _epoch1, ..
    records, good = replay.read(epoch, batch.ids)
    images = replay.views(augmentation)(.., epoch=epoch, ids=batch.ids, ..)

A record keeps the word that its image varied by, so TinyViT's augmentation makes the image again,
of the file as it is. What the files do not say, who was asked and how images varied, is the user's
to say. A record names its image by the name of the file, or by its number among the images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.data.pictures import Origin, open_picture, picture_of
from spacelang.backends.torch.data.tinyvit_augment import TinyvitAugmentation, pictures
from spacelang.backends.torch.data.variation import Variation, Views, variation
from spacelang.backends.torch.distillation.logits.published import PublishedLogits, published_epochs
from spacelang.backends.torch.distillation.logits.reader import OnBad
from spacelang.backends.torch.distillation.logits.record import Records
from spacelang.backends.torch.distillation.logits.store import first_of
from spacelang.backends.torch.distillation.teacher import Teacher
from spacelang.diagnostics import SpaceError, error
from spacelang.files import PathLike

AUG = "tinyvit"  # how images vary, where nothing else is said
# How keys may name images.
NAMINGS: Mapping[str, Callable[[Origin], str]] = {
    "name": lambda origin: Path(origin.file).stem,
    "number": lambda origin: str(origin.number),
}


class PublishedReplay:
    """Published epochs as a training reads them, in turn. SP702, now, where they are not whole.

    on_bad   "error" raises SP702 at a record that makes no sense, and now where an image has none;
             "skip" says that it is not good; nobody can be asked again, so there is no "recompute"
    epochs   the first so many, though there may be more by now
    """

    teacher = "a published store"
    temperature = 1.0

    def __init__(
        self,
        folder: PathLike,
        data: Dataset,
        *,
        on_bad: OnBad = "error",
        epochs: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.on_bad: OnBad = on_bad
        if on_bad == "recompute":
            found = error("SP705", "published records do not say how to ask for them again")
            raise SpaceError(found.hint("--on-bad skip leaves such images out"))
        found = published_epochs(folder)
        if not found:
            told = error("SP702", f"{folder}: no logits_topK_epoch0 is there")
            raise SpaceError(told.hint("name the folder that holds those of all epochs"))
        self.epochs = first_of(folder, len(found), epochs)
        self._found = {epoch: found[epoch] for epoch in range(self.epochs)}
        self.k = self._found[0][1]
        if {k for _, k in self._found.values()} != {self.k}:
            raise SpaceError(
                error("SP702", f"{folder}: its epochs keep different numbers of classes")
            )
        self.classes, self._origins = len(data.classes), data.origins
        if self.k > self.classes:
            told = f"{folder}: {self.k} probabilities are kept of {self.classes} classes"
            raise SpaceError(error("SP702", told).hint("the store is of other classes"))
        self._opened: tuple[int, PublishedLogits] | None = None
        self.bad = 0  # records that were left out, so far
        samples = sorted(data.train.ids.unique().tolist())
        self.naming = self._naming(samples)
        self._check(samples)

    def _naming(self, samples: Sequence[int]) -> str:
        """How keys name images: as most of them are found, different ones under different keys."""
        store = self._open(0)

        def found(naming: str) -> int:
            keys = {NAMINGS[naming](self._origins[sample]) for sample in samples}
            return sum(key in store for key in keys)

        return max(NAMINGS, key=found)

    def _check(self, samples: Sequence[int]) -> None:
        """SP702 where images have no record, though none may be left out."""
        keys = self._keys(samples)
        if len(set(keys)) < len(keys):
            told = f"{self.folder}: several images go by one {self.naming}"
            raise SpaceError(error("SP702", told).hint("give their files different names"))
        for epoch in range(self.epochs):
            store = self._open(epoch)
            missing = [key for key in keys if key not in store]
            if missing and (self.on_bad == "error" or len(missing) == len(keys)):
                told = f"{self.folder}: {len(missing):,} of {len(keys):,} images have no record"
                found = error("SP702", f"{told} in epoch {epoch}").note(f"as {missing[0]}")
                raise SpaceError(found.hint("the store is of other images, or --on-bad skip"))

    def _open(self, epoch: int) -> PublishedLogits:
        if self._opened is None or self._opened[0] != epoch:
            store = PublishedLogits(self._found[epoch][0], k=self.k, classes=self.classes)
            self._opened = epoch, store
        return self._opened[1]

    def _keys(self, samples: Sequence[int]) -> list[str]:
        return [NAMINGS[self.naming](self._origins[sample]) for sample in samples]

    def identity(self) -> dict[str, object]:
        """What makes two stores the same, as far as files without checksums say it."""
        folders = [folder for folder, _ in self._found.values()]
        files = [file for folder in folders for file in sorted(folder.glob("rank*-*"))]
        rows = [f"{f.parent.name}/{f.name} {f.stat().st_size}" for f in files]
        digest = hashlib.sha256("\n".join(rows).encode()).hexdigest()
        store = {"format": "TinyViT's", "files": digest, "k": self.k}
        return {"store": store, "epochs": self.epochs}

    def check(self, data: Dataset, aug: str, teacher: Teacher | None) -> None:
        """SP702 unless images vary as they can have varied; the files say nothing of a teacher."""
        self.views(variation(aug))

    def seeded(self, epoch: int) -> tuple[int, int]:
        """The epoch that is read in an epoch of a training; images have words of their own."""
        return 0, epoch % self.epochs

    def read(self, epoch: int, ids: NDArray[np.int64]) -> tuple[Records, NDArray[np.bool_]]:
        """The records of samples [N] in an epoch of a training, and which are good."""
        stored = epoch % self.epochs
        keys = self._keys(ids.tolist())
        records, wrong = self._open(stored).take(keys)
        if wrong and self.on_bad == "error":
            row, reason = min(wrong.items())
            place = self._found[stored][0]
            told = error("SP702", f"{place}: the record of {keys[row]!r}: {reason}")
            raise SpaceError(told.hint("--on-bad skip leaves such images out"))
        self.bad += len(wrong)
        good = np.ones(len(ids), bool)
        good[list(wrong)] = False
        records.ids[:] = ids
        return records, good

    def words(self, epoch: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the images of samples vary by in a stored epoch; 0 where there is no good record."""
        records, wrong = self._open(epoch).take(self._keys(ids.tolist()))
        found = records.seeds.copy()
        found[list(wrong)] = 0
        return found

    def views(self, how: Variation) -> Views:
        """What makes the images (SP702 unless they vary as TinyViT's do)."""
        if not isinstance(how, TinyvitAugmentation):
            told = error("SP702", f"{self.folder}: a store of other contents")
            told = told.note("its images vary by TinyViT's augmentation")
            raise SpaceError(told.hint(f"--aug {AUG}, or '{AUG} reprob=0 ..' as it was written"))
        return PublishedViews(how, self, self._origins)


@dataclass(frozen=True)
class PublishedViews:
    """Images by the words of a published store, of their files where they came from files."""

    how: TinyvitAugmentation
    store: PublishedReplay
    origins: Mapping[int, Origin]

    def __call__(
        self,
        images: Tensor,
        *,
        seed: int,
        epoch: int,
        ids: NDArray[np.int64],
        mean: Sequence[float],
        deviation: Sequence[float],
    ) -> Tensor:
        """As `TinyvitAugmentation`, of an epoch of the store."""
        channels, height, width = images.shape[1:]
        drawn = self.store.words(epoch, ids).tolist()
        files = [self.origins[sample].file for sample in ids.tolist()]
        whole = [None] * len(files) if all(files) else pictures(images)
        varied: list[Tensor] = []
        for file, word, picture in zip(files, drawn, whole, strict=True):
            if file:
                picture = picture_of(open_picture(Path(file), upright=False))
                picture = picture.convert("L" if channels == 1 else "RGB")
            varied.append(self.how.vary(picture, word, (height, width), mean, deviation))
        return torch.stack(varied) if varied else images
