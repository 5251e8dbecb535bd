"""CDARTS on digits: its losses against their definitions, its steps by hand, and runs that stop."""

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
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from cells import cells, text
from command import data as answer
from command import good, refused
from torch import Tensor
from torch.nn import functional

from spacelang.backends.torch import supernet as supernet_module
from spacelang.backends.torch.data.datasets import Dataset, first_samples, open_data
from spacelang.backends.torch.networks import Networks
from spacelang.backends.torch.runs.interrupt import Interrupted
from spacelang.backends.torch.runs.run import read_log
from spacelang.backends.torch.searching.cycle_trainer import CycleTrainer
from spacelang.backends.torch.searching.cycles import Work, open_program, search_program
from spacelang.backends.torch.searching.program_folder import read_program
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.checkpoint import CheckpointError, Checkpoints
from spacelang.backends.torch.training.feed import Feed
from spacelang.backends.torch.training.losses import INTROSPECTING, alpha_norm, ensemble
from spacelang.backends.torch.training.nonfinite import NotFinite
from spacelang.backends.torch.training.recipe import Recipe
from spacelang.backends.torch.training.training import load_trained
from spacelang.diagnostics import Source, SpaceError, VerificationError
from spacelang.engines.cyclic_differentiable import CyclicDifferentiable
from spacelang.engines.derive import Derivation
from spacelang.engines.protocol import Forward, LossTerm, Samples, Score, Slots, StepPlan
from spacelang.engines.replay import Answers
from spacelang.journal import read_journal
from spacelang.loader import load_program

ENGINE = CyclicDifferentiable(
    epochs=4, warm=1, never=("none",), regular_on=("pool", "skip"), alpha_lr=0.05
)
RECIPE = Recipe(batch_size=40, aug="digits")
CELL = {
    "normal.inputs[0]": [1, 0],
    "normal.dag[0][0].op": "conv",
    "normal.dag[0][1].op": "skip",
    "normal.inputs[1]": [2, 0],
    "normal.dag[1][0].op": "conv",
    "normal.dag[1][1].op": "conv",
}


@pytest.fixture(scope="module")
def data() -> Dataset:
    whole = open_data("digits")
    return replace(
        whole,
        train=first_samples(whole.train, 200),
        validation=first_samples(whole.validation, 100),
    )


# The losses, against formulas written out.


def outputs(seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]


def distance(kind: str, search: Tensor, evaluation: Tensor, temperature: float) -> Tensor:
    """CDARTS's distances, element by element."""
    rows, classes = search.shape
    if kind == "kl":
        p, q = (torch.softmax(x / temperature, 1) for x in (evaluation, search))
        found = (p * (p / q).log()).sum() / (rows * classes)
    elif kind == "cosine":
        lengths = search.square().sum(1).sqrt() * evaluation.square().sum(1).sqrt()
        found = -((search * evaluation).sum(1) / lengths).mean()
    elif kind == "mse":
        found = (search - evaluation).square().mean()
    else:
        apart = (search - evaluation).abs()
        found = torch.where(apart < 1, apart.square() / 2, apart - 0.5).mean()
    return found * temperature**2


@pytest.mark.parametrize("kind", ["kl", "cosine", "mse", "smooth_l1"])
@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("detach", [False, True])
def test_introspection_of_ensembles_and_its_gradients(
    kind: str, summed: bool, detach: bool
) -> None:
    search, evaluation = outputs(1), outputs(2)
    theta = torch.tensor([0.1, -0.4, 0.3], dtype=torch.float64, requires_grad=True)
    options = {"temperature": 2.0, "summed": float(summed), "detach": float(detach)}
    found = INTROSPECTING[f"introspection_{kind}"](search, evaluation, theta, options)

    shares = theta.exp() / theta.exp().sum()
    both: list[Tensor] = []
    for parts in (search, evaluation):
        weighed = [share * part for share, part in zip(shares, parts, strict=True)]
        both.append(weighed[0] + weighed[1] + weighed[2] if summed else torch.cat(weighed))
    assert both[0].shape == ((5, 4) if summed else (15, 4))
    given = both[1].detach() if detach else both[1]
    wanted = distance(kind, both[0], given, 2.0)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-14)
    learning = [*search, theta, *([] if detach else evaluation)]
    for ours, theirs in zip(
        torch.autograd.grad(found, learning, retain_graph=True),
        torch.autograd.grad(wanted, learning, retain_graph=True),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-14, rtol=0)
    left = torch.autograd.grad(found, evaluation, allow_unused=True)
    assert all((slope is None) == detach for slope in left), "both are pulled, or one is"


