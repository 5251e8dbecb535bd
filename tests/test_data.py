"""Image data sets: sources, the published split, counter-based draws, readers of the test part."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spacelang.backends.torch.data import datasets
from spacelang.backends.torch.data.augment import RECIPES, Augmentation, augment
from spacelang.backends.torch.data.counter import philox, shuffled, stream_key, uniforms, words
from spacelang.backends.torch.data.crops import LEVELS, SETS, read_crops
from spacelang.backends.torch.data.datasets import (
    DataError,
    Dataset,
    batch_count,
    batches,
    first_samples,
    open_data,
    ordered_batches,
)
from spacelang.backends.torch.data.images import read_images
from spacelang.backends.torch.data.split import divide, format_record, image_digest, split_record
from spacelang.extras import install

ROOT = Path(__file__).resolve().parent.parent
DIGITS = RECIPES["digits"]


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return open_data("mnist5k")


# --- who reads the test part

# The functions that may call `test_part`, by file: final evaluation of a finished network.
TEST_READERS = {"backends/torch/training/evaluate.py": {"evaluate_test"}}


def uses_of_the_test_part(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, str]]:
    """(function, what) of every mention of the test part in a source, imports left out."""
    for node in ast.iter_child_nodes(tree):
        place = inside
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                place = inside or name
            case (
                ast.Attribute(attr="test_part" | "_test" as name) | ast.Name(id="test_part" as name)
            ):
                yield inside, name
            case ast.Constant(value="test_part" | "_test" as name):
                yield inside, name  # getattr, or a table of names
            case _:
                pass
        yield from uses_of_the_test_part(node, place)


def source_files() -> Iterator[Path]:
    for folder in ("spacelang", "backends", "benchmarks"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_only_final_evaluation_reads_the_test_part() -> None:
    readers = 0
    for file in source_files():
        name = file.relative_to(ROOT).as_posix()
        for function, what in uses_of_the_test_part(ast.parse(file.read_text("utf-8"))):
            if name == "backends/torch/data/datasets.py":
                assert (function, what) in {("test_part", "_test"), ("", "test_part")}
                readers += what == "_test"
            else:
                assert what == "test_part", f"{name}: {function} reads past test_part"
                assert function in TEST_READERS.get(name, set()), f"{name}: {function}"
    assert readers == 1


@pytest.mark.parametrize(
    "source",
    [
        "def train(d): return test_part(d)",
        "def train(d): return data.test_part(d)",
        "def train(d): return d._test",
        "def train(d): return getattr(d, '_test')",
        "reader = test_part",
        "def evaluate_test(d):\n  pass\ndef f(d): g = lambda: test_part(d)",
    ],
)
def test_the_guard_sees_every_way_in(source: str) -> None:
    ((function, _),) = uses_of_the_test_part(ast.parse(source))
    assert function != "evaluate_test"


# --- the published split


def test_mnist_is_what_was_published(mnist: Dataset) -> None:
    committed = json.loads((ROOT / "spaces/splits/mnist5k.json").read_text("utf-8"))
    assert mnist.counts == committed["counts"] == {"train": 3000, "validation": 1000, "test": 1000}
    assert mnist.split_digest == committed["digest"]
    assert mnist.shape == (1, 28, 28)
    assert mnist.classes == tuple("0123456789")
    held_out = datasets.test_part(mnist)
    for part, each in ((mnist.train, 300), (mnist.validation, 100), (held_out, 100)):
        assert part.labels.bincount().tolist() == [each] * 10
    names = [set(part.ids.tolist()) for part in (mnist.train, mnist.validation, held_out)]
    assert len(names[0] | names[1] | names[2]) == 5000
    assert mnist.train.mean[0] == pytest.approx(0.1307, abs=2e-3)
    assert mnist.train.deviation[0] == pytest.approx(0.3081, abs=2e-3)


def test_split_file_is_as_written_and_found_from_outside(mnist: Dataset) -> None:
    """The committed positions again, by a second way from the published rule."""
    path = ROOT / "spaces/splits/mnist5k.json"
    images = read_images("mnist5k", None, None)
    record = split_record("mnist5k", divide(images.digests, images.labels.tolist()))
    assert format_record(record) == path.read_text("utf-8")
    expected: list[int] = []
    for label in range(10):
        ranked = []
        for position in np.flatnonzero(images.labels == label):
            pixels = images.pixels[position].astype(np.uint8).tobytes()
            text = b"spacelang split 1 28x28x1 " + pixels
            ranked.append((hashlib.sha256(text).hexdigest(), int(position)))
        expected += [position for _, position in sorted(ranked)[:100]]
    assert sorted(expected) == json.loads(path.read_text("utf-8"))["test"]


def test_changed_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    images = read_images("mnist5k", None, None)
    pixels = images.pixels.copy()
    pixels[17, 3, 3, 0] ^= 1
    monkeypatch.setattr(
        "spacelang.backends.torch.data.images.READERS", {"mnist5k": lambda: (pixels, images.labels)}
    )
    with pytest.raises(DataError, match="published split"):
        open_data("mnist5k")


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), min_size=1), st.randoms())
def test_split_depends_on_content_alone(samples: list[tuple[int, int]], chance: object) -> None:
    shuffled_samples = list(samples)
    chance.shuffle(shuffled_samples)

    def parts(chosen: list[tuple[int, int]]) -> dict[str, list[tuple[int, int]]]:
        split = divide([bytes([n]) for n, _ in chosen], [label for _, label in chosen])
        every = sorted((*split.train, *split.validation, *split.test))
        assert every == list(range(len(chosen)))
        return {
            name: sorted(chosen[i] for i in getattr(split, name))
            for name in ("train", "validation", "test")
        }

    found = parts(samples)
    assert found == parts(shuffled_samples)
    images = [{n for n, _ in part} for part in found.values()]
    assert sum(map(len, images)) == len(set().union(*images))  # equal images lie together


@pytest.mark.parametrize(("count", "expected"), [(3, (1, 1, 1)), (10, (6, 2, 2)), (1, (1, 0, 0))])
def test_shares_of_a_class(count: int, expected: tuple[int, int, int]) -> None:
    split = divide([bytes([i]) for i in range(count)], [0] * count)
    assert (len(split.train), len(split.validation), len(split.test)) == expected


# --- draws


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            0xFFFFFFFFFFFFFFFF,
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            0x299F31D0A4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter: str, key: int, expected: str) -> None:
    given_words = np.array([[int(word, 16) for word in counter.split()]], np.uint64)
    assert " ".join(f"{word:08x}" for word in philox(given_words, key)[0]) == expected


def test_draws_belong_to_the_sample() -> None:
    ids = np.array([5, 2**62 + 1, 0, 7, 2**32], np.int64)
    key = stream_key(0, "augment")
    whole = uniforms(key, 3, ids, 7)
    assert whole.shape == (5, 7)
    assert ((whole >= 0) & (whole < 1)).all()
    for i in range(5):
        assert (uniforms(key, 3, ids[i : i + 1], 9)[0, :7] == whole[i]).all()
    others = (uniforms(key, 4, ids, 7), uniforms(stream_key(1, "augment"), 3, ids, 7))
    streams = [whole, *others, uniforms(stream_key(0, "order"), 3, ids, 7)]
    assert len({float(value) for stream in streams for value in stream.ravel()}) == 4 * 35
    with pytest.raises(ValueError, match="epoch"):
        words(key, -1, ids, 1)


def test_draws_are_uniform() -> None:
    drawn = uniforms(stream_key(0, "test"), 0, np.arange(20_000), 4)
    for column in drawn.T:
        counts = np.histogram(column, bins=20, range=(0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-square, 19 degrees, p = 0.001
    assert abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.03


def test_order_is_a_permutation_of_its_own_each_epoch() -> None:
    ids = np.arange(1000) * 7
    orders = [shuffled(stream_key(0, "order"), epoch, ids) for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(1000))
    assert (orders[0] != orders[1]).mean() > 0.9
    backwards = shuffled(stream_key(0, "order"), 0, ids[::-1].copy())
    assert (ids[::-1][backwards] == ids[orders[0]]).all()


# --- batches


def test_batches_cover_an_epoch_and_resume(mnist: Dataset) -> None:
    part = first_samples(mnist.train, 300)
    whole = list(batches(part, 128, seed=1, epoch=2, recipe=DIGITS))
    assert [len(batch.labels) for batch in whole] == [128, 128, 44]
    assert len(whole) == batch_count(part, 128)
    assert sorted(int(i) for batch in whole for i in batch.ids) == sorted(part.ids.tolist())
    assert whole[0].images.dtype == torch.float32
    assert whole[0].images.shape == (128, 1, 28, 28)
    for start in (1, 2, 3):
        rest = list(batches(part, 128, seed=1, epoch=2, recipe=DIGITS, start=start))
        assert len(rest) == 3 - start
        for expected, found in zip(whole[start:], rest, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(expected[:3], found[:3], strict=True))
    label_of = dict(zip(part.ids.tolist(), part.labels.tolist(), strict=True))
    for batch in whole:
        assert [label_of[int(i)] for i in batch.ids] == batch.labels.tolist()


def test_batches_use_no_global_randomness(mnist: Dataset) -> None:
    states = (torch.get_rng_state(), np.random.get_state()[1].copy())
    next(batches(mnist.train, 64, seed=0, epoch=0, recipe=DIGITS))
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()


def test_evaluation_batches_are_plain_and_normalised(mnist: Dataset) -> None:
    found = list(ordered_batches(mnist.train, 700))
    images = torch.cat([batch.images for batch in found])
    assert torch.equal(torch.cat([batch.ids for batch in found]), mnist.train.ids)
    assert float(images.mean()) == pytest.approx(0, abs=1e-4)
    assert float(images.std()) == pytest.approx(1, abs=1e-3)
    pixels = images * mnist.train.deviation[0] + mnist.train.mean[0]
    assert torch.equal((pixels * 255).round().to(torch.uint8), mnist.train.images)


# --- augmentation


@pytest.mark.parametrize(
    "recipe",
    [
        DIGITS,
        RECIPES["photos"],
        Augmentation(rotate=180, shear=60, flip=True, crop=3, fill="border"),
    ],
    ids=["digits", "photos", "wild"],
)
def test_a_sample_is_the_same_in_any_batch(recipe: Augmentation) -> None:
    images = torch.rand(37, 3, 15, 22, generator=torch.Generator().manual_seed(0))
    ids = np.arange(37) * 2**40 + 11
    whole = augment(images, recipe, seed=0, epoch=5, ids=ids)
    threads = torch.get_num_threads()
    try:
        for count, size in ((1, 1), (2, 7), (2, 37)):
            torch.set_num_threads(count)
            for first in range(0, 37, size):
                cut = slice(first, first + size)
                alone = augment(images[cut], recipe, seed=0, epoch=5, ids=ids[cut])
                assert torch.equal(alone, whole[cut])
    finally:
        torch.set_num_threads(threads)
    backwards = augment(images.flip(0), recipe, seed=0, epoch=5, ids=ids[::-1].copy())
    assert torch.equal(backwards.flip(0), whole)
    assert not torch.equal(augment(images, recipe, seed=0, epoch=6, ids=ids), whole)
    assert not torch.equal(augment(images, recipe, seed=1, epoch=5, ids=ids), whole)


def test_the_neutral_recipe_changes_nothing() -> None:
    images = torch.rand(4, 1, 8, 8)
    assert augment(images, Augmentation(), seed=0, epoch=0, ids=np.arange(4)) is images
    nearly = augment(images, Augmentation(rotate=1e-9), seed=0, epoch=0, ids=np.arange(4))
    assert torch.allclose(nearly, images, atol=1e-5)


def moved(recipe: Augmentation, height: int, width: int, count: int = 400) -> torch.Tensor:
    """Where a bright blob above right of the centre lands: [count, 2] as (y, x) from the centre."""
    y = (torch.arange(height) - (height - 1) / 2)[:, None]
    x = (torch.arange(width) - (width - 1) / 2)[None, :]
    blob = torch.exp(-((y + 8) ** 2 + (x - 5) ** 2) / 4).expand(count, 1, -1, -1)
    found = augment(blob, recipe, seed=0, epoch=0, ids=np.arange(count))[:, 0]
    total = found.sum((1, 2))
    return torch.stack([(found * y).sum((1, 2)) / total, (found * x).sum((1, 2)) / total], 1)


def test_rotation_keeps_the_distance_in_a_frame_that_is_no_square() -> None:
    place = moved(Augmentation(rotate=20), 40, 60)
    distance = place.norm(dim=1)
    assert distance.sub(89**0.5).abs().max() < 0.05
    angle = torch.rad2deg(
        torch.atan2(place[:, 0], place[:, 1]) - torch.atan2(*torch.tensor([-8.0, 5]))
    )
    assert 19 < angle.max() < 20.01
    assert -20.01 < angle.min() < -19


def test_zoom_shift_and_shear_do_what_they_say() -> None:
    scale = moved(Augmentation(zoom=(0.5, 1.5)), 50, 60).norm(dim=1) / 89**0.5
    assert 0.5 <= scale.min() < 0.52
    assert 1.48 < scale.max() <= 1.501
    shift = moved(Augmentation(shift=0.1), 50, 60) - torch.tensor([-8.0, 5])
    assert shift[:, 0].abs().max() == pytest.approx(5, abs=0.1)
    assert shift[:, 1].abs().max() == pytest.approx(6, abs=0.1)
    slid = moved(Augmentation(shear=30), 50, 60) - torch.tensor([-8.0, 5])
    assert slid[:, 0].abs().max() < 0.05
    assert slid[:, 1].abs().max() == pytest.approx(8 * 3**-0.5, abs=0.1)  # tan 30 degrees


def test_flip_and_crop_move_whole_pixels() -> None:
    images = torch.arange(2 * 3 * 6 * 6, dtype=torch.float32).reshape(2, 3, 6, 6)[:1]
    images = images.expand(500, -1, -1, -1)
    flipped = augment(images, Augmentation(flip=True), seed=0, epoch=0, ids=np.arange(500))
    same = (flipped == images).all(3).all(2).all(1)
    mirrored = (flipped == images.flip(3)).all(3).all(2).all(1)
    assert (same ^ mirrored).all()
    assert 200 < int(same.sum()) < 300
    cropped = augment(images, Augmentation(crop=1), seed=0, epoch=0, ids=np.arange(500))
    padded = torch.nn.functional.pad(images[0], (1, 1, 1, 1))
    windows = [padded[:, y : y + 6, x : x + 6] for y in range(3) for x in range(3)]
    seen = {next(i for i, window in enumerate(windows) if torch.equal(window, c)) for c in cropped}
    assert seen == set(range(9))


@pytest.mark.parametrize(
    "options",
    [{"rotate": -1}, {"zoom": (0, 1)}, {"zoom": (2, 1)}, {"shear": 90}, {"shift": 2}, {"crop": -1}],
)
def test_impossible_recipes_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        Augmentation(**options)


def test_pixels_of_version_1() -> None:
    """What the recipe `digits` makes of a ramp: if this changes, VERSION has to rise."""
    ramp = (torch.arange(28)[:, None] * 3 + torch.arange(28)[None, :] * 5).float().div(224)
    found = augment(ramp.expand(2, 1, 28, 28), DIGITS, seed=0, epoch=0, ids=np.array([1, 2]))
    values = [float(found[i, 0, y, x]) for i in (0, 1) for y, x in ((14, 14), (7, 20), (20, 9))]
    assert values == pytest.approx(
        [0.483308, 0.589169, 0.39634, 0.567248, 0.563887, 0.572567], abs=1e-5
    )


# --- sources


def picture(path: Path, value: object, mode: str = "L", size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten images each, every one another shade."""
    for i in range(10):
        picture(tmp_path / "photos" / "cat" / f"{i}.png", i)
        picture(tmp_path / "photos" / "dog" / f"{i}.bmp", 100 + i)
    return tmp_path / "photos"


