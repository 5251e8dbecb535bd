"""Names for the sizes and decisions of a block that is written."""

from __future__ import annotations

from dataclasses import dataclass, field

from spacelang.ir.block import Block
from spacelang.ir.dim import Symbol, symbol_of
from spacelang.ir.node import Node, Value
from spacelang.syntax.write_calls import by_name
from spacelang.syntax.write_nodes import Body
from spacelang.syntax.write_values import Names, Speller, cannot, meant


@dataclass
class Sizes:
    """The names of a block's sizes: capitals where they are an axis of an input, else arguments.

    taken   the sizes that calls hand over, with their names, in the order of first use
    early   those of them that only rates read although they are none
    """

    block: Block
    names: Names
    capitals_allowed: bool = True
    taken: dict[str, str] = field(default_factory=dict[str, str])
    capitals: dict[str, str] = field(default_factory=dict[str, str])
    scaled: set[str] = field(default_factory=set[str])
    firm: set[str] = field(default_factory=set[str])

    def __post_init__(self) -> None:
        self.sizes = {size.name: size for size in self.block.sizes}
        self.speller = Speller(lambda symbol: self._name(symbol, self.firm))
        self.rates = Speller(lambda symbol: self._name(symbol, self.scaled))
        heads = [c.path.rpartition(".")[2].partition("[")[0] for c in self.block.decisions]
        self.names.taken |= set(heads)
        self.decisions: dict[str, str] = {}
        for choice, head in zip(self.block.decisions, heads, strict=True):
            plain = heads.count(head) == 1 and (head == choice.path or head not in meant())
            self.decisions[choice.path] = head if plain else self.names.free(choice.path)
        for node in self.block.inputs if self.capitals_allowed else ():
            for size in node.types[0].shape:
                symbol = symbol_of(size)
                if symbol is not None and symbol.name in self.sizes:
                    self.capitals.setdefault(symbol.name, "")

    @property
    def early(self) -> list[str]:
        scaled = self.scaled - self.firm
        return [s for s in self.taken if s in scaled and not self.sizes[s].rate]

    def _name(self, symbol: Symbol, used: set[str]) -> str:
        if symbol.name in self.decisions:
            return self.decisions[symbol.name]
        if symbol.name not in self.sizes:
            if not self.block.sizes and symbol.free:
                return symbol.name  # the batch of the whole network
            return by_name(symbol, {})
        used.add(symbol.name)
        if symbol.rate and used is self.firm:
            raise cannot(f"the rate {symbol}", "it is read as a size", self.block.span)
        if symbol.name in self.capitals:
            if not self.capitals[symbol.name]:
                self.capitals[symbol.name] = self.names.free(_capital(symbol.name))
            return self.capitals[symbol.name]
        if symbol.name not in self.taken:
            self.taken[symbol.name] = self.names.free(symbol.name.lstrip("%"))
        return self.taken[symbol.name]

    def input(self, node: Node, body: Body) -> tuple[str, Node]:
        name = body.names.free(node.label or "x")
        body.name(Value(node.id), name)
        return name, node

    def typed(self, name: str, node: Node) -> str:
        """A parameter; its type names the sizes that the body reads by their axis."""
        shape = node.types[0].shape
        symbols = [symbol_of(size) for size in shape]
        if not any(s is not None and self.capitals.get(s.name) for s in symbols):
            return name
        axes = [self.capitals.get(s.name, "") if s is not None else "" for s in symbols]
        filled = (axis or self.names.free("A") for axis in axes)
        return f"{name}: [{', '.join(filled)}]"


def _capital(name: str) -> str:
    plain = name.lstrip("%").rpartition(".")[2]
    return plain[:1].upper() + plain[1:]
