"""Distillation of a small transformer on digits: what is learned, exact resume, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from lessons import (
    MINIVIT,
    RECIPE,
    SPACE,
    a_teacher,
    digits,
    fingerprint,
    learn,
    stopped_and_gone_on_with,
    student,
)
from processes import run_together
from torch import Tensor, nn

import spacelang
from spacelang.backends.torch.data.datasets import Dataset, ordered_batches
from spacelang.backends.torch.distillation.distill import DistillTrainer, Lesson, engine_of
from spacelang.backends.torch.distillation.logits.asked import Asked, write_store
from spacelang.backends.torch.distillation.logits.manifest import epoch_folder
from spacelang.backends.torch.distillation.logits.record import dense
from spacelang.backends.torch.distillation.logits.replay import Replay
from spacelang.backends.torch.distillation.logits.store import About
from spacelang.backends.torch.distillation.taps import taps
from spacelang.backends.torch.distillation.teacher import Teacher, open_teacher
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training import losses
from spacelang.backends.torch.training.nonfinite import NotFinite
from spacelang.backends.torch.training.recalibrate import calibrate
from spacelang.backends.torch.training.training import load_trained, train
from spacelang.diagnostics import Source, SpaceError
from spacelang.passes.specialize import specialize

STORED = {"losses": ("soft_labels", "cross_entropy=0.5")}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits()


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return a_teacher()


@pytest.fixture(scope="module")
def store(data: Dataset, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of records of the teacher."""
    folder = tmp_path_factory.mktemp("stored") / "store"
    about = About.of(teacher.name, teacher.digest, data, "digits", seed=9, k=4, temperature=2.0)
    write_store(folder, teacher, data, about, epochs=2)
    return folder


def trainer_of(data: Dataset, settings: dict[str, Any], **who: Any) -> DistillTrainer:
    graph = student()
    lesson = Lesson(engine_of(RECIPE, settings), **who)
    return DistillTrainer(Supernet(graph, seed=0), graph, data, RECIPE, 3, lesson)


def plan_of(trainer: DistillTrainer, step: int = 0) -> Any:
    from spacelang.engines.paths import Plans, SinglePath

    engine = trainer.lesson.engine
    plans = Plans(SinglePath(engine.epochs, engine.law), trainer.graph, 3, trainer.steps("train"))
    return engine.plan(plans.at(step))


# What a step learns from.


def test_the_terms_of_a_step_are_what_they_are_defined_as(data: Dataset, teacher: Teacher) -> None:
    """Every loss of one step, computed anew from taps of the two networks, apart."""
    trainer = trainer_of(data, {**MINIVIT, "temperature": 3.0, "heads": 2}, teacher=teacher)
    trainer.recipe = replace(RECIPE, lr=0.0, min_lr=0.0, warmup_lr=0.0)
    plan = plan_of(trainer, 1)
    images = trainer.images_of(plan).images
    model = trainer.model
    model.train()
    metrics = trainer.step(plan)
    trainer.activate(plan.assignment)
    paths = ["layers[0].attn.qkv", "layers[1].attn.qkv", "layers[0]", "layers[1]"]
    with torch.no_grad(), trainer._randomness(plan.step):
        own = taps(model, paths, images)
    given = taps(teacher.network, [p.replace("1]", "2]", 1) for p in paths], images)
    answers = teacher.logits(images)
    assert trainer.last is not None
    logits = trainer.last[1][0]
    depth = int(plan.assignment["depth"])
    pairs = [(f"layers[{n}]", f"layers[{2 * n}]") for n in range(depth)]

    def qkv(value: Tensor) -> list[Tensor]:
        return [part.flatten(2) for part in value.unbind(2)]

    wanted = {
        "soft_cross_entropy": losses.soft_cross_entropy(logits, answers, {"temperature": 3.0}),
        "relations": sum(
            losses.relations(qkv(own[f"{a}.attn.qkv"]), qkv(given[f"{b}.attn.qkv"]), 2)
            for a, b in pairs
        )
        / depth,
        "hidden_relations": sum(losses.hidden_relations(own[a], given[b]) for a, b in pairs)
        / depth,
        "hidden_states": sum(
            losses.hidden_states(trainer._bridge(n, own[a]), given[b])
            for n, (a, b) in enumerate(pairs)
        )
        / depth,
    }
    for name, value in wanted.items():
        assert metrics.terms[name] == pytest.approx(float(value), rel=1e-4), name
    weights = {
        "soft_cross_entropy": 1,
        "relations": 1,
        "hidden_relations": 0.1,
        "hidden_states": 0.1,
    }
    assert not teacher.network.training
    assert metrics.loss == pytest.approx(sum(w * metrics.terms[n] for n, w in weights.items()))


