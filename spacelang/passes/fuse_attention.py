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

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from spacelang.ir.block import Block
from spacelang.ir.dim import Dim
from spacelang.ir.node import Node, Value
from spacelang.passes.fusion import (
    ONE,
    Axis,
    Group,
    Misfit,
    Unfit,
    alone,
    constant,
    is_table,
    making,
    only_reader,
    spelt,
)
from spacelang.passes.head_mixes import Layout, Mix, beyond, mix_of, moved

KERNEL, MIXED = "attention", "mixed_attention"
WIDEST = 128
"""Channels of a head at most."""
COLUMNS = 512
"""Entries of all tables of a term at most."""
HEADS = 32
"""Heads that are mixed at most."""
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


def find(level: Block, node: Node) -> Attention | Unfit | None:
    """The attention that ends in a node, if it ends there and not further on."""
    return _found(level, node, KERNEL)


def find_mixed(level: Block, node: Node) -> Attention | Unfit | None:
    """The same of heads that are mixed."""
    return _found(level, node, MIXED)


def _found(level: Block, node: Node, kernel: str) -> Attention | Unfit | None:
    finder = _Finder(level)
    try:
        found = finder.at(node)
    except Misfit as misfit:
        found = Unfit(finder.kernel, misfit.node, misfit.why)
    return found if found is not None and found.kernel == kernel else None


