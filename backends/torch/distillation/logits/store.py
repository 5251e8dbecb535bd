"""A store as a whole: whose outputs, of what images, how they vary, and which epochs are there.

    store.json                 what it was begun with, with its own digest
    epoch-00000/, epoch-00001/, ..

    about = About.of(teacher.name, teacher.digest, data, "digits", seed=0, k=10)
    begin(folder, about)       # or go on with a store that says the same

Images of an epoch are a function of (seed, epoch, sample), so nothing of them is kept but a word a
record (`words_of`), and a few figures (`probe`) that tell whether this machine makes the same ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

import numpy as np

from spacelang.backends.torch.data import augment
from spacelang.backends.torch.data.datasets import Dataset, Part, views
from spacelang.backends.torch.data.variation import OfLibraries, variation
from spacelang.backends.torch.distillation.logits.manifest import (
    NAME,
    Contents,
    epoch_folder,
    sealed,
)
from spacelang.diagnostics import SpaceError, error
from spacelang.files import Lock, Locked, PathLike, atomic_write
from spacelang.manifest import read_object

FORMAT, RECORD = 1, "store.json"
PATIENCE = 30.0  # seconds that the first writer of a store may take to begin it
PROBED, CLOSE = 16, 1e-3  # images that are compared, and by how much their means may differ


@dataclass(frozen=True, slots=True)
class About:
    """What a store is of. Digests are SHA-256; `aug` is a recipe of augmentation by name."""

    teacher: str
    teacher_digest: str
    data: str
    data_digest: str
    aug: str
    aug_digest: str
    seed: int
    classes: int
    k: int
    temperature: float

    @classmethod
    def of(
        cls,
        teacher: str,
        digest: str,
        data: Dataset,
        aug: str,
        *,
        seed: int,
        k: int,
        temperature: float = 1.0,
    ) -> About:
        """What a store of a teacher's outputs on the training images would be."""
        how = variation(aug)
        if isinstance(how, OfLibraries):
            how.check()
        found = cls(teacher, digest, data.name, data_digest(data), aug, aug_digest(aug, seed), seed,
                    len(data.classes), k, temperature)  # fmt: skip
        _ = found.contents  # which says what is out of range
        return found

    @property
    def contents(self) -> Contents:
        """What each of its epochs is of."""
        return Contents(
            self.teacher_digest,
            self.data_digest,
            self.aug_digest,
            self.classes,
            self.k,
            self.temperature,
        )


def data_digest(data: Dataset) -> str:
    """Of the images, their division, and how they are normalised."""
    part = data.train
    return _digest([data.split_digest, data.shape, data.classes, part.mean, part.deviation])


def aug_digest(aug: str, seed: int) -> str:
    """Of how images vary: the recipe, the version of its pixels, and the seed of its draws."""
    recipe = variation(aug)
    made_by = [recipe.version] if isinstance(recipe, OfLibraries) else []
    return _digest([augment.VERSION, asdict(recipe), seed, *made_by])


def _digest(record: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def probe(part: Part, about: About) -> list[float]:
    """The means of the first images of epoch 0, as this machine makes them."""
    some = np.arange(min(PROBED, len(part)))
    images = views(part, some, variation(about.aug), seed=about.seed, epoch=0).images
    rows = np.arange(images[0].numel())  # weights, so that a flip of the image is told too
    weights = (rows % 7 - 3).astype(np.float64)
    flat = images.flatten(1).double().numpy()
    return [round(float(value), 6) for value in (flat * weights).mean(1)]


@contextmanager
def _locked(place: Path) -> Generator[None]:
    """The right to begin a store, waited for: another first writer holds it for a moment."""
    lock, until = Lock(place), time.monotonic() + PATIENCE
    while True:
        try:
            lock.acquire()
            break
        except Locked:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.release()


def begin(folder: PathLike, about: About, part: Part) -> None:
    """Make a store, or see that the one there is the same (SP702 with what differs)."""
    place = Path(folder)
    foreign = [entry.name for entry in sorted(place.glob("[!.]*"))]
    if foreign and not (place / RECORD).exists():  # in this order: another may begin it now
        told = error("SP702", f"{place}: the folder holds something else ({foreign[0]})")
        raise SpaceError(told.hint("choose another folder"))
    place.mkdir(parents=True, exist_ok=True)
    with _locked(place):
        if not (place / RECORD).exists():
            body = {"format": FORMAT, "about": asdict(about), "probe": probe(part, about)}
            atomic_write(place / RECORD, sealed(body))
            return
    found, probed = read_record(place)
    refuse_other(place, found, about)
    refuse_images(place, probed, part, found)


def read_record(folder: PathLike) -> tuple[About, list[float]]:
    """What a store says of itself, and its figures (SP702: there is none, or it is damaged)."""
    place = Path(folder) / RECORD
    try:
        body = cast(dict[str, Any], read_object(place))
        about, probed = body["about"], body["probe"]
        hints = get_type_hints(About)
        known = body["format"] == FORMAT and about.keys() == hints.keys()
        if not known or any(type(about[name]) is not kind for name, kind in hints.items()):
            raise ValueError("it is not of this version")
        body.pop("digest")
        if sealed(body) != place.read_text("utf-8"):
            raise ValueError("its digest differs")
        found = About(**about)
        _ = found.contents
    except FileNotFoundError as missing:
        raise SpaceError(
            error("SP702", f"{folder}: no store ({RECORD} is missing)").hint(
                "`spacelang store write` makes one"
            )
        ) from missing
    except (OSError, ValueError, TypeError, KeyError, RecursionError, AttributeError) as problem:
        raise SpaceError(error("SP702", f"{place}: cannot be read: {problem}")) from problem
    return found, cast(list[float], probed)


def refuse_other(folder: Path, found: About, wanted: About) -> None:
    """SP702 for a store of another teacher, data set or augmentation, with what differs."""
    before, now = asdict(found), asdict(wanted)
    names = [n for n in before if n not in ("teacher", "data") and before[n] != now[n]]
    if names:
        rows = [f"{n}: {before[n]} there, {now[n]} here" for n in names]
        if "teacher_digest" in names:
            rows.insert(0, f"the teacher there is {found.teacher}, here {wanted.teacher}")
        told = error("SP702", f"{folder}: a store of other contents").note(*rows)
        raise SpaceError(told.hint("choose another folder, or what the store was written with"))


def refuse_images(folder: Path, probed: Sequence[float], part: Part, about: About) -> None:
    """SP702 where this machine makes other images than those whose outputs are stored."""
    own = probe(part, about)
    same = len(own) == len(probed) and all(
        math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE) for a, b in zip(own, probed, strict=True)
    )
    if not same:
        told = error("SP702", f"{folder}: the augmentation gives other images here than there")
        raise SpaceError(
            told.hint("use the versions of the libraries that the store was written by")
        )


def epochs_of(folder: PathLike) -> list[int]:
    """The epochs that are finished, in rising order."""
    found = Path(folder).glob(f"epoch-*/{NAME}")
    numbers = [path.parent.name.removeprefix("epoch-") for path in found]
    return sorted(
        int(n) for n in numbers if n.isdecimal() and epoch_folder(folder, int(n)).name[6:] == n
    )


def first_of(folder: PathLike, there: int, wanted: int | None) -> int:
    """How many stored epochs are read: all, or the first that are wanted (SP702 if fewer are
    there)."""
    if wanted is not None and not 0 < wanted <= there:
        told = error("SP702", f"{folder}: {there} epochs are finished, {wanted} are to be read")
        raise SpaceError(
            told.hint("a run reads the epochs that it was begun with: bring them back")
        )
    return there if wanted is None else wanted
