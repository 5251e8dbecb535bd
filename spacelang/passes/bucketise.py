"""Relative-position terms through bucket tables: no N x N x d gather of rows any more.

    key     einsum("bihd,ijd->bhij", q, take(T, at))   gather(einsum("bihd,td->bhit", q, T), at)
    query   einsum("bjhd,ijd->bhij", k, take(T, at))   the same by the transposed index
    value   einsum("bhij,ijd->bihd", p, take(T, at))   einsum("bhit,td->bihd", bucket_sum(p, at), T)

Exact: products with equal rows are added up first, as a token meets only as many different rows as
T has. For rows of one table there may stand sums and multiples of such rows (AutoFormer adds a
vertical and a horizontal one), made in the same block or in one that it calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from string import ascii_letters
from typing import ClassVar

from spacelang.diagnostics import Report, error
from spacelang.ir.block import Block
from spacelang.ir.dim import ONE, ZERO, Dim
from spacelang.ir.graph import Graph
from spacelang.ir.levels import without
from spacelang.ir.names import names_of
from spacelang.ir.node import Node, Value
from spacelang.passes.base import Pass
from spacelang.passes.remake import Body, each_block

DONE = frozenset({"gather", "bucket_sum"})
Letters = tuple[str, ...]


@dataclass(frozen=True)
class Bucketise(Pass):
    """Rewrite every relative-position term of the network."""

    name: ClassVar[str] = "bucketise"
    preserves: ClassVar[frozenset[str]] = frozenset({"function", "parameters", "space"})

    def run(self, graph: Graph, report: Report) -> Graph:
        """The graph in which relative terms read by buckets (SP601 where there is none)."""
        made = bucketised(graph)
        if made is graph and not any(place.node.op in DONE for place in graph.places()):
            report.add(
                error("SP601", f"bucketise finds no relative-position term in {graph.name}").note(
                    "no einsum of two tensors reads rows that `take` finds by an index of pairs"
                )
            )
        return made


def bucketised(graph: Graph) -> Graph:
    """The graph with every relative-position term rewritten; itself where there is none."""
    return each_block(graph, lambda block: _Writer(block, graph.blocks).block())


@dataclass(frozen=True)
class Term:
    """A multiple of rows of a table: `factor * take(table, index, axis)`."""

    factor: Dim
    table: Value
    index: Value
    axis: int


@dataclass(frozen=True)
class Fit:
    """How a product reads rows: by a row and a column of the index, which one operand has.

    `keys` where the result has both and they are gathered, else the columns are summed in buckets.
    """

    position: int
    keys: bool
    transposed: bool
    row: str
    column: str
    x: Letters
    rows: Letters
    result: Letters

    def table(self, letter: str, axis: int) -> Letters:
        return (*self.rows[:axis], letter, *self.rows[axis + 2 :])

    def others(self, letters: Letters) -> Letters:
        return tuple(c for c in letters if c not in (self.row, self.column))

    @property
    def free(self) -> str:
        """A letter for the rows of the table."""
        used = {*self.x, *self.rows, *self.result}
        return next(c for c in ("t", *ascii_letters) if c not in used)


class _Writer:
    """One block; what it takes over from blocks that it calls is added to its parameters."""

    def __init__(self, block: Block, blocks: Mapping[str, Block]) -> None:
        self.old, self.blocks = block, blocks
        self.ids = count(block.next_id)
        self.params = {param.path: param for param in block.params}
        self._rows: dict[int, tuple[Block, Mapping[Value, tuple[Term, ...]]]] = {}

    def terms_of(self, value: Value, level: Block) -> tuple[Term, ...]:
        """The multiples of rows of tables of which a value is the sum; none if it is none."""
        if id(level) not in self._rows:
            self._rows[id(level)] = level, rows_of(level)
        return self._rows[id(level)][1].get(value, ())

    def block(self) -> Block:
        made = self.level(self.old)
        return made if made is self.old else replace(made, params=tuple(self.params.values()))

    def level(self, level: Block) -> Block:
        """The level and its regions with their terms rewritten; itself if there are none."""
        level = _with_regions(level, [self.level(r) for n in level.nodes for r in n.regions])
        while wanted := set(self._wanted(level)):
            level = self._spliced(level, wanted)
        fits = {n.id: fit for n in level.nodes for fit in self._fits(n, level)}
        if not fits:
            return level
        body, gone = Body(self.ids), set[int]()
        for node in level.nodes:
            fit = fits.get(node.id)
            if fit is None:
                body.put(node)
                continue
            rows = node.operands[fit.position]
            _rewrite(body, node, fit, self.terms_of(rows, level))
            gone |= _making(rows, level)
        return replace(level, nodes=without(body.nodes, gone, level.outputs))

    def _fits(self, node: Node, level: Block) -> Iterator[Fit]:
        """At most one."""
        for position, value in enumerate(node.operands if node.op == "einsum" else ()):
            axis = self._axis(value, level)
            fit = None if axis is None else fit_of(node, position, axis)
            if fit is not None:
                yield fit
                return

    def _axis(self, value: Value, level: Block) -> int | None:
        """The axis at which a value has an index for the rows of tables, here or in a callee."""
        terms = self.terms_of(value, level)
        if terms:
            return terms[0].axis
        call = level.by_id[value.node].call
        if call is None or call.store != call.path or call.own:
            return None
        callee = self.blocks[call.block]
        if callee.decisions:
            return None
        return self._axis(callee.outputs[value.index], callee)

    def _wanted(self, level: Block) -> Iterator[int]:
        """The calls that make rows of tables for a product of this level."""
        for node in level.nodes:
            for fit in self._fits(node, level):
                maker = level.by_id[node.operands[fit.position].node]
                if maker.call is not None:
                    yield maker.id

    def _spliced(self, level: Block, calls: set[int]) -> Block:
        """The level with some calls replaced by the nodes of what they call."""
        body = Body(self.ids)
        seen: dict[Value, Value] = {}
        for node in level.nodes:
            operands = [seen.get(v, v) for v in node.operands]
            if node.call is None or node.id not in calls:
                body.put(replace(node, operands=tuple(operands)))
                continue
            callee, inside = self.blocks[node.call.block], names_of(node.call)
            made = body.paste(callee, operands, inside)
            self.params |= {p.path: p for p in map(inside.param, callee.params)}
            seen.update(zip(node.values, made, strict=True))
        return replace(
            level, nodes=tuple(body.nodes), outputs=tuple(seen.get(v, v) for v in level.outputs)
        )


def _with_regions(level: Block, regions: Sequence[Block]) -> Block:
    """The level with all regions of its nodes in order; itself if they are the same."""
    old = [r for n in level.nodes for r in n.regions]
    if all(a is b for a, b in zip(old, regions, strict=True)):
        return level
    given = iter(regions)
    nodes = tuple(replace(n, regions=tuple(next(given) for _ in n.regions)) for n in level.nodes)
    return replace(level, nodes=nodes)


def rows_of(level: Block) -> Mapping[Value, tuple[Term, ...]]:
    """The values of a level that are sums of multiples of rows of tables, each with these; a table
    that is read by one index several times is one of them."""
    found: dict[Value, tuple[Term, ...]] = {}
    tables: set[int] = set()
    for node in level.nodes:
        if node.op != "input" and all(v.node in tables for v in node.operands):
            tables.add(node.id)  # it depends on no input: a table, not indices of data
        if len(node.types) == 1:
            terms = _terms(node, level, found, tables)
            if terms:
                found[Value(node.id)] = terms
    return found


def _terms(
    node: Node, level: Block, known: Mapping[Value, tuple[Term, ...]], tables: set[int]
) -> tuple[Term, ...]:
    """The terms of a node by those of its operands; none if it is something else."""
    number = node.attributes.get("number")
    parts = [known.get(v, ()) for v in node.operands]
    match node.op:
        case "take":
            axis = node.attributes["axis"]
            assert isinstance(axis, Dim)
            table, index = node.operands
            if level.type_of(index).rank != 2 or index.node not in tables:
                return ()
            return (Term(ONE, table, index, int(axis.at({})) % level.type_of(table).rank),)
        case "identity":
            return parts[0]
        case "add" | "sub" | "sum_of" if not isinstance(number, Dim):
            alike = all(level.type_of(v) == node.types[0] for v in node.operands)
            if not all(parts) or not alike or len({t.axis for p in parts for t in p}) > 1:
                return ()
            signs = [ONE, Dim.of(-1) if node.op == "sub" else ONE] + [ONE] * len(parts)
            return _sum((t, sign) for sign, p in zip(signs, parts, strict=False) for t in p)
        case "mul" | "div" if isinstance(number, Dim):
            if node.op == "div" and node.attributes.get("flipped") is True:
                return ()
            factor = number if node.op == "mul" else 1 / number
            return _sum((term, factor) for term in parts[0])
        case _:
            return ()


def _sum(terms: Iterable[tuple[Term, Dim]]) -> tuple[Term, ...]:
    """Multiples of terms, those of the same rows added up."""
    found: dict[tuple[Value, Value, int], Dim] = {}
    for term, times in terms:
        rows = term.table, term.index, term.axis
        found[rows] = found.get(rows, ZERO) + term.factor * times
    return tuple(Term(factor, *rows) for rows, factor in found.items())


def _making(value: Value, level: Block) -> set[int]:
    """The nodes between tables and the sum of their rows."""
    found, waiting = set[int](), [value.node]
    while waiting:
        node = level.by_id[waiting.pop()]
        if node.id not in found:
            found.add(node.id)
            waiting += (v.node for v in node.operands if node.op != "take")
    return found


def letters(text: str) -> Letters:
    marked = text.replace(" ", "").replace("...", ".")
    return tuple("..." if c == "." else c for c in marked)


def fit_of(node: Node, position: int, axis: int) -> Fit | None:
    """How an einsum reads the operand at `position` as rows of tables, or None."""
    left, _, right = str(node.attributes["pattern"]).partition("->")
    operands, result = [letters(part) for part in left.split(",")], letters(right)
    if len(operands) != 2 or "..." in operands[position]:
        return None
    rows, x = operands[position], operands[1 - position]
    first, second = rows[axis], rows[axis + 1]
    kept, seen = [c in result for c in (first, second)], [c in x for c in (first, second)]
    if sum(kept) + sum(seen) != 3:  # keys: both are kept, one seen; values: both seen, one kept
        return None
    keys = all(kept)
    transposed = not (seen[0] if keys else kept[0])
    row, column = (second, first) if transposed else (first, second)
    return Fit(position, keys, transposed, row, column, x, rows, result)


def _rewrite(body: Body, node: Node, fit: Fit, terms: Iterable[Term]) -> None:
    """Write the product through buckets; its result keeps the id that the product had."""
    x = node.operands[1 - fit.position]
    t = fit.free
    outer = fit.others(fit.result if fit.keys else fit.x)
    if not fit.keys:
        x = _arranged(body, x, fit.x, (*outer, fit.row, fit.column))
    total: Value | None = None
    for term in terms:
        table = fit.table(t, term.axis)
        index = term.index
        if fit.transposed:
            index = body.one("rearrange", [index], {"pattern": "i j -> j i"})
        if fit.keys:
            made = _einsum(body, x, term.table, fit.x, table, (*outer, fit.row, t))
            made = body.one("gather", [made, index])
        else:
            buckets = body.types[term.table].shape[term.axis]
            made = body.one("bucket_sum", [x, index], {"buckets": buckets})
            made = _einsum(body, made, term.table, (*outer, fit.row, t), table, fit.result)
        if term.factor != ONE:
            made = body.one("mul", [made], {"number": term.factor})
        total = made if total is None else body.one("add", [total, made])
    assert total is not None
    if fit.keys:
        _arranged(body, total, (*outer, fit.row, fit.column), fit.result)
    last = body.nodes.pop()
    body.put(replace(last, id=node.id, label=node.label, types=node.types, span=node.span))


def _einsum(body: Body, x: Value, table: Value, a: Letters, b: Letters, result: Letters) -> Value:
    pattern = f"{''.join(a)},{''.join(b)}->{''.join(result)}"
    return body.one("einsum", [x, table], {"pattern": pattern})


def _arranged(body: Body, value: Value, now: Letters, wanted: Letters) -> Value:
    if now == wanted:
        return value
    return body.one("rearrange", [value], {"pattern": f"{' '.join(now)} -> {' '.join(wanted)}"})


__all__ = ["Bucketise", "bucketised"]
