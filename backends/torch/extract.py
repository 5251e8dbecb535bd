"""Extraction: one network of a supernet as a flat fx.GraphModule that owns its weights.

    subnet = extract(model, assignment)      # picklable, exportable; names as in the supernet

Calls are inlined, sizes are numbers, and every weight is a dense copy of the slice that was read.
The rules are those of the supernet, so both compute the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from torch import Tensor, fx, nn
from torch.fx import GraphModule

from spacelang.backends.torch.emit import lower_node
from spacelang.backends.torch.frame import Frame, Result, Size
from spacelang.backends.torch.functions import ByMode, Table, drop_path
from spacelang.backends.torch.ports import identifier, known, table_of
from spacelang.backends.torch.program import bank_position, main_nodes
from spacelang.backends.torch.views import Axes, Part, block_key, slices
from spacelang.ir.block import Block
from spacelang.ir.decision import Assignment
from spacelang.ir.dialect import dotted
from spacelang.ir.dim import Dim
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Graph, Instance, conditions
from spacelang.ir.node import Node, Value, join
from spacelang.ir.param import View
from spacelang.ir.storage import Storage

if TYPE_CHECKING:
    from spacelang.backends.torch.supernet import Supernet

Ranges = tuple[tuple[range, ...], ...]  # of each factor of each axis


def extract(model: Supernet, assignment: Assignment) -> GraphModule:
    """One network with a copy of its slice of the weights, in the mode of the supernet."""
    values = model.graph.decisions.check(assignment)
    work = _Extraction(model, Chosen(model.graph, values))
    return work.run()


class Chosen:
    """A graph with its decisions taken: what is there, and how large it is."""

    def __init__(self, graph: Graph, values: Mapping[str, DecisionValue]) -> None:
        self.graph, self.values = graph, values
        self._known: dict[Dim, int | float] = {}

    def number(self, instance: Instance, dim: Dim) -> int | float:
        absolute = instance.absolute(dim)
        found = self._known.get(absolute)
        if found is None:
            found = self._known[absolute] = known(absolute, self.values)
        return found

    def region(self, instance: Instance, node: Node) -> Block | None:
        """The region of a node that runs; None where the operands pass."""
        for region, condition in zip(node.regions, conditions(node), strict=True):
            if instance.condition(condition).at(self.values):
                return region
        return None

    def outputs(self, values: Mapping[Value, Result]) -> Any:
        """The output among the values of the root; several by name. Those for training are none."""
        found = {o.name: values[o.value] for o in self.graph.outputs if not o.training}
        return next(iter(found.values())) if len(found) == 1 else found

    def nodes(self, instance: Instance, level: Block) -> Iterator[tuple[Instance, Node]]:
        """All nodes that run, but calls and those with regions."""
        for node in level.nodes:
            if node.call is not None:
                block = self.graph.blocks[node.call.block]
                yield from self.nodes(instance.enter(node.call, block), block)
            elif node.regions:
                region = self.region(instance, node)
                if region is not None:
                    yield from self.nodes(instance, region)
            else:
                yield instance, node

    def position(self, path: str) -> int:
        """Which tensor is read of a storage that has one for each value of some decisions."""
        return bank_position(self.graph.storages[path].bank, self.values)

    def ranges(self, instance: Instance, view: View) -> Ranges:
        """The entries that a view reads."""

        def entries(start: Dim, length: Dim, step: int) -> range:
            first, count = (int(self.number(instance, d)) for d in (start, length))
            return range(first, first + count * step, step)

        return tuple(
            tuple(entries(part.start, part.length, part.step) for part in axis)
            for axis in slices(view)
        )

    def kept(self) -> dict[str, Ranges]:
        """What the network keeps of each storage: what a use reads, or what spans several."""
        found: dict[str, Ranges] = {}
        for instance, node in self.nodes(self.graph.top, self.graph.root):
            for view in node.params.values():
                path, here = instance.param(view.param), self.ranges(instance, view)
                found[path] = _span(found[path], here) if path in found else here
        return found


def _span(a: Ranges, b: Ranges) -> Ranges:
    def span(p: range, q: range) -> range:
        return p if p == q else range(min(p.start, q.start), max(p[-1], q[-1]) + 1)

    return tuple(
        tuple(span(p, q) for p, q in zip(ps, qs, strict=True)) for ps, qs in zip(a, b, strict=True)
    )


class _Extraction:
    """One network in the making."""

    def __init__(self, model: Supernet, chosen: Chosen) -> None:
        self.model, self.chosen, self.source = model, chosen, model.graph
        self.graph = fx.Graph()
        self.kept = chosen.kept()
        self.attributes: dict[str, Tensor | nn.Module] = {}
        self.reads: dict[str, fx.Node] = {}
        self.modules: dict[object, str] = {}

    def run(self) -> GraphModule:
        root, top = self.source.root, self.source.top
        frame = FlatFrame(self, top)
        for node in root.inputs:
            placeholder = self.graph.placeholder(identifier(node.label or "x"))
            frame.bind(node, (placeholder,))
        self.level(frame, root, main_nodes(self.source, root))
        self.graph.output(self.chosen.outputs(frame.values))
        for node in reversed(self.graph.nodes):
            if not node.users and node.op not in ("placeholder", "output"):
                self.graph.erase_node(node)
        self.graph.lint()
        used = {str(n.target) for n in self.graph.nodes if n.op in ("get_attr", "call_module")}
        owned = {name: value for name, value in self.attributes.items() if name in used}
        network = GraphModule(owned, self.graph, identifier(self.source.name))
        return network.train(self.model.training)

    def level(self, frame: FlatFrame, level: Block, there: frozenset[int] | None = None) -> None:
        """Lower the nodes of a block or region that run."""
        for node in level.nodes:
            if node.op == "input" or (there is not None and node.id not in there):
                continue
            if node.call is not None:
                block = self.source.blocks[node.call.block]
                callee = frame.instance.enter(node.call, block)
                frame.bind(node, self.inner(frame, node, callee, block))
            elif node.regions:
                region = self.chosen.region(frame.instance, node)
                if region is None:
                    operands = [frame.values[v] for v in node.operands]
                    frame.bind(node, operands[: len(node.types)])
                else:
                    frame.bind(node, self.inner(frame, node, frame.instance, region))
            else:
                lower_node(frame, node)

    def inner(
        self, frame: FlatFrame, node: Node, instance: Instance, level: Block
    ) -> tuple[Result, ...]:
        """The results of a block or region that a node runs."""
        inside = FlatFrame(self, instance)
        for owner, value in zip(level.inputs, node.operands, strict=True):
            inside.bind(owner, (frame.values[value],))
        self.level(inside, level)
        return tuple(inside.values[v] for v in level.outputs)

    # What the network owns.

    def tensor(self, path: str) -> fx.Node:
        """A weight or buffer: a dense copy of what is kept of a storage."""
        name = dotted(path)
        if name not in self.attributes:
            storage = self.source.storages[path]
            stored = self.model.stored_tensor(path, self.chosen.position(path))
            copied = dense(stored, storage, self.kept[path])
            weight = isinstance(stored, nn.Parameter)
            self.attributes[name] = nn.Parameter(copied, stored.requires_grad) if weight else copied
            self.reads[name] = self.graph.get_attr(name)
        return self.reads[name]

    def buffer(self, name: str, entries: Tensor) -> fx.Node:
        """A constant with a name of its own."""
        if name not in self.attributes:
            self.attributes[name] = entries.clone()
            self.reads[name] = self.graph.get_attr(name)
        return self.reads[name]

    def module(self, key: object, make: Callable[[], nn.Module], name: str) -> str:
        """The name of a module without weights; one for equal keys."""
        if key not in self.modules:
            free, count = name, 2
            while any(
                n == free or n.startswith(free + ".") for n in (*self.attributes, *self.kept)
            ):
                free, count = f"{name}_{count}", count + 1
            self.modules[key] = free
            self.attributes[free] = make()
        return self.modules[key]


def dense(stored: Tensor, storage: Storage, kept: Ranges) -> Tensor:
    """A copy of what is kept of a stored tensor, or of its gradient."""
    factors = [n for axis in storage.shape for n in axis]
    found = stored.detach().reshape(factors)
    index = tuple(
        slice(r.start, r[-1] + 1 if len(r) else r.start, r.step) for axis in kept for r in axis
    )
    sizes = [prod(len(r) for r in axis) for axis in kept]
    return found[index].reshape(sizes).clone()


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
        path = self.instance.param(view.param)
        reads = self.work.chosen.ranges(self.instance, view)
        axes = tuple(
            tuple(part_of(r, k, f) for f, (r, k) in enumerate(zip(rs, ks, strict=True)))
            for rs, ks in zip(reads, self.work.kept[path], strict=True)
        )
        return self.work.tensor(path), axes

    def extent(self, node: Node, role: str, axis: int, factor: int) -> Size:
        path = self.instance.param(node.params[role].param)
        return len(self.work.kept[path][axis][factor])

    def entries(self, node: Node) -> int | None:
        return self.work.model.lowering.splits.get((self.key, node.id))

    def table(self, node: Node) -> fx.Node:
        key = table_of(node).key(self.number)
        entries = self.work.model.index_table(key)
        if node.label:
            return self.work.buffer(dotted(join(self.instance.path, node.label)), entries)
        name = self.work.module(key, lambda: Table(entries.clone()), node.op)
        return self.graph.call_module(name)

    def by_mode(self, function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> fx.Node:
        name = self.work.module(function, lambda: ByMode(function), function.__name__)
        return self.graph.call_module(name, arguments)

    def drop_path(self, node: Node, x: fx.Node, rate: Dim) -> fx.Node:
        value = float(self.number(rate))
        return x if value == 0 else self.by_mode(drop_path, (x, value))


def part_of(read: range, kept: range, factor: int) -> Part:
    """What is read of a factor, in terms of what was kept."""
    whole = read == kept
    start = 0 if whole else (read.start - kept.start) // kept.step
    step = 1 if whole else read.step // kept.step
    return Part(Dim.of(start), Dim.of(len(read)), step, whole, Dim.of(len(kept)), factor)
