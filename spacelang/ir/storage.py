"""Storage: what the supernet keeps for each parameter, the largest need of every use of it.

encoder[0].attn.qkv.weight   [[3, 4, 64], [256]]      # width is stored at 256: `width: store(256)`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.param import Param, View

if TYPE_CHECKING:
    from spacelang.ir.graph import Graph, Instance


@dataclass(frozen=True)
class Storage:
    """One stored tensor. `bank`: decisions of which every value has a tensor of its own."""

    path: str
    shape: tuple[tuple[int, ...], ...]
    param: Param
    bank: tuple[Symbol, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape as PyTorch sees it, factors merged."""
        return tuple(prod(axis) for axis in self.shape)

    @property
    def numel(self) -> int:
        return prod(self.sizes) * prod(len(s.values) for s in self.bank)


def largest(dim: Dim, stored: Mapping[str, int]) -> int:
    """The largest value of a size, where decisions in `stored` count as stored, not as chosen."""
    if not stored or not any(s.name in stored for s in dim.symbols):
        return int(dim.bounds()[1])
    symbols = sorted(dim.symbols, key=lambda s: s.name)
    values = [(stored[s.name],) if s.name in stored else s.points for s in symbols]
    names = [s.name for s in symbols]
    return int(max(dim.at(dict(zip(names, point, strict=True))) for point in product(*values)))


def storages(graph: Graph) -> dict[str, Storage]:
    """All storages by path, in the order in which the network first reads them."""
    found: dict[str, Storage] = {}
    memo: dict[Dim, int] = {}

    def extent(instance: Instance, dim: Dim) -> int:
        size = instance.absolute(dim)
        if size not in memo:
            memo[size] = largest(size, graph.stored)
        return memo[size]

    def keep(instance: Instance, view: View, param: Param) -> None:
        path = instance.param(param.path)
        shape = tuple(tuple(extent(instance, n) for n in axis) for axis in view.lengths)
        before = found.get(path)
        if before is not None:
            if [len(a) for a in before.shape] != [len(a) for a in shape]:
                raise SpaceError(
                    error("SP402", f"two shapes for {path}", param.span).also(before.param.span)
                )
            shape = tuple(
                tuple(max(m, n) for m, n in zip(a, b, strict=True))
                for a, b in zip(before.shape, shape, strict=True)
            )
        bank = tuple(
            s
            for name in param.bank
            if isinstance(s := instance.symbol(_named(instance, name)), Symbol)
        )
        found[path] = Storage(path, shape, param, bank)

    for place in graph.places():
        block = place.instance.block
        for view in place.node.params.values():
            keep(place.instance, view, block.param[view.param])
    return found


def _named(instance: Instance, name: str) -> Symbol:
    """The symbol of a block by its name."""
    block = instance.block
    for symbol in (*block.sizes, *(c.symbol for c in block.decisions)):
        if symbol.name == name:
            return symbol
    raise KeyError(name)