TWO_HEADS = SPACE.replace(
    "  output mean(x, axes: [1]) |> linear(classes) as head\n",
    """  x = mean(x, axes: [1])
  y = linear(x, classes) as head
  z = linear(x, classes) as head_dist
  output head: y
  output head_dist: z
  output (y + z) / 2
""",
)


def two_heads(data: Dataset, teacher: Teacher, *names: str) -> DistillTrainer:
    graph = spacelang.load(Source("<two>", TWO_HEADS))
    lesson = Lesson(engine_of(RECIPE, {"losses": names}), teacher)
    return DistillTrainer(Supernet(graph, seed=0), graph, data, RECIPE, 3, lesson)


def test_each_head_learns_what_it_is_told(data: Dataset, teacher: Teacher) -> None:
    """DeiT: labels teach the one, the answers of the teacher the other."""
    trainer = two_heads(data, teacher, "cross_entropy@head=0.4", "hard_cross_entropy@head_dist=0.6")
    trainer.recipe = replace(RECIPE, lr=0.0, min_lr=0.0, warmup_lr=0.0)
    plan = plan_of(trainer, 1)
    batch = trainer.images_of(plan)
    metrics = trainer.step(plan)
    assert isinstance(trainer.model, Supernet)
    with torch.no_grad(), trainer._randomness(plan.step):
        every = trainer.model.all_outputs(batch.images)
    wanted = {
        "cross_entropy": losses.cross_entropy(every["head"], batch.labels, {"smoothing": 0.1}),
        "hard_cross_entropy": losses.hard_cross_entropy(
            every["head_dist"], teacher.logits(batch.images), {}
        ),
    }
    for name, value in wanted.items():
        assert metrics.terms[name] == pytest.approx(float(value), rel=1e-4), name
    weighed = 0.4 * metrics.terms["cross_entropy"] + 0.6 * metrics.terms["hard_cross_entropy"]
    assert metrics.loss == pytest.approx(weighed)
    assert float((every["head"] - every["head_dist"]).abs().max()) > 0.01


def test_a_head_that_no_loss_reads_learns_nothing(data: Dataset, teacher: Teacher) -> None:
    trainer = two_heads(data, teacher, "divergence@head_dist")
    trainer.step(plan_of(trainer))
    grads = {n: p.grad for n, p in trainer.model.named_parameters()}
    assert grads["head.weight"] is None
    assert grads["head_dist.weight"] is not None


@pytest.mark.parametrize(
    ("name", "code"),
    [("divergence@neck", "SP504"), ("divergence@layers[0]", r"SP705.*layers\[0\] is \[")],
)
def test_heads_that_are_none(name: str, code: str, data: Dataset, teacher: Teacher) -> None:
    with pytest.raises(SpaceError, match=code):
        two_heads(data, teacher, name)


def test_a_teacher_is_asked_as_it_is(data: Dataset, teacher: Teacher) -> None:
    """In evaluation, without gradients, and nothing of it moves."""
    before = {n: t.clone() for n, t in teacher.network.state_dict().items()}
    trainer = trainer_of(data, {}, teacher=teacher)
    for step in range(2):
        trainer.step(plan_of(trainer, step))
        trainer.taken = step + 1
    assert not teacher.network.training
    assert all(p.grad is None for p in teacher.network.parameters())
    assert all(torch.equal(t, before[n]) for n, t in teacher.network.state_dict().items())


