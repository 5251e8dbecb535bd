"""How uses read storages: what is read whole, what merges into one slice, what has to be copied.

    [3, heads, 64] of [3, 4, 64]    runs: 3, heads*64 of 256     two runs: no slice of the axis
        [heads, 64] of [4, 64]      runs: heads*64 of 256        one run: a slice, a view

An axis is stored as one, its factors multiplied. An inner run that is sliced would make merging
copy; a linear layer whose result is taken apart at once reads the outer factor entry by entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.dim import ONE, ZERO, Dim
from spacelang.ir.graph import Graph, Instance
from spacelang.ir.node import Node, Value
from spacelang.ir.param import Gather, Slice, View
from spacelang.ir.storage import Extents, Sizer, bank_of, largest

MOST = 4096  # points that are tried
THROUGH = frozenset({"batch_norm", "buffer"})
"""Ops that read a buffer through a table: they write it back, or never write."""
Key = tuple[str, int, str]  # block ("" for the root), node, role


@dataclass(frozen=True)
class Part:
    """What is read of a factor, or of a run of factors from `factor` on: `length` from `start`.

    whole    all that is stored, by every use of the block
    extent   how much is stored, None where that differs from use to use
    scale    the inner factors of a run: `start`, `length` and `extent` are multiples of it
    gather   by which table it is read, or through which entries: a copy; None for a slice
    """

    start: Dim
    length: Dim
    step: int
    whole: bool
    extent: Dim | None
    factor: int = 0
    scale: Dim = ONE
    gather: Gather | tuple[int, ...] | None = None

    def may_fill(self) -> bool:
        """Whether some candidate reads all that is stored, though others do not."""
        if self.whole or self.gather is not None or self.step != 1:
            return False
        stop = self.start + self.length
        if self.extent is None:
            return True
        symbols = sorted(stop.symbols | self.extent.symbols, key=lambda s: s.name)
        if prod(max(len(s.values), 1) for s in symbols) > MOST or not all(
            s.values for s in symbols
        ):
            return True
        names = [s.name for s in symbols]
        points = (dict(zip(names, p, strict=True)) for p in product(*(s.values for s in symbols)))
        return any(stop.at(point) == self.extent.at(point) for point in points)


Axes = tuple[tuple[Part, ...], ...]


def runs(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts of an axis, those merged that one slice of the stored axis reads."""
    found: list[Part] = []
    for part in parts:
        if part.whole and part.extent == 1:
            continue
        last = found[-1] if found else None
        if last is None or not part.whole or last.step != 1 or last.gather is not None:
            found.append(part)
            continue
        inner = part.length
        found[-1] = replace(
            last,
            start=last.start * inner,
            length=last.length * inner,
            extent=None if last.extent is None else last.extent * inner,
            scale=last.scale * inner,
        )
    return tuple(found)


def is_view(axes: Axes) -> bool:
    """Whether slices alone read it."""
    gathers = any(part.gather is not None for axis in axes for part in axis)
    return not gathers and all(len(runs(axis)) <= 1 for axis in axes)


def entries(axes: Axes) -> int | None:
    """How many entries the outermost factor has, if each is a view but all together are none."""
    first = axes[0]
    if len(runs(first)) < 2 or not first[0].whole or first[0].length.constant is None:
        return None
    if not is_view((first[1:], *axes[1:])):
        return None
    return int(first[0].length.constant)


def block_key(instance: Instance, graph: Graph) -> str:
    return "" if instance.block is graph.root else instance.block.name


def layouts(graph: Graph) -> dict[Key, Axes]:
    """How each node of each block reads each parameter, as far as all uses of the block agree."""
    found: dict[Key, Axes] = {}
    sizer = Sizer(graph.stored)
    for place in graph.places():
        for role, view in place.node.params.items():
            key = (block_key(place.instance, graph), place.node.id, role)
            here = _axes(place.instance, place.node.op, view, graph, sizer)
            found[key] = _both(found[key], here) if key in found else here
    return found


