"""Processes that share a run: the same bits as one, whoever dies, and clear words where they cannot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command import data as data_of
from hypothesis import given
from hypothesis import strategies as st
from processes import run_together
from searches import MOVING, RANGES, content, small_digits
from test_engines_cream import SPACE as PATHS
from test_train import RECIPE, SPACE, fingerprint
from torch import Tensor

import spacelang
from spacelang.backends.torch.data.datasets import (
    Dataset,
    Epochs,
    shard_sizes,
)
from spacelang.backends.torch.data.mixup import Mixing
from spacelang.backends.torch.runs.interrupt import Interrupt
from spacelang.backends.torch.runs.progress import progress
from spacelang.backends.torch.runs.ranks import (
    ALONE,
    Branch,
    Lost,
    Ranks,
    current,
    divides,
    together,
    tree,
)
from spacelang.backends.torch.runs.run import RunFolder, read_log
from spacelang.backends.torch.searching.baselines import search_beside
from spacelang.backends.torch.searching.scratch import Scratch
from spacelang.backends.torch.searching.search import search, search_scratch
from spacelang.backends.torch.searching.train_and_search import search_own
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training import training
from spacelang.backends.torch.training.trainer import TorchTrainer
from spacelang.backends.torch.training.training import load_trained, train
from spacelang.diagnostics import Source, SpaceError
from spacelang.engines.baselines import Extreme, RandomSearch
from spacelang.engines.contraction import Contraction
from spacelang.engines.evolution import Evolution
from spacelang.engines.paths import Plans
from spacelang.engines.prioritized_path import PrioritizedPath
from spacelang.engines.protocol import Samples, Score
from spacelang.files import Lock
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.loader import load_hull

NORMED = SPACE.replace(
    "x = patch_embed",
    "x = conv(x, 4, 3, pad: 1) as first |> batch_norm as bn\n  x = patch_embed",
)
SHARDED = replace(RECIPE, epochs=2, shards=4, mixup=0.4, cutmix=0.8, clip_grad=1.0)
NO_HURRY = 600  # seconds


@pytest.fixture(scope="module")
def graph() -> Graph:
    """With batch norms, whose statistics are sums over the processes too."""
    return spacelang.load(Source("<digits>", NORMED))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return small_digits(194, 120)


@pytest.fixture(scope="module")
def alone(graph: Graph, data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, which takes all shards one after the other."""
    folder = tmp_path_factory.mktemp("alone") / "train"
    train(graph, data, SHARDED, folder, seed=3)
    return folder


# Sums.


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=16))
def test_one_tree_for_all(values: list[float]) -> None:
    """Items one by one, and branches of it by themselves, give the bits of the whole tree."""
    leaves = [torch.tensor([v]) for v in values]
    whole = tree(leaves, torch.add)
    for size in (n for n in range(1, len(leaves) + 1) if divides(len(leaves), n)):
        own = len(leaves) // size
        sums = []
        for rank in range(size):
            branch = Branch()
            for leaf in leaves[rank * own : (rank + 1) * own]:
                branch.push({0: leaf.clone()})
            sums.append(branch.total()[0])
        assert torch.equal(tree(sums, torch.add), whole)


@pytest.mark.parametrize(
    ("shards", "sizes"), [(1, [1]), (4, [1, 2, 4]), (6, [1, 3, 6]), (8, [1, 2, 4, 8])]
)
def test_which_processes_can_share(shards: int, sizes: list[int]) -> None:
    for size in range(1, 10):
        if size in sizes:
            owned = [n for rank in range(size) for n in Ranks(rank, size).shards(shards)]
            assert owned == list(range(shards))
        else:
            with pytest.raises(SpaceError, match="SP708"):
                Ranks(0, size).shards(shards)


@given(st.integers(1, 40), st.integers(1, 9))
def test_shards_are_the_batch(count: int, shards: int) -> None:
    sizes = shard_sizes(count, shards)
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1


