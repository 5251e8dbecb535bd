"""Which entries of the stored weights an architecture reads.

    regions = Regions(graph)
    regions.of([assignment, ..])       # {"encoder.0.attn.qkv.weight": mask, "head.bias": None}

A mask has the shape of the stored tensor; None stands for all of it, and a tensor of which nothing
is read is not there. `frozen` keeps the rest as it is in a step of an optimiser.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spacelang.backends.torch.extract import Chosen, Ranges
from spacelang.backends.torch.storage import tensor_names
from spacelang.ir.decision import Assignment
from spacelang.ir.graph import Graph
from spacelang.ir.storage import Shape, merged

KEPT = 4_096  # masks; a space has few different slices of a tensor
Mask = Tensor | None


class Regions:
    """The entries that architectures read, also for outputs of training with `training`. Masks are
    kept: few slices come again and again."""

    def __init__(self, graph: Graph, training: bool = False) -> None:
        self.graph, self.training = graph, training
        self._names = {path: tensor_names(storage) for path, storage in graph.storages.items()}
        self._masks: dict[tuple[str, frozenset[Ranges]], Mask] = {}

    def of(self, assignments: Iterable[Assignment]) -> dict[str, Mask]:
        """What one of the architectures reads of each tensor, by its name in the state dict."""
        read: dict[tuple[str, int], set[Ranges]] = {}
        for assignment in assignments:
            values = self.graph.decisions.check(assignment)
            chosen = Chosen(self.graph, values, self.training)
            for instance, view in chosen.reads:
                where = chosen.picked(instance, view)
                read.setdefault(where, set()).add(chosen.ranges(instance, view))
        found: dict[str, Mask] = {}
        for (path, position), ranges in read.items():
            shape = self.graph.storages[path].tensors[position]
            name = self._names[path][position]
            found[name] = self._mask(name, shape, frozenset(ranges))
        return found

    def _mask(self, name: str, shape: Shape, ranges: frozenset[Ranges]) -> Mask:
        key = (name, ranges)
        if key not in self._masks:
            if len(self._masks) >= KEPT:
                self._masks.clear()
            self._masks[key] = _mask(shape, ranges)
        return self._masks[key]


def _mask(shape: Shape, ranges: frozenset[Ranges]) -> Mask:
    factors = [size for axis in shape for size in axis]
    if not factors:
        return None
    mask = torch.zeros(factors, dtype=torch.bool)
    for reads in ranges:
        lists = [torch.tensor(tuple(read), dtype=torch.int64) for axis in reads for read in axis]
        mask[torch.meshgrid(*lists, indexing="ij")] = True
    return None if bool(mask.all()) else mask.reshape(merged(shape))


@contextmanager
def frozen(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    regions: Regions,
    assignments: Iterable[Assignment],
) -> Generator[None]:
    """Entries that none of these architectures reads stay as they are, and so do their moments."""
    read = regions.of(assignments)
    kept: list[tuple[Tensor, Tensor, dict[str, Tensor], Tensor]] = []
    for name, parameter in model.named_parameters():
        mask = read.get(name)
        if parameter.grad is not None and mask is not None:
            state = {
                quantity: value.clone()
                for quantity, value in optimizer.state[parameter].items()
                if isinstance(value, Tensor) and value.shape == parameter.shape
            }
            before = parameter.detach().clone()
            kept.append((parameter, before, state, mask.to(parameter.device)))
    yield
    for parameter, before, state, mask in kept:
        now = optimizer.state[parameter]
        parameter.detach().copy_(torch.where(mask, parameter.detach(), before))
        for quantity, value in state.items():
            now[quantity].copy_(torch.where(mask, now[quantity], value))
