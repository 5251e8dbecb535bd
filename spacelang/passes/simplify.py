"""Simplifying: the same values of the same weights by fewer and smaller operations.

    dead nodes               gone, if they have no name, no weights and no decisions
    common subexpressions    computed once; never what is random or keeps statistics
    rearranges in a row      one, or none where they cancel
    scales of products       on the queries instead of the scores
    fold_norm: true          convolution + batch norm as one convolution, for inference only

What has a name stays, as a loss may read it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import ClassVar

from spacelang.diagnostics import Report, SpaceError, error, spelt
from spacelang.ir.block import Block
from spacelang.ir.graph import Graph
from spacelang.ir.node import Call, Node, Value
from spacelang.ir.op import ops
from spacelang.passes.base import Pass
from spacelang.passes.fold import norms_folded
from spacelang.passes.rearranging import joined, move_of
from spacelang.passes.remake import Body, each_block
from spacelang.passes.scaling import scales_moved


@dataclass(frozen=True)
class Simplify(Pass):
    """Simplify every block. With `fold_norm` the function stays in evaluation, not in training."""

    name: ClassVar[str] = "simplify"
    preserves: ClassVar[frozenset[str]] = frozenset({"function", "parameters", "space"})
    fold_norm: bool = False

    def run(self, graph: Graph, report: Report) -> Graph:
        """The graph without what computes nothing; its architectures compute the same."""
        if not _flag(self.fold_norm):
            wrong = f"simplify: fold_norm is true or false, not {spelt(self.fold_norm)}"
            raise SpaceError(error("SP209", wrong))
        if self.fold_norm:
            graph = norms_folded(graph)
        facts = Facts(graph.blocks)
        return each_block(graph, lambda block: _Simplifier(facts, block).block())


def _flag(value: object) -> bool:
    return isinstance(value, bool)


@dataclass
class Facts:
    """What blocks hold, those that they call included."""

    blocks: Mapping[str, Block]
    _bare: dict[str, bool] = field(default_factory=dict[str, bool])
    _pure: dict[str, bool] = field(default_factory=dict[str, bool])

    def removable(self, node: Node) -> bool:
        """Whether a node may go where nothing reads it."""
        if node.op == "input" or node.label or node.params:
            return False
        if node.call is not None and not self._block_bare(node.call.block):
            return False
        return all(self.removable(n) for r in node.regions for n in r.nodes if n.op != "input")

    def _block_bare(self, name: str) -> bool:
        if name not in self._bare:
            block = self.blocks[name]
            nodes = (n for n in block.nodes if n.op != "input")
            owns = block.params or block.decisions
            self._bare[name] = not owns and all(self.removable(n) for n in nodes)
        return self._bare[name]

    def pure(self, node: Node, owner: Block) -> bool:
        """Whether a node gives the same for the same operands, and keeps nothing."""
        if node.op == "input" or node.regions:
            return False
        definition = ops().get(node.op)
        if definition is not None and "random" in definition.traits:
            return False
        if any(owner.param[view.param].role == "buffer" for view in node.params.values()):
            return node.op == "buffer"
        return node.call is None or self._block_pure(node.call.block)

    def _block_pure(self, name: str) -> bool:
        if name not in self._pure:
            block = self.blocks[name]
            inner = all(self.pure(n, block) for n in block.nodes if n.op != "input")
            self._pure[name] = inner and not block.params and not block.decisions
        return self._pure[name]


class _Simplifier:
    def __init__(self, facts: Facts, block: Block) -> None:
        self.facts, self.old = facts, block
        self.body = Body(count(block.next_id))

    def block(self) -> Block:
        return self.level(self.old)

    def level(self, level: Block) -> Block:
        """The level, its regions first, until no rule changes it."""
        regions = [self.level(r) for n in level.nodes for r in n.regions]
        old = [r for n in level.nodes for r in n.regions]
        if any(a is not b for a, b in zip(old, regions, strict=True)):
            given = iter(regions)
            nodes = (replace(n, regions=tuple(next(given) for _ in n.regions)) for n in level.nodes)
            level = replace(level, nodes=tuple(nodes))
        while True:
            before = level
            level = scales_moved(level, self.facts.blocks, self.body)
            level = self._rearranged(level)
            level = self._shared(level)
            level = self._alive(level)
            if level is before:
                return level

    def _rearranged(self, level: Block) -> Block:
        """Rearranges joined with the one that they read, names without need dropped."""
        makers, seen = dict(level.by_id), dict[Value, Value]()
        reads = Counter([v for n in level.nodes for v in n.operands] + list(level.outputs))
        nodes: list[Node] = []
        for node in level.nodes:
            if any(v in seen for v in node.operands):
                node = replace(node, operands=tuple(seen.get(v, v) for v in node.operands))
            made = self._read_less(node, level, makers, reads)
            if isinstance(made, Value):
                seen[Value(node.id)] = made
                continue
            makers[node.id] = made
            nodes.append(made)
        if not seen and all(a is b for a, b in zip(nodes, level.nodes, strict=True)):
            return level
        outputs = tuple(seen.get(v, v) for v in level.outputs)
        return replace(level, nodes=tuple(nodes), outputs=outputs)

    def _read_less(
        self, node: Node, level: Block, makers: Mapping[int, Node], reads: Counter[Value]
    ) -> Node | Value:
        """A node that does the same from further up, or the value that it is anyway."""
        if node.op == "identity" and not node.label:
            return node.operands[0]
        if node.op != "rearrange":
            return node
        (value,) = node.operands
        maker = makers[value.node]
        move = move_of(node, maker.types[value.index], "y.")
        source = value
        if maker.op == "rearrange" and not move.idle:
            (further,) = maker.operands
            first = move_of(maker, makers[further.node].types[further.index], "x.")
            both = joined(first, move)
            if both is not None and (both.idle or (reads[value] == 1 and not maker.label)):
                move, source = both, further
        if not move.idle:
            if source is value:
                return node
            return replace(node, operands=(source,), attributes=move.attributes())
        if not node.label:
            return source
        return replace(node, op="identity", operands=(source,), attributes={})

    def _shared(self, level: Block) -> Block:
        """Equal nodes made one."""
        first: dict[object, int] = {}
        seen: dict[Value, Value] = {}
        nodes: list[Node] = []
        for node in level.nodes:
            if any(v in seen for v in node.operands):
                node = replace(node, operands=tuple(seen.get(v, v) for v in node.operands))
            key = _key(node) if self.facts.pure(node, self.old) else None
            place = None if key is None else first.get(key)
            if place is None or (node.label and nodes[place].label not in ("", node.label)):
                if key is not None:
                    first.setdefault(key, len(nodes))
                nodes.append(node)
                continue
            same = nodes[place]
            nodes[place] = replace(same, label=same.label or node.label)
            seen.update(zip(node.values, same.values, strict=True))
        if not seen:
            return level
        outputs = tuple(seen.get(v, v) for v in level.outputs)
        return replace(level, nodes=tuple(nodes), outputs=outputs)

    def _alive(self, level: Block) -> Block:
        """The level without dead nodes and without operands that no region reads."""
        read = {v.node for v in level.outputs}
        nodes: list[Node] = []
        for node in reversed(level.nodes):
            if node.id in read or not self.facts.removable(node):
                node = _trimmed(node)
                nodes.append(node)
                read |= {v.node for v in node.operands}
        nodes.reverse()
        if len(nodes) == len(level.nodes) and all(map(_is, nodes, level.nodes)):
            return level
        return replace(level, nodes=tuple(nodes))


def _is(a: Node, b: Node) -> bool:
    return a is b


def _key(node: Node) -> object:
    """What makes two nodes compute the same."""
    return (
        node.op,
        node.operands,
        tuple(sorted(node.attributes.items(), key=lambda item: item[0])),
        tuple(sorted(node.params.items(), key=lambda item: item[0])),
        None if node.call is None else tuple(_parts(node.call)),
        node.types,
    )


def _parts(call: Call) -> Iterator[object]:
    yield from (call.block, call.path, call.decide, call.store, call.own)
    yield tuple(sorted(call.sizes.items()))


def _trimmed(node: Node) -> Node:
    """A node with regions without the operands that none of them reads; fallbacks stay."""
    if not node.regions:
        return node
    fallbacks = len(node.types) if node.op == "guard" else 0
    unread = [
        position
        for position in range(fallbacks, len(node.operands))
        if not any(_reads(region, position) for region in node.regions)
    ]
    if not unread:
        return node
    gone = {region.inputs[position].id for region in node.regions for position in unread}
    regions = tuple(
        replace(r, nodes=tuple(n for n in r.nodes if n.id not in gone)) for r in node.regions
    )
    operands = (v for i, v in enumerate(node.operands) if i not in unread)
    return replace(node, operands=tuple(operands), regions=regions)


def _reads(region: Block, position: int) -> bool:
    value = Value(region.inputs[position].id)
    return value in region.outputs or any(value in node.operands for node in region.nodes)
