"""Settings of training: schedules, optimisers, clipping, mixing, memory and statistics, each against
timm, PyTorch or a count by hand."""

from __future__ import annotations

import copy
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_train import RECIPE, SPACE, fingerprint, plans
from torch import Tensor, nn
from torch.nn import functional

import spacelang
from spacelang.backends.torch.data.datasets import (
    Batch,
    Dataset,
    first_samples,
    open_data,
    ordered_batches,
)
from spacelang.backends.torch.data.mixup import Drawn, Mixing, draw, mixed
from spacelang.backends.torch.extract import extract
from spacelang.backends.torch.head_map import last_layer
from spacelang.backends.torch.runs.interrupt import Interrupted
from spacelang.backends.torch.runs.ranks import Ranks
from spacelang.backends.torch.runs.trackers import TrackerWarning, trackers
from spacelang.backends.torch.searching.search import search_scratch
from spacelang.backends.torch.searching.train_and_search import search_own
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.clip import MODES
from spacelang.backends.torch.training.evaluate import evaluate
from spacelang.backends.torch.training.optimizers import check_optimizer
from spacelang.backends.torch.training.read_regions import Regions
from spacelang.backends.torch.training.recalibrate import (
    StatisticsWarning,
    moving,
    recalibrate,
    recalibrated,
    warn_if_mixed,
)
from spacelang.backends.torch.training.recipe import Recipe, recipe_from
from spacelang.backends.torch.training.schedule import OF_TIMM, RATES
from spacelang.backends.torch.training.torch_compile_check import check_compiling
from spacelang.backends.torch.training.trainer import TorchTrainer
from spacelang.backends.torch.training.training import train
from spacelang.diagnostics import Source, SpaceError
from spacelang.engines.evolution import Evolution
from spacelang.engines.prioritized_path import PrioritizedPath
from spacelang.engines.protocol import Forward, LossTerm, Samples
from spacelang.ir.graph import Graph

NORMED = """
space maps {
  input x: [B, 1, 8, 8]
  choose width in {4, 6}
  y = conv(x, width, 3, pad: 1) as stem |> batch_norm as norm |> relu
  y = y + (choose op[0] {
    small: conv(y, width, 3, pad: 1) as small |> batch_norm(momentum: 0.3) as norm1 |> drop_path(0.5)
    large: conv(y, width, 5, pad: 2) as large |> batch_norm as norm2
  })
  output mean(y, axes: [2, 3]) |> linear(10) as head
  weights { _: entangle }
}
"""


@pytest.fixture(scope="module")
def graph() -> Graph:
    return spacelang.load(Source("<digits>", SPACE))


@pytest.fixture(scope="module")
def maps() -> Graph:
    return spacelang.load(Source("<maps>", NORMED))


@pytest.fixture(scope="module")
def data() -> Dataset:
    whole = open_data("digits")
    return replace(
        whole,
        train=first_samples(whole.train, 200),
        validation=first_samples(whole.validation, 60),
    )


# Schedules.