def test_an_ensemble_keeps_the_order_of_the_outputs() -> None:
    parts = [torch.full((2, 3), float(n)) for n in range(3)]
    joined = ensemble(parts, torch.zeros(3), summed=False)
    assert joined[:, 0].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 2 / 3])


def test_the_norm_of_architecture_parameters() -> None:
    """The sum of |alpha| of the named columns; on a random controller of the published size about
    1.06 was measured, at a coefficient of 5 counted three times: 28 edges, three operations."""
    pairs = [(torch.tensor([1.0, -2.0, 4.0]), ["pool", "skip", "conv"]) for _ in range(2)]
    assert alpha_norm(pairs, {"pool": 3.0, "skip": 3.0}).item() == 2 * 3 * (1 + 2)
    names = ["max_pool", "avg_pool", "skip", "sep_3", "sep_5", "dil_3", "dil_5", "none"]
    torch.manual_seed(0)
    drawn = [(1e-3 * torch.randn(8), names) for _ in range(28)]
    found = 5 * alpha_norm(drawn, dict.fromkeys(names[:3], 3.0)).item()
    mean = 5 * 3 * 84 * 1e-3 * math.sqrt(2 / math.pi)
    assert abs(found - mean) < 0.25, "three standard deviations"
    assert abs(1.06 - mean) < 0.25


# The networks and their store.


def test_what_is_shared_is_there_once_and_the_pool_never_runs() -> None:
    networks = Networks(cells(), seed=3)
    shallow, deep = networks["shallow"], networks["deep"]
    for path in cells().shared:
        assert shallow.stored_tensor(path) is deep.stored_tensor(path)
    assert shallow.stored_tensor("head.weight") is not deep.stored_tensor("head.weight")
    pool = cells().pool
    assert pool is not None
    assert sum(t.numel() for t in networks.pool.values()) == pool.numel
    own = {id(p) for p in networks.parameters()}
    assert not own & {id(t) for t in networks.pool.values()}
    again = Networks(cells(), seed=3)
    assert all(torch.equal(t, again.pool[n]) for n, t in networks.pool.items())
    assert not any(torch.equal(t, Networks(cells(), seed=4).pool[n]) for n, t in again.pool.items())


def test_weights_survive_in_the_pool_where_an_edge_is_selected_again() -> None:
    networks, pool = Networks(cells(), seed=0), cells().pool
    assert pool is not None
    slots = pool.slots(CELL)
    own, kept = Slots("deep", tuple(slots)), Slots("memory", tuple(slots.values()))
    networks.renew(Slots("deep", ("cells",)), 1)
    drawn = [t.clone() for t in networks.tensors(own)]
    networks.copy(kept, own)
    assert not any(torch.equal(a, b) for a, b in zip(drawn, networks.tensors(own), strict=True))
    with torch.no_grad():
        for tensor in networks.tensors(own):
            tensor.add_(1)
    trained = [t.clone() for t in networks.tensors(own)]
    networks.copy(own, kept)
    networks.renew(Slots("deep", ("cells",)), 2)
    # The same edges in the other order: source 2 stands at position 1 now.
    other = {**CELL, "normal.inputs[1]": [0, 2]}
    moved = pool.slots(other)
    networks.copy(Slots("memory", tuple(moved.values())), Slots("deep", tuple(moved)))
    by_slot = dict(zip(slots.values(), trained, strict=True))
    assert moved != slots
    for path, slot in moved.items():
        (found,) = networks.tensors(Slots("deep", (path,)))
        assert torch.equal(found, by_slot[slot])
    networks.renew(Slots("deep", ("cells",)), 1)
    assert all(torch.equal(a, b) for a, b in zip(drawn, networks.tensors(own), strict=True))


# Steps.


def trainer(data: Dataset, engine: CyclicDifferentiable = ENGINE) -> CycleTrainer:
    recipe = replace(RECIPE, clip_grad=engine.clip_grad)
    made = CycleTrainer(cells(), data, recipe, seed=0)
    made.reset(engine.groups(Derivation(cells())))
    return made


