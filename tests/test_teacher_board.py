"""Several teachers of one student (Cream): who teaches, what is learned, runs that stop and go on."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lessons import RECIPE, a_teacher, digits, fingerprint, student
from processes import run_together
from torch import Tensor, nn

from spacelang.backends.torch.data.datasets import Dataset, first_samples, ordered_batches
from spacelang.backends.torch.distillation.board_trainer import BoardTrainer
from spacelang.backends.torch.distillation.distill import distill
from spacelang.backends.torch.distillation.lesson import BoardLesson, board_of
from spacelang.backends.torch.distillation.teacher import Teacher, slim
from spacelang.backends.torch.runs.interrupt import Interrupted
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.losses import cross_entropy, soft_cross_entropy
from spacelang.backends.torch.training.nonfinite import NotFinite
from spacelang.diagnostics import SpaceError
from spacelang.engines.distillation import usual
from spacelang.engines.paths import Plans, SinglePath
from spacelang.engines.protocol import Metrics, StepPlan
from spacelang.engines.teacher_board import TeacherBoard

STILL = replace(RECIPE, lr=0.0, min_lr=0.0, warmup_lr=0.0)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits()


@pytest.fixture(scope="module")
def teachers() -> tuple[Teacher, ...]:
    return tuple(a_teacher(seed) for seed in (1, 2, 3))


class Normed(nn.Module):
    """Batch norms, dropout, a part that does not learn, and a count that is not kept."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU())
        self.still = nn.Conv2d(6, 6, 1).requires_grad_(False)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(54, 10))
        self.register_buffer("passes", torch.zeros(()), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        self.passes.add_(1)
        return self.head(self.still(self.body(images)))


def lesson_of(teachers: Sequence[Teacher], recipe: Any = RECIPE, **settings: Any) -> BoardLesson:
    engine = board_of(recipe, {"teachers": len(teachers), **settings})
    return BoardLesson(engine, tuple(teachers))


def trainer_of(data: Dataset, teachers: Sequence[Teacher], **settings: Any) -> BoardTrainer:
    graph = student()
    lesson = lesson_of(teachers, STILL, **settings)
    return lesson.trainer(Supernet(graph, seed=0), graph, data, STILL, 3)


def plan_of(trainer: BoardTrainer, step: int = 0) -> Any:
    return Plans(SinglePath(3), trainer.graph, 3, trainer.steps("train")).at(step)


# Plans.


def test_the_best_matched_teaches() -> None:
    base = Plans(SinglePath(3), student(), 7, 10).at(24)
    engine = TeacherBoard(teachers=3, smoothing=0.2, match_lr=0.5)
    plan = engine.plan(base, [0.1, 0.7, 0.7])
    assert plan.forwards[:-1] == base.forwards
    assert (plan.forwards[-1].network, plan.forwards[-1].learns) == ("teacher[1]", False)
    assert plan.groups == ("weights", "match")
    options = {"smoothing": 0.2, "slot": 1.0, "sign": 1.0, "rate": 0.5}
    assert [(t.kind, t.options, t.against) for t in plan.losses] == [("matched", options, 1)]
    update = engine.update(plan)
    assert update.forwards == plan.forwards
    assert update.groups == ("match",)
    assert [(t.kind, t.options, t.against) for t in update.losses] == [("matching", options, 1)]
    evenly = engine.plan(base, [0.1, math.nan, 0.7])
    assert evenly.forwards[-1].network == "teacher[0]"
    assert [(t.kind, t.weight) for t in evenly.losses] == [
        ("cross_entropy", 0.75), ("soft_cross_entropy", 0.25)
    ]  # fmt: skip
    assert evenly.groups == ("weights",)


class Script:
    """Takes steps and gives matches in turn."""

    def __init__(self, matches: Sequence[Sequence[float]], left_out: str = "") -> None:
        self.matches, self.left_out, self.plans = iter(matches), left_out, list[StepPlan]()
        self.taken = 0

    def steps(self, data: str) -> int:
        return 4

    def match(self, plan: StepPlan, slots: Sequence[int]) -> Sequence[float]:
        return next(self.matches)

    def step(self, plan: StepPlan) -> Metrics:
        self.plans.append(plan)
        kinds = [term.name for term in plan.losses]
        seen = 0 if self.left_out in kinds else 8
        return Metrics(
            1.0, dict.fromkeys(kinds, float(len(self.plans))) if seen else {}, 0, seen, 0.1
        )


def test_the_teacher_is_chosen_again_after_an_update() -> None:
    """As published: the update has a selection of its own (steps 4 and 5 of an iteration)."""
    matches = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    engine = TeacherBoard(teachers=2, epochs=1, update_every=2)
    script: Any = Script(matches)
    *steps, _ = engine.run(student(), script, 3)
    taken = [(p.step, p.losses[0].kind, p.forwards[-1].network) for p in script.plans]
    first, second = "teacher[0]", "teacher[1]"
    assert taken == [
        (0, "matched", first), (1, "matched", first), (2, "matching", second),
        (2, "matched", first), (3, "matched", second),
    ]  # fmt: skip
    assert [event.plan.step for event in steps] == [0, 1, 2, 3]
    assert steps[2].metrics.terms == {"matched": 4.0, "matching": 3.0}
    assert [term.kind for term in steps[2].plan.losses] == ["matched", "matching"]


@pytest.mark.parametrize("kind", ["matched", "matching"])
def test_a_half_that_was_left_out(kind: str) -> None:
    """Where the first half of a step is left out, so is the second."""
    script: Any = Script([[1.0, 0.0]] * 5, left_out=kind)
    *steps, _ = TeacherBoard(teachers=2, epochs=1, update_every=2).run(student(), script, 3)
    assert [p.losses[0].kind for p in script.plans if p.step == 2] == (
        ["matching"] if kind == "matching" else ["matching", "matched"]
    )
    assert steps[2].metrics.total == 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"teachers": 1}, "two teachers"),
        ({"images": 0}, "an image of each"),
        ({"law": "sandwich"}, "a match is of one"),
        ({"losses": ("matched", "divergence")}, "labels are in it"),
        ({"update_every": -1}, "not negative"),
        ({"match_lr": -1.0}, "not negative"),
    ],
)
def test_boards_that_are_none(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TeacherBoard(**settings)


def test_usual_loss() -> None:
    pairs = {"attention": (), "hidden": (), "outputs": ()}
    assert usual((), stored=False, board=True, **pairs) == ("matched",)


# Steps.


def test_a_step_is_what_it_is_defined_as(data: Dataset, teachers: tuple[Teacher, ...]) -> None:
    """Scores, choice, loss and the matching network's slope, computed anew."""
    trainer = trainer_of(data, teachers, update_every=0, match_lr=0.5)
    plan = plan_of(trainer)
    scores = trainer.match(plan, range(3))
    network, model = trainer.network, trainer.model
    assert network is not None
    (first,) = ordered_batches(first_samples(data.train, 12), 12)
    model.train()
    trainer.activate(plan.assignment)
    wanted: list[Tensor] = []
    with torch.no_grad(), trainer._randomness(plan.step):
        for number, teacher in enumerate(teachers):
            images = first.images[4 * number : 4 * number + 4]
            seen = model(images).softmax(1) - teacher.logits(images).softmax(1)
            wanted.append(network(seen.flatten())[0])
    assert scores == pytest.approx([float(score) for score in wanted], rel=1e-4)
    taught = TeacherBoard(teachers=3, update_every=0, match_lr=0.5).plan(plan, scores)
    best = max(range(3), key=scores.__getitem__)
    batch = trainer.images_of(taught)
    answers = teachers[best].logits(batch.images)
    with torch.no_grad(), trainer._randomness(plan.step):
        logits = model(batch.images)
        images = first.images[4 * best : 4 * best + 4]
        seen = model(images).softmax(1) - teachers[best].logits(images).softmax(1)
        share = network(seen.flatten())[0].sigmoid()
    learned = soft_cross_entropy(logits, answers, {})
    told = cross_entropy(logits, batch.labels, {"smoothing": 0.1})
    loss = (share * learned + (2 - share) * told) / 2
    before = network.weight.detach().clone()
    metrics = trainer.step(taught)
    assert metrics.terms == {"matched": pytest.approx(loss.item(), rel=1e-5)}
    assert metrics.loss == metrics.terms["matched"]
    assert not torch.equal(network.weight, before), "it learns by the loss of the step"
    assert trainer.last is not None
    assert torch.equal(trainer.last[1][1], answers)


def test_the_matching_network_learns_through_the_next_loss(
    data: Dataset, teachers: tuple[Teacher, ...]
) -> None:
    """The step before the step: nothing of the student moves."""
    recipe = replace(RECIPE, lr=0.1, warmup_epochs=0)
    graph = student()
    lesson = lesson_of(teachers, recipe, update_every=1, match_lr=0.5)
    trainer = lesson.trainer(Supernet(graph, seed=0), graph, data, recipe, 3)
    plan = lesson.engine.plan(plan_of(trainer, 1), [1.0, 0.0, 0.0])
    kept = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert trainer.network is not None
    before = trainer.network.weight.detach().clone()
    alone = trainer.step(lesson.engine.update(plan))
    assert alone.terms.keys() == {"matching"}
    assert not torch.equal(trainer.network.weight, before)
    assert all(torch.equal(kept[n], value) for n, value in trainer.model.state_dict().items())
    assert trainer.step(plan).terms.keys() == {"matched"}
    assert any(not torch.equal(kept[n], value) for n, value in trainer.model.state_dict().items())
    assert trainer.taken == 2


@pytest.mark.parametrize("count", [2, 4])
def test_a_board_of_another_number_of_teachers(
    count: int, data: Dataset, teachers: tuple[Teacher, ...]
) -> None:
    lesson = BoardLesson(TeacherBoard(count), teachers)
    with pytest.raises(SpaceError, match=f"SP705.*of {count} teachers, not of 3"):
        lesson.check(data, RECIPE)


def test_asking_moves_nothing_of_a_module(data: Dataset, teachers: tuple[Teacher, ...]) -> None:
    from spacelang.backends.torch.training.fixed import Fixed

    network = Normed()
    graph = Fixed.of(network, data)
    lesson = lesson_of(teachers, update_every=1)
    trainer = lesson.trainer(network, graph, data, RECIPE, 3)
    kept = {n: b.clone() for n, b in network.named_buffers()}
    scores = trainer.match(plan_of(trainer, 1), range(3))
    trainer.step(lesson.engine.update(lesson.engine.plan(plan_of(trainer, 1), scores)))
    assert all(torch.equal(kept[n], b) for n, b in network.named_buffers())


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_match_that_is_no_number(
    policy: Any, data: Dataset, teachers: tuple[Teacher, ...]
) -> None:
    trainer = trainer_of(data, teachers)
    trainer.guard.policy = policy
    engine = TeacherBoard(teachers=3)
    plan = engine.update(engine.plan(plan_of(trainer, 1), [1.0, 0.0, 0.0]))
    trainer.memory.features[0].fill_(math.nan)
    kept = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    if policy == "skip":
        assert trainer.step(plan).total == 0
        assert trainer.taken == 2
    else:
        with pytest.raises(NotFinite):
            trainer.step(plan)
    assert all(torch.equal(kept[n], value) for n, value in trainer.model.state_dict().items())


# Runs.


@pytest.mark.parametrize("kind", ["space", "module"])
def test_resumed_runs_are_bit_identical(
    kind: str, data: Dataset, teachers: tuple[Teacher, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Stopped inside of an epoch, in the middle of what the matching network learns."""
    make: dict[str, Callable[[], Any]] = {"space": student, "module": Normed}
    lesson = lesson_of(teachers, update_every=1, match_lr=0.1)

    def run(folder: Path) -> Any:
        return distill(make[kind](), data, RECIPE, folder, lesson, seed=3)

    made = run(tmp_path / "whole")
    assert {name for name in made.log[-1] if name.startswith("loss: ")} == {
        "loss: matched", "loss: matching"
    }  # fmt: skip
    assert {line["matching steps"] for line in made.log} == {2}, "of three, the first one not"
    for line in made.log:
        shares = [float(v) for n, v in line.items() if n.startswith("taught by teacher[")]
        assert sum(shares) == pytest.approx(1.0)
        assert all(share * 3 == pytest.approx(round(share * 3)) for share in shares)
    original = BoardTrainer.step

    def step(self: BoardTrainer, plan: Any) -> Any:
        found = original(self, plan)
        if plan.step == 4 and plan.groups == ("match",):
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    monkeypatch.setattr(BoardTrainer, "step", step)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts")
    monkeypatch.setattr(BoardTrainer, "step", original)
    run(tmp_path / "parts")
    assert fingerprint(tmp_path / "parts") == fingerprint(tmp_path / "whole")
    report = (tmp_path / "whole" / "report.html").read_text()
    assert "Learned from teacher 1, teacher 2, teacher 3 by matched" in report


def test_processes_share_a_board(
    data: Dataset, teachers: tuple[Teacher, ...], tmp_path: Path
) -> None:
    """Whoever adds the gradients, and where weights are cut: a step has two passes of the student."""
    recipe = replace(RECIPE, epochs=1, shards=2, opt="momentum")

    def taught(rank: int, ways: Sequence[Any] = ("explicit", "ddp", "fsdp"), at: str = "") -> None:
        for way in ways:
            by, place = replace(recipe, reduce=way), tmp_path / (at or way)
            lesson = lesson_of(teachers, by, update_every=1, match_lr=0.1)
            distill(student(), data, by, place / "space", lesson, seed=3)
            if way != "fsdp":
                distill(Normed(), data, by, place / "module", lesson, seed=3)

    def apart(rank: int) -> None:
        cut = replace(recipe, reduce="fsdp", shards=4)
        with pytest.raises(SpaceError, match=r"SP708.*at most 1 shards a process here"):
            distill(student(), data, cut, tmp_path / "no", lesson_of(teachers, cut), seed=3)

    assert run_together(2, taught) == [0, 0]
    taught(0, ("explicit",), "one")
    assert run_together(2, apart) == [0, 0]
    assert not (tmp_path / "no").exists()
    for kind, ways in {"space": ("explicit", "ddp", "fsdp"), "module": ("explicit", "ddp")}.items():
        for way in ways:
            assert fingerprint(tmp_path / way / kind) == fingerprint(tmp_path / "one" / kind), way


def test_a_run_is_of_its_board(
    data: Dataset, teachers: tuple[Teacher, ...], tmp_path: Path
) -> None:
    recipe = replace(RECIPE, epochs=1)
    distill(student(), data, recipe, tmp_path / "run", lesson_of(teachers, recipe), seed=3)
    for other in (
        lesson_of(teachers[:2], recipe),
        lesson_of(teachers[::-1], recipe),
        lesson_of(teachers, recipe, match_lr=0.5),
    ):
        with pytest.raises(SpaceError, match="holds another run"):
            distill(student(), data, recipe, tmp_path / "run", other, seed=3)


def test_a_network_of_a_supernet_teaches_the_same_by_itself(data: Dataset) -> None:
    whole = a_teacher()
    alone = slim(whole)
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(alone.logits(images), whole.logits(images))
    assert alone.digest == whole.digest
    assert not isinstance(alone.network, Supernet)
    assert not any(p.requires_grad for p in alone.network.parameters())


@pytest.mark.parametrize(
    ("board", "recipe", "says"),
    [
        (lambda: (a_teacher(1), a_teacher(1)), {}, "stands on the board twice"),
        (lambda: (a_teacher(1), a_teacher(2, classes=7)), {}, "tells 7 classes apart"),
        (lambda: (a_teacher(1), Teacher.of(nn.Conv2d(3, 1, 1), "x")), {}, "x cannot take images"),
        (lambda: (a_teacher(1), a_teacher(2)), {"mixup": 0.5}, "mixed images"),
        (lambda: (a_teacher(1), a_teacher(2)), {"torchcompile": True}, "compiles nothing"),
    ],
)
def test_boards_that_cannot_teach(
    board: Callable[[], tuple[Teacher, ...]], recipe: dict[str, Any], says: str, data: Dataset,
    tmp_path: Path,
) -> None:  # fmt: skip
    changed = replace(RECIPE, **recipe)
    with pytest.raises(SpaceError, match=says):
        distill(student(), data, changed, tmp_path / "run", lesson_of(board(), changed), seed=3)
    assert not (tmp_path / "run").exists()
