"""Statistics of batch norms found anew for one architecture, from training images.

    with recalibrated(model, regions, batches): score = ...     # the active architecture
    recalibrate(model, regions, batches)                       # and it stays so

In training the running statistics of a supernet follow all its networks, so they fit none of them.
Here they become, of what the active network reads, the mean over batches of its own statistics.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from spacelang.backends.torch.data.datasets import Batch, Dataset, first_samples, ordered_batches
from spacelang.backends.torch.lowering.ports import known
from spacelang.backends.torch.storage import tensor_names
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.evaluate import BATCH, mode
from spacelang.backends.torch.training.read_regions import Regions
from spacelang.ir.decision import Assignment
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph


class StatisticsWarning(UserWarning):
    """A network is scored by statistics that are not its own."""


@dataclass(frozen=True, slots=True)
class Moving:
    """A running statistic: how fast it moves, and the name of the tensor that counts its moves."""

    momentum: float
    count: str


def moving(graph: Graph) -> dict[str, Moving]:
    """The running statistics of a supernet, by their names in the state dict."""
    found: dict[str, Moving] = {}
    for place in graph.places():
        if place.node.op != "batch_norm":
            continue
        paths = {role: place.instance.param(v.param) for role, v in place.node.params.items()}
        (count, *_) = tensor_names(graph.storages[paths["num_batches_tracked"]])
        momentum = place.node.attributes["momentum"]
        assert isinstance(momentum, Dim)
        here = Moving(float(known(place.instance.absolute(momentum), {})), count)
        for role in ("running_mean", "running_var"):
            found |= dict.fromkeys(tensor_names(graph.storages[paths[role]]), here)
    return found


def warn_if_mixed(graph: Graph, images: int) -> None:
    """StatisticsWarning where networks with shared statistics are scored as they are."""
    if not images and graph.decisions and moving(graph):
        warnings.warn(
            f"the batch norms of {graph.name} keep statistics of all its networks together; "
            "--recalibrate 1000 finds those of each before it is scored",
            StatisticsWarning,
            stacklevel=2,
        )


def recalibrate(model: Supernet, regions: Regions, batches: Iterable[Batch]) -> None:
    """Give the active network statistics of its own; those of what it does not read stay.

    No path is dropped, as in evaluation.
    """
    movings = moving(model.graph)
    if not movings:
        return
    state = model.state_dict()
    statistics = {name: state[name] for name in movings}
    counts = {row.count: state[row.count] for row in movings.values()}
    before = {name: tensor.clone() for name, tensor in (statistics | counts).items()}
    sums: dict[str, Tensor] = {}
    like, dropping, seen = next(model.parameters()), model.dropping, 0
    devices = [like.device] if like.device.type == "cuda" else []
    model.dropping = False
    try:
        with mode(model, training=True), torch.no_grad(), torch.random.fork_rng(devices):
            torch.manual_seed(0)  # of dropout
            for batch in batches:
                for tensor in (*statistics.values(), *counts.values()):
                    tensor.zero_()
                model(batch.images.to(like.device, like.dtype))
                seen += len(batch.labels)
                for name, row in movings.items():
                    # From 0, so many moves leave this share of the batch's own statistic; by a
                    # momentum of 0 none, and the statistic stays as it is.
                    share = 1 - (1 - row.momentum) ** int(counts[row.count])
                    if share:
                        moved = statistics[name] * (len(batch.labels) / share)
                        sums[name] = moved if name not in sums else sums[name] + moved
    finally:
        model.dropping = dropping
        for name, tensor in (statistics | counts).items():
            tensor.copy_(before[name])
    for name, mask in regions.of([model.assignment]).items():
        if name in sums:
            found = sums[name] / seen
            if mask is not None:
                found = torch.where(mask.to(like.device), found, before[name])
            statistics[name].copy_(found)


def calibrate(model: Supernet, assignment: Assignment, data: Dataset | None, images: int) -> None:
    """Give an architecture statistics of its own; without images a warning where it needs them."""
    warn_if_mixed(model.graph, images)
    model.activate(assignment)
    if data is not None:
        batches = ordered_batches(first_samples(data.train, images), BATCH)
        recalibrate(model, Regions(model.graph), batches)


@contextmanager
def recalibrated(model: Supernet, regions: Regions, batches: Iterable[Batch]) -> Generator[None]:
    """The active network with statistics of its own, as long as the block lasts."""
    state = model.state_dict()
    kept = {name: state[name].clone() for name in moving(model.graph)}
    recalibrate(model, regions, batches)
    try:
        yield
    finally:
        for name, value in kept.items():
            state[name].copy_(value)