def test_shards_mix_what_the_batch_mixes(data: Dataset) -> None:
    epochs = Epochs(data.train, 50, seed=1)
    mixing = Mixing(mixup=0.4, cutmix=1.0)
    for number in range(4):
        whole = epochs.load(1, number, mixing)
        parts = [epochs.load(1, number, mixing, shard, 4) for shard in range(4)]
        assert torch.equal(torch.cat([p.images for p in parts]), whole.images)
        assert torch.equal(torch.cat([p.labels for p in parts]), whole.labels)
        assert torch.equal(torch.cat([p.others for p in parts]), whole.labels.flip(0))
        assert {p.share for p in parts} == {whole.share}


# Steps.


def weights_after(graph: Graph, data: Dataset, recipe, steps: int) -> dict[str, torch.Tensor]:
    """In float64, so that the order of a sum is all that can differ."""
    trainer = TorchTrainer(Supernet(graph, seed=0).double(), graph, data, recipe, seed=0)
    plans = Plans(recipe.engine, graph, 0, trainer.steps("train"))
    for step in range(steps):
        trainer.step(plans.at(step))
    return {name: t.clone() for name, t in trainer.model.state_dict().items()}


def test_shards_add_up_to_the_batch(data: Dataset) -> None:
    """Without batch norms the gradient of a batch is the sum of those of its parts."""
    graph = spacelang.load(Source("<digits>", SPACE.replace("0.25 * i", "0")))
    recipe = replace(SHARDED, shards=1)
    whole = weights_after(graph, data, recipe, 6)
    for shards in (3, 4):
        parts = weights_after(graph, data, replace(recipe, shards=shards), 6)
        for name, value in whole.items():
            assert torch.allclose(parts[name], value, rtol=1e-9, atol=1e-12), name


