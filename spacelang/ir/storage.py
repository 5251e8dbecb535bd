"""Storage: what the supernet keeps for each parameter, the largest need of every use of it.

encoder[0].attn.qkv.weight   [[3, 4, 64], [256]]      # width is stored at 256: `width: store(256)`
head.weight                  [[10], [8]], [[10], [16]]    # `width: separate`: a tensor a candidate
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from spacelang.diagnostics import Diagnostic, SpaceError, error
from spacelang.ir.dim import Dim, Symbol, Value
from spacelang.ir.facts import count, grows, points
from spacelang.ir.param import Param, View

if TYPE_CHECKING:
    from spacelang.ir.block import Block
    from spacelang.ir.graph import Graph, Instance
    from spacelang.ir.node import Node

Shape = tuple[tuple[int, ...], ...]
Extents = tuple[int, ...]
"""How much is stored of a factor: in each tensor of a bank, or one number for all."""
TENSORS = 65_536
"""How many tensors a bank has at most."""
TRIED = 65_536
"""How many values of a size are tried at most where a decision counts as stored."""
BITS = 63
"""How many bits count the elements of a parameter."""


@dataclass(frozen=True, init=False)
class Storage:
    """What is stored under a path: a tensor, or a bank with one for each value of some decisions.

    extents  of every factor of each axis
    bank     the decisions by which the first use in the network picks; other uses pick by theirs
    """

    path: str
    extents: tuple[tuple[Extents, ...], ...]
    param: Param
    bank: tuple[Symbol, ...] = ()

    def __init__(
        self,
        path: str,
        extents: tuple[tuple[Extents, ...], ...],
        param: Param,
        bank: tuple[Symbol, ...] = (),
    ) -> None:
        here = self.__dict__  # by the thousand: three times as fast as what dataclasses write
        here["path"], here["extents"], here["param"], here["bank"] = path, extents, param, bank

    @cached_property
    def tensors(self) -> tuple[Shape, ...]:
        """The shape of each stored tensor, factor by factor; the bank's last decision runs
        fastest."""
        count = prod(len(s.values) for s in self.bank)
        return tuple(
            tuple(tuple(e[i if len(e) > 1 else 0] for e in axis) for axis in self.extents)
            for i in range(count)
        )

    @cached_property
    def shape(self) -> Shape:
        """The largest extent of each factor."""
        return tuple(tuple(max(e) for e in axis) for axis in self.extents)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The largest shape as PyTorch sees it, factors merged."""
        return merged(self.shape)

    @cached_property
    def numel(self) -> int:
        """Elements of all its tensors."""
        return sum(prod(merged(shape)) for shape in self.tensors)


def merged(shape: Shape) -> tuple[int, ...]:
    """A shape with the factors of each axis multiplied."""
    return tuple(prod(axis) for axis in shape)


def bank_position(bank: Sequence[Symbol], values: Mapping[str, Value]) -> int:
    """Which tensor of a bank some decisions read."""
    position = 0
    for symbol in bank:
        position = position * len(symbol.values) + symbol.values.index(values[symbol.name])
    return position


def picks(bank: Sequence[Symbol], position: int) -> dict[str, Value]:
    """The values of the decisions of a bank that lead to a tensor; undoes `bank_position`."""
    found: dict[str, Value] = {}
    for symbol in reversed(bank):
        position, index = divmod(position, len(symbol.values))
        found[symbol.name] = symbol.values[index]
    return found


def bank_of(instance: Instance, param: Param) -> tuple[Symbol, ...]:
    """The decisions by which a use picks from the bank of a parameter."""
    if not param.bank:
        return ()
    block = instance.block
    known = {s.name: s for s in (*block.sizes, *(c.symbol for c in block.decisions))}
    found: dict[Symbol, None] = {}
    for name in param.bank:
        given = instance.symbol(known[name])
        picks = (given,) if isinstance(given, Symbol) else sorted(given.symbols, key=str)
        found.update(dict.fromkeys(s for s in picks if len(s.values) > 1))
    return tuple(found)


def check_bank(path: str, param: Param, bank: Sequence[Symbol]) -> None:
    """SP507 for a bank of too many tensors."""
    many = prod(len(s.values) for s in bank)
    if many > TENSORS:
        text = f"{path} would be {many:,} tensors, more than {TENSORS:,}"
        found = error("SP507", text, param.span)
        raise SpaceError(found.note(f"one for each value of {', '.join(s.name for s in bank)}"))


class Unstorable(SpaceError):
    """A size that cannot be worked out where a decision is stored at more than its candidates."""

    def __init__(self, diagnostic: Diagnostic, decision: str) -> None:
        super().__init__(diagnostic)
        self.decision = decision


def largest(dim: Dim, stored: Mapping[str, int]) -> int:
    """The largest value of a size, and where decisions in `stored` count as stored, if that is
    larger: `width % 3` may be less.

    Unstorable where it has no value there (SP302), or too many to be tried (SP507).
    """
    chosen = int(dim.bounds()[1])
    kept = {s.name: stored[s.name] for s in dim.symbols if s.name in stored}
    if not kept:
        return chosen
    where = " and ".join(f"{name} is stored at {kept[name]}" for name in sorted(kept))
    try:
        return max(chosen, int(_most(dim, kept)))
    except ArithmeticError as failed:
        found = error("SP302", f"{dim} has no value where {where}").note(str(failed))
        raise Unstorable(found, min(kept)) from failed
    except _TooMany as failed:
        found = error("SP507", f"{dim} has too many values where {where}")
        raise Unstorable(found.note(f"{TRIED:,} are tried"), min(kept)) from failed


class _TooMany(Exception):
    """More values than are tried."""


