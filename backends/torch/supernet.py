"""The supernet: all weights of a space, and any of its networks at once.

    model = Supernet(graph, seed=0)
    model.activate({"width": 192, "depth": 12, ..}); y = model(image)
    subnet = model.extract(assignment)            # a network of its own, nothing of the supernet's

Activating works out numbers and which steps are there; it slices nothing and lowers nothing. A
space without decisions is usable at once, another starts as its largest network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, NoReturn, Self

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from spacelang.analysis.memory import check_memory
from spacelang.backends.torch.inputs import check
from spacelang.backends.torch.lowering import tables
from spacelang.backends.torch.lowering.functions import path_mask
from spacelang.backends.torch.lowering.kernels import lowering_of
from spacelang.backends.torch.lowering.lower import Lowering
from spacelang.backends.torch.lowering.program import Plan, Program
from spacelang.backends.torch.lowering.tables import TableKey
from spacelang.backends.torch.lowering.torch_compile import Compiled
from spacelang.backends.torch.recompute import recomputed
from spacelang.backends.torch.storage import Reference, apply, grow
from spacelang.collector import collector_paused
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.decision import Assignment
from spacelang.ir.dialect import dotted
from spacelang.ir.graph import Graph

KEPT = 4_096  # index tables; a network reads far fewer

SHARED = frozenset({"graph", "lowering", "plain", "_program", "_plan", "_all"})
"""What a copy has in common with its model, or makes anew: nothing in it is trained."""


Tapping = tuple[Tensor, dict[str, Tensor]]  # an output, and values by path


class Taps(NamedTuple):
    """A program that exposes values; and what begins the names of the other outputs, where these
    are among them."""

    program: Program
    others: str | None = None


class Supernet(nn.Module):
    """A graph as a module. Parameters have the paths of the graph: `encoder.3.attn.qkv.weight`."""

    @collector_paused()
    def __init__(self, graph: Graph, seed: int = 0, lowering: Lowering | None = None) -> None:
        super().__init__()
        check_memory(graph)
        self.graph = graph
        self.lowering = lowering or lowering_of(graph)
        self._program = Program(self.lowering)
        self._tables: dict[TableKey, str] = {}
        self._made = 0  # tables, those among them that are not kept any more
        self._all: Plan | None = None
        self.checkpointing = False  # work the inside of blocks out again in the backward pass
        self.dropping = True  # paths, in training
        # Modules whose weights are whole while they run, and in pieces otherwise; None: all are.
        self.units: frozenset[nn.Module] | None = None
        self._compiled: Compiled | None = None
        self._references = grow(self, graph, seed)
        self._scopes = {path: self._scope(path) for path in self._program.paths}
        self.activate(graph.decisions.extreme("largest"))

    @cached_property
    def plain(self) -> Lowering:
        """The lowering without kernels, node by node as the graph has them."""
        return Lowering(self.graph) if self.lowering.kernels else self.lowering

    def compile(self, **options: Any) -> None:
        """Run from now on what torch.compile makes of each function, one for all architectures.

        The options are torch.compile's. Copies of the model and its subnets are not compiled.
        """
        self._compiled = Compiled(self.lowering, options)
        self._program = Program(self._compiled.lowering)
        self.activate(self.assignment)

    def _scope(self, path: str) -> nn.Module:
        """The module that a place runs through; the root where it has none of its own.

        Where weights are cut, the innermost unit around it: a place that is none by itself is a
        part of one.
        """
        found: nn.Module = self
        unit: nn.Module = self
        for label in dotted(path).split(".") if path else ():
            child = found._modules.get(label)
            if child is None:
                return unit if self.cut else self
            found = child
            unit = found if self.units is None or found in self.units else unit
        return unit

    @property
    def cut(self) -> bool:
        """Whether its weights are cut into pieces, of which each process has one."""
        return self.units is not None

    # Architectures.

    def activate(self, assignment: Assignment) -> Self:
        """Be another network of the space (SP501, SP504 or SP506 for what is none of it)."""
        self._plan = self._program.plan(self.graph.decisions.check(assignment))
        self._all = None
        return self

    @property
    def assignment(self) -> Assignment:
        """The architecture that is active."""
        return self.graph.decisions.assignment(self._plan.values)

    def extract(self, assignment: Assignment | None = None) -> GraphModule:
        """A network (by default the active one) with its own copy of its slice of the weights."""
        from spacelang.backends.torch.extract import extract

        return extract(self, self.assignment if assignment is None else assignment)

    # Running.

    def forward(
        self, *inputs: Tensor, taps: Taps | None = None
    ) -> Tensor | dict[str, Tensor] | Tapping:
        """The output of the active network; several by name, without those for training.

        With `taps` its first output alone, and the values that they expose by path: what wraps or
        hooks the model sees such a pass as it sees any.
        """
        if taps is not None:
            return self._tapped(inputs, taps)
        names = [o.name for o in self.graph.outputs if not o.training]
        found = self._run(self._plan, inputs, self._compiled)
        return found[0] if len(found) == 1 else dict(zip(names, found, strict=True))

    def all_outputs(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Every output by name, those that exist for training too."""
        if self._all is None:
            every = range(len(self.graph.outputs))
            self._all = self._program.plan(self._plan.values, every)
        found = self._run(self._all, inputs, self._compiled)
        return {o.name: y for o, y in zip(self.graph.outputs, found, strict=True)}

    def _tapped(self, inputs: Sequence[Tensor], taps: Taps) -> Tapping:
        paths = taps.program.paths - self._scopes.keys()
        self._scopes |= {path: self._scope(path) for path in paths}
        names, plan = taps.program.taps(self._plan.values, taps.others)
        output, *values = self._run(plan, inputs, compiled=None)
        return output, dict(zip(names, values, strict=True))

    def _run(self, plan: Plan, inputs: Sequence[Tensor], compiled: Compiled | None) -> list[Tensor]:
        check(self.graph, inputs)
        if self.lowering.kernels == "fused" and compiled is None:
            inputs = [_channels_last(x) for x in inputs]
        slots: dict[int, Tensor] = dict(zip(self._program.inputs, inputs, strict=True))
        masks = self._masks(plan, inputs)
        for run, drawn in zip(plan.runs, masks, strict=True):
            step = run.step
            weights = [
                self._references[path][position]
                for (path, _), position in zip(step.weights, run.positions, strict=True)
            ]
            tensors = [slots[slot] for slot in run.operands]
            others = (*run.sizes, *drawn, *(self.index_table(key) for key in run.tables))
            module, scope = step.function.module, self._scopes[step.path]
            function = module if compiled is None else compiled(module)
            call = partial(apply, self) if scope is self else scope
            given = (function, tensors, weights, others, step.training)
            if self.checkpointing and self.training and torch.is_grad_enabled():
                found = recomputed(call, given, weights)
            else:
                found = call(*given)
            results = (found,) if isinstance(found, Tensor) else found
            slots.update(zip(step.results, results, strict=True))
            for slot in run.done:
                slots.pop(slot, None)
        return [slots[slot] for slot in plan.outputs]

    def _masks(self, plan: Plan, inputs: Sequence[Tensor]) -> list[list[Tensor | None]]:
        """The masks of all drop paths, drawn before anything runs; none where none is dropped."""
        if not (self.training and self.dropping):
            return [[None] * len(run.rates) for run in plan.runs]
        batch = {n: inputs[i].shape[axis] for n, (i, axis) in self._program.batch.items()}
        values = {**plan.values, **batch}
        device = inputs[0].device
        return [
            [
                self._mask(rate, int(mask.samples.at(values)), device)
                for mask, rate in zip(run.step.masks, run.rates, strict=True)
            ]
            for run in plan.runs
        ]

    def _mask(self, rate: float, samples: int, device: torch.device) -> Tensor | None:
        if rate > 0:
            return path_mask(rate, samples, device)
        return None if self._compiled is None else torch.ones(samples, device=device)

    def tensors_at(self, path: str) -> tuple[Reference, ...]:
        """The module and the name of each tensor behind a storage."""
        return self._references[path]

    def readers(self) -> Iterator[tuple[nn.Module, frozenset[nn.Parameter]]]:
        """Each module that is called, and the parameters that it reads in some network."""
        read: dict[nn.Module, set[nn.Parameter]] = {}
        for step in self._program.everywhere():
            found = read.setdefault(self._scopes[step.path], set())
            tensors = (getattr(m, n) for path, _ in step.weights for m, n in self._references[path])
            found.update(t for t in tensors if isinstance(t, nn.Parameter))
        return ((module, frozenset(parameters)) for module, parameters in read.items())

    def stored_tensor(self, path: str, position: int = 0) -> Tensor:
        """The tensor of a storage as it is now, of a bank the one at a position."""
        module, name = self._references[path][position]
        return getattr(module, name)

    def index_table(self, key: TableKey) -> Tensor:
        """The entries of an index table; the `KEPT` that were read last are kept."""
        name = self._tables.pop(key, None)
        if name is None:
            name = f"_table_{self._made}"
            self._made += 1
            like = next(self.parameters(), torch.empty(0))
            with torch.inference_mode(False):  # it is kept, and training reads it too
                entries = tables.table(key).to(like.device)
                if entries.is_floating_point():
                    entries = entries.to(like.dtype)
            self.register_buffer(name, entries, persistent=False)
        self._tables[key] = name  # the last of all, now
        if len(self._tables) > KEPT:
            delattr(self, self._tables.pop(next(iter(self._tables))))
        return getattr(self, name)

    # Copies.

    def _replicate_for_data_parallel(self) -> NoReturn:
        found = error("SP605", f"{self.graph.name} is no module for nn.DataParallel")
        raise SpaceError(found.hint("a process for each device: DistributedDataParallel"))

    def __deepcopy__(self, memo: dict[int, object]) -> Supernet:
        """Weights are copied, the graph and its functions shared."""
        return self._copied(memo, self.lowering)

    def without_kernels(self) -> Supernet:
        """A copy that computes node by node."""
        return self._copied({}, self.plain)

    def _copied(self, memo: dict[int, object], lowering: Lowering) -> Supernet:
        """A copy as PyTorch makes those of modules: with their ties, hooks and whatever was added.

        Index tables are made again where they are read.
        """
        state = dict(self.__dict__)
        for name in SHARED & state.keys():
            memo[id(state[name])] = state[name]
        names = frozenset(self._tables.values())
        state["_buffers"] = {n: b for n, b in self._buffers.items() if n not in names}
        state["_non_persistent_buffers_set"] = self._non_persistent_buffers_set - names
        state |= {"_tables": {}, "_compiled": None}
        other = memo[id(self)] = Supernet.__new__(Supernet)
        other.__dict__.update(copy.deepcopy(state, memo))
        other.lowering, other._program = lowering, Program(lowering)
        other._scopes = {path: other._scope(path) for path in other._program.paths}
        return other.activate(self.assignment)


def _channels_last(x: Tensor) -> Tensor:
    """Images on a processor with the channels of a pixel side by side, which convolutions, norms
    and pools keep: they take half as long so, and pools a fifth."""
    maps = x.dim() == 4 and x.device.type == "cpu" and x.is_floating_point()
    return x.contiguous(memory_format=torch.channels_last) if maps else x
