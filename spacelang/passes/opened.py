"""Helper blocks laid open where they are called, as far as a pattern reaches into them.

    opened = open_helpers(block, helpers)                       # every helper of the block
    opened = open_helpers(block, helpers, opened.calls(nodes))  # those that hold one of these nodes

A helper holds nothing but ops of a table, decides nothing and ties nothing; what it calls is laid
open too. Ids of nodes that stood in the block do not change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count

from spacelang.ir.block import Block
from spacelang.ir.names import names_of
from spacelang.ir.node import Node, Value
from spacelang.passes.remake import Body

Key = tuple[int, ...]
"""Where a node comes from: the ids of the calls that led to it, outermost first, and its own."""


@dataclass
class Helpers:
    """Which blocks are helpers, by the ops that they hold."""

    blocks: Mapping[str, Block]
    ops: frozenset[str]
    _known: dict[str, bool] = field(default_factory=dict[str, bool])

    def opens(self, node: Node) -> bool:
        """Whether a call can be laid open: of a helper whose weights are its own, if it has any."""
        call = node.call
        if call is None:
            return False
        own = call.store == call.path and not call.own
        return (own or self._bare(call.block)) and self._is(call.block)

    def _bare(self, name: str) -> bool:
        """Whether a block has no weights, and calls none that could."""
        block = self.blocks[name]
        return not block.params and all(n.call is None for n in block.nodes)

    def _is(self, name: str) -> bool:
        if name not in self._known:
            block = self.blocks[name]
            body = (n for n in block.nodes if n.op != "input")
            self._known[name] = not block.decisions and all(
                not n.regions and (n.op in self.ops or self.opens(n)) for n in body
            )
        return self._known[name]


@dataclass(frozen=True)
class Opened:
    """A block with some of its helpers laid open."""

    block: Block
    keys: Mapping[int, Key]

    def calls(self, nodes: Collection[int]) -> frozenset[Key]:
        """The calls that led to some nodes."""
        keys = [self.keys[node] for node in nodes]
        return frozenset(key[:depth] for key in keys for depth in range(1, len(key)))


def open_helpers(block: Block, helpers: Helpers, only: Collection[Key] | None = None) -> Opened:
    """The block with every helper open, or with those that are called at `only`."""
    keys: dict[int, Key] = {node.id: (node.id,) for node in block.everywhere()}
    ids = count(block.next_id)

    def opens(node: Node) -> bool:
        return helpers.opens(node) and (only is None or keys[node.id] in only)

    def level(old: Block) -> Block:
        regions = [level(r) for n in old.nodes for r in n.regions]
        while any(map(opens, old.nodes)):
            body, seen = Body(ids), dict[Value, Value]()
            for node in old.nodes:
                operands = [seen.get(v, v) for v in node.operands]
                if node.call is None or not opens(node):
                    body.put(replace(node, operands=tuple(operands)))
                    continue
                callee, names = helpers.blocks[node.call.block], names_of(node.call)
                first = len(body.nodes)
                made = body.paste(callee, operands, names)
                seen.update(zip(node.values, made, strict=True))
                inner = (n for n in callee.nodes if n.op != "input")
                for pasted, was in zip(body.nodes[first:], inner, strict=True):
                    keys[pasted.id] = (*keys[node.id], was.id)
                params.update({p.path: p for p in map(names.param, callee.params)})
            outputs = tuple(seen.get(v, v) for v in old.outputs)
            old = replace(old, nodes=tuple(body.nodes), outputs=outputs)
        if any(a is not b for a, b in zip(regions, _regions(old), strict=True)):
            given = iter(regions)
            nodes = (replace(n, regions=tuple(next(given) for _ in n.regions)) for n in old.nodes)
            old = replace(old, nodes=tuple(nodes))
        return old

    params = {param.path: param for param in block.params}
    made = level(block)
    return Opened(made if made is block else replace(made, params=tuple(params.values())), keys)


def _regions(level: Block) -> Iterator[Block]:
    for node in level.nodes:
        yield from node.regions
