"""CDARTS shared by processes: the same bits as one, whoever dies, whatever their number."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import cells, text
from command import data as answer
from command import refused
from processes import run_together
from test_cycles import ENGINE, RECIPE, SHARED, fingerprint, joint
from test_cycles import data as small_data
from torch.distributed.tensor import DTensor
from torch.nn import functional

from spacelang.backends.torch.data.datasets import Dataset
from spacelang.backends.torch.networks import Networks
from spacelang.backends.torch.runs.ranks import current
from spacelang.backends.torch.runs.run import read_log
from spacelang.backends.torch.searching import cycles
from spacelang.backends.torch.searching.cycle_trainer import CycleTrainer
from spacelang.backends.torch.searching.cycles import search_program
from spacelang.backends.torch.training.feed import Feed
from spacelang.backends.torch.training.nonfinite import NotFinite
from spacelang.diagnostics import SpaceError
from spacelang.engines.derive import Derivation
from spacelang.engines.protocol import StepPlan
from spacelang.journal import read_journal

SHARDED = replace(RECIPE, shards=4)
SHORT = replace(ENGINE, epochs=3)
NO_HURRY = 600  # seconds
data = small_data  # the fixture


def search(folder: Path, images: Dataset, reduce: Any = "explicit") -> None:
    search_program(SHORT, cells(), images, replace(SHARDED, reduce=reduce), folder, seed=3)


@pytest.fixture(scope="module")
def alone(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, which takes all shards one after the other."""
    folder = tmp_path_factory.mktemp("alone") / "cells"
    search(folder, data)
    return folder


def test_a_step_is_the_mean_of_its_shards(data: Dataset) -> None:
    """Gradients and running statistics of a joint step by hand: 13, 13 and 14 images of 40."""
    engine = replace(ENGINE, clip_grad=None)
    made = CycleTrainer(cells(), data, replace(RECIPE, shards=3), seed=0)
    made.reset(engine.groups(Derivation(cells())))
    twin, plan = Networks(cells(), seed=0), joint(engine)
    whole = Feed(data, 40, 0, RECIPE.augmentation).batch(plan)
    slopes: dict[str, torch.Tensor] = {}
    statistics = {n: torch.zeros_like(b) for n, b in twin.named_buffers() if b.is_floating_point()}
    losses = 0.0
    for images, labels in zip(
        whole.images.tensor_split(3), whole.labels.tensor_split(3), strict=True
    ):
        twin = Networks(cells(), seed=0).train()
        search = list(twin["shallow"].all_outputs(images).values())
        deep = list(twin["deep"].activate(plan.forwards[1].assignment).all_outputs(images).values())
        shares = twin.ensemble.softmax(0)
        ours, theirs = (
            torch.cat([s * x for s, x in zip(shares, said, strict=True)]) for said in (search, deep)
        )
        alphas = [v for p, v in twin.alphas("shallow").items() if p.endswith("op")]
        loss = (
            functional.cross_entropy(search[-1], labels)
            + functional.cross_entropy(deep[-1], labels)
            + 4 * functional.smooth_l1_loss(ours, theirs)
            + 5 * 3 * sum(v[0].abs() + v[1].abs() for v in alphas)
        )
        loss.backward()
        share = len(images) / 40
        losses += share * loss.item()
        for name, parameter in twin.named_parameters():
            if parameter.grad is not None:
                slopes[name] = slopes.get(name, 0) + share * parameter.grad
        for name, buffer in twin.named_buffers():
            if name in statistics:
                statistics[name] += share * buffer
    metrics = made.step(plan)
    assert metrics.loss == pytest.approx(losses, rel=1e-5)
    assert metrics.total == 40
    first = Networks(cells(), seed=0)
    for name, parameter in made.networks.named_parameters():
        before = first.get_parameter(name).detach()
        if (
            name in slopes
            and ".alphas." not in name
            and (name in SHARED or not name.startswith("nets.shallow"))
        ):
            wanted = before - 0.08 * (slopes[name] + 3e-4 * before)
            assert torch.allclose(parameter, wanted, atol=2e-6, rtol=0), name
    found = dict(made.networks.named_buffers())
    for name, wanted in statistics.items():
        assert torch.allclose(found[name], wanted, atol=1e-6, rtol=1e-5), name


