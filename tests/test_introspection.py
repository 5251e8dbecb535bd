"""Introspective distillation (CDARTS): students and teachers that speak at several depths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import text
from lessons import (
    RECIPE,
    a_teacher,
    digits,
    fingerprint,
    learn,
    newest,
    stopped_and_gone_on_with,
    student,
)
from processes import run_together
from safetensors.torch import load_file
from torch import Tensor, nn

import spacelang
from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.distillation.distill import DistillTrainer, Lesson, distill, engine_of
from spacelang.backends.torch.distillation.introspection import Depths
from spacelang.backends.torch.distillation.taps import OUTPUT, Tapped, taps
from spacelang.backends.torch.distillation.teacher import Teacher
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.evaluate import main_output
from spacelang.backends.torch.training.losses import INTROSPECTING
from spacelang.diagnostics import Source, SpaceError
from spacelang.engines.distillation import Distillation, usual
from spacelang.engines.paths import Plans, SinglePath
from spacelang.engines.taps import Tap
from spacelang.ir.graph import Graph

PLAIN = {"losses": ("cross_entropy", "introspection_kl=2"), "temperature": 2.0}
DECLARED = {
    "losses": ("introspection_smooth_l1", "cross_entropy"),
    "outputs": ("layers[{0,1}] = layers[{0,2}]",),
}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits()


def small(cells: int) -> Graph:
    """Cells on digits whose first speaks too: `output near` exists for training alone."""
    return spacelang.load(Source("<cells>", f"{text()}\nspace one = small({cells})"))


class Speaking(nn.Module):
    """Speaks at two depths, in training alone or always."""

    def __init__(self, always: bool = True, seed: int = 0, **sizes: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        width = sizes.get("width", 6)
        self.body = nn.Sequential(nn.Conv2d(1, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU())
        self.near, self.head = nn.Linear(width, 10), nn.Linear(width * 9, 10)
        self.always = always

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.body(images)
        said = self.head(y.flatten(1))
        return (said, self.near(y.mean((2, 3)))) if self.always or self.training else said


def trainer_of(data: Dataset, graph: Graph, settings: dict[str, Any], who: Teacher) -> Any:
    recipe = replace(RECIPE, lr=0.0, min_lr=0.0, warmup_lr=0.0)
    return Lesson(engine_of(recipe, settings), who).trainer(
        Supernet(graph, seed=0), graph, data, recipe, 3
    )


def plan_of(trainer: DistillTrainer, step: int = 0) -> Any:
    plans = Plans(SinglePath(3), trainer.graph, 3, trainer.steps("train"))
    return trainer.lesson.engine.plan(plans.at(step))


def test_outputs_of_both_are_compared(data: Dataset) -> None:
    """All outputs of a space, those for training too, and of a module, weighed evenly at first."""
    who = Teacher.of(Speaking(), "speaking")
    graph = small(1)
    trainer = trainer_of(data, graph, PLAIN, who)
    plan = plan_of(trainer)
    images = trainer.images_of(plan).images
    metrics = trainer.step(plan)
    trainer.activate(plan.assignment)
    with torch.no_grad(), trainer._randomness(plan.step):
        own = trainer.model.all_outputs(images)
    (main,) = own.keys() - {"near"}
    answers, near = who.network(images)
    wanted = INTROSPECTING["introspection_kl"](
        [own["near"], own[main]], [near, answers], torch.zeros(2), {"temperature": 2.0}
    )
    assert metrics.terms["introspection_kl"] == pytest.approx(wanted.item(), rel=1e-4)
    labels = metrics.terms["cross_entropy"]
    assert metrics.loss == pytest.approx(labels + 2 * metrics.terms["introspection_kl"])
    summed = trainer_of(data, graph, {**PLAIN, "joined": "summed", "ensemble": "even"}, who)
    wanted = INTROSPECTING["introspection_kl"](
        [own["near"], own[main]], [near, answers], torch.zeros(2),
        {"temperature": 2.0, "summed": 1.0},
    )  # fmt: skip
    found = summed.step(plan_of(summed)).terms["introspection_kl"]
    assert found == pytest.approx(wanted.item(), rel=1e-4)
    assert not summed.depths.shares.requires_grad


def test_declared_values_speak_through_heads(data: Dataset) -> None:
    """Tokens are averaged; the teacher's heads stay, the student's learn, narrow ones use a part."""
    who = a_teacher()
    trainer = trainer_of(data, student(), DECLARED, who)
    smallest = student().decisions.extreme("smallest")
    plan = plan_of(trainer)
    plan = replace(
        plan, forwards=(replace(plan.forwards[0], assignment=smallest), plan.forwards[1])
    )
    images = trainer.images_of(plan).images
    shares = torch.tensor([0.5, -1.0, 0.25])
    trainer.depths.shares.data.copy_(shares)
    metrics = trainer.step(plan)
    trainer.activate(smallest)
    with torch.no_grad(), trainer._randomness(plan.step):
        own = taps(trainer.model, ["layers[0]", "layers[1]"], images)
    assert own.keys() == {"layers[0]"}, "a layer that is not there says nothing"
    given = taps(who.network, ["layers[0]"], images)
    mine, theirs = trainer.depths.heads["0"], trainer.depths.fixed["0"]
    assert mine.weight.shape == (10, 12)
    assert theirs.weight.shape == (10, 16)
    said = own["layers[0]"].mean(1) @ mine.weight[:, :8].T + mine.bias
    taught = given["layers[0]"].mean(1) @ theirs.weight.T + theirs.bias
    logits = trainer.last[1][0]
    wanted = INTROSPECTING["introspection_smooth_l1"](
        [said, logits], [taught, who.logits(images)], shares[[0, 2]], {}
    )
    assert metrics.terms["introspection_smooth_l1"] == pytest.approx(wanted.item(), rel=1e-4)
    assert not list(trainer.depths.fixed.parameters())
    learning = {name for name, p in trainer.bridges.named_parameters() if p.grad is not None}
    assert learning == {"depths.shares", "depths.heads.0.weight", "depths.heads.0.bias"}
    assert trainer.model.state_dict().keys() == Supernet(student()).state_dict().keys()


def test_values_of_classes_need_no_head() -> None:
    made = Depths(
        ((Tap(("aux",)), Tap(("map",), map=True)),),
        {"aux": torch.zeros(2, 5)}, {"map": torch.zeros(2, 7, 3, 3)}, classes=5, seed=0,
    )  # fmt: skip
    assert not made.heads
    assert made.fixed["0"].weight.shape == (5, 7)
    narrow = {"aux": torch.zeros(2, 3)}, torch.zeros(2, 5), {"map": torch.zeros(2, 7, 3, 3)}
    with pytest.raises(SpaceError, match=r"aux is \[2, 3\], in the largest network \[B, 5\]"):
        made.apart("introspection_kl", *narrow, torch.zeros(2, 5), {})
    again = Depths(made.pairs, {"aux": torch.zeros(2, 5)}, {"map": torch.zeros(2, 7, 3, 3)},
                   classes=5, seed=0)  # fmt: skip
    assert torch.equal(again.fixed["0"].weight, made.fixed["0"].weight), "drawn by the seed"


def test_other_outputs_are_found_by_every_form_of_network(data: Dataset) -> None:
    images = torch.zeros(2, 1, 8, 8)
    model = Supernet(small(1), seed=1).eval()
    logits, values = Tapped(model, ["stem"], every=True)(images)
    assert values.keys() == {"stem", f"{OUTPUT}near"}
    every = model.all_outputs(images)
    assert torch.equal(values[f"{OUTPUT}near"], every["near"])
    assert any(torch.equal(logits, value) for value in every.values())
    assert Tapped(model, ["stem"])(images)[1].keys() == {"stem"}

    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": x[:, 0, 0], "map": x, "aux": x[:, 0, 1]}

    assert Tapped(Named(), [], every=True)(images)[1].keys() == {f"{OUTPUT}aux"}


STUDENTS: dict[str, tuple[Callable[[], Any], dict[str, Any], Callable[[], nn.Module]]] = {
    "space": (lambda: small(1), PLAIN, lambda: Supernet(small(1), seed=5)),
    "taps": (student, DECLARED, lambda: a_teacher().network),
    "module": (lambda: Speaking(always=False), PLAIN, lambda: Speaking(seed=2, width=9)),
}


@pytest.mark.parametrize("kind", STUDENTS)
def test_resumed_runs_are_bit_identical(
    kind: str, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With heads and shares; the statistics of a module are not moved by what tries it."""
    make, settings, teacher = STUDENTS[kind]
    recipe = replace(RECIPE, epochs=2)

    def run(folder: Path) -> Any:
        lesson = Lesson(engine_of(recipe, settings), Teacher.of(teacher(), "one"))
        return distill(make(), data, recipe, folder, lesson, seed=3)

    made = run(tmp_path / "whole")
    kinds = {f"loss: {word.partition('=')[0]}" for word in settings["losses"]}
    assert {name for name in made.log[-1] if name.startswith("loss: ")} == kinds
    stopped_and_gone_on_with(run, tmp_path / "parts", monkeypatch, 1)
    assert fingerprint(tmp_path / "parts") == fingerprint(tmp_path / "whole")


