"""Training on stores as TinyViT publishes them: the very views, end to end, and what is refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import data as answer
from command import good, refused
from lessons import RECIPE, SPACE, fingerprint, learn, stopped_and_gone_on_with
from PIL import Image
from test_logits import published

import spacelang
from spacelang.backends.torch.data.augment import words_of
from spacelang.backends.torch.data.datasets import Dataset, open_data, ordered_batches, views
from spacelang.backends.torch.data.rand_augment import OPERATIONS, Draws, Policy
from spacelang.backends.torch.data.tinyvit_augment import TinyvitAugmentation
from spacelang.backends.torch.data.variation import variation
from spacelang.backends.torch.distillation.distill import DistillTrainer, Lesson, engine_of
from spacelang.backends.torch.distillation.logits.commands import aug_of
from spacelang.backends.torch.distillation.logits.published_replay import PublishedReplay
from spacelang.backends.torch.distillation.logits.record import Records, top
from spacelang.backends.torch.distillation.teacher import Teacher
from spacelang.backends.torch.supernet import Supernet
from spacelang.diagnostics import Source, SpaceError
from spacelang.engines.paths import Plans, SinglePath
from spacelang.ir.graph import Graph

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COLOUR = SPACE.replace("[B, 1, 8, 8]", "[B, 3, 8, 8]").replace("classes = 10", "classes = 3")
CLASSES, K, EPOCHS = ("ant", "bee", "cat"), 2, 2
AUG = "tinyvit scale=0.5:1 reprob=0.5"


# The augmentation.


def test_draws_are_those_of_the_release() -> None:
    """Figures of TinyViT's generator for two words."""
    draws = Draws(0)
    first = [draws.share() for _ in range(3)]
    assert first == pytest.approx([0.6369616873, 0.2697867138, 0.0409735239], abs=1e-10)
    assert draws.whole(0, 9) == 0
    assert [draws.whole(0, 99) for _ in range(4)] == [81, 91, 60, 72]
    assert draws.generator.normal(0, 1) == pytest.approx(-0.7037352358, abs=1e-10)
    assert Draws(123).share() == pytest.approx(0.6823518632, abs=1e-10)


# Word, mean, deviation and one pixel of a view, by TinyViT's own code (numpy 2.4, Pillow 13).
VIEWS = (
    (0, -0.23891, 1.14921, -1.63305),
    (1, 0.80202, 0.84452, 0.11765),
    (7, -0.96567, 1.1212, -2.03571),
    (123, 0.2095, 1.01612, -1.58053),
    (2**31 - 1, 0.26006, 0.94876, 1.48319),
    (42, 0.15706, 1.2194, -1.63305),
    (99, -0.71313, 0.45108, -1.03782),
    (1000, -1.08449, 1.11533, -2.03571),
)


@pytest.mark.parametrize(("word", "mean", "deviation", "pixel"), VIEWS)
def test_views_are_those_of_the_release(
    word: int, mean: float, deviation: float, pixel: float
) -> None:
    y, x = np.mgrid[0:40, 0:50]
    pixels = np.stack([x * 5, y * 6, (x * y) % 256], 2).astype(np.uint8)
    how = TinyvitAugmentation()
    found = how.vary(Image.fromarray(pixels), word, (32, 32), MEAN, DEVIATION)
    assert found.double().mean().item() == pytest.approx(mean, abs=1e-5)
    assert found.double().std().item() == pytest.approx(deviation, abs=1e-5)
    assert found[1, 3, 4].item() == pytest.approx(pixel, abs=1e-5)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("increasing", [False, True])
def test_every_operation_at_its_ends(increasing: bool, mode: str) -> None:
    """At no magnitude, and at the largest, as Pillow 13 takes them."""
    picture = Image.fromarray(np.arange(300, dtype=np.uint16).reshape(15, 20).astype(np.uint8))
    warp = {"fillcolor": 7 if mode == "L" else (7, 8, 9), "resample": Image.Resampling.BICUBIC}
    for operation in OPERATIONS[increasing]:
        for magnitude in (0.0, 10.0):
            value = operation.level(magnitude, Draws(1))
            found = operation.change(picture.convert(mode), value, warp)
            assert (found.mode, found.size) == (mode, picture.size), operation.name


def test_an_image_varies_alike_in_any_company_and_by_its_word(tmp_path: Path) -> None:
    part = open_data("digits").train
    how = variation(AUG)
    assert isinstance(how, TinyvitAugmentation)
    both = views(part, np.array([3, 17]), how, seed=4, epoch=2)
    alone = views(part, np.array([17]), how, seed=4, epoch=2)
    assert torch.equal(both.images[1], alone.images[0])
    (word,) = words_of(4, 2, alone.ids.numpy()).tolist()
    picture = Image.fromarray(part.images[17, 0].numpy())
    assert torch.equal(alone.images[0], how.vary(picture, word, (8, 8), part.mean, part.deviation))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tinyvit aa=wild", "no policy"),
        ("tinyvit aa=rand-x3", "none of m, n"),
        ("tinyvit aa=rand-m9-m8", "each once"),
        ("tinyvit aa=rand-n99", "1 to 16"),
        ("tinyvit reprob=2", "probabilities in 0..1"),
        ("tinyvit scale=0.5", "are pairs"),
        ("tinyvit recount=0", "recount is in"),
        ("tinyvit interpolation=random", "one of bicubic, bilinear"),
        ("tinyvit reprob", "is not NAME=VALUE"),
        ("tinyvit colour=1", "no setting colour"),
    ],
)
def test_wrong_words(text: str, says: str) -> None:
    with pytest.raises(SpaceError, match=says):
        variation(text)


