"""Searching the space on digits: narrowed graphs, inherited weights, runs that die and go on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from command import data as answer
from command import refused

import spacelang
from spacelang.backends.torch.data.datasets import Dataset, first_samples, open_data
from spacelang.backends.torch.inherit import displaced, inherit
from spacelang.backends.torch.runs.progress import progress
from spacelang.backends.torch.runs.run import read_graph
from spacelang.backends.torch.searching.engine_trainer import EngineTrainer
from spacelang.backends.torch.searching.train_and_search import search_own
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.training import load_trained
from spacelang.diagnostics import Report, Source, SpaceError
from spacelang.engines.pool import Pool, encoding
from spacelang.engines.protocol import Metrics, StepPlan
from spacelang.engines.ranges import dimensions
from spacelang.engines.replay import Answers
from spacelang.engines.space_evolution import SpaceEvolution
from spacelang.ir.decision import plain
from spacelang.ir.graph import Graph
from spacelang.ir.verify import verify
from spacelang.loader import load_hull
from spacelang.passes.narrow import narrow

SPACE = """
use vit
default linear(init: trunc_normal(0.1), bias_init: 0)
default parameter(init: trunc_normal(0.1))
space digits(widths = {8, 12}, ratios = {1, 2}, depths = 1..2) {
  input x: [B, 1, 8, 8]
  choose width in widths within 4..32 by 4
  choose depth in depths within 1..4
  block layer(x: [B, N, C]) -> [B, N, C] {
    choose ratio in ratios within 1..6
    when ratio > 4 { x = x + (linear(x, C) as extra |> gelu) }
    return x + (layer_norm(x) as norm |> mlp(C * ratio) as mlp)
  }
  x = patch_embed(x, width, patch: 4) as stem |> tokens |> add_positions as _
  for i in 0..<depth { x = layer(x) as layers[i] }
  output mean(x, axes: [1]) |> linear(10) as head
  weights { _: entangle }
}
"""
SOURCE = Source("<digits>", SPACE)
CENTRED = Source(
    "<kernels>",
    """
    space kernels(sizes = {3, 5}) {
      input x: [B, 2, 8, 8]
      choose kernel in sizes within {1, 3, 5, 7}
      x = conv(x, 4, kernel) as conv
      output mean(x, axes: [2, 3]) |> linear(3) as head
      weights { _: entangle  _.kernel: entangle(centre) }
    }
    """,
)
RECIPE = Recipe(batch_size=60, lr=1e-2, warmup_epochs=0, val_interval=0)
ENGINE = SpaceEvolution(
    iterations=2, epochs=2, paths=1, probes=12, top=4, threshold=2.0, inherit=True,
    generations=1, population=4, parents=2, mutants=2, crossovers=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def graph() -> Graph:
    return spacelang.load(SOURCE)


@pytest.fixture(scope="module")
def hull() -> Graph:
    return load_hull(SOURCE)


@pytest.fixture(scope="module")
def data() -> Dataset:
    whole = open_data("digits")
    return replace(
        whole,
        train=first_samples(whole.train, 180),
        validation=first_samples(whole.validation, 100),
    )


def narrowed(hull: Graph, ranges: Mapping[str, Sequence[float]]) -> Graph:
    known = {d.name: d.paths for d in dimensions(hull)}
    return narrow(hull, {p: values for name, values in ranges.items() for p in known[name]})


# Narrowing.


@pytest.mark.parametrize(
    ("widths", "ratios", "depths"),
    [
        ([8, 12], [1, 2], [1, 2]),
        ([4, 32], [4, 5, 6], [2, 4]),  # the extra step is sometimes there
        ([16], [5, 6], [3]),  # always, and nothing of depth is left to decide
        ([4, 8, 12, 16, 20, 24, 28, 32], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4]),
    ],
)
def test_a_narrowed_hull_is_the_graph_of_the_text_with_these_ranges(
    hull: Graph, widths: list[int], ratios: list[int], depths: list[int]
) -> None:
    wanted = spacelang.load(SOURCE, widths=set(widths), ratios=set(ratios), depths=set(depths))
    found = narrowed(hull, {"width": widths, "depth": depths, "layers[_].ratio": ratios})
    report = Report()
    verify(found, report)
    report.check()
    assert found.hash == wanted.hash
    assert found.size() == wanted.size()
    assert list(found.decisions) == list(wanted.decisions)
    assert {p: s.tensors for p, s in found.storages.items()} == {
        p: s.tensors for p, s in wanted.storages.items()
    }
    for assignment in wanted.sample(4, seed=2):
        assert found.cost(assignment) == wanted.cost(assignment)


def test_ranges_of_two_stages_part_their_blocks() -> None:
    """Both stages call one block; narrowed apart there are two."""
    text = """
    space stages(first = {2}, second = {2}) {
      input x: [B, 8]
      block layer(x: [B, C], ratios) -> [B, C] {
        choose ratio in ratios within 1..8
        return x + (linear(x, C * ratio) as up |> gelu |> linear(C) as down)
      }
      x = layer(x, first) as a
      x = layer(x, second) as b
      output linear(x, 2) as head
      weights { _: entangle }
    }
    """
    source = Source("<stages>", text)
    whole = load_hull(source)
    assert len(whole.blocks) == 1
    found = narrowed(whole, {"a.ratio": [1, 2], "b.ratio": [4, 8]})
    wanted = spacelang.load(source, first={1, 2}, second={4, 8})
    assert len(found.blocks) == 2
    assert found.hash == wanted.hash


def agree(found: Graph, wanted: Graph) -> None:
    """The same space with the same storage; texts may differ where one size is left."""
    report = Report()
    verify(found, report)
    report.check()
    assert found.size() == wanted.size()
    assert {p: s.tensors for p, s in found.storages.items()} == {
        p: s.tensors for p, s in wanted.storages.items()
    }
    one, two = Supernet(found, seed=1).eval(), Supernet(wanted, seed=1).eval()
    two.load_state_dict(one.state_dict(), strict=False)  # index tables of some alternatives apart
    shape = [int(d.at({"B": 2})) for d in wanted.root.inputs[0].types[0].shape]
    images = torch.linspace(-1, 1, math.prod(shape)).reshape(shape)
    for assignment in wanted.sample(2, seed=2):
        assert torch.equal(one.activate(assignment)(images), two.activate(assignment)(images))


def test_slices_from_the_middle_are_laid_out_anew() -> None:
    """Kernels in the middle of the largest; the hull's is larger than any that is left."""
    for sizes in ({3, 5}, {3}, {7}, {1, 7}):
        found = narrow(load_hull(CENTRED), {"kernel": sorted(sizes)})
        agree(found, spacelang.load(CENTRED, sizes=sizes))


