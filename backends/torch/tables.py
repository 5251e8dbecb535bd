"""Index tables: constants computed from their sizes, once for each set of them.

    key = TableKey("clipped_index", (("axis", 0), ("h", 14), ("reach", 14), ("skip", 1), ("w", 14)))
    entries = table(key)                                           # int64 [197, 197]

Rows and columns are the positions of an h by w grid, row by row, after `skip` tokens of no place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from spacelang.diagnostics import SpaceError, error


@dataclass(frozen=True)
class TableKey:
    """An op without operands and its options, sorted by name."""

    op: str
    options: tuple[tuple[str, float | int | str], ...]


@dataclass(frozen=True)
class Grid:
    """Offsets between all positions: row and column of the first less those of the second."""

    h: int
    w: int
    skip: int
    rows: Tensor
    columns: Tensor

    @staticmethod
    def of(options: Mapping[str, float | int | str]) -> Grid:
        h, w = int(options["h"]), int(options["w"])
        row = torch.arange(h).repeat_interleave(w)
        column = torch.arange(w).repeat(h)
        rows = row.unsqueeze(1) - row.unsqueeze(0)
        columns = column.unsqueeze(1) - column.unsqueeze(0)
        return Grid(h, w, int(options.get("skip", 0)), rows, columns)

    def with_skip(self, entries: Tensor, other: int) -> Tensor:
        """The table with rows and columns of `other` in front, for tokens of no place."""
        return torch.nn.functional.pad(entries, (self.skip, 0, self.skip, 0), value=other)


Options = Mapping[str, float | int | str]


def _offset_index(options: Options) -> Tensor:
    """Swin: every signed offset an entry, row by row; `absolute` (LeViT): by distance."""
    grid = Grid.of(options)
    if options["kind"] == "absolute":
        return grid.rows.abs() * grid.w + grid.columns.abs()
    return (grid.rows + grid.h - 1) * (2 * grid.w - 1) + grid.columns + grid.w - 1


def _clipped_index(options: Options) -> Tensor:
    """AutoFormer: the offset along one axis, clipped at `reach`; entry 0 is that of skipped tokens."""
    grid, reach = Grid.of(options), int(options["reach"])
    offset = -grid.columns if options["axis"] else -grid.rows
    return grid.with_skip(offset.clamp(-reach, reach) + reach + 1, 0)


def _bucket(distance: Tensor, ratio: float) -> Tensor:
    """iRPE, equation 18: exact up to `ratio`, then logarithmic, at most 2 ratio; gamma is 8 ratio."""
    x = distance.to(torch.float64)
    near = x.abs() <= ratio
    far = ratio + (x.abs().clamp(min=ratio) / ratio).log() / math.log(8) * ratio
    capped = far.round().clamp(max=2 * ratio) * x.sign()
    return torch.where(near, x.round(), capped.trunc()).to(torch.int64)


def _bucket_index(options: Options) -> Tensor:
    """iRPE's four maps from offset to bucket; `cross` has a table for rows and one for columns."""
    grid, ratio, method = Grid.of(options), float(options["ratio"]), options["method"]
    reach = int(2 * ratio)
    side = 2 * reach + 1
    squared = grid.rows**2 + grid.columns**2
    found = {
        "euclidean": lambda: _bucket(squared.to(torch.float64).sqrt().round(), ratio) + reach,
        "quantised": lambda: _bucket(squared, ratio) + reach,
        "cross_rows": lambda: _bucket(grid.rows, ratio) + reach,
        "cross_cols": lambda: _bucket(grid.columns, ratio) + reach,
        "product": lambda: (_bucket(grid.rows, ratio) + reach) * side
        + _bucket(grid.columns, ratio)
        + reach,
    }.get(str(method))
    if found is None:
        raise SpaceError(error("SP605", f"bucket_index has no method {method}"))
    return grid.with_skip(found(), side * side if method == "product" else side)


def _shift_mask(options: Options) -> Tensor:
    """Swin: -100 between positions of a window that only a cyclic shift made neighbours."""
    h, w, window, shift = (int(options[n]) for n in ("h", "w", "window", "shift"))

    def part(n: int) -> Tensor:
        place = torch.arange(n)
        return (place >= n - window).long() + (place >= n - shift).long()

    parts = part(h).unsqueeze(1) * 3 + part(w)
    windows = parts.reshape(h // window, window, w // window, window).transpose(1, 2)
    flat = windows.reshape(-1, 1, window * window)
    return torch.where(flat.unsqueeze(2) == flat.unsqueeze(3), 0.0, -100.0)


TABLES: dict[str, Callable[[Options], Tensor]] = {
    "offset_index": _offset_index,
    "clipped_index": _clipped_index,
    "bucket_index": _bucket_index,
    "shift_mask": _shift_mask,
}


def table(key: TableKey) -> Tensor:
    """The entries of a table."""
    return TABLES[key.op](dict(key.options))
