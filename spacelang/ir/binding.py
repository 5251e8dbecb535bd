"""What the symbols of a block stand for in the whole space, the same for many of its uses.

binding.dim(4 * width)    binding.condition(depth > 3)    binding.symbol(width)
"""

from __future__ import annotations

from collections.abc import Mapping

from spacelang.ir.condition import Condition
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.node import join


class Binding:
    """Sizes as callers give them, decisions below the path `decide`; each answer is found once."""

    def __init__(self, decide: str, sizes: Mapping[str, Dim | Symbol]) -> None:
        self.decide, self.sizes = decide, sizes
        self._dims: dict[Dim, Dim] = {}
        self._conditions: dict[Condition, Condition] = {}

    def dim(self, dim: Dim) -> Dim:
        """A size of the block in the decisions of the whole space."""
        if not dim.symbols:
            return dim
        found = self._dims.get(dim)
        if found is None:
            found = self._dims[dim] = dim.substitute(self._names(dim.symbols))
        return found

    def condition(self, condition: Condition) -> Condition:
        """A condition of the block in the decisions of the whole space."""
        found = self._conditions.get(condition)
        if found is None:
            names = self._names(condition.symbols)
            found = self._conditions[condition] = condition.substitute(names)
        return found

    def symbol(self, symbol: Symbol) -> Dim | Symbol:
        """What a symbol of the block stands for: a size its caller gave, or a decision by path."""
        bound = self.sizes.get(symbol.name)
        if bound is not None:
            return bound
        return symbol.called(join(self.decide, symbol.name))

    def _names(self, symbols: frozenset[Symbol]) -> dict[str, Dim | Symbol]:
        return {s.name: self.symbol(s) for s in symbols}


class Bindings:
    """The bindings of a network, one for all uses that decide the same and are given the same."""

    def __init__(self) -> None:
        self._known: dict[object, Binding] = {}

    def of(self, decide: str, sizes: Mapping[str, Dim | Symbol]) -> Binding:
        """The binding of uses whose decisions lie below a path and whose sizes are these."""
        key = decide, *sizes.items()
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Binding(decide, sizes)
        return found
