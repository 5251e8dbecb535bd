"""timm's flags of training: those that are here against timm itself, those that are not by what they
are answered, and folders of runs that were made before a flag was there."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cells import cells
from command import run
from test_cycles import ENGINE
from test_train import RECIPE, SPACE, fingerprint, plans

import spacelang
from spacelang.backends.torch.data.datasets import Dataset, Epochs, batch_count, open_data, repeated
from spacelang.backends.torch.data.timm_augment import TimmAugmentation
from spacelang.backends.torch.data.variation import IN_AUG
from spacelang.backends.torch.distillation.distill import Lesson
from spacelang.backends.torch.runs.interrupt import Interrupted
from spacelang.backends.torch.searching.cycles import search_program
from spacelang.backends.torch.searching.train_and_search import search_own
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.layer_decay import layer_scales
from spacelang.backends.torch.training.optimizers import parameter_groups
from spacelang.backends.torch.training.recipe import LATER, Recipe, recipe_from
from spacelang.backends.torch.training.trainer import TorchTrainer
from spacelang.backends.torch.training.training import load_trained, train
from spacelang.cli.timm_flags import INSTEAD
from spacelang.cli.train import AUGMENTATION, SWITCHES
from spacelang.cli.train import RECIPE as FLAGS
from spacelang.diagnostics import Source, SpaceError
from spacelang.engines.contraction import Contraction
from spacelang.engines.distillation import Distillation
from spacelang.ir.graph import Graph

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def graph() -> Graph:
    return spacelang.load(Source("<digits>", SPACE))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return open_data("digits")


# Rates by layer.


@pytest.mark.parametrize(
    ("space", "model"),
    [
        ("deit.space:deit_ti", "deit_tiny_patch16_224"),
        ("swin.space:swin_t", "swin_tiny_patch4_window7_224"),
    ],
)
def test_rates_by_layer_are_timms(space: str, model: str) -> None:
    """timm's scales, put into its weights and read under our names, are ours."""
    import timm
    from timm.optim import param_groups_layer_decay

    theirs = timm.create_model(model)
    scale = {
        id(parameter): group["lr_scale"]
        for group in param_groups_layer_decay(theirs, layer_decay=0.75)
        for parameter in group["params"]
    }
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.fill_(scale[id(parameter)])
    ours = spacelang.compile(graph := spacelang.load(space))
    spacelang.weights.load(ours, theirs.state_dict(), names="timm")
    found = layer_scales(graph, 0.75)
    assert len({*found.values()}) == len({*scale.values()}) >= 13
    for name, parameter in ours.named_parameters():
        assert torch.all(parameter == found[name]), name
    groups = parameter_groups(ours, graph, Recipe(layer_decay=0.75, weight_decay=0.1))
    for group in groups:
        assert all(bool((p == group["lr_scale"]).all()) for p in group["params"])
        assert all(p.ndim > 1 or group["weight_decay"] == 0 for p in group["params"])


def test_a_layer_moves_by_its_share(graph: Graph, data: Dataset) -> None:
    """One step of plain SGD: each weight moves by its layer's share of what it moves without."""
    moved = []
    for decay in (None, 0.5):
        recipe = replace(RECIPE, opt="sgd", momentum=0.0, weight_decay=0.0, layer_decay=decay,
                         model_ema=False)  # fmt: skip
        trainer = TorchTrainer(Supernet(graph, seed=0), graph, data, recipe, seed=0)
        before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
        (plan,) = plans(trainer, 1)
        trainer.step(plan)
        moved.append({n: p.detach() - before[n] for n, p in trainer.model.named_parameters()})
    scales = layer_scales(graph, 0.5)
    assert {0.5, 1.0} <= {*scales.values()}
    for name, whole in moved[0].items():
        assert torch.allclose(moved[1][name], whole * scales[name], rtol=1e-3, atol=1e-7), name


# The moving average.


