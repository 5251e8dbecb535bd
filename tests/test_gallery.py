"""Folders of more pictures than are held in memory: the bits of those that are, decoded when needed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from lessons import SPACE as PLAIN
from lessons import a_teacher
from PIL import Image, features
from processes import run_together
from test_train import SPACE, fingerprint

import spacelang
from spacelang.backends.torch.data import datasets, gallery, listing
from spacelang.backends.torch.data.datasets import (
    DataError,
    Dataset,
    Part,
    first_samples,
    open_data,
    ordered_batches,
    views,
)
from spacelang.backends.torch.data.gallery import Gallery
from spacelang.backends.torch.data.prefetch import Prefetcher, threads
from spacelang.backends.torch.data.variation import variation
from spacelang.backends.torch.distillation.distill import distill
from spacelang.backends.torch.distillation.lesson import BoardLesson, board_of
from spacelang.backends.torch.training.feed import FIRST, Feed
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.training import train
from spacelang.diagnostics import Source
from spacelang.engines.protocol import Forward, LossTerm, Samples, StepPlan

LONG_AGO = 1_000_000_000
COUNT = 60


@dataclass
class Photos:
    """A folder of class folders, opened with all its pixels in memory or with none."""

    place: Path
    patch: pytest.MonkeyPatch

    def held(self, **options: int) -> Dataset:
        self.patch.setattr("spacelang.backends.torch.data.pictures.MAX_BYTES", 1 << 30)
        return open_data(str(self.place), **options)

    def slow(self, **options: int) -> Dataset:
        self.patch.setattr("spacelang.backends.torch.data.pictures.MAX_BYTES", 100)
        found = open_data(str(self.place), **options)
        assert isinstance(found.train.images, Gallery)
        return found

    def files(self) -> list[Path]:
        return sorted(self.place.glob("*/*.png"))


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Photos:
    """Sixty pictures of noise, of several sizes, every fifth in colour, made long ago."""
    monkeypatch.setenv(listing.CACHE, str(tmp_path / "cache"))
    chance = np.random.default_rng(0)
    for number in range(COUNT):
        height, width = (8, 8) if number % 3 else (13, 10)
        shape = (height, width, 3) if number % 5 == 0 else (height, width)
        file = tmp_path / "photos" / "abc"[number % 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, shape).astype(np.uint8)).save(file)
        os.utime(file, (LONG_AGO, LONG_AGO))
    return Photos(tmp_path / "photos", monkeypatch)


def plan(epoch: int, batch: int, part: str = "train") -> StepPlan:
    return StepPlan(
        0, epoch, batch, (Forward({}),), (LossTerm("loss", "cross_entropy"),), data=part
    )


def same(one: object, other: object) -> bool:
    """Whether two batches are the same to the bit."""
    pairs = zip(one, other, strict=True)  # type: ignore[call-overload]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def test_a_gallery_is_the_set_that_is_held(photos: Photos) -> None:
    for options in ({"size": 8, "channels": 1}, {"size": 6, "channels": 3}, {"size": 8}):
        slow, held = photos.slow(**options), photos.held(**options)
        facts = ("name", "classes", "shape", "counts", "split_digest", "skipped", "origins")
        assert [getattr(slow, f) for f in facts] == [getattr(held, f) for f in facts]
        of_both = [(getattr(slow, n), getattr(held, n)) for n in ("train", "validation")]
        for one, other in (*of_both, (datasets.test_part(slow), datasets.test_part(held))):
            assert tuple(one.images.shape) == tuple(other.images.shape)
            assert (one.mean, one.deviation) == (other.mean, other.deviation)
            assert torch.equal(one.images[torch.arange(len(one))], other.images)
            assert torch.equal(one.images[1::2][torch.tensor([3, 1])], other.images[1::2][[3, 1]])


@pytest.mark.parametrize(
    ("aug", "mixup", "repeats"),
    [("none", 0.0, 0), ("photos", 0.8, 0), ("digits", 0.0, 3), ("tinyvit", 0.0, 0)],
)
def test_batches_made_ahead_are_those_made_in_time(
    aug: str, mixup: float, repeats: int, photos: Photos
) -> None:
    """Whole ones and shards, in their order, over the end of an epoch, and out of order."""
    recipe = Recipe(aug=aug, mixup=mixup)

    def feed(data: Dataset) -> Feed:
        return Feed(data, 10, 4, variation(aug), mixing=recipe.mixing, repeats=repeats)

    slow, held = feed(photos.slow(size=8, channels=3)), feed(photos.held(size=8, channels=3))
    length = held.steps("train")
    order = [(e, n) for e in range(2) for n in range(length)] + [(0, 1), (5, 2), (0, 2)]
    for epoch, number in order:
        for part in ("train", FIRST)[: 1 + (number < held.steps(FIRST))]:
            asked = plan(epoch, number, part)
            assert same(slow.batch(asked), held.batch(asked))
            assert slow.ids(asked) == held.ids(asked)
    for shard in range(4):
        assert same(slow.batch(plan(1, 0), shard, 4), held.batch(plan(1, 0), shard, 4))


def test_scores_are_of_the_same_images(photos: Photos, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, held = (d(size=8, channels=1).train for d in (photos.slow, photos.held))
    whole = list(ordered_batches(held, 7))
    assert len(whole) == len(ordered_batches(slow, 7)) == -(-len(held) // 7)
    assert all(map(same, ordered_batches(slow, 7), whole))
    assert all(map(same, ordered_batches(slow, 7)[1::2], whole[1::2]))
    assert same(ordered_batches(slow, 7)[2], whole[2])
    (few,) = ordered_batches(first_samples(slow, 5), 7)
    assert torch.equal(few.images, whole[0].images[:5])
    monkeypatch.setattr("spacelang.backends.torch.training.feed.HELD", 0)
    feed = Feed(photos.slow(size=8, channels=1), 10, seed=0)
    assert not isinstance(feed.batches(Samples("train", 9)), list), "decoded each time"
    assert torch.equal(feed.batches(Samples("train", 9))[0].ids, held.ids[:9])


def test_a_training_ends_with_the_same_bits(photos: Photos, tmp_path: Path) -> None:
    space = SPACE.replace("linear(10)", "linear(3)")
    graph = spacelang.load(Source("<digits>", space))
    recipe = Recipe(epochs=1, batch_size=10, warmup_epochs=0, aug="photos", mixup=0.5)
    for name, opened in (("slow", photos.slow), ("held", photos.held)):
        train(graph, opened(size=8, channels=1), recipe, tmp_path / name, seed=1)
    assert fingerprint(tmp_path / "slow") == fingerprint(tmp_path / "held")


def test_a_whole_batch_beside_the_line_moves_nothing_in_it(photos: Photos) -> None:
    """As the second-order step asks, whose steps take shards."""
    feed = Feed(photos.slow(size=8, channels=1), 10, 4)
    held = Feed(photos.held(size=8, channels=1), 10, 4)
    for number in range(2):
        assert same(feed.batch(plan(0, 1), ahead=False), held.batch(plan(0, 1)))
        assert same(feed.batch(plan(0, 1), number, 2), held.batch(plan(0, 1), number, 2))
        begun = [place for line in feed._lines.values() for place in line._begun]
        assert begun, "the next shards are made"
        assert {place.shards for place in begun} == {2}


def test_processes_match_teachers_by_pictures_of_files(photos: Photos, tmp_path: Path) -> None:
    """Every step is also one of second order, of the whole batch at each process."""
    graph = spacelang.load(Source("<digits>", PLAIN), classes=3)
    recipe = Recipe(epochs=1, batch_size=12, warmup_epochs=0, aug="none", shards=2)
    board = tuple(a_teacher(seed, classes=3) for seed in (1, 2))
    lesson = BoardLesson(board_of(recipe, {"update_every": 1}), board)
    slow, held = (opened(size=8, channels=1) for opened in (photos.slow, photos.held))

    def taught(rank: int, data: Dataset = slow, name: str = "slow") -> None:
        distill(graph, data, recipe, tmp_path / name, lesson, seed=3)

    taught(0, held, "held")
    assert run_together(2, taught) == [0, 0]
    assert fingerprint(tmp_path / "slow") == fingerprint(tmp_path / "held")


# Who makes what.


def test_what_is_foreseen_is_made_once_and_no_more() -> None:
    made: list[int] = []

    def make(place: int) -> int:
        made.append(place)
        if place == 7:
            raise ValueError("seven")
        return place * place

    line = Prefetcher(make, lambda place: place + 1 if place < 20 else None)
    assert [line.take(n) for n in range(7)] == [n * n for n in range(7)]
    with pytest.raises(ValueError, match="seven"):
        line.take(7)
    assert [made.count(n) for n in range(8)] == [1] * 8
    assert max(made) <= 7 + threads()
    assert line.take(15) == 225
    assert line.take(20) == 400
    assert line.take(3) == 9, "as before, though it was not foreseen"
    assert made.count(3) == 2
    assert max(made) == 20


def test_who_draws_from_shared_generators_stays_in_the_step(photos: Photos) -> None:
    """The pictures are decoded ahead, by others; they vary here, one batch after the other."""
    varied: list[str] = []
    decoded: set[str] = set()
    look = gallery._look

    def looking(*given: object) -> object:
        decoded.add(threading.current_thread().name)
        return look(*given)  # type: ignore[arg-type]

    def vary(images: torch.Tensor, **given: object) -> torch.Tensor:
        varied.append(threading.current_thread().name)
        return images

    data = photos.slow(size=8, channels=1)
    photos.patch.setattr(gallery, "_look", looking)
    feed = Feed(data, 10, 4, vary)
    for number in range(3):
        feed.batch(plan(0, number))
        assert len(varied) == number + 1
    assert set(varied) == {threading.current_thread().name}
    assert threading.current_thread().name not in decoded


# What is kept, and what changed.


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The files that were opened."""
    found: list[Path] = []
    real = gallery.open_picture

    def opening(file: Path) -> object:
        found.append(file)
        return real(file)

    monkeypatch.setattr(gallery, "open_picture", opening)
    return found


