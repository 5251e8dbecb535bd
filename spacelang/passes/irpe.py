"""iRPE (ICCV 2021): image relative position encoding, put into any self-attention.

    irpe(method: "product", ratio: 1.9, on: ["k"])

Each product of queries and keys gets the terms of `on` beside it, with the operands of that
product, and each product of weights and values those of the value side. A scale after the product
reaches them with it; one that the queries got before it is given to the keys of the query side
too, as in the paper. Tables start at zero, so the function is at first that of the graph before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import ClassVar, cast, get_args

from spacelang.diagnostics import Diagnostic, Report, SpaceError, error, spelt
from spacelang.ir import levels
from spacelang.ir.block import Block
from spacelang.ir.dim import ONE, Dim
from spacelang.ir.graph import Graph
from spacelang.ir.names import fresh
from spacelang.ir.node import Call, Node, TensorType, Value, join
from spacelang.ir.pattern import Pattern
from spacelang.ir.prove import feasible
from spacelang.ir.uses import Chain
from spacelang.ops.buckets import METHODS
from spacelang.passes.attention import Product, products
from spacelang.passes.base import Pass
from spacelang.passes.clashes import own_paths, refuse_clashes
from spacelang.passes.flow import Flow
from spacelang.passes.places import Spot, below, put_after, rewrite, spots
from spacelang.passes.raster import Raster, squares, traced
from spacelang.passes.relative import Law, Side, term
from spacelang.passes.remake import Body

MODES = ("contextual", "bias")
SIDES: tuple[Side, ...] = get_args(Side)
LARGEST = 1000
"""A ratio above any grid: a table of the method product has some 16 ratio squared rows."""


@dataclass(frozen=True)
class Irpe(Pass):
    """Terms by relative position.

    method   euclidean, quantised, cross or product
    ratio    alpha; beta and gamma are 2 and 8 of it
    on       of queries, keys and values: k reads the queries, q the keys, v the weights
    mode     contextual (with the operand) or bias
    shared   one table for all heads
    path     only attention at or below these places; all of it if empty
    height, width, skip   the grid, and tokens before it; found from the network if not given
    """

    name: ClassVar[str] = "irpe"
    preserves: ClassVar[frozenset[str]] = frozenset({"space"})

    method: str = "product"
    ratio: float = 1.9
    on: tuple[str, ...] | str = ("k",)
    mode: str = "contextual"
    shared: bool = True
    path: tuple[Pattern, ...] = ()
    height: int | None = None
    width: int | None = None
    skip: int | None = None

    def run(self, graph: Graph, report: Report) -> Graph:
        """The graph with the terms. SP601 where there is no attention, or no grid in it."""
        report.extend(self._mistakes())
        report.check()
        flow = Flow(graph)
        found = [p for p in products(flow) if self._wanted(p)]
        uses = self._uses(graph, found)
        reached = {(block, node) for block, nodes in uses.values() for node in nodes}
        found = [p for p in found if (p.block, p.node.id) in reached]
        self._refuse_none(graph, found)
        plans, blocks = self._plan(graph, flow, found, report)
        report.check()
        added = [(s, self._paths(graph, s, plans, blocks)) for s in self._spots(graph, uses)]
        refuse_clashes(graph, added, "irpe")
        grown = replace(graph, blocks={**graph.blocks, **blocks})
        chosen = {chain: (block, frozenset(nodes)) for chain, (block, nodes) in uses.items()}
        return rewrite(grown, chosen, lambda block, key: _edited(block, plans, *key))

    # Options.

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides of `on`; none where it is something else."""
        return _texts(self.on)

    def _mistakes(self) -> Iterator[Diagnostic]:
        def wrong(name: str, wanted: str) -> Diagnostic:
            return error(
                "SP209", f"irpe: {name} must be {wanted}, not {spelt(getattr(self, name))}"
            )

        if not any(self.method == known for known in METHODS):
            yield wrong("method", f"one of {', '.join(METHODS)}")
        if not _number(self.ratio) or not 0 < self.ratio <= LARGEST:
            yield wrong("ratio", f"a number above 0, at most {LARGEST}")
        sides = self.sides
        if not sides or len(set(sides)) < len(sides) or not set(sides) <= set(SIDES):
            yield wrong("on", "a list of q, k and v, each once")
        if self.mode not in MODES:
            yield wrong("mode", "contextual or bias")
        if self.mode == "bias" and "v" in sides:
            yield error("SP601", "irpe: values take no bias: weights times a bias are no vector")
        if self.shared not in (True, False) or _number(self.shared):
            yield wrong("shared", "true or false")
        if (self.height is None) != (self.width is None):
            yield error("SP204", "irpe needs height and width together")
        for name, least in (("height", 1), ("width", 1), ("skip", 0)):
            value = getattr(self, name)
            if value is not None and (not _whole(value) or value < least):
                yield wrong(name, f"a whole number of at least {least}")

    def _law(self) -> Law:
        return Law(self.method, self.ratio, self.mode == "bias", self.shared)

    # Where.

    def _wanted(self, product: Product) -> bool:
        return bool(_sides(product, self.sides))

    def _uses(
        self, graph: Graph, found: Iterable[Product]
    ) -> dict[Chain, tuple[str, tuple[int, ...]]]:
        """The products of every use of a block that the option `path` admits."""
        known = {(p.block, p.node.id) for p in found}
        uses: dict[Chain, tuple[str, tuple[int, ...]]] = {}
        for spot in spots(graph):
            if (spot.block, spot.node.id) not in known:
                continue
            if self.path and not any(below(spot.path, p) for p in self.path):
                continue
            _, before = uses.get(spot.chain, ("", ()))
            uses[spot.chain] = (spot.block, (*before, spot.node.id))
        return uses

    def _spots(self, graph: Graph, uses: Mapping[Chain, tuple[str, tuple[int, ...]]]) -> list[Spot]:
        return [s for s in spots(graph) if s.node.id in uses.get(s.chain, ("", ()))[1]]

    def _refuse_none(self, graph: Graph, found: Sequence[Product]) -> None:
        for side in self.sides:
            if any(side in _sides(p, self.sides) for p in found):
                continue
            within = f"below {', '.join(map(str, self.path))}" if self.path else f"in {graph.name}"
            what = "weights and values" if side == "v" else "queries and keys"
            raise SpaceError(
                error("SP601", f"irpe finds no product of {what} {within}").note(
                    "it is an einsum, or a call of a block that is nothing else, between as many "
                    "queries as keys, and a softmax over the keys"
                )
            )

    def _grid(self, flow: Flow, product: Product) -> Raster:
        """The grid that the tokens of a product stand for. SP601 unless there is just one."""
        tokens = product.tokens(product.rows)
        no_grid = (
            error("SP601", f"irpe finds no grid of {tokens} tokens")
            .also(product.node.span, "in this product")
            .hint("say it: irpe(height: .., width: .., path: [..])")
        )
        if self.height is not None and self.width is not None:
            rest = (tokens - self.height * self.width).constant
            if rest is None or rest < 0 or (self.skip is not None and rest != self.skip):
                raise SpaceError(no_grid.note(f"it is told of {self.height} x {self.width}"))
            return Raster(Dim.of(self.height), Dim.of(self.width), int(rest))
        row, *more = product.rows
        if len(more) == 1:
            return Raster(product.sizes[row], product.sizes[more[0]])
        if more:
            raise SpaceError(no_grid.note(f"queries stand on {len(product.rows)} axes"))
        at = (product.block, product.left.value(product.node))
        axis = product.left.letters.index(row)
        skips = (0, 1) if self.skip is None else (self.skip,)
        found = {
            r
            for r in traced(flow, at, axis)
            if r.tokens == tokens and (self.skip is None or r.skip == self.skip)
        }
        if len(found) > 1:
            shown = " and ".join(sorted(map(str, found)))
            raise SpaceError(no_grid.note(f"they come from more than one: {shown}"))
        for raster in found or squares(tokens, skips):
            return raster
        raise SpaceError(no_grid.note("neither a map that was flattened nor a square number"))

    # What.

    def _plan(
        self, graph: Graph, flow: Flow, found: Sequence[Product], report: Report
    ) -> tuple[dict[tuple[str, int], list[_Addition]], dict[str, Block]]:
        """What is added to each product, and the blocks of the terms."""
        plans: dict[tuple[str, int], list[_Addition]] = {}
        blocks: dict[str, Block] = {}
        taken = {graph.root.name, *graph.blocks}
        for product in found:
            try:
                raster = self._grid(flow, product)
                plans[product.block, product.node.id] = [
                    self._addition(flow, product, side, raster, taken, blocks, found)
                    for side in _sides(product, self.sides)
                ]
            except SpaceError as failed:
                report.extend(failed.diagnostics)
        return plans, blocks

    def _addition(
        self,
        flow: Flow,
        product: Product,
        side: Side,
        raster: Raster,
        taken: set[str],
        blocks: dict[str, Block],
        found: Sequence[Product],
    ) -> _Addition:
        made = term(f"rpe_{side}", product, side, raster, self._law())
        same = next(
            (b for b in blocks.values() if replace(b, name=made.block.name) == made.block), None
        )
        if same is None:
            same = replace(made.block, name=fresh(made.block.name, taken))
            taken.add(same.name)
            blocks[same.name] = same
        operand, other = product.left, product.right
        if side == "q":
            operand, other = other, operand
        scale = ONE
        if made.reads and side != "v":
            # The scores have the scales of both operands, the term that of the one it reads.
            scale = flow.scale((product.block, other.value(product.node)))
        name = _name(side, product, found)
        call = Call(same.name, name, name, name, sizes=made.sizes)
        result = made.block.type_of(made.block.outputs[0]).substitute(made.sizes)
        return _Addition(product, call, operand.position if made.reads else None, scale, result)

    def _paths(
        self,
        graph: Graph,
        spot: Spot,
        plans: Mapping[tuple[str, int], list[_Addition]],
        blocks: Mapping[str, Block],
    ) -> list[str]:
        return [
            join(a.call.path, path)
            for a in plans[spot.block, spot.node.id]
            for path in own_paths(graph, blocks[a.call.block])
        ]