def test_bridges_learn_and_are_no_part_of_the_student(data: Dataset, teacher: Teacher) -> None:
    trainer = trainer_of(data, MINIVIT, teacher=teacher)
    assert {n: tuple(p.shape) for n, p in trainer.bridges.named_parameters()} == {
        "0.weight": (16, 12), "0.bias": (16,), "1.weight": (16, 12), "1.bias": (16,)
    }  # fmt: skip
    before = [p.detach().clone() for p in trainer.bridges.parameters()]
    for step in range(3):
        trainer.step(plan_of(trainer, step))
    assert not torch.equal(before[0], next(iter(trainer.bridges.parameters())))
    assert trainer.model.state_dict().keys() == Supernet(student()).state_dict().keys()


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_bridge_whose_gradient_is_no_number(
    policy: Literal["error", "skip"], data: Dataset, teacher: Teacher
) -> None:
    trainer = trainer_of(data, MINIVIT, teacher=teacher)
    trainer.step(plan_of(trainer, 0))
    trainer.guard.policy = policy
    seen: list[Mapping[str, object]] = []
    trainer.guard.note = seen.append
    bridge = next(iter(trainer.bridges.parameters()))
    bridge.register_hook(lambda slope: slope * float("nan"))
    before = {name: t.clone() for name, t in trainer.model.state_dict().items()}
    if policy == "skip":
        assert trainer.step(plan_of(trainer, 1)).total == 0
    else:
        with pytest.raises(NotFinite, match="gradient of step 1"):
            trainer.step(plan_of(trainer, 1))
    assert all(torch.equal(before[n], t) for n, t in trainer.model.state_dict().items())
    assert seen[0]["samples"] == trainer.feed.ids(plan_of(trainer, 1))


