"""Data sets that timm opens: folders, archives and torchvision's files, made here; and refusals."""

from __future__ import annotations

import io
import re
import sys
import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from command import data as answer
from command import refused
from lessons import SPACE
from PIL import Image

from spacelang.backends.torch.data.datasets import open_data
from spacelang.backends.torch.data.pictures import DataError
from spacelang.backends.torch.data.timm_data import TimmData, read_timm
from spacelang.diagnostics import SpaceError

CLASSES = ("ant", "bee")


def picture(label: int, number: int) -> Image.Image:
    rng = np.random.default_rng(1000 * label + number)
    pixels = rng.integers(0, 120, (9, 10, 3)) + 100 * label
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train and val folders of two classes."""
    root = tmp_path_factory.mktemp("images")
    for part, count in (("train", 20), ("val", 6)):
        for label, name in enumerate(CLASSES):
            (root / part / name).mkdir(parents=True)
            for n in range(count):
                picture(label, n + (100 if part == "val" else 0)).save(
                    root / part / name / f"{n}.png"
                )
    return root


def test_class_folders_of_timm_are_our_own(folders: Path) -> None:
    """The same images in the same parts as where the folder itself is named."""
    ours = open_data(str(folders), size=(8, 8), channels=3)
    for name in ("", "torch/image_folder"):
        theirs = open_data(f"timm:{name} root={folders} val=val", size=(8, 8), channels=3)
        assert theirs.split_digest == ours.split_digest
        assert theirs.classes == ours.classes == CLASSES
        assert theirs.counts == ours.counts
        assert (theirs.train.images == ours.train.images).all()
        assert (theirs.validation.labels == ours.validation.labels).all()
    alone = open_data(f"timm: root={folders}", size=(8, 8), channels=1)
    assert alone.counts == {"train": 24, "validation": 8, "test": 8}
    assert alone.shape == (1, 8, 8)


def test_an_archive(folders: Path, tmp_path: Path) -> None:
    place = tmp_path / "images.tar"
    with tarfile.open(place, "w") as archive:
        for file in sorted((folders / "train").glob("*/*.png")):
            content = file.read_bytes()
            entry = tarfile.TarInfo(f"{file.parent.name}/{file.name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    found = open_data(f"timm: root={place}", size=(8, 8))
    plain = open_data(str(folders / "train"), size=(8, 8))
    assert found.split_digest == plain.split_digest
    assert found.classes == CLASSES


def idx(place: Path, array: np.ndarray) -> None:
    """A file as MNIST's are."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    place.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """torchvision's files of MNIST, of 120 and 40 images of three digits."""
    root = tmp_path_factory.mktemp("torchvision")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 120), ("t10k", 40)):
        rng = np.random.default_rng(count)
        labels = np.arange(count) % 3
        idx(raw / f"{prefix}-labels-idx1-ubyte", labels)
        pixels = rng.integers(0, 80, (count, 28, 28)) + 80 * labels[:, None, None]
        idx(raw / f"{prefix}-images-idx3-ubyte", pixels)
    return root


def test_torchvision_by_name_is_trained_on(
    mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = f"timm:torch/mnist root={mnist} test=test"
    found = open_data(spec)
    assert found.counts == {"train": 96, "validation": 24, "test": 40}
    assert found.shape == (1, 28, 28)
    assert len(found.classes) == 10
    assert found.classes[7] == "7 - seven"
    (tmp_path / "digits.space").write_text(SPACE)
    monkeypatch.chdir(mnist.parent)
    here = f"timm:torch/mnist root={mnist.name} test=test"
    words = ("--epochs", "2", "-b", "32", "--warmup-epochs", "0", "--progress", "quiet")
    run = tmp_path / "run"
    made = answer("train", tmp_path / "digits.space", "--data", here, "-o", run, *words)
    assert made["epochs"] == 2
    monkeypatch.chdir(tmp_path)  # the run knows where its images are
    assert answer("train", run, "--progress", "quiet")["weights"] == made["weights"]


def test_what_is_refused_is_written_to_folders(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines of docs/cli.md, of a data set that is there, give the images of that."""
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text("utf-8")
    (lines,) = re.findall(r"^```python\n(.*?create_dataset.*?)^```", page, re.M | re.S)
    assert lines.count('"hfds/NAME"') == 1
    monkeypatch.chdir(tmp_path)
    exec(lines.replace('"hfds/NAME"', f'"", root={str(folders)!r}'), {})
    found = open_data("photos", size=(8, 8), channels=3)
    wanted = open_data(str(folders), size=(8, 8), channels=3)
    assert found.classes == ("0", "1")
    assert found.counts == wanted.counts
    assert torch.equal(found.train.images, wanted.train.images)
    assert torch.equal(found.train.labels, wanted.train.labels)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("timm:torch/mnist", "root=DIR is missing"),
        ("timm:torch/mnist root=ROOT/none", "download=true lets torchvision load it"),
        ("timm:torch/mist root=ROOT", "Unknown torchvision dataset mist"),
        ("timm:hfds/food101 root=ROOT", "write its images to class folders once"),
        ("timm: root=ROOT/none", "cannot be opened"),
        ("timm:torch/mnist root=ROOT rot=1", "no setting rot"),
        ("timm:torch/mnist root=ROOT root=x", "is not NAME=VALUE, once"),
        ("timm:torch/mnist root=ROOT test", "is not NAME=VALUE, once"),
        ("timm:torch/mnist root=ROOT download=perhaps", "true or false"),
        ("timm:torch/mnist root=ROOT val=val test=test", "hold the same image"),
    ],
)
def test_what_cannot_be_opened(spec: str, says: str, mnist: Path, tmp_path: Path) -> None:
    (tmp_path / "digits.space").write_text(SPACE)
    words = ("train", tmp_path / "digits.space", "-o", tmp_path / "run", "--data")
    assert says in refused(*words, spec.replace("ROOT", str(mnist)))
    assert not (tmp_path / "run").exists()


