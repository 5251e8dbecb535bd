"""The optimiser of a recipe: AdamW and SGD of PyTorch, and by name what timm has.

    optimizer = optimizer_of(model, graph, recipe)

An optimiser of timm's is tried on a small layer first: what its state holds has to come back from a
checkpoint, or a run that stops would end otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spacelang.backends.torch.storage import tensor_names
from spacelang.backends.torch.training.layer_decay import layer_scales
from spacelang.backends.torch.training.optimizer import optimizer_tensors, restore_optimizer
from spacelang.backends.torch.training.schedule import timm_module
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.graph import Graph

if TYPE_CHECKING:
    from spacelang.backends.torch.training.recipe import Recipe

WIDTH = 128  # of the layer to try on: narrow ones are not factored

Groups = list[dict[str, Any]]


def _adamw(groups: Groups, recipe: Recipe) -> Optimizer:
    return torch.optim.AdamW(groups, lr=recipe.lr, fused=True, **_given(recipe))


def _sgd(groups: Groups, recipe: Recipe) -> Optimizer:
    nesterov = recipe.opt == "sgd" and recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov)


# By timm's names: its `sgd` is Nesterov's, `momentum` is the heavy ball.
OPTIMIZERS: Mapping[str, Callable[[Groups, Recipe], Optimizer]] = MappingProxyType(
    {"adamw": _adamw, "sgd": _sgd, "momentum": _sgd}
)


def optimizer_of(model: nn.Module, graph: Graph, recipe: Recipe) -> Optimizer:
    """The optimiser of a model's parameters (SP604 for one that there is not or that cannot be)."""
    make = OPTIMIZERS.get(recipe.opt, _of_timm)
    return make(parameter_groups(model, graph, recipe), recipe)


def check_optimizer(recipe: Recipe) -> None:
    """SP604 where a run could not use the optimiser, or not go on with it: before it begins."""
    if recipe.opt in OPTIMIZERS:
        return
    entrywise = _try(recipe.opt, recipe.opt_eps, recipe.opt_betas, recipe.momentum)
    if recipe.unsampled == "freeze" and not entrywise:
        found = error("SP604", f"unused weights cannot be frozen with the optimiser {recipe.opt}")
        found = found.note("it keeps moments of rows and columns, which used weights move too")
        raise SpaceError(found.hint("--unsampled mixed, or an optimiser like adamw"))


def parameter_groups(model: nn.Module, graph: Graph, recipe: Recipe) -> Groups:
    """Two groups: with weight decay, and without (vectors, norms, and `no_decay`); with
    `layer_decay` so many for each layer, whose rate is that of the step times `lr_scale`."""
    bare = {
        name
        for storage in graph.storages.values()
        if not storage.param.decay
        for name in tensor_names(storage)
    }
    scales = {} if recipe.layer_decay is None else layer_scales(graph, recipe.layer_decay)
    kinds: list[tuple[float | None, bool]] = [] if scales else [(None, False), (None, True)]
    members: dict[tuple[float | None, bool], list[nn.Parameter]] = {kind: [] for kind in kinds}
    for name, parameter in model.named_parameters():
        label = name.rpartition(".")[2]
        spare = parameter.ndim <= 1 or label in recipe.no_decay or name in bare
        members.setdefault((scales.get(name), spare), []).append(parameter)
    return [
        {"params": found, "weight_decay": 0.0 if spare else recipe.weight_decay}
        | ({} if scale is None else {"lr_scale": scale})
        for (scale, spare), found in members.items()
    ]


def _given(recipe: Recipe) -> dict[str, Any]:
    """What the recipe says; the optimiser's own values stand for the rest."""
    given = {"eps": recipe.opt_eps, "betas": recipe.opt_betas}
    return {name: value for name, value in given.items() if value is not None}


def _of_timm(groups: Groups, recipe: Recipe) -> Optimizer:
    check_optimizer(recipe)
    return _made(recipe.opt, groups, recipe.lr, recipe.momentum, _given(recipe))


def _made(name: str, groups: Groups, lr: float, momentum: float, given: Any) -> Optimizer:
    factory = timm_module("timm.optim", f"the optimiser {name}")
    return factory.create_optimizer_v2(groups, opt=name, lr=lr, momentum=momentum, **given)


@lru_cache(maxsize=8)
def _try(name: str, eps: float | None, betas: tuple[float, ...] | None, momentum: float) -> bool:
    """Whether each entry of a weight has its own state.

    SP604 unless steps after a round trip through a checkpoint are those without.
    """
    factory = timm_module("timm.optim", f"the optimiser {name}")
    known = factory.list_optimizers()
    if name not in known:
        names = ", ".join((*OPTIMIZERS, *(n for n in known if n not in OPTIMIZERS)))
        raise SpaceError(error("SP604", f"no optimiser is called {name}").note(f"known: {names}"))
    given = {n: v for n, v in (("eps", eps), ("betas", betas)) if v is not None}

    def made() -> tuple[nn.Linear, Optimizer]:
        layer = nn.Linear(WIDTH, WIDTH)
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(0, 1, WIDTH**2).reshape(WIDTH, WIDTH))
            layer.bias.fill_(0.5)
        groups: Groups = [
            {"params": [layer.weight], "weight_decay": 0.1},
            {"params": [layer.bias], "weight_decay": 0.0},
        ]
        return layer, _made(name, groups, 0.01, momentum, given)

    def step(layer: nn.Linear, optimizer: Optimizer) -> None:
        optimizer.zero_grad()
        layer(torch.ones(2, WIDTH) / WIDTH).square().sum().backward()
        optimizer.step()

    def weights(layer: nn.Linear) -> Tensor:
        return torch.cat([p.detach().flatten() for p in layer.parameters()])

    try:
        first, before = made()
        step(first, before)
        tensors, settings = optimizer_tensors(before, first)
        second, after = made()
        second.load_state_dict(first.state_dict())
        restore_optimizer(after, second, tensors, settings)
        step(first, before)
        step(second, after)
        same = torch.equal(weights(first), weights(second))
    except Exception as failed:  # whatever a library's optimiser raises where it cannot be used
        raise SpaceError(
            error("SP604", f"the optimiser {name} cannot be used: {failed}")
        ) from failed
    if not same:
        raise SpaceError(
            error("SP604", f"the optimiser {name} cannot go on from a checkpoint").hint(
                "it keeps more than tensors and numbers a parameter"
            )
        )
    shapes = {name: parameter.shape for name, parameter in first.named_parameters()}
    return all(
        value.numel() == 1 or value.shape == shapes[key.partition("/")[2]]
        for key, value in tensors.items()
    )
