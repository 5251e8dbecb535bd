"""timm's augmentation: its pixels, by draws that are a function of (seed, epoch, sample)."""

from __future__ import annotations

import inspect
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command import good, refused
from PIL import Image
from timm.data import create_transform

from spacelang.backends.torch.data.datasets import Dataset, batches, open_data, views
from spacelang.backends.torch.data.timm_augment import TimmAugmentation
from spacelang.backends.torch.data.variation import variation
from spacelang.backends.torch.distillation.logits.store import aug_digest
from spacelang.backends.torch.training.recipe import recipe_from
from spacelang.diagnostics import SpaceError
from spacelang.engines.stream import seed_of

TEXT = "timm aa=rand-m5-inc1 reprob=0.5 remode=pixel scale=0.3:1"


@pytest.fixture(scope="module")
def data() -> Dataset:
    return open_data("textures", size=(32, 32), channels=3)


def test_an_image_is_what_timm_makes_of_it(data: Dataset) -> None:
    """By timm itself, its generators seeded by the name of the sample."""
    part, recipe = data.train, variation(TEXT)
    found = views(part, np.arange(6), recipe, seed=5, epoch=2).images
    theirs = create_transform(
        (3, 32, 32), is_training=True, auto_augment="rand-m5-inc1", re_prob=0.5,
        re_mode="pixel", scale=(0.3, 1.0), interpolation="random",
        mean=part.mean, std=part.deviation,
    )  # fmt: skip
    for place in range(6):
        number = seed_of(5, "timm", 2, int(part.ids[place]))
        random.seed(number)
        np.random.seed(number % (1 << 32))
        torch.manual_seed(number)
        image = Image.fromarray(part.images[place].permute(1, 2, 0).numpy())
        assert torch.equal(found[place], theirs(image))


def test_an_image_is_the_same_in_any_batch(data: Dataset) -> None:
    recipe = variation(TEXT)
    once = {int(i): x for b in batches(data.train, 16, seed=0, epoch=1, recipe=recipe)
            for i, x in zip(b.ids, b.images, strict=True)}  # fmt: skip
    for batch in batches(data.train, 7, seed=0, epoch=1, recipe=recipe):
        for sample, image in zip(batch.ids, batch.images, strict=True):
            assert torch.equal(image, once[int(sample)])
    other = next(batches(data.train, 16, seed=0, epoch=2, recipe=recipe))
    assert not any(
        torch.equal(x, once[int(i)]) for i, x in zip(other.ids, other.images, strict=True)
    )


def test_generators_are_given_back(data: Dataset) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    wanted = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    views(data.train, np.arange(4), variation(TEXT), seed=0, epoch=0)
    assert (random.random(), np.random.rand(), torch.rand(1)) == wanted


def test_an_image_that_timm_cannot_vary(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise ValueError("bits must be between 1 and 8")

    monkeypatch.setattr(TimmAugmentation, "transform", lambda *_: refuses)
    with pytest.raises(SpaceError, match="bits must be"):
        views(data.train, np.arange(1), variation("timm"), seed=0, epoch=0)


def test_grey_images() -> None:
    digits = open_data("digits")
    found = views(
        digits.train, np.arange(5), variation("timm scale=0.8:1 hflip=0"), seed=0, epoch=0
    )
    assert found.images.shape == (5, 1, 8, 8)
    assert bool(found.images.isfinite().all())


def test_settings_are_read() -> None:
    found = variation("timm scale=0.5:0.9 reprob=0.25 hflip=0")
    assert found == TimmAugmentation(scale=(0.5, 0.9), reprob=0.25, hflip=0.0)
    assert aug_digest("timm", 0) != aug_digest("timm reprob=0.1", 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("timmy", "aug is one of"),
        ("timm reprob", "not NAME=VALUE"),
        ("timm erase=1", "no setting erase"),
        ("timm reprob=often", "reprob is"),
        ("timm reprob=2", "probabilities"),
        ("timm scale=0.5", "pair"),
        ("timm scale=0.5:0.6:0.7", "pair"),
        ("timm hflip=0 hflip=1", "stands twice"),
        ("timm recount=101", "recount"),
        ("timm recount=0", "recount"),
    ],
)
def test_what_is_no_augmentation(text: str, said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        variation(text)


def test_a_policy_that_timm_does_not_know() -> None:
    found = variation("timm aa=gravity")
    assert isinstance(found, TimmAugmentation)
    with pytest.raises(SpaceError, match="no policy gravity"):
        found.check()


def test_defaults_are_timms() -> None:
    recipe = TimmAugmentation()
    usual = inspect.signature(create_transform).parameters
    for ours, theirs in {"hflip": "hflip", "vflip": "vflip", "color_jitter": "color_jitter",
                         "reprob": "re_prob", "recount": "re_count"}.items():  # fmt: skip
        assert getattr(recipe, ours) == usual[theirs].default


def test_a_finished_run_is_read_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.data", None)
    assert recipe_from({"aug": "timm reprob=0.1"}).augmentation == TimmAugmentation(reprob=0.1)
    with pytest.raises(ImportError, match="pip install 'timm>="):
        TimmAugmentation(reprob=0.123).check()


def test_a_run_by_it(tmp_path: Path) -> None:
    given = ("train", "quickstart.space", "--set", "image=8", "--data", "digits", "--epochs", "1")
    assert "no setting" in refused(*given, "--aug", "timm erase=1", "-o", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    good(*given, "--aug", "timm hflip=0 scale=0.8:1", "-o", tmp_path / "run", "--progress", "quiet")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["recipe"]["aug"].startswith("timm")
    assert record["augmented_by"].startswith("timm ")
