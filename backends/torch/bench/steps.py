"""Forward and backward of random paths of a supernet: ours, and the published form.

Paths are dropped in neither, as masks are random. Gradients are compared by published names, in
float64 where the row asks for that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import cycle
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang.backends.torch import weights
from spacelang.backends.torch.bench.published import FORMS
from spacelang.backends.torch.bench.work import Request, Work, about, images, in_float64, model_of
from spacelang.backends.torch.lowering.kernels import with_fused
from spacelang.backends.torch.supernet import Supernet
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.loader import load
from spacelang.passes.bucketise import bucketised

PLAIN = f"{Path(__file__).with_name('networks.space')}:autoformer_t_plain"
PATHS = 2  # random paths that a repeat goes through


def step(request: Request, again: bool = False, plain: bool = False) -> Work:
    """By the backend `fused`; `again`: with blocks that are worked out again; `plain`: the same
    paths of AutoFormer without relative terms, another function."""
    graph = load(PLAIN if plain else request["space"])
    with with_fused():
        model = model_of(graph).train()
    model.checkpointing = again
    return _stepped(model, request, load(request["space"]))


def in_bfloat16(request: Request) -> Work:
    """By the backend `fused` under autocast, as `--amp` has it."""
    graph = load(request["space"])
    with with_fused():
        model = model_of(graph).train()
    return _stepped(model, request, graph, narrow=True)


def _stepped(model: Supernet, request: Request, space: Graph, narrow: bool = False) -> Work:
    graph = model.graph
    model.dropping = False
    x, paths = images(graph, request["batch"]), _paths(space)
    target = torch.arange(request["batch"])

    def forth_and_back(assignment: Assignment) -> Tensor:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16) if narrow else nullcontext():
            logits = model.activate(assignment)(x)
        loss = F.cross_entropy(logits.float() if narrow else logits, target)
        loss.backward()
        return loss.detach()

    def results() -> dict[str, Tensor]:
        loss = forth_and_back(paths[0])
        if request.get("double"):
            with in_float64((x, *model.parameters(), *model.buffers())):
                double = forth_and_back(paths[0])
                return {"loss": loss, "loss in float64": double} | _gradients(model, graph)
        return {"loss": loss} | _gradients(model, graph)

    fewest = bucketised(graph)  # relative terms as ours computes them
    costs = [fewest.cost(path).macs for path in paths]
    flops = 3 * 2 * request["batch"] * sum(costs) // PATHS
    told = {**about(graph, paths[0], request["batch"]), "flops": flops, "narrow": narrow}
    return Work(_in_turn(forth_and_back, paths), results, told, PATHS)


def _gradients(model: Supernet, graph: Graph) -> dict[str, Tensor]:
    """By published names, in the published shapes."""
    own = dict(model.named_parameters())
    found: dict[str, Tensor] = {}
    for entry in weights.entries(graph, "published" if "published" in graph.dialects else "own"):
        gradient = own[entry.own].grad if entry.own in own else None
        if gradient is not None:
            found[entry.foreign] = entry.to_foreign(gradient)
    return found


def published(request: Request) -> Work:
    """The same of the published form."""
    graph = load(request["space"])
    model = model_of(graph)
    state = weights.save(model, names="published")
    leaves = _learned(state, model)
    del model
    form = FORMS[request["network"]]
    x, paths = images(graph, request["batch"]), _paths(graph)
    target = torch.arange(request["batch"])

    def forth_and_back(assignment: Assignment) -> Tensor:
        for leaf in leaves.values():
            leaf.grad = None
        loss = F.cross_entropy(form(state, graph, assignment)(x), target)
        loss.backward()
        return loss.detach()

    def gradients() -> dict[str, Tensor]:
        return {n: t.grad for n, t in leaves.items() if t.grad is not None}

    def results() -> dict[str, Tensor]:
        loss = forth_and_back(paths[0])
        if request.get("double"):
            with in_float64((x, *state.values())):
                double = forth_and_back(paths[0])
                return {"loss": loss, "loss in float64": double} | gradients()
        return {"loss": loss} | gradients()

    return Work(_in_turn(forth_and_back, paths), results, cycle=PATHS)


def _learned(state: Mapping[str, Tensor], model: Supernet) -> dict[str, Tensor]:
    """The tensors of a state that are parameters of the model, which now have gradients."""
    own = dict(model.named_parameters())
    names = {e.foreign for e in weights.entries(model.graph, "published") if e.own in own}
    return {name: state[name].requires_grad_() for name in state if name in names}


def _paths(graph: Graph) -> list[Assignment]:
    return list(graph.sample(PATHS, seed=0))


def _in_turn(
    function: Callable[[Assignment], Tensor], paths: Sequence[Assignment]
) -> Callable[[], None]:
    """A call that takes a step on the next path, and on the first one after the last."""
    turns = cycle(paths)

    def call() -> None:
        function(next(turns))

    return call


BUILDERS: dict[str, Callable[[Request], Work]] = {
    "step": step,
    "step.bfloat16": in_bfloat16,
    "step.checkpointed": partial(step, again=True),
    "step.plain": partial(step, plain=True),
    "step.published": published,
}
