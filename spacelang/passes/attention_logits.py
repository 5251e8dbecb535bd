"""The summands of an attention's logits, in any layout of heads and tokens.

f q k^T    f gather(q T^T, index)    take(T, index)    shift_mask
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from spacelang.ir.block import Block
from spacelang.ir.dim import ONE, Dim
from spacelang.ir.node import Node, Value
from spacelang.passes.attention_parts import (
    Index,
    Leaf,
    adds,
    axis_of,
    called,
    letters,
    made_by,
    scaled_by,
    scales,
    signed,
)
from spacelang.passes.fusion import Misfit, constant, is_table, making
from spacelang.passes.head_mixes import Mixes, beyond, mix_of, moved


class Logits:
    """The logits of a level; a mix of heads that is met is kept in `mixes`."""

    def __init__(self, level: Block, mixes: Mixes) -> None:
        self.level, self.mixes = level, mixes

    def leaves(self, value: Value, factor: Dim) -> Iterator[Leaf]:
        """The summands of the logits, each with the nodes on the way to it."""
        passed, waiting = set[int](), [(value, factor, tuple[Node, ...](), False)]
        while waiting:
            value, factor, way, mixed = waiting.pop()
            mix = mix_of(self.level, value)
            if mix is not None:
                self.mixes.take_before(mix, factor, way)
                waiting.append((mix.source, factor, way, True))
                continue
            node = made_by(self.level, value)
            scaled = scaled_by(node)
            if adds(node):
                parts = signed(node)
            elif scaled is not None and not constant(self.level, value):
                parts = [(node.operands[0], scaled)]
            elif node.op in ("rearrange", "identity"):
                parts = [(node.operands[0], ONE)]
            else:
                leaf = self._leaf(node, factor)
                layout = leaf.layout
                for passing in reversed(way):
                    layout = moved(self.level, passing, layout)
                nodes = leaf.nodes | {n.id for n in way}
                yield replace(leaf, layout=layout, nodes=nodes, mixed=mixed)
                continue
            if node.id in passed:
                raise Misfit(node, f"{called(node)} is in its logits more than once")
            passed.add(node.id)
            waiting += reversed([(v, factor * by, (*way, node), mixed) for v, by in parts])

    def _leaf(self, node: Node, factor: Dim) -> Leaf:
        own = frozenset({node.id})
        if node.op == "einsum" and len(node.operands) == 2:
            if any(constant(self.level, v) for v in node.operands):
                raise Misfit(node, "a term of the logits is as large as N x N x D: bucketise first")
            _, _, result = letters(self.level, node)
            return Leaf("product", node, factor, tuple((c,) for c in result), own)
        if node.op == "gather":
            made = made_by(self.level, node.operands[0])
            index = made_by(self.level, node.operands[1])
            if made.op == "einsum" and len(made.operands) == 2 and is_table(index):
                _, _, result = letters(self.level, made)
                layout = (*((c,) for c in result[:-1]), ("@column",))
                nodes = own | {made.id} | scales(self.level, made)
                return Leaf("query", made, factor, layout, nodes, made.operands[1], Index(index))
        if node.op == "take" and constant(self.level, Value(node.id)):
            return self._offsets(node, factor, own)
        if node.op == "slice" and constant(self.level, Value(node.id)):
            found = self._picked(node, factor)
            if found is not None:
                return found
        if node.op == "shift_mask" and factor == ONE:
            layout = (("@window",), ("@one",), ("@row",), ("@column",))
            return Leaf("regions", node, factor, layout, own, None, Index(node))
        if beyond(self.level, Value(node.id)) in ("add", "einsum", "mul"):
            raise Misfit(node, "its logits are mixed, and not head by head")
        raise Misfit(node, f"no kernel adds {called(node)} to logits")

    def _offsets(self, node: Node, factor: Dim, own: frozenset[int]) -> Leaf:
        table, index = node.operands
        at = made_by(self.level, index)
        rank = self.level.type_of(table).rank
        place = node.attributes["axis"]
        assert isinstance(place, Dim)
        axis = int(place.at({})) % rank
        if not is_table(at) or self.level.type_of(index).rank != 2 or rank > 2:
            raise Misfit(node, "offsets are not [heads, entries] by an index of pairs")
        letters = [("@head",)] * rank
        letters[axis : axis + 1] = [("@row",), ("@column",)]
        nodes = own | making(self.level, table) | {at.id}
        return Leaf("offsets", node, factor, tuple(letters), nodes, table, Index(at))

    def _picked(self, node: Node, factor: Dim) -> Leaf | None:
        """The offsets of one head: `take(table, index, axis: 1)[i]`."""
        taken, index = made_by(self.level, node.operands[0]), node.attributes["index"]
        if taken.op != "take" or not isinstance(index, tuple) or len(index) != 1:
            return None
        leaf, number = self._offsets(taken, factor, frozenset({taken.id, node.id})), index[0]
        whole = isinstance(number, Dim) and number.constant is not None
        if not whole or leaf.layout[0] != ("@head",) or axis_of(self.level, taken) != 1:
            return None
        assert isinstance(number, Dim)
        return replace(leaf, layout=leaf.layout[1:], picked=int(number.at({})))
