"""What memory a network holds as it runs: the results that something still reads.

    steps = liveness(graph, values, width=4)
    max(step.live for step in steps)            # bytes of activations, at their peak

Op by op in the order of the graph, in evaluation: a result lives from the op that makes it to the
last that reads it, the input and the outputs to the end of all. Views hold what they are views of.
Weights and what an op needs inside of itself are not counted, nor what an allocator adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spacelang.analysis.operations import PASSED, SOURCES, carried, is_table
from spacelang.analysis.traffic import Sizes
from spacelang.ir.block import Block
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Graph, Instance
from spacelang.ir.liveness import Computed, computed
from spacelang.ir.node import Node, Value


@dataclass(frozen=True)
class Step:
    """An op that runs: the bytes of its results (none of a view), and of all that is held while it
    does."""

    instance: Instance
    node: Node
    made: int
    live: int


@dataclass
class _Op:
    instance: Instance
    node: Node
    reads: tuple[int, ...]
    makes: tuple[int, ...]


class _Walk:
    """Every op in order; what is stored somewhere is a buffer, by number."""

    def __init__(self, values: Mapping[str, DecisionValue], width: int) -> None:
        self.values, self.width = values, width
        self.ops: list[_Op] = []
        self.sizes: list[int] = []

    def buffer(self, size: int) -> int:
        self.sizes.append(size)
        return len(self.sizes) - 1

    def level(self, level: Computed, held: dict[Value, int]) -> list[int | None]:
        """The buffers of the outputs of a block or region, by those of its inputs."""
        sizes = Sizes(level.instance, self.values, self.width)
        for node, inside in level.nodes:
            if inside is not None:
                inputs = _inputs(inside.level)
                given = {
                    own: held[value]
                    for own, value in zip(inputs, node.operands, strict=True)
                    if value in held
                }
                results = self.level(inside, given)
                found = zip(node.values, results, strict=True)
                held |= {value: buffer for value, buffer in found if buffer is not None}
            elif node.regions or node.op in PASSED:
                passed = zip(node.values, node.operands, strict=False)
                held |= {value: held[operand] for value, operand in passed if operand in held}
            else:
                self.op(node, sizes, held)
        return [held.get(value) for value in level.level.outputs]

    def op(self, node: Node, sizes: Sizes, held: dict[Value, int]) -> None:
        reads = tuple(held[value] for value in node.operands if value in held)
        if node.op in SOURCES or is_table(node):
            makes = ()  # the network owns it
        elif carried(node, sizes):
            makes = ()
            held |= dict.fromkeys(node.values, reads[0]) if reads else {}
        else:
            makes = tuple(self.buffer(sizes.bytes(type)) for type in node.types)
            held |= dict(zip(node.values, makes, strict=True))
        self.ops.append(_Op(sizes.instance, node, reads, makes))


def _inputs(level: Block) -> list[Value]:
    return [Value(node.id) for node in level.inputs]


def liveness(graph: Graph, values: Mapping[str, DecisionValue], width: int) -> list[Step]:
    """Every op that runs, in order; `values` of all decisions and free sizes, `width` bytes a real
    number."""
    walk = _Walk(values, width)
    sizes = Sizes(graph.top, values, width)
    held = {Value(n.id): walk.buffer(sizes.bytes(n.types[0])) for n in graph.root.inputs}
    kept = {*held.values()}
    results = walk.level(computed(graph, values), held)
    kept.update(buffer for buffer in results if buffer is not None)
    last = {buffer: number for number, op in enumerate(walk.ops) for buffer in op.makes}
    last |= {buffer: number for number, op in enumerate(walk.ops) for buffer in op.reads}
    live = sum(walk.sizes[buffer] for buffer in range(len(graph.root.inputs)))
    steps: list[Step] = []
    for number, op in enumerate(walk.ops):
        made = sum(walk.sizes[buffer] for buffer in op.makes)
        live += made
        steps.append(Step(op.instance, op.node, made, live))
        over = {b for b in (*op.reads, *op.makes) if last[b] == number and b not in kept}
        live -= sum(walk.sizes[buffer] for buffer in over)
    return steps
