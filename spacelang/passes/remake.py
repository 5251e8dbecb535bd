"""Remaking blocks: nodes copied under other names, new ones typed by their op, sharing kept.

    body = Body(count(block.next_id))
    seen = body.paste(callee, operands, names_of(call))     # copies with ids of their own
    y = body.one("einsum", [q, k], {"pattern": "bid,bjd->bij"})

A block is remade once for all of its uses; `places.py` has what is changed at some of them only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from spacelang.diagnostics import NOWHERE, Span
from spacelang.ir.block import Block
from spacelang.ir.condition import Condition
from spacelang.ir.graph import Graph
from spacelang.ir.names import Names
from spacelang.ir.node import Node, TensorType, Value, join
from spacelang.ir.op import lookup
from spacelang.ir.options import complete
from spacelang.ir.param import Param, View
from spacelang.ir.retype import At, inferred


@dataclass
class Body:
    """The nodes of one level in the making; `ids` is shared with the regions in it.

    `params` are those that ops applied here own.
    """

    ids: Iterator[int]
    guards: tuple[Condition, ...] = ()
    nodes: list[Node] = field(default_factory=list[Node])
    params: dict[str, Param] = field(default_factory=dict[str, Param])
    types: dict[Value, TensorType] = field(default_factory=dict[Value, TensorType])

    def put(self, node: Node) -> tuple[Value, ...]:
        """Append a node as it is; its values."""
        self.nodes.append(node)
        self.types.update(zip(node.values, node.types, strict=True))
        return node.values

    def input(self, type: TensorType, label: str = "") -> Value:
        return self.put(Node(next(self.ids), "input", types=(type,), label=label))[0]

    def one(
        self,
        op: str,
        operands: Sequence[Value],
        options: Mapping[str, object] | None = None,
        label: str = "",
        span: Span = NOWHERE,
        given: tuple[str, ...] = (),
    ) -> Value:
        """Apply an op that has one result, typed by its shape row; parameters go by its label."""
        return self.apply(op, operands, options, label, span, given)[0]

    def apply(
        self,
        op: str,
        operands: Sequence[Value],
        options: Mapping[str, object] | None = None,
        label: str = "",
        span: Span = NOWHERE,
        given: tuple[str, ...] = (),
    ) -> tuple[Value, ...]:
        """The same for an op of several results."""
        attributes = complete(lookup(op), options or {}, span)
        if given:
            attributes["given"] = given
        node = Node(next(self.ids), op, tuple(operands), attributes, label=label, span=span)
        found = inferred(node, tuple(self.types[v] for v in operands), At(self.guards))
        views: dict[str, View] = {}
        for role, param in found.params.items():
            path = join(label, role)
            self.params[path] = replace(param, path=path, span=span)
            views[role] = View(path, found.views[role].index)
        return self.put(replace(node, params=views, types=found.types))

    def copy(self, node: Node, operands: Sequence[Value], names: Names) -> tuple[Value, ...]:
        """A copy of a node with an id of its own, its regions copied too; its values."""
        made = replace(
            names.node(node),
            id=next(self.ids),
            operands=tuple(operands),
            regions=tuple(self._region(region, names) for region in node.regions),
        )
        return self.put(made)

    def _region(self, region: Block, names: Names) -> Block:
        inner = Body(self.ids)
        seen: dict[Value, Value] = {}
        for node in region.nodes:
            made = inner.copy(node, [seen[v] for v in node.operands], names)
            seen.update(zip(node.values, made, strict=True))
        outputs = tuple(seen[v] for v in region.outputs)
        return replace(region, nodes=tuple(inner.nodes), outputs=outputs)

    def paste(self, block: Block, operands: Sequence[Value], names: Names) -> list[Value]:
        """The nodes of a block or region in this level, its inputs bound; its results."""
        inputs = (Value(node.id) for node in block.inputs)
        seen = dict(zip(inputs, operands, strict=True))
        for node in block.nodes:
            if node.op != "input":
                made = self.copy(node, [seen[v] for v in node.operands], names)
                seen.update(zip(node.values, made, strict=True))
        return [seen[v] for v in block.outputs]


# Graphs.


def with_root(graph: Graph, root: Block, blocks: Mapping[str, Block]) -> Graph:
    """The graph with other blocks, those that are called; outputs keep their order."""
    called: dict[str, Block] = {}

    def reach(block: Block) -> None:
        for node in block.everywhere():
            if node.call is not None and node.call.block not in called:
                callee = called[node.call.block] = blocks[node.call.block]
                reach(callee)

    reach(root)
    outputs = tuple(replace(o, value=v) for o, v in zip(graph.outputs, root.outputs, strict=True))
    kept = {name: called[name] for name in blocks if name in called}
    return replace(graph, root=root, blocks=kept, outputs=outputs)


def each_block(graph: Graph, change: Callable[[Block], Block]) -> Graph:
    """Every block changed by itself; the graph itself if none changes."""
    root = change(graph.root)
    blocks = {name: change(block) for name, block in graph.blocks.items()}
    if root is graph.root and all(blocks[name] is graph.blocks[name] for name in blocks):
        return graph
    return with_root(graph, root, blocks)


def without_stale_rules(before: Graph, after: Graph) -> Graph:
    """The later graph without storage rules that only spoke of what is there no more."""
    if not after.rules:
        return after
    now = (*after.decisions, *after.storages)
    then = {*before.decisions, *before.storages}.difference(now)
    kept = tuple(
        rule
        for rule in after.rules
        if not any(rule.pattern.match(path) is not None for path in then)
        or any(rule.pattern.match(path) is not None for path in now)
    )
    return after if kept == after.rules else replace(after, rules=kept)


__all__ = ["Body", "each_block", "with_root", "without_stale_rules"]