def joint(engine: CyclicDifferentiable, step: int = 0) -> StepPlan:
    passes = (Forward({}, "shallow"), Forward(CELL, "deep"))
    groups = ("evaluation", "alphas")
    return StepPlan(step, 0, step, passes, engine.losses(0), "train/second", groups)


def alone(step: int, network: str, group: str) -> StepPlan:
    passes = (Forward(CELL if network == "deep" else {}, network),)
    return StepPlan(step, 0, step, passes, (LossTerm(),), "train/first", (group,))


def state(networks: Networks) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in networks.named_parameters()}


def moved(networks: Networks, before: Mapping[str, Tensor]) -> set[str]:
    """Network and first label of all that changed."""
    changed = {n for n, p in networks.named_parameters() if not torch.equal(p, before[n])}
    return {".".join(name.removeprefix("nets.").split(".")[:2]) for name in changed}


def test_steps_move_what_their_groups_say(data: Dataset) -> None:
    """Stem and inner head belong to both networks and are called by the first one."""
    made = trainer(data)
    networks = made.networks
    fixed = {p: v for p, v in networks.alphas("shallow").items() if "inputs" in p}
    before, even = state(networks), {p: v.clone() for p, v in fixed.items()}
    made.step(alone(0, "shallow", "search"))
    assert moved(networks, before) == {f"shallow.{n}" for n in ("stem", "norm", "cells", "head")}
    before = state(networks)
    metrics = made.step(joint(ENGINE, 1))
    assert set(metrics.terms) == {
        "cross_entropy", "cross_entropy[1]", "introspection_smooth_l1", "alpha_norm",
    }  # fmt: skip
    assert metrics.total == 40
    both = {"shallow.stem", "shallow.norm", "shallow.near", "shallow.alphas"}
    assert moved(networks, before) == both | {"deep.cells", "deep.head", "ensemble"}
    assert all(torch.equal(v, even[p]) for p, v in fixed.items()), "sources stay even"
    assert made.taken == 2

    still = trainer(data, replace(ENGINE, frozen=("near",), ensemble="even"))
    shares = still.networks.ensemble.softmax(0)
    assert torch.equal(shares, torch.full_like(shares, 1 / len(shares)))
    before = state(still.networks)
    still.step(joint(ENGINE))
    assert {"shallow.near", "ensemble"}.isdisjoint(moved(still.networks, before))


@pytest.mark.parametrize("detach", [False, True])
def test_a_joint_step_by_hand(data: Dataset, detach: bool) -> None:
    """L of the specification (5.3) by autograd, its norm over all that it reaches cut to 5, then
    SGD with decay for the deep network and Adam's first step for the architecture parameters."""
    engine = replace(ENGINE, detach=detach, balance=0.5)
    made, twin = trainer(data, engine), Networks(cells(), seed=0)
    batch = Feed(data, 40, 0, RECIPE.augmentation).batch(joint(engine))
    twin.train()
    search = list(twin["shallow"].all_outputs(batch.images).values())
    deep = list(twin["deep"].activate(CELL).all_outputs(batch.images).values())
    shares = twin.ensemble[:2].softmax(0) if len(search) == 2 else twin.ensemble.softmax(0)
    ours = torch.cat([s * x for s, x in zip(shares, search, strict=True)])
    theirs = torch.cat([s * x for s, x in zip(shares, deep, strict=True)])
    alphas = {p: v for p, v in twin.alphas("shallow").items() if p.endswith("op")}
    loss = (
        2 * functional.cross_entropy(search[-1], batch.labels)
        + 2 * functional.cross_entropy(deep[-1], batch.labels)
        + 0.5 * distance("smooth_l1", ours, theirs.detach() if detach else theirs, 2.0)
        + 5 * 3 * sum(v[0].abs() + v[1].abs() for v in alphas.values())
    )
    names = {n: p for n, p in twin.named_parameters() if "inputs" not in n}
    slopes = torch.autograd.grad(loss, list(names.values()), allow_unused=True)
    found = {n: s for n, s in zip(names, slopes, strict=True) if s is not None}
    norm = math.sqrt(sum(float(s.square().sum()) for s in found.values()))
    scale = min(1.0, 5 / norm)
    assert scale < 1, "the norm is cut"

    metrics = made.step(joint(engine))
    assert metrics.loss == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in made.networks.named_parameters():
        before = twin.get_parameter(name).detach()
        if ".alphas." in name and name in found:
            slope = scale * found[name]
            wanted = before - 0.05 * slope / (slope.abs() + 1e-8)
        elif name in found and (name in SHARED or not name.startswith("nets.shallow")):
            wanted = before - 0.08 * (scale * found[name] + 3e-4 * before)
        else:
            wanted = before
        assert torch.allclose(parameter, wanted, atol=2e-6, rtol=0), name


