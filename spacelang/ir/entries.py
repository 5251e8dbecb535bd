"""Whole numbers of a tensor of indices: the least and the largest, as a row of its op says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from spacelang.ir.condition import Condition
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.infer import Options
from spacelang.ir.node import Attribute, TensorType

MARK = re.compile(r"%\d+")
"""How symbols of a row of entries begin (`IndexOf.mark`): no name of a text is so."""


@dataclass(frozen=True)
class Entries:
    """Whole numbers: the least and the largest, where the conditions hold.

    Both may hold symbols of their own, as the indices of a table, each with the row's `mark`: then
    what lies between them is said of each value of these that meets the conditions.
    """

    low: Dim
    high: Dim
    where: tuple[Condition, ...] = ()

    @property
    def symbols(self) -> frozenset[Symbol]:
        """All that the bounds and conditions hang on."""
        return self.low.symbols.union(self.high.symbols, *(c.symbols for c in self.where))

    def substitute(self, names: Mapping[str, Symbol]) -> Entries:
        """The same with symbols renamed."""
        where = tuple(condition.substitute(names) for condition in self.where)
        return Entries(self.low.substitute(names), self.high.substitute(names), where)


@dataclass(frozen=True)
class IndexOf(Options):
    """What a row of entries or of room sees, in the decisions of the whole space.

    `operands` are the entries of each operand; `mark` is a prefix for symbols that are the row's
    own; `guards` hold wherever the node is.
    """

    types: tuple[TensorType, ...]
    options: Mapping[str, Attribute]
    operands: tuple[Entries, ...]
    mark: str
    guards: tuple[Condition, ...] = ()