def test_stored_labels_are_the_records_of_the_very_images(
    data: Dataset, teacher: Teacher, store: Path
) -> None:
    """The store's seed and epoch make the images, whatever the seed of the run."""
    trainer = trainer_of(data, STORED, stored=Replay(store))
    for step in (0, 4, 7):  # of epochs 0, 1, and of 2, which reads epoch 0 again
        batch = trainer.images_of(plan_of(trainer, step))
        records, good = Replay(store).read(step // 3 % 2, batch.ids.numpy())
        assert good.all()
        wanted = (teacher.logits(batch.images) / 2).softmax(1)
        top = wanted.topk(4, 1)
        kept = torch.from_numpy(records.probabilities).float()
        torch.testing.assert_close(kept, top.values, atol=1e-3, rtol=1e-3)
    trainer.step(plan_of(trainer, 7))
    assert trainer.last is not None
    logits = trainer.last[1][0] / 2
    labels = dense(records, 10)
    wanted = -(labels * logits.log_softmax(1)).sum(1).mean() * 4
    metrics = trainer_of(data, STORED, stored=Replay(store)).step(plan_of(trainer, 7))
    assert metrics.terms["soft_labels"] == pytest.approx(float(wanted), rel=1e-4)


class Odd(nn.Module):
    """A teacher that is no transformer: channels first, and an answer beside others."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.pool(self.body(x))
        return self.head(y.flatten(1)), y


def test_any_module_teaches_by_declared_taps(data: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    odd = Teacher.of(Odd(), "odd")
    settings = {
        "losses": ("hard_cross_entropy", "hidden_states"),
        "hidden": ("layers[1]=pool:map",),
    }
    made = learn(tmp_path / "run", data, settings, teacher=odd)
    assert len(made.log) == 3
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Learned from odd by hard_cross_entropy, hidden_states" in report


def test_one_network_is_taught_too(data: Dataset, teacher: Teacher, tmp_path: Path) -> None:
    graph = specialize(student(), student().decisions.extreme("smallest"))
    made = learn(tmp_path / "run", data, {}, graph=graph, teacher=teacher)
    assert not made.model.graph.decisions
    assert load_trained(graph, data, tmp_path / "run").weights == made.weights


def test_the_log_has_each_term(data: Dataset, teacher: Teacher, tmp_path: Path) -> None:
    made = learn(tmp_path / "run", data, MINIVIT, teacher=teacher)
    for line in made.log:
        terms = {name: value for name, value in line.items() if name.startswith("loss: ")}
        assert terms.keys() == {f"loss: {text.partition('=')[0]}" for text in MINIVIT["losses"]}
        weights = {f"loss: {n}": float(w or 1) for n, _, w in
                   (text.partition("=") for text in MINIVIT["losses"])}  # fmt: skip
        whole = sum(weights[name] * float(value) for name, value in terms.items())
        assert line["loss"] == pytest.approx(whole, rel=1e-5)
    sandwich = learn(
        tmp_path / "sandwich", data, KINDS["sandwich"], teacher=teacher,
        recipe=replace(RECIPE, law="sandwich"),
    )  # fmt: skip
    kinds = {name for line in sandwich.log for name in line if name.startswith("loss: ")}
    assert kinds == {"loss: divergence", "loss: relations"}
    alone = learn(tmp_path / "alone", data, {}, teacher=teacher)
    assert not any(name.startswith("loss: ") for line in alone.log for name in line)


def test_a_teacher_helps(data: Dataset, tmp_path: Path) -> None:
    """Taught by an oracle's soft answers alone, a student that sees no label learns the labels.

    The oracle is a rule: no parameters, no buffers.
    """

    class Oracle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            part = data.train
            (batch,) = ordered_batches(part, len(part))
            self.images, self.labels = batch.images, batch.labels

        def forward(self, x: Tensor) -> Tensor:
            near = torch.cdist(x.flatten(1), self.images.flatten(1)).argmin(1)
            return 8.0 * nn.functional.one_hot(self.labels[near], 10)

    recipe = replace(RECIPE, epochs=40, aug="none", val_interval=40)
    oracle = Teacher.of(Oracle(), "oracle")
    made = learn(tmp_path / "run", data, {}, recipe=recipe, teacher=oracle)
    first, last = (float(line["train_accuracy"]) for line in (made.log[0], made.log[-1]))
    assert first < 0.3 < 0.5 < last
    assert not oracle.network.training, "the report has scored it"


# Runs.


KINDS: dict[str, dict[str, Any]] = {
    "teacher": {},
    "minivit": MINIVIT,
    "store": STORED,
    "sandwich": {"losses": ("divergence", "relations"), "attention": MINIVIT["attention"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_runs_are_bit_identical(
    kind: str,
    data: Dataset,
    teacher: Teacher,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped inside of an epoch and at its end, and gone on with, though the store grew."""
    recipe = replace(RECIPE, law="sandwich") if kind == "sandwich" else RECIPE
    grown = tmp_path / "store"

    def run(folder: Path) -> None:
        stored = Replay(grown, epochs=2) if grown.exists() else Replay(store)
        who = {"stored": stored} if kind == "store" else {"teacher": teacher}
        learn(folder, data, KINDS[kind], recipe=recipe, **who)

    run(tmp_path / "whole")
    if kind == "store":
        shutil.copytree(store, grown)
        write_store(grown, teacher, data, Replay(store).about, epochs=3)
        with pytest.raises(SpaceError, match="holds another run"):
            learn(tmp_path / "whole", data, STORED, stored=Replay(grown))
        with pytest.raises(SpaceError, match="3 epochs are finished, 4 are to be read"):
            Replay(grown, epochs=4)
    stopped_and_gone_on_with(run, tmp_path / "parts", monkeypatch, 1, 5)
    assert fingerprint(tmp_path / "parts") == fingerprint(tmp_path / "whole")


def test_a_run_is_of_its_lesson(data: Dataset, teacher: Teacher, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    learn(folder, data, {}, teacher=teacher)
    for settings, who in (
        ({"losses": ("divergence",)}, teacher),
        ({"temperature": 2.0}, teacher),
        ({}, a_teacher(2)),
    ):
        with pytest.raises(SpaceError, match="holds another run"):
            learn(folder, data, settings, teacher=who)
    with pytest.raises(SpaceError, match="holds another run"):
        train(student(), data, RECIPE, folder, seed=3)


def test_processes_share_a_lesson_and_its_report(
    data: Dataset, teacher: Teacher, store: Path, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, epochs=1, shards=2)
    settings = {**MINIVIT, "losses": ("soft_labels", "relations", "hidden_relations=0.1")}

    def taught(rank: int, names: Sequence[str] = ("two", "ddp")) -> None:
        for name in names:
            by = replace(recipe, reduce="ddp" if name == "ddp" else "explicit")
            who = {"teacher": teacher, "stored": Replay(store)}
            learn(tmp_path / name, data, settings, recipe=by, **who)

    assert run_together(2, taught) == [0, 0]
    taught(0, ("one",))
    for name in ("two", "ddp"):
        assert fingerprint(tmp_path / name) == fingerprint(tmp_path / "one"), name
    assert "student: " in (tmp_path / "two" / "report.html").read_text()


# Bad records.


def damaged(store: Path, folder: Path) -> Path:
    """A copy with one bit of epoch 1 flipped: all of its samples are in one block."""
    shutil.copytree(store, folder)
    place = epoch_folder(folder, 1) / "shard-0-00000.safetensors"
    content = bytearray(place.read_bytes())
    records, _ = Replay(store).read(1, Replay(store)._open(1).ids[:1])
    at = content.index(records.probabilities.tobytes())
    content[at] ^= 1
    place.write_bytes(content)
    return folder


def without(store: Path, folder: Path, data: Dataset, teacher: Teacher, lost: int) -> Path:
    """A store in which some samples have no record in epoch 1."""
    from spacelang.backends.torch.distillation.logits.store import begin, read_record
    from spacelang.backends.torch.distillation.logits.writer import StoreWriter, finish

    about, _ = read_record(store)
    asked = Asked(teacher, data.train, about)
    begin(folder, about, data.train)
    for epoch in (0, 1):
        with StoreWriter(folder, epoch=epoch, contents=about.contents) as writer:
            for number in asked.chunks:
                records = asked.chunk(epoch, number)
                writer.add(records.take(slice(lost * epoch * (number == 0), None)))
        finish(folder, epoch=epoch)
    return folder


def test_recomputed_records_are_those_that_were_lost(
    data: Dataset, teacher: Teacher, store: Path, tmp_path: Path
) -> None:
    learn(tmp_path / "whole", data, STORED, stored=Replay(store))
    bad = damaged(store, tmp_path / "bad")
    asked = Asked(teacher, data.train, Replay(store).about)
    replay = Replay(bad, on_bad="recompute", asked=asked)
    learn(tmp_path / "again", data, STORED, stored=replay, teacher=teacher)
    assert replay.bad == 100
    assert fingerprint(tmp_path / "again") == fingerprint(tmp_path / "whole")


def test_skipped_records_are_left_out(
    data: Dataset, teacher: Teacher, store: Path, tmp_path: Path
) -> None:
    thin = without(store, tmp_path / "thin", data, teacher, 7)
    replay = Replay(thin, on_bad="skip")
    made = learn(tmp_path / "run", data, STORED, stored=replay)
    assert replay.bad == 7
    assert len(made.log) == 3
    trainer = trainer_of(data, STORED, stored=Replay(thin, on_bad="skip"))
    seen = [trainer.step(plan_of(trainer, step)).total for step in range(3, 6)]
    assert sum(seen) == 100 - 7, "what is left out is no wrong answer"
    with pytest.raises(SpaceError, match="no image of step 3 has a record"):
        learn(
            tmp_path / "none",
            data,
            STORED,
            stored=Replay(damaged(store, tmp_path / "bad"), on_bad="skip"),
        )


def test_skipping_in_shards_is_refused(data: Dataset, store: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, shards=2)
    with pytest.raises(SpaceError, match="images cannot be skipped") as failed:
        learn(tmp_path / "run", data, STORED, recipe=recipe, stored=Replay(store, on_bad="skip"))
    assert failed.value.diagnostics[0].code == "SP708"
    assert not (tmp_path / "run").exists()


def test_bad_records_stop_a_run_by_default_which_may_recompute_them(
    data: Dataset, teacher: Teacher, store: Path, tmp_path: Path
) -> None:
    bad = damaged(store, tmp_path / "bad")
    with pytest.raises(SpaceError, match="its block is damaged") as failed:
        learn(tmp_path / "run", data, STORED, stored=Replay(bad))
    assert "recompute" in str(failed.value.diagnostics[0])
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 1  # epoch 0 is whole
    asked = Asked(teacher, data.train, Replay(store).about)
    with pytest.raises(SpaceError, match="holds another run"):
        learn(tmp_path / "run", data, STORED, stored=Replay(bad, on_bad="skip"))
    again = Replay(bad, on_bad="recompute", asked=asked)
    learn(tmp_path / "run", data, STORED, stored=again, teacher=teacher)
    learn(tmp_path / "whole", data, STORED, stored=Replay(store))
    assert fingerprint(tmp_path / "run") == fingerprint(tmp_path / "whole")


# What is refused before any work starts.


def test_stores_of_something_else(
    data: Dataset, teacher: Teacher, store: Path, tmp_path: Path
) -> None:
    less = replace(data, classes=data.classes[:-1])
    other = replace(data, split_digest="other")
    cases: list[tuple[str, Callable[[], object]]] = [
        ("teacher_digest", lambda: learn(tmp_path / "r", data, STORED, stored=Replay(store),
                                         teacher=a_teacher(2))),
        ("aug: digits there, photos here", lambda: learn(
            tmp_path / "r", data, STORED, stored=Replay(store), recipe=replace(RECIPE, aug="photos"))),
        ("data_digest", lambda: learn(tmp_path / "r", other, STORED, stored=Replay(store))),
        ("9 classes", lambda: learn(tmp_path / "r", less, STORED, stored=Replay(store))
         if less.classes != data.classes else None),
    ]  # fmt: skip
    for words, attempt in cases:
        with pytest.raises(SpaceError) as failed:
            attempt()
        assert words in str(failed.value) + str(failed.value.diagnostics[0].notes), words
    assert not (tmp_path / "r").exists()


def test_a_truncated_shard_is_told_at_once(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "cut")
    place = epoch_folder(tmp_path / "cut", 1) / "shard-0-00000.safetensors"
    place.write_bytes(place.read_bytes()[:-1])
    for on_bad in ("error", "skip"):
        with pytest.raises(SpaceError, match="is damaged: it has"):
            Replay(tmp_path / "cut", on_bad=on_bad)


def test_other_images_here_than_there_are_told(
    data: Dataset, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that warps in another way: the images are not those that were asked about."""
    from spacelang.backends.torch.data import augment

    real = augment.functional.grid_sample
    monkeypatch.setattr(
        augment.functional, "grid_sample", lambda x, grid, **how: real(x, grid + 0.02, **how)
    )
    with pytest.raises(SpaceError, match="gives other images here"):
        learn(tmp_path / "run", data, STORED, stored=Replay(store))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"losses": ("relations",), "attention": ("layers[0].mlp = layers[0].attn.qkv",)},
         "not \\[.., tokens, 3"),
        ({"losses": ("relations",), "attention": ("nowhere = layers[0].attn.qkv",)}, "SP504.*nowhere"),
        ({"losses": ("relations",), "attention": ("layers[0].attn.qkv = nowhere",)}, "SP504.*nowhere"),
        ({"losses": ("relations",), "attention": MINIVIT["attention"], "heads": 3}, "relation heads"),
        ({"losses": ("hidden_relations",), "hidden": ("stem = layers[0]:from=1",)}, "other tokens"),
    ],
)  # fmt: skip
def test_pairs_that_do_not_fit(
    settings: dict[str, Any], says: str, data: Dataset, teacher: Teacher, tmp_path: Path
) -> None:
    with pytest.raises(SpaceError, match=says):
        learn(tmp_path / "run", data, settings, teacher=teacher)
    assert not (tmp_path / "run").exists()


def test_teachers_that_do_not_fit(data: Dataset, tmp_path: Path) -> None:
    cases = (
        (a_teacher(classes=7), "tells 7 classes apart, the student 10"),
        (Teacher.of(nn.Sequential(nn.Flatten(), nn.Linear(99, 10)), "flat"), "cannot take images"),
    )
    for who, says in cases:
        with pytest.raises(SpaceError, match=says):
            learn(tmp_path / "run", data, {}, teacher=who)
    with pytest.raises(SpaceError, match="no teacher to ask"):
        learn(tmp_path / "run", data, {})
    with pytest.raises(SpaceError, match="reads a store"):
        learn(tmp_path / "run", data, STORED, teacher=a_teacher())
    assert not (tmp_path / "run").exists()


# Teachers by name.


def test_runs_and_their_networks_teach(data: Dataset, tmp_path: Path) -> None:
    from spacelang.backends.torch.subnets.subnet import write_subnet

    trained = train(student(), data, RECIPE, tmp_path / "run", seed=3)
    smallest = student().decisions.extreme("smallest")
    images = next(iter(ordered_batches(data.validation, 8))).images
    answers: dict[str, Tensor] = {}
    for name, options in (("largest", {}), ("smallest", {"arch": smallest})):
        who = open_teacher(str(tmp_path / "run"), data, **options)
        answers[who.digest] = who.logits(images)
        trained.model.activate(student().decisions.extreme(name))
        assert torch.equal(who.logits(images), trained.model(images))
    write_subnet(trained.model, smallest, tmp_path / "net")
    net = open_teacher(str(tmp_path / "net"), data)
    torch.testing.assert_close(net.logits(images), answers[who.digest])
    assert len({*answers, net.digest}) == 3
    assert open_teacher(str(tmp_path / "net"), data).digest == net.digest


def test_a_digest_is_of_all_that_answers_depend_on() -> None:
    def of(scale: float = 1.0, **more: Any) -> str:
        layer = nn.Linear(3, 2)
        for parameter in layer.parameters():
            nn.init.constant_(parameter, scale)
        return Teacher.of(layer, "x", **more).digest

    assert of() == of()
    others = {of(2.0), of(about={"a": 1}), of(seen=((0.5,), (0.5,)))}
    assert len({of(), *others}) == 4


def test_teachers_of_timm(data: Dataset, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    name = "timm:resnet10t"
    with pytest.raises(SpaceError, match="it would teach noise"):
        open_teacher(name, data)
    with pytest.raises(SpaceError, match="made for images of 3 channels"):
        open_teacher(name, data, untrained=True)
    who = open_teacher(name, data, untrained=True, norm="data")
    torch.manual_seed(5)
    model = timm.create_model("resnet10t", num_classes=10, in_chans=1).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    given = open_teacher(name, data, weights=str(tmp_path / "w.safetensors"), norm="data")
    images = next(iter(ordered_batches(data.validation, 4))).images
    with torch.no_grad():
        assert torch.equal(given.logits(images), model(images))
    assert given.digest != who.digest
    other = timm.create_model("resnet10t", num_classes=7, in_chans=1)
    save_file(other.state_dict(), tmp_path / "w7.safetensors")
    with pytest.raises(SpaceError, match="not those of timm:resnet10t") as failed:
        open_teacher(name, data, weights=str(tmp_path / "w7.safetensors"), norm="data")
    assert "mis-shaped  fc.weight: [7, 512], not [10, 512]" in failed.value.diagnostics[0].notes
    for spec, says in (
        ("timm:nothing", "no model nothing"),
        ("timm:xcit_nano_12_p16_224", "cannot be made for images"),
        (str(tmp_path), "is no teacher"),
    ):
        with pytest.raises(SpaceError, match=says):
            open_teacher(spec, data, untrained=spec.startswith("timm"))


def test_a_network_that_cannot_take_the_images(data: Dataset) -> None:
    class Halves(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, : 10 // (images.shape[-1] // 16)]

    who = Teacher.of(Halves(), "halves")
    about = About.of(who.name, who.digest, data, "digits", seed=9, k=4)
    with pytest.raises(SpaceError, match="halves cannot take images"):
        write_store("nowhere", who, data, about, epochs=1)
    with pytest.raises(SpaceError, match=r"halves cannot take images \[1, 8, 8\]"):
        trainer_of(data, {"losses": ("soft_cross_entropy",)}, teacher=who)


def test_a_teacher_sees_images_in_its_own_way(data: Dataset) -> None:
    seen = ((0.25,), (0.5,))
    who = Teacher.of(nn.Flatten(), "raw", seen=seen, data=data)
    (batch,) = ordered_batches(data.train, len(data.train))
    pixels = data.train.images.float() / 255
    torch.testing.assert_close(who.see(batch.images), (pixels - 0.25) / 0.5)


def test_a_teacher_that_moved_sees_images_where_it_is(data: Dataset) -> None:
    """Whoever holds it: the trainer moves the network, the report asks the teacher it was given."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    who = Teacher.of(network, "own", seen=((0.25,), (0.5,)), data=data)
    moved = who.to("meta")
    images = torch.empty(2, 1, 8, 8, device="meta")
    for one in (who, moved):
        assert one.logits(images).device == one.as_module()(images).device == images.device


def test_settings_of_a_lesson_are_in_the_record(data: Dataset, store: Path, tmp_path: Path) -> None:
    learn(tmp_path / "run", data, STORED, stored=Replay(store))
    record = json.loads((tmp_path / "run" / "run.json").read_text())["distillation"]
    assert record["losses"] == ["soft_labels", "cross_entropy=0.5"]
    assert record["epochs"] == 2
    assert "on_bad" not in record, "records asked again are those that were written"
    assert record["store"]["seed"] == 9


def test_layers_that_are_compared_run_fused_unless_a_kernel_holds_them() -> None:
    pytest.importorskip("triton")
    from spacelang.backends.torch.lowering.kernels import PlainWarning, with_kernels

    model, images = a_teacher().network, torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    assert isinstance(model, Supernet)
    paths, inside = ["layers[0].attn.qkv", "layers[1]"], "layers[0].mlp.fc1"
    wanted = taps(model, [*paths, inside], images)
    with with_kernels(required=True):
        fused = Supernet(model.graph).eval()
        fused.load_state_dict(model.state_dict())
        found = taps(fused, paths, images)
        with pytest.raises(SpaceError, match=r"gives layers\[0\].mlp.fc1, which a kernel does not"):
            taps(fused, [inside])
    with with_kernels(), pytest.warns(PlainWarning, match="node by node"):
        found |= taps(fused, [inside], images)
    for path, value in wanted.items():
        assert (found[path] - value).abs().max() <= 1e-5 * value.abs().max(), path


def test_networks_have_statistics_of_their_own(
    data: Dataset, teacher: Teacher, tmp_path: Path
) -> None:
    """The report agrees with the log, and a run that recalibrates teaches so."""
    text = SPACE.replace("default linear", "default batch_norm(momentum: 0.5)\ndefault linear", 1)
    text = text.replace("|> tokens", "|> batch_norm as bn |> tokens")
    graph = spacelang.load(Source("<digits>", text))
    recipe = replace(RECIPE, epochs=1, val_interval=1, recalibrate=50)
    run = tmp_path / "run"
    made = learn(run, data, {}, graph=graph, recipe=recipe, teacher=teacher)
    share = made.log[-1]["validation_accuracy"]
    assert isinstance(share, float)
    right = round(share * len(data.validation))
    largest = graph.decisions.extreme("largest")
    shown = f"largest student: {right:,} of {len(data.validation):,} validation images right"
    assert shown in (run / "report.html").read_text()
    images = next(iter(ordered_batches(data.validation, 8))).images
    model = made.model.activate(largest)
    mixed = model(images)
    calibrate(model, largest, data, 50)
    who = open_teacher(str(run), data)
    assert torch.equal(who.logits(images), model(images))
    assert not torch.equal(mixed, model(images))
