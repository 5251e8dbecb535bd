"""Sizes of parts in the terms of one use of a block, and what reads each part from its place.

%up, %skip                 sizes that the block has
%part1                     one that its caller is asked to bind
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import count

from spacelang.analysis.parts import Chain, Parts, Sizes
from spacelang.ir.dim import ZERO, Dim, Symbol
from spacelang.ir.facts import exact_table
from spacelang.ir.gather import PARTS
from spacelang.ir.graph import Instance
from spacelang.ir.param import Gather
from spacelang.ir.storage import largest
from spacelang.ir.words import bare


class PartTerms:
    """Sizes of the network in the terms of one use of a block.

    asked   what the block does not have: new sizes, and what the caller has to bind them to
    """

    def __init__(self, parts: Parts, chain: Chain, instance: Instance) -> None:
        self.chain, self.instance = chain, instance
        self.asked: dict[Symbol, Dim] = {}
        self._parts = parts

    @cached_property
    def _named(self) -> dict[Dim, Dim]:
        """Sizes of the network that the block has, and how it has them."""
        found = dict(self._parts.named.get(self.chain, {}))
        for symbol in self.instance.block.sizes:
            bound = self.instance.symbol(symbol)
            if symbol.values and symbol.numeric:
                found.setdefault(Dim.of(bound), Dim.of(symbol))
        return found

    @cached_property
    def _symbols(self) -> dict[str, Dim]:
        """The decisions of the network that are sizes of the block, or decisions of its own."""
        found = {
            symbol.name: here
            for there, here in self._named.items()
            if bare(there)
            for symbol in there.symbols
        }
        for choice in self.instance.block.decisions:
            own = self.instance.symbol(choice.symbol)
            if choice.symbol.numeric and isinstance(own, Symbol):
                found.setdefault(own.name, Dim.of(choice.symbol))
        return found

    def size(self, size: Dim) -> Dim | None:
        """None where its values are too many to be listed for a new size."""
        if size.constant is not None:
            return size
        if not self.chain:
            return size.substitute(self._parts.cells)
        if size in self._named:
            return self._named[size]
        if all(symbol.name in self._symbols for symbol in size.symbols):
            return size.substitute(self._symbols)
        values = exact_table(size)
        if values is None:
            return None
        taken = {s.name for s in (*self.instance.block.sizes, *self.asked)}
        name = next(n for n in (f"%part{k}" for k in count(1)) if n not in taken)
        symbol = Symbol(name, tuple(sorted(values)))
        self.asked[symbol] = size
        self._named[size] = Dim.of(symbol)
        return self._named[size]

    def view(self, parts: Sizes, stored: Mapping[str, int]) -> Gather | None:
        """What reads parts each from its place in the largest network; None for a single part."""
        if len(parts) < 2:
            return None
        sizes = [self.size(part) for part in parts]
        length = [size for size in sizes if size is not None]
        if len(length) < len(sizes):
            return None
        arguments = [
            number
            for size, part in zip(length[:-1], parts, strict=False)
            for number in (size, Dim.of(largest(part, stored)))
        ]
        return Gather(PARTS, tuple(arguments), sum(length, ZERO))