@dataclass(frozen=True)
class _Addition:
    """A term beside a product: its call, the operand that it reads, the scale which that lacks."""

    product: Product
    call: Call
    operand: int | None
    scale: Dim
    result: TensorType


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, tuple | list):
        return ()
    given = cast("tuple[object, ...]", value)
    return tuple(text if isinstance(text, str) else "" for text in given)


def _whole(value: object) -> bool:
    return _number(value) and (not isinstance(value, float) or value.is_integer())


def _sides(product: Product, on: Iterable[str]) -> tuple[Side, ...]:
    """The sides of a product, in the order in which the paper adds them."""
    own: tuple[Side, ...] = ("v",) if product.kind == "weigh" else ("k", "q")
    return tuple(side for side in own if side in on)


def _name(side: Side, product: Product, found: Iterable[Product]) -> str:
    """`rpe_k`, below the labels of the product; with an index where a block has several."""
    scope = product.node.label.rpartition(".")[0]
    rivals = [
        p
        for p in found
        if (p.block, p.kind, p.node.label.rpartition(".")[0])
        == (product.block, product.kind, scope)
    ]
    apart = all(
        feasible((*p.guards, *q.guards)) is False for i, p in enumerate(rivals) for q in rivals[:i]
    )
    index = "" if apart else f"[{rivals.index(product)}]"
    return join(scope, f"rpe_{side}{index}")