def test_nothing_is_loaded_unasked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[bool] = []

    def create(name: str, download: bool = False, **options: object) -> object:
        asked.append(download)
        raise RuntimeError("Dataset not found.")

    monkeypatch.setattr("timm.data.create_dataset", create)
    for more in ("", " download=true"):
        with pytest.raises(SpaceError, match="Dataset not found"):
            open_data(f"timm:torch/cifar10 root={tmp_path}{more}")
    assert asked == [False, True]
    with pytest.raises(SpaceError, match="Dataset not found"):
        next(TimmData("", root=str(tmp_path)).open())
    assert asked == [False, True, False]


def test_without_timm_it_is_told(monkeypatch: pytest.MonkeyPatch, mnist: Path) -> None:
    monkeypatch.setitem(sys.modules, "timm.data", None)
    with pytest.raises(DataError, match=r"(?s)timm.*pip install 'timm>="):
        open_data(f"timm:torch/mnist root={mnist}")


@pytest.mark.parametrize("name", ["", "torch/image_folder"])
def test_a_picture_that_is_broken_is_named(name: str, tmp_path: Path) -> None:
    """Also one that only breaks off; timm would give the next image in place of the first kind."""
    whole = io.BytesIO()
    picture(1, 2).save(whole, "PNG")
    for label in CLASSES:
        (tmp_path / label).mkdir()
        picture(0, len(label)).save(tmp_path / label / "1.png")
    for broken in (b"no picture", whole.getvalue()[:-100]):
        (tmp_path / "bee" / "0.png").write_bytes(broken)
        with pytest.raises(SpaceError, match=r"(?s)SP704.*image 1 \(.*0\.png\) cannot be read: \w"):
            open_data(f"timm:{name} root={tmp_path}", size=(8, 8))


@pytest.mark.parametrize("name", ["", "torch/image_folder"])
def test_classes_go_by_name(name: str, tmp_path: Path) -> None:
    """A split without the first class, whose folder timm numbers from 0 all the same."""
    for part, labels in (("train", "abc"), ("val", "bc"), ("test", "ca")):
        for label in labels:
            (tmp_path / part / label).mkdir(parents=True)
            for n in range(4):
                number = n + 10 * len(part)
                picture("abc".index(label), number).save(tmp_path / part / label / f"{n}.png")
    found = read_timm(f"timm:{name} root={tmp_path} val=val test=test", (8, 8), 3)
    assert found.classes == ("a", "b", "c")
    parts = [found.fixed.get(n, "train") for n in range(len(found.labels))]
    labels = {p: found.labels[[p == q for q in parts]].tolist() for p in found.fixed.values()}
    assert labels == {"validation": [1] * 4 + [2] * 4, "test": [0] * 4 + [2] * 4}
    theirs = open_data(f"timm:{name} root={tmp_path} val=val test=test", size=(8, 8))
    ours = open_data(str(tmp_path), size=(8, 8))
    assert theirs.split_digest == ours.split_digest
    assert (theirs.validation.labels == ours.validation.labels).all()
    (tmp_path / "test" / "c").rename(tmp_path / "test" / "d")
    with pytest.raises(SpaceError, match="split test: the first part has no class d"):
        open_data(f"timm:{name} root={tmp_path} val=val test=test", size=(8, 8))


def test_a_part_without_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Named(list[object]):
        class_to_idx: ClassVar = {"a": 0}

    def create(name: str, split: str, **options: object) -> object:
        return Named() if split == "train" else []

    monkeypatch.setattr("timm.data.create_dataset", create)
    with pytest.raises(SpaceError, match=r"(?s)SP704.*split val: the first part names its classes"):
        open_data(f"timm: root={tmp_path} val=val")


@pytest.mark.parametrize("name", ["", "torch/image_folder"])
def test_files_are_decoded_as_those_of_a_folder(name: str, tmp_path: Path) -> None:
    """16 bits a pixel, a picture that lies on its side, and a format that is not read."""
    rng = np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    for label in CLASSES:
        (tmp_path / label).mkdir()
        for n in range(4):
            deep = rng.integers(0, 1 << 16, (8, 8)).astype(np.uint16)
            Image.fromarray(deep).save(tmp_path / label / f"{n}.png")
        picture(0, len(label) + ord(label[0])).save(tmp_path / label / "4.jpg", exif=turned)
    theirs = open_data(f"timm:{name} root={tmp_path}", size=(8, 8), channels=1)
    ours = open_data(str(tmp_path), size=(8, 8), channels=1)
    assert theirs.split_digest == ours.split_digest
    assert (theirs.train.images == ours.train.images).all()
    assert len(theirs.train.images.unique()) > 50
    assert open_data(f"timm:{name} root={tmp_path}", size=(8, 8)).shape == (3, 8, 8)
    picture(0, 1).save(tmp_path / "bee" / "1.png", "WEBP")
    with pytest.raises(SpaceError, match=r"bee/1.png\) cannot be read"):
        open_data(f"timm:{name} root={tmp_path}", size=(8, 8))
