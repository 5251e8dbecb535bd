"""Inlining: calls replaced by the nodes of what they call, down to one flat block.

    %5 call encoder as encoder[0]    ->    %9 layer_norm as encoder[0].attn_layer_norm, ..

Parameters and labels get their full paths, decisions stay as they are, so the same architectures
are there with the same figures and the same weights. A fixed network ends as one list of ops. What
a call was labelled stays the name of its result. Tied uses that pick from one bank by decisions of
their own have to stay calls: they are refused (SP601).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import ClassVar

from spacelang.diagnostics import Report, SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.graph import Graph, Instance
from spacelang.ir.names import Names
from spacelang.ir.node import Node, Value, join
from spacelang.ir.op import ops
from spacelang.ir.param import Param, larger
from spacelang.passes.base import Pass
from spacelang.passes.remake import Body, with_root


@dataclass(frozen=True)
class Inline(Pass):
    """Inline every call."""

    name: ClassVar[str] = "inline"
    preserves: ClassVar[frozenset[str]] = frozenset({"function", "parameters", "space"})

    def run(self, graph: Graph, report: Report) -> Graph:
        """The graph with every block opened where it is called."""
        return inlined(graph)


def inlined(graph: Graph) -> Graph:
    """The same network without calls (SP601 where tied uses pick from a bank by other
    decisions)."""
    if not graph.blocks:
        return graph
    writer = _Writer(graph)
    body = Body(count())
    inputs = graph.root.inputs
    seen = {Value(n.id): body.put(replace(n, id=next(body.ids)))[0] for n in inputs}
    outputs = writer.level(graph.top, graph.root, list(seen.values()), body)
    root = replace(
        graph.root,
        nodes=tuple(body.nodes),
        outputs=tuple(outputs),
        decisions=tuple(graph.decisions.values()),
        params=tuple(writer.params.values()),
    )
    return with_root(graph, root, {})


@dataclass
class _Writer:
    graph: Graph
    params: dict[str, Param] = field(default_factory=dict[str, Param])

    def level(
        self, instance: Instance, level: Block, operands: Sequence[Value], body: Body
    ) -> list[Value]:
        """Write the nodes of a block or region in the names of the whole network; its results."""
        names = Names(
            instance.symbol,
            lambda label: join(instance.path, label) if label else "",
            store=instance.param,
        )
        if level is instance.block:
            self.declare(instance, names)
        seen = dict(zip((Value(n.id) for n in level.inputs), operands, strict=True))
        for node in level.nodes:
            if node.op == "input":
                continue
            given = [seen[v] for v in node.operands]
            if node.call is not None:
                callee = self.graph.blocks[node.call.block]
                made = self.level(instance.enter(node.call, callee), callee, given, body)
                if node.label:
                    made[0] = named(body, made[0], names.label(node.label))
            elif node.regions:
                made = body.put(
                    replace(
                        names.node(node),
                        id=next(body.ids),
                        operands=tuple(given),
                        regions=tuple(self.region(instance, r, body) for r in node.regions),
                    )
                )
            else:
                made = body.copy(node, given, self.here(names, instance, node))
            seen.update(zip(node.values, made, strict=True))
        return [seen[v] for v in level.outputs]

    def here(self, names: Names, instance: Instance, node: Node) -> Names:
        """Names for a node; one that keeps parameters without a label is called like its use."""

        def place(label: str) -> str:
            return instance.path

        return replace(names, label=place) if node.params and not node.label else names

    def region(self, instance: Instance, region: Block, outer: Body) -> Block:
        inner = Body(outer.ids)
        names = Names(instance.symbol)
        operands = [inner.input(names.type(n.types[0]), n.label) for n in region.inputs]
        outputs = self.level(instance, region, operands, inner)
        return replace(region, nodes=tuple(inner.nodes), outputs=tuple(outputs))

    def declare(self, instance: Instance, names: Names) -> None:
        """The parameters of a use; tied ones are as large as the largest of their uses."""
        for param in instance.block.params:
            made = names.param(param)
            before = self.params.get(made.path)
            if before is not None and before.bank != made.bank:
                whose = f"{', '.join(before.bank)} and {', '.join(made.bank)}"
                found = error("SP601", f"{instance.path} cannot be inlined", param.span)
                raise SpaceError(
                    found.note(f"{made.path} is tied, and its uses pick from it by {whose}")
                )
            self.params[made.path] = made if before is None else larger(made, before)


def named(body: Body, value: Value, label: str) -> Value:
    """The value under a name: its node's, if that has none yet, else that of an `identity`."""
    for position in reversed(range(len(body.nodes))):
        node = body.nodes[position]
        if node.id == value.node:
            if node.op != "input" and len(node.types) == 1 and not node.label and not _stored(node):
                body.nodes[position] = replace(node, label=label)
                return value
            break
    return body.put(
        Node(next(body.ids), "identity", (value,), types=(body.types[value],), label=label)
    )[0]


def _stored(node: Node) -> bool:
    """A table becomes a stored buffer by its label."""
    definition = ops().get(node.op)
    return definition is not None and "table" in definition.traits


__all__ = ["Inline", "inlined", "named"]
