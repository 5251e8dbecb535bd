"""Weights cut among processes by FSDP2: the bits of one process, and what does not go with it."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_engines_s3 as s3
import torch
from lessons import MINIVIT, a_teacher, digits, learn
from lessons import RECIPE as LESSON
from processes import run_together
from safetensors.torch import load_file
from test_engines_cream import ENGINE
from test_engines_cream import RECIPE as CREAM
from test_engines_cream import SPACE as PATHS
from test_ranks import SHARDED, alone, data, graph
from test_train import fingerprint
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

import spacelang
from spacelang.backends.torch.data.datasets import (
    Dataset,
    first_samples,
    open_data,
    ordered_batches,
)
from spacelang.backends.torch.runs.interrupt import Interrupt
from spacelang.backends.torch.runs.progress import progress
from spacelang.backends.torch.runs.run import read_log
from spacelang.backends.torch.searching.baselines import search_beside
from spacelang.backends.torch.searching.engine_trainer import EngineTrainer
from spacelang.backends.torch.searching.search import search_scratch
from spacelang.backends.torch.searching.train_and_search import search_own
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training import training
from spacelang.backends.torch.training.checkpoint import Checkpoints
from spacelang.backends.torch.training.evaluate import score
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.trainer import TorchTrainer
from spacelang.backends.torch.training.training import load_trained, train
from spacelang.diagnostics import Source, SpaceError
from spacelang.engines.baselines import Extreme, RandomSearch
from spacelang.engines.paths import Plans
from spacelang.ir.graph import Graph
from spacelang.loader import load_hull

__all__ = ["alone", "data", "graph"]  # fixtures
CUT = replace(SHARDED, reduce="fsdp")
# Its update has the same bits for a piece as for the whole.
PLAIN = replace(CUT, opt="momentum", lr=0.05)


def tensors_of(folder: Path) -> Mapping[str, Tensor]:
    return load_file(max(folder.glob("checkpoint-*.safetensors")))


def ran(
    graph: Graph, data: Dataset, recipe: Recipe, steps: int = 6, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Weights after some steps, as the first process packs them."""
    trainer = TorchTrainer(Supernet(graph, seed=0).to(dtype), graph, data, recipe, seed=0)
    plans = Plans(recipe.engine, graph, 0, trainer.steps("train"))
    with warnings.catch_warnings():
        # Views that blocks return are quiet in a step, and nothing else in the process is.
        warnings.filterwarnings("error", "FSDP2-wrapped module")
        for step in range(steps):
            trainer.step(plans.at(step))
    assert not any("FSDP2" in getattr(told[1], "pattern", "") for told in warnings.filters)
    tensors, _ = trainer._pack()
    return {f"{g}/{n}": t for g, members in tensors.items() for n, t in members.items()}


def together(size: int, folder: Path, *given: Any) -> dict[str, Tensor]:
    """The same of so many processes."""

    def action(rank: int) -> None:
        found = ran(*given)
        assert bool(found) or rank > 0
        if rank == 0:
            torch.save(found, folder / "found.pt")

    assert run_together(size, action) == [0] * size
    return torch.load(folder / "found.pt", weights_only=True)