SHARED = {
    f"nets.shallow.{name}"
    for name in ("stem.weight", "norm.weight", "norm.bias", "near.classifier.weight",
                 "near.classifier.bias")
}  # fmt: skip


def test_halves_are_apart_and_take_turns(data: Dataset) -> None:
    feed = Feed(data, 30, seed=1)
    assert (feed.steps("train/first"), feed.steps("train/second")) == (4, 4)
    seen: dict[str, list[int]] = {"train/first": [], "train/second": []}
    for batch in range(4):
        for half, ids in seen.items():
            plan = StepPlan(0, 5, batch, (), data=half)
            ids += feed.batch(plan).ids.tolist()
    assert sorted(seen["train/first"] + seen["train/second"]) == sorted(data.train.ids.tolist())
    assert not set(seen["train/first"]) & set(seen["train/second"])
    again = Feed(data, 30, seed=1).batch(StepPlan(9, 5, 2, (), data="train/second"))
    assert again.ids.tolist() == seen["train/second"][60:90], "from the middle of an epoch"
    every = Feed(open_data("digits"), 30, seed=1)
    one, other = (torch.bincount(every.part(half).labels, minlength=10) for half in seen)
    assert int((one - other).abs().max()) < 30 < int(torch.minimum(one, other).min()), "all classes"
    with pytest.raises(SpaceError, match="no part of the data is called test"):
        feed.part("test")


def test_steps_that_cannot_be_taken_are_refused(data: Dataset) -> None:
    made = trainer(data)
    good_step = joint(ENGINE)
    said = LossTerm("introspection_kl", against=1)
    for wrong, says in (
        (replace(good_step, forwards=(Forward({}, "middle"),)), "no network middle"),
        (replace(good_step, groups=("weights",)), "no parameter groups"),
        (replace(good_step, losses=()), "has no loss"),
        (replace(good_step, losses=(LossTerm("hinge"),)), "no such loss"),
        (replace(good_step, losses=(LossTerm(), LossTerm())), "a loss twice"),
        (replace(good_step, losses=(replace(said, against=2),)), "reads no pass"),
        (replace(good_step, losses=(LossTerm(of=2),)), "reads no pass"),
        (replace(good_step, forwards=(Forward({}, "shallow", learns=False),)), "has to learn"),
    ):
        with pytest.raises(SpaceError, match=says) as failed:
            made.step(wrong)
        assert failed.value.diagnostics[0].code == "SP701"
    assert made.taken == 0


def test_a_loss_that_is_not_finite_moves_nothing(data: Dataset) -> None:
    made = trainer(data)
    with torch.no_grad():
        made.networks["deep"].stored_tensor("head.bias")[0] = float("nan")
    before = state(made.networks)
    with pytest.raises(NotFinite):
        made.step(joint(ENGINE))
    changed = moved(made.networks, before) - {"deep.head"}  # NaN is equal to nothing
    assert not changed


