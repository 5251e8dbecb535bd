"""Levels of a block: the block itself and its regions; where a node stands, and levels changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from spacelang.ir.block import Block
from spacelang.ir.condition import Condition
from spacelang.ir.graph import conditions
from spacelang.ir.node import Node, Value


@dataclass(frozen=True)
class NodeContext:
    """A node, the level that it stands in, and the conditions of the regions around it."""

    node: Node
    level: Block
    guards: tuple[Condition, ...]


def find(level: Block, id: int, guards: tuple[Condition, ...]) -> NodeContext | None:
    """The node of an id in a level or in the regions of it; None if there is none."""
    if id in level.by_id:
        return NodeContext(level.by_id[id], level, guards)
    for node in level.nodes:
        for region, condition in zip(node.regions, conditions(node), strict=True):
            found = find(region, id, (*guards, condition))
            if found is not None:
                return found
    return None


def changed(level: Block, id: int, change: Callable[[Block], Block]) -> Block:
    """A block in which the level that holds a node is changed."""
    if id in level.by_id:
        return change(level)

    def node(n: Node) -> Node:
        return (
            replace(n, regions=tuple(changed(r, id, change) for r in n.regions)) if n.regions else n
        )

    return mapped(level, node)


def mapped(level: Block, change: Callable[[Node], Node]) -> Block:
    """The level with each of its own nodes changed; those of regions stay."""
    return replace(level, nodes=tuple(map(change, level.nodes)))


def alive(level: Block) -> Block:
    """A level without the nodes that its outputs do not need; inputs stay."""
    nodes = [
        replace(n, regions=tuple(map(alive, n.regions))) if n.regions else n for n in level.nodes
    ]
    return replace(level, nodes=tuple(needed_nodes(nodes, level.outputs)))


def is_input(node: Node) -> bool:
    return node.op == "input"


def needed_nodes(
    nodes: Sequence[Node], outputs: Iterable[Value], keep: Callable[[Node], bool] = is_input
) -> list[Node]:
    """The nodes of a level that outputs or those to keep need, and these, in their order."""
    needed = {value.node for value in outputs}
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.id in needed or keep(node):
            kept.append(node)
            needed.update(value.node for value in node.operands)
    return kept[::-1]


def without(
    nodes: Sequence[Node], gone: Collection[int], outputs: Iterable[Value]
) -> tuple[Node, ...]:
    """The nodes but for those of `gone` that nothing reads any more."""
    return tuple(needed_nodes(nodes, outputs, lambda node: node.id not in gone))


def paths_read(owner: Block, ids: Collection[int]) -> set[str]:
    """The parameters that some nodes of a block read."""
    nodes = (node for node in owner.everywhere() if node.id in ids)
    return {view.param for node in nodes for view in node.params.values()}
