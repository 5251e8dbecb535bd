"""What an attention is made of: its operands and terms, and how its nodes are read.

`fuse_attention` finds one, by the summands of its logits (`attention_logits`), the mixes of its
heads (`head_mixes`), what is made of its weights (`attention_outputs`), and the tables and indices
of its terms (`attention_terms`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from spacelang.ir.block import Block
from spacelang.ir.dim import ONE, Dim
from spacelang.ir.node import Node, Value
from spacelang.passes.fusion import Group, Layout, spelt

SUMS = frozenset({"add", "sub", "sum_of"})
Kind = Literal["product", "query", "key", "offsets", "regions"]


@dataclass(frozen=True)
class Table:
    """A table [.., T, ..]: its value, and the axes of heads, of entries and of channels (or none).

    `picked` is the entry of axis 0 that all of it is read of, before axes are counted.
    """

    value: Value
    head: int | None
    entry: int
    channel: int | None
    picked: int | None = None


@dataclass(frozen=True)
class Index:
    """An index table of pairs, read by its row and column or the other way round."""

    node: Node
    turned: bool = False


@dataclass(frozen=True)
class Term:
    """What is added to logits or to outputs: `factor` times a lookup of a table by an index."""

    kind: Kind | Literal["values"]
    factor: Dim
    table: Table | None
    index: Index


@dataclass(frozen=True)
class Operand:
    """Queries, keys or values: axes in the order batch, head, tokens, channels."""

    value: Value
    batch: tuple[int, ...]
    head: int | None
    tokens: tuple[int, ...]
    channel: int


@dataclass(frozen=True)
class Attention(Group):
    """A group, and what its kernel takes. `result` are the axes of o in that order, too.

    `before` and `after` are the linear layers that mix heads on either side of the softmax.
    """

    q: Operand
    k: Operand
    v: Operand
    scale: Dim
    terms: tuple[Term, ...]
    result: tuple[int, ...]
    before: Node | None = None
    after: Node | None = None

    def terms_of(self, kind: str) -> tuple[Term, ...]:
        """The terms of a kind."""
        return tuple(term for term in self.terms if term.kind == kind)


@dataclass(frozen=True)
class Leaf:
    """A summand of the logits and the letters of its axes as they stand in the sum."""

    kind: Kind
    node: Node
    factor: Dim
    layout: Layout
    nodes: frozenset[int]
    table: Value | None = None
    index: Index | None = None
    picked: int | None = None
    mixed: bool = False


def made_by(level: Block, value: Value) -> Node:
    """The node of a value."""
    return level.by_id[value.node]


def letters(level: Block, node: Node) -> tuple[tuple[str, ...], ...]:
    """The letters of the axes of an einsum's operands and of its result."""
    return spelt(node, tuple(map(level.type_of, node.operands)))


def axis_of(level: Block, node: Node) -> int:
    """The axis that a node reads its operand along."""
    axis = node.attributes["axis"]
    assert isinstance(axis, Dim)
    return int(axis.at({})) % level.type_of(node.operands[0]).rank


def unscaled(level: Block, operand: Operand) -> tuple[Operand, Dim]:
    """The operand before it was multiplied by a number, and the number."""
    factor, value = ONE, operand.value
    while (scaled := scaled_by(made_by(level, value))) is not None:
        factor, value = factor * scaled, made_by(level, value).operands[0]
    return replace(operand, value=value), factor


def scales(level: Block, product: Node) -> frozenset[int]:
    """The multiplications by numbers before a product."""
    found: set[int] = set()
    for value in product.operands:
        while scaled_by(made_by(level, value)) is not None:
            found.add(value.node)
            value = made_by(level, value).operands[0]
    return frozenset(found)


def adds(node: Node) -> bool:
    """Whether a node is a sum of tensors."""
    return node.op in SUMS and node.attributes.get("number") is None


def signed(node: Node) -> list[tuple[Value, Dim]]:
    """What a sum adds, each with 1 or -1."""
    taken = Dim.of(-1) if node.op == "sub" else ONE
    return [(v, taken if position else ONE) for position, v in enumerate(node.operands)]


def scaled_by(node: Node) -> Dim | None:
    """The number by which a node multiplies a tensor."""
    number = node.attributes.get("number")
    if node.op not in ("mul", "div") or not isinstance(number, Dim):
        return None
    if node.attributes.get("flipped") is True and node.op == "div":
        return None
    return number if node.op == "mul" else 1 / number


def most(size: Dim) -> int:
    """The largest value of a size."""
    return int(size.bounds()[1])


def called(node: Node) -> str:
    """A node in a message."""
    return node.label or (node.call.block if node.call is not None else node.op)
