"""Modules that no space describes as students: the loop, the checkpoints and the log of any other."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from command import run as command
from lessons import RECIPE, SPACE, a_teacher, digits, fingerprint, student
from processes import run_together
from torch import Tensor, nn

import spacelang
from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.distillation.distill import DistillTrainer, Lesson, distill, engine_of
from spacelang.backends.torch.distillation.teacher import Teacher
from spacelang.backends.torch.runs.interrupt import Interrupted
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.evaluate import evaluate
from spacelang.backends.torch.training.fixed import Fixed
from spacelang.backends.torch.training.training import train
from spacelang.diagnostics import Source, SpaceError
from spacelang.passes.specialize import specialize

RELATED = {
    "losses": ("soft_cross_entropy", "relations", "hidden_states=0.1"),
    "attention": ("blocks.{0,1}.attn.qkv:from=1 = layers[{0,2}].attn.qkv",),
    "hidden": ("blocks.1:from=1 = layers[2]",),
}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits()


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return a_teacher()


def vit(seed: int = 0, **sizes: Any) -> nn.Module:
    torch.manual_seed(seed)
    usual = {"embed_dim": 12, "depth": 2, "num_heads": 3, "drop_path_rate": 0.3, "num_classes": 10}
    usual |= {"img_size": 8, "patch_size": 4, "in_chans": 1}
    return timm.create_model("vit_tiny_patch16_224", **{**usual, **sizes})


class Normed(nn.Module):
    """A network with batch norms and dropout."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(54, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


STUDENTS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "timm": (vit, RELATED),
    "norms": (Normed, {"losses": ("soft_cross_entropy", "cross_entropy")}),
}


