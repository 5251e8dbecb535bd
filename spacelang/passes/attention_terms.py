"""The terms of an attention: which table is read by which index, and along which axes."""

from __future__ import annotations

from dataclasses import replace

from spacelang.ir.block import Block
from spacelang.ir.dim import ONE, Dim
from spacelang.ir.node import Node, Value
from spacelang.passes.attention_parts import (
    Index,
    Leaf,
    Operand,
    Table,
    Term,
    axis_of,
    letters,
    made_by,
    unscaled,
)
from spacelang.passes.fusion import Misfit, constant, is_table


class Terms:
    """The terms of the attentions of a level."""

    def __init__(self, level: Block) -> None:
        self.level = level

    def of_logits(self, leaf: Leaf, product: Leaf, q: Operand, k: Operand) -> Term:
        assert leaf.index is not None
        wanted = len(product.layout)
        if leaf.kind == "regions":
            heads = 1 if q.head is not None else 0
            if (
                leaf.layout[-2:] != (("@row",), ("@column",))
                or len(q.batch) != 2
                or wanted - heads != 4
            ):
                raise Misfit(leaf.node, "windows of the mask are not an axis of their own")
            return Term("regions", leaf.factor, None, leaf.index)
        if leaf.kind == "offsets":
            return self._offset_term(leaf, q)
        assert leaf.table is not None
        if len(leaf.layout) != wanted:
            raise Misfit(leaf.node, "a term of the logits has other axes than they have")
        turned = leaf.layout[-2] == ("@column",)
        mine = k if turned else q
        row = leaf.layout[-1] if turned else leaf.layout[-2]
        first, second, result = letters(self.level, leaf.node)
        operand, factor = unscaled(self.level, Operand(leaf.node.operands[0], (), None, (), 0))
        if operand.value != mine.value:
            kind = "keys" if turned else "queries"
            raise Misfit(leaf.node, f"a term of the {kind} is of other values than they are")
        places = [axis for axis in (*mine.batch, mine.head) if axis is not None]
        have = [first.index(axis[0]) for axis in leaf.layout[:-2] if axis[0] in first]
        tokens = tuple(first.index(c) for c in row if c in first)
        table = self._table(leaf.node, leaf.table, first, second, result[-1], mine.head)
        if have != places or tokens != mine.tokens:
            raise Misfit(leaf.node, "a term of the logits has other axes than they have")
        index = replace(leaf.index, turned=turned)
        return Term("key" if turned else "query", leaf.factor * factor, table, index)

    def _offset_term(self, leaf: Leaf, q: Operand) -> Term:
        assert leaf.table is not None
        assert leaf.index is not None
        rank = self.level.type_of(leaf.table).rank
        if leaf.picked is not None:
            rank = 1
        head = 0 if rank == 2 else None
        entry = rank - 1
        if rank == 2 and axis_of(self.level, leaf.node) == 0:
            head, entry = 1, 0
        plain = (("@row",), ("@column",))
        turned = leaf.layout[-2:] == (plain[1], plain[0])
        ends = leaf.layout[-2:] == plain or turned
        if not ends or (head is not None and (leaf.layout[0] != ("@head",) or q.head is None)):
            raise Misfit(leaf.node, "offsets do not end in heads, queries and keys")
        table = Table(leaf.table, head, entry, None, leaf.picked)
        return Term("offsets", leaf.factor, table, replace(leaf.index, turned=turned))

    def _table(
        self,
        node: Node,
        value: Value,
        x: tuple[str, ...],
        letters: tuple[str, ...],
        entry: str,
        head: int | None,
    ) -> Table:
        """A table of rows as a product with `x` reads it."""
        type = self.level.type_of(value)
        by_head = None if head is None else x[head]
        known: dict[str, int] = {}
        for axis, letter in enumerate(letters):
            if letter in x or letter == entry:
                known[letter] = axis
            elif type.shape[axis] != ONE:
                raise Misfit(node, "a table of a term has an axis of its own")
        channels = [c for c in known if c not in (by_head, entry)]
        if entry not in known or len(channels) != 1 or not constant(self.level, value):
            raise Misfit(node, "a term is no product with a table of rows")
        return Table(
            value, None if by_head is None else known.get(by_head), known[entry], known[channels[0]]
        )

    def of_values(self, node: Node, factor: Dim, p: Value, weigh: Node) -> Term:
        masses = made_by(self.level, node.operands[0])
        index = made_by(self.level, masses.operands[1])
        first, second, result = letters(self.level, node)
        *others, row, entry = first
        head = len(others) - 1 if len(others) > 1 else None
        if not is_table(index):
            raise Misfit(node, "masses are summed by no index table")
        known: dict[str, int] = {}
        for axis, letter in enumerate(second):
            if letter in first or letter in result:
                known[letter] = axis
            elif self.level.type_of(node.operands[1]).shape[axis] != ONE:
                raise Misfit(node, "a table of a term has an axis of its own")
        by_head = None if head is None else first[head]
        channels = [c for c in known if c not in (entry, by_head)]
        if entry not in known or len(channels) != 1:
            raise Misfit(node, "a term of the values is no product with a table of rows")
        _, _, other = letters(self.level, weigh)
        w_first = letters(self.level, weigh)[0]
        mine = [result.index(c) for c in (*others, row)]
        theirs = [other.index(c) for c in w_first[:-1]]
        if mine != theirs:
            raise Misfit(node, "a term of the values has other axes than they have")
        table = Table(
            node.operands[1],
            None if by_head is None else known.get(by_head),
            known[entry],
            known[channels[0]],
        )
        return Term("values", factor, table, Index(index))