def test_processes_end_with_the_bits_of_one(
    alone: Path, graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    """2 processes and 4: checkpoint, moments, average, statistics, and the log."""
    for size in (2, 4):
        folder = tmp_path / str(size)
        codes = run_together(size, lambda rank, at=folder: train(graph, data, SHARDED, at, seed=3))
        assert codes == [0] * size
        assert fingerprint(folder) == fingerprint(alone)


def test_the_number_of_processes_may_change_between_runs(
    alone: Path, graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    """One process, stopped in the middle; two, of which one gets a signal; and one to the end."""
    folder = tmp_path / "train"

    def stopping(step_at: int, rank_at: int):
        original = TorchTrainer.step

        def step(self, plan):
            metrics = original(self, plan)
            if self.taken == step_at and self.ranks.rank == rank_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return metrics

        def action(rank: int) -> None:
            vars(training)["TorchTrainer"].step = step
            train(graph, data, SHARDED, folder, seed=3)

        return action

    for size, step, rank in ((1, 2, 0), (2, 4, 1)):
        assert run_together(size, stopping(step, rank)) == [1] * size
        assert len(read_log(folder)) == step // 5
    train(graph, data, SHARDED, folder, seed=3)
    assert fingerprint(folder) == fingerprint(alone)


def test_who_hangs_is_waited_for_as_long_as_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACELANG_TIMEOUT", "10")

    def hanging(rank: int) -> None:
        if rank == 1:
            (tmp_path / "hangs").write_text(str(os.getpid()))
        current().wait()
        if rank == 1:
            time.sleep(600)  # until it is killed
        try:
            began = time.monotonic()
            with pytest.raises(Lost, match="another process of the run is gone"):
                current().wait()
            assert time.monotonic() - began > 1
        finally:
            os.kill(int((tmp_path / "hangs").read_text()), signal.SIGKILL)

    assert run_together(2, hanging) == [0, -signal.SIGKILL]


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "1e9", ""])
def test_a_time_that_is_none_is_told(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACELANG_TIMEOUT", text)
    for name, value in (
        ("WORLD_SIZE", "2"),
        ("RANK", "0"),
        ("MASTER_ADDR", "x"),
        ("MASTER_PORT", "1"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(OSError, match="not a number of seconds above 0"), together("cpu"):
        pass


@pytest.mark.parametrize("size", [2, 4])
def test_a_killed_process_ends_the_others_and_nothing_is_lost(
    size: int, alone: Path, graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    """As torchrun meets it: a process is gone, the others end by themselves, and all start anew."""
    folder = tmp_path / "train"
    original = TorchTrainer.step

    def dying(rank: int) -> None:
        def step(self, plan):
            if plan.step == 7 and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(self, plan)

        vars(training)["TorchTrainer"].step = step
        train(graph, data, SHARDED, folder, seed=3)

    assert run_together(size, dying) == [1, -signal.SIGKILL, *[1] * (size - 2)]
    assert len(read_log(folder)) == 1
    codes = run_together(size, lambda rank: train(graph, data, SHARDED, folder, seed=3))
    assert codes == [0] * size
    assert fingerprint(folder) == fingerprint(alone)


def test_the_fallback_agrees_with_one_process(graph: Graph, data: Dataset, tmp_path: Path) -> None:
    """PyTorch's DDP adds in an order of its own, so float64 alone can tell: 1e-9 of a weight."""
    recipe = replace(SHARDED, shards=2, mixup=0.0, cutmix=0.0)
    here = weights_after(graph, data, recipe, 5)

    def action(rank: int) -> None:
        found = weights_after(graph, data, replace(recipe, reduce="ddp"), 5)
        torch.save(found, tmp_path / f"{rank}.pt")

    assert run_together(2, action) == [0, 0]
    for rank in range(2):
        there = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in here.items():
            assert torch.allclose(there[name], value, rtol=1e-9, atol=1e-12), name


def test_not_finite_is_met_by_all(graph: Graph, data: Dataset, tmp_path: Path) -> None:
    """One process's part of the loss is not finite: all refuse the step, and none waits."""

    def action(rank: int) -> None:
        trainer = TorchTrainer(Supernet(graph, seed=0), graph, data, SHARDED, seed=0)
        before = {n: t.clone() for n, t in trainer.model.named_parameters()}
        trainer.guard.policy = "skip"
        if rank == 1:
            original = trainer._value
            trainer._value = lambda *given: original(*given) * torch.inf  # type: ignore[method-assign]
        plan = Plans(SHARDED.engine, graph, 0, trainer.steps("train")).at(0)
        assert trainer.step(plan).total == 0
        assert all(torch.equal(p, before[n]) for n, p in trainer.model.named_parameters())

    assert run_together(2, action) == [0, 0]


# Searches.


def test_scores_are_shared_and_are_those_of_one(
    alone: Path, graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    engine = Evolution(population=4, generations=2, parents=2, mutants=2, crossovers=1)

    def run(folder: Path) -> None:
        trained = load_trained(graph, data, alone)
        search(engine, graph, trained, data, folder, seed=1, recalibrate=60, baselines=True)

    run(tmp_path / "one")
    assert run_together(2, lambda rank: run(tmp_path / "two")) == [0, 0]
    for name in ("evolution.json", "random.json", "extreme.json", "begun.json", "scores.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize("more", [{"batch_size": 97}, {"shards": 2, "reduce": "fsdp"}])
def test_a_search_does_not_ask_how_its_weights_were_trained(
    more: dict[str, Any], graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    """One shard, as trained by default, and weights that were cut: scores have no gradients."""
    recipe = replace(SHARDED, **{"epochs": 1, "shards": 1, **more})
    train(graph, data, recipe, tmp_path / "train", seed=3)

    def run(folder: Path) -> None:
        trained = load_trained(graph, data, tmp_path / "train")
        search(RandomSearch(3), graph, trained, data, folder, seed=1)
        assert not trained.model.cut

    run(tmp_path / "one")
    assert run_together(2, lambda rank: run(tmp_path / "two")) == [0, 0]
    for name in ("random.json", "scores.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_parts_of_a_score_that_fail_fail_it(graph: Graph, data: Dataset) -> None:
    def action(rank: int) -> None:
        recipe = replace(SHARDED, model_ema=False)
        trainer = TorchTrainer(Supernet(graph, seed=0), graph, data, recipe, seed=0)
        if rank == 1:
            with torch.no_grad():
                trainer.model.get_parameter("head.bias").fill_(torch.inf)
        held = trainer.feed.batches(Samples())
        trainer.feed._held[Samples()] = [b._replace(ids=b.ids) for b in held] * 2
        (score,) = trainer.probe([graph.decisions.extreme("largest")], Samples())
        assert score.failure == "its outputs are not finite"

    assert run_together(2, action) == [0, 0]


def short(*given: object, **named: object) -> None:
    raise torch.OutOfMemoryError("out of memory")


def test_too_little_memory_in_one_process(
    graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For statistics it fails the candidate for all; in a training of its own it ends the search,
    also where that is of a baseline, which nobody goes on without alone."""
    monkeypatch.setenv("SPACELANG_TIMEOUT", "20")  # of who would wait
    largest = graph.decisions.extreme("largest")
    recipe = replace(SHARDED, model_ema=False, recalibrate=60)

    def action(rank: int) -> None:
        with monkeypatch.context() as patched:
            if rank == 1:
                patched.setattr("spacelang.backends.torch.training.trainer.recalibrated", short)
            trainer = TorchTrainer(Supernet(graph, seed=0), graph, data, recipe, seed=0)
            (score,) = trainer.probe([largest], Samples())
            assert score.failure == "out of memory"
        if rank == 1:
            monkeypatch.setattr(TorchTrainer, "_backward", short)
        prober, told = Scratch(graph, data, recipe, seed=0), progress("quiet")
        with (
            Interrupt() as interrupt,
            pytest.raises(SpaceError if rank else Lost, match="out of memory" if rank else "gone"),
        ):
            search_beside([Extreme()], graph, prober, tmp_path, interrupt, 0, told)
            current().lead(lambda: (tmp_path / "ended").touch())

    assert run_together(2, action) == [0, 0]
    assert not list(tmp_path.iterdir()), "the search did not come to its end"


def test_a_baseline_that_all_fail_alike_is_left_out(graph: Graph, tmp_path: Path) -> None:
    class Fails:
        def probe(self, assignments: Iterable[Assignment], samples: Samples) -> Iterator[Score]:
            return (Score(0, 0, "its outputs are not finite") for _ in assignments)

    def action(rank: int) -> None:
        with Interrupt() as interrupt:
            told = progress("quiet")
            assert search_beside([Extreme()], graph, Fails(), tmp_path, interrupt, 0, told) == ()

    assert run_together(2, action) == [0, 0]
    assert not list(tmp_path.iterdir())


def test_engines_that_train_end_with_the_bits_of_one(data: Dataset, tmp_path: Path) -> None:
    """Whoever adds the gradients: of two halves a sum has one order, by PyTorch's DDP too."""
    file = tmp_path / "ranges.space"
    file.write_text(RANGES)
    paths, ranges = spacelang.load(Source("<paths>", PATHS)), spacelang.load(file)
    engine = PrioritizedPath(epochs=3, warm_epochs=0, images=4, board=3, update_every=2)
    recipe = replace(RECIPE, shards=2, model_ema=False)

    def run(rank: int, ways: Sequence[Any] = ("explicit", "ddp"), at: str = "") -> None:
        for way in ways:
            by, place = replace(recipe, reduce=way), tmp_path / (at or way)
            search_own(engine, paths, data, by, place / "paths", seed=1)
            search_own(
                MOVING, ranges, data, by, place / "ranges", seed=4, hull=load_hull(str(file))
            )

    run(0, ("explicit",), "one")
    assert run_together(2, run) == [0, 0]
    for kind in ("paths", "ranges"):
        whole = content(tmp_path / "one" / kind)
        for way in ("explicit", "ddp"):
            found = content(tmp_path / way / kind)
            assert found.keys() == whole.keys()
            differing = {Path(name).name for name in whole if found[name] != whole[name]}
            assert differing == (set() if way == "explicit" else {"run.json"}), (kind, way)


def test_networks_trained_anew_end_with_the_bits_of_one(
    graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    """By DDP, which wraps one after the other in the same processes, their weights before scoring."""
    engine = Contraction(bounds=("", ""), population=2, keep=1, factors=1, reach=1)
    recipe = replace(RECIPE, epochs=1, shards=2, model_ema=False)
    probe = TorchTrainer.probe

    def run(rank: int, way: Any = "ddp") -> None:
        trained: list[dict[str, Tensor]] = []

        def noting(self: TorchTrainer, *given: Any) -> Any:
            trained.append({n: t.clone() for n, t in self.model.state_dict().items()})
            return probe(self, *given)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TorchTrainer, "probe", noting)
            by = replace(recipe, reduce=way)
            search_scratch(engine, graph, data, by, tmp_path / way, baselines=False)
        torch.save(trained, tmp_path / f"{way}-{rank}.pt")

    run(0, "explicit")
    assert run_together(2, run) == [0, 0]
    one = torch.load(tmp_path / "explicit-0.pt", weights_only=True)
    assert len(one) == 3, "two, and beside the better one, which has a score, another"
    for rank in range(2):
        there = torch.load(tmp_path / f"ddp-{rank}.pt", weights_only=True)
        for mine, other in zip(one, there, strict=True):
            assert mine.keys() == other.keys()
            assert all(torch.equal(other[n], mine[n]) for n in mine)
    found = [(tmp_path / way / "contraction.json").read_bytes() for way in ("explicit", "ddp")]
    assert found[0] == found[1]


# What cannot be.


def test_only_the_first_claims_the_folder(tmp_path: Path) -> None:
    def action(rank: int) -> None:
        with RunFolder(tmp_path / "run", "training", {"seed": 1}):
            pass
        with Lock(tmp_path / "run") if rank == 0 else open(os.devnull):
            pass

    assert run_together(2, action) == [0, 0]


def test_processes_that_differ_are_refused(tmp_path: Path, capfd) -> None:
    def action(rank: int) -> None:
        with RunFolder(tmp_path / "run", "training", {"seed": rank}):
            pytest.fail("entered")

    assert run_together(2, action) == [1, 1]
    assert capfd.readouterr().err.count("SP708") == 2
    assert not (tmp_path / "run").exists()


def test_what_the_first_cannot_do_ends_all(tmp_path: Path, capfd) -> None:
    (tmp_path / "file").write_text("")

    def action(rank: int) -> None:
        with RunFolder(tmp_path / "file" / "run", "training", {}):
            pytest.fail("entered")

    assert run_together(2, action) == [1, 1]
    told = capfd.readouterr().err
    assert "NotADirectoryError" in told
    assert "the first one says why" in told


def test_ddp_needs_a_shard_a_process(graph: Graph, data: Dataset, capfd) -> None:
    def action(rank: int) -> None:
        TorchTrainer(Supernet(graph), graph, data, replace(SHARDED, reduce="ddp"), seed=0)

    assert run_together(2, action) == [1, 1]
    assert "--shards 2, or --reduce explicit" in capfd.readouterr().err


def test_half_an_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(OSError, match="MASTER_ADDR"), together():
        pytest.fail("joined")
    monkeypatch.setenv("WORLD_SIZE", "abc")
    with pytest.raises(OSError, match="WORLD_SIZE is 'abc'"), together():
        pytest.fail("joined")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with together() as ranks:
        assert ranks == ALONE


# The command line.


def test_torchrun_restarts_a_killed_process(tmp_path: Path) -> None:
    """`torchrun` with two processes; the second kills itself in its first life; one answer is printed."""
    (tmp_path / "digits.space").write_text(SPACE)
    script = tmp_path / "run.py"
    script.write_text(
        "import os, signal\n"
        "from spacelang.backends.torch.training.trainer import TorchTrainer\n"
        "original = TorchTrainer.step\n"
        "def step(self, plan):\n"
        "    if plan.step == 8 and os.environ['RANK'] == '1':\n"
        "        if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, plan)\n"
        "TorchTrainer.step = step\n"
        "from spacelang.cli.main import main\n"
        "main()\n"
    )
    words = ["train", "digits.space", "--data", "digits", "--epochs", "2", "-b", "200", "--shards", "2",
             "--progress", "quiet", "--val-interval", "0", "--json", "-o"]  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
              "--max-restarts", "1", str(script)]  # fmt: skip
    done = subprocess.run(
        [*launch, *words, "there"], cwd=tmp_path, capture_output=True, text=True, timeout=NO_HURRY
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["steps"] == 12
    alone = data_of("train", tmp_path / "digits.space", *words[2:-2], "-o", tmp_path / "here")
    assert (told["weights"], told["log"]) == (alone["weights"], alone["log"])
