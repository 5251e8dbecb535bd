"""Training and search runs on a tiny space: exact resume, recipes, failures, folders, signals."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from unreliable import Unreliable, calls_of, full, install

import spacelang
from spacelang.backends.torch.data.datasets import Dataset, first_samples, open_data
from spacelang.backends.torch.runs import interrupt as interrupts
from spacelang.backends.torch.runs import progress as reporters
from spacelang.backends.torch.runs import run as run_folder
from spacelang.backends.torch.runs.interrupt import Interrupt, Interrupted
from spacelang.backends.torch.runs.progress import Bars, Lines, progress
from spacelang.backends.torch.runs.run import (
    Log,
    RunFolder,
    preflight,
    read_graph,
    read_log,
    read_record,
)
from spacelang.backends.torch.searching.search import search
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training import trainer as trainer_module
from spacelang.backends.torch.training import training
from spacelang.backends.torch.training.evaluate import evaluate, evaluate_test, score
from spacelang.backends.torch.training.nonfinite import NonFiniteGuard, NotFinite, policy_of
from spacelang.backends.torch.training.optimizers import parameter_groups
from spacelang.backends.torch.training.recipe import Recipe, recipe_from
from spacelang.backends.torch.training.trainer import TorchTrainer
from spacelang.backends.torch.training.training import load_trained, train
from spacelang.diagnostics import Source, SpaceError, error
from spacelang.engines.baselines import Extreme, RandomSearch
from spacelang.engines.begun import begun
from spacelang.engines.evolution import Evolution
from spacelang.engines.paths import Plans, SinglePath
from spacelang.engines.protocol import EpochEnded, Forward, LossTerm, Samples, StepPlan
from spacelang.files import Lock, Locked, atomic_write
from spacelang.ir.graph import Graph
from spacelang.journal import read_journal
from spacelang.passes.specialize import specialize

SPACE = """
use vit
default linear(init: trunc_normal(0.1), bias_init: 0)
default parameter(init: trunc_normal(0.1))
space digits {
  input x: [B, 1, 8, 8]
  choose width in {8, 12}
  choose depth in 1..2
  block layer(x: [B, N, C], drop) -> [B, N, C] {
    choose ratio in {1, 2}
    return x + (layer_norm(x) as norm |> mlp(C * ratio) as mlp |> drop_path(drop))
  }
  x = patch_embed(x, width, patch: 4) as stem |> tokens |> add_positions as _
  for i in 0..<depth { x = layer(x, drop: 0.25 * i) }
  output mean(x, axes: [1]) |> linear(10) as head
  weights { _: entangle }
}
"""


@pytest.fixture(scope="module")
def graph() -> Graph:
    return spacelang.load(Source("<digits>", SPACE))


@pytest.fixture(scope="module")
def data() -> Dataset:
    """The digits, few of them: 200 to train on."""
    whole = open_data("digits")
    return replace(
        whole,
        train=first_samples(whole.train, 200),
        validation=first_samples(whole.validation, 120),
    )


RECIPE = Recipe(
    epochs=4, batch_size=48, lr=3e-3, warmup_epochs=1, aug="digits", model_ema=True, val_interval=2
)


def fingerprint(folder: Path) -> dict[str, object]:
    """Everything a run leaves that must not depend on how often it was stopped."""
    lines = [entry for entry in read_log(folder)]
    files = sorted(folder.glob("checkpoint-*.safetensors"))
    return {
        "log": lines,
        "summary": (folder / "summary.csv").read_text(),
        "checkpoint": hashlib.sha256(files[-1].read_bytes()).hexdigest(),
    }


@pytest.fixture(scope="module")
def whole(graph: Graph, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "train"
    train(graph, data, RECIPE, folder, seed=3)
    return folder


class Dies(Exception):
    """The process is gone."""


def test_a_run_leaves_its_record(whole: Path, graph: Graph, data: Dataset) -> None:
    log = read_log(whole)
    assert [entry["epoch"] for entry in log] == [1, 2, 3, 4]
    assert [entry["step"] for entry in log] == [5, 10, 15, 20]
    assert ["validation_accuracy" in entry for entry in log] == [False, True, False, True]
    assert all(0 < entry["loss"] < 4 for entry in log)
    record = read_record(whole)
    assert record["kind"] == "training"
    assert record["seed"] == 3
    assert record["recipe"]["batch_size"] == 48
    assert "torch" in record["made_with"]
    trained = load_trained(graph, data, whole)
    assert trained.steps == 20
    assert not trained.model.training
    assert len(trained.log) == 4
    assert (whole / "summary.csv").read_text().splitlines()[0].startswith("epoch,step,loss")


@pytest.mark.parametrize("stops", [[5], [10, 15], [3], [7, 8, 12], [19]])
def test_resumed_runs_are_bit_identical(
    stops: list[int],
    whole: Path,
    graph: Graph,
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped by a signal after any step and taken up again: weights, moments, average, log."""
    folder = tmp_path / "train"
    original = TorchTrainer.step
    for stop in stops:

        def step(self, plan, stop=stop):
            metrics = original(self, plan)
            if self.taken == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return metrics

        monkeypatch.setattr(TorchTrainer, "step", step)
        with pytest.raises(Interrupted) as stopped:
            train(graph, data, RECIPE, folder, seed=3)
        assert stopped.value.code == 143
        assert read_log(folder) == read_log(whole)[: stop // 5]
        monkeypatch.setattr(TorchTrainer, "step", original)
    train(graph, data, RECIPE, folder, seed=3)
    assert fingerprint(folder) == fingerprint(whole)


@pytest.mark.parametrize("where", ["log", "checkpoint", "step"])
def test_a_lost_end_is_repeated_exactly(
    where: str,
    whole: Path,
    graph: Graph,
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Death right after the log was written, after the checkpoint was, or in the next epoch."""
    folder = tmp_path / "train"

    def dying(function, at):
        calls = 0

        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            result = function(*args, **kwargs)
            if calls == at:
                raise Dies
            return result

        return call

    owner, name, at = {
        "log": (Log, "add", 2),
        "checkpoint": (TorchTrainer, "save", 2),
        "step": (TorchTrainer, "step", 13),
    }[where]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying(getattr(owner, name), at))
        with pytest.raises(Dies):
            train(graph, data, RECIPE, folder, seed=3)
    train(graph, data, RECIPE, folder, seed=3)
    assert fingerprint(folder) == fingerprint(whole)


def test_a_finished_run_is_only_read(
    whole: Path, graph: Graph, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(whole)
    monkeypatch.setattr(TorchTrainer, "step", lambda self, plan: pytest.fail("a step was taken"))
    trained = train(graph, data, RECIPE, whole, seed=3)
    assert trained.steps == 20
    assert fingerprint(whole) == before


def test_runs_depend_on_their_seed_and_settings(
    whole: Path, graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    train(graph, data, replace(RECIPE, epochs=1), tmp_path / "other", seed=4)
    assert read_log(tmp_path / "other")[0]["loss"] != read_log(whole)[0]["loss"]


def test_a_folder_takes_only_its_own_run(whole: Path, graph: Graph, data: Dataset) -> None:
    with pytest.raises(SpaceError, match=r"SP702(.|\n)*recipe.lr: 0.003 there, 0.004 here"):
        train(graph, data, replace(RECIPE, lr=4e-3), whole, seed=3)
    with pytest.raises(SpaceError, match=r"SP702(.|\n)*seed: 3 there, 5 here"):
        train(graph, data, RECIPE, whole, seed=5)
    other = RunFolder(whole, "search", {})
    with pytest.raises(SpaceError, match=r"SP702(.|\n)*kind: training there, search here"), other:
        pytest.fail("entered")


@pytest.mark.parametrize("line", [b"\xff", b"[" * 100_000, b"[]", b'{"step": true}'])
def test_a_damaged_log_is_told_by_its_line(line: bytes, whole: Path, tmp_path: Path) -> None:
    good = (whole / "log.jsonl").read_bytes().splitlines()[0]
    (tmp_path / "log.jsonl").write_bytes(good + b"\n" + line + b"\n")
    with pytest.raises(SpaceError, match=r"SP702(.|\n)*line 2 cannot be read"):
        read_log(tmp_path)


def test_a_locked_folder_is_refused(graph: Graph, data: Dataset, tmp_path: Path) -> None:
    with Lock(tmp_path), pytest.raises(Locked, match=str(os.getpid())):
        train(graph, data, RECIPE, tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_an_unfinished_run_cannot_be_searched(
    graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpaceError, match=r"run.json is missing"):
        load_trained(graph, data, tmp_path)
    original = TorchTrainer.save

    def save(self, store, state, *, epoch):
        original(self, store, state, epoch=epoch)
        raise Dies

    with monkeypatch.context() as patch:
        patch.setattr(TorchTrainer, "save", save)
        with pytest.raises(Dies):
            train(graph, data, RECIPE, tmp_path, seed=3)
    with pytest.raises(SpaceError, match="1 of 4 epochs are trained"):
        load_trained(graph, data, tmp_path)


def test_trained_on_other_images_is_refused(whole: Path, graph: Graph, data: Dataset) -> None:
    with pytest.raises(SpaceError, match="another split"):
        load_trained(graph, replace(data, split_digest="0" * 64), whole)


def test_images_must_fit_the_network(graph: Graph, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(
        SpaceError, match=r"images are \[1, 9, 9\], not \[1, 8, 8\](.|\n)*--set NAME="
    ):
        train(graph, replace(data, shape=(1, 9, 9)), RECIPE, tmp_path)
    with pytest.raises(SpaceError, match=r"has 3 classes, not 10(.|\n)*--set classes=3"):
        train(graph, replace(data, classes=("a", "b", "c")), RECIPE, tmp_path)
    assert list(tmp_path.iterdir()) == []


# Steps.


@pytest.fixture
def trainer(graph: Graph, data: Dataset) -> TorchTrainer:
    return TorchTrainer(Supernet(graph, seed=0), graph, data, RECIPE, seed=0)


def plans(trainer: TorchTrainer, count: int) -> list[StepPlan]:
    made = Plans(trainer.recipe.engine, trainer.graph, trainer.seed, trainer.steps("train"))
    return [made.at(step) for step in range(count)]


def test_no_global_randomness(trainer: TorchTrainer) -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    for plan in plans(trainer, 3):
        trainer.step(plan)
    assert torch.equal(torch.random.get_rng_state(), before)
    first = [t.clone() for t in trainer.model.state_dict().values()]
    torch.manual_seed(123)
    again = TorchTrainer(
        Supernet(trainer.graph, seed=0), trainer.graph, trainer.data, RECIPE, seed=0
    )
    for plan in plans(again, 3):
        again.step(plan)
    assert all(map(torch.equal, first, again.model.state_dict().values()))


def test_a_step_touches_its_own_architecture_only(trainer: TorchTrainer) -> None:
    """A narrow, shallow step leaves the second layer and the last columns as they were."""
    smallest = trainer.graph.decisions.extreme("smallest")
    (plan,) = plans(trainer, 1)
    before = {name: t.clone() for name, t in trainer.model.state_dict().items()}
    trainer.step(replace(plan, forwards=(Forward(smallest),)))
    after = trainer.model.state_dict()
    assert all(torch.equal(after[n], before[n]) for n in after if n.startswith("layer.1."))
    assert not torch.equal(after["head.weight"], before["head.weight"])
    gradient = trainer.model.get_parameter("head.weight").grad
    assert gradient is not None
    assert bool((gradient[:, 8:] == 0).all())


def test_unused_layers_decay_only_where_asked(graph: Graph, data: Dataset) -> None:
    shrunk = {}
    for unsampled in ("freeze", "decay"):
        recipe = replace(RECIPE, unsampled=unsampled, weight_decay=0.5, warmup_epochs=0)
        trainer = TorchTrainer(Supernet(graph, seed=0), graph, data, recipe, seed=0)
        large, small = (graph.decisions.extreme(which) for which in ("largest", "smallest"))
        first, second = plans(trainer, 2)
        trainer.step(replace(first, forwards=(Forward(large),)))
        before = trainer.model.get_parameter("layer.1.mlp.fc1.weight").detach().clone()
        trainer.step(replace(second, forwards=(Forward(small),)))
        after = trainer.model.get_parameter("layer.1.mlp.fc1.weight").detach()
        shrunk[unsampled] = not torch.equal(before, after)
    assert shrunk == {"freeze": False, "decay": True}


def test_the_average_follows(trainer: TorchTrainer) -> None:
    assert trainer.average is not None
    name = "head.weight"
    wanted = trainer.average.tensors[name].clone().double()
    for plan in plans(trainer, 3):
        trainer.step(plan)
        decay = min(0.9998, (1 + plan.step) / (10 + plan.step))
        own = trainer.model.state_dict()[name].double()
        wanted = decay * wanted + (1 - decay) * own
    assert torch.allclose(trainer.average.tensors[name].double(), wanted, atol=1e-7)
    own = trainer.model.state_dict()[name].clone()
    with trainer.averaged():
        assert torch.equal(trainer.model.state_dict()[name], trainer.average.tensors[name])
    assert torch.equal(trainer.model.state_dict()[name], own)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"forwards": (Forward({}, "evaluation"),)}, "no network evaluation"),
        ({"forwards": ()}, "no pass learns"),
        ({"losses": (LossTerm(of=1),)}, "reads no pass"),
        ({"losses": (LossTerm(against=0),)}, "reads no pass"),
        ({"losses": (LossTerm("soft_cross_entropy"),)}, "reads no pass"),
        ({"groups": ("alphas",)}, "no parameter groups"),
        ({"losses": ()}, "has no loss"),
        ({"losses": (LossTerm(), LossTerm(weight=2.0))}, "has a loss twice"),
        ({"losses": (LossTerm("magic"),)}, "no loss magic; known: cross_entropy"),
        ({"data": "test"}, "no part of the data is called test"),
    ],
)
def test_steps_that_cannot_be_taken(
    change: dict[str, object], words: str, trainer: TorchTrainer
) -> None:
    (plan,) = plans(trainer, 1)
    with pytest.raises(SpaceError, match=words):
        trainer.step(replace(plan, **change))


def test_the_gradients_of_several_passes_are_summed(trainer: TorchTrainer) -> None:
    """The sandwich rule: one update by the sum of what each pass alone would give."""
    (plan,) = plans(trainer, 1)
    drawn = [Forward(a) for a in trainer.graph.sample(2, seed=1)]
    alone: dict[str, torch.Tensor] = {}
    trainer.model.eval()  # no paths are dropped: each pass draws masks of its own
    for forward in drawn:
        trainer.optimizer.zero_grad()
        trainer._backward(replace(plan, forwards=(forward,)), trainer.feed.batch(plan))
        for name, parameter in trainer.model.named_parameters():
            if parameter.grad is not None:
                alone[name] = alone.get(name, torch.zeros_like(parameter)) + parameter.grad
    trainer.optimizer.zero_grad()
    (term,) = plan.losses
    both = replace(plan, forwards=tuple(drawn), losses=(term, replace(term, of=1)))
    trainer._backward(both, trainer.feed.batch(plan))
    for name, parameter in trainer.model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(parameter.grad, alone[name], rtol=1e-4, atol=1e-6), name


def test_a_teacher_is_read_and_does_not_learn(trainer: TorchTrainer) -> None:
    """Soft labels of another path: the loss by hand, and no gradient to what it alone uses."""
    (plan,) = plans(trainer, 1)
    largest, smallest = (trainer.graph.decisions.extreme(w) for w in ("largest", "smallest"))
    term = LossTerm("soft_cross_entropy", 1.0, {"temperature": 2.0}, against=1)
    taught = replace(
        plan, forwards=(Forward(smallest), Forward(largest, learns=False)), losses=(term,)
    )
    batch = trainer.feed.batch(taught)
    trainer.model.eval()
    trainer.optimizer.zero_grad()
    _, terms = trainer._backward(taught, batch)
    unused = [p for name, p in trainer.model.named_parameters() if name.startswith("layer.1.")]
    assert unused
    assert not any(p.grad is not None and p.grad.any() for p in unused)
    with torch.no_grad():
        logits = []
        for assignment in (smallest, largest):
            trainer.activate(assignment)
            logits.append(trainer.model(batch.images))
    student, teacher = logits
    wanted = -((teacher / 2).softmax(1) * (student / 2).log_softmax(1)).sum(1).mean() * 4
    assert terms["soft_cross_entropy"] == pytest.approx(wanted.item(), rel=1e-5)


def test_losses_are_weighted_and_smoothed(trainer: TorchTrainer) -> None:
    (plan,) = plans(trainer, 1)
    assert plan.losses[0].options == {"smoothing": 0.1}
    trainer.optimizer.zero_grad()
    doubled = replace(plan, losses=(replace(plan.losses[0], weight=2.0),))
    metrics = trainer.step(doubled)
    assert metrics.loss == pytest.approx(2 * metrics.terms["cross_entropy"])
    assert metrics.total == 48
    assert metrics.rate == pytest.approx(RECIPE.warmup_lr)


def test_clipping(graph: Graph, data: Dataset) -> None:
    recipe = replace(RECIPE, clip_grad=1e-3)
    trainer = TorchTrainer(Supernet(graph, seed=0), graph, data, recipe, seed=0)
    trainer.step(plans(trainer, 1)[0])
    norm = torch.nn.utils.get_total_norm(
        [p.grad for p in trainer.model.parameters() if p.grad is not None]
    )
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_mixed_precision_trains(graph: Graph, data: Dataset) -> None:
    trainer = TorchTrainer(Supernet(graph), graph, data, replace(RECIPE, amp=True), seed=0)
    seen = []
    handle = trainer.model.get_submodule("layer.0").register_forward_hook(
        lambda module, inputs, output: seen.append(torch.is_autocast_enabled("cpu"))
    )
    metrics = [trainer.step(plan) for plan in plans(trainer, 3)]
    handle.remove()
    assert seen
    assert all(seen)
    assert all(math.isfinite(m.loss) for m in metrics)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_not_finite_stops_and_tells(
    what: str, graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    original = trainer_module.LOSSES["cross_entropy"]

    def poisoned(logits, labels, options):
        nonlocal calls
        calls += 1
        loss = original(logits, labels, options)
        if calls != 8:
            return loss
        # The square root of zero is finite and has no finite gradient.
        return loss * float("nan") if what == "loss" else loss + (logits * 0).abs().sqrt().sum()

    monkeypatch.setattr(trainer_module, "LOSSES", {"cross_entropy": poisoned})
    folder = tmp_path / "train"
    with pytest.raises(NotFinite, match=f"SP703.*the {what} of step 7"):
        train(graph, data, RECIPE, folder, seed=3)
    facts = json.loads((folder / "nan-7.json").read_text())
    assert facts["what"] == what
    assert (facts["epoch"], facts["batch"]) == (1, 2)
    assert len(facts["samples"]) == 48
    graph.decisions.check(facts["assignment"])
    # What is on disk is the last good epoch, and with the cause gone the run goes on from there.
    assert [entry["epoch"] for entry in read_log(folder)] == [1]
    monkeypatch.undo()
    assert len(train(graph, data, RECIPE, folder, seed=3).log) == 4


def poison(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool]) -> None:
    """Make the loss of some calls not finite."""
    calls = 0
    original = trainer_module.LOSSES["cross_entropy"]

    def poisoned(logits: Tensor, labels: Tensor, options: Mapping[str, float]) -> Tensor:
        nonlocal calls
        calls += 1
        loss = original(logits, labels, options)
        return loss * float("nan") if bad(calls) else loss

    monkeypatch.setattr(trainer_module, "LOSSES", {"cross_entropy": poisoned})


def test_a_skipped_step_moves_nothing(
    trainer: TorchTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.guard = NonFiniteGuard("skip")
    first, second, third = plans(trainer, 3)
    trainer.step(first)
    before = {name: t.clone() for name, t in trainer.model.state_dict().items()}
    assert trainer.average is not None
    average = {name: t.clone() for name, t in trainer.average.tensors.items()}
    moments = copy.deepcopy(trainer.optimizer.state_dict()["state"])
    with monkeypatch.context() as patch:
        poison(patch, lambda call: True)
        metrics = trainer.step(second)
    assert (metrics.total, metrics.loss) == (0, 0.0)
    assert trainer.taken == 2
    assert all(torch.equal(before[n], t) for n, t in trainer.model.state_dict().items())
    assert all(torch.equal(average[n], t) for n, t in trainer.average.tensors.items())
    after = trainer.optimizer.state_dict()["state"]
    assert all(torch.equal(moments[i]["exp_avg"], after[i]["exp_avg"]) for i in moments)
    assert trainer.step(third).total == 48
    assert not torch.equal(before["head.weight"], trainer.model.state_dict()["head.weight"])


def test_statistics_of_a_skipped_step_are_taken_back(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = SPACE.replace("tokens |>", "batch_norm_map as bn |> tokens |>")
    block = "block batch_norm_map(x: [B, H, W, C]) -> [B, H, W, C] {\n"
    block += '  return rearrange(batch_norm(rearrange(x, "b h w c -> b c h w")) as n, "b c h w -> b h w c")\n}\n'
    graph = spacelang.load(Source("<bn>", space.replace("space digits", block + "space digits")))
    trainer = TorchTrainer(Supernet(graph), graph, data, RECIPE, seed=0)
    trainer.guard = NonFiniteGuard("skip")
    (plan,) = plans(trainer, 1)
    before = {name: t.clone() for name, t in trainer.model.named_buffers()}
    assert before
    poison(monkeypatch, lambda call: True)
    trainer.step(plan)
    assert all(torch.equal(before[n], t) for n, t in trainer.model.named_buffers())


def test_too_many_skipped_steps_stop() -> None:
    guard = NonFiniteGuard("skip")
    assert all(guard.skips(step) for step in range(0, 20, 2))
    assert not guard.skips(50)
    again = NonFiniteGuard("skip")
    again.restore(guard.state())
    assert not again.skips(60)
    assert again.skips(300)
    assert not NonFiniteGuard("error").skips(0)
    with pytest.raises(SpaceError, match=r"SP204.*ignore"):
        policy_of("ignore")


def test_skipping_is_told_and_resumed_to_the_bit(
    graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        poison(patch, lambda call: call in (3, 9))
        train(graph, data, RECIPE, tmp_path / "whole", seed=3, on_nan="skip")
    assert sorted(f.name for f in (tmp_path / "whole").glob("nan-*")) == [
        "nan-2.json",
        "nan-8.json",
    ]
    facts = json.loads((tmp_path / "whole" / "nan-8.json").read_text())
    assert (facts["what"], len(facts["samples"])) == ("loss", 48)
    assert isinstance(facts["masks"], int)
    # Stopped after the first epoch, of 5 steps, and taken up again with the same faults.
    with monkeypatch.context() as patch:
        poison(patch, lambda call: call == 3)
        patch.setattr(SinglePath, "run", _epochs(SinglePath.run, 1))
        with pytest.raises(Dies):
            train(graph, data, RECIPE, tmp_path / "parts", seed=3, on_nan="skip")
    with monkeypatch.context() as patch:
        poison(patch, lambda call: call == 4)
        train(graph, data, RECIPE, tmp_path / "parts", seed=3, on_nan="skip")
    assert fingerprint(tmp_path / "whole") == fingerprint(tmp_path / "parts")


def _epochs(run: Callable[..., Iterator[object]], count: int) -> Callable[..., Iterator[object]]:
    """An engine that dies after some epochs."""

    def stopped(*arguments: object) -> Iterator[object]:
        ended = 0
        for event in run(*arguments):
            yield event
            ended += isinstance(event, EpochEnded)
            if ended == count:
                raise Dies

    return stopped


def test_rollback_goes_on_at_half_the_rate(
    graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    original = TorchTrainer.step

    def step(self: TorchTrainer, plan: StepPlan) -> object:
        metrics = original(self, plan)
        rates.append(metrics.rate / self.recipe.rate(plan.step, self.steps("train")))
        return metrics

    monkeypatch.setattr(TorchTrainer, "step", step)
    poison(monkeypatch, lambda call: call in (2, 14))
    found = train(graph, data, RECIPE, tmp_path / "train", seed=3, on_nan="rollback")
    assert [entry["epoch"] for entry in found.log] == [1, 2, 3, 4]
    # One step of epoch 0 is lost; then those of the epoch that the second fault is in.
    assert rates == [1.0] + [0.5] * 11 + [0.25] * (len(rates) - 12)
    planned = [RECIPE.rate(last, 5) for last in (4, 9, 14, 19)]
    scales = [cast(float, e["rate"]) / rate for e, rate in zip(found.log, planned, strict=True)]
    assert scales == [0.5, 0.5, 0.25, 0.25], "the log has those that were taken"
    assert found.steps == 20
    assert all(torch.isfinite(t).all() for t in found.model.state_dict().values())


def test_a_fault_that_stays_ends_the_rollbacks(
    graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    with monkeypatch.context() as patch:
        poison(patch, lambda call: calls.append(call) is None and call > 7)
        with pytest.raises(NotFinite):
            train(graph, data, RECIPE, tmp_path / "train", seed=3, on_nan="rollback")
    assert len(calls) == 7 + 1 + 5, "it was tried five times more"
    assert len(train(graph, data, RECIPE, tmp_path / "train", seed=3).log) == 4


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_disk_that_fills_up_loses_no_epoch(
    share: float, whole: Path, graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "train"

    def run() -> object:
        return train(graph, data, RECIPE, folder, seed=3)

    count = calls_of(run)
    shutil.rmtree(folder)
    with pytest.MonkeyPatch.context() as patch:
        install(patch, Unreliable(int(share * count), full, sticky=True))
        with pytest.raises(OSError, match="No space left"):
            run()
    assert not [f.name for f in folder.iterdir() if "tmp" in f.name], "nothing is left behind"
    run()
    assert fingerprint(folder) == fingerprint(whole)


@pytest.mark.parametrize(
    "short",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
        MemoryError(),  # NumPy's and Python's own
    ],
    ids=["torch", "host"],
)
def test_out_of_memory_names_the_architecture(
    short: Exception, trainer: TorchTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise short

    (plan,) = plans(trainer, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Supernet, "forward", explode)
        with pytest.raises(SpaceError, match=r"SP703(.|\n)*width(.|\n)*--batch-size 24"):
            trainer.step(plan)
        assert [s.failure for s in trainer.probe([plan.assignment], Samples())] == ["out of memory"]

        def fail(*_: object) -> None:
            raise RuntimeError("something else")

        patch.setattr(Supernet, "forward", fail)
        with pytest.raises(RuntimeError, match="something else"):
            trainer.step(plan)
        with pytest.raises(RuntimeError, match="something else"):
            list(trainer.probe([plan.assignment], Samples()))
    assert trainer.step(plan).total == 48


# Scores.


def test_scores_count_right_answers(graph: Graph, data: Dataset) -> None:
    class Always(torch.nn.Module):
        def __init__(self, answer: int) -> None:
            super().__init__()
            self.answer = torch.nn.Parameter(torch.tensor(float(answer)))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            one_hot = torch.nn.functional.one_hot(self.answer.long(), 10).float()
            return one_hot.expand(len(images), 10)

    for digit in (0, 7):
        found = evaluate(Always(digit), data.validation, batch_size=50)
        assert found.correct == int((data.validation.labels == digit).sum())
        assert found.total == 120
    assert evaluate_test(Always(3), data).total == data.counts["test"]
    broken = Always(1)
    broken.forward = lambda images: torch.full((len(images), 10), float("nan"))
    assert evaluate(broken, data.validation).failure == "its outputs are not finite"


def test_scoring_changes_nothing(trainer: TorchTrainer) -> None:
    trainer.model.train()
    before = {n: t.clone() for n, t in trainer.model.state_dict().items()}
    assignments = trainer.graph.sample(3, 0)
    once = list(trainer.probe(assignments, Samples("validation", 60)))
    assert [s.total for s in once] == [60] * 3
    assert once == list(trainer.probe(assignments, Samples("validation", 60)))
    assert trainer.model.training
    assert all(torch.equal(before[n], t) for n, t in trainer.model.state_dict().items())


def test_probe_equals_the_extracted_network(trainer: TorchTrainer) -> None:
    for plan in plans(trainer, 6):
        trainer.step(plan)
    (assignment,) = trainer.graph.sample(1, 5)
    (found,) = trainer.probe([assignment], Samples())
    with trainer.averaged():
        subnet = trainer.model.extract(assignment)
    assert evaluate(subnet, trainer.data.validation) == found


# Searches.


def test_search_over_a_trained_supernet(
    whole: Path, graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = load_trained(graph, data, whole)
    engine = Evolution(
        generations=2, population=4, parents=2, mutants=2, crossovers=1, where="params <= 700"
    )
    folder = tmp_path / "search"
    found = search(engine, graph, trained, data, folder, seed=1)
    record = json.loads((folder / "evolution.json").read_text())
    assert record["evaluated"] == len(record["candidates"]) == len(found.candidates)
    assert record["settings"]["where"] == "params <= 700"
    assert all(c["params"] <= 700 for c in record["candidates"])
    trained.model.activate(found.found.best.assignment)
    assert evaluate(trained.model, data.validation) == found.found.best.score
    lines = len(read_journal(folder / "scores.jsonl").entries)
    again = search(engine, graph, trained, data, folder, seed=1)
    assert again == found
    assert len(read_journal(folder / "scores.jsonl").entries) == lines
    search(Extreme("largest"), graph, trained, data, folder)
    search(RandomSearch(3), graph, trained, data, folder)
    assert (folder / "random.json").exists()
    with pytest.raises(SpaceError, match=r"SP702(.|\n)*weights"):
        search(engine, graph, replace(trained, weights="0" * 64), data, folder, seed=1)


@pytest.mark.parametrize("code", ["SP502", "SP507", "SP508", "SP701", "SP703", "SP702"])
@pytest.mark.parametrize("baseline", [RandomSearch, Extreme])
def test_a_search_stands_without_a_baseline(
    code: str, baseline: type[Any], whole: Path, graph: Graph, data: Dataset, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def run(self: object, space: object, trainer: object, seed: int) -> Any:
        raise SpaceError(error(code, "there is none"))
        yield

    monkeypatch.setattr(baseline, "run", run)
    engine = Evolution(generations=1, population=4, parents=2, mutants=1, crossovers=1)
    trained, folder = load_trained(graph, data, whole), tmp_path / "search"
    if code == "SP702":  # which says nothing of the space
        with pytest.raises(SpaceError, match="there is none"):
            search(engine, graph, trained, data, folder, seed=1, baselines=True)
        return
    found = search(engine, graph, trained, data, folder, seed=1, baselines=True)
    names = {other.engine.name for other in found.baselines}
    assert names == {"random", "extreme"} - {baseline.name}
    assert {path.stem for path in folder.glob("*.json")} >= {"evolution", *names}


def test_a_folder_notes_each_search_when_it_is_begun(
    whole: Path, graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a folder that is there, and not where that is of other scores."""
    trained, folder = load_trained(graph, data, whole), tmp_path / "search"
    search(RandomSearch(3), graph, trained, data, folder)
    noted = (folder / "begun.json").read_text()
    with pytest.raises(SpaceError, match="SP702"):
        search(Extreme(), graph, replace(trained, weights="0" * 64), data, folder)
    assert (folder / "begun.json").read_text() == noted
    (folder / "scores.jsonl").write_text("damaged\n" * 2)
    with pytest.raises(SpaceError, match="SP702"):
        search(Extreme(), graph, trained, data, folder)
    assert begun(folder).keys() == {"random", "extreme"}


def test_a_report_reads_no_json_that_is_no_record(
    whole: Path, graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    trained, folder = load_trained(graph, data, whole), tmp_path / "search"
    search(RandomSearch(3), graph, trained, data, folder)
    before = (folder / "report.html").read_text()
    for name, text in (("deep", "[" * 100_000), ("list", "[]"), ("text", "{")):
        (folder / f"{name}.json").write_text(text)
    search(RandomSearch(3), graph, trained, data, folder)
    assert (folder / "report.html").read_text() == before


def test_a_candidate_out_of_memory_stops_no_search(
    whole: Path, graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = load_trained(graph, data, whole)
    engine = Evolution(generations=3, population=5, parents=3, mutants=2, crossovers=1)
    original = Supernet.forward

    def forward(self: Supernet, *inputs: Tensor) -> object:
        if self.assignment["width"] == 12:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(self, *inputs)

    monkeypatch.setattr(Supernet, "forward", forward)
    found = search(engine, graph, trained, data, tmp_path, seed=1)
    failed = [c for c in found.candidates if c.score.failure]
    assert {c.score.failure for c in failed} == {"out of memory"}
    assert {c.assignment["width"] for c in failed} == {12}
    assert found.found.best.assignment["width"] == 8
    assert all(c.assignment["width"] == 8 for c in found.found.front)
    lines = read_journal(tmp_path / "scores.jsonl").entries
    assert search(engine, graph, trained, data, tmp_path, seed=1) == found
    assert read_journal(tmp_path / "scores.jsonl").entries == lines, "failures are not tried again"


def test_a_stopped_search_goes_on(
    whole: Path, graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = load_trained(graph, data, whole)
    engine = Evolution(generations=2, population=4, parents=2, mutants=2, crossovers=1)
    original = TorchTrainer.probe
    asked = []

    def probe(self, assignments, samples) -> Iterator[object]:
        for assignment in assignments:
            asked.append(assignment)
            if len(asked) == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield from original(self, [assignment], samples)

    monkeypatch.setattr(TorchTrainer, "probe", probe)
    with pytest.raises(Interrupted) as stopped:
        search(engine, graph, trained, data, tmp_path / "a", seed=1)
    assert stopped.value.code == 130
    first = len(asked)
    resumed = search(engine, graph, trained, data, tmp_path / "a", seed=1)
    total = len(asked)
    monkeypatch.undo()
    assert resumed == search(engine, graph, trained, data, tmp_path / "b", seed=1)
    assert first == 3
    assert total == resumed.found.evaluated


# Recipes.


def test_learning_rates_are_the_published_ones() -> None:
    """AutoFormer's 500 epochs, base 1e-3; its scheduler lags one epoch behind."""
    recipe = Recipe(epochs=500, lr=1e-3, warmup_epochs=20, sched_on_updates=False)
    published = {0: 1e-6, 1: 5.095e-5, 19: 9.50050e-4, 20: 9.960968e-4, 99: 9.072836e-4}
    published |= {249: 5.081102e-4, 498: 1.003908e-5}
    for epoch, rate in published.items():
        assert recipe.rate(epoch * 40, 40) == recipe.rate(epoch * 40 + 39, 40)
        assert recipe.rate(epoch * 40, 40) == pytest.approx(rate, rel=2e-6)
    smooth = replace(recipe, sched_on_updates=True)
    rates = [smooth.rate(step, 40) for step in range(20 * 40)]
    assert rates == sorted(rates)
    assert len(set(rates)) == len(rates)
    assert replace(recipe, sched="constant").rate(10**5, 40) == 1e-3


@pytest.mark.parametrize(
    ("address", "no_decay", "with_decay", "without"),
    [
        ("autoformer.space:autoformer_t", "pos_embed,cls_token", (114, 11_570_176), (118, 99_048)),
        ("tinyvit.space:tinyvit_5m", "attention_biases", (68, 5_349_888), (147, 42_876)),
        (
            "minivit.space:mini_swin_t",
            "relative_position_bias_table",
            (57, 11_941_812),
            (140, 59_953),
        ),
    ],
)
def test_decay_groups_are_the_published_ones(
    address: str, no_decay: str, with_decay: tuple[int, int], without: tuple[int, int]
) -> None:
    """Tensors and their elements; the labels are what the pages say."""
    graph = spacelang.load(address)
    model = Supernet(graph)
    decayed, spared = parameter_groups(model, graph, recipe_from({"no_decay": no_decay}))
    counted = [(len(g["params"]), sum(p.numel() for p in g["params"])) for g in (decayed, spared)]
    assert counted == [with_decay, without]
    assert spared["weight_decay"] == 0.0


def test_recipes_are_read_strictly() -> None:
    assert recipe_from(RECIPE.as_json()) == RECIPE
    assert recipe_from({"epochs": "3", "clip_grad": "1.5", "opt_betas": "0.9, 0.95"}) == Recipe(
        epochs=3, clip_grad=1.5, opt_betas=(0.9, 0.95)
    )
    with pytest.raises(SpaceError, match=r"SP204(.|\n)*did you mean batch_size"):
        recipe_from({"batchsize": 3})
    with pytest.raises(SpaceError, match="SP209"):
        recipe_from({"law": "gravity"})
    with pytest.raises(SpaceError, match=r"SP103(.|\n)*aug is one of none, digits, photos"):
        recipe_from({"aug": "magic"})
    with pytest.raises(SpaceError) as caught:
        Recipe(epochs=0, smoothing=1.0, opt_betas=(0.9,), clip_grad=0.0)
    assert [d.code for d in caught.value.diagnostics] == ["SP103"] * 4


# Folders, progress, signals.


def test_damaged_records_are_diagnosed(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(SpaceError, match="SP702"):
        read_record(tmp_path)
    (tmp_path / "run.json").write_text('{"format": 9}')
    with pytest.raises(SpaceError, match="not a run of this version"):
        read_record(tmp_path)
    line = '{"step": 1, "epoch": 1, "loss": 2.5}'
    (tmp_path / "log.jsonl").write_text(line + '\n{"loss"\n')
    with pytest.raises(SpaceError, match="line 2 cannot be read"):
        read_log(tmp_path)
    (tmp_path / "log.jsonl").write_text(line + "\n" + line.replace("2.5", "true") + "\n")
    with pytest.raises(SpaceError, match="line 2 cannot be read"):
        read_log(tmp_path)


@pytest.mark.parametrize("name", ["recipe", "data", "seed"])
def test_damaged_runs_are_diagnosed(
    name: str, whole: Path, graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, name: None}))
    with pytest.raises(SpaceError, match=f"SP702.* None for {name}"):
        load_trained(graph, data, folder)


def test_the_graph_is_kept_beside_the_run(whole: Path, graph: Graph, tmp_path: Path) -> None:
    assert read_graph(whole).hash == graph.hash
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    text = (folder / "graph.spaceir").read_text()
    (folder / "graph.spaceir").write_text(text.replace("{8, 12}", "{8, 10}"))
    with pytest.raises(SpaceError, match=r"SP702.*not the graph"):
        read_graph(folder)
    (folder / "graph.spaceir").unlink()
    with pytest.raises(SpaceError, match=r"SP702.*cannot be read"):
        read_graph(folder)


def test_a_fixed_network_is_trained_too(graph: Graph, data: Dataset, tmp_path: Path) -> None:
    fixed = specialize(graph, graph.decisions.extreme("largest"))
    assert not fixed.decisions
    trained = train(fixed, data, replace(RECIPE, epochs=1), tmp_path, seed=3)
    assert len(trained.log) == 1


def test_a_full_disk_is_told_before_the_first_epoch(tmp_path: Path) -> None:
    preflight(tmp_path, 1)
    with pytest.raises(OSError, match=r"1,000,000,000,000,000 bytes are needed") as failed:
        preflight(tmp_path, 10**15)
    assert failed.value.filename == str(tmp_path)


def test_progress_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("json") as told:
        told.begin("training", 3, "steps")
        told.advance(3)
        told.done(loss=0.51234567)
        told.say("hello")
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in err.splitlines()]
    assert out == ""
    assert [e["event"] for e in events] == ["begin", "done", "say"]
    assert events[1]["at"] == 3
    assert events[1]["loss"] == 0.51234567
    with progress("quiet") as told:
        told.begin("training", 3, "steps")
        told.done()
    with progress("auto") as told:
        assert isinstance(told, Lines)
        told.begin("training", 3, "steps")
        told.advance(3)
        told.done(loss=0.51234567)
    out, err = capsys.readouterr()
    assert out == ""
    assert "training: 3 of 3 steps, loss 0.5123" in err


def test_lines_say_how_long_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes on with step 4,000 at 2 s a step; then 10 s, which the pace comes to."""
    now = 1000.0
    monkeypatch.setattr(reporters, "time", SimpleNamespace(monotonic=lambda: now))
    told = Lines(reporters.WRITERS["auto"])
    told.begin("training", 10_000, "steps")
    told.advance(4_000)
    for _ in range(10):
        now += 2
        told.advance()
    told.advance(-100)  # gone back to a checkpoint
    for _ in range(30):
        now += 10
        told.advance(loss=0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "training: 4,010 of 10,000 steps, 20 s, 3:19:40 left"
    assert lines[-1] == "training: 3,940 of 10,000 steps, loss 0.5, 320 s, 16:50:00 left"
    json_lines = Lines(reporters.WRITERS["json"])
    json_lines.begin("searching", 10, "candidates")
    for _ in range(3):
        now += 25
        json_lines.advance()
    records = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [r.get("left", "none") for r in records] == ["none", None, 200.0, 175.0]


def test_progress_in_bars(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as told:
        told.begin("[bold]training", 3, "steps")
        told.advance(3, loss=0.51234567)
        told.done()
    _, err = capsys.readouterr()
    assert "[bold]training" in err
    assert "0.5123" in err


def test_a_signal_that_comes_while_one_asks_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that ask together must hear one answer: this time it is none, next time it is."""
    with Interrupt() as interrupt:

        class Ranks:
            def largest(self, number: int) -> int:
                if not interrupt.number:
                    signal.raise_signal(signal.SIGTERM)
                return number

        monkeypatch.setattr(interrupts, "current", Ranks)
        assert not interrupt.asked()
        assert interrupt.asked()
        with pytest.raises(Interrupted) as stopped:
            interrupt.check()
    assert stopped.value.code == 143


def test_the_second_signal_is_not_kept() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        interrupt.check()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted):
            interrupt.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_killed_processes_lose_nothing(
    whole: Path, graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    """SIGKILL at a random step of a forked child, three times over; then the run is finished."""
    folder = tmp_path / "train"
    original = TorchTrainer.step
    for stop in (4, 9, 16):
        child = os.fork()
        if child == 0:

            def step(self, plan, stop=stop):
                if plan.step == stop:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(self, plan)

            vars(training)["TorchTrainer"].step = step
            try:
                torch.set_num_threads(1)
                train(graph, data, RECIPE, folder, seed=3)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        assert len(read_log(folder)) == stop // 5
    train(graph, data, RECIPE, folder, seed=3)
    assert fingerprint(folder) == fingerprint(whole)


def test_a_run_has_its_settings_before_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends a process where `run.json` is written leaves `settings.json` whole."""
    written: list[str] = []

    def write(path: Path, text: str) -> None:
        written.append(Path(path).name)
        if path.name == "run.json":
            raise KeyboardInterrupt
        atomic_write(path, text)

    with monkeypatch.context() as context:
        context.setattr(run_folder, "atomic_write", write)
        with pytest.raises(KeyboardInterrupt):
            RunFolder(tmp_path, "training", {"seed": 1}, {"data": "here"}).__enter__()
    assert written == ["settings.json", "run.json"]
    assert json.loads((tmp_path / "settings.json").read_text()) == {"data": "here"}
    with RunFolder(tmp_path, "training", {"seed": 1}, {"data": "there"}):
        assert json.loads((tmp_path / "settings.json").read_text()) == {"data": "here"}
    (tmp_path / "settings.json").unlink()
    with pytest.raises(SpaceError, match="SP702"):
        RunFolder(tmp_path, "training", {"seed": 2}, {"data": "there"}).__enter__()
    assert not (tmp_path / "settings.json").exists()
    with RunFolder(tmp_path, "training", {"seed": 1}, {"data": "again"}):
        assert json.loads((tmp_path / "settings.json").read_text()) == {"data": "again"}


def test_score_needs_no_gradient(trainer: TorchTrainer) -> None:
    trainer.model.eval()
    result = score(trainer.model, trainer.feed.batches(Samples("validation", 10)))
    assert result.total == 10
    assert all(p.grad is None for p in trainer.model.parameters())


def test_a_bare_environment_will_do() -> None:
    """No home, no path, no terminal."""
    command = "import spacelang.backends.torch.training.training, spacelang.backends.torch.searching.search"
    done = subprocess.run(
        [sys.executable, "-c", command], env={"PATH": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