def test_processes_end_with_the_bits_of_one(alone: Path, data: Dataset, tmp_path: Path) -> None:
    for size in (2, 4):
        folder = tmp_path / str(size)
        assert run_together(size, lambda rank, at=folder: search(at, data)) == [0] * size
        assert fingerprint(folder) == fingerprint(alone)
        assert (folder / "report.html").is_file()


def at_step(number: int, of: int, action: signal.Signals):
    """A step that sends its process a signal, once, if it is the one of a rank."""
    original = CycleTrainer.step

    def step(self: CycleTrainer, plan: StepPlan) -> object:
        if plan.step == number and self.ranks.rank == of:
            os.kill(os.getpid(), action)
        return original(self, plan)

    return step


def test_the_number_of_processes_may_change_between_runs(
    alone: Path, data: Dataset, tmp_path: Path
) -> None:
    """One process, stopped in the middle; two, of which one gets a signal; and one to the end."""
    folder = tmp_path / "cells"
    for size, step, rank in ((1, 4, 0), (2, 9, 1)):

        def stopped(_: int, step: int = step, of: int = rank) -> None:
            vars(cycles)["CycleTrainer"].step = at_step(step, of, signal.SIGTERM)
            search(folder, data)

        assert run_together(size, stopped) == [1] * size
        assert read_journal(folder / "manifest.jsonl").entries[-1]["step"] == step + 1
    search(folder, data)
    assert fingerprint(folder) == fingerprint(alone)


@pytest.mark.parametrize(("size", "reduce"), [(2, "explicit"), (4, "fsdp")])
def test_a_killed_process_ends_the_others_and_nothing_is_lost(
    size: int, reduce: str, alone: Path, data: Dataset, tmp_path: Path
) -> None:
    """The networks of four are cut into pieces; what goes on with them may be one process."""
    folder = tmp_path / "cells"

    def met(step: int, by: signal.Signals) -> list[int]:
        def action(_: int) -> None:
            vars(cycles)["CycleTrainer"].step = at_step(step, 1, by)
            search(folder, data, reduce)

        return run_together(size, action)

    assert met(11, signal.SIGKILL) == [1, -signal.SIGKILL, *[1] * (size - 2)]
    assert 0 < len(read_log(folder)) < SHORT.passes
    assert met(17, signal.SIGTERM) == [1] * size
    assert read_journal(folder / "manifest.jsonl").entries[-1]["step"] == 18
    if reduce == "fsdp":
        search(folder, data, reduce)
    else:
        assert run_together(size, lambda _: search(folder, data)) == [0] * size
    assert fingerprint(folder) == fingerprint(alone)


def stepped(data: Dataset, reduce: Any) -> CycleTrainer:
    made = CycleTrainer(cells(), data, replace(SHARDED, shards=2, reduce=reduce), seed=0)
    made.reset(ENGINE.groups(Derivation(cells())))
    made.step(joint(ENGINE))
    return made


def test_pytorch_adds_the_gradients_of_a_step(data: Dataset) -> None:
    """By DDP, of two halves, whose sum has one order: the bits of one process."""
    here = stepped(data, "explicit").networks.state_dict()

    def action(_: int) -> None:
        there = stepped(data, "ddp").networks.state_dict()
        assert [n for n, tensor in here.items() if not torch.equal(tensor, there[n])] == []

    assert run_together(2, action) == [0, 0]