@pytest.mark.parametrize("updates", [False, True])
@pytest.mark.parametrize("sched", [*RATES, *OF_TIMM])
def test_rates_are_those_of_timm(sched: str, updates: bool) -> None:
    from timm.scheduler import create_scheduler_v2

    settings = {"decay_epochs": 4.0, "decay_rate": 0.4, "min_lr": 1e-4, "warmup_lr": 1e-3}
    recipe = Recipe(
        epochs=20, lr=0.5, warmup_epochs=3, decay_milestones=(6, 11, 15), sched=sched,
        sched_on_updates=updates, **settings,
    )  # fmt: skip
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    scheduler, _ = create_scheduler_v2(
        optimizer, sched, num_epochs=20, warmup_epochs=3, decay_milestones=[6, 11, 15],
        step_on_epochs=not updates, updates_per_epoch=7, **settings,
    )  # fmt: skip
    for step in range(20 * 7):
        if updates:
            scheduler.step_update(step)
        else:
            scheduler.step(step // 7)
        wanted = optimizer.param_groups[0]["lr"]
        assert recipe.rate(step, 7) == pytest.approx(wanted, rel=1e-12), step


def test_a_rate_is_a_function_of_the_step() -> None:
    for sched in (*RATES, *OF_TIMM):
        recipe = Recipe(epochs=20, sched=sched)
        forward = [recipe.rate(step, 3) for step in range(60)]
        assert [recipe.rate(step, 3) for step in reversed(range(60))] == forward[::-1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"sched": "sawtooth"},
        {"decay_milestones": (3, 3)},
        {"decay_rate": 0.0},
        {"decay_epochs": 0.0},
        {"momentum": 1.0},
        {"mixup": -1.0},
        {"mixup_prob": 1.5},
        {"mixup_switch_prob": -0.1},
        {"mixup_off_epoch": -1},
        {"shards": 0},
        {"shards": 9, "batch_size": 8},
        {"recalibrate": -1},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(SpaceError) as caught:
        Recipe(**wrong)
    assert [d.code for d in caught.value.diagnostics] == ["SP103"]
    assert recipe_from({"decay_milestones": "30,60", "opt_betas": "none"}) == Recipe(
        decay_milestones=(30, 60)
    )


# Optimisers.


def trained(graph: Graph, data: Dataset, recipe: Recipe, steps: int = 5) -> TorchTrainer:
    trainer = TorchTrainer(Supernet(graph, seed=0), graph, data, recipe, seed=0)
    for plan in plans(trainer, steps):
        trainer.step(plan)
    return trainer


@pytest.mark.parametrize(
    ("opt", "make"),
    [
        ("sgd", lambda groups: torch.optim.SGD(groups, lr=1, momentum=0.8, nesterov=True)),
        ("momentum", lambda groups: torch.optim.SGD(groups, lr=1, momentum=0.8)),
        ("adamw", lambda groups: torch.optim.AdamW(groups, lr=1, betas=(0.9, 0.999), eps=1e-8)),
    ],
)
def test_the_optimisers_are_pytorchs(opt: str, make, graph: Graph, data: Dataset) -> None:
    recipe = replace(RECIPE, opt=opt, momentum=0.8, model_ema=False)
    found = trained(graph, data, recipe)
    other = TorchTrainer(Supernet(graph, seed=0), graph, data, recipe, seed=0)
    other.optimizer = make(other.optimizer.param_groups)
    for plan in plans(other, 5):
        other.step(plan)
    for name, value in other.model.state_dict().items():
        assert torch.allclose(found.model.state_dict()[name], value, rtol=1e-5, atol=1e-7), name


@pytest.mark.parametrize("opt", ["sgd", "lamb", "adafactorbv", "lion", "nadamw"])
def test_runs_with_any_optimiser_go_on_to_the_bit(
    opt: str, graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, opt=opt, epochs=2, lr=1e-3, val_interval=0)
    train(graph, data, recipe, tmp_path / "whole", seed=3)
    original = TorchTrainer.step

    def step(self, plan):
        metrics = original(self, plan)
        if self.taken == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return metrics

    with monkeypatch.context() as patch:
        patch.setattr(TorchTrainer, "step", step)
        with pytest.raises(Interrupted):
            train(graph, data, recipe, tmp_path / "parts", seed=3)
    train(graph, data, recipe, tmp_path / "parts", seed=3)
    assert fingerprint(tmp_path / "parts") == fingerprint(tmp_path / "whole")


@pytest.mark.parametrize("opt", ["adamx", "lookahead_adamw", "adahessian", "bnbadamw"])
def test_optimisers_that_cannot_be_are_refused_before_a_run(
    opt: str, graph: Graph, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(SpaceError, match="SP604"):
        train(graph, data, replace(RECIPE, opt=opt), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("opt", ["adafactor", "adafactorbv"])
def test_factored_moments_cannot_be_frozen(opt: str) -> None:
    check_optimizer(replace(RECIPE, opt=opt))
    check_optimizer(replace(RECIPE, opt="lamb", unsampled="freeze"))
    with pytest.raises(SpaceError, match="moments of rows and columns"):
        check_optimizer(replace(RECIPE, opt=opt, unsampled="freeze"))


def test_timm_is_needed_for_what_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from spacelang.backends.torch.training import schedule

    schedule._of_timm.cache_clear()
    monkeypatch.setitem(sys.modules, "timm.scheduler", None)
    with pytest.raises(SpaceError, match=r"SP604(.|\n)*pip install 'timm>="):
        Recipe(sched="poly").rate(0, 1)


# Clipping.


def test_clipping_is_timms() -> None:
    from timm.utils import dispatch_clip_grad

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.Linear(5, 2))
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter) * 3
    last = frozenset({"2.weight", "2.bias"})
    for mode, limit in (("norm", 0.7), ("value", 0.2), ("agc", 0.05)):
        ours, theirs = copy.deepcopy(network), copy.deepcopy(network)
        for twin in (ours, theirs):
            for own, source in zip(twin.parameters(), network.parameters(), strict=True):
                own.grad = source.grad.clone()
        norm = nn.utils.get_total_norm([p.grad for p in ours.parameters()])
        MODES[mode](dict(ours.named_parameters()), limit, norm, last)
        clipped = list(theirs.parameters())[: -2 if mode == "agc" else None]
        dispatch_clip_grad(clipped, limit, mode=mode)
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(own.grad, other.grad, rtol=1e-6), mode
        assert any(
            not torch.equal(p.grad, q.grad)
            for p, q in zip(ours.parameters(), network.parameters(), strict=True)
        )


def test_the_last_layer_is_found_by_the_graph(graph: Graph, maps: Graph) -> None:
    assert last_layer(graph) == last_layer(maps) == {"head.weight", "head.bias"}
    assert last_layer(spacelang.load("deit.space:deit_ti")) == {"head.weight", "head.bias"}


# Mixup and cutmix.


def test_mixing_is_timms(graph: Graph) -> None:
    """The images and the loss that timm's Mixup gives for what was drawn here."""
    from timm.data.mixup import mixup_target

    torch.manual_seed(0)
    images, labels = torch.randn(6, 1, 9, 7), torch.tensor([3, 1, 4, 1, 5, 9])
    logits = torch.randn(6, 10)
    seen = set()
    for number in range(60):
        drawn = draw(Mixing(0.8, 1.0), seed=0, epoch=1, batch=number, size=(9, 7))
        assert drawn is not None
        found = mixed(images, images.flip(0), drawn)
        wanted = images.clone()
        if drawn.box is None:
            wanted = images * drawn.share + images.flip(0) * (1 - drawn.share)
        else:
            top, bottom, left, right = drawn.box
            wanted[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
            assert drawn.share == 1 - (bottom - top) * (right - left) / 63
        seen.add(drawn.box is None)
        assert torch.equal(found, wanted)
        target = mixup_target(labels, 10, drawn.share, smoothing=0.1)
        soft = torch.sum(-target * functional.log_softmax(logits, 1), 1).mean()
        ours = [
            share * functional.cross_entropy(logits, y, label_smoothing=0.1)
            for share, y in ((drawn.share, labels), (1 - drawn.share, labels.flip(0)))
        ]
        assert torch.allclose(sum(ours), soft, rtol=1e-5)
    assert seen == {True, False}


def test_how_often_and_how_much() -> None:
    mixing = Mixing(mixup=0.2, cutmix=1.0, chance=0.75, switch=0.3)
    drawn = [draw(mixing, 0, 0, n, (32, 32)) for n in range(4_000)]
    mixes = [d for d in drawn if d is not None]
    assert len(mixes) / len(drawn) == pytest.approx(0.75, abs=0.03)
    assert sum(d.box is not None for d in mixes) / len(mixes) == pytest.approx(0.3, abs=0.03)
    shares = [d.share for d in mixes if d.box is None]
    rng = np.random.default_rng(0)
    wanted = np.quantile(rng.beta(0.2, 0.2, 20_000), [0.1, 0.3, 0.5, 0.7, 0.9])
    assert np.quantile(shares, [0.1, 0.3, 0.5, 0.7, 0.9]) == pytest.approx(wanted, abs=0.06)


@given(st.floats(0.01, 4), st.integers(0, 99), st.integers(1, 9), st.integers(1, 9))
def test_a_box_lies_in_the_image(alpha: float, number: int, height: int, width: int) -> None:
    state = random.getstate()
    drawn = draw(Mixing(cutmix=alpha), 0, 0, number, (height, width))
    assert isinstance(drawn, Drawn)
    assert drawn.box is not None
    top, bottom, left, right = drawn.box
    assert 0 <= top <= bottom <= height
    assert 0 <= left <= right <= width
    assert 0 <= drawn.share <= 1
    assert random.getstate() == state, "no global generator"


def test_a_mixed_step(graph: Graph, data: Dataset) -> None:
    """The loss of a step is that of soft labels; after the off epoch nothing is mixed."""
    recipe = replace(RECIPE, mixup=0.8, mixup_off_epoch=2, model_ema=False)
    trainer = TorchTrainer(Supernet(graph, seed=0), graph, data, recipe, seed=0)
    (plan,) = plans(trainer, 1)
    batch = trainer.feed.batch(plan)
    assert batch.others is not None
    trainer.model.eval()
    trainer.activate(plan.assignment)
    logits = trainer.model(batch.images)
    hot = [functional.one_hot(y, 10).float() for y in (batch.labels, batch.others)]
    soft = batch.share * hot[0] + (1 - batch.share) * hot[1]
    wanted = functional.cross_entropy(logits, 0.9 * soft + 0.01).item()
    trainer.model.train()
    trainer.model.dropping = False
    assert trainer.step(plan).loss == pytest.approx(wanted, rel=1e-5)
    later = replace(plan, epoch=2)
    assert trainer.feed.batch(later).others is None
    mine = LossTerm("matched", options={"slot": 0.0}, against=1)
    trainer.kinds = ("matched", "cross_entropy")
    two = (*plan.forwards, Forward(plan.assignment, learns=False))
    with pytest.raises(SpaceError, match="mixed labels are nothing for matched"):
        trainer.step(replace(plan, forwards=two, losses=(mine,)))


# Memory.


@pytest.mark.parametrize("which", ["digits", "maps"])
def test_checkpointing_changes_no_bit_and_keeps_less(
    which: str, graph: Graph, maps: Graph, data: Dataset
) -> None:
    """Weights, moments and running statistics after some steps; bytes kept for the backward pass."""
    space = {"digits": graph, "maps": maps}[which]
    states: list[dict[str, Tensor]] = []
    kept: list[int] = []
    for checkpointing in (False, True):
        recipe = replace(RECIPE, grad_checkpointing=checkpointing, model_ema=False)
        trainer = TorchTrainer(Supernet(space, seed=0), space, data, recipe, seed=0)
        bytes_kept = 0
        known: set[int] = {p.data_ptr() for p in trainer.model.parameters()}

        def pack(tensor: Tensor) -> Tensor:
            nonlocal bytes_kept
            if tensor.data_ptr() not in known:  # noqa: B023
                bytes_kept += tensor.numel() * tensor.element_size()
            return tensor

        first, *rest = plans(trainer, 6)
        large = replace(first, forwards=(Forward(space.decisions.extreme("largest")),))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            trainer.activate(large.assignment)
            trainer.model(trainer.feed.batch(large).images)
        kept.append(bytes_kept)
        for plan in (large, *rest):
            trainer.step(plan)
        states.append(trainer.model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name
    assert kept[1] < kept[0]


@pytest.mark.parametrize(
    ("which", "settings"),
    [
        ("digits", {}),
        ("digits", {"grad_checkpointing": True, "shards": 2}),
        ("maps", {"grad_checkpointing": True}),
        ("maps", {"shards": 2}),
        ("maps", {"channels_last": True}),
        ("digits", {"amp": True}),
        ("maps", {"amp": True}),
    ],
    ids=lambda given: given if isinstance(given, str) else "+".join(given) or "alone",
)
def test_compiled_steps(
    which: str,
    settings: dict[str, Any],
    graph: Graph,
    maps: Graph,
    data: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two steps by what the compiler traces, and nothing generated, beside two without it.

    Gradient descent without momentum moves by gradients as they are. What is compiled is tested in
    tests/backends/test_compiled.py.
    """
    space = {"digits": graph, "maps": maps}[which]
    monkeypatch.setattr(Supernet, "compile", partialmethod(Supernet.compile, backend="eager"))
    states: list[dict[str, Tensor]] = []
    for wanted in (False, True):
        recipe = replace(RECIPE, opt="sgd", momentum=0.0, torchcompile=wanted, **settings)
        model = Supernet(space, seed=0)
        trainer = TorchTrainer(model, space, data, recipe, seed=0)
        assert (model._compiled is not None) is wanted
        for plan in plans(trainer, 2):
            trainer.step(plan)
        states.append(model.state_dict())
    torch._dynamo.reset()
    start = Supernet(space, seed=0).state_dict()
    moved = [name for name, value in states[0].items() if not torch.equal(value, start[name])]
    assert moved
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, msg=name)


def test_no_compiler(
    graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told before there is a folder; and later, of a compiler that stops working."""
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, str(tmp_path / "none")))
    recipe = replace(RECIPE, torchcompile=True)
    with pytest.raises(SpaceError, match=r"SP605.*no C\+\+ compiler"):
        train(graph, data, recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()

    def broken(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Supernet, "compile", partialmethod(Supernet.compile, backend=broken))
    trainer = TorchTrainer(Supernet(graph, seed=0), graph, data, recipe, seed=0)
    (plan,) = plans(trainer, 1)
    with pytest.raises(SpaceError, match=r"SP605.*cannot compile.*\n.*no space left"):
        trainer.step(plan)
    torch._dynamo.reset()


@pytest.mark.parametrize("setting", [{"reduce": "ddp"}, {"reduce": "fsdp"}])
def test_what_compiling_does_not_go_with(setting: dict[str, Any]) -> None:
    recipe = Recipe(torchcompile=True, shards=2, **setting)
    with pytest.raises(SpaceError, match=f"SP708.*--{next(iter(setting))}"):
        check_compiling(recipe, Ranks(0, 2), "cpu")


def test_who_compiles_nothing(graph: Graph, data: Dataset, tmp_path: Path) -> None:
    recipe = replace(RECIPE, torchcompile=True)
    engine = PrioritizedPath(epochs=2, warm_epochs=0, board=2)
    with pytest.raises(SpaceError, match=r"SP708.*prioritized_path compiles nothing"):
        search_own(engine, graph, data, recipe, tmp_path / "own")
    with pytest.raises(SpaceError, match=r"SP708.*--scratch compiles nothing"):
        search_scratch(Evolution(), graph, data, recipe, tmp_path / "scratch")
    assert not list(tmp_path.iterdir())


def test_channels_last_is_a_layout_alone(maps: Graph, data: Dataset) -> None:
    recipe = replace(RECIPE, model_ema=False)
    formats: list[bool] = []
    plain = trained(maps, data, recipe)
    last = TorchTrainer(
        Supernet(maps, seed=0), maps, data, replace(recipe, channels_last=True), seed=0
    )
    scope = last.model.get_submodule("stem")
    hook = scope.register_forward_hook(
        lambda module, given, found: formats.append(
            found.is_contiguous(memory_format=torch.channels_last)
        )
    )
    for plan in plans(last, 5):
        last.step(plan)
    hook.remove()
    for name, value in plain.model.state_dict().items():
        assert torch.allclose(last.model.state_dict()[name], value, rtol=1e-3, atol=1e-4), name
    assert not formats or all(formats)


# Weights that a step does not use.


def test_regions_are_what_gradients_reach(graph: Graph, maps: Graph) -> None:
    """A mask holds every entry with a gradient, and is as large as the network's own weights."""
    for space in (graph, maps):
        model, regions = Supernet(space, seed=0), Regions(space)
        for assignment in space.sample(6, seed=1):
            model.zero_grad(set_to_none=True)
            model.activate(assignment)
            model(torch.randn(4, 1, 8, 8)).square().sum().backward()
            found = regions.of([assignment])
            subnet = extract(model, assignment)
            for name, parameter in model.named_parameters():
                if parameter.grad is None:
                    assert name not in found
                    continue
                mask = found[name]
                whole = torch.ones_like(parameter, dtype=torch.bool) if mask is None else mask
                assert not bool((parameter.grad[~whole] != 0).any())
                assert int(whole.sum()) == subnet.get_parameter(name).numel()


@pytest.mark.parametrize("opt", ["adamw", "sgd"])
def test_what_a_step_does_not_use(opt: str, graph: Graph, data: Dataset) -> None:
    """After a large step comes a small one: whole tensors, and the rest of slices."""
    moved: dict[str, tuple[bool, bool]] = {}
    for unsampled in ("freeze", "mixed", "decay"):
        recipe = replace(
            RECIPE, opt=opt, unsampled=unsampled, weight_decay=0.5, warmup_epochs=0, model_ema=False
        )
        trainer = TorchTrainer(Supernet(graph, seed=0), graph, data, recipe, seed=0)
        large, small = (graph.decisions.extreme(which) for which in ("largest", "smallest"))
        first, second = plans(trainer, 2)
        trainer.step(replace(first, forwards=(Forward(large),)))
        before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
        held = trainer.optimizer.state[trainer.model.get_parameter("head.weight")]
        moments = copy.deepcopy(dict(held))
        trainer.step(replace(second, forwards=(Forward(small),)))
        after = dict(trainer.model.named_parameters())
        tensor, part = "layer.1.mlp.fc1.weight", "head.weight"
        moved[unsampled] = (
            not torch.equal(after[tensor], before[tensor]),
            not torch.equal(after[part][:, 8:], before[part][:, 8:]),
        )
        assert not torch.equal(after[part][:, :8], before[part][:, :8])
        if unsampled == "freeze":
            parameter = trainer.model.get_parameter(part)
            for quantity, value in moments.items():
                now = trainer.optimizer.state[parameter][quantity]
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    assert torch.equal(now[:, 8:], value[:, 8:])
                    assert not torch.equal(now[:, :8], value[:, :8])
    assert moved == {"freeze": (False, False), "mixed": (False, True), "decay": (True, True)}


def same_when_stopped(
    begin: Callable[[Path], object], stops: Iterable[int], folder: Path, patch: pytest.MonkeyPatch
) -> None:
    """A run that ends at some steps and goes on each time has the bits of one that never did."""
    begin(folder / "whole")
    original = TorchTrainer.step
    for stop in stops:

        def step(self, plan, stop=stop):
            metrics = original(self, plan)
            if self.taken == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return metrics

        with patch.context() as within:
            within.setattr(TorchTrainer, "step", step)
            with pytest.raises(Interrupted):
                begin(folder / "parts")
    begin(folder / "parts")
    assert fingerprint(folder / "parts") == fingerprint(folder / "whole")


@pytest.mark.parametrize("unsampled", ["freeze", "decay"])
def test_unused_weights_after_a_stop(
    unsampled: str, graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes on still knows what was touched before."""
    recipe = replace(RECIPE, unsampled=unsampled, epochs=2, weight_decay=0.5)
    begin = partial(train, graph, data, recipe, seed=3)
    same_when_stopped(begin, (1, 3, 6), tmp_path, monkeypatch)


def poisoned(patch: pytest.MonkeyPatch, *steps: int) -> None:
    """The loss of some steps is not finite."""
    value = TorchTrainer._value

    def bad(self: TorchTrainer, *given: Any) -> Tensor:
        return value(self, *given) * (torch.nan if self.taken in steps else 1.0)

    patch.setattr(TorchTrainer, "_value", bad)


@pytest.mark.parametrize("shards", [1, 2])
def test_what_was_touched_decays_after_a_skipped_step(
    shards: int, graph: Graph, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A skipped step neither ends the decay of a weight nor begins it."""
    poisoned(monkeypatch, 1)
    recipe = replace(RECIPE, unsampled="decay", weight_decay=0.5, warmup_epochs=0, shards=shards)
    shrunk: dict[tuple[str, ...], bool] = {}
    for order in (("largest", "smallest", "smallest"), ("smallest", "largest", "smallest")):
        trainer = TorchTrainer(Supernet(graph, seed=0), graph, data, recipe, seed=0)
        trainer.guard.policy = "skip"
        for plan, which in zip(plans(trainer, 3), order, strict=True):
            forwards = (Forward(graph.decisions.extreme(which)),)
            before = trainer.model.get_parameter("layer.1.mlp.fc1.weight").detach().clone()
            assert (trainer.step(replace(plan, forwards=forwards)).total == 0) == (plan.step == 1)
        after = trainer.model.get_parameter("layer.1.mlp.fc1.weight")
        shrunk[order] = not torch.equal(after, before)
    assert list(shrunk.values()) == [True, False]


@pytest.mark.parametrize("opt", [{}, {"opt": "sgd", "momentum": 0.0}])
def test_decay_goes_on_after_a_skipped_step_and_a_stop(
    opt: dict[str, Any],
    graph: Graph,
    data: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also with an optimiser that keeps nothing of what it moved."""
    recipe = replace(RECIPE, unsampled="decay", epochs=2, weight_decay=0.5, **opt)
    poisoned(monkeypatch, *range(2, 6))
    begin = partial(train, graph, data, recipe, seed=3, on_nan="skip")
    same_when_stopped(begin, range(1, 10), tmp_path, monkeypatch)


# Statistics of batch norms.


def batches_of(data: Dataset, count: int) -> list[Batch]:
    return list(ordered_batches(first_samples(data.train, count), 50))


SIDE = """
space side {
  input pixels: [B, 1, 8, 8]
  choose width in {4, 6}
  x = conv(pixels, width, 3) as stem |> batch_norm as norm
  output mean(x, axes: [2, 3]) |> linear(10) as head
  output near: conv(x, 4) as side |> batch_norm as side_norm |> mean(axes: [2, 3]) |> linear(10) as near
  weights { _: entangle }
}
"""


def test_statistics_are_those_of_the_network_alone(maps: Graph, data: Dataset) -> None:
    """PyTorch's own cumulative average over an extracted network without drop path."""
    model = trained(maps, data, replace(RECIPE, model_ema=False), 6).model
    assert isinstance(model, Supernet)
    before = copy.deepcopy(model.state_dict())
    regions, batches = Regions(maps), batches_of(data, 150)
    for assignment in ({"width": 4, "op[0]": "small"}, {"width": 6, "op[0]": "large"}):
        model.activate(assignment)
        alone = extract(model, assignment)
        with recalibrated(model, regions, batches):
            subnet = extract(model, assignment)
            x = batches[0].images
            weight = alone.get_parameter("stem.weight")
            norm = nn.BatchNorm2d(len(weight), momentum=None)
            for batch in batches:
                norm(functional.conv2d(batch.images, weight, padding=1))
            for name in ("running_mean", "running_var"):
                found = subnet.get_buffer(f"norm.{name}")
                assert torch.allclose(found, getattr(norm, name), rtol=1e-4, atol=1e-6), name
            assert not torch.equal(subnet.eval()(x), alone.eval()(x))
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name]), name


def test_statistics_of_what_is_not_read_stay(maps: Graph, data: Dataset) -> None:
    model = Supernet(maps, seed=0)
    with torch.no_grad():
        for name in moving(maps):
            model.get_buffer(name).fill_(7.0)
    model.activate({"width": 4, "op[0]": "small"})
    recalibrate(model, Regions(maps), batches_of(data, 100))
    assert (model.get_buffer("norm.running_mean")[4:] == 7).all()
    assert (model.get_buffer("norm.running_mean")[:4] != 7).all()
    assert (model.get_buffer("op.0.small.norm1.running_mean")[:4] != 7).all()
    assert (model.get_buffer("op.0.large.norm2.running_mean") == 7).all()
    assert int(model.get_buffer("norm.num_batches_tracked")) == 0
    assert not model.get_parameter("stem.weight").grad


def test_statistics_of_what_only_training_reads_stay(data: Dataset) -> None:
    """Outputs for training do not run in recalibration, so nothing is known of their norms."""
    graph = spacelang.load(Source("<side>", SIDE))
    model = Supernet(graph, seed=0)
    with torch.no_grad():
        for name in moving(graph):
            model.get_buffer(name).fill_(7.0)
    recalibrate(model.activate({"width": 4}), Regions(graph), batches_of(data, 100))
    assert (model.get_buffer("side_norm.running_mean") == 7).all()
    assert (model.get_buffer("norm.running_mean")[:4] != 7).all()
    assert "side_norm.running_mean" in Regions(graph, training=True).of([{"width": 4}])


def test_scores_by_own_statistics(maps: Graph, data: Dataset) -> None:
    """A score depends on the network alone, not on what was scored before it."""
    trainer = trained(maps, data, replace(RECIPE, recalibrate=100), 8)
    assignments = [a for a in maps.sample(3, seed=0)]
    together = list(trainer.probe(assignments, Samples()))
    assert [next(trainer.probe([a], Samples())) for a in assignments[::-1]] == together[::-1]
    plain = trained(maps, data, RECIPE, 8)
    assert list(plain.probe(assignments, Samples())) != together


def test_mixed_statistics_are_warned_of(graph: Graph, maps: Graph) -> None:
    with pytest.warns(StatisticsWarning, match="--recalibrate"):
        warn_if_mixed(maps, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_mixed(maps, 100)
        warn_if_mixed(graph, 0)


# Trackers.


def test_lines_are_told_to_trackers(
    graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line once; one that fails is left out with a warning, and the run goes on."""
    told: list[int] = []

    def broken(entry: dict) -> None:
        told.append(-entry["epoch"])
        raise RuntimeError("no network")

    table = {"list": lambda folder: lambda entry: told.append(entry["epoch"])}
    table["broken"] = lambda folder: broken
    monkeypatch.setattr("spacelang.plugins.load", lambda group, name: table[name])
    recipe = replace(RECIPE, epochs=3, val_interval=0)
    with pytest.warns(TrackerWarning, match="--log broken failed and is left out: no network"):
        train(graph, data, recipe, tmp_path / "run", seed=3, log_to=("broken", "list"))
    assert told == [-1, 1, 2, 3]


def test_trackers_that_are_not_there_are_told_before_a_run(
    graph: Graph, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every process: an unknown name, and a package that is not installed."""
    with pytest.raises(SpaceError, match=r"SP604(.|\n)*did you mean tensorboard"):
        train(graph, data, RECIPE, tmp_path / "run", log_to=("tensorbord",))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr("spacelang.backends.torch.runs.trackers.current", lambda: Ranks(1, 2))
    with pytest.raises(ImportError, match=r"pip install 'tensorboard>="):
        train(graph, data, RECIPE, tmp_path / "run", log_to=("tensorboard",))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        train(graph, data, RECIPE, tmp_path / "run", log_to=("wandb",))
    assert not (tmp_path / "run").exists()


def test_tensorboard_reads_what_is_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = trackers(["tensorboard"], tmp_path)
    for epoch in (1, 2):
        tracker({"epoch": epoch, "step": 5 * epoch, "loss": 1 / epoch})
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 1.0), (2, 0.5)]


STILL = """
space still {
  input pixels: [B, 1, 8, 8]
  x = conv(pixels, 4, 3) as stem |> batch_norm(momentum: 0) as still |> batch_norm as norm
  output mean(x, axes: [2, 3]) |> linear(10) as head
}
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_statistics_that_never_move_stay(dtype: torch.dtype, data: Dataset) -> None:
    graph = spacelang.load(Source("<still>", STILL))
    model = Supernet(graph, seed=0).to(dtype)
    with torch.no_grad():
        for name in moving(graph):
            model.get_buffer(name).fill_(7.0)
    recalibrate(model, Regions(graph), batches_of(data, 100))
    assert (model.get_buffer("still.running_mean") == 7).all()
    assert (model.get_buffer("norm.running_mean") != 7).all()


def test_scores_leave_every_module_in_its_mode(maps: Graph, data: Dataset) -> None:
    """A part that was frozen stays so, and paths are dropped afterwards if they were before."""
    model = Supernet(maps, seed=0).train()
    model.dropping = False
    model.get_submodule("stem").eval()
    evaluate(model, data.validation)
    recalibrate(model, Regions(maps), batches_of(data, 50))
    assert not model.get_submodule("stem").training
    assert model.training
    assert not model.dropping
