"""Lowering blocks: one fx.GraphModule a block, a pure function that every use of it calls.

    encoder(x, attn_qkv_weight, .., width, n192_heads, .., mask, training) -> x

Tensors come first, then the ports. A call inside a block is a call of that block's function, whose
ports become ports of the caller. A block with regions, or that calls one with regions, is no
function: its stretches between calls and regions are, and `program.py` runs them in turn.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx import GraphModule

from spacelang.backends.torch.lowering.always_needed import AlwaysNeeded
from spacelang.backends.torch.lowering.emit import lower_node
from spacelang.backends.torch.lowering.frame import Frame, Number, Size, one_or_all
from spacelang.backends.torch.lowering.functions import scale_samples, sliced_linear, with_room
from spacelang.backends.torch.lowering.fused import products as fused
from spacelang.backends.torch.lowering.fused.convolution import conv2d
from spacelang.backends.torch.lowering.groups import lower_group, takes
from spacelang.backends.torch.lowering.ports import (
    ORDER,
    Entries,
    Extent,
    Mask,
    Port,
    identifier,
    known,
    table_of,
    terms_of,
)
from spacelang.backends.torch.lowering.views import Axes, Part, block_key, layouts, splits
from spacelang.ir.block import Block
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph, Instance
from spacelang.ir.node import Call, Node, Value
from spacelang.ir.param import Gather
from spacelang.passes.fused_cost import group_of

Library = Literal["", "triton", "fused"]
"""Whose kernels compute fused groups."""


@dataclass(frozen=True)
class Function:
    """Some nodes as a function of `operands` and `ports`.

    It returns the result, or a tuple where there are several.
    """

    module: GraphModule
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    ports: tuple[Port, ...]


class Lowering:
    """The functions of a graph's blocks, each made at its first use.

    `exposed` are nodes, by block and number, whose first value every stretch gives. Fused blocks
    are calls of the kernels of a library, if one is named. What is `compiled` has no step that a
    size decides: see `torch_compile.py`.
    """

    def __init__(
        self,
        graph: Graph,
        exposed: frozenset[tuple[str, int]] = frozenset(),
        kernels: Library = "",
        compiled: bool = False,
    ) -> None:
        self.graph, self.exposed = graph, exposed
        self.kernels: Library = kernels
        self.compiled = compiled
        self._functions: dict[object, Function] = {}

    @cached_property
    def layouts(self) -> dict[tuple[str, int, str], Axes]:
        return layouts(self.graph)

    @cached_property
    def splits(self) -> dict[tuple[str, int], int]:
        return splits(self.graph, self.layouts)

    @cached_property
    def always_needed(self) -> AlwaysNeeded:
        return AlwaysNeeded(self.graph)

    def alone(self, level: Block, node: Node) -> bool:
        """Whether a node has to be a step of its own, that some architectures leave out."""
        return self.always_needed.matters and node.id not in self.always_needed.nodes(level)

    @cached_property
    def pure(self) -> frozenset[str]:
        """Blocks that are functions: no regions in them, nor in what they call, nor anything that
        has to be a step of its own."""
        known: dict[str, bool] = {}

        def visit(name: str) -> bool:
            if name not in known:
                nodes = self.graph.blocks[name].nodes
                calls = [visit(n.call.block) for n in nodes if n.call is not None]
                seen = any((name, n.id) in self.exposed for n in nodes)
                always = self.always_needed
                apart = always.matters and not always.whole(self.graph.blocks[name])
                plain = not any(n.regions for n in nodes) and not apart
                known[name] = all(calls) and not seen and plain
            return known[name]

        return frozenset(name for name in self.graph.blocks if visit(name))

    def block(self, name: str) -> Function:
        """The function of a pure block."""
        if name not in self._functions:
            block = self.graph.blocks[name]
            body = [node for node in block.nodes if node.op != "input"]
            inputs = tuple(Value(node.id) for node in block.inputs)
            self._functions[name] = self._lower(name, block, body, inputs, block.outputs)
        return self._functions[name]

    def stretch(self, instance: Instance, level: Block, nodes: Sequence[Node]) -> Function:
        """The function of some nodes of a level, none of them a call or with regions."""
        key = block_key(instance, self.graph)
        ids = {node.id for node in nodes}
        name = (key, frozenset(ids))
        if name not in self._functions:
            read = dict.fromkeys(v for n in nodes for v in n.operands if v.node not in ids)
            wanted = {v for n in level.nodes if n.id not in ids for v in n.operands}
            wanted |= set(level.outputs)
            wanted |= {Value(n.id) for n in nodes if n.types and (key, n.id) in self.exposed}
            results = tuple(v for n in nodes for v in n.values if v in wanted)
            operands = (*read, *_shapes(level, nodes, tuple(read)))
            self._functions[name] = self._lower(key, level, nodes, operands, results)
        return self._functions[name]

    def _lower(
        self,
        key: str,
        level: Block,
        nodes: Sequence[Node],
        operands: tuple[Value, ...],
        results: tuple[Value, ...],
    ) -> Function:
        frame = FunctionFrame(self, key)
        for value in operands:
            frame.operand(level.by_id[value.node], value)
        body = sum(node.op != "input" for node in level.nodes)
        whole = level.name == key and results == level.outputs and len(nodes) == body
        group = group_of(level) if self.kernels and whole else None
        if group is not None and takes(self.kernels, level, group):
            lower_group(frame, level, group, self.kernels)
            nodes = ()
        for node in nodes:
            if node.call is None:
                lower_node(frame, node)
            else:
                frame.call(node, node.call, self.block(node.call.block))
        for value in results:
            frame.gather_up(level.by_id[value.node], value)
        return frame.finish(operands, results)


def _shapes(level: Block, nodes: Sequence[Node], read: tuple[Value, ...]) -> tuple[Value, ...]:
    """Inputs of a level to read a batch axis off, where no operand of a stretch has it."""
    free = {s for n in nodes for t in n.types for d in t.shape for s in d.symbols if s.free}
    seen = {s for v in read for d in level.type_of(v).shape for s in d.symbols}
    found: list[Value] = []
    for node in level.inputs:
        here = {s for d in node.types[0].shape for s in d.symbols}
        if (free - seen) & here:
            found.append(Value(node.id))
            seen |= here
    return tuple(found)


class FunctionFrame(Frame):
    """A function in the making: all that differs from use to use is an argument."""

    def __init__(self, lowering: Lowering, key: str) -> None:
        super().__init__(fx.Graph())
        self.lowering, self.key = lowering, key
        block = lowering.graph.blocks[key] if key else lowering.graph.root
        self.terms = terms_of(block, "@")  # no path starts so: equal ports have equal items
        self.ports: dict[object, tuple[Port, fx.Node]] = {}
        self.last: fx.Node | None = None  # of the arguments
        self.callees: dict[str, GraphModule] = {}
        self.first: fx.Node | None = None

    def gather_up(self, owner: Node, value: Value) -> None:
        """A result that was made entry by entry as one tensor."""
        found, out = self.values[value], owner.attributes.get("out")
        if not isinstance(found, fx.Node) and isinstance(out, tuple):
            axis = owner.types[value.index].rank - len(out)
            self.values[value] = self.graph.call_function(torch.stack, (found.parts, axis))

    def operand(self, owner: Node, value: Value) -> None:
        name = owner.label.rsplit(".", 1)[-1] or owner.op
        self.values[value] = self._argument(name)
        self.types[value] = owner.types[value.index]

    def port(self, port: Port, name: str) -> fx.Node:
        """The argument of a port; equal ports have one, but every mask is its own."""
        item = port.at(self.terms, self.lowering.graph)
        key = (port.kind, len(self.ports) if isinstance(item, Mask) else item)
        if key not in self.ports:
            # Arguments are found while the body grows, and stand before it.
            with self.graph.inserting_after(self.last):
                self.ports[key] = (port, self._argument(name))
        return self.ports[key][1]

    def _argument(self, name: str) -> fx.Node:
        found = self.graph.placeholder(identifier(name))
        found.target = found.name  # which is unique
        self.last = found
        return found

    def call(self, node: Node, call: Call, function: Function) -> None:
        """A call of another block's function."""
        target = identifier(call.block)
        while self.callees.setdefault(target, function.module) is not function.module:
            target += "_"
        names = [n.name for n in function.module.graph.nodes if n.op == "placeholder"]
        ports = [
            self.port(port.within(call), f"{call.path}_{name}" if port.kind == "weight" else name)
            for port, name in zip(function.ports, names[len(function.operands) :], strict=True)
        ]
        operands: list[Any] = [self.values[v] for v in node.operands]
        result = self.graph.call_module(target, (*operands, *ports))
        if len(node.types) == 1:
            self.bind(node, (result,))
        else:
            get = (
                self.graph.call_function(operator.getitem, (result, i))
                for i in range(len(node.types))
            )
            self.bind(node, tuple(get))

    def finish(self, operands: tuple[Value, ...], results: tuple[Value, ...]) -> Function:
        """The function; its ports are sorted by kind."""
        self.graph.output(one_or_all(tuple(self.values[v] for v in results)))
        ports = sorted(self.ports.values(), key=lambda p: ORDER.index(p[0].kind))
        body = next(n for n in self.graph.nodes if n.op != "placeholder")
        for _, placeholder in ports:
            body.prepend(placeholder)
        self.graph.lint()
        name = identifier(self.terms.block.name)
        module = GraphModule(dict(self.callees), self.graph, name)
        return Function(module, operands, results, tuple(port for port, _ in ports))

    # What rules ask for.

    def known(self, dim: Dim) -> Size:
        if not dim.symbols:
            return int(dim.at({}))
        return self.port(Port("size", dim), str(dim))

    def number(self, dim: Dim) -> Number:
        if not dim.symbols:
            return known(dim, {})
        return self.port(Port("size", dim), str(dim))

    def stored(self, node: Node, role: str) -> tuple[fx.Node, Axes]:
        path = node.params[role].param
        axes = self.lowering.layouts[self.key, node.id, role]
        return self.port(Port("weight", path), path), axes

    def extent(self, node: Node, role: str, axis: int, factor: int) -> Size:
        path = node.params[role].param
        return self.port(Port("size", Extent(path, axis, factor)), f"{path}_{axis}_{factor}")

    def entries(self, node: Node) -> int | None:
        return self.lowering.splits.get((self.key, node.id))

    def table(self, node: Node) -> fx.Node:
        return self.port(Port("table", table_of(node)), node.op)

    def entry_table(self, node: Node, gather: Gather | tuple[int, ...]) -> fx.Node:
        assert isinstance(gather, Gather)
        return self.port(Port("table", Entries(gather)), gather.table)

    def before_slices(
        self, node: Node, role: str, tensor: fx.Node, cut: Sequence[Part | None]
    ) -> fx.Node:
        """As it is; for a compiler with room along axes where a slice of all would be special.

        Running statistics are written through their slices, so they stay as they are.
        """
        param = self.terms.block.param[node.params[role].param]
        if not self.lowering.compiled or param.role != "weight":
            return tensor
        axes = tuple(i for i, part in enumerate(cut) if part is not None and part.may_fill())
        return self.graph.call_function(with_room, (tensor, axes)) if axes else tensor

    def by_mode(self, function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> fx.Node:
        training = self.port(Port("training", None), "training")
        return self.graph.call_function(function, (*arguments, training))

    def linear(
        self, node: Node, x: fx.Node, weight: fx.Node | None, bias: fx.Node | None
    ) -> fx.Node:
        """By a function of ours where the weight is a slice, or products are a library's."""
        if self.lowering.kernels == "fused":
            return self.graph.call_function(fused.linear, (x, weight, bias))
        if self.lowering.compiled:
            return self.graph.call_function(F.linear, (x, weight, bias))
        sliced = weight is not None and (weight.op != "placeholder" or "weight" not in node.params)
        function = sliced_linear if sliced else F.linear
        return self.graph.call_function(function, (x, weight, bias))

    @property
    def conv2d(self) -> Callable[..., Tensor]:
        """PyTorch's, or for a compiler one that it does not open."""
        return conv2d if self.lowering.compiled or self.lowering.kernels == "fused" else F.conv2d

    def drop_path(self, node: Node, x: fx.Node, rate: Dim) -> fx.Node:
        if rate == 0:
            return x
        mask = Mask(rate, node.types[0].shape[0])
        return self.graph.call_function(scale_samples, (x, self.port(Port("mask", mask), "mask")))
