"""Frames: where nodes are lowered to. One rule an op serves them all.

    @lowers("layer_norm")
    def _(emit: Emit) -> fx.Node: ...          # one fx.Node, or a tuple of one a result

A frame makes fx nodes and answers what a size, a weight or a table is there: an argument of the
function in a supernet (`lower.py`), a number or a tensor of its own in a subnet (`extract.py`).
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from spacelang.backends.torch.views import Axes, Part, runs
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.node import Node, TensorType, Value

Size = int | fx.Node
Number = int | float | fx.Node


@dataclass(frozen=True)
class Entries:
    """A result that was made entry by entry of one of its axes; only `unstack` reads it."""

    parts: tuple[fx.Node, ...]


Result = fx.Node | Entries


class Frame(ABC):
    """The fx graph in the making and the values it has so far, of one level of one block."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.values: dict[Value, Result] = {}
        self.types: dict[Value, TensorType] = {}
        self._free: dict[Symbol, fx.Node] = {}

    def bind(self, node: Node, results: Sequence[Result]) -> None:
        """The results of a node of the IR."""
        for value, type, result in zip(node.values, node.types, results, strict=True):
            self.values[value] = result
            self.types[value] = type

    # Sizes.

    def size(self, dim: Dim) -> Size:
        """A size of the block: a number, an argument, or computed from an operand's shape."""
        free = [symbol for symbol in dim.symbols if symbol.free]
        if not free:
            return self.known(dim)
        total: Size = 0
        for monomial, coefficient in dim.terms:
            product: Size = self.known(
                Dim((((tuple((a, e) for a, e in monomial if a not in free)), coefficient),))
            )
            for atom, exponent in monomial:
                if isinstance(atom, Symbol) and atom in free:
                    for _ in range(exponent):
                        product = self.arithmetic(operator.mul, self.batch(atom), product)
            total = self.arithmetic(operator.add, total, product)
        return total

    def arithmetic(self, function: Callable[[int, int], int], a: Size, b: Size) -> Size:
        """A sum, product or quotient of sizes, without the steps that change nothing."""
        if isinstance(a, int) and isinstance(b, int):
            return function(a, b)
        neutral = 0 if function is operator.add else 1
        if b == neutral or (a == neutral and function is not operator.floordiv):
            return a if b == neutral else b
        return self.graph.call_function(function, (a, b))

    def batch(self, symbol: Symbol) -> fx.Node:
        """A free size, read off the shape of a value that has it."""
        if symbol not in self._free:
            self._free[symbol] = self._read_off(symbol)
        return self._free[symbol]

    def _read_off(self, symbol: Symbol) -> fx.Node:
        wanted = Dim.of(symbol)
        for exact in (True, False):
            for value, type in self.types.items():
                result = self.values[value]
                for axis, size in enumerate(type.shape):
                    if symbol not in size.symbols or not isinstance(result, fx.Node):
                        continue
                    rest = size / wanted
                    if rest == 1 if exact else not any(s.free for s in rest.symbols):
                        found = self.graph.call_method("size", (result, axis))
                        whole = self.arithmetic(operator.floordiv, found, self.size(rest))
                        assert isinstance(whole, fx.Node)
                        return whole
        raise SpaceError(error("SP605", f"no tensor at hand has an axis of {symbol.name}"))

    @abstractmethod
    def known(self, dim: Dim) -> Size:
        """A size without free symbols."""

    @abstractmethod
    def number(self, dim: Dim) -> Number:
        """A number that is no size."""

    # Weights.

    @abstractmethod
    def stored(self, node: Node, role: str) -> tuple[fx.Node, Axes]:
        """A parameter as it is stored, and what a node reads of it."""

    @abstractmethod
    def extent(self, node: Node, role: str, axis: int, factor: int) -> Size:
        """How much is stored of a factor of which uses of a block differ."""

    @abstractmethod
    def split(self, node: Node) -> int | None:
        """The number of entries that a linear layer is lowered one by one for (`views.splits`)."""

    def read(self, node: Node, role: str, entry: tuple[int, int] | None = None) -> fx.Node:
        """What a node reads of a parameter; `entry` (k, n): the k-th of n equal parts of axis 0."""
        tensor, axes = self.stored(node, role)
        if entry is not None:
            axes = (_entry(axes[0], *entry), *axes[1:])
        lists = [list(runs(axis)) for axis in axes]
        for axis in reversed(range(len(lists))):
            if len(lists[axis]) > 1:
                tensor = self._unflatten(tensor, axis, node, role, axes[axis])
        index: list[object] = []
        merge: list[tuple[int, int]] = []
        position = 0
        for axis, found in enumerate(lists):
            index += [self._slice(run) for run in found] or [slice(None)]
            kept = len(found)
            if entry is not None and axis == 0 and kept > 1:
                index[0], kept = entry[0], kept - 1
            if kept > 1:
                merge.append((position, position + kept - 1))
            position += max(kept, 1)
        while index and index[-1] == slice(None):
            index.pop()
        if index:
            tensor = self.graph.call_function(operator.getitem, (tensor, tuple(index)))
        for first, last in reversed(merge):
            tensor = self.graph.call_method("flatten", (tensor, first, last))
        return tensor

    def _slice(self, run: Part) -> slice:
        if run.whole:
            return slice(None)
        start, stop = self.size(run.start), self.size(run.start + run.length * run.step)
        if run.step != 1:
            stop = self.size(run.start + (run.length - 1) * run.step + 1)
        return slice(
            None if start == 0 else start, stop, None if run.step == 1 else run.step
        )

    def _unflatten(
        self, tensor: fx.Node, axis: int, node: Node, role: str, parts: Sequence[Part]
    ) -> fx.Node:
        """One axis for each run; the first extent that is not known is left to PyTorch."""
        sizes: list[Size] = []
        for run in runs(parts):
            if run.extent is not None:
                sizes.append(self.size(run.extent))
            elif -1 not in sizes:
                sizes.append(-1)
            else:
                total: Size = 1
                for factor, part in enumerate(parts):
                    if part.extent is None and part.start == run.start:
                        total = self.arithmetic(operator.mul, total, self.extent(node, role, axis, factor))
                sizes.append(total)
        return self.graph.call_method("unflatten", (tensor, axis, tuple(sizes)))

    # What depends on the mode, and constants.

    @abstractmethod
    def by_mode(self, function: Callable[..., torch.Tensor], arguments: tuple[object, ...]) -> fx.Node:
        """A call of a function whose last argument is whether the network trains."""

    @abstractmethod
    def drop_path(self, node: Node, x: fx.Node, rate: Dim) -> fx.Node:
        """Samples dropped in training."""

    @abstractmethod
    def table(self, node: Node) -> fx.Node:
        """The entries of an index table."""


def _entry(parts: Sequence[Part], entry: int, count: int) -> tuple[Part, ...]:
    """The parts of an axis of which one of `count` equal entries is read."""
    outer = parts[0]
    if outer.whole and outer.length == count and len(parts) > 1:
        return tuple(parts)  # taken by its index
    if len(parts) > 1:
        raise SpaceError(error("SP605", "the rows of weight and bias do not match"))
    length = outer.length / count
    return (
        Part(outer.start + length * entry * outer.step, length, outer.step, False, outer.extent),
    )


@dataclass(frozen=True)
class Emit:
    """What a rule sees of one node."""

    frame: Frame
    node: Node
    level_types: Mapping[Value, TensorType] = field(repr=False)
