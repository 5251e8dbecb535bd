"""Cream on digits: its two losses against autograd by hand, and runs that stop and go on."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command import data as answer
from command import refused
from torch import Tensor, nn
from torch.func import functional_call

import spacelang
from spacelang import plugins
from spacelang.backends.torch.data.datasets import Dataset, first_samples, open_data
from spacelang.backends.torch.runs.interrupt import Interrupted
from spacelang.backends.torch.runs.run import read_log
from spacelang.backends.torch.runs.trackers import GROUP
from spacelang.backends.torch.searching import train_and_search as own_module
from spacelang.backends.torch.searching.baselines import search_beside
from spacelang.backends.torch.searching.engine_trainer import EngineTrainer
from spacelang.backends.torch.searching.matching import (
    match,
    matched,
    matching_network,
    second_order,
)
from spacelang.backends.torch.searching.search import search
from spacelang.backends.torch.searching.train_and_search import search_own
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.nonfinite import NotFinite
from spacelang.backends.torch.training.recalibrate import StatisticsWarning
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.training import Tally, load_trained
from spacelang.diagnostics import Source, SpaceError
from spacelang.engines.prioritized_path import PrioritizedPath
from spacelang.engines.protocol import Forward, LossTerm, Metrics, Stepped, StepPlan
from spacelang.engines.replay import Answers
from spacelang.ir.graph import Graph
from spacelang.journal import Journal, read_journal

SPACE = """
space paths {
  input x: [B, 1, 8, 8]
  block layer(x: [B, C, H, W]) -> [B, C, H, W] {
    return x + choose op {
      small: conv(x, C, 3) as conv |> batch_norm as bn |> relu
      large: conv(x, C, 5) as conv |> batch_norm as bn |> relu
    }
  }
  x = conv(x, 8, 3, stride: 2) as stem |> batch_norm as bn |> relu
  for i in 0..2 { x = layer(x) as layers[i] }
  output mean(x, axes: [2, 3]) |> linear(10) as head
}
"""
RECIPE = Recipe(batch_size=60, lr=1e-2, warmup_epochs=0, model_ema=True, aug="digits")
ENGINE = PrioritizedPath(epochs=4, warm_epochs=0, board=3, update_every=2, match_lr=0.05)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return spacelang.load(Source("<paths>", SPACE))


@pytest.fixture(scope="module")
def data() -> Dataset:
    whole = open_data("digits")
    return replace(
        whole,
        train=first_samples(whole.train, 280),
        validation=first_samples(whole.validation, 100),
    )


# The losses, in float64, against formulas written out.


def small(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def softened(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross entropy against labels smoothed by hand."""
    classes = logits.shape[1]
    wanted = torch.full_like(logits, smoothing / classes)
    wanted[torch.arange(len(labels)), labels] += 1 - smoothing
    return -(wanted * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_matched_loss_and_its_gradients(sign: int) -> None:
    student, teacher, network = small(1), small(2), matching_network(12, 3).double()
    images, kept = torch.randn(7, 6).double(), torch.randn(4, 6).double()
    labels, features = torch.arange(7) % 3, torch.rand(4, 3).double().softmax(1)
    given = teacher(images).detach()
    options = {"sign": sign, "smoothing": 0.1}

    score = match(student, network, kept, features)
    found = matched(student(images), given, labels, score, options)
    parameters = [*student.parameters(), *network.parameters()]
    slopes = torch.autograd.grad(found, parameters)

    share = 1 / (
        1
        + torch.exp(
            -sign
            * (
                (network.weight * (torch.softmax(student(kept), 1) - features).reshape(1, -1)).sum()
                + network.bias[0]
            )
        )
    )
    logits = student(images)
    distilled = -(given.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    wanted = (share * distilled + (2 - share) * softened(logits, labels, 0.1)) / 2
    assert found.item() == pytest.approx(wanted.item(), abs=1e-14)
    for ours, theirs in zip(slopes, torch.autograd.grad(wanted, parameters), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-14, rtol=0)
    assert slopes[-2].abs().max() > 0, "the matching network learns"


def test_the_second_order_update_against_differences() -> None:
    """The gradient of the loss after the inner step, by central differences of the network."""
    student, teacher, network = small(1), small(2), matching_network(12, 3).double()
    torch.manual_seed(4)
    shown, judged, kept = (torch.randn(4, 6).double() for _ in range(3))
    labels, features = torch.arange(4) % 3, torch.rand(4, 3).double().softmax(1)
    given, rate = teacher(shown).detach(), 0.7
    weights = dict(student.named_parameters())
    before = {name: weight.clone() for name, weight in weights.items()}

    def run(moved: Mapping[str, Tensor], images: Tensor) -> Tensor:
        return functional_call(student, dict(moved), (images,))

    loss, slopes = second_order(
        run, weights, network, (shown, judged, labels), (kept, features), given, rate,
        {"sign": 1, "smoothing": 0.1},
    )  # fmt: skip

    def after() -> float:
        """The inner step really taken, on a copy."""
        copy = small(1)
        seen = torch.softmax(copy(kept), 1) - features
        share = torch.sigmoid((network.weight * seen.reshape(1, -1)).sum() + network.bias[0])
        taught = -share * (given.softmax(1) * copy(shown).log_softmax(1)).sum(1).mean()
        for parameter, slope in zip(
            copy.parameters(), torch.autograd.grad(taught, list(copy.parameters())), strict=True
        ):
            parameter.data -= rate * slope
        return softened(copy(judged), labels, 0.1).item()

    assert loss.item() == pytest.approx(after(), abs=1e-14)
    for parameter, slope in zip(network.parameters(), slopes, strict=True):
        flat, wanted = parameter.data.view(-1), slope.reshape(-1)
        for place in range(flat.numel()):
            own = flat[place].item()
            flat[place] = own + 1e-5
            up = after()
            flat[place] = own - 1e-5
            down = after()
            flat[place] = own
            assert wanted[place].item() == pytest.approx((up - down) / 2e-5, abs=1e-9)
    assert slopes[0].abs().max() > 1e-4
    for name, weight in weights.items():
        assert torch.equal(weight, before[name]), "the inner step is not taken"


# The trainer.


def plan(
    graph: Graph, step: int, batch: int, losses: Sequence[LossTerm], groups: tuple[str, ...]
) -> StepPlan:
    largest, smallest = (graph.decisions.extreme(w) for w in ("largest", "smallest"))
    small_path = {**smallest, "layers[1].op": "large"}
    passes = (Forward(largest), Forward(small_path, learns=False))
    return StepPlan(
        step, 0, batch, passes[: 1 + bool(losses[0].against)], tuple(losses), groups=groups
    )


def test_steps_move_what_their_groups_say(graph: Graph, data: Dataset) -> None:
    trainer = EngineTrainer(Supernet(graph, seed=0), graph, data, replace(RECIPE, epochs=1), 0)
    first = plan(graph, 0, 0, [LossTerm()], ("weights",))
    trainer.step(first)
    with pytest.raises(ValueError, match="is not the step just taken"):
        trainer.remember(0, replace(first, step=7), 0, 4)
    trainer.remember(0, first, 0, 4)
    trainer.remember(2, first, 0, 4)
    network = trainer.network
    assert network is not None
    assert torch.allclose(trainer.memory.features[0].sum(1), torch.ones(4))

    def state() -> dict[str, Tensor]:
        return {n: t.clone() for n, t in trainer.model.state_dict().items()}

    def moved(before: Mapping[str, Tensor]) -> set[str]:
        return {n for n, t in trainer.model.state_dict().items() if not torch.equal(t, before[n])}

    options = {"slot": 2, "sign": 1, "rate": 0.1, "smoothing": 0.1}
    second = plan(graph, 1, 1, [LossTerm("matching", 1.0, options, against=1)], ("match",))
    weights, own = state(), network.weight.clone()
    scores = trainer.match(second, [0, 2])
    assert scores[0] == scores[1], "the same path is remembered twice"
    assert not moved(weights), "a question moves nothing, no statistic either"
    metrics = trainer.step(second)
    assert metrics.total == 0
    assert not moved(weights)
    assert not torch.equal(network.weight, own)
    assert trainer.match(second, [0, 2]) != scores

    own = network.weight.clone()
    third = plan(graph, 2, 1, [LossTerm("matched", 1.0, options, against=1)], ("weights", "match"))
    metrics = trainer.step(third)
    assert metrics.total == 60
    assert not torch.equal(network.weight, own)
    assert {"stem.weight", "head.weight"} <= moved(weights)

    own = network.weight.clone()
    network.weight.data[0, 0] = float("inf")
    with pytest.raises(NotFinite):
        trainer.step(replace(second, step=3))
    network.weight.data.copy_(own)


def test_working_blocks_out_again_changes_no_bit(graph: Graph, data: Dataset) -> None:
    """The slopes and state after steps of both kinds, with inner values kept and without."""
    options = {"slot": 0, "sign": 1, "rate": 0.1, "smoothing": 0.1}
    plans = (
        plan(graph, 1, 1, [LossTerm("matching", 1.0, options, against=1)], ("match",)),
        plan(graph, 2, 2, [LossTerm("matched", 1.0, options, against=1)], ("weights", "match")),
    )
    found: list[dict[str, Tensor]] = []
    for again in (False, True):
        recipe = replace(RECIPE, epochs=1, model_ema=False, grad_checkpointing=again)
        trainer = EngineTrainer(Supernet(graph, seed=0), graph, data, recipe, 0)
        first = plan(graph, 0, 0, [LossTerm()], ("weights",))
        trainer.step(first)
        trainer.remember(0, first, 0, 4)
        state: dict[str, Tensor] = {}
        for one in plans:
            trainer.step(one)
            assert trainer.network is not None
            for part, module in (("model", trainer.model), ("match", trainer.network)):
                state |= {f"{one.step} {part} {n}": t for n, t in module.state_dict().items()}
                slopes = ((n, p.grad) for n, p in module.named_parameters())
                state |= {f"{one.step} slope {n}": g for n, g in slopes if g is not None}
            state = {name: tensor.clone() for name, tensor in state.items()}
        found.append(state)
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert torch.equal(found[1][name], value), name


# Runs.


def fingerprint(folder: Path) -> dict[str, object]:
    """All that must not depend on how often a run was stopped."""
    files = sorted(folder.glob("checkpoint-*.safetensors"))
    return {
        "log": read_log(folder),
        "found": json.loads((folder / "prioritized_path.json").read_text()),
        "checkpoint": hashlib.sha256(files[-1].read_bytes()).hexdigest(),
    }


@pytest.fixture(scope="module")
def whole(graph: Graph, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "cream"
    with pytest.warns(StatisticsWarning, match="--recalibrate"):
        search_own(ENGINE, graph, data, RECIPE, folder, seed=3)
    return folder


def test_a_run_learns_and_can_be_taken_from(whole: Path, graph: Graph, data: Dataset) -> None:
    log = read_log(whole)
    assert [line["epoch"] for line in log] == [1, 2, 3, 4]
    saved = [(e["step"], e["epoch"]) for e in read_journal(whole / "manifest.jsonl").entries]
    assert saved == [(line["step"], line["epoch"]) for line in log]
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["train_accuracy"] > 0.25
    # Of five steps the third and the fifth, once there is a board.
    assert [line.get("matching steps") for line in log] == [None, 2, 2, 2]
    assert [0 < line.get("loss: matching", 0) < 10 for line in log] == [False, True, True, True]
    record = json.loads((whole / "prioritized_path.json").read_text())
    assert 1 <= record["evaluated"] <= 3
    report = (whole / "report.html").read_text()
    assert "best of prioritized_path" in report
    # Epoch 1 is of uniform paths, and the board is empty.
    assert ["<td>epoch 2</td>" in report, "<td>epoch 4</td>" in report] == [True, True]
    assert "<td>epoch 1</td>" not in report
    assert "3 paths, 3 new; " in report
    trained = load_trained(graph, data, whole)
    assert trained.recipe.epochs == 4
    trained.model.activate(record["best"]["assignment"])


def test_steps_that_learn_to_match_are_counted_apart() -> None:
    """Beside a step of training, or in one; one that is left out counts for nothing."""
    tally = Tally()
    for kinds, total, terms in (
        (["matched"], 8, {"matched": 2.0}),
        (["matching"], 0, {"matching": 3.0}),
        (["matching"], 0, {}),
        (["matched", "matching"], 8, {"matched": 4.0, "matching": 6.0}),
    ):
        losses = tuple(LossTerm(kind, against=1) for kind in kinds)
        metrics = Metrics(sum(terms.values()), terms, 0, total, 0.1)
        tally.add(Stepped(StepPlan(0, 0, 0, (Forward({}),), losses), metrics))
        assert tally.means["matching steps"] == tally.matches
    assert tally.means == {"loss: matched": 3.0, "matching steps": 2, "loss: matching": 4.5}


def test_baselines_are_scored_by_the_weights_that_it_leaves(
    whole: Path, graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as of the board, and the ends: what a search of the run's weights says of them. What
    was found is there, and reported, before they begin."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    best, page = run / f"{ENGINE.name}-best.json", run / "report.html"
    kept = json.loads(best.read_text())
    best.unlink()
    page.unlink()

    def beside(*given: Any) -> Any:
        assert json.loads(best.read_text()) == kept
        assert page.exists()
        return search_beside(*given)

    place = "spacelang.backends.torch.searching.train_and_search.search_beside"
    monkeypatch.setattr(place, beside)
    made = search_own(ENGINE, graph, data, RECIPE, run, seed=3, baselines=True)
    luck, ends = made.baselines
    assert luck.found.evaluated == made.found.evaluated
    assert f"best of random, of {made.found.evaluated} scores" in page.read_text()
    assert [c.origin for c in ends.candidates] == ["largest", "smallest"]
    assert fingerprint(run) == fingerprint(whole), "nothing was trained for them"
    trained = load_trained(graph, data, run)
    for other in (luck, ends):
        again = search(other.engine, graph, trained, data, tmp_path / "again", seed=3)
        assert again.candidates == other.candidates


class Dies(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("stops", [[3], [9, 10], [12, 19], [21]])
def test_resumed_runs_are_bit_identical(
    stops: list[int],
    whole: Path,
    graph: Graph,
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Signals at some steps (counted over all lives), each followed by a life that dies later."""
    taken = [0]
    step = EngineTrainer.step

    def counting(self: EngineTrainer, wanted: StepPlan) -> object:
        taken[0] += 1
        if taken[0] in stops:
            os.kill(os.getpid(), signal.SIGTERM)
        if taken[0] in [stop + 2 for stop in stops] and taken[0] not in stops:
            raise Dies
        return step(self, wanted)

    monkeypatch.setattr(EngineTrainer, "step", counting)
    lives = 0
    while True:
        lives += 1
        try:
            search_own(ENGINE, graph, data, RECIPE, tmp_path / "run", seed=3)
            break
        except (Interrupted, Dies):
            assert lives < 10
    assert lives > 1
    assert fingerprint(tmp_path / "run") == fingerprint(whole)


def test_a_run_killed_at_every_save_goes_on(
    whole: Path, graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the answers and the checkpoint that belongs to them, and while the board is scored."""
    lives = [0]
    flush = Answers.flush

    def dying(self: Answers) -> None:
        flush(self)
        lives[0] += 1
        if lives[0] % 2:
            raise Dies

    monkeypatch.setattr(Answers, "flush", dying)
    for _ in range(20):
        try:
            search_own(ENGINE, graph, data, RECIPE, tmp_path / "run", seed=3)
            break
        except Dies:
            continue
    assert lives[0] > 6
    assert fingerprint(tmp_path / "run") == fingerprint(whole)


def test_a_score_of_a_lost_end_is_kept_where_all_comes_out_again(tmp_path: Path) -> None:
    """What stands between the checkpoint and the score is answered anew, the score is not."""
    between, asked = {"copy": ["a", "b"], "answer": True}, {"op": "wide"}
    made = {"probe": asked, "answer": {"correct": 3, "total": 4, "failure": ""}}
    with Journal(tmp_path / "a.jsonl") as journal:
        answers = Answers(journal)
        for answer in ({"step": 0, "answer": {}}, between, made):
            answers.add(answer)
        answers.flush()
    with Journal(tmp_path / "a.jsonl") as journal:
        answers = Answers(journal)
        assert len(answers.known(1)) == 1, "the copy is not in the checkpoint"
        assert answers.score(asked) is None, "it is not its turn"
        answers.add(between)
        assert answers.score({"op": "narrow"}) is None
        assert answers.score(asked) == made["answer"]
        answers.add(made)
        assert answers.score(asked) is None
        again = Answers(journal)
        again.known(1)
        again.add({"copy": ["a", "c"], "answer": True})
        assert again.score(asked) is None, "another way led here"


def test_answers_of_another_run_are_refused(
    whole: Path, graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(SpaceError, match=r"engine\.settings: .*there"):
        search_own(replace(ENGINE, board=4), graph, data, RECIPE, whole, seed=3)
    with Journal(tmp_path / "a.jsonl") as journal:
        answers = Answers(journal)
        answers.add({"step": 0, "answer": {}})
        answers.flush()
        answers.add({"probe": {}, "answer": {}})
        answers.flush()
    with Journal(tmp_path / "a.jsonl") as journal:
        assert len(Answers(journal).known(0)) == 0
        assert len(Answers(journal).known(1)) == 2, "a score follows the checkpoint"
        with pytest.raises(SpaceError, match="2 answers, not 3"):
            Answers(journal).known(3)
        journal.append({"from": 9, "answers": []})
    with Journal(tmp_path / "a.jsonl") as journal, pytest.raises(SpaceError, match="no answers"):
        Answers(journal)


def test_replaying_asks_the_trainer_nothing(
    whole: Path, graph: Graph, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(whole)

    def asked(*given: object) -> None:
        raise AssertionError("the trainer was asked")

    for name in ("step", "match", "remember", "probe"):
        monkeypatch.setattr(own_module.Work, name, asked)
    search_own(ENGINE, graph, data, RECIPE, whole, seed=3)
    assert fingerprint(whole) == before


WORDS = (
    "--data", "digits", "--epochs", "3", "-b", "200", "--lr", "0.01", "--warmup-epochs", "0",
    "-s", "warm_epochs=0", "-s", "board=3", "-s", "update_every=2", "--progress", "quiet",
)  # fmt: skip


def test_a_killed_run_goes_on_from_its_folder_alone(tmp_path: Path) -> None:
    """By kill -9, after its first checkpoint; then by DIR alone, the space gone."""
    space = tmp_path / "paths.space"
    space.write_text(SPACE)
    engine = ("--engine", "prioritized_path")
    folder, other = tmp_path / "run", tmp_path / "other"
    words = ["search", str(space), *engine, "-o", str(folder), *WORDS]
    running = subprocess.Popen([sys.executable, "-m", "spacelang", *words])
    try:
        until = time.monotonic() + 90
        while running.poll() is None and time.monotonic() < until:
            if (folder / "manifest.jsonl").exists():
                break
            time.sleep(0.005)
    finally:
        running.kill()
        running.wait()
    found = answer("search", folder, "--progress", "quiet")
    assert answer("doctor", folder)["ok"]
    again = answer("search", space, *engine, "-o", other, *WORDS)
    assert found["best"] == again["best"]
    files = [sorted(f.glob("checkpoint-*"))[-1].read_bytes() for f in (folder, other)]
    assert files[0] == files[1]
    net = tmp_path / "net"
    assert answer("extract", folder, "--arch", found["file"], "-o", net)["trained"]
    assert "--lr is of training" in refused("search", folder, "--engine", "random", "--lr", "1")


# What is not finite, and who is told.


def poison(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool]) -> list[int]:
    """Make the loss of some steps not finite, by how many were taken; gives the steps' numbers."""
    steps: list[int] = []
    original = EngineTrainer._learn

    def learn(self: EngineTrainer, plan: StepPlan) -> tuple[int, int, dict[str, float]]:
        steps.append(plan.step)
        correct, total, terms = original(self, plan)
        return correct, total, dict.fromkeys(terms, math.nan) if bad(len(steps)) else terms

    monkeypatch.setattr(EngineTrainer, "_learn", learn)
    return steps


def test_steps_that_are_not_finite_are_left_out(
    graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        poison(patch, lambda step: step in (2, 9))
        found = search_own(ENGINE, graph, data, RECIPE, tmp_path / "run", seed=3, on_nan="skip")
    told = sorted(path.name for path in (tmp_path / "run").glob("nan-*.json"))
    assert told[0] == "nan-1.json"
    assert len(told) == 2
    assert len(read_log(tmp_path / "run")) == 4
    again = search_own(ENGINE, graph, data, RECIPE, tmp_path / "run", seed=3)
    assert again.found == found.found, "it is done, and the steps left out are among its answers"


def test_a_rollback_is_a_run_that_goes_on_at_half_the_rate(
    graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the start, where nothing was saved yet, and from the end of the second epoch of five steps."""
    rates: list[tuple[int, float]] = []
    original = EngineTrainer.step

    def step(self: EngineTrainer, plan: StepPlan) -> Metrics:
        metrics = original(self, plan)
        if plan.groups != ("match",):
            length = self.steps("train")
            rate = self.recipe.rate(plan.epoch * length + plan.batch, length)
            rates.append((plan.epoch, metrics.rate / rate))
        return metrics

    said: list[int] = []
    load = plugins.load

    def follow(group: str, name: str) -> object:
        return (
            (lambda _: lambda e: said.append(e["epoch"])) if group == GROUP else load(group, name)
        )

    monkeypatch.setattr(plugins, "load", follow)
    monkeypatch.setattr(EngineTrainer, "step", step)
    steps = poison(monkeypatch, lambda step: step in (2, 16))
    found = search_own(
        ENGINE, graph, data, RECIPE, tmp_path / "run", seed=3, on_nan="rollback", log_to=("list",)
    )
    assert steps[:3] == [0, 1, 0]
    assert {rate for epoch, rate in rates[1:] if epoch < 2} == {0.5}
    assert {rate for epoch, rate in rates if epoch == 3} == {0.25}
    assert [line["epoch"] for line in read_log(tmp_path / "run")] == said == [1, 2, 3, 4]
    assert isinstance(found.found.best.score.accuracy, float)
    poison(monkeypatch, lambda step: True)
    with pytest.raises(NotFinite):
        search_own(ENGINE, graph, data, RECIPE, tmp_path / "bad", seed=3, on_nan="rollback")
    assert len(rates) < 60, "it was tried five times more, and no more"