def test_policies_are_read() -> None:
    assert Policy.read("rand-m9-mstd0.5-inc1") == Policy(9, 2, 0.5, 10, True)
    assert Policy.read("rand-m7-n3-mmax12") == Policy(7, 3, 0.0, 12, False)


# A data set, and a store of it as TinyViT writes one.


@dataclass(frozen=True)
class Place:
    """A folder of images, who taught, and the store that its answers were written to."""

    images: Path
    store: Path
    data: Dataset
    teacher: Teacher
    graph: Graph


def open_images(place: Path) -> Dataset:
    return open_data(str(place), size=(8, 8), channels=3)


def draw_images(folder: Path) -> None:
    """Colour images of several sizes, a third of which is turned by what the file says."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for n in range(20):
            pixels = rng.integers(0, 90, (10 + n % 3, 12, 3)) + 60 * label
            picture = Image.fromarray(pixels.astype(np.uint8))
            turned = Image.Exif()
            turned[0x0112] = 6 if n % 3 == 0 else 1
            picture.save(folder / name / f"{name}_{n}.png", exif=turned)


def write(place: Place, key: Callable[[int, Path], str], lost: int = 0) -> None:
    """Ask the teacher about all images, file by file, in two processes that share them."""
    files = sorted(place.images.glob("*/*.png"))
    how = variation(AUG)
    assert isinstance(how, TinyvitAugmentation)
    part = place.data.train
    for epoch in range(EPOCHS):
        seeds = np.random.default_rng(epoch).integers(0, 1 << 31, len(files))
        images = [
            how.vary(Image.open(f).convert("RGB"), int(s), (8, 8), part.mean, part.deviation)
            for f, s in zip(files, seeds, strict=True)
        ]
        logits = place.teacher.logits(torch.stack(images))
        records = top(logits, K, ids=np.arange(len(files)), seeds=seeds.astype(np.int64))
        keys = [key(n, file) for n, file in enumerate(files)]
        folder = place.store / f"logits_top{K}_epoch{epoch}"
        folder.mkdir(parents=True)
        for rank in (0, 1):
            chosen = np.arange(lost + rank, len(files), 2)
            published(folder, rank, [keys[n] for n in chosen], records.take(chosen))


def stem(number: int, file: Path) -> str:
    return file.stem


def number(number: int, file: Path) -> str:
    return str(number)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("published")
    draw_images(folder / "images")
    wide = spacelang.load(Source("<wide>", COLOUR), widths={16}, depths={3})
    teacher = Teacher.of(Supernet(wide, seed=1).eval(), "teacher")
    graph = spacelang.load(Source("<colour>", COLOUR))
    found = Place(
        folder / "images", folder / "store", open_images(folder / "images"), teacher, graph
    )
    write(found, stem)
    return found


def lesson(place: Place, store: Path | None = None, **more: Any) -> dict[str, Any]:
    return {"stored": PublishedReplay(store or place.store, place.data, **more)}


LEARNED = {"losses": ("soft_labels",)}
RUN = replace(RECIPE, aug=AUG, batch_size=16)


def test_records_are_what_the_teacher_says_of_the_images_that_are_learned(place: Place) -> None:
    """In the batches of a training: the file's own pixels, cropped anew by the stored word."""
    taught = Lesson(engine_of(RUN, LEARNED), **lesson(place))
    trainer = DistillTrainer(Supernet(place.graph, seed=0), place.graph, place.data, RUN, 3, taught)
    plans = Plans(SinglePath(3), place.graph, 3, trainer.steps("train"))
    seen: list[torch.Tensor] = []
    for step in (0, 1, trainer.steps("train"), 2 * trainer.steps("train")):
        batch = trainer.images_of(plans.at(step))
        assert trainer.kept is not None
        wanted = place.teacher.logits(batch.images).softmax(1).topk(K, 1)
        assert torch.equal(trainer.kept[0], wanted.indices)
        torch.testing.assert_close(trainer.kept[1].float(), wanted.values, atol=1e-3, rtol=1e-3)
        seen.append(batch.images)
    (plain,) = ordered_batches(place.data.train, len(place.data.train))
    assert not any(torch.equal(image, other) for image in seen[0] for other in plain.images)