def test_digits() -> None:
    found = open_data("digits")
    assert found.shape == (1, 8, 8)
    assert sum(found.counts.values()) == 1797
    assert int(found.train.images.max()) == 255


def test_conversion_to_what_the_network_takes() -> None:
    found = open_data("digits", size=16, channels=3)
    assert found.shape == (3, 16, 16)
    assert torch.equal(found.train.images[:, 0], found.train.images[:, 2])
    assert found.split_digest == open_data("digits").split_digest


def test_folder_of_class_folders(folder: Path) -> None:
    (folder / "notes.txt").write_text("not an image")
    (folder / "cat" / "notes.txt").write_text("not an image")
    (folder / "cat" / ".hidden.png").write_text("not an image")
    found = open_data(str(folder))
    assert found.name == "photos"
    assert found.classes == ("cat", "dog")
    assert found.counts == {"train": 12, "validation": 4, "test": 4}
    assert found.shape == (1, 10, 12)
    assert found.skipped == 1
    (folder / "cat").rename(folder / "newt")  # the class changes its number, no part changes
    (folder / "newt" / "3.png").rename(folder / "newt" / "zebra.png")
    assert open_data(str(folder)).split_digest == found.split_digest


def test_folder_of_mixed_pictures(folder: Path) -> None:
    for i in range(10):
        picture(folder / "bird" / f"{i}.jpg", (i * 20, 7, 9), "RGB", (40, 20))
        picture(folder / "alpha" / f"{i}.png", (i, 0, 0, 128), "RGBA", (12, 10))
        deep = np.full((10, 12), 257 * (200 + i), np.uint16)
        (folder / "deep").mkdir(exist_ok=True)
        Image.fromarray(deep).save(folder / "deep" / f"{i}.png")
    with pytest.raises(DataError, match="images differ in size"):
        open_data(str(folder))
    found = open_data(str(folder), size=(10, 12))
    assert found.shape == (3, 10, 12)
    deep = found.train.images[found.train.labels == found.classes.index("deep")]
    assert set(deep.unique().tolist()) <= set(range(200, 210))
    assert open_data(str(folder), size=6, channels=1).shape == (1, 6, 6)


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    image = Image.new("L", (8, 4))
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "1.png", exif=exif)
    found = read_images(str(tmp_path), None, None)
    assert found.pixels.shape == (2, 8, 4, 1)
    assert found.pixels[0, 0, 3, 0] == 255


