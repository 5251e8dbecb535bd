"""Sizes of calls made plain: each bound to a decision or size of the caller, as the front end does.

    call mlp(%3) [%hidden=4*width]    ->    call mlp(%3) [%width=width], with `4*%width` inside

A rate may be bound to any number: it stays.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from spacelang.ir.block import Block
from spacelang.ir.dim import Dim, Symbol, symbol_of
from spacelang.ir.graph import Graph
from spacelang.ir.names import Names, fresh, renamed
from spacelang.ir.node import Call, Node

Fixed = tuple[tuple[str, Dim], ...]


def plain_sizes(graph: Graph) -> Graph:
    """The graph in which calls bind sizes to symbols; itself where they do already."""
    work = _Plain(graph)
    root = work.calling(graph.root)
    return replace(graph, root=root, blocks=work.blocks) if work.changed else graph


@dataclass
class _Plain:
    graph: Graph
    changed: bool = False
    blocks: dict[str, Block] = field(default_factory=dict[str, Block])
    made: dict[tuple[str, Fixed], str] = field(default_factory=dict[tuple[str, Fixed], str])

    def calling(self, block: Block) -> Block:
        """A block whose calls, and those below them, are plain."""
        return replace(block, nodes=tuple(map(self._node, block.nodes)))

    def _node(self, node: Node) -> Node:
        regions = tuple(self.calling(region) for region in node.regions)
        call = None if node.call is None else self._call(node.call)
        return replace(node, regions=regions, call=call)

    def _call(self, call: Call) -> Call:
        callee = self.graph.blocks[call.block]
        late = {size.name for size in callee.sizes if size.rate}
        sizes = {
            name: value
            for name, value in call.sizes.items()
            if name in late or isinstance(value, Symbol) or symbol_of(value) is not None
        }
        inside = {symbol_of(value): name for name, value in sizes.items() if name not in late}
        fixed: dict[str, Dim] = {}
        for name, value in call.sizes.items():
            if name in sizes or not isinstance(value, Dim):
                continue
            for symbol in sorted(value.symbols, key=str):
                if symbol not in inside:
                    inside[symbol] = _free_name(symbol, {*call.sizes, *sizes})
                    sizes[inside[symbol]] = symbol
            fixed[name] = value.substitute(
                {s.name: replace(s, name=inside[s]) for s in value.symbols}
            )
        self.changed = self.changed or bool(fixed)
        return replace(call, block=self._variant(callee, tuple(sorted(fixed.items()))), sizes=sizes)

    def _variant(self, block: Block, fixed: Fixed) -> str:
        """The name of the block in which some sizes are others."""
        key = (block.name, fixed)
        if key not in self.made:
            taken = {*self.graph.blocks, *self.blocks} if fixed else ()
            name = fresh(block.name, taken)
            self.made[key] = name
            known = dict(fixed)
            names = Names(lambda symbol: known.get(symbol.name, symbol))
            sizes = dict.fromkeys(size for size in block.sizes if size.name not in known)
            for value in known.values():
                sizes.update(dict.fromkeys(sorted(value.symbols, key=str)))
            made = renamed(block, names) if fixed else block
            self.blocks[name] = replace(self.calling(made), name=name, sizes=tuple(sizes))
        return self.made[key]


def _free_name(symbol: Symbol, taken: set[str]) -> str:
    name = "%" + symbol.name.lstrip("%")
    while name in taken:
        name += "'"
    return name
