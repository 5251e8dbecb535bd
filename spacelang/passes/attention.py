"""Attention as it is written: the products of queries with keys, and of weights with values.

A product is an einsum of two operands, or a call of a block that is nothing else (`scores`,
`weigh`). What a product is follows from where its value goes or comes from: scores end in a
softmax over the keys, weights come from one. So any layout is found: with heads or none, tokens
on one axis or on two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from string import ascii_letters
from typing import Literal

from spacelang.ir import levels
from spacelang.ir.block import Block
from spacelang.ir.condition import Condition
from spacelang.ir.dim import Dim, product
from spacelang.ir.infer import Infer
from spacelang.ir.node import Node, TensorType, Value
from spacelang.ir.prove import Proved, equal
from spacelang.ops.patterns import parse_einsum
from spacelang.passes.flow import Flow

Letters = tuple[str, ...]


@dataclass(frozen=True)
class Operand:
    """What a product multiplies: its position among the node's operands, its type and its axes."""

    position: int
    type: TensorType
    letters: Letters

    def value(self, node: Node) -> Value:
        return node.operands[self.position]


@dataclass(frozen=True)
class Product:
    """`left` has a row for every query; `right` are keys, or values. Letters name all axes.

    scores   left [batch, rows, inner]   right [batch, cols, inner]   inner is the width of a head
    weigh    left [batch, rows, inner]   right [batch, inner, cols]   cols is the width of a head
    """

    kind: Literal["scores", "weigh"]
    block: str
    node: Node
    left: Operand
    right: Operand
    result: Letters
    rows: Letters
    inner: Letters
    cols: Letters
    guards: tuple[Condition, ...]

    @property
    def batch(self) -> Letters:
        """The axes that both operands and the result have, in the order of the result."""
        return tuple(c for c in self.result if c not in self.rows and c not in self.cols)

    @property
    def keys(self) -> Letters:
        return self.cols if self.kind == "scores" else self.inner

    @property
    def width(self) -> str:
        """The letter of a head's own axis."""
        (letter,) = self.inner if self.kind == "scores" else self.cols
        return letter

    @property
    def sizes(self) -> Mapping[str, Dim]:
        return {
            letter: size
            for part in (self.right, self.left)
            for letter, size in zip(part.letters, part.type.shape, strict=True)
        }

    def tokens(self, letters: Letters) -> Dim:
        return product(self.sizes[c] for c in letters)

    @property
    def head(self) -> str:
        """The letter of the heads: the last of the batch that no free size is in; else none."""
        whole = self.result if self.kind == "scores" else self.left.letters
        batch = [c for c in whole if c in self.batch]
        free = {c for c in batch if any(s.free for s in self.sizes[c].symbols)} or set(whole[:1])
        return next((c for c in reversed(batch) if c not in free), "")


def products(flow: Flow) -> Iterator[Product]:
    """The products of self-attention, in the order of the blocks: every query meets every key."""
    for name, block in flow.blocks.items():
        if name and bare(block):
            continue
        for node in block.everywhere():
            found = _contraction(flow, name, node)
            if found is not None:
                found = _told_apart(flow, found)
            if found is not None and isinstance(
                equal(found.tokens(found.rows), found.tokens(found.keys), found.guards), Proved
            ):
                yield found


def bare(block: Block) -> Node | None:
    """The einsum of a block that only multiplies its operands."""
    if not block.nodes or block.nodes[-1].op != "einsum":
        return None
    *inputs, last = block.nodes
    if any(node.op != "input" for node in inputs):
        return None
    whole = block.outputs == last.values and len(last.operands) == len(inputs)
    return last if whole and len(set(last.operands)) == len(inputs) else None


def _contraction(flow: Flow, name: str, node: Node) -> Product | None:
    """A product of two operands, sorted by which of them has an axis; no kind is known yet."""
    inner: Node | None = node
    positions = (0, 1)
    if node.call is not None:
        callee = flow.blocks[node.call.block]
        inner = bare(callee)
        order = {n.id: i for i, n in enumerate(callee.inputs)}
        positions = () if inner is None else tuple(order[v.node] for v in inner.operands)
    if inner is None or inner.op != "einsum" or len(inner.operands) != 2:
        return None
    types = tuple(flow.type((name, node.operands[i])) for i in positions)
    first, second, result = _spelt(inner, types)
    shared = {c for c in first if c in second}
    mine = tuple(c for c in result if c in first and c not in shared)
    other = tuple(c for c in result if c in second and c not in shared)
    summed = tuple(c for c in first if c not in result)
    alone = {c for c in (*first, *second) if c not in shared and c not in result}
    if alone or not mine or not other or not summed:
        return None
    left, right = (
        Operand(i, t, c) for i, t, c in zip(positions, types, (first, second), strict=True)
    )
    here = levels.find(flow.blocks[name], node.id, ())
    assert here is not None
    return Product("scores", name, node, left, right, result, mine, summed, other, here.guards)


def _spelt(node: Node, types: tuple[TensorType, ...]) -> tuple[Letters, Letters, Letters]:
    """The letters of both operands and of the result, with letters for the axes of `...`."""
    pattern = parse_einsum(Infer("einsum", types, node.attributes))
    known = {c for part in (*pattern.operands, pattern.result) for c in part}
    spare = [c for c in ascii_letters if c not in known]
    spread = max(
        (t.rank - len(p) + 1 for p, t in zip(pattern.operands, types, strict=True) if "..." in p),
        default=0,
    )
    leading = tuple(spare[:spread])

    def spelt(part: Letters) -> Letters:
        return tuple(c for letter in part for c in (leading if letter == "..." else (letter,)))

    first, second = (spelt(part) for part in pattern.operands)
    return first, second, spelt(pattern.result)


def _told_apart(flow: Flow, found: Product) -> Product | None:
    """The product with its kind and with queries, or weights, on the left; None for another one."""
    name, node = found.block, found.node
    for turned in (found, _flipped(found)):
        if flow.softened((name, turned.left.value(node))):
            return replace(turned, kind="weigh") if len(turned.cols) == 1 else None
    if len(found.inner) != 1 or not flow.reaches((name, node.values[0])):
        return None
    # The softmax goes over the last axis: of queries and keys it is the keys that stand last.
    last = next(c for c in reversed(found.result) if c in (*found.rows, *found.cols))
    return found if last in found.cols else _flipped(found)


def _flipped(found: Product) -> Product:
    return replace(found, left=found.right, right=found.left, rows=found.cols, cols=found.rows)