def test_a_folder_that_is_divided_already(tmp_path: Path) -> None:
    for i in range(10):
        for shade, part in enumerate(("train", "val", "test")):
            picture(tmp_path / part / "cat" / f"{i}.png", 50 * shade + i)
            picture(tmp_path / part / "dog" / f"{i}.png", 50 * shade + 20 + i)
    found = open_data(str(tmp_path))
    assert found.counts == {"train": 20, "validation": 20, "test": 20}
    assert int(found.train.images.max()) < 50 <= int(found.validation.images.min())
    assert int(datasets.test_part(found).images.min()) >= 100
    (tmp_path / "val").rename(tmp_path / "holiday")
    with pytest.raises(DataError, match="holiday, test, train: neither classes"):
        open_data(str(tmp_path))
    (tmp_path / "holiday").rename(tmp_path / "valid")
    picture(tmp_path / "train" / "cat" / "again.png", 100)
    with pytest.raises(DataError, match="train and test hold the same image"):
        open_data(str(tmp_path))
    picture(tmp_path / "test" / "newt" / "1.png", 100)
    with pytest.raises(DataError, match="newt: this class has no folder"):
        open_data(str(tmp_path))


def test_missing_parts_are_cut_from_train(tmp_path: Path) -> None:
    for i in range(10):
        for shade, part in enumerate(("train", "val")):
            picture(tmp_path / part / "cat" / f"{i}.png", 50 * shade + i)
            picture(tmp_path / part / "dog" / f"{i}.png", 50 * shade + 20 + i)
    assert open_data(str(tmp_path)).counts == {"train": 16, "validation": 20, "test": 4}
    for file in (tmp_path / "val").rglob("*.png"):
        file.unlink()
    (tmp_path / "val" / "cat").rmdir()
    (tmp_path / "val" / "dog").rmdir()
    (tmp_path / "val").rmdir()
    assert open_data(str(tmp_path)).counts == {"train": 12, "validation": 4, "test": 4}