def _edited(
    block: Block,
    plans: Mapping[tuple[str, int], list[_Addition]],
    name: str,
    nodes: Iterable[int],
) -> Block:
    """The block with the terms of some of its products added to their values."""
    for node in sorted(nodes):
        change = partial(_summed, node=node, additions=plans[name, node], first=block.next_id)
        block = levels.changed(block, node, change)
    return block


def _summed(level: Block, node: int, additions: Sequence[_Addition], first: int) -> Block:
    """A level with terms beside one of its nodes; all that read its value read the sum."""
    product = level.by_id[node]
    values = (*product.operands, *product.values)
    types = {value: level.type_of(value) for value in values}
    body = Body(count(first), additions[0].product.guards, types=types)
    sum_ = product.values[0]
    for addition in additions:
        read: tuple[Value, ...] = ()
        if addition.operand is not None:
            value = product.operands[addition.operand]
            if addition.scale != ONE:
                value = body.one("mul", [value], {"number": addition.scale}, span=product.span)
            read = (value,)
        call = Node(
            next(body.ids),
            "call",
            read,
            call=addition.call,
            types=(addition.result,),
            label=addition.call.path,
            span=product.span,
        )
        sum_ = body.one("add", [sum_, *body.put(call)], span=product.span)
    return put_after(level, product.values[0], body.nodes, sum_)