def different(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> list[str]:
    assert left.keys() == right.keys()
    return [name for name, tensor in left.items() if not torch.equal(tensor, right[name])]


# The bits of one process.


@pytest.fixture(scope="module")
def plain(graph: Graph, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of one process."""
    folder = tmp_path_factory.mktemp("plain") / "train"
    train(graph, data, PLAIN, folder, seed=3)
    return folder


@pytest.mark.parametrize("size", [2, 4])
def test_a_run_ends_with_the_bits_of_one_process(
    size: int, plain: Path, graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    """Checkpoint, momentum, average, statistics, scores and the log, with clipped gradients."""
    codes = run_together(size, lambda rank: train(graph, data, PLAIN, tmp_path / "run", seed=3))
    assert codes == [0] * size
    assert fingerprint(tmp_path / "run") == fingerprint(plain)
    assert load_trained(graph, data, tmp_path / "run").recipe == PLAIN


def test_adam_rounds_the_ends_of_pieces_otherwise(
    graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    """In float64 to 1e-12: gradients are the same, and the last entries of a piece are rounded anew."""
    recipe = replace(CUT, model_ema=False)
    here = ran(graph, data, recipe, 6, torch.float64)
    there = together(2, tmp_path, graph, data, recipe, 6, torch.float64)
    for name, value in here.items():
        assert torch.allclose(there[name], value, rtol=1e-12, atol=1e-14), name


@pytest.mark.parametrize(
    "change",
    [
        {"law": "sandwich", "shards": 2},
        {"unsampled": "decay", "opt": "sgd"},
        {"clip_grad": 0.01, "clip_mode": "value"},
        {"grad_checkpointing": True},
        {"amp": True},
        {"clip_grad": None, "law": "weighted", "law_weights": ("depth=3:1",)},
    ],
    ids=str,
)
def test_settings_go_with_it(
    change: dict[str, Any], graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    recipe = replace(PLAIN, model_ema=False, **change)
    here = ran(graph, data, recipe)
    assert different(together(2, tmp_path, graph, data, recipe), here) == []


SHARED = """
use vit
space shared(classes = 10) {
  input x: [B, 1, 8, 8]
  choose depth in {1, 2, 3}
  block layer(x: [B, N, C]) -> [B, N, C] { return x + (layer_norm(x) as norm |> mlp(C * 2) as mlp) }
  x = patch_embed(x, 12, patch: 4) as stem |> tokens |> add_positions as _
  for i in 0..<depth { x = layer(x) as layers[i] }
  output mean(x, axes: [1]) |> linear(classes) as head
  weights { _: entangle }
  rewrite { multiplex(layers, every: 3, own: [norm]) }
}
"""


def test_weights_that_blocks_share_are_whole_for_a_pass(data: Dataset, tmp_path: Path) -> None:
    """The block that they lie inside of is no unit."""
    graph = spacelang.load(Source("<shared>", SHARED))
    recipe = replace(PLAIN, model_ema=False)
    here = ran(graph, data, recipe)

    def action(rank: int) -> None:
        trainer = TorchTrainer(Supernet(graph, seed=0), graph, data, recipe, seed=0)
        assert all(isinstance(p, DTensor) for p in trainer.model.parameters())
        assert units(trainer.model) == {"", "stem", "layers.1", "layers.2"}

    assert run_together(2, action) == [0, 0]
    assert different(together(2, tmp_path, graph, data, recipe), here) == []


def units(model: torch.nn.Module) -> set[str]:
    return {n for n, m in model.named_modules() if isinstance(m, FSDPModule)}


def test_blocks_are_units_and_hold_a_piece_each(graph: Graph, data: Dataset) -> None:
    def action(rank: int) -> None:
        model = Supernet(graph, seed=0)
        whole = sum(p.numel() for p in model.parameters())
        TorchTrainer(model, graph, data, replace(PLAIN, model_ema=False), seed=0)
        here = sum(p.to_local().numel() for p in model.parameters() if isinstance(p, DTensor))
        assert 0 < here <= 0.6 * whole  # the first has what cannot be divided
        assert {"", "stem", "layer.0", "layer.1"} <= units(model)

    assert run_together(2, action) == [0, 0]


# Runs that stop.


def test_the_number_of_processes_may_change_between_runs(
    plain: Path, graph: Graph, data: Dataset, tmp_path: Path, capfd: Any
) -> None:
    """Two processes, stopped in the middle; four, of which one is killed; one; the same file."""
    folder = tmp_path / "train"
    original = TorchTrainer.step

    def stopping(at: int, rank_at: int, number: int):
        def step(self: TorchTrainer, plan: Any) -> Any:
            metrics = original(self, plan)
            if self.taken == at and self.ranks.rank == rank_at:
                os.kill(os.getpid(), number)
            return metrics

        def action(rank: int) -> None:
            vars(training)["TorchTrainer"].step = step
            train(graph, data, PLAIN, folder, seed=3)

        return action

    assert run_together(2, stopping(2, 1, signal.SIGTERM)) == [1, 1]
    assert run_together(4, stopping(7, 2, signal.SIGKILL)) == [1, 1, -signal.SIGKILL, 1]
    assert capfd.readouterr().err.count("another process of the run is gone") == 3
    assert len(read_log(folder)) == 1
    found = Checkpoints(folder, graph=graph.hash).load()
    assert found is not None
    assert {n: t.shape for n, t in found.tensors["model"].items()} == {
        n: t.shape for n, t in Supernet(graph).state_dict().items()
    }
    train(graph, data, PLAIN, folder, seed=3)
    assert fingerprint(folder) == fingerprint(plain)


def test_what_is_not_finite_is_met_by_all(graph: Graph, data: Dataset) -> None:
    """In one process's part of the batch; all of them leave the step out, and go on."""

    def action(rank: int) -> None:
        recipe = replace(PLAIN, model_ema=False)
        trainer = TorchTrainer(Supernet(graph, seed=0), graph, data, recipe, seed=0)
        trainer.guard.policy = "skip"
        plans = Plans(recipe.engine, graph, 0, trainer.steps("train"))
        before = [p.full_tensor().clone() for p in trainer.model.parameters()]
        original = trainer._value
        if rank == 1:
            trainer._value = lambda *given: original(*given) * torch.inf  # type: ignore
        assert trainer.step(plans.at(0)).total == 0
        assert all(
            torch.equal(p.full_tensor(), b)
            for p, b in zip(trainer.model.parameters(), before, strict=True)
        )
        trainer._value = original  # type: ignore[method-assign]
        assert trainer.step(plans.at(1)).total > 0

    assert run_together(2, action) == [0, 0]


def test_a_student_may_be_cut_too(tmp_path: Path) -> None:
    """Also where layers are compared: parts of blocks give their values by the unit around them."""
    images, teacher = digits(), a_teacher()
    recipe = replace(LESSON, opt="momentum", shards=2, reduce="fsdp", epochs=1)
    lessons = {"answers": {}, "layers": MINIVIT}

    def taught(rank: int, name: str = "two") -> None:
        for kind, settings in lessons.items():
            learn(tmp_path / name / kind, images, settings, recipe=recipe, teacher=teacher)

    assert run_together(2, taught) == [0, 0]
    taught(0, "one")
    there, here = ({k: tensors_of(tmp_path / n / k) for k in lessons} for n in ("two", "one"))
    assert different(there["answers"], here["answers"]) == []
    assert there["layers"].keys() == here["layers"].keys()
    for name, value in here["layers"].items():
        # Gradients of a layer that is compared come together in another order: in float32.
        assert torch.allclose(there["layers"][name], value, rtol=1e-5, atol=1e-6), name


def test_spaces_that_move_inherit_whole_weights(tmp_path: Path) -> None:
    """Two processes: pieces are gathered for what the next space takes over, and cut again."""
    hull, start = load_hull(s3.SOURCE), spacelang.load(s3.SOURCE)
    whole = open_data("digits")
    images = replace(
        whole,
        train=first_samples(whole.train, 180),
        validation=first_samples(whole.validation, 100),
    )
    recipe = replace(s3.RECIPE, opt="momentum", lr=0.05, shards=2, reduce="fsdp")

    def run(rank: int, name: str = "two") -> None:
        search_own(s3.ENGINE, start, images, recipe, tmp_path / name, seed=4, hull=hull)

    run(0, "one")
    assert run_together(2, run) == [0, 0]
    found = s3.fingerprint(tmp_path / "two")
    assert found == s3.fingerprint(tmp_path / "one")
    record = json.loads((tmp_path / "two" / "space_evolution.json").read_text())
    assert any(move["inherited"] for move in record["moves"])


def test_networks_trained_anew_may_be_cut(graph: Graph, data: Dataset, tmp_path: Path) -> None:
    recipe = replace(PLAIN, model_ema=False, epochs=1, recalibrate=60)

    def run(rank: int, name: str = "two") -> None:
        search_scratch(RandomSearch(3), graph, data, recipe, tmp_path / name)

    run(0, "one")
    assert run_together(2, run) == [0, 0]
    for name in ("scores.jsonl", "random.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.soak)])
def test_paths_are_matched_by_weights_in_pieces(size: int, data: Dataset, tmp_path: Path) -> None:
    """Paths that teach, the match that weighs them, and the step that learns through all weights."""
    paths = spacelang.load(Source("<paths>", PATHS))
    engine = replace(ENGINE, epochs=3)
    recipe = replace(CREAM, opt="momentum", lr=0.05, shards=size, reduce="fsdp")
    steps: Counter[tuple[str, ...]] = Counter()
    original = EngineTrainer.step

    def step(self: EngineTrainer, plan: Any) -> Any:
        steps[plan.groups] += 1
        return original(self, plan)

    def run(rank: int, name: str = "all") -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "FSDP2-wrapped module")
            search_own(engine, paths, data, recipe, tmp_path / name, seed=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EngineTrainer, "step", step)
        run(0, "one")
    assert set(steps) == {("weights",), ("weights", "match"), ("match",)}
    assert run_together(size, run) == [0] * size
    assert different(tensors_of(tmp_path / "all"), tensors_of(tmp_path / "one")) == []
    for name in ("log.jsonl", "answers.jsonl", "prioritized_path.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()


def test_scores_are_shared_and_are_those_of_one(graph: Graph, data: Dataset) -> None:
    """Three batches for two processes: who has one less goes along. A failure in one is met by all."""
    recipe = replace(PLAIN, model_ema=False)
    batches = list(ordered_batches(data.validation, 50))
    assert len(batches) == 3
    largest = graph.decisions.extreme("largest")
    wanted = score(Supernet(graph, seed=0).activate(largest), batches)
    assert wanted.total == len(data.validation)
    broken = [*batches[:2], batches[2]._replace(images=batches[2].images * torch.nan)]

    def action(rank: int) -> None:
        trainer = TorchTrainer(Supernet(graph, seed=0), graph, data, recipe, seed=0)
        trainer.activate(largest)
        seen: list[int] = []
        trainer.model.register_forward_hook(lambda _, given, found: seen.append(len(given[0])))
        assert score(trainer.model, batches) == wanted
        assert seen == ([50, 20] if rank == 0 else [50, 50])
        assert score(trainer.model, broken).failure == "its outputs are not finite"
        assert score(trainer.model, batches) == wanted, "none is a pass behind"

    assert run_together(2, action) == [0, 0]


def test_too_little_memory_for_a_score_ends_all(
    graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """Of a baseline too: who is short of it does not leave it out, alone."""
    monkeypatch.setenv("SPACELANG_TIMEOUT", "20")  # of who would wait

    def action(rank: int) -> None:
        recipe = replace(PLAIN, model_ema=False)
        trainer = TorchTrainer(Supernet(graph, seed=0), graph, data, recipe, seed=0)
        if rank == 1:

            def short(*given: Any) -> None:
                raise MemoryError

            trainer.model.register_forward_pre_hook(short)
        with Interrupt() as interrupt:
            told = progress("quiet")
            search_beside([Extreme()], graph, trainer, tmp_path, interrupt, 0, told)

    assert run_together(2, action) == [1, 1]
    told = capfd.readouterr().err
    assert "error[SP703]: out of memory where a network is scored" in told
    assert "another process of the run is gone" in told


# What does not go with it, said before a folder is made.


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"clip_mode": "agc"}, "limits no units of weights"),
        ({"unsampled": "freeze"}, "freezes no part of a weight"),
        ({"shards": 8}, "at most 2 shards a process here, not 4: --shards 4"),
        ({"law": "sandwich"}, "at most 1 shards a process here, not 2: --shards 2"),
    ],
)
def test_what_does_not_go_with_it(
    change: dict[str, Any], says: str, graph: Graph, data: Dataset, tmp_path: Path, capfd: Any
) -> None:
    def action(rank: int) -> None:
        train(graph, data, replace(CUT, **change), tmp_path / "run", seed=3)

    assert run_together(2, action) == [1, 1]
    assert says in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_steps_that_run_a_part_twice_take_a_shard_a_process(data: Dataset, tmp_path: Path) -> None:
    hull, start = load_hull(s3.SOURCE), spacelang.load(s3.SOURCE)
    images, teacher = digits(), a_teacher()

    def action(rank: int) -> None:
        says = "at most 1 shards a process here, not 2"
        recipe = replace(s3.RECIPE, shards=4, reduce="fsdp")
        with pytest.raises(SpaceError, match=says):
            search_own(s3.ENGINE, start, data, recipe, tmp_path / "run", hull=hull)
        by = replace(LESSON, shards=4, reduce="fsdp")
        with pytest.raises(SpaceError, match=says):
            learn(tmp_path / "run", images, MINIVIT, recipe=by, teacher=teacher)

    assert run_together(2, action) == [0, 0]
    assert not (tmp_path / "run").exists()
