"""Searches that train every network anew: on digits, stopped, killed, and on the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from command import data as answer
from command import refused

import spacelang
from spacelang.backends.torch.data.datasets import Dataset, first_samples, open_data
from spacelang.backends.torch.runs.interrupt import Interrupt, Interrupted
from spacelang.backends.torch.searching import scratch as scratch_module
from spacelang.backends.torch.searching.scratch import Scratch
from spacelang.backends.torch.searching.search import search, search_scratch
from spacelang.backends.torch.searching.train_and_search import search_own
from spacelang.backends.torch.searching.under_way import FOLDER, UnderWay
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training import evaluate as evaluate_module
from spacelang.backends.torch.training.checkpoint import CheckpointWarning
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.trainer import TorchTrainer
from spacelang.backends.torch.training.training import Trained
from spacelang.diagnostics import Source, SpaceError, error
from spacelang.engines.baselines import RandomSearch
from spacelang.engines.contraction import Contraction
from spacelang.engines.paths import SinglePath
from spacelang.engines.pool import encoding
from spacelang.engines.prioritized_path import PrioritizedPath
from spacelang.engines.protocol import Engine, Event, Metrics, Prober, Samples, Score, StepPlan
from spacelang.engines.space_evolution import SpaceEvolution
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.journal import read_journal
from spacelang.passes.specialize import specialize

SPACE = """
use vit
default linear(init: trunc_normal(0.1), bias_init: 0)
default parameter(init: trunc_normal(0.1))
space digits {
  input x: [B, 1, 8, 8]
  choose width in {8, 12, 16}
  choose depth in 1..2
  block layer(x: [B, N, C]) -> [B, N, C] {
    choose ratio in {1, 2}
    return x + (layer_norm(x) as norm |> mlp(C * ratio) as mlp)
  }
  x = patch_embed(x, width, patch: 4) as stem |> tokens |> add_positions as _
  for i in 0..<depth { x = layer(x) }
  output mean(x, axes: [1]) |> linear(10) as head
  weights { _: entangle }
}
"""
RECIPE = Recipe(epochs=2, batch_size=50, lr=1e-2, warmup_epochs=0, val_interval=0)
ENGINE = Contraction(bounds=("params <= 2400", "params <= 1200"), population=4, keep=2, factors=2)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return spacelang.load(Source("<digits>", SPACE))


@pytest.fixture(scope="module")
def data() -> Dataset:
    whole = open_data("digits")
    return replace(
        whole,
        train=first_samples(whole.train, 300),
        validation=first_samples(whole.validation, 120),
    )


@pytest.fixture(scope="module")
def whole(graph: Graph, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "contraction"
    found = search_scratch(ENGINE, graph, data, RECIPE, folder, seed=5)
    assert found.found.evaluated == len(found.candidates) == 8
    return folder


def test_a_score_is_that_of_the_network_trained_alone(graph: Graph, data: Dataset) -> None:
    assignment = graph.decisions.extreme("smallest")
    (found,) = Scratch(graph, data, RECIPE, 5).probe([assignment], Samples())
    network = specialize(graph, assignment)
    trainer = TorchTrainer(Supernet(network, seed=5), network, data, RECIPE, 5)
    for _ in SinglePath(2, smoothing=RECIPE.smoothing).run(network, trainer, 5):
        pass
    assert [found] == list(trainer.probe([{}], Samples()))
    assert found.accuracy > 0.2, "it has learned something in twelve steps"


def test_scores_do_not_depend_on_what_was_scored_before(graph: Graph, data: Dataset) -> None:
    one, two = graph.sample(2, seed=1)
    prober = Scratch(graph, data, RECIPE, 5)
    forth = list(prober.probe([one, two], Samples(count=60)))
    back = list(prober.probe([two, one], Samples(count=60)))
    assert forth == back[::-1]
    assert all(score.total == 60 for score in forth)


def test_contraction_obeys_its_bounds(whole: Path) -> None:
    record = json.loads((whole / "contraction.json").read_text())
    limits = [2400, 1200]
    assert all(c["params"] <= limits[c["generation"]] for c in record["candidates"])
    last = [c for c in record["candidates"] if c["generation"] == 1]
    assert record["best"]["accuracy"] == max(c["accuracy"] for c in last)
    page = (whole / "report.html").read_text()
    assert "best of contraction" in page
    assert "contraction evaluated 8 architectures" in page


class Dies(BaseException):
    """The process is gone."""


def test_a_search_that_dies_again_and_again_finds_the_same(
    whole: Path, graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every second network; each is trained once."""
    trained: list[str] = []
    score = Scratch._score

    def mortal(self: Scratch, assignment: Assignment, samples: Samples) -> Score:
        if life[0] == 2:
            raise Dies
        life[0] += 1
        trained.append(encoding(assignment))
        return score(self, assignment, samples)

    monkeypatch.setattr(Scratch, "_score", mortal)
    life = [0]
    for _ in range(9):
        life[0] = 0
        try:
            search_scratch(ENGINE, graph, data, RECIPE, tmp_path / "run", seed=5)
            break
        except Dies:
            continue
    scores = read_journal(whole / "scores.jsonl").entries[1:]
    assert len(trained) == len(set(trained)) == len(scores)
    assert 4 < len(scores) < 8, "what was kept of the first round is not trained again"
    for name in ("scores.jsonl", "contraction.json", "report.html"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


def test_other_engines_share_the_scores_of_a_folder(
    graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    size = graph.size()
    assert isinstance(size, int)
    search_scratch(Contraction(population=3), graph, data, RECIPE, folder, seed=1)
    before = len(read_journal(folder / "scores.jsonl").entries)
    found = search_scratch(RandomSearch(evaluations=4), graph, data, RECIPE, folder, seed=1)
    assert found.found.evaluated == 4
    assert before < len(read_journal(folder / "scores.jsonl").entries) <= before + 4
    page = (folder / "report.html").read_text()
    assert "best of contraction" in page
    assert "best of random" in page
    with pytest.raises(SpaceError, match=r"recipe\.epochs: 2 there, 3 here"):
        search_scratch(ENGINE, graph, data, replace(RECIPE, epochs=3), folder, seed=1)


def test_what_cannot_be_trained_is_a_failed_score(
    graph: Graph, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assignment = graph.decisions.extreme("largest")
    steep = replace(RECIPE, lr=1e30, weight_decay=0.0)
    (found,) = Scratch(graph, data, steep, 0).probe([assignment], Samples())
    assert "is not finite" in found.failure

    # Of a device, and of the host: while it is made, trained, scored.
    for failure in (torch.OutOfMemoryError("out of memory"), MemoryError()):

        def short(*given: object, failed: Exception = failure, **named: object) -> None:
            raise failed

        for owner, name in (
            (scratch_module, "Supernet"), (TorchTrainer, "_learn"), (evaluate_module, "main_output")
        ):  # fmt: skip
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, short)
                (found,) = Scratch(graph, data, RECIPE, 0).probe([assignment], Samples())
            assert "out of memory" in found.failure, (failure, name)


PAIR = Contraction(population=2, keep=1)


@pytest.fixture(scope="module")
def pair(graph: Graph, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair") / "run"
    search_scratch(PAIR, graph, data, RECIPE, folder, seed=5)
    return folder


@pytest.mark.parametrize(("how", "again"), [("signal", 0), ("death", 3), ("damage", 9)])
def test_of_a_network_under_way_no_finished_epoch_is_lost(
    how: str,
    again: int,
    pair: Path,
    graph: Graph,
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped after nine steps of twelve, six an epoch: a signal has no step taken twice, a death those
    after the epoch; all of them only where its checkpoint is damaged, which is told."""
    steps: list[int] = []
    lives: list[int] = []
    original = TorchTrainer.step

    def step(self: TorchTrainer, plan: StepPlan) -> Metrics:
        if how != "signal" and len(steps) == 9 and len(lives) == 1:
            raise Dies
        steps.append(plan.step)
        if how == "signal" and len(steps) == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, plan)

    def live() -> None:
        lives.append(0)
        search_scratch(PAIR, graph, data, RECIPE, tmp_path / "run", seed=5)

    monkeypatch.setattr(TorchTrainer, "step", step)
    with pytest.raises(Interrupted if how == "signal" else Dies):
        live()
    kept = next((tmp_path / "run" / FOLDER).glob("*/checkpoint-*"))
    if how == "damage":
        kept.write_bytes(kept.read_bytes()[:-1])
    told = pytest.warns(CheckpointWarning, match="trained from its start")
    with told if how == "damage" else nullcontext():
        live()
    assert len(steps) == 24 + again
    assert steps[9] == 9 - again
    for name in ("scores.jsonl", "contraction.json", "report.html"):
        assert (tmp_path / "run" / name).read_bytes() == (pair / name).read_bytes()
    assert not (tmp_path / "run" / FOLDER).exists()


def test_other_networks_do_not_take_what_was_finished_of_one(
    graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that was stopped in its second network goes on there, whichever engine was run in the
    folder since; what is under way goes when it has a score."""
    steps: list[int] = []
    original = TorchTrainer.step

    def step(self: TorchTrainer, plan: StepPlan) -> Metrics:
        steps.append(plan.step)
        if len(steps) == 12 + 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, plan)

    def searched(engine: Engine) -> None:
        search_scratch(engine, graph, data, RECIPE, tmp_path, seed=5)

    monkeypatch.setattr(TorchTrainer, "step", step)
    with pytest.raises(Interrupted):
        searched(PAIR)
    (kept,) = (tmp_path / FOLDER).iterdir()
    searched(RandomSearch(1, "width == 12"))
    assert list((tmp_path / FOLDER).iterdir()) == [kept]
    searched(PAIR)
    assert steps == [*range(12), *range(9), *range(12), *range(9, 12)]
    assert not (tmp_path / FOLDER).exists()


def test_what_is_kept_of_another_network_is_not_taken_up(
    graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    """A run that died when a network had its score leaves what it was trained with."""
    one, two = graph.sample(2, seed=1)
    fresh = list(Scratch(graph, data, RECIPE, 5).probe([one, two], Samples()))
    with Interrupt() as interrupt:
        prober = Scratch(graph, data, RECIPE, 5, kept=UnderWay(tmp_path, interrupt))
        assert list(prober.probe([one, one, two], Samples())) == [fresh[0], *fresh]
    assert not list(tmp_path.glob(".*"))


WORDS = (
    "--data", "digits", "--epochs", "2", "-b", "100", "--lr", "0.01", "--warmup-epochs", "0",
    "-s", "population=3", "-s", "bounds=params <= 2400,params <= 1200", "--progress", "quiet",
)  # fmt: skip


def test_a_killed_search_goes_on_from_its_folder_alone(tmp_path: Path) -> None:
    """By kill -9, in a process of its own; then by DIR and nothing else, the space gone."""
    space = tmp_path / "digits.space"
    space.write_text(SPACE)
    folder = tmp_path / "run"
    words = ["search", str(space), "--engine", "contraction", "-o", str(folder), *WORDS]
    running = subprocess.Popen([sys.executable, "-m", "spacelang", *words])
    try:
        until = time.monotonic() + 90
        while running.poll() is None and time.monotonic() < until:
            if len(read_journal(folder / "scores.jsonl").entries) > 2:
                break
            time.sleep(0.005)
    finally:
        running.kill()
        running.wait()
    space.unlink()
    found = answer("search", folder, *WORDS[14:])
    assert json.loads((folder / "contraction.json").read_text())["settings"]["population"] == 3
    assert found["evaluated"] == 6
    assert answer("doctor", folder)["ok"]
    assert answer("search", folder, *WORDS[14:]) == found
    assert json.loads(Path(found["file"]).read_text()) == found["best"]["assignment"]


def test_words_that_do_not_fit_together(tmp_path: Path) -> None:
    space = tmp_path / "digits.space"
    space.write_text(SPACE)
    assert "-o DIR is missing" in refused("search", space, "--engine", "contraction", *WORDS)
    assert "is no run" in refused("search", space)


# Runs that are refused.


@pytest.mark.parametrize("made", ["not", "empty", "with a note"])
@pytest.mark.parametrize("how", ["scratch", "shared", "prioritized_path", "space_evolution"])
def test_a_refused_search_leaves_nothing(
    how: str, made: str, graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "one"
    if made != "not":
        folder.mkdir(parents=True)
    if made == "with a note":
        (folder / "note.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    fixed = specialize(graph, graph.decisions.extreme("largest"))
    with pytest.raises(SpaceError, match="SP701"):
        match how:
            case "scratch":
                search_scratch(ENGINE, fixed, data, RECIPE, folder)
            case "shared":
                trained = Trained(Supernet(fixed), RECIPE, 0, 0, (), "0" * 64)
                search(RandomSearch(), fixed, trained, data, folder)
            case "prioritized_path":
                search_own(cast(Any, PrioritizedPath()), graph, data, RECIPE, folder)
            case _:
                search_own(cast(Any, SpaceEvolution()), graph, data, RECIPE, folder)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_search_that_fails_later_is_kept(graph: Graph, data: Dataset, tmp_path: Path) -> None:
    """What was scored stays, also where the engine gives up; so does a run of before."""

    class GivesUp(RandomSearch):
        def run(self, space: Graph, trainer: Prober, seed: int) -> Iterator[Event]:
            yield next(super().run(space, trainer, seed))
            raise SpaceError(error("SP701", "no more"))

    for _ in range(2):
        with pytest.raises(SpaceError, match="no more"):
            search_scratch(GivesUp(evaluations=1), graph, data, RECIPE, tmp_path)
        assert len(read_journal(tmp_path / "scores.jsonl").entries) == 2  # what of, and a score
    fixed = replace(ENGINE, bounds=("params <= 1",))
    with pytest.raises(SpaceError, match="SP502"):
        search_scratch(fixed, graph, data, RECIPE, tmp_path)
    assert (tmp_path / "run.json").exists()
