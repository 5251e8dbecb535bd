"""A pass: every relu leaks."""

from dataclasses import dataclass, replace
from typing import ClassVar

from spacelang.diagnostics import Report
from spacelang.ir.block import Block
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph
from spacelang.ir.node import Node
from spacelang.passes import Pass


@dataclass(frozen=True)
class Leak(Pass):
    """relu(x) becomes leaky_relu(x, slope)."""

    name: ClassVar[str] = "leak"
    preserves: ClassVar[frozenset[str]] = frozenset({"parameters", "space"})

    slope: float = 0.01

    def run(self, graph: Graph, report: Report) -> Graph:
        blocks = {name: self._block(block) for name, block in graph.blocks.items()}
        return replace(graph, root=self._block(graph.root), blocks=blocks)

    def _block(self, block: Block) -> Block:
        return replace(block, nodes=tuple(self._node(node) for node in block.nodes))

    def _node(self, node: Node) -> Node:
        node = replace(node, regions=tuple(self._block(r) for r in node.regions))
        if node.op != "relu":
            return node
        return replace(node, op="leaky_relu", attributes={"slope": Dim.of(self.slope)})
