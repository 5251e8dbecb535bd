"""Which symbols the sizes of a block may mention, by name.

A block sees its own sizes and decisions, and the decisions of what it calls under the call's prefix
(`attn.heads`; `/normal.op` for those of a cell). The root sees besides the free axes of its inputs.
"""

from __future__ import annotations

from collections.abc import Mapping

from spacelang.ir.block import Block
from spacelang.ir.dim import Symbol
from spacelang.ir.figures import FIGURES, figure
from spacelang.ir.graph import Graph
from spacelang.ir.names import under

Symbols = Mapping[str, Symbol]


class Known:
    """The symbols of every block of a graph, looked up when first asked for.

    A call of a block that is not there, and one that leads back to its caller, add nothing.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._taken: dict[str, Symbols] = {}
        self._open: set[str] = set()

    def block(self, block: Block) -> Symbols:
        """The symbols that a block of `graph.blocks` may mention."""
        return {**self.decisions(block), **{size.name: size for size in block.sizes}}

    def root(self) -> Symbols:
        """The symbols that the root may mention."""
        root = self.graph.root
        free = {
            symbol.name: symbol
            for node in root.inputs
            for type in node.types
            for size in type.shape
            for symbol in size.symbols
            if symbol.free
        }
        return {**free, **self.block(root)}

    def space(self) -> Symbols:
        """The symbols of requirements: the root's decisions by path, and the figures."""
        figures = {name: figure(name) for name in FIGURES}
        return {**figures, **{c.path: c.symbol for c in self.graph.decisions.values()}}

    def decisions(self, block: Block) -> Symbols:
        """The decisions that a block and what it calls take, by their path inside the block."""
        found = {choice.path: choice.symbol for choice in block.decisions}
        for node in block.everywhere():
            call = node.call
            if call is not None and call.block in self.graph.blocks:
                for path, symbol in self._called(call.block).items():
                    here = under(call.decide, path)
                    found.setdefault(here, Symbol(here, symbol.values))
        return found

    def _called(self, name: str) -> Symbols:
        if name in self._open:
            return {}
        if name not in self._taken:
            self._open.add(name)
            self._taken[name] = self.decisions(self.graph.blocks[name])
            self._open.remove(name)
        return self._taken[name]
