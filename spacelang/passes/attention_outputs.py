"""What is made of an attention's weights: their product with the values, and sums in buckets.

o = sum of   p v,   bucket_sum(p, index) T
"""

from __future__ import annotations

from collections.abc import Iterator

from spacelang.ir.block import Block
from spacelang.ir.dim import ONE, Dim
from spacelang.ir.node import Node, Value
from spacelang.passes.attention_parts import SUMS, adds, made_by, scaled_by, signed
from spacelang.passes.fusion import Misfit, constant, only_reader
from spacelang.passes.head_mixes import beyond, mix_of


class Outputs:
    """What a level makes of the weights that a softmax gives."""

    def __init__(self, level: Block) -> None:
        self.level = level

    def of(self, value: Value, factor: Dim) -> tuple[Node, Node, list[tuple[Node, Dim]]] | None:
        """The product with the values, the softmax and the terms of the values in a sum."""
        parts = list(self._summands(value, factor))
        weigh = [(n, f) for n, f in parts if self._weighs(n) is not None]
        if len(weigh) != 1 or weigh[0][1] != ONE:
            return None
        ((product, _),) = weigh
        softmax = self._weighs(product)
        rest = [(n, f) for n, f in parts if n is not product]
        if softmax is None or any(self._sums(n) is not softmax for n, _ in rest):
            return None
        return product, softmax, rest

    def go_on(self, root: Node, softmax: Node) -> bool:
        """Whether a sum further on is all of the attention."""
        for reader in self.level.readers.get(Value(root.id), ()):
            if reader.op in SUMS:
                more = self.of(Value(reader.id), ONE)
                if more is not None and more[1] is softmax:
                    return True
        return False

    def between(self, node: Node, softmax: Node) -> set[int]:
        """The nodes on the ways from the softmax to a node, both with them."""
        after = {softmax.id}
        for other in self.level.nodes:
            if any(v.node in after for v in other.operands):
                after.add(other.id)
            if other is node:
                break
        found, waiting = set[int](), [node.id]
        while waiting:
            number = waiting.pop()
            if number in after and number not in found:
                found.add(number)
                waiting += (v.node for v in self.level.by_id[number].operands)
        return found

    def _summands(self, value: Value, factor: Dim) -> Iterator[tuple[Node, Dim]]:
        """The parts of a sum, and of sums that are read in it alone: each node once."""
        root, waiting = value.node, [(value, factor)]
        while waiting:
            value, factor = waiting.pop()
            node = made_by(self.level, value)
            scaled = scaled_by(node)
            if scaled is not None and self._sums(made_by(self.level, node.operands[0])) is not None:
                yield made_by(self.level, node.operands[0]), factor * scaled
            elif adds(node) and (node.id == root or only_reader(self.level, node) is not None):
                waiting += reversed([(v, factor * sign) for v, sign in signed(node)])
            else:
                yield node, factor

    def _weighs(self, node: Node) -> Node | None:
        """The softmax whose weights a product multiplies with values."""
        if node.op != "einsum" or len(node.operands) != 2:
            return None
        found = self._softmax(node.operands[0])
        if found is None and beyond(self.level, node.operands[0]) == "softmax":
            raise Misfit(node, "its weights are mixed, and not head by head")
        return found

    def _sums(self, node: Node) -> Node | None:
        """The softmax whose weights a term of the values sums in buckets."""
        if node.op != "einsum" or len(node.operands) != 2:
            return None
        masses = made_by(self.level, node.operands[0])
        if masses.op != "bucket_sum" or not constant(self.level, node.operands[1]):
            return None
        return self._softmax(masses.operands[0])

    def _softmax(self, value: Value) -> Node | None:
        """The softmax that gives a value, or weights that are mixed into it."""
        mix = mix_of(self.level, value)
        found = made_by(self.level, value if mix is None else mix.source)
        return found if found.op == "softmax" else None