@pytest.mark.parametrize("warmup", [False, True])
def test_the_decay_of_an_average_is_timms(warmup: bool) -> None:
    from timm.utils import ModelEmaV3

    theirs = ModelEmaV3(torch.nn.Linear(1, 1), decay=0.99, use_warmup=warmup)
    ours = Recipe(model_ema_decay=0.99, model_ema_warmup=warmup)
    for step in (0, 1, 2, 50, 998, 999, 1000, 5000):  # of which timm's count is one more
        assert ours.average_decay(step) == pytest.approx(theirs.get_decay(step + 1), abs=1e-15)
    assert ours.as_json()["model_ema_warmup"] is warmup
    assert "model_ema_warmup" not in Recipe().as_json()


# Epochs at the least rate.


@pytest.mark.parametrize("updates", [False, True])
@pytest.mark.parametrize("sched", ["cosine", "tanh", "poly"])
def test_cooldown_is_timms(sched: str, updates: bool) -> None:
    from timm.scheduler import create_scheduler_v2

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    scheduler, epochs = create_scheduler_v2(
        optimizer, sched, num_epochs=6, warmup_epochs=2, cooldown_epochs=3, min_lr=1e-3,
        decay_rate=0.5, warmup_lr=1e-2, step_on_epochs=not updates, updates_per_epoch=5,
    )  # fmt: skip
    recipe = Recipe(
        epochs=6, warmup_epochs=2, cooldown_epochs=3, sched=sched, lr=0.5, min_lr=1e-3,
        decay_rate=0.5, warmup_lr=1e-2, sched_on_updates=updates,
    )  # fmt: skip
    assert recipe.all_epochs == recipe.engine.epochs == epochs == 9
    for step in range(epochs * 5):
        (scheduler.step_update if updates else scheduler.step)(step if updates else step // 5)
        wanted = optimizer.param_groups[0]["lr"]
        assert recipe.rate(step, 5) == pytest.approx(wanted, rel=1e-12), step
    assert recipe.rate(epochs * 5 - 1, 5) == 1e-3


# Images that come several times.


@pytest.mark.parametrize("count", [100, 256, 300, 1437])
@pytest.mark.parametrize("repeats", [1, 2, 3, 3.0, 1.5, 2.3])
def test_repeats_are_timms(count: int, repeats: float) -> None:
    from timm.data.distributed_sampler import RepeatAugSampler

    sampler = RepeatAugSampler(range(count), 1, 0, shuffle=False, num_repeats=repeats)
    which, copies = repeated(count, repeats)
    assert which.tolist() == list(sampler)
    seen: dict[int, int] = {}
    for sample, copy in zip(which.tolist(), copies.tolist(), strict=True):
        assert copy == seen.get(sample, 0)
        seen[sample] = copy + 1


def test_processes_of_timm_see_our_batch_together() -> None:
    """What 4 processes of 16 images have in a step is a batch of 64 here, in another order."""
    from timm.data.distributed_sampler import RepeatAugSampler

    ranks = [list(RepeatAugSampler(range(1024), 4, rank, shuffle=False)) for rank in range(4)]
    which, _ = repeated(1024, 3)
    for step in range(16):
        theirs = sorted(n for rank in ranks for n in rank[step * 16 : (step + 1) * 16])
        assert theirs == sorted(which[step * 64 : (step + 1) * 64].tolist())


def test_repeated_images_vary_each_time(data: Dataset) -> None:
    recipe = Recipe(aug="digits").augmentation
    feed = Epochs(data.train, 60, seed=3, recipe=recipe, repeats=3)
    once = Epochs(data.train, 60, seed=3, recipe=recipe)
    batch, plain = feed.load(0, 1), once.load(0, 0)
    ids = batch.ids.reshape(20, 3)
    assert (ids == ids[:, :1]).all()
    assert ids[:, 0].tolist() == plain.ids[20:40].tolist()
    images = batch.images.reshape(20, 3, *batch.images.shape[1:])
    assert torch.equal(images[:, 0], plain.images[20:40]), "the first is that of a plain epoch"
    assert not any(torch.equal(one[a], one[b]) for one in images for a, b in ((0, 1), (1, 2)))
    parts = [feed.load(0, 1, shard=n, shards=4).images for n in range(4)]
    assert torch.equal(torch.cat(parts), batch.images), "whoever loads it"
    assert batch_count(data.train, 60, 3) == -(-(len(data.train) // 256 * 256) // 60)
    assert not torch.equal(feed.load(1, 1).images, batch.images)


def test_no_image_is_varied_twice(data: Dataset) -> None:
    varied: list[int] = []

    def recipe(images: torch.Tensor, *, ids: Any, **_: object) -> torch.Tensor:
        varied.extend(ids.tolist())
        return images

    feed = Epochs(data.train, 64, seed=3, recipe=recipe, repeats=3)
    batch = feed.load(0, 1)
    assert sorted(varied) == sorted(batch.ids.tolist())
    where = {name: n for n, name in enumerate(data.train.ids.tolist())}
    kept = [where[name] for name in batch.ids.tolist()]
    assert torch.equal(batch.labels, data.train.labels[kept])
    assert torch.equal(batch.images, data.train.images[kept].float() / 255)


def test_a_store_knows_one_view_of_an_image(data: Dataset) -> None:
    stored: Any = SimpleNamespace(on_bad="error")
    lesson = Lesson(Distillation(losses=("soft_labels",)), stored=stored)
    with pytest.raises(SpaceError, match=r"one view of an image(.|\n)*--aug-repeats 0"):
        lesson.check(data, Recipe(aug_repeats=3))


# Runs.


def test_runs_with_all_of_it_go_on_to_the_bit(
    graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(
        RECIPE, epochs=1, cooldown_epochs=1, layer_decay=0.7, aug_repeats=3, aug="digits",
        batch_size=64, warmup_epochs=0, val_interval=0,
    )  # fmt: skip
    train(graph, data, recipe, tmp_path / "whole", seed=3)
    original, length = TorchTrainer.step, batch_count(data.train, 64, 3)

    def step(self: TorchTrainer, plan: Any) -> Any:
        metrics = original(self, plan)
        if self.taken == length + 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return metrics

    with monkeypatch.context() as patch:
        patch.setattr(TorchTrainer, "step", step)
        with pytest.raises(Interrupted):
            train(graph, data, recipe, tmp_path / "parts", seed=3)
    with pytest.raises(SpaceError, match="1 of 2 epochs are trained"):
        load_trained(graph, data, tmp_path / "parts")
    made = train(graph, data, recipe, tmp_path / "parts", seed=3)
    assert fingerprint(tmp_path / "parts") == fingerprint(tmp_path / "whole")
    assert made.steps == 2 * length
    assert made.log[-1]["rate"] == recipe.min_lr


def test_older_folders_go_on(graph: Graph, data: Dataset, tmp_path: Path) -> None:
    """Settings that came later are not in a record where they are not set."""
    recipe = replace(RECIPE, epochs=1, val_interval=0)
    train(graph, data, recipe, tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]
    assert not {*LATER} & kept.keys()
    assert recipe_from(kept) == recipe
    assert recipe_from(replace(recipe, aug_repeats=3).as_json()).aug_repeats == 3
    train(graph, data, recipe, tmp_path / "run")
    with pytest.raises(SpaceError, match=r"layer_decay: None there, 0\.5 here"):
        train(graph, data, replace(recipe, layer_decay=0.5), tmp_path / "run")


@pytest.mark.parametrize(
    "wrong",
    [
        {"cooldown_epochs": -1},
        {"cooldown_epochs": 1, "sched": "step"},
        {"layer_decay": 0.0},
        {"layer_decay": 1.1},
        {"aug_repeats": 0.5},
        {"aug_repeats": -1},
        {"sched": "plateau"},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SpaceError) as caught:
        Recipe(**wrong)
    assert [d.code for d in caught.value.diagnostics] == ["SP103"]


def test_engines_that_train_have_no_cooldown(graph: Graph, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="without cooldown"):
        search_own(Contraction(), graph, data, Recipe(cooldown_epochs=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "setting", [{"cooldown_epochs": 1}, {"layer_decay": 0.5}, {"aug_repeats": 3}]
)
def test_engines_of_cycles_have_none_of_the_later_settings(
    setting: dict[str, Any], data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(SpaceError, match=rf"SP701.*without {next(iter(setting))}"):
        search_program(ENGINE, cells(), data, Recipe(**setting), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Flags that are short for others, and those that are not there.


@pytest.mark.parametrize(
    ("settings", "aug"),
    [
        ({"aa": "rand-m9-mstd0.5", "reprob": "0.25"}, "timm aa=rand-m9-mstd0.5 reprob=0.25"),
        ({"aug": "none", "reprob": 0.25}, "timm reprob=0.25"),
        ({"aug": "timm aa=original", "aa": "original"}, "timm aa=original"),
        (
            {"aug": "timm aa=original scale=0.5:1 remode=rand", "aa": "augmix-m5", "recount": "2"},
            "timm aa=augmix-m5 scale=0.5:1 remode=rand recount=2",
        ),
        ({"aug": "tinyvit", "reprob": "0.1"}, "tinyvit reprob=0.1"),
    ],
)
def test_flags_of_an_augmentation(settings: dict[str, object], aug: str) -> None:
    assert recipe_from(settings).aug == aug


def test_they_are_those_of_the_command_line() -> None:
    assert {*AUGMENTATION} == {*IN_AUG} <= {field.name for field in fields(TimmAugmentation)}


def test_an_augmentation_that_is_not_timms_has_none_of_its_flags() -> None:
    with pytest.raises(SpaceError, match=r"aa, reprob say how timm(.|\n)*--aug timm"):
        recipe_from({"aug": "digits", "aa": "original", "reprob": "0.1"})


def test_the_same_flags_go_on(tmp_path: Path) -> None:
    (tmp_path / "digits.space").write_text(SPACE)
    words = ("train", tmp_path / "digits.space", "--data", "digits", "-o", tmp_path / "run",
             "--epochs", 1, "--warmup-epochs", 0, "-b", 256, "--reprob", 0.25, "--remode", "rand",
             "--cooldown-epochs", 1, "--json")  # fmt: skip
    first, again = run(*words), run(*words)
    assert (first.exit_code, again.exit_code) == (0, 0), first.stderr + again.stderr
    assert json.loads(first.stdout)["epochs"] == 2
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]
    assert kept["aug"] == "timm reprob=0.25 remode=rand"


@pytest.mark.parametrize("usage", INSTEAD)
@pytest.mark.parametrize("command", ["train", "quickstart"])
def test_flags_that_are_not_there_are_answered(command: str, usage: str) -> None:
    flag, _, value = usage.partition(" ")
    made = run(command, "quickstart.space", flag, *(["1"] if value else []))
    assert made.exit_code == 2
    assert f"{flag} is timm's and not an option here: {INSTEAD[usage]}" in made.stderr
    assert flag not in re.findall(r"--[\w-]+", run(command, "--help").stdout)


def test_the_documents_say_which_are_there() -> None:
    text = (DOCS / "cli.md").read_text()
    table = text.split("timm's flags\n")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `--")]
    here = {"--" + name.replace("_", "-") for name in (*FLAGS, *AUGMENTATION, *SWITCHES)}
    told = {flag: row for row in rows for flag in re.findall(r"`(--[\w-]+)", row.split("|")[1])}
    missing = {usage.partition(" ")[0] for usage in INSTEAD}
    assert missing <= told.keys()
    for flag, row in told.items():
        assert ("| no" in row) == (flag in missing), flag
        assert (
            flag in missing or flag in here or flag in {"--seed", "--checkpoint-hist", "--output"}
        )
    spaced = {"--law", "--law-weights", "--no-decay", "--unsampled", "--shards", "--reduce",
              "--recalibrate", "--val-interval", "--aug"}  # fmt: skip
    assert here - spaced <= told.keys(), "ours that are timm's"
