"""Weights, gradients and moments cut among the processes of a run, by PyTorch's FSDP2.

    pieces = of_supernet(model, ranks)           # in place: parameters become pieces (DTensors)
    pieces = of_networks(networks, ranks)
    tensors = pieces.whole(tensors)              # as one process has them, for a checkpoint
    tensors = pieces.cut(tensors, places)        # as this process keeps them

A unit is a block of the network, at the place that it is called: its weights are whole while it
runs, forward and backward, and pieces otherwise. So slices are views of whole tensors, as in one
process. The rest, as what several blocks share, is whole for a whole pass. Networks of a program
share weights across blocks: they are one unit, whole for a step. Gradients are added
along the tree of `ranks.py`: they have the bits of one process. So have weights, but for what Adam
makes of the last entries of a piece, as vector units round in another way than scalars.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from spacelang.backends.torch.networks import Networks
from spacelang.backends.torch.runs.ranks import Ranks, tree
from spacelang.backends.torch.supernet import Supernet
from spacelang.backends.torch.training.checkpoint import Tensors


class _Tree:
    """Adds what all processes have, in the order of the tree, and leaves each its part."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> None:
        theirs = torch.empty_like(input_tensor)
        dist.all_to_all_single(theirs, input_tensor, group=group)
        parts = theirs.view(self.ranks.size, -1)
        output_tensor.copy_(tree(list(parts), torch.add).view_as(output_tensor))


class Pieces:
    """The pieces of a module, one a process, made in place; parameters that are `left` stay whole.

    Of the root's own weights `again` says whether they are let go between forward and backward.
    """

    def __init__(
        self,
        model: nn.Module,
        ranks: Ranks,
        units: Collection[nn.Module] = (),
        left: Collection[nn.Parameter] = (),
        again: bool = False,
    ) -> None:
        self.model, self.ranks = model, ranks
        self.mesh = init_device_mesh(next(model.parameters()).device.type, (ranks.size,))
        for module in units:
            self._begin(module)
        self.root = self._begin(model, ignored_params=set(left), reshard_after_forward=again)

    def _begin(self, module: nn.Module, **options: Any) -> FSDPModule:
        unit = cast(FSDPModule, fully_shard(module, mesh=self.mesh, **options))
        unit.set_gradient_divide_factor(1.0)  # shares of a batch are in the loss
        unit.set_force_sum_reduction_for_comms(True)
        unit.set_custom_reduce_scatter(cast(Any, _Tree(self.ranks)))
        return unit

    @staticmethod
    @contextmanager
    def quiet() -> Generator[None]:
        """No warning of views that blocks return, which are never changed in place."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
            yield

    def reduce(self, now: bool) -> None:
        """Whether the next backward pass adds gradients among the processes, or keeps them here."""
        self.root.set_requires_gradient_sync(now)

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The norm of gradients together, of whole tensors one by one: the bits of one process."""
        norms = [torch.linalg.vector_norm(_whole(gradient)) for gradient in gradients]
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.tensor(0.0)

    def whole(self, tensors: Tensors) -> Tensors:
        """Tensors as one process has them, on the CPU, for the first process; all have to ask."""
        found: dict[str, dict[str, Tensor]] = {}
        for group, members in tensors.items():
            found[group] = {}
            for name, tensor in members.items():
                value = _whole(tensor)
                if self.ranks.first:
                    found[group][name] = value.cpu()
        return found

    def network(self) -> Supernet:
        """The network whole again, in every process; all have to ask."""
        assert isinstance(self.model, Supernet)
        made = Supernet(self.model.graph)
        made.load_state_dict({n: _whole(t) for n, t in self.model.state_dict().items()})
        return made

    def cut(self, tensors: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a checkpoint as this process keeps them, each by the place of its name, or of
        its parameter's."""

        def kept(name: str, tensor: Tensor) -> Tensor:
            place = places.get(name) if name in places else places.get(name.partition("/")[2])
            return tensor if place is None else fit(tensor, place)

        return {name: kept(name, tensor) for name, tensor in tensors.items()}


def of_supernet(model: Supernet, ranks: Ranks) -> Pieces:
    """The pieces of a supernet, block by block."""
    units = list(_units(model))
    made = Pieces(model, ranks, units)
    model.units = frozenset(units)
    return made


def of_networks(networks: Networks, ranks: Ranks) -> Pieces:
    """The pieces of the networks of a program and of their pool; they are whole for a step."""
    made = Pieces(networks, ranks, left=networks.few, again=True)
    for name in networks.pooled_weights:
        tensor = networks.pool[name]
        networks.pool[name] = distribute_tensor(tensor, made.mesh, [Shard(0)], src_data_rank=None)
    networks.fit = fit
    return made


def fit(tensor: Tensor, place: Tensor) -> Tensor:
    """A whole tensor as the one in a place is kept; as it is where that is whole, or of another
    shape."""
    if not isinstance(place, DTensor) or tensor.shape != place.shape:
        return tensor
    on = tensor.to(place.device)
    return distribute_tensor(on, place.device_mesh, place.placements, src_data_rank=None)


def _units(model: Supernet) -> Iterator[nn.Module]:
    """The blocks that alone read all that is below them, but for inner units; those come first."""
    readers = dict(model.readers())
    counts = Counter(parameter for read in readers.values() for parameter in read)
    taken: set[nn.Parameter] = set()
    for module in reversed(list(model.modules())):  # inner ones come after outer ones
        own = set(module.parameters()) - taken
        alone = all(counts[p] == 1 and p in readers.get(module, ()) for p in own)
        if own and alone and module is not model:
            taken |= own
            yield module


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