def _axes(instance: Instance, op: str, view: View, graph: Graph, sizer: Sizer) -> Axes:
    param = instance.block.param[view.param]
    bank = bank_of(instance, param)
    picks = {symbol.name for symbol in bank}

    def read(given: Slice | Gather, stored: Extents, factor: int) -> Part:
        alike = Dim.of(stored[0]) if len(set(stored)) == 1 else None
        if isinstance(given, Gather):
            if param.role == "buffer" and op not in THROUGH:
                text = f"{param.path} is read through {given.table}: nothing could be written back"
                raise SpaceError(error("SP605", text, param.span))
            return Part(ZERO, given.length, 1, False, alike, factor, gather=given)
        length, start = instance.absolute(given.length), instance.absolute(given.start)
        own = sizer.extents(length, bank)
        whole = (
            start.constant == 0
            and given.step == 1
            and all(symbol.name in picks for symbol in length.symbols)
            and (own == stored or len({*own, *stored}) == 1)
        )
        extent = given.length if whole else alike
        return Part(given.start, given.length, given.step, whole, extent, factor)

    extents = graph.storages[instance.param(view.param)].extents
    return tuple(
        tuple(read(p, n, f) for f, (p, n) in enumerate(zip(parts, axis, strict=True)))
        for parts, axis in zip(view.index, extents, strict=True)
    )


def _both(a: Axes, b: Axes) -> Axes:
    """What holds for two uses of a node."""

    def join(p: Part, q: Part) -> Part:
        if p.whole and q.whole:
            return p
        return replace(p, whole=False, extent=p.extent if p.extent == q.extent else None)

    return tuple(
        tuple(join(p, q) for p, q in zip(ps, qs, strict=True)) for ps, qs in zip(a, b, strict=True)
    )


def splits(graph: Graph, found: Mapping[Key, Axes]) -> dict[tuple[str, int], int]:
    """Linear layers that are lowered to one product for each entry of their outermost factor.

    Those whose weight is a view entry by entry only, and whose readers all take the entries apart.
    """
    split: dict[tuple[str, int], int] = {}
    for key, block in [("", graph.root), *((b.name, b) for b in graph.blocks.values())]:
        for level in levels(block):
            for node in level.nodes:
                axes = found.get((key, node.id, "weight"))
                if node.op != "linear" or axes is None or not _taken_apart(level, node):
                    continue
                count = entries(axes)
                if count is not None:
                    split[key, node.id] = count
    return split


def levels(block: Block) -> Iterator[Block]:
    """A block's body and all its regions."""
    yield block
    for node in block.nodes:
        for region in node.regions:
            yield from levels(region)


def _taken_apart(level: Block, node: Node) -> bool:
    """Whether all that reads a linear layer takes its outermost factor apart, in its stretch."""
    value = Value(node.id)
    readers = level.readers.get(value, ())
    out = node.attributes["out"]
    if not readers or value in level.outputs or not isinstance(out, tuple):
        return False
    rank = node.types[0].rank
    for reader in readers:
        axis = reader.attributes.get("axis")
        if reader.op != "unstack" or not isinstance(axis, Dim):
            return False
        if int(axis.at({})) % rank != rank - len(out):
            return False
    ids = [n.id for n in level.nodes]
    between = level.nodes[ids.index(node.id) : max(ids.index(r.id) for r in readers)]
    return not any(n.call is not None or n.regions for n in between)


@dataclass(frozen=True)
class Copy:
    """A slice that has to be copied at each step, at most so many bytes."""

    param: str
    use: str
    bytes: int


def copies(graph: Graph) -> tuple[Copy, ...]:
    """All slices that are no views, in the order of the network."""
    found = layouts(graph)
    split = splits(graph, found)
    listed: list[Copy] = []
    for place in graph.places():
        name, node = block_key(place.instance, graph), place.node.id
        for role, view in place.node.params.items():
            axes = found[name, node, role]
            if is_view(axes) or ((name, node) in split and entries(axes) is not None):
                continue
            sizes = (place.instance.absolute(p.length) for axis in view.index for p in axis)
            numel = prod(largest(size, graph.stored) for size in sizes)
            listed.append(Copy(place.instance.param(view.param), place.path, 4 * numel))
    return tuple(listed)