def archive(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


def test_archives(tmp_path: Path) -> None:
    pixels = np.arange(20 * 6 * 5, dtype=np.uint8).reshape(20, 6, 5)
    names = np.array(["b", "a"] * 10)
    found = open_data(archive(tmp_path / "a.npz", images=pixels, labels=names))
    assert found.classes == ("a", "b")
    assert found.shape == (1, 6, 5)
    colour = np.repeat(pixels[..., None], 3, axis=3)
    found = open_data(archive(tmp_path / "c.npz", images=colour, labels=np.arange(20) % 2 + 7))
    assert found.classes == ("7", "8")
    assert found.shape == (3, 6, 5)


WRONG_ARRAYS = {
    "no labels": {"images": np.zeros((4, 2, 2), np.uint8)},
    "floats": {"images": np.zeros((4, 2, 2)), "labels": np.arange(4)},
    "flat": {"images": np.zeros((4, 4), np.uint8), "labels": np.arange(4)},
    "channels first": {"images": np.zeros((4, 3, 8, 8), np.uint8), "labels": np.arange(4)},
    "float labels": {"images": np.zeros((4, 2, 2), np.uint8), "labels": np.ones(4)},
    "too few labels": {"images": np.zeros((4, 2, 2), np.uint8), "labels": np.arange(3)},
    "empty": {"images": np.zeros((0, 2, 2), np.uint8), "labels": np.arange(0)},
    "one class": {"images": np.zeros((4, 2, 2), np.uint8), "labels": np.zeros(4, int)},
    "too few": {"images": np.arange(16, dtype=np.uint8).reshape(4, 2, 2), "labels": np.arange(4)},
    "objects": {"images": np.zeros((4, 2, 2), np.uint8), "labels": np.array([{}] * 4)},
}


@pytest.mark.parametrize("case", WRONG_ARRAYS)
def test_wrong_archives(tmp_path: Path, case: str) -> None:
    with pytest.raises(DataError):
        open_data(archive(tmp_path / "a.npz", **WRONG_ARRAYS[case]))


def test_damaged_archives_end_in_one_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 6, 6)).astype(np.uint8)
    np.savez_compressed(path, images=pixels, labels=np.arange(40) % 2)
    whole = path.read_bytes()
    expected = read_images(str(path), None, None).digests
    chance = np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        broken = bytearray(whole[: chance.integers(1, len(whole) + 1)])
        for place in chance.integers(0, len(broken), 3):
            broken[place] ^= 1 << int(chance.integers(8))
        path.write_bytes(broken)
        try:
            found = read_images(str(path), None, None)
        except DataError:
            refused += 1
        else:
            assert found.digests == expected
    assert refused > 100