def test_a_step_that_is_left_out_moves_nothing(data: Dataset, tmp_path: Path) -> None:
    """Statistics of the passes before are taken back too, and a checkpoint knows of it."""
    made = trainer(data)
    made.guard.policy = "skip"
    told: list[Mapping[str, object]] = []
    made.guard.note = told.append
    made.step(joint(ENGINE))
    with torch.no_grad():
        kept = made.networks["deep"].stored_tensor("head.bias")[0].clone()
        made.networks["deep"].stored_tensor("head.bias")[0] = float("nan")
    before = {name: t.clone() for name, t in made.networks.state_dict().items()}
    metrics = made.step(joint(ENGINE, 1))
    assert (metrics.total, metrics.terms, made.taken) == (0, {}, 2)
    assert [record["step"] for record in told] == [1]
    for name, tensor in made.networks.state_dict().items():
        assert torch.equal(tensor.nan_to_num(), before[name].nan_to_num()), name
    with torch.no_grad():
        made.networks["deep"].stored_tensor("head.bias")[0] = kept
    assert made.step(joint(ENGINE, 2)).total == 20, "the rest of the half"
    store = Checkpoints(tmp_path, graph=made.graph.hash)
    made.save(store, {}, epoch=0)
    again = trainer(data)
    found = store.load()
    assert found is not None
    again.restore(found)
    assert again.guard.skipped == [1]


