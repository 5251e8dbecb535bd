"""CDARTS' search step: a pass of both networks that moves architecture parameters and the deep
network, then one of the shallow network that moves its weights.

    first     both networks; labels of each, and their distance
    second    the shallow network alone; labels

Each of them forward and backward; optimisers, which are the same for both contenders, are left out,
as are masks of paths. The deep network is that of the published genotype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang.backends.torch.bench.published.cdarts import Evaluation, Search
from spacelang.backends.torch.bench.work import Request, Work, fill, in_float64, versions
from spacelang.backends.torch.lowering.kernels import with_fused
from spacelang.backends.torch.networks import Networks
from spacelang.backends.torch.training.losses import INTROSPECTING
from spacelang.ir.decision import Assignment, Plain
from spacelang.loader import load_program

# The published cells: the operation and the source of each node's two edges.
CELLS = {
    "normal": "sep_3 0 sep_3 1 / sep_3 1 sep_3 2 / sep_3 0 sep_3 1 / skip 0 skip 2",
    "reduction": "sep_5 1 max_pool 0 / dil_5 2 skip 0 / sep_3 0 sep_5 1 / sep_3 0 dil_5 2",
}
DISTANCE, TEMPERATURE = "introspection_smooth_l1", 2.0  # as published for CIFAR-10
Outputs = tuple[Tensor, ...]


def fused(request: Request) -> Work:
    """By the backend `fused`."""
    with with_fused():
        networks = _networks(request)
    shallow, deep = networks["shallow"], networks["deep"]
    genotype = _genotype()
    deep.activate(genotype)
    costs = [shallow.graph.cost(None).macs, deep.graph.cost(genotype).macs]
    flops = 3 * 2 * request["batch"] * (2 * costs[0] + costs[1])
    return _stepped(
        lambda x: tuple(shallow.all_outputs(x).values()),
        lambda x: tuple(deep.all_outputs(x).values()),
        networks, request, {"flops": flops, "versions": versions()},
    )  # fmt: skip


def published(request: Request) -> Work:
    """The same of the published form, on the very tensors of such networks."""
    networks = _networks(request)
    search = Search(_state(networks, "shallow"))
    evaluation = Evaluation(_state(networks, "deep"), _genotype())
    return _stepped(search, evaluation, networks, request, {})


def _networks(request: Request) -> Networks:
    networks = Networks(load_program(request["space"]), seed=0)
    fill(networks.state_dict())
    return networks.train()


def _state(networks: Networks, name: str) -> Mapping[str, Tensor]:
    model = networks[name]
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _genotype() -> Assignment:
    """The published cells as an assignment of the deep network."""
    found: dict[str, Plain] = {}
    for kind, cell in CELLS.items():
        for n, node in enumerate(cell.split(" / ")):
            words = node.split()
            found[f"{kind}.inputs[{n}]"] = [int(source) for source in words[1::2]]
            for e, op in enumerate(words[::2]):
                found[f"{kind}.dag[{n}][{e}].op"] = op
    return found


def _stepped(
    search: Callable[[Tensor], Outputs],
    evaluation: Callable[[Tensor], Outputs],
    networks: Networks,
    request: Request,
    told: Mapping[str, object],
) -> Work:
    batch = request["batch"]
    random = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, batch, 3, 32, 32, generator=random)
    labels = torch.arange(batch) % 10
    distance = INTROSPECTING[DISTANCE]

    def joint() -> Tensor:
        networks.zero_grad(set_to_none=True)
        own, other = search(first), evaluation(first)
        apart = distance(own, other, networks.ensemble, {"temperature": TEMPERATURE})
        loss = F.cross_entropy(own[-1], labels) + F.cross_entropy(other[-1], labels) + apart
        loss.backward()
        return loss.detach()

    def alone() -> Tensor:
        networks.zero_grad(set_to_none=True)
        loss = F.cross_entropy(search(second)[-1], labels)
        loss.backward()
        return loss.detach()

    def results() -> dict[str, Tensor]:
        """Losses, and losses and gradients in float64."""
        found = {"first loss": joint(), "second loss": alone()}
        held = (first, second, *networks.parameters(), *networks.buffers())
        with in_float64(held):
            for name, part in (("first", joint), ("second", alone)):
                found[f"{name} loss in float64"] = part()
                for path, tensor in networks.named_parameters():
                    if tensor.grad is not None:
                        found[f"{name} {path}"] = tensor.grad
        return found

    def call() -> None:
        joint()
        alone()

    return Work(call, results, told)


BUILDERS: dict[str, Callable[[Request], Work]] = {"cycle": fused, "cycle.published": published}
