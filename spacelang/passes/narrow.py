"""Narrowing: a space whose decisions have fewer candidates, without its text.

    narrow(graph, {"width[0]": (56, 64), "layers[0].heads": (3, 4)})

The graph of all that a text allows (`within`) becomes that of any ranges in it: conditions that are
settled then go with what they guard, and storage is laid out anew, as large as is needed now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import product
from math import prod

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.condition import FALSE, TRUE
from spacelang.ir.decision import Choice
from spacelang.ir.dim import ZERO, Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Graph, Instance, conditions
from spacelang.ir.names import Names, fresh
from spacelang.ir.node import Node, Value, join
from spacelang.ir.param import Gather, Param, Slice, View
from spacelang.passes.below import Below
from spacelang.passes.release import released
from spacelang.passes.remake import each_block, with_root, without_stale_rules
from spacelang.passes.storage_layout import lay_out

Ranges = Mapping[str, tuple[DecisionValue, ...]]
COMBINATIONS = 65_536  # of the values of a size; beyond, all that it had are kept


def displaced(graph: Graph) -> set[str]:
    """The storages of which some slice begins where a decision says, or goes by a table."""
    return {
        place.instance.param(view.param)
        for place in graph.places()
        for view in place.node.params.values()
        for axis in view.index
        for part in axis
        if not isinstance(part, Slice) or part.start.symbols
    }


def narrow(graph: Graph, ranges: Mapping[str, Sequence[object]]) -> Graph:
    """The graph with these candidates, by the path of a decision; other decisions keep theirs.

    SP504 for a path that is no decision's, SP501 for what is no candidate or for none at all, SP209
    for what is no list of them.
    """
    wanted = graph.decisions.ranges(ranges)
    graph = _undone(graph)
    work = _Narrower(graph, wanted)
    root = work.block(graph.top, graph.root.name)
    names = Names(lambda symbol: work.symbol(graph.top, symbol))
    require = tuple(names.condition(condition) for condition in graph.require)
    made = replace(with_root(graph, root, work.blocks), require=require)
    return lay_out(without_stale_rules(graph, made))


def _undone(graph: Graph) -> Graph:
    """The graph with slices from the first entry on, where rules of storage said otherwise.

    Starts were worked out for the largest candidates. SP701 where they do not follow from rules.
    """
    moved = displaced(graph)
    if not moved and not any(_begins(view) for block in _all(graph) for view in _views(block)):
        return graph
    found = each_block(released(graph, moved), _from_start)
    if lay_out(found).hash != graph.hash:
        wrong = f"the ranges of {graph.name} cannot be narrowed: weights are placed by no rule left"
        raise SpaceError(error("SP701", wrong).hint("load the text with other ranges instead"))
    return found


def _all(graph: Graph) -> tuple[Block, ...]:
    return (graph.root, *graph.blocks.values())


def _views(block: Block) -> Iterator[View]:
    return (view for node in block.everywhere() for view in node.params.values())


def _begins(view: View) -> bool:
    """Whether a slice of it has a known start that is not the first entry."""
    parts = (part for axis in view.index for part in axis)
    return any(isinstance(part, Slice) and part.start != ZERO for part in parts)


def _from_start(block: Block) -> Block:
    def part(old: Slice | Gather) -> Slice | Gather:
        return replace(old, start=ZERO) if isinstance(old, Slice) else old

    def view(old: View) -> View:
        return View(old.param, tuple(tuple(map(part, axis)) for axis in old.index))

    def changed(node: Node) -> Node:
        params = {role: view(old) for role, old in node.params.items()}
        return replace(node, params=params, regions=tuple(map(_from_start, node.regions)))

    return replace(block, nodes=tuple(map(changed, block.nodes)))


@dataclass
class _Narrower:
    graph: Graph
    ranges: Ranges
    blocks: dict[str, Block] = field(default_factory=dict[str, Block])
    made: dict[object, str] = field(default_factory=dict[object, str])

    def call(self, instance: Instance) -> str:
        """The name of the block that a use calls, remade once for each set of ranges."""
        sizes = tuple(self.symbol(instance, size) for size in instance.block.sizes)
        key = (instance.block.name, sizes, self._below.of(instance))
        if key not in self.made:
            name = fresh(instance.block.name, self.blocks)
            self.made[key] = name
            self.blocks[name] = self.block(instance, name)
        return self.made[key]

    @cached_property
    def _below(self) -> Below[tuple[DecisionValue, ...]]:
        return Below(self.graph, self.ranges)

    def symbol(self, instance: Instance, symbol: Symbol) -> Symbol:
        """A size or decision of a use with the values that are left."""
        bound = instance.symbol(symbol)
        if not symbol.values:
            return symbol
        left = self._values(bound)
        return symbol if left is None else replace(symbol, values=self._kept(symbol, left))

    def _kept(self, symbol: Symbol, left: set[DecisionValue]) -> tuple[DecisionValue, ...]:
        return tuple(value for value in symbol.values if value in left)

    def _values(self, bound: Dim | Symbol) -> set[DecisionValue] | None:
        """What a size or decision of the whole space can be; None where nothing is known of it."""
        if isinstance(bound, Symbol):
            return set(self.ranges.get(bound.name, bound.values))
        symbols = sorted(bound.symbols, key=lambda s: s.name)
        taken = [self.ranges.get(s.name, s.values) for s in symbols]
        if not all(taken) or prod(map(len, taken)) > COMBINATIONS:
            return None
        names = [s.name for s in symbols]
        found = (bound.at(dict(zip(names, v, strict=True))) for v in product(*taken))
        return {Fraction(value) for value in found}

    def block(self, instance: Instance, name: str) -> Block:
        block = instance.block
        names = Names(lambda symbol: self.symbol(instance, symbol))
        made = self._level(instance, block, names)
        return replace(
            made,
            name=name,
            sizes=tuple(self.symbol(instance, size) for size in block.sizes),
            decisions=tuple(self._choice(instance, choice, names) for choice in block.decisions),
            params=_read(made, (names.param(param) for param in block.params)),
        )

    def _choice(self, instance: Instance, choice: Choice, names: Names) -> Choice:
        values = self.ranges.get(join(instance.decide, choice.path), choice.values)
        return replace(choice, values=values, live=names.condition(choice.live))

    def _level(self, instance: Instance, level: Block, names: Names) -> Block:
        """A block or region, without the regions whose condition never holds."""
        nodes: list[Node] = []
        outputs = self._append(instance, level, names, nodes, {})
        return replace(level, nodes=tuple(nodes), outputs=tuple(outputs))

    def _append(
        self,
        instance: Instance,
        level: Block,
        names: Names,
        nodes: list[Node],
        bound: Mapping[Value, Value],
    ) -> list[Value]:
        """Write the nodes of a level after others; a region's inputs are bound to values there."""
        seen = dict(bound)
        for node in level.nodes:
            if bound and node.op == "input":
                continue
            operands = tuple(seen.get(value, value) for value in node.operands)
            made = replace(names.node(node), operands=operands)
            if node.call is not None and made.call is not None:
                inner = instance.enter(node.call, self.graph.blocks[node.call.block])
                made = replace(made, call=replace(made.call, block=self.call(inner)))
            if not node.regions:
                nodes.append(made)
                continue
            ways = [
                (region, condition)
                for region, condition in zip(node.regions, conditions(made), strict=True)
                if condition != FALSE
            ]
            if not ways:  # a guard that never holds: its operands instead
                seen.update(zip(node.values, operands, strict=False))
            elif ways[0][1] == TRUE or (node.op == "choose" and len(ways) == 1):
                region = ways[0][0]
                inputs = (Value(i.id) for i in region.inputs)
                inside = dict(zip(inputs, operands, strict=True))
                found = self._append(instance, region, names, nodes, inside)
                seen.update(zip(node.values, found, strict=True))
            else:
                regions = tuple(self._level(instance, region, names) for region, _ in ways)
                held = {"conditions": tuple(condition for _, condition in ways)}
                attributes = {**made.attributes, **held}
                nodes.append(replace(made, attributes=attributes, regions=regions))
        return [seen.get(value, value) for value in level.outputs]


def _read(block: Block, params: Iterable[Param]) -> tuple[Param, ...]:
    """The parameters that some node still reads."""
    read = {view.param for node in block.everywhere() for view in node.params.values()}
    return tuple(param for param in params if param.path in read)