def test_networks_are_cut_and_whole_for_a_step(data: Dataset) -> None:
    """Weights, their pool and moments; not what is read between steps."""

    def action(_: int) -> None:
        made = stepped(data, "fsdp")
        few = {*made.networks.few}
        assert few
        for parameter in made.networks.parameters():
            assert isinstance(parameter, DTensor) == (parameter not in few)
        assert set(made.networks.pooled_weights) <= made.networks.pool.keys()
        moments = [
            value for optimizer in made.optimizers.values()
            for parameter, state in optimizer.state.items() if parameter not in few
            for value in state.values()
        ]  # fmt: skip
        held = [p for p in made.networks.parameters() if p not in few]
        for cut in (held, moments, [made.networks.pool[n] for n in made.networks.pooled_weights]):
            assert cut
            assert all(isinstance(tensor, DTensor) for tensor in cut)
            whole = sum(tensor.numel() for tensor in cut)
            assert sum(tensor.to_local().numel() for tensor in cut) < 0.6 * whole

    assert run_together(2, action) == [0, 0]


def test_not_finite_is_met_by_all(data: Dataset) -> None:
    """One process's part of the loss is not finite: all refuse the step, and none waits."""

    def whole(made: CycleTrainer) -> dict[str, torch.Tensor]:
        found = made.networks.named_parameters()
        return {n: p.full_tensor() if isinstance(p, DTensor) else p.clone() for n, p in found}

    def action(rank: int) -> None:
        for reduce in ("explicit", "ddp", "fsdp"):
            made = CycleTrainer(cells(), data, replace(SHARDED, shards=2, reduce=reduce), seed=0)
            made.reset(ENGINE.groups(Derivation(cells())))
            before, original = whole(made), made._value
            if rank == 1:
                made._value = lambda *given, real=original: real(*given) * torch.inf  # type: ignore
            with pytest.raises(NotFinite):
                made.step(joint(ENGINE))
            assert all(torch.equal(p, before[n]) for n, p in whole(made).items())
            made._value = original  # type: ignore[method-assign]
            assert made.step(joint(ENGINE)).total > 0

    assert run_together(2, action) == [0, 0]


def test_what_does_not_go_is_refused_before_any_work(data: Dataset, tmp_path: Path, capfd) -> None:
    def apart(_: int) -> None:
        for reduce, most in (("ddp", "has one shard"), ("fsdp", "takes at most 1 shards")):
            with pytest.raises(SpaceError, match=f"SP708.*{reduce} {most} a process"):
                search(tmp_path / "run", data, reduce)

    assert run_together(2, apart) == [0, 0]

    def odd(_: int) -> None:
        current().wait()  # nobody leaves before all have met
        search(tmp_path / "run", data)

    assert run_together(3, odd) == [1] * 3
    assert capfd.readouterr().err.count("3 processes cannot share 4 shards") == 3
    assert not (tmp_path / "run").exists()
    (tmp_path / "cells.space").write_text(text())
    words = ("search", tmp_path / "cells.space", "--engine", "cyclic_differentiable")
    told = refused(*words, "--data", "digits", "--opt", "sgd", "-o", tmp_path / "run")
    assert "--opt is nothing that cyclic_differentiable has a use for" in told


@pytest.mark.soak  # a minute of imports
def test_torchrun_restarts_a_killed_process(tmp_path: Path) -> None:
    """`torchrun` with two processes; the second kills itself in its first life; one answer is printed."""
    (tmp_path / "cells.space").write_text(text())
    script = tmp_path / "run.py"
    script.write_text(
        "import os, signal\n"
        "from spacelang.backends.torch.searching.cycle_trainer import CycleTrainer\n"
        "original = CycleTrainer.step\n"
        "def step(self, plan):\n"
        "    if plan.step == 7 and os.environ['RANK'] == '1':\n"
        "        if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, plan)\n"
        "CycleTrainer.step = step\n"
        "from spacelang.cli.main import main\n"
        "main()\n"
    )
    words = ["search", tmp_path / "cells.space", "--engine", "cyclic_differentiable", "--data",
             "digits", "-b", "200", "--shards", "2", "--progress", "quiet", "--json", "-o"]  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
              "--max-restarts", "1", str(script)]  # fmt: skip
    done = subprocess.run(
        [*launch, *map(str, words), "there"],
        cwd=tmp_path, capture_output=True, text=True, timeout=NO_HURRY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer(*words[:-1], "-o", tmp_path / "here")
    assert fingerprint(tmp_path / "there") == fingerprint(tmp_path / "here")