class _Finder:
    def __init__(self, level: Block) -> None:
        self.level = level
        self.before: Mix | None = None
        self.after: Mix | None = None

    @property
    def kernel(self) -> str:
        return KERNEL if self.before is None and self.after is None else MIXED

    def maker(self, value: Value) -> Node:
        return self.level.by_id[value.node]

    def at(self, root: Node) -> Attention | None:
        outputs = self._outputs(Value(root.id), ONE) if root.op in SUMS | {"einsum"} else None
        if outputs is None or self._goes_on(root, outputs[1]):
            return None
        weigh, softmax, values = outputs
        p = Value(softmax.id)
        self.after = mix_of(self.level, weigh.operands[0])
        leaves = list(self._logits(softmax.operands[0], ONE))
        q, k, scale, product = self._product(leaves)
        v, result = self._weighed(weigh, p, product)
        self._check_mixes(leaves, product, values)
        terms = [self._term(leaf, product, q, k) for leaf in leaves if leaf.kind != "product"]
        terms += [self._value_term(part, factor, p, weigh) for part, factor in values]
        nodes = {softmax.id, weigh.id}.union(*(leaf.nodes for leaf in leaves))
        nodes |= self._between(root, softmax)
        nodes |= self.before.nodes if self.before is not None else frozenset()
        for term in terms:
            nodes |= {term.index.node.id}
            nodes |= making(self.level, term.table.value) if term.table is not None else set()
        outside = alone(self.level, nodes, root.id)
        if outside is not None:
            raise Misfit(outside, f"{_called(outside)} is read outside of the attention, too")
        self._check(q, k, v, terms, root)
        mixes = (None if mix is None else mix.linear for mix in (self.before, self.after))
        return Attention(
            self.kernel, frozenset(nodes), root.id, q, k, v, scale, tuple(terms), result, *mixes
        )

    # What comes after the softmax.

    def _outputs(
        self, value: Value, factor: Dim
    ) -> tuple[Node, Node, list[tuple[Node, Dim]]] | None:
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

    def _summands(self, value: Value, factor: Dim) -> Iterator[tuple[Node, Dim]]:
        """The parts of a sum, and of sums that are read in it alone: each node once."""
        root, waiting = value.node, [(value, factor)]
        while waiting:
            value, factor = waiting.pop()
            node = self.maker(value)
            scaled = _scaled(node)
            if scaled is not None and self._sums(self.maker(node.operands[0])) is not None:
                yield self.maker(node.operands[0]), factor * scaled
            elif _adds(node) and (node.id == root or only_reader(self.level, node) is not None):
                waiting += reversed([(v, factor * sign) for v, sign in _signed(node)])
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

    def _softmax(self, value: Value) -> Node | None:
        """The softmax that gives a value, or weights that are mixed into it."""
        mix = mix_of(self.level, value)
        found = self.maker(value if mix is None else mix.source)
        return found if found.op == "softmax" else None

    def _sums(self, node: Node) -> Node | None:
        """The softmax whose weights a term of the values sums in buckets."""
        if node.op != "einsum" or len(node.operands) != 2:
            return None
        masses = self.maker(node.operands[0])
        if masses.op != "bucket_sum" or not constant(self.level, node.operands[1]):
            return None
        return self._softmax(masses.operands[0])

    def _goes_on(self, root: Node, softmax: Node) -> bool:
        """Whether a sum further on is all of the attention."""
        for reader in self.level.readers.get(Value(root.id), ()):
            if reader.op in SUMS:
                more = self._outputs(Value(reader.id), ONE)
                if more is not None and more[1] is softmax:
                    return True
        return False

    def _between(self, node: Node, softmax: Node) -> set[int]:
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

    # What comes before it.

    def _logits(self, value: Value, factor: Dim) -> Iterator[Leaf]:
        """The summands of the logits, each with the nodes on the way to it."""
        passed, waiting = set[int](), [(value, factor, tuple[Node, ...](), False)]
        while waiting:
            value, factor, way, mixed = waiting.pop()
            mix = mix_of(self.level, value)
            if mix is not None:
                self._take_before(mix, factor, way)
                waiting.append((mix.source, factor, way, True))
                continue
            node = self.maker(value)
            scaled = _scaled(node)
            if _adds(node):
                parts = _signed(node)
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
                raise Misfit(node, f"{_called(node)} is in its logits more than once")
            passed.add(node.id)
            waiting += reversed([(v, factor * by, (*way, node), mixed) for v, by in parts])

    def _take_before(self, mix: Mix, factor: Dim, way: tuple[Node, ...]) -> None:
        """Keep the mix of the logits, of which there is one, and which nothing but sums follow."""
        if self.before is not None:
            raise Misfit(mix.linear, "heads are mixed twice before the softmax")
        self.before = mix
        if factor != ONE or any(node.op == "rearrange" for node in way):
            raise Misfit(mix.linear, "mixed heads are moved or scaled before the softmax")

    def _leaf(self, node: Node, factor: Dim) -> Leaf:
        own = frozenset({node.id})
        if node.op == "einsum" and len(node.operands) == 2:
            if any(constant(self.level, v) for v in node.operands):
                raise Misfit(node, "a term of the logits is as large as N x N x D: bucketise first")
            _, _, result = self._spelt(node)
            return Leaf("product", node, factor, tuple((c,) for c in result), own)
        if node.op == "gather":
            made = self.maker(node.operands[0])
            index = self.maker(node.operands[1])
            if made.op == "einsum" and len(made.operands) == 2 and is_table(index):
                _, _, result = self._spelt(made)
                layout = (*((c,) for c in result[:-1]), ("@column",))
                nodes = own | {made.id} | self._scales(made)
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
        raise Misfit(node, f"no kernel adds {_called(node)} to logits")

    def _offsets(self, node: Node, factor: Dim, own: frozenset[int]) -> Leaf:
        table, index = node.operands
        at = self.maker(index)
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
        taken, index = self.maker(node.operands[0]), node.attributes["index"]
        if taken.op != "take" or not isinstance(index, tuple) or len(index) != 1:
            return None
        leaf, number = self._offsets(taken, factor, frozenset({taken.id, node.id})), index[0]
        whole = isinstance(number, Dim) and number.constant is not None
        if not whole or leaf.layout[0] != ("@head",) or self._axis_of(taken) != 1:
            return None
        assert isinstance(number, Dim)
        return replace(leaf, layout=leaf.layout[1:], picked=int(number.at({})))

    def _spelt(self, node: Node) -> tuple[tuple[str, ...], ...]:
        return spelt(node, tuple(map(self.level.type_of, node.operands)))

    # How the parts fit together.

    def _product(self, leaves: list[Leaf]) -> tuple[Operand, Operand, Dim, Leaf]:
        products = [leaf for leaf in leaves if leaf.kind == "product"]
        if len(products) != 1:
            where = leaves[0].node
            raise Misfit(where, f"its logits are {len(products)} products of queries with keys")
        (leaf,) = products
        first, second, result = self._spelt(leaf.node)
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

        q, by_q = self._unscaled(operand(position, mine, rows))
        k, by_k = self._unscaled(operand(1 - position, other, keys))
        nodes = leaf.nodes | self._scales(leaf.node)
        index = leaves.index(leaf)
        leaves[index] = replace(leaf, nodes=nodes)
        return q, k, leaf.factor * by_q * by_k, leaf

    def _unscaled(self, operand: Operand) -> tuple[Operand, Dim]:
        """The operand before it was multiplied by a number, and the number."""
        factor, value = ONE, operand.value
        while (scaled := _scaled(self.maker(value))) is not None:
            factor, value = factor * scaled, self.maker(value).operands[0]
        return replace(operand, value=value), factor

    def _scales(self, product: Node) -> frozenset[int]:
        """The multiplications by numbers before a product."""
        found: set[int] = set()
        for value in product.operands:
            while _scaled(self.maker(value)) is not None:
                found.add(value.node)
                value = self.maker(value).operands[0]
        return frozenset(found)

    def _term(self, leaf: Leaf, product: Leaf, q: Operand, k: Operand) -> Term:
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
        first, second, result = self._spelt(leaf.node)
        operand, factor = self._unscaled(Operand(leaf.node.operands[0], (), None, (), 0))
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
        if rank == 2 and self._axis_of(leaf.node) == 0:
            head, entry = 1, 0
        plain = (("@row",), ("@column",))
        turned = leaf.layout[-2:] == (plain[1], plain[0])
        ends = leaf.layout[-2:] == plain or turned
        if not ends or (head is not None and (leaf.layout[0] != ("@head",) or q.head is None)):
            raise Misfit(leaf.node, "offsets do not end in heads, queries and keys")
        table = Table(leaf.table, head, entry, None, leaf.picked)
        return Term("offsets", leaf.factor, table, replace(leaf.index, turned=turned))

    def _axis_of(self, node: Node) -> int:
        axis = node.attributes["axis"]
        assert isinstance(axis, Dim)
        return int(axis.at({})) % self.level.type_of(node.operands[0]).rank

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

    def _weighed(self, weigh: Node, p: Value, product: Leaf) -> tuple[Operand, tuple[int, ...]]:
        first, second, result = self._spelt(weigh)
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

    def _value_term(self, node: Node, factor: Dim, p: Value, weigh: Node) -> Term:
        masses = self.maker(node.operands[0])
        index = self.maker(masses.operands[1])
        first, second, result = self._spelt(node)
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
        _, _, other = self._spelt(weigh)
        w_first = self._spelt(weigh)[0]
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

    # What the kernels can take.

    def _check_mixes(
        self, leaves: list[Leaf], product: Leaf, values: list[tuple[Node, Dim]]
    ) -> None:
        """Mixes are over the heads, and what is added is on its side of the first."""
        for mix in (self.before, self.after):
            if mix is not None:
                self._check_mix(mix, product)
        for node, _ in values:
            if mix_of(self.level, self.maker(node.operands[0]).operands[0]) is not None:
                raise Misfit(node, "no kernel mixes heads with a term of the values")
        if self.kernel == KERNEL:
            return
        for leaf in leaves:
            if self.before is not None and leaf.mixed == (leaf.kind == "regions"):
                side = "before" if leaf.mixed else "after"
                raise Misfit(leaf.node, f"{_called(leaf.node)} is added {side} heads are mixed")
            if leaf.kind == "key" or (leaf.kind == "query" and leaf.layout[-2] == ("@column",)):
                raise Misfit(leaf.node, "no kernel mixes heads with a term of the keys")
        for node, _ in values:
            raise Misfit(node, "no kernel mixes heads with a term of the values")

    def _check_mix(self, mix: Mix, product: Leaf) -> None:
        if mix.head != len(product.layout) - 3 or mix.head < 1:
            raise Misfit(mix.linear, "what is mixed is no axis of heads")
        heads = mix.linear.types[0].shape[-1]
        if _most(heads) > HEADS:
            raise Misfit(mix.linear, f"{heads} heads that are mixed are more than {HEADS}")
        if "weight" not in mix.linear.params:
            raise Misfit(mix.linear, "the weights that mix heads are operands")

    def _check(self, q: Operand, k: Operand, v: Operand, terms: list[Term], root: Node) -> None:
        for operand in (q, v):
            width = self.level.type_of(operand.value).shape[operand.channel]
            if _most(width) > WIDEST:
                raise Misfit(root, f"a head of {width} channels is wider than {WIDEST}")
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
            if kind in ("query", "key", "values") and sum(map(_most, sizes)) > COLUMNS:
                total = sum(map(_most, sizes))
                raise Misfit(root, f"tables of {total} entries are more than {COLUMNS}")


def _adds(node: Node) -> bool:
    """Whether a node is a sum of tensors."""
    return node.op in SUMS and node.attributes.get("number") is None


def _signed(node: Node) -> list[tuple[Value, Dim]]:
    """What a sum adds, each with 1 or -1."""
    taken = Dim.of(-1) if node.op == "sub" else ONE
    return [(v, taken if position else ONE) for position, v in enumerate(node.operands)]


def _scaled(node: Node) -> Dim | None:
    """The number by which a node multiplies a tensor."""
    number = node.attributes.get("number")
    if node.op not in ("mul", "div") or not isinstance(number, Dim):
        return None
    if node.attributes.get("flipped") is True and node.op == "div":
        return None
    return number if node.op == "mul" else 1 / number


def _most(size: Dim) -> int:
    return int(size.bounds()[1])


def _called(node: Node) -> str:
    """A node in a message."""
    return node.label or (node.call.block if node.call is not None else node.op)
