"""Memory traffic, launches and FLOPs of a network, from its graph: modelled, not measured.

    total = traffic(graph, assignment, batch=8)         # node by node, as PyTorch runs it
    total.bytes; total.launches; total.flops

Node by node every op reads what it is given and writes what it gives, once, and is one launch (but
for `STEPS`). Views are free: they move nothing. A rearrange that PyTorch
cannot express as a view is a copy. A fused block is what its kernels read and write (`KERNELS`).
Caches are not modelled: what is read twice in a row counts twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from spacelang.ir.block import Block
from spacelang.ir.decision import Assignment
from spacelang.ir.dim import Dim
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Graph, Instance
from spacelang.ir.infer import CostOf, Settled
from spacelang.ir.node import Node, TensorType
from spacelang.ir.op import ops
from spacelang.ops.patterns import bind_rearrange, parse_rearrange

VIEWS = frozenset({
    "input", "identity", "parameter", "buffer", "unstack", "split", "expand", "guard", "choose",
    "call", "drop_path", "dropout",
})  # fmt: skip
"""Ops that move nothing, in evaluation."""
STEPS: Mapping[str, Callable[[int], int]] = {
    "bucket_sum": lambda _: 2,  # zeros, and what is added to them
    "mixture": lambda operands: 2 * (operands - 1) - 1,
    "sum_of": lambda operands: operands - 1,
}
"""Ops that are several launches, by the number of their operands."""
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
        total = 0
        for view in node.params.values():
            kind = self.instance.block.param[view.param].dtype
            count = prod(self.of(size) for axis in view.lengths for size in axis)
            total += count * WIDTH.get(kind, self.width)
        return total


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
    """Values of all decisions of an architecture (or the largest), and of the free sizes."""
    chosen = graph.decisions.extreme("largest") if assignment is None else assignment
    values: dict[str, DecisionValue] = dict(graph.decisions.check(chosen))
    for node in graph.root.inputs:
        for size in node.types[0].shape:
            values |= {symbol.name: batch for symbol in size.symbols if symbol.free}
    return values


def of_node(node: Node, block: Block, sizes: Sizes) -> Traffic:
    """One node by itself: what it reads, writes and computes."""
    if node.op in VIEWS or node.regions or _is_table(node) or _still(node):
        return Traffic()
    types = _types(node, block)
    if node.op in ("rearrange", "slice"):
        copied = node.op == "rearrange" and copies(node, block, sizes)
        return Traffic(2 * sizes.bytes(node.types[0]), 1) if copied else Traffic()
    read = sum(map(sizes.bytes, types)) + sizes.weights(node)
    written = sum(map(sizes.bytes, node.types))
    steps = STEPS.get(node.op, lambda _: 1)(len(node.operands))
    between = 2 * written * (steps - 1)  # what a step writes and the next one reads
    found = Traffic(read + between + written, steps, flops(node, types, sizes))
    return found + Traffic(2 * sizes.bytes(types[0]), 1) if _joins(node, block) else found


def flops(node: Node, types: tuple[TensorType, ...], sizes: Sizes) -> int:
    """Two for each multiply-accumulate of a product; else one for each element of the result."""
    definition = ops().get(node.op)
    if definition is not None and definition.macs_row is not None:
        row = definition.macs_row(CostOf(types, node.types, node.attributes, node.params))
        return 2 * sizes.of(row)
    return sum(map(sizes.numel, node.types))


def copies(node: Node, block: Block, sizes: Sizes) -> bool:
    """Whether a rearrange has to copy: it joins axes that do not lie side by side."""
    infer = Settled("rearrange", _types(node, block), node.attributes)
    sides = parse_rearrange(infer)
    known, _ = bind_rearrange(infer, sides)
    place: dict[str, int] = {}
    for group in sides.left:
        for name in group:
            if (name in known and sizes.of(known[name]) != 1) or name == "...":
                place[name] = len(place)
    for group in sides.right:
        inside = [place[name] for name in group if name in place]
        if any(b != a + 1 for a, b in pairwise(inside)):
            return True
    return False


def _joins(node: Node, block: Block) -> bool:
    """Whether a linear layer over several axes has to copy what it reads to join them.

    What a product gives has its heads outside of its tokens; what a norm gives lies in order.
    """
    axes = node.attributes.get("axes")
    if node.op != "linear" or axes == Dim.of(1):
        return False
    return block.all_by_id[node.operands[0].node].op not in ("layer_norm", "input")


def _still(node: Node) -> bool:
    """Whether a roll is by nothing."""
    by = node.attributes.get("by")
    return node.op == "roll" and isinstance(by, tuple) and all(n == Dim.of(0) for n in by)


def _types(node: Node, block: Block) -> tuple[TensorType, ...]:
    nodes = block.all_by_id
    return tuple(nodes[v.node].types[v.index] for v in node.operands)


def _is_table(node: Node) -> bool:
    definition = ops().get(node.op)
    return definition is not None and "table" in definition.traits


__all__ = ["Model", "Sizes", "Traffic", "at", "flops", "of_node", "parts", "traffic"]