def test_an_archive_that_unpacks_to_too_much(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("images.npy", b"")
        made.infolist()[0].file_size = 5 << 30
    with pytest.raises(DataError, match="GiB"):
        open_data(str(path))


def test_damaged_pictures_are_named(folder: Path) -> None:
    file = folder / "cat" / "3.png"
    whole = file.read_bytes()
    for broken in (b"", b"\x89PNG", whole[:40], whole[:-30], b"GIF89a" + whole):
        file.write_bytes(broken)
        with pytest.raises(DataError, match=r"3\.png: cannot be read as an image"):
            open_data(str(folder))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DataError, match="not a regular file"):
        open_data(str(folder))


def test_a_picture_that_is_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="exceeds limit"):
        open_data(str(folder))


def test_a_set_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders may be larger (test_gallery.py)."""
    place = archive(
        tmp_path / "a.npz", images=np.zeros((30, 6, 6), np.uint8), labels=np.arange(30) % 2
    )
    monkeypatch.setattr("spacelang.backends.torch.data.pictures.MAX_BYTES", 1000)
    for spec in ("digits", place):
        with pytest.raises(DataError, match="held in memory") as failed:
            open_data(spec)
        assert "class folders" in failed.value.diagnostics[0].help


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("mnist6k", {}, "known data sets are mnist5k, digits"),
        ("digits", {"size": 0}, "out of range"),
        ("digits", {"channels": 2}, "1 or 3 channels"),
        (".", {}, "PNG, JPEG or BMP|cannot be read"),
    ],
)
def test_wrong_requests(
    spec: str,
    options: dict[str, int],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        open_data(spec, **options)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="needs the package scikit-learn"):
        open_data("digits")


def test_pictures_without_pillow_say_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    for spec, options in ((str(folder), {}), ("digits", {"size": (16, 16)})):
        with pytest.raises(DataError, match="are read and scaled by Pillow") as failed:
            open_data(spec, **options)
        assert failed.value.diagnostics[0].help == install("data")


def test_digest_knows_the_shape() -> None:
    pixels = np.zeros((2, 8, 1), np.uint8)
    assert image_digest(pixels) != image_digest(pixels.reshape(4, 4, 1))


# --- crops and faces


def test_faces() -> None:
    faces = open_data("faces")
    assert faces.shape == (1, 25, 25)
    assert faces.classes == ("face", "other")
    assert faces.counts == {"train": 120, "validation": 40, "test": 40}


@pytest.mark.parametrize(
    ("name", "shape", "counts"),
    [
        ("textures", (1, 64, 64), {"train": 720, "validation": 180, "test": 180}),
        ("photographs", (3, 64, 64), {"train": 2365, "validation": 596, "test": 573}),
    ],
)
def test_crops(name: str, shape: tuple[int, ...], counts: dict[str, int]) -> None:
    crops = open_data(name)
    assert crops.shape == shape
    assert crops.counts == counts
    assert crops.classes == tuple(sorted(SETS[name]))
    for part in (crops.train, crops.validation):
        of_each = torch.bincount(part.labels)
        assert int(of_each.min()) > 0.8 * int(of_each.max()), "nearly as many of each class"


def test_crops_of_different_parts_share_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """On pictures whose pixels are their columns."""
    columns = np.broadcast_to(np.arange(700)[None, :, None] // 3, (80, 700, 1)).astype(np.uint8)
    assert np.ptp(columns[:, :64]) >= LEVELS
    monkeypatch.setattr("spacelang.backends.torch.data.crops._picture", lambda *where: columns)
    found = read_crops("textures")
    seen = {p: set() for p in ("train", "validation", "test")}
    for image, part in zip(found.pixels, found.parts, strict=True):
        seen[part] |= {*image.ravel().tolist()}
    assert max(seen["train"]) <= min(seen["validation"])
    assert max(seen["validation"]) <= min(seen["test"])
    assert max(seen["train"]) == 419 // 3
    assert (min(seen["test"]), max(seen["test"])) == (560 // 3, 699 // 3)


def test_crops_are_scaled_to_the_network() -> None:
    small, large = open_data("textures", size=32), open_data("textures", size=96, channels=3)
    assert (small.shape, large.shape) == ((1, 32, 32), (3, 96, 96))
    assert small.split_digest == large.split_digest == open_data("textures").split_digest