def test_a_later_start_decodes_nothing_but_the_first(photos: Photos, opened: list[Path]) -> None:
    first = photos.slow(size=8, channels=1)
    assert len(opened) == COUNT + 1
    opened.clear()
    again = photos.slow(size=8, channels=1)
    assert len(opened) == 1
    facts = ("shape", "counts", "split_digest", "origins")
    assert [getattr(again, f) for f in facts] == [getattr(first, f) for f in facts]
    assert again.train.mean == first.train.mean
    photos.slow(size=9, channels=1)
    assert len(opened) == COUNT + 2, "another size has sums of its own"


def new_content(photos: Photos, place: Path) -> None:
    file = photos.files()[4]
    Image.new("L", (8, 8), 7).save(file)
    os.utime(file, (LONG_AGO, LONG_AGO))


def less(photos: Photos, place: Path) -> None:
    photos.files()[4].unlink()


def another_decoder(photos: Photos, place: Path) -> None:
    """Of the same Pillow: a wheel's and a distribution's differ in it."""
    version = features.version
    photos.patch.setattr(
        features, "version", lambda name: "0" if name == "libjpeg_turbo" else version(name)
    )


def damaged(photos: Photos, place: Path) -> None:
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 1
    place.write_bytes(content)


def cut_off(photos: Photos, place: Path) -> None:
    place.write_bytes(place.read_bytes()[:-50])


