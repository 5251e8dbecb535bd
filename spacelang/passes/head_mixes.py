"""Mixes of heads as they are written: a linear layer over one axis, moved to the end and back.

mix = mix_of(level, value)      # its layer, what it reads, its axis; None for any other value
"""

from __future__ import annotations

from dataclasses import dataclass

from spacelang.ir.block import Block
from spacelang.ir.node import Node, Value
from spacelang.passes.fusion import Axis, Misfit, whole
from spacelang.passes.rearranging import move_of

Layout = tuple[Axis, ...]
"""The letters of the axes of a value."""


@dataclass(frozen=True)
class Mix:
    """A linear layer over heads, whose axes stay in their places, and all nodes of it."""

    linear: Node
    source: Value
    head: int
    nodes: frozenset[int]


def beyond(level: Block, value: Value) -> str:
    """The op of what products over an axis, and nothing but moves, have made this value of."""
    node, products = level.by_id[value.node], 0
    while node.op in ("rearrange", "linear", "call") and len(node.operands) == 1:
        products += node.op != "rearrange"
        node = level.by_id[node.operands[0].node]
    return node.op if products else ""


def mix_of(level: Block, value: Value) -> Mix | None:
    """The linear layer over one axis, moved to the end for it and back, that makes a value."""
    way: list[Node] = []
    node = level.by_id[value.node]
    while node.op == "rearrange" or (node.op == "linear" and len(node.operands) == 1):
        way.append(node)
        source = node.operands[0]
        linears = [n for n in way if n.op == "linear"]
        if len(linears) > 1:
            return None
        head = _mixed_axis(level, way, source) if linears else None
        if head is not None:
            return Mix(linears[0], source, head, frozenset(n.id for n in way))
        node = level.by_id[source.node]
    return None


def _mixed_axis(level: Block, way: list[Node], source: Value) -> int | None:
    """The axis that a linear layer among moves (the last first) makes anew, all in place."""
    start: Layout = tuple((str(axis),) for axis in range(level.type_of(source).rank))
    layout, head = start, -1
    for node in reversed(way):
        if node.op == "rearrange":
            try:
                layout = moved(level, node, layout)
            except Misfit:
                return None
            continue
        inner = level.type_of(node.operands[0]).shape[-1]
        if whole(node, "axes") != 1 or node.types[0].shape[-1] != inner or len(layout[-1]) != 1:
            return None
        if isinstance(node.attributes["out"], tuple):
            return None
        head = int(layout[-1][0])
    return head if layout == start else None


def moved(level: Block, node: Node, layout: Layout) -> Layout:
    """The axes after a node that summands pass."""
    if node.op != "rearrange":
        return layout
    move = move_of(node, level.type_of(node.operands[0]), "")
    if any(len(group) != 1 for group in move.left):
        raise Misfit(node, "logits are taken apart along an axis of theirs")
    letters = {group[0]: axis for group, axis in zip(move.left, layout, strict=True)}
    return tuple(tuple(c for atom in group for c in letters[atom]) for group in move.right)
