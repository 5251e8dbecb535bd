"""The terms of iRPE as blocks: what the offset of a pair adds to scores, or to weighed values.

    block rpe_k(q: [B, N, H, D]) -> [B, H, N, N]         T = rows of the table
      table = parameter([1, D, T], init: 0) as lookup_table_weight
      return gather(einsum("..", q, table), bucket_index(h, w, method, ratio, skip))

    k   R_ij = q_i . W[id(i, j)]          or, as a bias, b[id(i, j)]
    q   R_ij = k_j . W[id(j, i)]          or b[id(j, i)]
    v   R_i = sum_j p_ij W[id(i, j)]

Tables start at zero. A table is [1, D, T] for all heads or [heads, D, T] (for v the last two axes
are swapped, for a bias D is missing); `cross` has one for rows and one for columns, whose terms
add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from string import ascii_letters
from typing import Literal

from spacelang.ir.block import Block
from spacelang.ir.build import BlockBuilder, Tensor
from spacelang.ir.condition import compare
from spacelang.ir.dim import ONE, Dim, Symbol, floor
from spacelang.ir.node import TensorType
from spacelang.ir.param import Init
from spacelang.ir.prove import Proved, whole
from spacelang.ops.buckets import METHODS, bucket_count
from spacelang.passes.attention import Letters, Product
from spacelang.passes.raster import Raster

ZEROS = Init("constant", (Dim.of(0),))
PREFIX = {"cross_rows": "rp_rows.", "cross_cols": "rp_cols."}

Side = Literal["q", "k", "v"]
Maker = Callable[[str], Tensor]


@dataclass(frozen=True)
class Law:
    """What every term of a pass has in common."""

    method: str
    ratio: float
    bias: bool
    shared: bool


@dataclass(frozen=True)
class Term:
    """A block of one term: its sizes in those of the host, and whether it reads an operand."""

    block: Block
    sizes: Mapping[str, Dim | Symbol]
    reads: bool


def term(name: str, product: Product, side: Side, raster: Raster, law: Law) -> Term:
    """The block that gives the term of a side for the operand that the product has on that side.

    k reads the queries, q the keys, v the weights; a bias reads nothing.
    """
    writer = _Writer(name, product, raster, law)
    result = writer.values() if side == "v" else writer.scores(side)
    inner = {s.name: Symbol(outer, s.values) for outer, s in writer.told.items()}
    sizes: dict[str, Dim | Symbol] = dict(inner)
    return Term(writer.builder.finish([result]), sizes, side == "v" or not law.bias)


class _Writer:
    """Writes one term; letters name the axes of tensors, as in the product."""

    def __init__(self, name: str, product: Product, raster: Raster, law: Law) -> None:
        self.product, self.law = product, law
        self.builder = BlockBuilder(name)
        self.told: dict[str, Symbol] = {}
        known = [*product.left.letters, *product.right.letters]
        self.row = _axis(product.rows, "n", known)
        self.column = _axis(product.keys, "m", known)
        self.entry = _axis((), "t", known)
        self.one = _axis((), "o", known)
        self.options: dict[str, object] = {
            "h": self._dim(raster.height),
            "w": self._dim(raster.width),
            "ratio": law.ratio,
            "skip": raster.skip,
        }
        self.skip = raster.skip
        head = product.head
        self.heads = ONE if law.shared or not head else self._dim(product.sizes[head])
        self.axis = self.one if law.shared or not head else head

    def scores(self, side: Side) -> Tensor:
        """Side k: a row for every query; side q: a row for every key, transposed."""
        product = self.product
        tokens, others = product.rows, product.cols
        first, second = self.row, self.column
        if side == "q":
            tokens, others, first, second = others, tokens, second, first
        if self.law.bias:
            return self._spread(self._bias(), tokens, others)
        operand = product.left if side == "k" else product.right
        x, read = self._input(
            operand.type, operand.letters, {first: tokens}, "q" if side == "k" else "k"
        )
        made = (*product.batch, first, self.entry)
        pattern = _pattern(read, (self.axis, product.width, self.entry), made)
        width = self._dim(product.sizes[product.width])

        def one(table: str) -> Tensor:
            weight = self._table(table, "weight", [width, self._count(table)])
            return self.builder.one(
                "gather",
                [self.builder.one("einsum", [x, weight], {"pattern": pattern}), self._index(table)],
            )

        letters = (*product.batch, first, second)
        return self._unmerged(self._sum(one), letters, {first: tokens, second: others})

    def values(self) -> Tensor:
        """Side v: the weights of a query times the entries of its pairs."""
        product = self.product
        groups = {self.row: product.rows, self.column: product.inner}
        p, read = self._input(product.left.type, product.left.letters, groups, "p")
        width = self._dim(product.sizes[product.width])
        made = _merged_letters(product.result, {self.row: product.rows})
        pattern = _pattern(read, (self.axis, self.row, self.column, product.width), made)

        def one(table: str) -> Tensor:
            weight = self._table(table, "weight", [self._count(table), width])
            entries = self.builder.one("take", [weight, self._index(table)], {"axis": 1})
            return self.builder.one("einsum", [p, entries], {"pattern": pattern})

        return self._unmerged(self._sum(one), made, {self.row: product.rows})

    # Tables.

    def _count(self, table: str) -> Dim:
        return Dim.of(bucket_count(table, self.law.ratio, self.skip))

    def _index(self, table: str) -> Tensor:
        return self.builder.one("bucket_index", [], {**self.options, "method": table})

    def _table(self, table: str, kind: str, shape: list[Dim]) -> Tensor:
        label = f"{PREFIX.get(table, '')}lookup_table_{kind}"
        options = {"shape": [self.heads, *shape], "init": ZEROS}
        return self.builder.one("parameter", [], options, label=label)

    def _sum(self, one: Maker) -> Tensor:
        first, *others = (one(table) for table in METHODS[self.law.method])
        for other in others:
            first = self.builder.one("add", [first, other])
        return first

    def _bias(self) -> Tensor:
        """[heads, rows, columns]: an entry for every pair."""

        def one(table: str) -> Tensor:
            bias = self._table(table, "bias", [self._count(table)])
            return self.builder.one("take", [bias, self._index(table)], {"axis": 1})

        return self._sum(one)

    # Axes.

    def _dim(self, size: Dim) -> Dim:
        """A size of the host as one of this block, every decision of it told by the caller.

        Whole, as it is where the product stands, whatever conditions make it so there.
        """
        for symbol in sorted(size.symbols, key=lambda s: s.name):
            if symbol.name not in self.told:
                name = "%" + symbol.name.lstrip("%")
                while any(s.name == name for s in self.told.values()):
                    name += "'"
                self.told[symbol.name] = Symbol(name, symbol.values)
                self.builder.size(self.told[symbol.name])
        made = size.substitute({s.name: self.told[s.name] for s in size.symbols})
        level = self.builder.level
        if not isinstance(whole(made, level.guards), Proved):
            level.guards = (*level.guards, compare("==", made, floor(made)))
        return made

    def _input(
        self, type: TensorType, letters: Letters, groups: Mapping[str, Letters], label: str
    ) -> tuple[Tensor, Letters]:
        """The operand with the letters of each group as one axis, and the letters it then has."""
        shape = tuple(self._dim(size) for size in type.shape)
        x = self.builder.input(TensorType(shape, type.dtype), label)
        made = _merged_letters(letters, groups)
        renamed = [groups.get(c, (c,)) for c in made]
        if all(len(group) == 1 for group in renamed):
            return x, made
        pattern = f"{' '.join(letters)} -> {_grouped(renamed)}"
        return self.builder.one("rearrange", [x], {"pattern": pattern}), made

    def _unmerged(self, x: Tensor, letters: Letters, groups: Mapping[str, Letters]) -> Tensor:
        """The tensor in the axes of the product's result."""
        parts = [groups.get(c, (c,)) for c in letters]
        result = self.product.result
        if tuple(c for group in parts for c in group) == result and len(parts) == len(result):
            return x
        pattern = f"{_grouped(parts)} -> {' '.join(result)}"
        return self.builder.one("rearrange", [x], {"pattern": pattern, "sizes": self._sizes(parts)})

    def _spread(self, x: Tensor, tokens: Letters, others: Letters) -> Tensor:
        """[heads, tokens, others] in the axes of the result, one entry along others of it."""
        product = self.product
        holder = self.axis if self.axis in product.batch else "".join(product.batch[-1:])
        if not holder:
            x = self.builder.one("slice", [x], {"index": (0,)})
        parts = [(holder,)] if holder else []
        parts += [tokens, others]
        wanted = [c if c in (holder, *tokens, *others) else "1" for c in product.result]
        while wanted[0] == "1":
            wanted.pop(0)
        if [c for group in parts for c in group] == wanted and all(len(p) == 1 for p in parts):
            return x
        pattern = f"{_grouped(parts)} -> {' '.join(wanted)}"
        return self.builder.one("rearrange", [x], {"pattern": pattern, "sizes": self._sizes(parts)})

    def _sizes(self, parts: Iterable[Letters]) -> tuple[tuple[str, Dim], ...]:
        """The sizes of all letters of a group but its first."""
        sizes = self.product.sizes
        return tuple((c, self._dim(sizes[c])) for group in parts for c in group[1:])


def _axis(letters: Letters, wanted: str, known: list[str]) -> str:
    """The letter of an axis: the one it has, else a new one, as wanted if that is free."""
    if len(letters) == 1:
        return letters[0]
    letter = next(c for c in (wanted, *ascii_letters) if c not in known)
    known.append(letter)
    return letter


def _pattern(first: Letters, second: Letters, result: Letters) -> str:
    return f"{''.join(first)},{''.join(second)}->{''.join(result)}"


def _grouped(parts: Iterable[Letters]) -> str:
    """Axes of a rearrangement: `b (y x) c`."""
    return " ".join(p[0] if len(p) == 1 else f"({' '.join(p)})" for p in parts)


def _merged_letters(letters: Letters, groups: Mapping[str, Letters]) -> Letters:
    """Letters with one for each group, where the group's first stands."""
    stands = {group[0]: name for name, group in groups.items()}
    inside = {c for group in groups.values() for c in group}
    return tuple(stands.get(c, c) for c in letters if c in stands or c not in inside)
