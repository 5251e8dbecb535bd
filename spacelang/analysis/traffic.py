"""Memory traffic, launches and FLOPs of a network, from its graph: modelled, not measured.

    total = traffic(graph, assignment, batch=8)         # node by node, as PyTorch runs it
    total.bytes; total.launches; total.flops

Node by node every op reads what it is given and writes what it gives, once, and is one launch; a
`softmax`, a norm, a product are one each. Views are free: they move nothing. A rearrange that PyTorch
cannot express as a view is a copy. A fused block is what its kernels read and write (`KERNELS`).
Caches are not modelled: what is read twice in a row counts twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

from spacelang.ir.block import Block
from spacelang.ir.decision import Assignment
from spacelang.ir.dim import Dim
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Graph, Instance, Place
from spacelang.ir.node import Node, TensorType, Value
from spacelang.ir.op import CostOf, ops

VIEWS = frozenset({
    "input", "identity", "parameter", "buffer", "unstack", "split", "expand", "guard", "choose",
    "call", "drop_path", "dropout",
})  # fmt: skip
"""Ops that move nothing, in evaluation."""
WIDTH: Mapping[str, int] = {"i64": 8, "i32": 4, "i16": 2, "bool": 1}
"""Bytes of an element that is no real number."""


@dataclass(frozen=True)
class Traffic:
    """Bytes read and written, kernels launched, floating-point operations (a product is two)."""

    bytes: int = 0
    launches: int = 0
    flops: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(*(a - b for a, b in zip(self, other, strict=True)))

    def __iter__(self) -> Iterator[int]:
        yield from (self.bytes, self.launches, self.flops)


@dataclass(frozen=True)
class Sizes:
    """Sizes of one architecture at a batch, of one use of a block; `width` bytes a real number."""

    instance: Instance
    values: Mapping[str, DecisionValue]
    width: int

    def of(self, dim: Dim) -> int:
        return int(self.instance.absolute(dim).at(self.values))

    def numel(self, type: TensorType) -> int:
        return prod(self.of(size) for size in type.shape)

    def bytes(self, type: TensorType) -> int:
        return self.numel(type) * WIDTH.get(type.dtype, self.width)

    def weights(self, node: Node) -> int:
        """Bytes of what a node reads of its parameters."""
        sizes = (prod(self.of(n) for axis in v.lengths for n in axis) for v in node.params.values())
        return self.width * sum(sizes)


Model = Callable[[Block, Sizes], Traffic]
"""What the kernels of a fused block move."""


def traffic(
    graph: Graph,
    assignment: Assignment | None = None,
    batch: int = 1,
    width: int = 4,
    models: Mapping[str, Model] | None = None,
) -> Traffic:
    """What a network moves in evaluation; fused blocks by `models`, else node by node."""
    total = Traffic()
    for part in parts(graph, assignment, batch, width, models):
        total += part[2]
    return total


def parts(
    graph: Graph,
    assignment: Assignment | None = None,
    batch: int = 1,
    width: int = 4,
    models: Mapping[str, Model] | None = None,
) -> Iterator[tuple[str, str, Traffic]]:
    """The same for every node, or fused block, that is there, with its place and its block."""
    values = at(graph, assignment, batch)
    for instance in graph.instances():
        model = (models or {}).get(instance.block.name)
        if model is not None and _there(instance, values):
            found = model(instance.block, Sizes(instance, values, width))
            yield instance.path, instance.block.name, found
    for place in graph.places(inference=True):
        instance, block = place.instance, place.instance.block
        if block.name not in (models or {}) and _there(instance, values):
            found = of_node(place.node, block, Sizes(instance, values, width))
            yield instance.path, block.name, found


def _there(instance: Instance, values: Mapping[str, DecisionValue]) -> bool:
    return all(guard.at(values) for guard in instance.guards)


def at(graph: Graph, assignment: Assignment | None, batch: int) -> dict[str, DecisionValue]:
    """Values of all decisions of an architecture (the largest), and of the free sizes of a graph."""
    chosen = graph.decisions.extreme("largest") if assignment is None else assignment
    values: dict[str, DecisionValue] = dict(graph.decisions.check(chosen))
    for node in graph.root.inputs:
        for size in node.types[0].shape:
            values |= {symbol.name: batch for symbol in size.symbols if symbol.free}
    return values


def of_node(node: Node, block: Block, sizes: Sizes) -> Traffic:
    """One node by itself: what it reads, writes and computes."""
    if node.op in VIEWS or node.regions or _is_table(node):
        return Traffic()
    types = _types(node, block)
    if node.op in ("rearrange", "slice"):
        moved = sizes.bytes(node.types[0]) if node.op == "rearrange" and copies(node) else 0
        return Traffic(2 * moved, int(moved > 0))
    read = sum(map(sizes.bytes, types)) + sizes.weights(node)
    written = sum(map(sizes.bytes, node.types))
    if node.op == "take":  # the rows that are read, as often as the index has them
        read = written + sizes.bytes(types[1])
    return Traffic(read + written, 1, flops(node, types, sizes))


def flops(node: Node, types: tuple[TensorType, ...], sizes: Sizes) -> int:
    """Two for each multiply-accumulate of a product; one for each element that any other op gives."""
    definition = ops().get(node.op)
    if definition is not None and definition.macs_row is not None:
        row = definition.macs_row(CostOf(types, node.types, node.attributes, node.params))
        return 2 * sizes.of(row)
    return sum(map(sizes.numel, node.types))


def copies(node: Node) -> bool:
    """Whether a rearrange has to copy: it joins axes that do not lie side by side."""
    left, _, right = str(node.attributes["pattern"]).partition("->")
    order = left.replace("(", " ").replace(")", " ").split()
    groups = right.replace("(", " ( ").replace(")", " ) ").split()
    inside, last = False, ""
    for word in groups:
        if word in "()":
            inside, last = word == "(", ""
            continue
        if inside and last and order.index(word) != order.index(last) + 1:
            return True
        last = word
    return False


def _types(node: Node, block: Block) -> tuple[TensorType, ...]:
    nodes = block.all_by_id
    return tuple(nodes[v.node].types[v.index] for v in node.operands)


def _is_table(node: Node) -> bool:
    definition = ops().get(node.op)
    return definition is not None and "table" in definition.traits


__all__ = ["Place", "Traffic", "Value", "at", "of_node", "parts", "traffic"]