def of_another_form(photos: Photos, place: Path) -> None:
    with np.load(place) as arrays:
        kept = dict(arrays)
    kept["sums"] = kept["sums"].astype(np.float64)
    np.savez(place, **kept)


@pytest.mark.parametrize(
    "change", [new_content, less, another_decoder, damaged, cut_off, of_another_form]
)
def test_what_does_not_fit_is_looked_at_anew(
    change: Callable[[Photos, Path], None], photos: Photos, opened: list[Path]
) -> None:
    photos.slow(size=8, channels=1)
    (place,) = Path(os.environ[listing.CACHE]).iterdir()
    change(photos, place)
    opened.clear()
    slow = photos.slow(size=8, channels=1)
    assert len(opened) == len(photos.files()) + 1
    held = photos.held(size=8, channels=1)
    assert (slow.split_digest, slow.train.mean) == (held.split_digest, held.train.mean)


def test_files_that_may_still_change_are_not_kept(photos: Photos) -> None:
    os.utime(photos.files()[0])
    photos.slow(size=8, channels=1)
    assert not Path(os.environ[listing.CACHE]).exists()


def test_no_place_to_keep_anything_is_no_failure(
    photos: Photos, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(listing.CACHE, str(tmp_path / "file" / "below"))
    wanted = photos.held(size=8, channels=1).split_digest
    assert photos.slow(size=8, channels=1).split_digest == wanted
    monkeypatch.delenv(listing.CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert photos.slow(size=8, channels=1).split_digest == wanted
    assert len(list((tmp_path / "home" / "spacelang").iterdir())) == 1


@pytest.mark.parametrize("how", ["another", "gone", "broken"])
def test_a_picture_that_changes_under_a_run_is_refused(how: str, photos: Photos) -> None:
    data = photos.slow(size=8, channels=1)
    feed = Feed(data, 10, 4)
    feed.batch(plan(0, 0))
    part: Part = data.train
    file = Path(part.images.files[5])  # type: ignore[union-attr]
    if how == "another":
        Image.new("L", (8, 8), 7).save(file)
    elif how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:40])
    told = "holds another image" if how == "another" else "cannot be read as an image"
    with pytest.raises(DataError, match=f"SP704.*{file.name}: {told}") as failed:
        views(part, np.array([2, 5]), variation("none"), seed=0, epoch=0)
    if how == "another":
        (place,) = Path(os.environ[listing.CACHE]).iterdir()
        assert f"remove {place}" in str(failed.value)
    with pytest.raises(DataError, match=told):
        for number in range(feed.steps("train")):
            feed.batch(plan(7, number))


def test_different_sizes_are_told_of_a_large_folder_too(photos: Photos) -> None:
    with pytest.raises(DataError, match="images differ in size"):
        photos.slow()
