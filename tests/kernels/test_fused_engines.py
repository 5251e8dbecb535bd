"""The engines' own code on kernels: a step, a step with a teacher, an evaluation of a search."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import lessons
import pytest
import torch
from torch import Tensor

from spacelang import load
from spacelang.backends.torch.data.datasets import Dataset, first_samples, open_data
from spacelang.backends.torch.distillation.distill_trainer import DistillTrainer
from spacelang.backends.torch.distillation.lesson import Lesson, engine_of
from spacelang.backends.torch.distillation.logits.asked import About, write_store
from spacelang.backends.torch.distillation.logits.replay import Replay
from spacelang.backends.torch.lowering.kernels import with_kernels
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.trainer import TorchTrainer
from spacelang.backends.triton import launch, relations, soft_labels
from spacelang.engines.paths import Plans, SinglePath
from spacelang.engines.protocol import Forward, LossTerm, Samples
from spacelang.ir.graph import Graph

TOLERANCE = 1e-5
SEEN = 4  # images of an evaluation
# An optimiser divides by the size of a gradient: one that is only rounding must not become a step.
RECIPE = Recipe(epochs=1, batch_size=8, lr=1e-2, opt_eps=1e-2, warmup_epochs=0, aug="none")
DISTILLED = replace(RECIPE, aug="digits")


@pytest.fixture(scope="module")
def graph() -> Graph:
    """The quickstart's space on digits of 8 x 8."""
    return load("quickstart.space:quickstart", image=8)


@pytest.fixture(scope="module")
def data() -> Dataset:
    whole = open_data("digits")
    return replace(
        whole,
        train=first_samples(whole.train, 32),
        validation=first_samples(whole.validation, SEEN),
    )


def trainers(graph: Graph, data: Dataset) -> list[TorchTrainer]:
    """A trainer of the supernet, and one of the same fused."""
    plain = Supernet(graph, seed=0)
    with with_kernels(required=True):
        fused = Supernet(graph, seed=0)
    assert fused.lowering.kernels
    return [TorchTrainer(model, graph, data, RECIPE, seed=0) for model in (plain, fused)]


def close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= TOLERANCE * b.abs().max())


@pytest.mark.parametrize("teacher", [False, True])
def test_a_step(graph: Graph, data: Dataset, teacher: bool) -> None:
    """The loss and every weight after a step; with a teacher, the largest network's soft labels."""
    found: list[tuple[float, dict[str, Tensor]]] = []
    for trainer in trainers(graph, data):
        plan = Plans(RECIPE.engine, graph, 0, trainer.steps("train")).at(0)
        if teacher:
            largest = Forward(graph.decisions.extreme("largest"), learns=False)
            soft = LossTerm("soft_cross_entropy", 1.0, {"temperature": 2.0}, against=1)
            plan = replace(plan, forwards=(*plan.forwards, largest), losses=(LossTerm(), soft))
        with launch.require_fused():  # no reference takes the place of a kernel
            metrics = trainer.step(plan)
        found.append((metrics.loss, dict(trainer.model.state_dict())))
    (wanted, before), (loss, after) = found
    assert loss == pytest.approx(wanted, rel=TOLERANCE)
    start = Supernet(graph, seed=0).state_dict()
    assert any(not torch.equal(before[name], start[name]) for name in before)
    assert all(close(after[name], before[name]) for name in before)


def test_an_evaluation(graph: Graph, data: Dataset) -> None:
    """What a search sees of some architectures, and the logits that it is made of."""
    drawn = graph.sample(n=2, seed=1)
    logits: tuple[list[Tensor], list[Tensor]] = ([], [])
    both = trainers(graph, data)
    with launch.require_fused():
        for trainer, kept in zip(both, logits, strict=True):
            trainer.model.register_forward_hook(lambda _, given, out, kept=kept: kept.append(out))
        scores = [list(trainer.probe(drawn, Samples(count=SEEN))) for trainer in both]
    for one, other in zip(*scores, strict=True):
        assert other.accuracy == one.accuracy
        assert other.total == one.total == SEEN
    plain, fused = logits
    assert len(plain) == len(drawn)
    assert all(close(b, a) for a, b in zip(plain, fused, strict=True))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the losses' kernels, as they are launched."""
    names: list[str] = []

    class Seen:
        def __init__(self, kernel: Any, name: str) -> None:
            self.kernel, self.name = kernel, name

        def __getitem__(self, grid: Any) -> Any:
            names.append(self.name)
            return self.kernel[grid]

    for module in (soft_labels, relations):
        for way in ("forward", "backward"):
            kernel = getattr(module, f"_{way}_kernel")
            seen = Seen(kernel, f"{module.NAME} {way}")
            monkeypatch.setattr(module, f"_{way}_kernel", seen)
    return names


@pytest.mark.parametrize(
    "losses",
    [
        {"losses": ("soft_labels",)},
        {**lessons.MINIVIT, "losses": ("soft_labels", "relations", "hidden_states=0.1")},
    ],
    ids=["labels", "layers"],
)
def test_a_step_of_distillation(
    losses: Mapping[str, Any], tmp_path: Path, launched: list[str]
) -> None:
    """Against stored soft labels and attention relations, whose losses are kernels, and layers.

    A student whose values are compared is fused, too: no group holds one of them.
    """
    graph, data, teacher = lessons.student(), lessons.digits(), lessons.a_teacher()
    about = About.of(teacher.name, teacher.digest, data, "digits", seed=9, k=4, temperature=2.0)
    write_store(tmp_path / "store", teacher, data, about, epochs=1)
    found: list[tuple[float, dict[str, Tensor]]] = []
    for within in (nullcontext(), with_kernels(required=True)):
        with within:
            lesson = Lesson(engine_of(DISTILLED, losses), teacher, Replay(tmp_path / "store"))
            model = Supernet(graph, seed=0)
            trainer = DistillTrainer(model, graph, data, DISTILLED, 3, lesson)
        plans = Plans(SinglePath(1, "choices"), graph, 3, trainer.steps("train"))
        assert not launched or found  # those of a pass that tries, before any step
        with launch.require_fused():
            metrics = trainer.step(lesson.engine.plan(plans.at(0)))
        found.append((metrics.loss, dict(model.state_dict())))
    mine = {name.partition("=")[0] for name in losses["losses"]} - {"hidden_states"}
    assert {*launched} == {f"{name} {way}" for name in mine for way in ("forward", "backward")}
    (loss, before), (fused, after) = found
    assert fused == pytest.approx(loss, rel=TOLERANCE)
    assert all(close(after[name], before[name]) for name in before)
