"""Mixes of heads as they are written: a linear layer over one axis, moved to the end and back.

mix = mix_of(level, value)      # its layer, what it reads, its axis; None for any other value
"""

from __future__ import annotations

from dataclasses import dataclass

from spacelang.ir.block import Block
from spacelang.ir.dim import ONE, Dim
from spacelang.ir.node import Node, Value
from spacelang.passes.attention_parts import Leaf, called, made_by, most
from spacelang.passes.fusion import Layout, Misfit, whole
from spacelang.passes.rearranging import move_of

KERNEL, MIXED = "attention", "mixed_attention"
HEADS = 32
"""Heads that are mixed at most."""


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


class Mixes:
    """The mixes of an attention on either side of its softmax, as far as they are found."""

    def __init__(self, level: Block) -> None:
        self.level = level
        self.before: Mix | None = None
        self.after: Mix | None = None

    @property
    def kernel(self) -> str:
        """The kernel that computes such an attention."""
        return KERNEL if self.before is None and self.after is None else MIXED

    def take_before(self, mix: Mix, factor: Dim, way: tuple[Node, ...]) -> None:
        """Keep the mix of the logits, of which there is one, and which nothing but sums follow."""
        if self.before is not None:
            raise Misfit(mix.linear, "heads are mixed twice before the softmax")
        self.before = mix
        if factor != ONE or any(node.op == "rearrange" for node in way):
            raise Misfit(mix.linear, "mixed heads are moved or scaled before the softmax")

    def check(self, leaves: list[Leaf], product: Leaf, values: list[tuple[Node, Dim]]) -> None:
        """Mixes are over the heads, and what is added is on its side of the first."""
        for mix in (self.before, self.after):
            if mix is not None:
                self._check_one(mix, product)
        for node, _ in values:
            if mix_of(self.level, made_by(self.level, node.operands[0]).operands[0]) is not None:
                raise Misfit(node, "no kernel mixes heads with a term of the values")
        if self.kernel == KERNEL:
            return
        for leaf in leaves:
            if self.before is not None and leaf.mixed == (leaf.kind == "regions"):
                side = "before" if leaf.mixed else "after"
                raise Misfit(leaf.node, f"{called(leaf.node)} is added {side} heads are mixed")
            if leaf.kind == "key" or (leaf.kind == "query" and leaf.layout[-2] == ("@column",)):
                raise Misfit(leaf.node, "no kernel mixes heads with a term of the keys")
        for node, _ in values:
            raise Misfit(node, "no kernel mixes heads with a term of the values")

    def _check_one(self, mix: Mix, product: Leaf) -> None:
        if mix.head != len(product.layout) - 3 or mix.head < 1:
            raise Misfit(mix.linear, "what is mixed is no axis of heads")
        heads = mix.linear.types[0].shape[-1]
        if most(heads) > HEADS:
            raise Misfit(mix.linear, f"{heads} heads that are mixed are more than {HEADS}")
        if "weight" not in mix.linear.params:
            raise Misfit(mix.linear, "the weights that mix heads are operands")
