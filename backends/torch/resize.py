"""Tables over a grid: weights made for one size of image or window, in a network of another.

    offsets      rows that `offset_index` picks: [heads, R * R] of distances, [(2w - 1)^2, heads]
    positions    a parameter that is added to the tokens of a grid: [1, skip + H * W, C]

Both are interpolated bicubically, corners not aligned, as EfficientViT, TinyViT, Swin and DeiT do
it; tokens without a place stay as they are. The grid that weights come from is taken to be square.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph, Place
from spacelang.ir.node import Node, Value
from spacelang.ir.uses import ROOT
from spacelang.passes.flow import Flow
from spacelang.passes.raster import Raster, squares, traced


@dataclass(frozen=True)
class Grid:
    """An axis of a tensor with a row for each cell of a grid, behind `skip` rows of their own."""

    axis: int
    height: int
    width: int
    skip: int = 0


def grids(graph: Graph) -> dict[str, Grid]:
    """The tables over a grid among the storages of a graph, by path."""
    flow = Flow(graph)
    found: dict[str, Grid] = {}
    for place in graph.places():
        for path, grid in (*_offsets(place, graph), *_positions(place, flow)):
            found.setdefault(path, grid)
    return found


def resized(tensor: Tensor, shape: tuple[int, ...], grid: Grid) -> Tensor | None:
    """A table of another grid in a shape of ours; None where it cannot be one of another grid."""
    before, after = list(tensor.shape), list(shape)
    rows = before.pop(grid.axis) - grid.skip if tensor.dim() == len(shape) else 0
    after.pop(grid.axis)
    side = isqrt(max(rows, 0))
    if before != after or side < 1 or side * side != rows or not tensor.is_floating_point():
        return None
    table = tensor.movedim(grid.axis, -1)
    own, cells = table[..., : grid.skip], table[..., grid.skip :]
    maps = cells.reshape(1, -1, side, side).to(torch.float32)
    size = (grid.height, grid.width)
    maps = F.interpolate(maps, size=size, mode="bicubic", align_corners=False)
    made = torch.cat([own, maps.to(tensor.dtype).reshape(*cells.shape[:-1], -1)], dim=-1)
    return made.movedim(-1, grid.axis)


def _offsets(place: Place, graph: Graph) -> Iterator[tuple[str, Grid]]:
    """A table of which `take` reads the rows of all offsets."""
    node, nodes = place.node, place.instance.block.all_by_id
    if node.op != "take":
        return
    table, index = (nodes[v.node] for v in node.operands)
    if index.op != "offset_index" or table.op != "parameter":
        return
    axis, h, w = (_known(place, n, key) for n, key in ((node, "axis"), (index, "h"), (index, "w")))
    path = _stored(place, table)
    storage = graph.storages[path]
    assert axis is not None
    if h is None or w is None:  # by decision: the largest is stored
        factors = storage.shape[axis % len(storage.sizes)]
        side = isqrt(storage.sizes[axis])
        h, w = factors if len(factors) == 2 else (side, side)
    elif index.attributes["kind"] != "absolute":
        h, w = 2 * h - 1, 2 * w - 1
    if h * w == storage.sizes[axis]:
        yield path, Grid(axis % len(storage.sizes), h, w)


def _stored(place: Place, table: Node) -> str:
    """The storage behind a parameter that is a value."""
    (view,) = table.params.values()
    return place.instance.param(view.param)


def _known(place: Place, node: Node, name: str) -> int | None:
    value = node.attributes[name]
    number = place.instance.absolute(value).constant if isinstance(value, Dim) else None
    return None if number is None else int(number)


def _positions(place: Place, flow: Flow) -> Iterator[tuple[str, Grid]]:
    """A parameter that is added to tokens of a grid."""
    node, instance = place.node, place.instance
    if node.op != "add" or len(node.operands) != 2:
        return
    name = ROOT if instance.block is flow.graph.root else instance.block.name
    for value, other in (node.operands, node.operands[::-1]):
        table = instance.block.all_by_id[value.node]
        if table.op != "parameter":
            continue
        path = _stored(place, table)
        sizes = flow.graph.storages[path].sizes
        for axis, rows in enumerate(sizes):
            raster = _raster(flow, (name, other), axis, rows) if rows > 1 else None
            if raster is not None:
                height, width = int(raster.height.at({})), int(raster.width.at({}))
                yield path, Grid(axis, height, width, raster.skip)


def _raster(flow: Flow, at: tuple[str, Value], axis: int, rows: int) -> Raster | None:
    """The grid that an axis comes from; of several one that has so many tokens."""
    if axis >= flow.type(at).rank - 1:  # channels
        return None
    fit = [r for r in traced(flow, at, axis) if r.tokens == rows]
    return next(iter(fit or squares(Dim.of(rows), (0, 1, 2))), None)