@pytest.mark.parametrize("setting", ["grad_checkpointing", "channels_last"])
def test_how_networks_compute_changes_no_step(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What blocks work out again is the same to the bit; another layout adds in another order."""
    whole = open_data("digits", channels=3)
    images = replace(whole, train=first_samples(whole.train, 160))
    colours = text().replace("[B, 1, 8, 8]", "[B, 3, 8, 8]")
    program = load_program(Source("<colours>", colours))
    again: list[object] = []
    rerun = supernet_module.recomputed
    run = Supernet._run

    def running(self: Supernet, plan: Any, inputs: Any, compiled: Any) -> list[Tensor]:
        laid[len(made)].add(inputs[0].is_contiguous(memory_format=torch.channels_last))
        return run(self, plan, inputs, compiled)

    monkeypatch.setattr(Supernet, "_run", running)
    monkeypatch.setattr(
        supernet_module, "recomputed", lambda *given: again.append(0) or rerun(*given)
    )
    made: list[CycleTrainer] = []
    laid: list[set[bool]] = [set(), set()]
    for more in ({}, {setting: True}):
        recipe = replace(RECIPE, clip_grad=ENGINE.clip_grad, **more)
        one = CycleTrainer(program, images, recipe, seed=0)
        one.reset(ENGINE.groups(Derivation(program)))
        for step in (joint(ENGINE), alone(1, "shallow", "search")):
            one.step(step)
        made.append(one)
    plain, other = (one.networks.state_dict() for one in made)
    if setting == "grad_checkpointing":
        assert again
        assert all(torch.equal(other[name], value) for name, value in plain.items())
    else:
        assert laid == [{False}, {True}]
        assert all(torch.allclose(other[n], v, rtol=1e-3, atol=1e-4) for n, v in plain.items())


@pytest.mark.parametrize("short", [torch.OutOfMemoryError("out of memory"), MemoryError()])
def test_too_little_memory_is_told(
    short: Exception, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise short

    monkeypatch.setattr(CycleTrainer, "_backward", explode)
    with pytest.raises(SpaceError, match=r"SP703(.|\n)*try --batch-size"):
        trainer(data).step(joint(ENGINE))


# Runs.


def fingerprint(folder: Path) -> dict[str, object]:
    """All that must not depend on how often a run was stopped."""
    files = sorted(folder.glob("checkpoint-*.safetensors"))
    return {
        "log": read_log(folder),
        "found": json.loads((folder / "cyclic_differentiable.json").read_text()),
        "checkpoint": hashlib.sha256(files[-1].read_bytes()).hexdigest(),
    }


@pytest.fixture(scope="module")
def whole(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "cells"
    search_program(ENGINE, cells(), data, RECIPE, folder, seed=3)
    return folder


def test_a_run_moves_everything_and_can_be_taken_from(whole: Path, data: Dataset) -> None:
    log = read_log(whole)
    assert [line["epoch"] for line in log] == list(range(1, ENGINE.passes + 1))
    saved = [(e["step"], e["epoch"]) for e in read_journal(whole / "manifest.jsonl").entries]
    assert saved == [(line["step"], line["epoch"]) for line in log]
    assert {"search: cross_entropy", "evaluation+alphas: alpha_norm"} <= {n for e in log for n in e}
    record = json.loads((whole / "cyclic_differentiable.json").read_text())
    assert record["evaluated"] == len(record["candidates"]) == 4
    assert record["best"] == record["candidates"][-1]
    derivation = Derivation(cells(), ("none",))
    for cycle in record["cycles"]:
        assert derivation.assignment(cycle["alphas"]) == cycle["assignment"]
    first, last = (record["cycles"][i]["alphas"] for i in (0, -1))
    assert all(first[p] != last[p] for p in first if p.endswith("op"))
    assert all(set(first[p]) == {torch.tensor(0.1).item()} for p in first if "inputs" in p)
    report = (whole / "report.html").read_text()
    assert "best of cyclic_differentiable" in report
    assert all(f"<td>cycle {cycle + 1}</td>" in report for cycle in range(ENGINE.cycles))
    op = next(path for path in record["best"]["assignment"] if path.endswith("op"))
    assert f"{op} = {record['cycles'][0]['assignment'][op]}" in report
    graph = cells().networks["deep"]
    trained = load_trained(graph, data, whole)
    trained.model.activate(record["best"]["assignment"])
    made = open_program(whole)
    assert made == cells() or (made.shared, made.edges) == (cells().shared, cells().edges)
    assert made.pool is not None
    assert cells().pool is not None
    assert made.pool.slots(CELL) == cells().pool.slots(CELL)
    probed = CycleTrainer(made, data, RECIPE, 3)
    assert {n: g.hash for n, g in made.networks.items()} == {
        n: g.hash for n, g in cells().networks.items()
    }
    assert next(iter(probed.probe([CELL], Samples()))).total == 100


class Dies(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("stops", [[2], [3, 5], [7, 16], [22]])
def test_resumed_runs_are_bit_identical(
    stops: list[int],
    whole: Path,
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Signals at some steps (counted over all lives), each followed by a life that dies later."""
    taken = [0]
    step = CycleTrainer.step

    def counting(self: CycleTrainer, wanted: StepPlan) -> object:
        taken[0] += 1
        if taken[0] in stops:
            os.kill(os.getpid(), signal.SIGTERM)
        if taken[0] in [stop + 2 for stop in stops] and taken[0] not in stops:
            raise Dies
        return step(self, wanted)

    monkeypatch.setattr(CycleTrainer, "step", counting)
    lives = 0
    while True:
        lives += 1
        try:
            search_program(ENGINE, cells(), data, RECIPE, tmp_path / "run", seed=3)
            break
        except (Interrupted, Dies):
            assert lives < 10
    assert lives > 1
    assert fingerprint(tmp_path / "run") == fingerprint(whole)


def test_a_run_killed_at_every_save_goes_on(
    whole: Path, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the answers and the checkpoint that belongs to them, and after every score.

    No score is made twice, though the weights that were copied before it are copied again.
    """
    lives, scores = [0], [0]
    flush, probe = Answers.flush, CycleTrainer.probe

    def counting(self: CycleTrainer, *asked: Any) -> Iterator[Score]:
        scores[0] += 1
        return probe(self, *asked)

    def dying(self: Answers) -> None:
        flush(self)
        lives[0] += 1
        if lives[0] % 3 == 0:  # a cycle has two writes: a score, and its last checkpoint
            raise Dies

    monkeypatch.setattr(Answers, "flush", dying)
    monkeypatch.setattr(CycleTrainer, "probe", counting)
    for _ in range(40):
        try:
            search_program(ENGINE, cells(), data, RECIPE, tmp_path / "run", seed=3)
            break
        except Dies:
            continue
    assert lives[0] > 8
    assert scores[0] == ENGINE.planned
    assert fingerprint(tmp_path / "run") == fingerprint(whole)


def test_other_settings_are_another_run(whole: Path, data: Dataset, tmp_path: Path) -> None:
    before = fingerprint(whole)
    search_program(ENGINE, cells(), data, RECIPE, whole, seed=3)  # it is done
    assert fingerprint(whole) == before
    with pytest.raises(SpaceError, match=r"engine\.settings: .*there"):
        search_program(replace(ENGINE, balance=2.0), cells(), data, RECIPE, whole, seed=3)
    with pytest.raises(SpaceError, match=r"program\.memory: .*there|program: .*there"):
        search_program(ENGINE, cells(pool=""), data, RECIPE, whole, seed=3)
    for setting in (
        {"model_ema": True}, {"mixup": 0.8}, {"unsampled": "freeze"}, {"opt": "sgd", "lr": 0.1},
        {"warmup_epochs": 0}, {"recalibrate": 100}, {"val_interval": 0},
    ):  # fmt: skip
        with pytest.raises(SpaceError, match=rf"SP701.*without {', '.join(setting)}"):
            other = replace(RECIPE, **setting)
            search_program(ENGINE, cells(), data, other, tmp_path / "other", seed=3)
    with pytest.raises(SpaceError, match=r"SP701.*constant rates"):
        search_program(ENGINE, cells(), data, RECIPE, tmp_path / "other", on_nan="rollback")
    with pytest.raises(SpaceError, match=r"SP604.*no tracker is called"):
        search_program(ENGINE, cells(), data, RECIPE, tmp_path / "other", log_to=("none",))
    assert not (tmp_path / "other").exists()
    broken = tmp_path / "copy"
    broken.mkdir()
    with pytest.raises(SpaceError, match="cannot be read"):
        open_program(broken)
    shutil.copytree(whole / "program", broken / "program")
    changed = next((broken / "program").glob("*.spaceir"))
    changed.write_text(changed.read_text() + "\n")
    with pytest.raises(VerificationError, match="is not as it was written"):
        open_program(broken)


def test_the_plain_mode_runs_too(data: Dataset, tmp_path: Path) -> None:
    engine = replace(ENGINE, mode="plain", epochs=2)
    found = search_program(engine, cells(pool=""), data, RECIPE, tmp_path / "run", seed=3)
    assert len(found.candidates) == 1
    assert len(read_log(tmp_path / "run")) == engine.passes == 3


WORDS = (
    "--engine", "cyclic_differentiable", "--data", "digits", "-b", "300", "--epochs", "4",
    "-s", "alpha_lr=0.05", "--progress", "quiet",
)  # fmt: skip


def test_a_killed_run_goes_on_from_its_folder_alone(tmp_path: Path) -> None:
    """By kill -9, after its first checkpoint; then by DIR alone, the space gone."""
    space = tmp_path / "cells.space"
    space.write_text(text())
    folder, other = tmp_path / "run", tmp_path / "other"
    words = ["search", f"{space}:cycle", "-o", str(folder), *WORDS]
    running = subprocess.Popen([sys.executable, "-m", "spacelang", *words])
    try:
        until = time.monotonic() + 120
        while running.poll() is None and time.monotonic() < until:
            if (folder / "manifest.jsonl").exists():
                break
            time.sleep(0.005)
    finally:
        running.kill()
        running.wait()
    found = answer("search", folder, "--progress", "quiet")
    assert answer("doctor", folder)["ok"]
    again = answer("search", space, "-o", other, *WORDS)
    assert found["best"] == again["best"]
    files = [sorted(f.glob("checkpoint-*"))[-1].read_bytes() for f in (folder, other)]
    assert files[0] == files[1]
    net = tmp_path / "net"
    assert answer("extract", folder, "--arch", found["file"], "-o", net)["trained"]
    assert "nothing that cyclic_differentiable" in refused(
        "search", space, "-o", tmp_path / "third", *WORDS, "--warmup-epochs", "3"
    )
    assert "one network" in refused("search", f"{space}:small", "-o", tmp_path / "third", *WORDS)


def test_a_genotype_of_the_shipped_cells_is_trained_anew(tmp_path: Path) -> None:
    """One cycle of one batch; then the record of the cell is an architecture of a wider network."""
    folder = tmp_path / "run"
    found = answer(
        "search", "small_cells.space:digits_cycles", "--engine", "cyclic_differentiable",
        "--data", "digits", "-b", "600", "--epochs", "1", "-s", "warm=0", "-o", folder,
        "--progress", "quiet",
    )  # fmt: skip
    genotype = folder / "cyclic_differentiable-genotype.json"
    assert json.loads(good("genotype", found["file"])) == json.loads(genotype.read_text())
    network = tmp_path / "net"
    good("compile", "small_cells.space:digits_net", "--arch", genotype, "-o", network)
    trained = answer(
        "train", network, "--data", "digits", "-b", "600", "--epochs", "1", "-o",
        tmp_path / "train", "--progress", "quiet",
    )  # fmt: skip
    assert trained["epochs"] == 1


# What cannot be used is told.


def test_a_state_that_is_none_is_told(data: Dataset, tmp_path: Path) -> None:
    made = trainer(data)
    store = Checkpoints(tmp_path, graph=made.graph.hash)
    made.save(store, {"answers": 0}, epoch=0)
    found = store.load()
    assert found is not None
    before = state(made.networks)
    good = found.state
    (first, *_) = good["groups"]
    for wrong in (
        {},
        {**good, "groups": None},
        {**good, "groups": [3]},
        {**good, "groups": [{**first, "rate": "fast"}]},
        {**good, "groups": [{**first, "network": "other"}]},
        {**good, "groups": [{**first, "more": 1}]},
        {n: v for n, v in good.items() if n != "optimizers"},
        {**good, "optimizers": 3},
        {**good, "optimizers": {first["name"]: 3}},
        {**good, "optimizers": {first["name"]: {"numbers": {}, "groups": 3}}},
    ):
        broken = replace(found, record=replace(found.record, state=wrong))
        with pytest.raises(CheckpointError, match=r"the checkpoint's (state|optimizer)"):
            made.restore(broken)
    assert all(torch.equal(p, before[n]) for n, p in made.networks.named_parameters())
    made.restore(found)
    work = Work(tmp_path, made, store, cast(Any, None), cast(Any, None))
    made.save(store, {}, epoch=0)
    with pytest.raises(SpaceError, match="does not say how many answers"):
        work.resume()


def test_a_program_folder_is_bounded(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "program"
    shutil.copytree(whole / "program", folder)
    assert read_program(folder).name == cells().name
    record = json.loads((folder / "manifest.json").read_text())
    graph = next(iter(record["files"]))
    for changed in ("manifest.json", graph):
        kept = (folder / changed).read_bytes()
        with (folder / changed).open("ab") as file:
            file.write(b" " * (9 << 20))
        with pytest.raises(SpaceError, match=r"SP702.*larger than"):
            read_program(folder)
        (folder / changed).write_bytes(kept)
    shutil.copy(folder / graph, tmp_path / graph)
    record["files"] = {f"../{graph}": record["files"][graph]}
    (folder / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(SpaceError, match="is no file of it"):
        read_program(folder)


def test_a_setting_that_an_engine_has_not_is_told_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "cells.space").write_text(text())
    (tmp_path / "mine.toml").write_text("warmup_epochs = 3\n")
    words = ("search", tmp_path / "cells.space", "-o", tmp_path / "run", *WORDS)
    told = refused(*words, "--recipe", tmp_path / "mine.toml")
    assert f"warmup_epochs of {tmp_path / 'mine.toml'} is nothing" in " ".join(told.split())
    assert "--warmup-epochs is nothing" in refused(*words, "--warmup-epochs", "3")


def test_an_engine_that_trains_takes_no_scratch(tmp_path: Path) -> None:
    for engine in ("cyclic_differentiable", "space_evolution", "prioritized_path"):
        words = ("quickstart.space", "-o", tmp_path / "run", "--engine", engine, "--scratch")
        assert f"--scratch is not for {engine}" in refused("search", *words)


def test_how_a_search_is_kept_is_said_where_it_trains(tmp_path: Path) -> None:
    """Kept checkpoints are counted; what searches scores alone has no use for any of it."""
    (tmp_path / "cells.space").write_text(text())
    words = ("search", tmp_path / "cells.space", "-o", tmp_path / "run", *WORDS)
    assert "constant rates" in refused(*words, "--on-nan", "rollback")
    assert "no tracker is called none" in refused(*words, "--log", "none")
    more = ("--on-nan", "skip", "--checkpoint-hist", "3", "--channels-last", "--grad-checkpointing",
            "--epochs", "2")  # fmt: skip
    good(*words, *more)
    assert len(list((tmp_path / "run").glob("checkpoint-*.safetensors"))) == 3
    recipe = json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]
    assert (recipe["channels_last"], recipe["grad_checkpointing"]) == (True, True)
    anew = ("search", "quickstart.space", "--engine", "contraction", "-o", tmp_path / "other")
    for flag, value in (("--on-nan", "skip"), ("--checkpoint-hist", "3"), ("--log", "wandb")):
        assert f"{flag} is for engines that train while they search" in refused(*anew, flag, value)