def learn(
    folder: Path, network: nn.Module, data: Dataset, settings: dict[str, Any], teacher: Teacher,
    recipe: Any = RECIPE, name: str = "",
) -> Any:  # fmt: skip
    lesson = Lesson(engine_of(recipe, settings), teacher)
    return distill(network, data, recipe, folder, lesson, seed=3, name=name)


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_module_learns_and_goes_on_to_the_bit(
    kind: str, data: Dataset, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped inside of an epoch and at its end, and gone on with from modules of other draws."""
    make, settings = STUDENTS[kind]
    recipe = replace(RECIPE, model_ema=True, mixup=0.0, val_interval=1)
    given = make()
    before = copy.deepcopy(given.state_dict())
    made = learn(tmp_path / "whole", given, data, settings, teacher, recipe)
    assert type(made.model) is type(given)
    assert made.model is not given
    for name, value in given.state_dict().items():
        assert torch.equal(value, before[name]), "the module itself stays"
    assert any(not torch.equal(v, before[n]) for n, v in made.model.state_dict().items())
    assert made.log[-1]["loss"] < made.log[0]["loss"]
    accuracy = made.log[-1]["validation_accuracy"]
    assert evaluate(made.model, data.validation).accuracy == accuracy

    original = DistillTrainer.step
    for number, stop in enumerate((1, 5)):

        def step(self: DistillTrainer, plan: Any, stop: int = stop) -> Any:
            found = original(self, plan)
            if plan.step == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return found

        monkeypatch.setattr(DistillTrainer, "step", step)
        with pytest.raises(Interrupted):
            learn(tmp_path / "parts", make(number), data, settings, teacher, recipe)
    monkeypatch.setattr(DistillTrainer, "step", original)
    learn(tmp_path / "parts", make(7), data, settings, teacher, recipe)
    assert fingerprint(tmp_path / "parts") == fingerprint(tmp_path / "whole")
    examined = json.loads(command("doctor", tmp_path / "parts", "--json").stdout)
    assert examined["ok"]


def test_it_learns_what_the_network_of_a_space_learns(
    data: Dataset, teacher: Teacher, tmp_path: Path
) -> None:
    """One network, once as a graph and once as the module that is taken out of it."""
    undropped = SPACE.replace("drop: 0.25 * i", "drop: 0")
    graph = spacelang.load(Source("<digits>", undropped))
    fixed = specialize(graph, graph.decisions.extreme("largest"))
    recipe = replace(RECIPE, val_interval=1)
    settings = {"losses": ("soft_cross_entropy", "cross_entropy=0.5")}
    module = Supernet(fixed, seed=3).extract()
    lesson = Lesson(engine_of(recipe, settings), teacher)
    found = distill(fixed, data, recipe, tmp_path / "graph", lesson, seed=3)
    other = distill(module, data, recipe, tmp_path / "module", lesson, seed=3)
    for ours, theirs in zip(found.log, other.log, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert theirs[name] == pytest.approx(value, rel=1e-5), name


def test_processes_share_a_module(data: Dataset, teacher: Teacher, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1, shards=2)
    make, settings = STUDENTS["norms"]

    def taught(rank: int, name: str = "two") -> None:
        learn(tmp_path / name, make(), data, settings, teacher, recipe)

    assert run_together(2, taught) == [0, 0]
    taught(0, "one")
    assert fingerprint(tmp_path / "two") == fingerprint(tmp_path / "one")

    def apart(rank: int) -> None:
        with pytest.raises(SpaceError, match="differ in the weights"):
            learn(tmp_path / "apart", make(rank), data, settings, teacher, recipe)
        with pytest.raises(SpaceError, match="differ in the weights"):
            train(Fixed.of(make(rank), data), data, recipe, tmp_path / "apart")

    assert run_together(2, apart) == [0, 0]
    assert not (tmp_path / "apart").exists()


def test_a_folder_is_of_its_module(data: Dataset, teacher: Teacher, tmp_path: Path) -> None:
    settings = {"losses": ("soft_cross_entropy",)}
    recipe = replace(RECIPE, epochs=1)
    learn(tmp_path / "run", vit(), data, settings, teacher, recipe, "mine")
    report = (tmp_path / "run" / "report.html").read_text()
    assert "mine, distilled" in report
    assert "student: " in report
    for other in (vit(depth=3), vit(drop_path_rate=0.0), Normed()):
        with pytest.raises(SpaceError, match="holds another run"):
            learn(tmp_path / "run", other, data, settings, teacher, recipe, "mine")


def test_its_hash_knows_the_settings_of_its_modules(data: Dataset) -> None:
    """Those that neither tensors nor `extra_repr` show; but no mode, and no weights."""
    hashes = [Fixed.of(Normed(), data).hash]
    for name, value in (("scale", 2.0), ("scale", 3.0), ("form", "sum"), ("sizes", (1, ("a", 2)))):
        made = Normed()
        setattr(made.body, name, value)
        hashes.append(Fixed.of(made, data).hash)
    assert len({*hashes}) == 5
    assert Fixed.of(Normed(seed=1).eval(), data).hash == hashes[0]
    assert Fixed.of(vit(), data).hash == Fixed.of(vit(1), data).hash


def test_a_trainer_that_is_refused_leaves_the_modes(data: Dataset) -> None:
    """Of the network that it was given, where the teacher tells other classes apart."""
    network = Normed()
    network.body[1].eval()
    before = [module.training for module in network.modules()]
    lesson = Lesson(engine_of(RECIPE, {"losses": ("soft_cross_entropy",)}), a_teacher(classes=7))
    with pytest.raises(SpaceError, match="SP705"):
        lesson.trainer(network, Fixed.of(network, data), data, RECIPE, 0)
    assert [module.training for module in network.modules()] == before


def test_its_cost_is_that_of_the_space(data: Dataset) -> None:
    """DeiT of timm, counted by PyTorch, and of the space, by its closed forms."""
    graph = spacelang.load("deit.space:deit_ti")
    wanted = graph.cost()
    network = timm.create_model("deit_tiny_patch16_224")
    found = Fixed("deit", graph.root, {}, (), network=network, shape=(3, 224, 224)).cost()
    assert found.params == wanted.params
    assert found.macs == wanted.macs


# What is refused.


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"law": "sandwich"}, "law is for networks of a space"),
        ({"law": "architectures"}, "law is for networks of a space"),
        ({"layer_decay": 0.5}, "layer_decay is for networks of a space"),
        ({"clip_grad": 1.0, "clip_mode": "agc"}, "of agc the last layer"),
        ({"unsampled": "freeze"}, "unsampled is for networks of a space"),
        ({"recalibrate": 10}, "recalibrate is for networks of a space"),
        ({"reduce": "fsdp"}, "reduce explicit or ddp"),
        ({"grad_checkpointing": True}, "set_grad_checkpointing"),
        ({"torchcompile": True}, "torchcompile is for networks of a space"),
    ],
)
def test_what_needs_a_space(
    setting: dict[str, Any], told: str, data: Dataset, teacher: Teacher, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, **setting)
    with pytest.raises(SpaceError, match=rf"SP701(.|\n)*{told}"):
        learn(tmp_path / "run", vit(), data, {}, teacher, recipe)
    with pytest.raises(SpaceError, match=rf"SP701(.|\n)*{told}"):
        train(Fixed.of(vit(), data), data, recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Noting(Normed):
    """Keeps more than tensors."""

    def get_extra_state(self) -> str:
        return "a note"

    def set_extra_state(self, state: str) -> None: ...


@pytest.mark.parametrize(
    ("network", "code", "told"),
    [
        (lambda: vit(num_classes=7), "SP704", r"by \[2, 7\], not \[2, 10\]"),
        (lambda: vit(img_size=16), "SP704", r"cannot take images \[1, 8, 8\]"),
        (lambda: nn.Flatten(), "SP704", "has no parameters"),
        (lambda: Noting(), "SP704", "keeps more than tensors"),
        (lambda: Supernet(student()), "SP701", r"distill\(model\.graph"),
    ],
)
def test_modules_that_cannot_be_students(
    network: Callable[[], nn.Module], code: str, told: str, data: Dataset, teacher: Teacher,
    tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(SpaceError, match=rf"{code}(.|\n)*{told}"):
        learn(tmp_path / "run", network(), data, {}, teacher)
    assert not (tmp_path / "run").exists()


def test_taps_have_to_be_declared_and_there(
    data: Dataset, teacher: Teacher, tmp_path: Path
) -> None:
    with pytest.raises(SpaceError, match="relations needs pairs of attention"):
        learn(tmp_path / "run", vit(), data, {"losses": ("relations",)}, teacher)
    astray = {**RELATED, "hidden": ("blocks.9 = layers[2]",)}
    with pytest.raises(SpaceError, match=r"SP504(.|\n)*blocks\.9"):
        learn(tmp_path / "run", vit(), data, astray, teacher)
    assert not (tmp_path / "run").exists()
