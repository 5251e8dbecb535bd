"""Attention with relative positions as a group: from queries, keys and values to what they give.

    s = sum of   f q k^T
                 f gather(q T^T, index)        a lookup by the query, AutoFormer and iRPE on keys
                 f gather(k T^T, index)^T      by the key, iRPE on queries
                 take(T, index)                learned offsets: Swin, TinyViT, EfficientViT
                 shift_mask                    windows that a cyclic shift brought together
    p = softmax(s)
    o = sum of   p v,   bucket_sum(p, index) T

in any order and any layout of heads and tokens, as `bucketise` leaves it. Terms in another form
make the group unfit, and the reason says which. Where heads are mixed (MiniViT), before the softmax
or after it, the group is one of another kernel: the masks are added to mixed logits and all other
terms to those that are mixed, and the values have no term.
"""

from __future__ import annotations

from dataclasses import replace

from spacelang.ir.block import Block
from spacelang.ir.dim import ONE, Dim
from spacelang.ir.node import Node, Value
from spacelang.passes.attention_logits import Logits
from spacelang.passes.attention_outputs import Outputs
from spacelang.passes.attention_parts import (
    SUMS,
    Attention,
    Leaf,
    Operand,
    Term,
    called,
    letters,
    most,
    scales,
    unscaled,
)
from spacelang.passes.attention_terms import Terms
from spacelang.passes.fusion import Axis, Misfit, Unfit, alone, making
from spacelang.passes.head_mixes import KERNEL, MIXED, Mixes, mix_of

WIDEST = 128
"""Channels of a head at most."""
COLUMNS = 512
"""Entries of all tables of a term at most."""


def find(level: Block, node: Node, widest: float = WIDEST) -> Attention | Unfit | None:
    """The attention that ends in a node, if it ends there and not further on.

    Of heads of at most `widest` channels: a kernel may have a bound of its own.
    """
    return _found(level, node, KERNEL, widest)


def find_mixed(level: Block, node: Node) -> Attention | Unfit | None:
    """The same of heads that are mixed."""
    return _found(level, node, MIXED, WIDEST)


def _found(level: Block, node: Node, kernel: str, widest: float) -> Attention | Unfit | None:
    finder = _Finder(level, widest)
    try:
        found = finder.at(node)
    except Misfit as misfit:
        found = Unfit(finder.mixes.kernel, misfit.node, misfit.why)
    return found if found is not None and found.kernel == kernel else None


