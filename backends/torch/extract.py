"""Extraction: one network of a supernet as a flat fx.GraphModule that owns its weights.

    subnet = extract(model, assignment)      # picklable, exportable; names as in the supernet

Calls are inlined, sizes are numbers, and every weight is a dense copy of the slice that was read.
The rules are those of the supernet, so both compute the same, bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.fx import GraphModule

from spacelang.backends.torch.lowering.emit import lower_node
from spacelang.backends.torch.lowering.frame import ALL, Frame, Result, Size
from spacelang.backends.torch.lowering.functions import ByMode, Table, drop_path
from spacelang.backends.torch.lowering.ports import identifier, known, table_of
from spacelang.backends.torch.lowering.tables import TABLES, listed_key
from spacelang.backends.torch.lowering.views import Axes, Part, block_key
from spacelang.backends.torch.storage import check_labels
from spacelang.ir.decision import Assignment
from spacelang.ir.dialect import dotted
from spacelang.ir.dim import ZERO, Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.gather import in_order, joined, read
from spacelang.ir.graph import Graph, Instance
from spacelang.ir.liveness import Computed, computed
from spacelang.ir.node import Node, Value, join
from spacelang.ir.param import Gather, View
from spacelang.ir.storage import Shape, bank_of, bank_position

if TYPE_CHECKING:
    from spacelang.backends.torch.supernet import Supernet

Read = Sequence[int]  # entries in order: a range, or a tuple where they are none
Ranges = tuple[tuple[Read, ...], ...]  # of each factor of each axis
GRAIN = 32_000  # elements; PyTorch copies 32,768 and more by several threads


def extract(model: Supernet, assignment: Assignment) -> GraphModule:
    """One network with a copy of its slice of the weights, in the mode of the supernet."""
    values = model.graph.decisions.check(assignment)
    work = _Extraction(model, Chosen(model.graph, values))
    return work.run()


class Chosen:
    """A graph with its decisions taken: what is there, and how large it is.

    Outputs for training count with `training`.
    """

    def __init__(
        self, graph: Graph, values: Mapping[str, DecisionValue], training: bool = False
    ) -> None:
        self.graph, self.values, self.training = graph, values, training
        self._known: dict[Dim, int | float] = {}

    def number(self, instance: Instance, dim: Dim) -> int | float:
        absolute = instance.absolute(dim)
        found = self._known.get(absolute)
        if found is None:
            found = self._known[absolute] = known(absolute, self.values)
        return found

    @cached_property
    def root(self) -> Computed:
        """What runs, and nothing else."""
        return computed(self.graph, self.values, self.training)

    def outputs(self, values: Mapping[Value, Result]) -> Any:
        """The output among the values of the root; several by name. Those for training are none."""
        found = {o.name: values[o.value] for o in self.graph.outputs if not o.training}
        return next(iter(found.values())) if len(found) == 1 else found

    @cached_property
    def reads(self) -> tuple[tuple[Instance, View], ...]:
        """The parameters that are read, in order, each as often as it is."""
        leaves = self.root.leaves()
        return tuple((instance, view) for instance, n in leaves for view in n.params.values())

    @property
    def tables(self) -> Iterator[str]:
        """The names of the index tables that have one."""
        leaves = self.root.leaves()
        return (dotted(join(i.path, n.label)) for i, n in leaves if n.label and n.op in TABLES)

    @cached_property
    def positions(self) -> dict[str, frozenset[int]]:
        """Which tensors of each storage the network reads."""
        found: dict[str, frozenset[int]] = {}
        for instance, view in self.reads:
            path, position = self.picked(instance, view)
            found[path] = found.get(path, frozenset()) | {position}
        return found

    def picked(self, instance: Instance, view: View) -> tuple[str, int]:
        """The storage that a view reads, and which tensor of it."""
        bank = bank_of(instance, instance.block.param[view.param])
        return instance.param(view.param), bank_position(bank, self.values)

    @cached_property
    def _times(self) -> Counter[str]:
        return Counter(self.owner(instance, view) for instance, view in self.reads)

    def often(self, path: str) -> bool:
        """Whether a tensor of the network is read at more than one place."""
        return self._times[path] > 1

    def owner(self, instance: Instance, view: View) -> str:
        """The path in the network of the tensor that a view reads.

        That of its storage; numbered where tied uses read several tensors of a bank.
        """
        path, position = self.picked(instance, view)
        return path if len(self.positions[path]) == 1 else f"{path}.{position}"

    @cached_property
    def tensors(self) -> dict[str, tuple[str, int]]:
        """Storage and position of each tensor of the network, by its path there."""
        return {
            path if len(positions) == 1 else f"{path}.{position}": (path, position)
            for path, positions in self.positions.items()
            for position in sorted(positions)
        }

    def ranges(self, instance: Instance, view: View) -> Ranges:
        """The entries that a view reads."""

        def number(size: Dim) -> int | float:
            return self.number(instance, size)

        return tuple(tuple(read(part, number) for part in axis) for axis in view.index)

    def kept(self) -> dict[str, Ranges]:
        """What the network keeps of each tensor: of each factor what one of its uses reads."""
        found: dict[str, Ranges] = {}
        for instance, view in self.reads:
            path, here = self.owner(instance, view), self.ranges(instance, view)
            found[path] = _joined(found[path], here) if path in found else here
        return found


def _joined(a: Ranges, b: Ranges) -> Ranges:
    return tuple(tuple(map(joined, ps, qs)) for ps, qs in zip(a, b, strict=True))


class _Extraction:
    """One network in the making."""

    def __init__(self, model: Supernet, chosen: Chosen) -> None:
        self.model, self.chosen, self.source = model, chosen, model.graph
        self.graph = fx.Graph()
        self.frame = FlatFrame(self, self.source.top)
        self.kept = chosen.kept()
        self.names = {*map(dotted, self.kept), *chosen.tables}
        self.attributes: dict[str, Tensor | nn.Module] = {}
        self.reads: dict[str, fx.Node] = {}
        self.modules: dict[object, str] = {}
        self.taps: dict[str, tuple[tuple[fx.Node, ...], int]] = {}

    def run(self) -> GraphModule:
        frame = self.frame
        for node in self.source.root.inputs:
            placeholder = self.graph.placeholder(identifier(node.label or "x"))
            frame.bind(node, (placeholder,))
        self.level(frame, self.chosen.root)
        self.graph.output(self.chosen.outputs(frame.values))
        for node in reversed(self.graph.nodes):
            if not node.users and node.op not in ("placeholder", "output"):
                self.graph.erase_node(node)
        self.graph.lint()
        used = {str(n.target) for n in self.graph.nodes if n.op in ("get_attr", "call_module")}
        owned = {name: value for name, value in self.attributes.items() if name in used}
        network = GraphModule(owned, self.graph, identifier(self.source.name))
        kept = set(self.graph.nodes)
        network.meta["taps"] = {
            path: (tuple(node.name for node in nodes), axis)
            for path, (nodes, axis) in self.taps.items()
            if kept.issuperset(nodes)
        }
        return network.train(self.model.training)

    def level(self, frame: FlatFrame, level: Computed) -> None:
        """Lower what runs of a block or region."""
        for node, inside in level.nodes:
            if inside is not None:
                self.inner(frame, node, inside)
            elif node.regions:
                frame.pass_on(node)
            else:
                lower_node(frame, node)
            self.tap(frame, node)

    def tap(self, frame: FlatFrame, node: Node) -> None:
        """Remember which nodes give a value that has a label."""
        if not node.label:
            return
        made, out = frame.values.get(node.values[0]), node.attributes.get("out")
        if made is None:
            return
        axis = node.types[0].rank - (len(out) if isinstance(out, tuple) else 0)
        parts = (made,) if isinstance(made, fx.Node) else made.parts
        self.taps[join(frame.instance.path, node.label)] = (parts, axis)

    def inner(self, frame: FlatFrame, node: Node, level: Computed) -> None:
        """Lower the block or region that a node runs."""
        inside = FlatFrame(self, level.instance)
        inside.enter(frame, node, level)
        self.level(inside, level)
        frame.leave(inside, node, level)

    # What the network owns.

    def tensor(self, path: str) -> fx.Node:
        """A weight or buffer: a dense copy of what is kept of a stored tensor."""
        name = dotted(path)
        if name not in self.attributes:
            storage, position = self.chosen.tensors[path]
            stored = self.model.stored_tensor(storage, position)
            copied = dense(stored, self.source.storages[storage].tensors[position], self.kept[path])
            weight = isinstance(stored, nn.Parameter)
            self.attributes[name] = nn.Parameter(copied, stored.requires_grad) if weight else copied
            self.reads[name] = self.graph.get_attr(name)
        return self.reads[name]

    def buffer(self, name: str, entries: Tensor) -> fx.Node:
        """A constant with a name of its own."""
        check_labels(name)
        if name not in self.attributes:
            self.attributes[name] = entries.clone()
            self.reads[name] = self.graph.get_attr(name)
        return self.reads[name]

    def module(self, key: object, make: Callable[[], nn.Module], name: str) -> str:
        """The name of a module without weights; one for equal keys."""
        if key not in self.modules:
            free, count = name, 2
            while any(f"{n}.".startswith(free + ".") for n in (*self.attributes, *self.names)):
                free, count = f"{name}_{count}", count + 1
            self.modules[key] = free
            self.attributes[free] = make()
        return self.modules[key]


def dense(stored: Tensor, shape: Shape, kept: Ranges) -> Tensor:
    """A copy of what is kept of a stored tensor, or of its gradient."""
    factors = [n for axis in shape for n in axis]
    found = stored.detach().reshape(factors)
    reads = [read for axis in kept for read in axis]
    index = tuple(
        slice(r.start, r[-1] + 1 if r else r.start, r.step) if isinstance(r, range) else ALL
        for r in reads
    )
    found = found[index]
    for axis, entries in enumerate(reads):
        if not isinstance(entries, range):
            found = found.index_select(axis, torch.tensor(entries, device=found.device))
    sizes = [prod(len(r) for r in axis) for axis in kept]
    return _copy(found).reshape(sizes)


def _copy(tensor: Tensor) -> Tensor:
    """A dense copy, on a processor in pieces that PyTorch copies by one thread.

    Hundreds of short copies by several threads wait for the slowest of them each time, which on a
    busy machine takes ten times as long as the copying.
    """
    if tensor.device.type != "cpu":
        return tensor.clone(memory_format=torch.contiguous_format)
    found = torch.empty(tensor.shape, dtype=tensor.dtype)
    _fill(found, tensor)
    return found


def _fill(target: Tensor, source: Tensor) -> None:
    if target.numel() < GRAIN:
        target.copy_(source)
        return
    rows = GRAIN // target[0].numel()
    if rows > 1:
        for part, read in zip(target.split(rows), source.split(rows), strict=True):
            part.copy_(read)
    else:
        for part, read in zip(target, source, strict=True):
            _fill(part, read)


class FlatFrame(Frame):
    """A level of one use of a block, inlined: its sizes are numbers, its weights attributes."""

    def __init__(self, work: _Extraction, instance: Instance) -> None:
        super().__init__(work.graph)
        self.work, self.instance = work, instance
        self.key = block_key(instance, work.source)

    def known(self, dim: Dim) -> Size:
        return int(self.work.chosen.number(self.instance, dim))

    def number(self, dim: Dim) -> int | float:
        return self.work.chosen.number(self.instance, dim)

    def stored(self, node: Node, role: str) -> tuple[fx.Node, Axes]:
        view = node.params[role]
        path = self.work.chosen.owner(self.instance, view)
        reads = self.work.chosen.ranges(self.instance, view)
        axes = tuple(
            tuple(part_of(r, k, f) for f, (r, k) in enumerate(zip(rs, ks, strict=True)))
            for rs, ks in zip(reads, self.work.kept[path], strict=True)
        )
        if node.op == "parameter" and view.known is None and self.work.chosen.often(path):
            axes = _sliced(axes)
        return self.work.tensor(path), axes

    def extent(self, node: Node, role: str, axis: int, factor: int) -> Size:
        path = self.work.chosen.owner(self.instance, node.params[role])
        return len(self.work.kept[path][axis][factor])

    def entries(self, node: Node) -> int | None:
        return self.work.model.plain.splits.get((self.key, node.id))

    def table(self, node: Node) -> fx.Node:
        key = table_of(node).key(self.number)
        entries = self.work.model.index_table(key)
        if node.label:
            return self.work.buffer(dotted(join(self.instance.path, node.label)), entries)
        name = self.work.module(key, lambda: Table(entries.clone()), node.op)
        return self.graph.call_module(name)

    def entry_table(self, node: Node, gather: Gather | tuple[int, ...]) -> fx.Node:
        assert isinstance(gather, tuple)
        key = listed_key(gather)
        entries = self.work.model.index_table(key)
        return self.graph.call_module(
            self.work.module(key, lambda: Table(entries.clone()), "entries")
        )

    def outside(self, symbol: Symbol) -> Size:
        if self is self.work.frame:
            return super().outside(symbol)
        return self.work.frame.size(self.instance.absolute(Dim.of(symbol)))

    def by_mode(self, function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> fx.Node:
        name = self.work.module(function, lambda: ByMode(function), function.__name__)
        return self.graph.call_module(name, arguments)

    def drop_path(self, node: Node, x: fx.Node, rate: Dim) -> fx.Node:
        value = float(self.number(rate))
        return x if value == 0 else self.by_mode(drop_path, (x, value))


def _sliced(axes: Axes) -> Axes:
    """All that there is, as a value of its own, as a supernet slices it: the gradients of what
    reads it here are added up before those of other places."""
    at = next(a for a, axis in enumerate(axes) if axis)
    return (*axes[:at], (replace(axes[at][0], whole=False), *axes[at][1:]), *axes[at + 1 :])


def part_of(read: Read, kept: Read, factor: int) -> Part:
    """What is read of a factor, in terms of what was kept."""
    extent = Dim.of(len(kept))
    if read == kept:
        return Part(ZERO, extent, 1, True, extent, factor)
    places = {entry: place for place, entry in enumerate(kept)}
    here = in_order([places[entry] for entry in read])
    gather = None if isinstance(here, range) else tuple(here)
    start = here[0] if gather is None and here else 0
    return Part(Dim.of(start), Dim.of(len(read)), 1, False, extent, factor, gather=gather)
