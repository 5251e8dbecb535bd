"""EfficientViT's cascade of a window as a group: from its channels to the heads' rectified results.

part, .. = split(x, H)          f = part + what the head before gave
q, k, v = split(batch_norm(conv(f)))        q = batch_norm(conv(q, groups: D))
y = softmax(q k^T / sqrt(D) + take(table, offsets)[h]) v             relu(concat(y, ..))
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from spacelang.ir.block import Block
from spacelang.ir.conflict import values_of
from spacelang.ir.dim import ONE, Dim
from spacelang.ir.node import Node, Value
from spacelang.passes.attention_parts import Attention
from spacelang.passes.fuse_attention import find as find_attention
from spacelang.passes.fusion import Group, Misfit, Unfit, alone, gathered, maker, making, whole

KERNEL = "cascade"
TOKENS, DEEPEST = 64, 64
"""Tokens of a window and channels of a key, at most."""
HEADS, WIDEST = 8, 15
"""Heads, and the sides of their depthwise kernels, at most."""


@dataclass(frozen=True)
class Head:
    """The projection of a head with its norm, and the convolution of its queries with its norm."""

    qkv: Node
    qkv_norm: Node
    conv: Node
    conv_norm: Node


@dataclass(frozen=True)
class Cascade(Group):
    """A group, and what its kernel takes: x, a table [H, R S] of offsets, the heads in order."""

    x: Value
    heads: tuple[Head, ...]
    table: Value
    keys: Dim
    values: Dim
    sides: tuple[Dim, Dim]


def find(level: Block, node: Node) -> Cascade | Unfit | None:
    """The cascade that ends in a node."""
    if node.op != "relu":
        return None
    joined = maker(level, node.operands[0], "concat")
    if joined is None or joined.types[0].rank != 4:
        return None
    first = maker(level, joined.operands[0], "rearrange")
    if first is None or maker(level, first.operands[0], "einsum") is None:
        return None
    try:
        return _Finder(level).at(node, joined)
    except Misfit as misfit:
        return Unfit(KERNEL, misfit.node, misfit.why)


class _Finder:
    def __init__(self, level: Block) -> None:
        self.level = level
        self.nodes: set[int] = set()

    def at(self, root: Node, joined: Node) -> Cascade | None:
        level = self.level
        self.nodes = {root.id, joined.id}
        parts: Node | None = None
        heads: list[Head] = []
        tables: set[Value] = set()
        before: Value | None = None
        found: Attention | None = None
        for number, value in enumerate(joined.operands):
            moved = self._node(value, "rearrange")
            inner = find_attention(level, level.by_id[moved.operands[0].node], widest=inf)
            if isinstance(inner, Unfit):
                raise Misfit(inner.node, inner.why)
            if inner is None:
                return None
            found = inner
            self.nodes |= inner.nodes
            head, part = self._head(inner, root)
            heads.append(head)
            source = head.qkv.operands[0]
            if before is not None:
                source = self._chained(source, before, head.qkv)
            parts = self._part(source, parts, number)
            before = value
            tables.add(self._table(inner, number, root))
            if part != self.level.type_of(value).shape[1]:
                raise Misfit(root, "a head does not give as many channels as it takes")
        assert parts is not None
        assert found is not None
        if len(parts.types) != len(heads) or len(tables) != 1:
            raise Misfit(root, "its heads do not take one part of the channels each")
        outside = alone(level, self.nodes, root.id)
        if outside is not None:
            raise Misfit(outside, "what is inside of it is read outside, too")
        shape = level.type_of(parts.operands[0]).shape
        keys = level.type_of(found.k.value).shape[1]
        norms = [norm for h in heads for norm in (h.qkv_norm, h.conv_norm)]
        if len({(norm.attributes["eps"], norm.attributes["momentum"]) for norm in norms}) != 1:
            raise Misfit(root, "its norms have different eps or momentum")
        if len(heads) > HEADS:
            raise Misfit(root, f"it has more than {HEADS} heads")
        if len({h.conv.types[0].shape[1] for h in heads}) != 1:
            raise Misfit(root, "its heads have keys of different widths")
        tokens = (shape[2] * shape[3]).constant
        if tokens is None or tokens > TOKENS or keys.constant is None or keys.constant > DEEPEST:
            raise Misfit(
                root, f"a window of more than {TOKENS} tokens, or keys of {DEEPEST} channels"
            )
        nodes = frozenset(self.nodes)
        return Cascade(
            KERNEL, nodes, root.id, parts.operands[0], tuple(heads), tables.pop(), keys,
            shape[1] / len(heads), (shape[2], shape[3]),
        )  # fmt: skip

    def _node(self, value: Value, *wanted: str) -> Node:
        node = maker(self.level, value, *wanted)
        if node is None:
            found = self.level.by_id[value.node]
            raise Misfit(found, f"{found.label or found.op} stands where {wanted[0]} should")
        self.nodes.add(node.id)
        return node

    def _normed(self, value: Value) -> tuple[Node, Node]:
        """A convolution and its norm."""
        norm = self._node(value, "batch_norm")
        conv = self._node(norm.operands[0], "conv")
        if "weight" not in conv.params or "bias" in conv.params or gathered(conv) or gathered(norm):
            raise Misfit(conv, "a convolution of it has a bias, or weights that are no slices")
        if not {"weight", "bias", "running_mean", "running_var"} <= norm.params.keys():
            raise Misfit(norm, "a norm of it has no scale and shift, or no statistics")
        return conv, norm

    def _head(self, inner: Attention, root: Node) -> tuple[Head, Dim]:
        """The convolutions of a head, and the channels that it takes."""
        q, k = self._split(inner)
        conv, conv_norm = self._normed(inner.q.value)
        if conv.operands[0] != Value(q.id, 0) or k != Value(q.id, 1):
            raise Misfit(conv, "queries, keys and values are not parts of one projection")
        qkv, qkv_norm = self._normed(q.operands[0])
        width = conv.types[0].shape[1]
        if inner.scale * inner.scale * width != ONE:
            raise Misfit(root, "its logits are not divided by the root of the keys' width")
        plain = (
            whole(qkv, "kernel") == 1 and whole(qkv, "stride") == 1 and whole(conv, "stride") == 1
        )
        by_channel = conv.attributes.get("groups") == width and whole(conv, "dilation") == 1
        kernel, padded = conv.attributes["kernel"], conv.attributes["pad"]
        assert isinstance(kernel, Dim)
        sides = values_of(kernel) or (0,)
        odd = all(side % 2 and side <= WIDEST for side in sides)
        if not (plain and by_channel and odd) or isinstance(padded, Dim):
            raise Misfit(conv, "its queries go through no plain depthwise convolution")
        if qkv.attributes.get("groups") not in (None, ONE):
            raise Misfit(qkv, "its projection has groups")
        return Head(qkv, qkv_norm, conv, conv_norm), self.level.type_of(qkv.operands[0]).shape[1]

    def _split(self, inner: Attention) -> tuple[Node, Value]:
        """The split that gives q, k and v, and the value that is k."""
        flat = self._node(inner.v.value, "rearrange")
        split = self._node(flat.operands[0], "split")
        if flat.operands[0].index != 2 or len(split.types) != 3:
            raise Misfit(split, "queries, keys and values are not parts of one projection")
        sides = (inner.q, inner.k)
        if any(s.head is not None or s.tokens != (2, 3) or s.channel != 1 for s in sides):
            raise Misfit(split, "its heads are no maps [B, C, H, W]")
        return split, inner.k.value

    def _chained(self, source: Value, before: Value, at: Node) -> Value:
        """The part that a head adds to what the head before it gave."""
        total = self._node(source, "add")
        rest = [v for v in total.operands if v != before]
        if len(rest) != 1 or len(total.operands) != 2:
            raise Misfit(at, "a head does not read what the head before it gave")
        return rest[0]

    def _part(self, source: Value, parts: Node | None, number: int) -> Node:
        split = self._node(source, "split")
        if source.index != number or (parts is not None and split is not parts):
            raise Misfit(split, "its heads do not take one part of the channels each")
        return split

    def _table(self, inner: Attention, number: int, root: Node) -> Value:
        if len(inner.terms) != 1 or inner.terms[0].table is None or inner.terms[0].factor != ONE:
            raise Misfit(root, "its logits have other terms than offsets")
        (term,) = inner.terms
        assert term.table is not None
        index = term.index.node
        right = index.op == "offset_index" and index.attributes.get("kind") == "absolute"
        if term.table.picked != number or not right:
            raise Misfit(root, "its offsets are not by the distance of two tokens")
        self.nodes |= making(self.level, term.table.value)
        return term.table.value
