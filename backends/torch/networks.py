"""The networks of a program as one module, with what they share stored once, and their pool.

    networks = Networks(program, seed=0)
    networks["deep"].activate(assignment)
    networks.copy(Slots("memory", (..)), Slots("deep", (..)))

A shared tensor belongs to the first network that has it, and stands in the others too. The pool is
no network: it holds weights that no step reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from spacelang.backends.torch.storage import grow, tensor_names
from spacelang.backends.torch.supernet import Supernet
from spacelang.engines.derive import ALPHAS, decision_of
from spacelang.engines.protocol import Group, Slots
from spacelang.engines.stream import seed_of
from spacelang.ir.graph import Graph
from spacelang.ir.program import Program, below
from spacelang.ir.storage import Storage

Result = TypeVar("Result")

SPREAD = 0.333  # of the weights of an ensemble at the start, as published


class Networks(nn.Module):
    """Supernets by name; `ensemble` weighs the outputs of each, the same for all.

    fit   a whole tensor as the one in a place is kept: a piece, where weights are cut
    """

    def __init__(self, program: Program, seed: int = 0, device: str = "cpu") -> None:
        super().__init__()
        self.program = program
        self.nets = nn.ModuleDict(
            {
                name: Supernet(graph, seed=seed_of(seed, "network", name))
                for name, graph in program.networks.items()
            }
        ).to(device)
        for path, names in program.shared.items():
            self._share(path, names)
        self.seed = seed
        self.pool: dict[str, Tensor] = {}
        if program.pool is not None:
            drawn = _drawn(program.pool.graph, seed_of(seed, "pool"))
            for storage in program.pool.stored.values():
                for name in tensor_names(storage):
                    self.pool[name] = drawn[name].to(device)
        outputs = max(len(graph.outputs) for graph in program.networks.values())
        generator = torch.Generator().manual_seed(seed_of(seed, "ensemble"))
        start = SPREAD * torch.rand(outputs, generator=generator)
        self.ensemble = nn.Parameter(start.to(device))
        self.fit: Callable[[Tensor, Tensor], Tensor] = lambda whole, place: whole

    def __getitem__(self, name: str) -> Supernet:
        found = self.nets[name]
        assert isinstance(found, Supernet)
        return found

    def forward(self, work: Callable[[], Result]) -> Result:
        """What some work with any of the networks gives: who wraps or hooks them sees it as one
        pass."""
        return work()

    def _share(self, path: str, names: Sequence[str]) -> None:
        """Make a storage of several networks that of the first."""
        first, *others = (self[name].tensors_at(path) for name in names)
        for places in others:
            for (owner, label), (module, own) in zip(places, first, strict=True):
                shared = getattr(module, own)
                table = owner._parameters if isinstance(shared, nn.Parameter) else owner._buffers
                table[label] = shared

    # Weights by path.

    def tensors(self, slots: Slots) -> Iterator[Tensor]:
        """The tensors of some paths of a network, or of the pool, as they are now."""
        pool = self.program.pool
        for path in slots.paths:
            if pool is not None and slots.network == pool.name:
                yield from (self.pool[name] for name in tensor_names(pool.stored[path]))
            else:
                yield from (getattr(*place) for place in self[slots.network].tensors_at(path))

    def copy(self, source: Slots, target: Slots) -> None:
        """Copy weights, the first path of one to the first of the other and so on."""
        with torch.no_grad():
            for given, taken in zip(self.tensors(source), self.tensors(target), strict=True):
                taken.copy_(given)

    def renew(self, slots: Slots, number: int) -> None:
        """Draw what lies below some paths of a network anew, statistics too."""
        graph = self.program.networks[slots.network]
        drawn = _drawn(graph, seed_of(self.seed, "renew", slots.network, number))
        with torch.no_grad():
            for path, storage in _stored(graph, slots.paths):
                own = self.tensors(Slots(slots.network, (path,)))
                for name, tensor in zip(tensor_names(storage), own, strict=True):
                    tensor.copy_(self.fit(drawn[name], tensor))

    def members(self, group: Group) -> list[nn.Parameter]:
        """The parameters of an optimiser."""
        found: list[Tensor] = []
        for path, storage in self.program.networks[group.network].storages.items():
            decision = decision_of(path)
            if storage.param.role != "weight" or path.startswith(ALPHAS) != (
                group.what == "alphas"
            ):
                continue
            if not any(below(decision, omitted) for omitted in group.omitted):
                found += self.tensors(Slots(group.network, (path,)))
        found += [self.ensemble] if group.ensemble else []
        return [tensor for tensor in found if isinstance(tensor, nn.Parameter)]

    def alphas(self, network: str) -> Mapping[str, Tensor]:
        """The architecture parameters of a network by the path of their decision."""
        paths = [p for p in self.program.networks[network].storages if p.startswith(ALPHAS)]
        tensors = self.tensors(Slots(network, tuple(paths)))
        return {decision_of(p): t for p, t in zip(paths, tensors, strict=True)}

    @property
    def few(self) -> list[nn.Parameter]:
        """Parameters that are read between steps, and no memory to speak of: of the architectures
        and of the ensemble."""
        found = [t for name in self.program.networks for t in self.alphas(name).values()]
        return [*dict.fromkeys(t for t in found if isinstance(t, nn.Parameter)), self.ensemble]

    @property
    def pooled_weights(self) -> list[str]:
        """The names in the pool of what is a weight, and no statistic."""
        stored = {} if self.program.pool is None else self.program.pool.stored
        weights = (s for s in stored.values() if s.param.role == "weight")
        return [name for storage in weights for name in tensor_names(storage)]


def _drawn(graph: Graph, seed: int) -> dict[str, Tensor]:
    """First values of all that a graph stores."""
    root = nn.Module()
    grow(root, graph, seed)
    return {name: t.detach() for name, t in (*root.named_parameters(), *root.named_buffers())}


def _stored(graph: Graph, prefixes: Sequence[str]) -> Iterator[tuple[str, Storage]]:
    for path, storage in graph.storages.items():
        if any(below(path, prefix) for prefix in prefixes):
            yield path, storage