def test_processes_share_outputs(data: Dataset, tmp_path: Path) -> None:
    """Whoever adds the gradients. Those of a layer that is compared come together in another order
    where it is cut: there last bits differ."""
    recipe = replace(RECIPE, epochs=1, shards=2, opt="momentum")

    def taught(rank: int, ways: Sequence[Any] = ("explicit", "ddp", "fsdp"), at: str = "") -> None:
        for way in ways:
            by, place = replace(recipe, reduce=way), tmp_path / (at or way)
            learn(place / "space", data, DECLARED, recipe=by, teacher=a_teacher())
            if way != "fsdp":
                lesson = Lesson(engine_of(by, PLAIN), Teacher.of(Speaking(seed=2, width=9), "one"))
                distill(Speaking(always=False), data, by, place / "module", lesson, seed=3)

    assert run_together(2, taught) == [0, 0]
    taught(0, ("explicit",), "one")
    for way in ("explicit", "ddp"):
        for kind in ("space", "module"):
            assert fingerprint(tmp_path / way / kind) == fingerprint(tmp_path / "one" / kind), way
    cut, whole = (load_file(newest(tmp_path / n / "space")) for n in ("fsdp", "one"))
    assert cut.keys() == whole.keys()
    for name, value in whole.items():
        assert torch.allclose(cut[name], value, rtol=1e-5, atol=1e-6), name