def test_a_student_is_trained_from_the_command_line(place: Place, tmp_path: Path) -> None:
    (tmp_path / "colour.space").write_text(COLOUR)
    store = tmp_path / "store"
    shutil.copytree(place.store, store)
    words = ("distill", tmp_path / "colour.space", "--data", place.images, "--store", store,
             "--aug", AUG, "--epochs", "3", "-b", "16", "--warmup-epochs", "0",
             "--progress", "quiet")  # fmt: skip
    found = answer(*words, "-o", tmp_path / "run")
    assert found["losses"] == ["soft_labels"]
    assert found["epochs"] == 3
    last = store / f"logits_top{K}_epoch{EPOCHS - 1}"
    shutil.copytree(last, store / f"logits_top{K}_epoch{EPOCHS}")  # it grew: a run reads on
    assert answer("distill", tmp_path / "run", "--progress", "quiet")["weights"] == found["weights"]
    assert "Learned from a published store" in (tmp_path / "run" / "report.html").read_text()
    assert answer("doctor", tmp_path / "run")["ok"]
    good(
        "search",
        tmp_path / "run",
        "--engine",
        "random",
        "-s",
        "evaluations=3",
        "--progress",
        "quiet",
    )
    assert aug_of(str(store)) == "tinyvit"


def test_keys_may_be_numbers(place: Place, tmp_path: Path) -> None:
    """As TinyViT numbers images that have no names: with the same bits in the end."""
    other = Place(place.images, tmp_path / "store", place.data, place.teacher, place.graph)
    write(other, number)
    assert lesson(place)["stored"].naming == "name"
    assert lesson(other)["stored"].naming == "number"
    for name, which in (("names", place), ("numbers", other)):
        learn(tmp_path / name, which.data, LEARNED, graph=which.graph, recipe=RUN, **lesson(which))
    assert fingerprint(tmp_path / "names") == fingerprint(tmp_path / "numbers")


def test_a_run_goes_on_with_the_same_bits(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: Path) -> None:
        learn(folder, place.data, LEARNED, graph=place.graph, recipe=RUN, **lesson(place))

    run(tmp_path / "whole")
    stopped_and_gone_on_with(run, tmp_path / "parts", monkeypatch, 3)
    assert fingerprint(tmp_path / "parts") == fingerprint(tmp_path / "whole")


# What is refused, before a folder is made.


def test_stores_that_cannot_teach(place: Place, tmp_path: Path) -> None:
    (tmp_path / "colour.space").write_text(COLOUR)
    words = ("distill", tmp_path / "colour.space", "--data", place.images, "-o", tmp_path / "run",
             "--epochs", "1", "--progress", "quiet", "--store")  # fmt: skip
    assert "TinyViT's augmentation" in refused(*words, place.store, "--aug", "none")
    assert "do not say how to ask" in refused(*words, place.store, "--on-bad", "recompute")
    for name, damage, says in (
        ("cut", lambda f: f.write_bytes(f.read_bytes()[:-3]), "is cut off"),
        ("less", lambda f: f.unlink(), "images have no record in epoch 1"),
        (
            "more",
            lambda f: f.parent.rename(f.parents[1] / "logits_top1_epoch1"),
            "different numbers of classes",
        ),
    ):
        shutil.copytree(place.store, tmp_path / name)
        damage(tmp_path / name / f"logits_top{K}_epoch1" / "rank1-values.bin")
        assert says in refused(*words, tmp_path / name)
    shutil.copytree(place.store / f"logits_top{K}_epoch0", tmp_path / "odd" / "logits_top4_epoch0")
    assert "4 probabilities are kept of 3 classes" in refused(*words, tmp_path / "odd")
    shutil.copytree(place.store, tmp_path / "late")
    shutil.rmtree(tmp_path / "late" / f"logits_top{K}_epoch0")
    assert "no store" in refused(*words, tmp_path / "late")
    assert not (tmp_path / "run").exists()


def test_records_without_sense_are_left_out_or_refused(place: Place, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(place.store, store)
    for epoch in range(EPOCHS):
        values = store / f"logits_top{K}_epoch{epoch}" / "rank0-values.bin"
        content = np.frombuffer(values.read_bytes(), np.uint8).copy()
        content.reshape(-1, 4 + 4 * K)[:, 4] = 200  # a class that there is none of
        values.write_bytes(content.tobytes())
    with pytest.raises(SpaceError, match="a class is not below 3"):
        learn(
            tmp_path / "run", place.data, LEARNED, graph=place.graph, recipe=RUN,
            **lesson(place, store),
        )  # fmt: skip
    more = lesson(place, store, on_bad="skip")
    learn(tmp_path / "skip", place.data, LEARNED, graph=place.graph, recipe=RUN, **more)
    assert more["stored"].bad > 0


def test_images_without_a_record_are_left_out(place: Place, tmp_path: Path) -> None:
    thin = Place(place.images, tmp_path / "store", place.data, place.teacher, place.graph)
    write(thin, stem, lost=30)
    with pytest.raises(SpaceError, match="have no record in epoch 0"):
        lesson(thin)
    replay = lesson(thin, on_bad="skip")["stored"]
    ids = place.data.train.ids.numpy()
    records, good = replay.read(0, ids)
    assert isinstance(records, Records)
    assert 0 < good.sum() < len(ids)
    assert (replay.words(0, ids)[~good] == 0).all()


def test_without_pillow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"pip install .*'pillow>="):
        TinyvitAugmentation().check()
