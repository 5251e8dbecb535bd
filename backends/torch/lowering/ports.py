"""Ports: what a lowered function takes beside its tensors.

weight  attn.qkv.weight       the whole stored tensor
size    192*heads             a number that differs from use to use
mask    rate of a drop path   one factor a sample, or None
table   clipped_index(14, 14) a constant
training                      whether the network trains
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from keyword import iskeyword
from typing import Literal

from spacelang.backends.torch.lowering.tables import TableKey, listed_key
from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.dim import Dim, Symbol, Value
from spacelang.ir.gather import gathered, sizes_of
from spacelang.ir.graph import Graph, Instance
from spacelang.ir.node import Call, Node
from spacelang.ir.param import Gather
from spacelang.ir.storage import bank_of

PortKind = Literal["weight", "size", "mask", "table", "training"]
ORDER: tuple[PortKind, ...] = ("weight", "size", "mask", "table", "training")


@dataclass(frozen=True)
class Extent:
    """How much is stored of a factor of a parameter."""

    param: str
    axis: int
    factor: int


@dataclass(frozen=True)
class Mask:
    """A drop path: its rate, and how long the axis is that it drops from."""

    rate: Dim
    samples: Dim

    def at(self, instance: Instance) -> Mask:
        return Mask(instance.absolute(self.rate), instance.absolute(self.samples))


@dataclass(frozen=True)
class Table:
    """An index table whose options may hold decisions."""

    op: str
    options: tuple[tuple[str, Dim | str], ...]

    def at(self, instance: Instance) -> Table:
        return Table(
            self.op,
            tuple(
                (name, instance.absolute(value) if isinstance(value, Dim) else value)
                for name, value in self.options
            ),
        )

    def known(self) -> TableKey | None:
        """The table, if no decision is in its options."""
        if any(isinstance(v, Dim) and v.symbols for _, v in self.options):
            return None
        return self.key(lambda dim: known(dim, {}))

    def key(self, evaluate: Callable[[Dim], float]) -> TableKey:
        return TableKey(
            self.op,
            tuple((n, evaluate(v) if isinstance(v, Dim) else v) for n, v in self.options),
        )


@dataclass(frozen=True)
class Entries:
    """The entries that a part of a parameter is read through."""

    gather: Gather

    def at(self, instance: Instance) -> Entries:
        arguments = tuple(map(instance.absolute, self.gather.arguments))
        length = instance.absolute(self.gather.length)
        return Entries(Gather(self.gather.table, arguments, length))

    def known(self) -> TableKey | None:
        """The table, if no decision is in it."""
        if any(size.symbols for size in sizes_of(self.gather)):
            return None
        return self.key(lambda dim: known(dim, {}))

    def key(self, evaluate: Callable[[Dim], float]) -> TableKey:
        return listed_key(gathered(self.gather, evaluate))


def table_of(node: Node) -> Table:
    """The index table that a node without operands is; lists are spread, `shape0`, `shape1`."""
    options: list[tuple[str, Dim | str]] = []
    for name, value in sorted(node.attributes.items()):
        items = value if isinstance(value, tuple) else (value,)
        names = (f"{name}{i}" for i in range(len(items))) if items is value else (name,)
        options += (
            (n, v if isinstance(v, Dim) else str(v)) for n, v in zip(names, items, strict=True)
        )
    return Table(node.op, tuple(options))


def known(dim: Dim, values: Mapping[str, Value]) -> int | float:
    """A size or number as Python has it."""
    value = dim.at(values)
    return int(value) if value == int(value) else float(value)


Item = str | Dim | Mask | Table | Entries | None
Used = tuple[str, tuple[Symbol, ...]]


@dataclass(frozen=True)
class Port:
    """An argument of a function.

    chain   the calls that lead from the function's block to the one in whose terms `item` is
    item    a parameter's path; a Dim, or the Extent of a factor; a Mask; a Table, or the Entries of
            a view; None for the mode
    """

    kind: PortKind
    item: str | Dim | Extent | Mask | Table | Entries | None
    chain: tuple[Call, ...] = ()

    def within(self, call: Call) -> Port:
        """The port of a called function as the caller has it."""
        return replace(self, chain=(call, *self.chain))

    def inside(self, instance: Instance, graph: Graph) -> Instance:
        """The use of a block in whose terms `item` is, where `instance` uses the function's."""
        for call in self.chain:
            instance = instance.enter(call, graph.blocks[call.block])
        return instance

    def used(self, instance: Instance, graph: Graph) -> Used:
        """The storage that a weight is, and by which decisions this use picks from its bank."""
        here = self.inside(instance, graph)
        assert isinstance(self.item, str)
        return here.param(self.item), bank_of(here, here.block.param[self.item])

    def at(self, instance: Instance, graph: Graph) -> Item:
        """What the port is in a use of the function's block: paths and decisions of the network."""
        instance = self.inside(instance, graph)
        match self.item:
            case str():
                return instance.param(self.item)
            case Dim():
                return instance.absolute(self.item)
            case Extent(param, axis, factor):
                path = instance.param(param)
                extents = graph.storages[path].extents[axis][factor]
                if len(set(extents)) > 1:
                    text = f"uses of {path} read other parts than each candidate's own"
                    raise SpaceError(error("SP605", text, graph.storages[path].param.span))
                return Dim.of(extents[0])
            case Mask() | Table() | Entries():
                return self.item.at(instance)
            case None:
                return None


def terms_of(block: Block, prefix: str = "") -> Instance:
    """A block as its own use: sizes and paths in the terms of the block, paths under a prefix."""
    return Instance(block, prefix, prefix, prefix, (), {s.name: s for s in block.sizes}, ())


def identifier(text: str) -> str:
    """A name for Python made of any text: `192*heads` becomes `n192_heads`."""
    name = re.sub(r"\W+", "_", text.replace("%", ""), flags=re.ASCII).strip("_")
    if not name or name[0].isdigit():
        name = f"n{name}"
    return name + "_" if iskeyword(name) else name