def _most(dim: Dim, kept: Mapping[str, int]) -> float | Fraction:
    """The largest value of a size where some decisions have a value, which need be no candidate.

    Of a sum over too many decisions the sum of what its summands reach, which is no less.
    """
    others = [s for s in dim.symbols if s.name not in kept]
    tried = count(others)
    if tried is not None and tried <= TRIED:
        return max(dim.at({**point, **kept}) for point in points(others))
    if grows(dim) and min(kept.values()) >= 0:
        return dim.at({**{s.name: s.points[0] for s in others}, **kept})
    if len(dim.terms) == 1:
        raise _TooMany
    return sum(Fraction(_most(Dim((term,)), kept)) for term in dim.terms)


def storages(graph: Graph) -> dict[str, Storage]:
    """All storages by path, in the order in which the network first reads them.

    SP402 where uses of one storage have other axes or banks, SP507 for a bank too large, SP103 for
    more elements than 63 bits count.
    """
    found: dict[str, Storage] = {}
    sizer = Sizer(graph.stored)
    for instance, _, (view, param) in graph.nodes_of(_reads):
        here = sizer.storage(instance, view, param)
        before = found.get(here.path)
        if before is not None and (before.extents != here.extents or before.bank or here.bank):
            here = _joined(before, here)
        found[here.path] = here
    alike: dict[object, Storage] = {}
    for storage in found.values():
        alike.setdefault((storage.extents, storage.bank), storage)
    for storage in alike.values():
        if storage.numel.bit_length() > BITS:
            many = (
                f"{storage.path} would have {storage.numel:,} elements, more than {BITS} bits count"
            )
            raise SpaceError(error("SP103", many, storage.param.span))
    return found


def below(graph: Graph, place: str) -> Mapping[str, Storage]:
    """What a graph stores below a path, by the rest of it; the index is made once for a graph."""
    return graph.memo("stored below", _below).get(place, {})


def _below(graph: Graph) -> dict[str, dict[str, Storage]]:
    found: dict[str, dict[str, Storage]] = {}
    for path, storage in graph.storages.items():
        end = path.find(".")
        while end >= 0:
            found.setdefault(path[:end], {})[path[end + 1 :]] = storage
            end = path.find(".", end + 1)
    return found


def _reads(block: Block, node: Node) -> Iterator[tuple[View, Param]]:
    """The views of a node, with the parameters that they read."""
    yield from ((view, block.param[view.param]) for view in node.params.values())


class Sizer:
    """Extents of factors, each size worked out once."""

    def __init__(self, stored: Mapping[str, int]) -> None:
        self.stored = stored
        self._known: dict[tuple[Dim, tuple[Symbol, ...]], Extents] = {}
        self._fixed: dict[Shape, tuple[tuple[Extents, ...], ...]] = {}

    def storage(self, instance: Instance, view: View, param: Param) -> Storage:
        """What one use needs: room for what is declared, and for the longest part it reads."""
        if view.known is not None and view.known == param.known and not param.bank:
            extents = self._fixed.get(view.known)
            if extents is None:
                extents = tuple([tuple([(n,) for n in axis]) for axis in view.known])
                self._fixed[view.known] = extents
            return Storage(instance.param(param.path), extents, param)
        path, bank = instance.param(param.path), bank_of(instance, param)
        check_bank(path, param, bank)

        def need(declared: Dim, length: Dim) -> Extents:
            extents = self.extents(instance.absolute(length), bank)
            if declared == length:
                return extents
            return _larger(extents, self.extents(instance.absolute(declared), bank))

        extents = tuple(
            tuple(need(m, n) for m, n in zip(a, b, strict=True))
            for a, b in zip(param.shape, view.lengths, strict=True)
        )
        return Storage(path, extents, param, bank)

    def extents(self, size: Dim, bank: tuple[Symbol, ...]) -> Extents:
        """The largest value of a size for each value of the decisions of a bank."""
        key = size, bank
        if key not in self._known:
            self._known[key] = self._extents(size, bank)
        return self._known[key]

    def _extents(self, size: Dim, bank: tuple[Symbol, ...]) -> Extents:
        inside = {s.name for s in size.symbols}
        mine = [s.name for s in bank if s.name in inside]
        if not mine:
            return (largest(size, self.stored),)
        known: dict[tuple[Value, ...], int] = {}
        found: list[int] = []
        for values in product(*(s.values for s in bank)):
            point = {s.name: v for s, v in zip(bank, values, strict=True) if s.name in inside}
            combination = tuple(point.values())
            if combination not in known:
                closed = len(mine) == len(inside)
                n = size.at(point) if closed else largest(size.substitute(point), self.stored)
                known[combination] = max(0, int(n))
            found.append(known[combination])
        return tuple(found)


def _larger(a: Extents, b: Extents) -> Extents:
    """The larger of two extents in each tensor."""
    count = max(len(a), len(b))
    return tuple(
        max(m, n) for m, n in zip(a * (count // len(a)), b * (count // len(b)), strict=True)
    )


def _joined(a: Storage, b: Storage) -> Storage:
    """The storage that two uses share."""
    axes = [[len(axis) for axis in s.extents] for s in (a, b)]
    banks = [[symbol.values for symbol in s.bank] for s in (a, b)]
    if axes[0] != axes[1] or banks[0] != banks[1]:
        what = "shapes" if axes[0] != axes[1] else "banks"
        found = error("SP402", f"two {what} for {a.path}", b.param.span)
        raise SpaceError(found.also(a.param.span))
    extents = tuple(
        tuple(_larger(m, n) for m, n in zip(p, q, strict=True))
        for p, q in zip(a.extents, b.extents, strict=True)
    )
    return Storage(a.path, extents, b.param, a.bank)