def test_windows_of_s3_are_laid_out_anew() -> None:
    """Windows of 28 are in the hull only; tables are read from their middle."""
    address = "s3.space:s3_start"
    hull, wanted = load_hull(address), spacelang.load(address)
    found = narrowed(hull, {d.name: [plain(v) for v in d.values] for d in dimensions(wanted)})
    agree(found, wanted)


def test_what_is_no_range_is_refused(hull: Graph) -> None:
    for ranges, says in (
        ({"height": [1]}, "no decision has the path height"),
        ({"width": [5]}, "5 is no candidate of width"),
        ({"width": []}, "nothing is left of width"),
    ):
        with pytest.raises(SpaceError, match=says):
            narrow(hull, ranges)


# Inheriting.


def test_the_overlap_of_two_supernets_is_taken_over(hull: Graph) -> None:
    old = Supernet(narrowed(hull, {"width": [8, 12], "layers[_].ratio": [1, 2]}), seed=1)
    graph = narrowed(hull, {"width": [8, 16], "layers[_].ratio": [2, 3]})
    new, untouched = Supernet(graph, seed=2), Supernet(graph, seed=2)
    count = inherit(new, old)
    fc1 = "layers[0].mlp.fc1.weight"
    ours, theirs, fresh = (m.stored_tensor(fc1) for m in (new, old, untouched))
    assert ours.shape == (48, 16)
    assert theirs.shape == (24, 12)
    assert torch.equal(ours[:24, :12], theirs)
    assert torch.equal(ours[24:], fresh[24:])
    assert torch.equal(ours[:24, 12:], fresh[:24, 12:])
    shared = old.graph.storages.keys() & graph.storages.keys()
    assert count == sum(
        torch.Size(map(min, new.stored_tensor(p).shape, old.stored_tensor(p).shape)).numel()
        for p in shared
    )
    assert inherit(new, old) == count
    assert inherit(untouched, Supernet(graph, seed=3)) == sum(
        s.numel for s in graph.storages.values()
    )