class _Finder:
    def __init__(self, level: Block, widest: float) -> None:
        self.level, self.mixes, self.widest = level, Mixes(level), widest

    def at(self, root: Node) -> Attention | None:
        made = Outputs(self.level)
        outputs = made.of(Value(root.id), ONE) if root.op in SUMS | {"einsum"} else None
        if outputs is None or made.go_on(root, outputs[1]):
            return None
        weigh, softmax, values = outputs
        p = Value(softmax.id)
        mixes, found = self.mixes, Terms(self.level)
        mixes.after = mix_of(self.level, weigh.operands[0])
        leaves = list(Logits(self.level, mixes).leaves(softmax.operands[0], ONE))
        q, k, scale, product = self._product(leaves)
        v, result = self._weighed(weigh, p, product)
        mixes.check(leaves, product, values)
        terms = [found.of_logits(leaf, product, q, k) for leaf in leaves if leaf.kind != "product"]
        terms += [found.of_values(part, factor, p, weigh) for part, factor in values]
        nodes = {softmax.id, weigh.id}.union(*(leaf.nodes for leaf in leaves))
        nodes |= made.between(root, softmax)
        nodes |= mixes.before.nodes if mixes.before is not None else frozenset()
        for term in terms:
            nodes |= {term.index.node.id}
            nodes |= making(self.level, term.table.value) if term.table is not None else set()
        outside = alone(self.level, nodes, root.id)
        if outside is not None:
            raise Misfit(outside, f"{called(outside)} is read outside of the attention, too")
        self._check(q, k, v, terms, root)
        linears = (None if mix is None else mix.linear for mix in (mixes.before, mixes.after))
        return Attention(
            mixes.kernel, frozenset(nodes), root.id, q, k, v, scale, tuple(terms), result, *linears
        )

    def _product(self, leaves: list[Leaf]) -> tuple[Operand, Operand, Dim, Leaf]:
        products = [leaf for leaf in leaves if leaf.kind == "product"]
        if len(products) != 1:
            where = leaves[0].node
            raise Misfit(where, f"its logits are {len(products)} products of queries with keys")
        (leaf,) = products
        first, second, result = letters(self.level, leaf.node)
        if len(leaf.layout) < 3:
            raise Misfit(leaf.node, "its logits have no batch")
        rows, keys = leaf.layout[-2], leaf.layout[-1]
        sides = [(0, first, second), (1, second, first)]
        left = next((s for s in sides if set(rows) <= set(s[1]) - set(s[2])), None)
        if left is None or not set(keys) <= set(left[2]) - set(left[1]):
            raise Misfit(leaf.node, "its logits do not end in queries and keys")
        position, mine, other = left
        others = leaf.layout[:-2]
        inner = [c for c in mine if c not in result]
        shared = [c for axis in others for c in axis]
        if len(inner) != 1 or any(len(axis) != 1 for axis in others):
            raise Misfit(leaf.node, "its heads have more than one axis of channels")
        if any(c not in mine or c not in other for c in (*shared, inner[0])):
            raise Misfit(leaf.node, "queries and keys differ in their batch")
        head = others[-1][0] if len(others) > 1 else None
        batch = [axis[0] for axis in others if axis[0] != head]

        def operand(number: int, letters: tuple[str, ...], tokens: Axis) -> Operand:
            return Operand(
                leaf.node.operands[number],
                tuple(letters.index(c) for c in batch),
                None if head is None else letters.index(head),
                tuple(letters.index(c) for c in tokens),
                letters.index(inner[0]),
            )

        q, by_q = unscaled(self.level, operand(position, mine, rows))
        k, by_k = unscaled(self.level, operand(1 - position, other, keys))
        nodes = leaf.nodes | scales(self.level, leaf.node)
        index = leaves.index(leaf)
        leaves[index] = replace(leaf, nodes=nodes)
        return q, k, leaf.factor * by_q * by_k, leaf

    def _weighed(self, weigh: Node, p: Value, product: Leaf) -> tuple[Operand, tuple[int, ...]]:
        first, second, result = letters(self.level, weigh)
        if len(first) != len(product.layout):
            raise Misfit(weigh, "its weights have other axes than its logits")
        *others, row, column = first
        head = others[-1] if len(others) > 1 else None
        batch = [c for c in others if c != head]
        channel = [c for c in second if c not in first]
        fits = column in second and column not in result and row in result and row not in second
        if not fits or len(channel) != 1 or any(c not in second for c in others):
            raise Misfit(weigh, "what it gives is no product of weights with values")
        if {*result} != {*others, row, channel[0]}:
            raise Misfit(weigh, "what it gives is no product of weights with values")
        operand = Operand(
            weigh.operands[1],
            tuple(second.index(c) for c in batch),
            None if head is None else second.index(head),
            (second.index(column),),
            second.index(channel[0]),
        )
        order = (*others, row, channel[0])
        return operand, tuple(result.index(c) for c in order)

    def _check(self, q: Operand, k: Operand, v: Operand, terms: list[Term], root: Node) -> None:
        for operand in (q, v):
            width = self.level.type_of(operand.value).shape[operand.channel]
            if most(width) > self.widest:
                raise Misfit(root, f"a head of {width} channels is wider than {self.widest}")
        if len(q.batch) > 2:
            raise Misfit(root, "its logits have more than two axes of batch")
        kinds: dict[str, list[Dim]] = {}
        for term in terms:
            if term.table is not None:
                shape = self.level.type_of(term.table.value).shape
                shape = shape if term.table.picked is None else shape[1:]
                kinds.setdefault(term.kind, []).append(shape[term.table.entry])
            elif kinds.setdefault(term.kind, []):
                raise Misfit(root, "it has two masks of windows")
            else:
                kinds[term.kind].append(ONE)
        for kind, sizes in kinds.items():
            if any(size != sizes[0] for size in sizes):
                raise Misfit(root, "tables of one term have different numbers of entries")
            if kind in ("query", "key", "values") and sum(map(most, sizes)) > COLUMNS:
                total = sum(map(most, sizes))
                raise Misfit(root, f"tables of {total} entries are more than {COLUMNS}")
