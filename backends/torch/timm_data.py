"""Data sets that timm opens: class folders and tar archives, and torchvision's by name.

    --data 'timm:torch/cifar10 root=data/ test=test'
    --data 'timm:torch/cifar10 root=data/ test=test download=true'
    --data 'timm: root=photos.tar'

Splits are timm's names: `train`, and where they are given `val` and `test`; parts that are not are
cut from the first. Nothing is loaded from the network unless `download=true` asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from spacelang.backends.torch.pictures import (
    DataError,
    Images,
    Origin,
    Pixels,
    fit,
    refuse_large,
)
from spacelang.backends.torch.split import image_digest
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.settings import read_fields

PREFIX = "timm:"
PARTS = {"train": "train", "val": "validation", "test": "test"}
TORCH = "torch/"


@dataclass(frozen=True, slots=True)
class TimmData:
    """What is asked of timm; fields are the words of the command line.

    name       "" (class folders or a tar archive), or torch/NAME
    class_map  a text file of timm's, for folders and archives
    """

    name: str
    root: str = ""
    train: str = "train"
    val: str = ""
    test: str = ""
    class_map: str = ""
    download: bool = False

    @classmethod
    def read(cls, spec: str) -> TimmData:
        """From `timm:NAME root=DIR test=test` (SP204, SP209, SP704)."""
        first, *words = spec.removeprefix(PREFIX).split(" ")
        settings: dict[str, object] = {}
        for word in filter(None, words):
            name, equals, value = word.partition("=")
            if not equals or name in settings or name == "name":
                raise SpaceError(error("SP209", f"--data {spec}: {word!r} is not NAME=VALUE, once"))
            settings[name] = value
        found = cls(**{"name": first, **read_fields(cls, "--data timm", settings)})
        if first and not first.startswith(TORCH):
            told = error("SP704", f"{spec}: of timm's data sets, folders, archives and {TORCH}NAME")
            raise SpaceError(told.hint("write others to class folders or an .npz file first"))
        if not found.root:
            named = ", ".join(field.name for field in fields(cls) if field.name != "name")
            told = error("SP704", f"{spec}: root=DIR is missing: where the images are")
            raise SpaceError(told.note(f"its words are {named}"))
        return found

    def open(self) -> Iterator[tuple[str, tuple[str, ...], Iterator[tuple[Any, int]]]]:
        """Each part that is given: its name, its classes, its pictures and labels.

        ImportError without timm; SP704 for what it cannot open.
        """
        for word, part in PARTS.items():
            split = getattr(self, word)
            if split:
                found = self._opened(split)
                yield part, _classes(found), self._pictures(found, split)

    def _opened(self, split: str) -> Any:
        data = import_module("timm.data")
        options: dict[str, Any] = {"root": self.root, "split": split, "input_img_mode": ""}
        if self.class_map:
            options["class_map"] = self.class_map
        if self.name:
            options["download"] = self.download
        try:
            return data.create_dataset(self.name, **options)
        except Exception as failed:  # timm and torchvision raise whatever they like
            raise self._refused(f"cannot be opened: {failed}", split) from failed

    def _pictures(self, found: Any, split: str) -> Iterator[tuple[Any, int]]:
        for number in range(len(found)):
            try:
                picture, label = found[number]
            except Exception as failed:
                raise self._refused(f"image {number} cannot be read: {failed}", split) from failed
            yield picture, int(label)

    def _refused(self, text: str, split: str) -> SpaceError:
        told = error("SP704", f"timm:{self.name}, split {split}: {' '.join(text.split())[:300]}")
        asks = self.name and not self.download
        return SpaceError(told.hint("download=true lets torchvision load it" if asks else ""))


def _classes(found: Any) -> tuple[str, ...]:
    """The names of classes by label; numbers where a data set has no names."""
    reader = getattr(found, "reader", found)
    given = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    if isinstance(given, dict) and given:
        names = {int(label): str(name) for name, label in given.items()}
        return tuple(names.get(label, str(label)) for label in range(max(names) + 1))
    return ()


def pixels_of(picture: Any) -> Pixels:
    """A picture of Pillow's as pixels [H, W, 1 or 3]."""
    grey = picture.mode in ("1", "L", "LA", "La")
    pixels = np.asarray(picture.convert("L" if grey else "RGB"))
    return pixels[..., None] if grey else pixels


def read_timm(spec: str, size: tuple[int, int] | None, channels: int | None) -> Images:
    """All images of the parts that are given, fitted to a size (DataError, SP204, SP209)."""
    asked = TimmData.read(spec)
    pixels, digests = list[Pixels](), list[bytes]()
    labels, origins = list[int](), list[Origin]()
    fixed: dict[int, str] = {}
    classes: tuple[str, ...] = ()
    used = 0
    try:
        for part, names, pictures in asked.open():
            classes = classes or names
            for number, (picture, label) in enumerate(pictures):
                found = pixels_of(picture)
                image = fit(picture, size or found.shape[:2], channels or found.shape[2])
                used += image.nbytes
                refuse_large(used, spec)
                if part != "train":
                    fixed[len(pixels)] = part
                pixels.append(image)
                digests.append(image_digest(found))
                labels.append(label)
                origins.append(Origin(number))
    except ImportError as missing:
        raise DataError(f"{spec}: {missing}", "pip install 'spacelang-nas[timm]'") from missing
    if len({image.shape for image in pixels}) != 1:
        raise DataError(f"{spec}: no images, or of different sizes", "say the size they shall have")
    present = max(labels) + 1
    if min(labels) < 0 or (classes and present > len(classes)):
        raise DataError(
            f"{spec}: labels are in {min(labels)}..{present - 1}, classes {len(classes)}"
        )
    cut = tuple(part for part in ("test", "validation") if part not in fixed.values())
    return Images(
        asked.name or Path(asked.root).name, np.stack(pixels), np.array(labels, np.int64),
        classes or tuple(map(str, range(present))), tuple(digests), fixed, cut, 0, tuple(origins),
    )  # fmt: skip


def scales(spec: str) -> bool:
    """Whether a name is of a data set that timm opens, whose images may have any size."""
    return spec.startswith(PREFIX)
