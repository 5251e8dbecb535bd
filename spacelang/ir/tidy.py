"""Levels in their plainest form: regions with what they need, nodes in the order of their use.

    guard(%1, %2) when width == 8 { .. yield %5, %6 }    ->    guard(%2) when width == 8 { .. }

Results of regions that nothing reads are gone, the others stand in the order of reading; a choice
without results is a guard for each of its ways, one of nothing is none. `fixed` also puts numbers
for the sizes that the conditions around a node fix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from spacelang.ir.block import Block
from spacelang.ir.condition import All, Compare, Condition
from spacelang.ir.dim import Dim, Symbol, symbol_of
from spacelang.ir.graph import Graph, conditions
from spacelang.ir.names import KEEP, Names, Replacement
from spacelang.ir.node import Node, Value
from spacelang.ir.uses import ROOT, with_blocks


def plain_regions(graph: Graph) -> Graph:
    """The graph with its regions as plain as they can be."""
    return _each(graph, lambda block: _plain(_plain(block)))  # first what goes, then the order


def without_dead(graph: Graph) -> Graph:
    """The graph without results of regions that nothing reads; itself where there are none."""
    return _each(graph, lambda block: _plain(block) if _dead(block) else block)


def fixed(graph: Graph) -> Graph:
    """The graph with the numbers that conditions fix in what stands under them."""
    return _each(graph, lambda block: _fixed(block, KEEP))


def _each(graph: Graph, change: Callable[[Block], Block]) -> Graph:
    """A graph with each block that has regions changed."""
    old = {ROOT: graph.root, **graph.blocks}
    new = {
        name: change(block) if any(node.regions for node in block.nodes) else block
        for name, block in old.items()
    }
    same = all(new[name] is block for name, block in old.items())
    return graph if same else with_blocks(graph, new)


# What conditions fix.


class _Known(Names):
    """Names under which conditions stay as they are written."""

    def condition(self, condition: Condition) -> Condition:
        return condition


def _fixed(level: Block, names: Names) -> Block:
    nodes = (
        replace(
            node if names is KEEP else names.node(node),
            regions=tuple(
                _fixed(region, _under(names, truth))
                for region, truth in zip(node.regions, conditions(node), strict=True)
            ),
        )
        for node in level.nodes
    )
    return replace(level, nodes=tuple(nodes))


def _under(names: Names, truth: Condition) -> Names:
    """Names with the numbers that one more condition fixes."""
    found = dict(_numbers(truth))

    def known(symbol: Symbol) -> Replacement:
        return found[symbol.name] if symbol.name in found else names.symbol(symbol)

    return _Known(known) if found else names


def _numbers(truth: Condition) -> Iterator[tuple[str, Dim]]:
    """The decisions and sizes of which a condition says what they are."""
    match truth:
        case All(operands):
            for operand in operands:
                yield from _numbers(operand)
        case Compare("==", left, right) if right.constant is not None:
            symbol = symbol_of(left)
            if symbol is not None:
                yield symbol.name, right
        case _:
            pass


# Results.


def _dead(level: Block) -> bool:
    """Whether nothing reads some result of a region of a level."""
    read = {value for node in level.nodes for value in node.operands} | {*level.outputs}
    return any(
        (not node.label and not read.issuperset(node.values)) or any(map(_dead, node.regions))
        for node in level.nodes
        if node.regions
    )


def _plain(block: Block) -> Block:
    return _Level(block, count(block.next_id)).made()


@dataclass
class _Level:
    """A level worked through from its results to its inputs: each node after all that read it.

    read    the values that something reads, with their turn
    moved   results of nodes that have fewer now, or in another order
    """

    level: Block
    ids: Iterator[int]
    read: dict[Value, int] = field(default_factory=dict[Value, int])
    moved: dict[Value, Value] = field(default_factory=dict[Value, Value])

    def made(self) -> Block:
        level = self.level
        below = {n.id: dict.fromkeys(v.node for v in n.operands) for n in level.nodes}
        readers = Counter(id for ids in below.values() for id in ids)
        nodes = {node.id: node for node in level.nodes}
        kept: dict[int, list[Node]] = {}
        self._reads(level.outputs)
        last = dict.fromkeys([*(value.node for value in level.outputs), *nodes])
        waiting = [id for id in last if not readers[id]]
        for id in waiting:
            kept[id] = list(self._node(nodes[id]))
            for node in kept[id]:
                self._reads(node.operands)
            now = (v.node for node in kept[id] for v in node.operands)
            for under in dict.fromkeys([*now, *below[id]]):
                readers[under] -= 1
                if not readers[under]:
                    waiting.append(under)
        body = (
            replace(node, operands=tuple(self.moved.get(v, v) for v in node.operands))
            for old in level.nodes
            for node in kept[old.id]
        )
        outputs = tuple(self.moved.get(v, v) for v in level.outputs)
        return replace(level, nodes=tuple(body), outputs=outputs)

    def _reads(self, values: Sequence[Value]) -> None:
        for value in values:
            self.read.setdefault(value, len(self.read))

    def _node(self, node: Node) -> Iterator[Node]:
        """What is left of a node: itself, or the guards of a choice without results, or nothing."""
        if not node.regions:
            yield node
            return
        found = (value for value in node.values if value in self.read)
        wanted = sorted(found, key=self.read.__getitem__) if not node.label else node.values
        indices = [value.index for value in wanted]
        self.moved |= {value: Value(node.id, turn) for turn, value in enumerate(wanted)}
        made = self._reduced(node, indices)
        if indices or node.op == "guard":
            if indices or _holds(made.regions[0]):
                yield handed(made)
            return
        id = node.id
        for region, truth in zip(made.regions, conditions(node), strict=True):
            if _holds(region):
                attributes = {**made.attributes, "conditions": (truth,)}
                one = replace(made, id=id, op="guard", attributes=attributes, regions=(region,))
                yield handed(one)
                id = next(self.ids)

    def _reduced(self, node: Node, indices: Sequence[int]) -> Node:
        """A node with some of its results; a fallback that goes is a plain operand."""
        places = list(range(len(node.operands)))
        if node.op == "guard":
            rest = (p for p in places if p not in indices)
            places = [*indices, *rest]
        regions: list[Block] = []
        for region in node.regions:
            inputs = [region.inputs[place] for place in places]
            body = (inner for inner in region.nodes if inner.op != "input")
            outputs = tuple(region.outputs[index] for index in indices)
            short = replace(region, nodes=(*inputs, *body), outputs=outputs)
            regions.append(_Level(short, self.ids).made())
        return replace(
            node,
            operands=tuple(node.operands[place] for place in places),
            types=tuple(node.types[index] for index in indices),
            regions=tuple(regions),
        )


def _holds(region: Block) -> bool:
    return len(region.nodes) > len(region.inputs)


# The order of nodes.


def tidy(level: Block) -> Block:
    """A level whose nodes stand as its outputs need them; what nobody needs is last."""
    nodes = {node.id: handed(node) for node in level.nodes}
    done: dict[int, None] = {node.id: None for node in level.nodes if node.op == "input"}
    read = {value.node for node in level.nodes for value in node.operands}
    unread = (id for id in nodes if id not in read)
    for first in (*(value.node for value in level.outputs), *unread):
        waiting = [first]
        while waiting:
            here = waiting[-1]
            needed = [v.node for v in nodes[here].operands if v.node not in done]
            if here in done or not needed:
                done[waiting.pop()] = None
            else:
                waiting.append(needed[0])
    return replace(level, nodes=tuple(nodes[id] for id in done))


def handed(node: Node) -> Node:
    """A node that hands its regions each value once, in the order in which they read them.

    The fallbacks of a guard stay in front.
    """
    if not node.regions:
        return node
    regions = [tidy(region) for region in node.regions]
    first = [node.operands.index(value) for value in node.operands]
    fallbacks = range(len(node.types)) if node.op == "guard" else ()
    order = list(dict.fromkeys([*fallbacks, *(first[p] for r in regions for p in _read(r))]))
    return replace(
        node,
        operands=tuple(node.operands[p] for p in order),
        regions=tuple(_taking(region, first, order) for region in regions),
    )


def _read(region: Block) -> Iterator[int]:
    """The positions of the inputs that a region reads, in its order."""
    inputs = {Value(node.id): position for position, node in enumerate(region.inputs)}
    for values in (*(node.operands for node in region.nodes), region.outputs):
        yield from (inputs[value] for value in values if value in inputs)


def _taking(region: Block, first: Sequence[int], order: Sequence[int]) -> Block:
    """A region whose inputs are those at some positions; one that repeats another is that other."""
    inputs = region.inputs
    seen = {Value(old.id): Value(inputs[first[p]].id) for p, old in enumerate(inputs)}
    body = (node for node in region.nodes if node.op != "input")
    return replace(
        region,
        nodes=(
            *(inputs[position] for position in order),
            *(replace(n, operands=tuple(seen.get(v, v) for v in n.operands)) for n in body),
        ),
        outputs=tuple(seen.get(v, v) for v in region.outputs),
    )
