"""Frames: where nodes are lowered to. One rule an op serves them all.

A frame makes fx nodes and answers what a size, a weight or a table is: an argument of the function
in a supernet (`lower.py`), a number or a tensor of its own in a subnet (`extract.py`).
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from spacelang.backends.torch.lowering.views import Axes, Part, runs
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dim import Dim, Monomial, Symbol
from spacelang.ir.facts import content
from spacelang.ir.liveness import Computed
from spacelang.ir.node import Node, TensorType, Value
from spacelang.ir.param import Gather

Size = int | fx.Node
Number = int | float | fx.Node
ALL = slice(None)


@dataclass(frozen=True)
class Entries:
    """A result made entry by entry of one of its axes; only `unstack` reads it."""

    parts: tuple[fx.Node, ...]


Result = fx.Node | Entries


def one_or_all(results: tuple[Result, ...]) -> Any:
    """What a function returns: its result, or a tuple of several."""
    return results[0] if len(results) == 1 else results


class Frame(ABC):
    """The fx graph in the making and the values it has so far, of one level of one block."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.values: dict[Value, Result] = {}
        self.types: dict[Value, TensorType] = {}
        self.sliced: set[fx.Node] = set()  # weights whose rows are not side by side
        self.odd: set[fx.Node] = set()  # slices that may begin at an odd element of what is stored
        self._free: dict[Symbol, fx.Node] = {}
        self._unflattened: dict[tuple[fx.Node, int, tuple[Size, ...]], fx.Node] = {}

    def bind(self, node: Node, results: Sequence[Result]) -> None:
        """The results of a node of the IR."""
        for value, type, result in zip(node.values, node.types, results, strict=True):
            self.values[value] = result
            self.types[value] = type

    def enter(self, caller: Frame, node: Node, level: Computed) -> None:
        """The inputs of a level that are needed: operands of the node that runs it."""
        given = zip(level.level.inputs, node.operands, level.reads, strict=True)
        for owner, value, read in given:
            if read:
                self.bind(owner, (caller.values[value],))

    def leave(self, inside: Frame, node: Node, level: Computed) -> None:
        """The results of a node that are needed: outputs of the level that it ran."""
        pairs = zip(level.level.outputs, level.wanted, strict=True)
        self.stand(node, [inside.values[value] if wanted else None for value, wanted in pairs])

    def pass_on(self, node: Node) -> None:
        """The results of a guard whose region is absent: its first operands."""
        self.stand(node, [self.values.get(v) for v in node.operands[: len(node.types)]])

    def stand(self, node: Node, results: Sequence[Result | None]) -> None:
        """The results of a node, as far as they are there."""
        for value, type, result in zip(node.values, node.types, results, strict=True):
            if result is not None:
                self.values[value], self.types[value] = result, type

    # What a kind of frame answers.

    @abstractmethod
    def known(self, dim: Dim) -> Size:
        """A size without free symbols."""

    @abstractmethod
    def number(self, dim: Dim) -> Number:
        """A number that is no size."""

    @abstractmethod
    def stored(self, node: Node, role: str) -> tuple[fx.Node, Axes]:
        """A parameter as it is stored, and what the node reads of it."""

    @abstractmethod
    def extent(self, node: Node, role: str, axis: int, factor: int) -> Size:
        """How much is stored of a factor of which uses of the block differ."""

    @abstractmethod
    def entries(self, node: Node) -> int | None:
        """Into how many products a linear layer falls (`views.splits`), None for one."""

    @abstractmethod
    def table(self, node: Node) -> fx.Node:
        """An index table."""

    def entry_table(self, node: Node, gather: Gather | tuple[int, ...]) -> fx.Node:
        """The entries that a part of a parameter is read through; SP605 where there is no way."""
        raise SpaceError(error("SP605", "a weight is read through an index table here", node.span))

    @abstractmethod
    def by_mode(self, function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> fx.Node:
        """A call of a function whose last argument is whether the network trains."""

    @abstractmethod
    def drop_path(self, node: Node, x: fx.Node, rate: Dim) -> fx.Node:
        """Samples dropped in training."""

    def linear(
        self, node: Node, x: fx.Node, weight: fx.Node | None, bias: fx.Node | None
    ) -> fx.Node:
        """The product of a linear layer, by a copy of a weight that is a slice: one whose rows are
        not side by side, or that may begin at an odd element, where MKL adds up doubles otherwise.

        A supernet finds the gradients of a weight that is none; see `functions.sliced_linear`.
        """
        given = weight is not None and "weight" not in node.params and weight.op.startswith("call")
        if given or weight in self.odd:
            dense: dict[str, Any] = {"memory_format": torch.contiguous_format}
            weight = self.graph.call_method("clone", (weight,), dense)
        elif weight in self.sliced:
            weight = self.graph.call_method("contiguous", (weight,))
        return self.graph.call_function(F.linear, (x, weight, bias))

    @property
    def conv2d(self) -> Callable[..., Tensor]:
        """The convolution that is called."""
        return F.conv2d

    # Sizes.

    def size(self, dim: Dim) -> Size:
        """A size: known, or computed from the shape of a value where a batch axis is in it."""
        free = {symbol for symbol in dim.symbols if symbol.free}
        if not free:
            return self.known(dim)
        total: Size = 0
        for monomial, coefficient in dim.terms:
            rest: Monomial = tuple((a, e) for a, e in monomial if a not in free)
            product = self.known(_closed(Dim(((rest, coefficient),))))
            for atom, exponent in monomial:
                if isinstance(atom, Symbol) and atom in free:
                    for _ in range(_positive(dim, exponent)):
                        product = self.arithmetic(operator.mul, self.batch(atom), product)
            total = self.arithmetic(operator.add, total, product)
        return total

    def arithmetic(self, function: Callable[[int, int], int], a: Size, b: Size) -> Size:
        """`a + b`, `a * b` or `a // b`, without the steps that change nothing."""
        if isinstance(a, int) and isinstance(b, int):
            return function(a, b)
        neutral = 0 if function is operator.add else 1
        if b == neutral:
            return a
        if a == neutral and function is not operator.floordiv:
            return b
        return self.graph.call_function(function, (a, b))

    def batch(self, symbol: Symbol) -> Size:
        """A free size, read off a value that has it as an axis, or as a factor of one."""
        if symbol in self._free:
            return self._free[symbol]
        axes = [
            (result, axis, size / Dim.of(symbol))
            for value, result in self.values.items()
            for axis, size in enumerate(self.types[value].shape)
            if symbol in size.symbols and isinstance(result, fx.Node)
        ]
        closed = [a for a in axes if not any(s.free for s in a[2].symbols)]
        if not closed:
            return self.outside(symbol)
        result, axis, rest = min(closed, key=lambda a: a[2] != 1)
        size = self.graph.call_method("size", (result, axis))
        found = self.arithmetic(operator.floordiv, size, self.known(rest))
        assert isinstance(found, fx.Node)
        self._free[symbol] = found
        return found

    def outside(self, symbol: Symbol) -> Size:
        """A free size that no value of the level has."""
        raise SpaceError(error("SP605", f"no tensor at hand has an axis of {symbol.name}"))

    # Weights.

    def read(self, node: Node, role: str, entry: tuple[int, int] | None = None) -> fx.Node:
        """What a node reads of a parameter; `entry` (k, n): the k-th of n equal parts of axis 0."""
        tensor, axes = self.stored(node, role)
        lists = [runs(axis) for axis in axes]
        picked = False
        if entry is not None:
            lists[0], picked = _entry(axes[0], *entry)
        for axis in reversed(range(len(lists))):
            if len(lists[axis]) > 1:
                sizes = self._extents(node, role, axis, lists[axis])
                tensor = self._factored(tensor, axis, sizes)
        index: list[Any] = []
        cut: list[Part | None] = []
        gathers: list[tuple[int, Gather | tuple[int, ...]]] = []
        merged: list[tuple[int, int]] = []
        position = 0
        for axis, found in enumerate(lists):
            index += [self._slice(run) for run in found] or [ALL]
            cut += found or [None]
            here = enumerate(found[1:] if picked and axis == 0 else found, position)
            gathers += ((i, run.gather) for i, run in here if run.gather is not None)
            left = max(len(found), 1) - (picked and axis == 0)
            if left > 1:
                merged.append((position, position + left - 1))
            position += left
        if picked and entry is not None:
            index[0] = entry[0]
        while index and index[-1] == ALL:
            index.pop()
        if index:
            tensor = self.before_slices(node, role, tensor, cut[: len(index)])
            tensor = self.graph.call_function(operator.getitem, (tensor, tuple(index)))
        for axis, gather in gathers:
            arguments = (tensor, axis, self.entry_table(node, gather))
            tensor = self.graph.call_function(torch.index_select, arguments)
        for first, last in reversed(merged):
            tensor = self.graph.call_method("flatten", (tensor, first, last))
        every = [run for found in lists for run in found]
        if not gathers and not all(run.whole for run in every[1 + picked :]):
            self.sliced.add(tensor)
        first = entry[0] if picked and entry is not None else None
        if index and not gathers and not _begins_even(every, first):
            self.odd.add(tensor)
        return tensor

    def before_slices(
        self, node: Node, role: str, tensor: fx.Node, cut: Sequence[Part | None]
    ) -> fx.Node:
        """A parameter that is sliced along its first axes, each as told: as it is."""
        return tensor

    def _factored(self, tensor: fx.Node, axis: int, sizes: tuple[Size, ...]) -> fx.Node:
        """An axis as one for each run, once for all who read it so."""
        key = (tensor, axis, sizes)
        if key not in self._unflattened:
            self._unflattened[key] = self.graph.call_method("unflatten", key)
        return self._unflattened[key]

    def _extents(self, node: Node, role: str, axis: int, found: Sequence[Part]) -> tuple[Size, ...]:
        """The sizes of the runs of an axis; PyTorch finds the only one that is not known."""
        unknown = [run for run in found if run.extent is None]
        return tuple(
            self.size(run.extent)
            if run.extent is not None
            else -1
            if len(unknown) == 1
            else self.arithmetic(
                operator.mul, self.extent(node, role, axis, run.factor), self.size(run.scale)
            )
            for run in found
        )

    def _slice(self, run: Part) -> slice:
        if run.whole or run.gather is not None:
            return ALL
        start = self.size(run.start)
        first = None if start == 0 else start
        if run.step == 1:
            return slice(first, self.size(run.start + run.length))
        return slice(first, self.size(run.start + (run.length - 1) * run.step + 1), run.step)


def _entry(parts: Sequence[Part], entry: int, count: int) -> tuple[tuple[Part, ...], bool]:
    """What is read of an axis where one of `count` entries is; whether an index takes it."""
    outer = parts[0]
    if len(parts) > 1 and outer.whole and outer.length == count:
        return (outer, *(runs(parts[1:]) or parts[-1:])), True
    if len(parts) > 1 or outer.step != 1 or outer.gather is not None:
        raise SpaceError(
            error("SP605", "the bias of a linear layer has other factors than its weight")
        )
    length = outer.length / count
    return (Part(outer.start + length * entry, length, 1, False, outer.extent),), False


def _begins_even(runs: Sequence[Part], entry: int | None) -> bool:
    """Whether surely an even number of stored elements stands before a slice; an `entry` takes the
    first run."""
    even = entry is None or entry % 2 == 0
    for run in runs if entry is None else runs[1:]:
        extent = run.scale if run.extent is None else run.extent  # a multiple of the scale
        even = (even or _even(extent)) and _even(run.start)
    return even


def _even(size: Dim) -> bool:
    """Whether a size is known to be even for every architecture."""
    known = content(size)
    return known is not None and known % 2 == 0


def _positive(dim: Dim, exponent: int) -> int:
    if exponent < 0:
        raise SpaceError(error("SP605", f"{dim} divides by a free size"))
    return exponent


def _closed(dim: Dim) -> Dim:
    if any(symbol.free for symbol in dim.symbols):
        raise SpaceError(error("SP605", f"{dim} is no product of free sizes"))
    return dim
