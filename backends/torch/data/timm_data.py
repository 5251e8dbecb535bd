"""Data sets that timm opens: class folders and tar archives, and torchvision's by name.

    --data 'timm:torch/cifar10 root=data/ test=test'
    --data 'timm:torch/cifar10 root=data/ test=test download=true'
    --data 'timm: root=photos.tar'

Splits are timm's names: `train`, and where they are given `val` and `test`; parts that are not are
cut from the first, whose classes the others have. Nothing is loaded from the network unless
`download=true` asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from spacelang.backends.torch.data.pictures import (
    DataError,
    Images,
    Origin,
    Pixels,
    decode,
    fit,
    picture_of,
    pixels_of,
    refuse_large,
    sums_of,
)
from spacelang.backends.torch.data.split import image_digest
from spacelang.diagnostics import SpaceError, error
from spacelang.engines.settings import read_fields
from spacelang.extras import install

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
            told = told.note(
                "a stream has no images by number, and passes over those it cannot read"
            )
            raise SpaceError(
                told.hint("write its images to class folders once, as docs/cli.md does")
            )
        if not found.root:
            named = ", ".join(field.name for field in fields(cls) if field.name != "name")
            told = error("SP704", f"{spec}: root=DIR is missing: where the images are")
            raise SpaceError(told.note(f"its words are {named}"))
        return found

    def open(self) -> Iterator[tuple[str, tuple[str, ...], Iterator[tuple[Pixels, int]]]]:
        """Each part that is given: its name, its classes, its images as pixels with their labels.

        Classes and labels are those of the first part: timm numbers them anew in each folder.
        ImportError without timm; SP704 for what it cannot open, and for other classes.
        """
        first: tuple[str, ...] | None = None
        for word, part in PARTS.items():
            split = getattr(self, word)
            if split:
                found = self._opened(split)
                names = _classes(found)
                first = names if first is None else first
                yield part, first, self._labelled(found, self._places(names, first, split), split)

    def _opened(self, split: str) -> Any:
        data = import_module("timm.data")
        options: dict[str, Any] = {"root": self.root, "split": split, "input_img_mode": ""}
        if self.class_map:
            options["class_map"] = self.class_map
        if self.name:
            options["download"] = self.download
        try:
            found = data.create_dataset(self.name, **options)
        except Exception as failed:  # timm and torchvision raise whatever they like
            why = str(failed) or type(failed).__name__
            asks = self.name and not self.download
            hint = "download=true lets torchvision load it" if asks else ""
            raise self._refused(f"cannot be opened: {why}", split, hint) from failed
        if hasattr(found, "loader"):
            found.loader = Path  # files of torchvision's folders are decoded here too
        return found

    def _places(self, names: Sequence[str], first: Sequence[str], split: str) -> Sequence[int]:
        """By label of a split, the label in the first part of the class of that name."""
        if bool(names) != bool(first):
            named, other = ("this", "the first") if names else ("the first", "this")
            raise self._refused(f"{named} part names its classes, {other} does not", split)
        foreign = [name for name in names if name not in first]
        if foreign:
            raise self._refused(f"the first part has no class {', '.join(foreign)}", split)
        return range(len(names)) if names == first else [first.index(name) for name in names]

    def _labelled(
        self, found: Any, places: Sequence[int], split: str
    ) -> Iterator[tuple[Pixels, int]]:
        for number in range(len(found)):
            try:
                pixels, label = _image(found, number)
                if places and not 0 <= label < len(places):
                    raise ValueError(f"its label is {label}, of {len(places)} classes")
            except Exception as failed:
                why = str(failed) or type(failed).__name__
                place = f"image {number}{_file(found, number)}"
                raise self._refused(f"{place} cannot be read: {why}", split) from failed
            yield pixels, places[label] if places else label

    def _refused(self, text: str, split: str, hint: str = "") -> SpaceError:
        told = error("SP704", f"timm:{self.name}, split {split}: {' '.join(text.split())[:300]}")
        return SpaceError(told.hint(hint))


def _classes(found: Any) -> tuple[str, ...]:
    """The names of classes by label; numbers where a data set has no names."""
    reader = getattr(found, "reader", found)
    given = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    if isinstance(given, dict) and given:
        names = {int(label): str(name) for name, label in given.items()}
        return tuple(names.get(label, str(label)) for label in range(max(names) + 1))
    return ()


def _image(found: Any, number: int) -> tuple[Pixels, int]:
    """An image of a data set and its label, decoded here wherever it is a file."""
    reader = getattr(found, "reader", None)
    if reader is None:
        picture, label = found[number]
        pixels = decode(picture) if isinstance(picture, Path) else pixels_of(picture)
        return pixels, int(label)
    # Not through timm's data set, which gives another image in place of a broken one.
    stream, label, *_ = reader[number]
    with stream:
        return decode(stream), int(label)


def _file(found: Any, number: int) -> str:
    """The file that an image is in, to be told after its number, where a data set knows it."""
    try:
        named = found.filename(number) if hasattr(found, "reader") else found.samples[number][0]
    except Exception:  # data sets that keep no files, or not under these names
        return ""
    return f" ({named})"


def read_timm(spec: str, size: tuple[int, int] | None, channels: int | None) -> Images:
    """All images of the parts that are given, fitted to a size (DataError, SP204, SP209)."""
    asked = TimmData.read(spec)
    pixels, digests = list[Pixels](), list[bytes]()
    labels, origins = list[int](), list[Origin]()
    fixed: dict[int, str] = {}
    classes: tuple[str, ...] = ()
    used = 0
    try:
        for part, names, labelled in asked.open():
            classes = names  # the same for each part
            for number, (found, label) in enumerate(labelled):
                image = fit(picture_of(found), size or found.shape[:2], channels or found.shape[2])
                used += image.nbytes
                refuse_large([used], spec)
                if part != "train":
                    fixed[len(pixels)] = part
                pixels.append(image)
                digests.append(image_digest(found))
                labels.append(label)
                origins.append(Origin(number))
    except ImportError as missing:
        raise DataError(f"{spec}: {missing}", install("timm")) from missing
    if len({image.shape[:2] for image in pixels}) != 1:
        raise DataError(f"{spec}: no images, or of different sizes", "say the size they shall have")
    depth = max(image.shape[2] for image in pixels)  # grey and colour together become colour
    whole = np.stack([np.broadcast_to(image, (*image.shape[:2], depth)) for image in pixels])
    present = max(labels) + 1
    if min(labels) < 0 or (classes and present > len(classes)):
        raise DataError(
            f"{spec}: labels are in {min(labels)}..{present - 1}, classes {len(classes)}"
        )
    cut = tuple(part for part in ("test", "validation") if part not in fixed.values())
    return Images(
        asked.name or Path(asked.root).name, whole, np.array(labels, np.int64),
        classes or tuple(map(str, range(present))), tuple(digests),
        np.stack([sums_of(image) for image in whole]), fixed, cut, 0, tuple(origins),
    )  # fmt: skip


def scales(spec: str) -> bool:
    """Whether a name is of a data set that timm opens, whose images may have any size."""
    return spec.startswith(PREFIX)