def test_trying_a_student_changes_nothing_of_it(data: Dataset) -> None:
    network = Speaking(always=False).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    lesson = Lesson(engine_of(RECIPE, PLAIN), Teacher.of(Speaking(), "one"))
    from spacelang.backends.torch.training.fixed import Fixed

    lesson.trainer(network, Fixed.of(network, data), data, RECIPE, 0)
    assert all(torch.equal(value, before[n]) for n, value in network.state_dict().items())
    assert not network.training
    assert main_output(network(torch.zeros(1, 1, 8, 8))).shape == (1, 10)


@pytest.mark.parametrize(
    ("settings", "teacher", "says"),
    [
        (PLAIN, a_teacher, "the student has 0 outputs, the teacher 0"),
        (PLAIN, lambda: Teacher.of(Speaking(), "s"), "the student has 0 outputs, the teacher 1"),
        (
            {**DECLARED, "outputs": ("layers[5] = layers[0]",)},
            a_teacher,
            r"SP504(.|\n)*layers\[5\]",
        ),
        ({**DECLARED, "outputs": ("layers[0] = near",)}, a_teacher, r"SP504(.|\n)*near"),
        (PLAIN, lambda: None, "there is no teacher to ask"),
    ],
)
def test_networks_that_do_not_pair(
    settings: dict[str, Any], teacher: Callable[[], Any], says: str, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(SpaceError, match=says):
        learn(tmp_path / "run", data, settings, teacher=teacher())
    assert not (tmp_path / "run").exists()


def test_a_run_is_of_its_outputs(data: Dataset, tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=1)
    learn(tmp_path / "run", data, DECLARED, recipe=recipe, teacher=a_teacher())
    for other in ({"outputs": ("layers[0] = layers[2]",)}, {"ensemble": "even"}):
        with pytest.raises(SpaceError, match="holds another run"):
            learn(tmp_path / "run", data, DECLARED | other, recipe=recipe, teacher=a_teacher())


def test_settings() -> None:
    with pytest.raises(ValueError, match="no loss reads pairs of outputs"):
        Distillation(outputs=("a = b",))
    with pytest.raises(ValueError, match="is not STUDENT = TEACHER"):
        Distillation(losses=("introspection_kl",), outputs=("a",))
    assert Distillation(losses=("introspection_mse",)).asks
    pairs = {"attention": (), "hidden": (), "outputs": ("a = b",)}
    assert usual((), stored=False, **pairs) == ("soft_cross_entropy", "introspection_kl")
    named = ("cross_entropy", "introspection_cosine=2")
    assert usual(named, stored=False, **pairs) == named