def test_slices_that_begin_elsewhere_are_not_mixed() -> None:
    """Kernels in the middle of the largest: its size moves them all."""
    one, two = (spacelang.load(CENTRED, sizes=s) for s in ({3, 5}, {3, 5, 7}))
    assert displaced(one) == {"conv.weight"}
    others = sum(s.numel for p, s in one.storages.items() if p != "conv.weight")
    assert inherit(Supernet(two, seed=1), Supernet(one, seed=2)) == others
    same = inherit(Supernet(one, seed=1), Supernet(one, seed=2))
    assert same == others + one.storages["conv.weight"].numel


# Runs.


def fingerprint(folder: Path) -> dict[str, object]:
    """All that must not depend on how often a run was stopped."""
    folders = [folder, *sorted(folder.glob("space-*"))]
    files = [sorted(f.glob("checkpoint-*.safetensors"))[-1] for f in folders]
    return {
        "logs": [(f / "log.jsonl").read_text() for f in folders],
        "found": json.loads((folder / "space_evolution.json").read_text()),
        "weights": [hashlib.sha256(f.read_bytes()).hexdigest() for f in files],
    }


@pytest.fixture(scope="module")
def whole(
    graph: Graph, hull: Graph, data: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "s3"
    search_own(ENGINE, graph, data, RECIPE, folder, seed=4, hull=hull)
    return folder


def test_ranges_move_and_weights_are_kept(whole: Path, graph: Graph, data: Dataset) -> None:
    record = json.loads((whole / "space_evolution.json").read_text())
    moves = [m for m in record["moves"] if m["before"] != m["after"]]
    assert moves, "with so low a threshold some range moves"
    assert record["weights"] == f"space-{len(moves)}"
    last = whole / record["weights"]
    now = read_graph(last)
    graphs = [graph, *(read_graph(whole / f"space-{n}") for n in range(1, len(moves) + 1))]
    had = [str(g.size()) for g in graphs]
    assert [m["sizes"] for m in moves] == [list(pair) for pair in pairwise(had)]
    listed = [{encoding(a) for a, _ in Pool(g).draw(10_000, "all")} for g in graphs]
    assert [m["shared"] for m in moves] == [str(len(a & b)) for a, b in pairwise(listed)]
    assert {d.name: list(map(int, d.values)) for d in dimensions(now)} == moves[-1]["after"]
    sizes = [sum(s.numel for s in g.storages.values()) for g in (graph, now)]
    assert 0 < moves[0]["inherited"] <= max(sizes)
    trained = load_trained(now, data, last)
    trained.model.activate(record["best"]["assignment"])
    report = (whole / "report.html").read_text()
    assert "best of space_evolution" in report
    for number, move in enumerate(record["moves"], 1):
        assert f"<td>space {number}</td>" in report
        before, after = (f"{int(size):,}" for size in move["sizes"])
        both = f"{int(move['shared']):,} in both"
        moved = f"{before} -&gt; {after} architectures, {both}"
        said = moved if move in moves else f"; {after} archit"
        assert said in report
        if move in moves:
            assert f"{move['inherited']:,} elements of weights inherited" in report
        for counts in move["networks"].values():
            assert sum(counts) >= ENGINE.probes
            assert f" of {', '.join(map(str, counts))} networks" in report
        for name, values in move["after"].items():
            told = f"{name}: {', '.join(map(str, move['before'][name]))} -&gt; "
            assert (told + ", ".join(map(str, values)) in report) == (
                values != move["before"][name]
            )


def test_a_run_says_how_large_its_spaces_are(
    whole: Path, graph: Graph, hull: Graph, data: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what was inherited; it is said again where a run that is done is gone through."""
    told = progress("auto")
    search_own(ENGINE, graph, data, RECIPE, whole, seed=4, hull=hull, reporter=told)
    lines = capsys.readouterr().err.splitlines()
    for number, move in enumerate(
        json.loads((whole / "space_evolution.json").read_text())["moves"]
    ):
        (line,) = [line for line in lines if line.startswith(f"space {number + 1}: ")]
        before, after = (f"{int(size):,}" for size in move["sizes"])
        assert f"{after} architectures" in line
        if move["before"] != move["after"]:
            assert f"{before} -> {after} architectures" in line
            assert line.endswith(f"{move['inherited']:,} elements of weights inherited")


class Dies(BaseException):
    """The process is gone."""


def test_a_run_that_dies_at_every_turn_ends_with_the_same_bits(
    whole: Path,
    graph: Graph,
    hull: Graph,
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In every fifth step, and at every fourth writing of answers; of spaces too."""
    steps, flushes = [0], [0]
    step, flush = EngineTrainer.step, Answers.flush

    def stepping(self: EngineTrainer, plan: StepPlan) -> object:
        steps[0] += 1
        if steps[0] % 5 == 0:
            raise Dies
        return step(self, plan)

    def flushing(self: Answers) -> None:
        flush(self)
        flushes[0] += 1
        if flushes[0] % 4 == 0:
            raise Dies

    monkeypatch.setattr(EngineTrainer, "step", stepping)
    monkeypatch.setattr(Answers, "flush", flushing)
    lives, given = 0, hull
    while lives < 60:
        lives += 1
        try:
            search_own(ENGINE, graph, data, RECIPE, tmp_path / "run", seed=4, hull=given)
            break
        except Dies:
            given = None  # type: ignore[assignment]  # the folder has it
    assert 5 < lives < 60
    assert fingerprint(tmp_path / "run") == fingerprint(whole)


def test_a_rollback_of_a_new_space_begins_it_anew(
    whole: Path,
    graph: Graph,
    hull: Graph,
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A space has six steps; the second one of the next is not finite, before it has a checkpoint."""
    rates: list[float] = []
    struck: list[int] = []
    step, learn = EngineTrainer.step, EngineTrainer._learn

    def stepping(self: EngineTrainer, plan: StepPlan) -> Metrics:
        metrics = step(self, plan)
        rates.append(metrics.rate / self.recipe.rate(plan.step, self.steps("train")))
        return metrics

    def learning(self: EngineTrainer, plan: StepPlan) -> tuple[int, int, dict[str, float]]:
        correct, total, terms = learn(self, plan)
        if struck or len(rates) < 7:
            return correct, total, terms
        struck.append(plan.step)
        return correct, total, dict.fromkeys(terms, float("nan"))

    monkeypatch.setattr(EngineTrainer, "step", stepping)
    monkeypatch.setattr(EngineTrainer, "_learn", learning)
    search_own(ENGINE, graph, data, RECIPE, tmp_path / "run", seed=4, hull=hull, on_nan="rollback")
    assert struck == [1]
    assert rates[:7] == [1.0] * 7
    assert {*rates[7:]} == {0.5}
    assert (tmp_path / "run" / "space-1" / "nan-1.json").is_file()
    assert (tmp_path / "run" / "log.jsonl").read_bytes() == (whole / "log.jsonl").read_bytes()


def test_a_space_without_its_text_does_not_move(
    graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(SpaceError, match="what the ranges of digits may become is not known"):
        search_own(ENGINE, graph, data, RECIPE, tmp_path / "run", seed=4)


def test_from_the_command_line(tmp_path: Path) -> None:
    space = tmp_path / "digits.space"
    space.write_text(SPACE)
    engine = ("--engine", "space_evolution", "--progress", "quiet")
    settings = {"iterations": 1, "probes": 6, "top": 3, "threshold": 0.1, "generations": 0,
                "population": 3, "parents": 1, "mutants": 0, "crossovers": 0}  # fmt: skip
    words = [f"-s{name}={value}" for name, value in settings.items()]
    found = answer(
        "search", space, *engine, *words, "--inherit", "--data", "digits", "--epochs", "1",
        "-b", "200", "--lr", "0.01", "--warmup-epochs", "0", "-o", tmp_path / "run",
    )  # fmt: skip
    record = json.loads((tmp_path / "run" / "space_evolution.json").read_text())
    numbers = [candidate["number"] for candidate in record["candidates"]]
    assert numbers == list(range(found["evaluated"])), "those that judged the ranges count too"
    (move,) = record["moves"]
    assert sum(move["networks"]["width"]) == 6
    assert 1 + 1 <= found["evaluated"] <= 6 + 3
    assert record["best"] in record["candidates"]
    assert record["settings"]["inherit"] is True
    space.unlink()
    assert answer("search", tmp_path / "run", *engine) == found | {"run": str(tmp_path / "run")}
    assert answer("doctor", tmp_path / "run")["ok"]
    assert "has no setting heat" in refused("search", tmp_path / "run", *engine, "-s", "heat=1")
