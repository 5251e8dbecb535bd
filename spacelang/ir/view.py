"""The whole network as a networkx graph, for algorithms, matching and drawing.

    for key, data in graph.nx.nodes(data=True):
        print(data["path"], data["op"], data["types"])

A node is one node of one use of a block. Its key holds the ids of the calls that lead there, then
its own id, `(5, 2)`. Its data: `op`, `path`, `block`, `types` in the decisions of the whole space,
`guards` (the conditions it is there under), `node` (the IR's).

An edge says what reads what; its key is the position among the reader's operands, its data `index`
(which result) and `role`. Values flow through blocks: what a call reads goes to the inputs of its
block, whose outputs go to the call, as `result`; the same with regions. A guard reads its
`fallback`s besides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spacelang.ir.block import Block
from spacelang.ir.graph import Graph, Instance, conditions
from spacelang.ir.node import Node, TensorType, Value, join

if TYPE_CHECKING:
    from networkx import MultiDiGraph

Key = tuple[int, ...]


def network(graph: Graph) -> MultiDiGraph[Key]:
    """The network with all of its blocks laid open, in the order in which it is computed."""
    from networkx import MultiDiGraph

    work = _View(graph, MultiDiGraph(name=graph.name))
    work.level(graph.top, (), graph.root, {})
    work.made.graph["outputs"] = {
        output.name: ((output.value.node,), output.value.index) for output in graph.outputs
    }
    return work.made


class _View:
    def __init__(self, graph: Graph, made: MultiDiGraph[Key]) -> None:
        self.graph, self.made = graph, made

    def level(
        self, instance: Instance, chain: Key, level: Block, fed: Mapping[int, tuple[Key, int]]
    ) -> None:
        """Add a block or region; `fed` says what its inputs, by position, are."""
        position = 0
        for node in level.nodes:
            key = (*chain, node.id)
            self.made.add_node(
                key,
                op=node.op,
                path=join(instance.path, node.label),
                block=instance.block.name,
                types=tuple(
                    TensorType(tuple(map(instance.absolute, t.shape)), t.dtype) for t in node.types
                ),
                guards=instance.guards,
                node=node,
            )
            if node.op == "input":
                if position in fed:
                    self._edge(fed[position], key, 0, "operand")
                position += 1
            elif node.call is not None or node.regions:
                self._inner(instance, chain, node)
            else:
                for number, value in enumerate(node.operands):
                    self._edge(_at(chain, value), key, number, "operand")

    def _inner(self, instance: Instance, chain: Key, node: Node) -> None:
        key = (*chain, node.id)
        fed = {number: _at(chain, value) for number, value in enumerate(node.operands)}
        if node.call is not None:
            callee = self.graph.blocks[node.call.block]
            self.level(instance.enter(node.call, callee), key, callee, fed)
            self._results(key, key, callee)
        for region, condition in zip(node.regions, conditions(node), strict=True):
            inner = instance.under(instance.condition(condition))
            self.level(inner, chain, region, fed)
            self._results(chain, key, region)
        if node.op == "guard":
            for number in range(len(node.types)):
                self._edge(fed[number], key, number, "fallback")

    def _results(self, chain: Key, key: Key, level: Block) -> None:
        for number, value in enumerate(level.outputs):
            self._edge(_at(chain, value), key, number, "result")

    def _edge(self, source: tuple[Key, int], key: Key, position: int, role: str) -> None:
        data: dict[str, Any] = {"index": source[1], "role": role}
        self.made.add_edge(source[0], key, key=position, **data)


def _at(chain: Key, value: Value) -> tuple[Key, int]:
    return (*chain, value.node), value.index
