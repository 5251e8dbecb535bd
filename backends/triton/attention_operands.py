"""Operands of `attention`, what they mean with N x N logits, and which the kernels can take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spacelang.backends.triton.launch import refusal, wide

INDEXES = frozenset({torch.int8, torch.int16, torch.int32, torch.int64})
WIDEST = 128  # of a head
COLUMNS = 512  # of all tables of a term together


@dataclass(frozen=True, slots=True)
class Operands:
    """What the operator takes; a term that is not there has R = 0, regions none have W = 0.

    Tables but the first are [H or 1, R, C, D or V], their indexes [R, N, N].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    table: Tensor  # [H or 1, R, C], added as it stands
    table_index: Tensor
    key_table: Tensor  # whose product with a query is added, times the scale
    row_index: Tensor
    query_table: Tensor  # whose product with a key is added, times the scale
    column_index: Tensor
    value_table: Tensor
    mass_index: Tensor
    regions: Tensor  # [W, N]
    kept: bool  # whether masses are given: the gradient of `value_table` needs them

    @property
    def rows(self) -> Tensor:
        """Each query with each row of `key_table`, scaled: [B, H, N, R, C]."""
        return looked_up(self.q, self.scale * self.key_table)

    @property
    def columns(self) -> Tensor:
        """Each key with each row of `query_table`, scaled."""
        return looked_up(self.k, self.scale * self.query_table)


def looked_up(x: Tensor, tables: Tensor) -> Tensor:
    """Each row of x [B, H, N, D] with each of tables [H or 1, R, C, D]: [B, H, N, R, C].

    A product a head, of rows as they lie: heads of one projection are not copied.
    """
    batch, heads, n, width = x.shape
    rows = x.transpose(0, 1).reshape(heads, batch * n, width)
    columns = tables.to(x.dtype).flatten(1, 2).transpose(1, 2).expand(heads, -1, -1)
    found = rows @ columns
    return found.view(heads, batch, n, *tables.shape[1:3]).transpose(0, 1)


def weighed(masses: Tensor, tables: Tensor) -> Tensor:
    """The sum of tables [H or 1, R, C, V] by masses [B, H, N, R, C]: [B, H, N, V]."""
    tables = tables.to(masses.dtype).flatten(1, 2)
    return masses.flatten(3) @ (tables[0] if len(tables) == 1 else tables)


def chosen(values: Tensor, index: Tensor) -> Tensor:
    """Of values [.., N or 1, C] each row's entries at index [N, N]; 0 for one there is not."""
    index = index.long()
    there = (index >= 0) & (index < values.shape[-1])
    rows = values.expand(*values.shape[:-2], len(index), -1)
    found = rows.gather(-1, index.where(there, 0).expand(*rows.shape[:-2], -1, -1))
    return found.where(there, 0)


def collected(p: Tensor, index: Tensor, count: int) -> Tensor:
    """Of weights [B, H, N, N] the sum of each row where its index is 0 to `count` - 1."""
    index = index.long()
    there = (index >= 0) & (index < count)
    at = index.where(there, 0).expand(p.shape)
    return p.new_zeros(*p.shape[:3], count).scatter_add(3, at, p.where(there, 0))


def reference(x: Operands) -> tuple[Tensor, Tensor, Tensor]:
    """The same with N x N logits: output, logarithm of each row's sum, masses [B, H, N, R, C]."""
    batch, rows, columns = len(x.q), x.rows, x.columns
    s = x.scale * wide(x.q) @ wide(x.k).transpose(2, 3)
    for r, index in enumerate(x.table_index):
        s = s + chosen(wide(x.table)[:, r, None], index)
    for r, index in enumerate(x.row_index):
        s = s + chosen(wide(rows[:, :, :, r]), index)
    for r, index in enumerate(x.column_index):
        s = s + chosen(wide(columns[:, :, :, r]), index.t()).transpose(2, 3)
    if len(x.regions):
        apart = x.regions[:, None, :, None] != x.regions[:, None, None, :]
        s = s - 100.0 * apart.repeat(batch // len(x.regions), 1, 1, 1)
    p = s.softmax(3)
    out = p @ wide(x.v)
    mass = out.new_empty(*out.shape[:3], *x.value_table.shape[1:3])
    if len(x.mass_index):
        masses = [collected(p, index, x.value_table.shape[2]) for index in x.mass_index]
        mass = torch.stack(masses, 3)
        out = out + weighed(mass, wide(x.value_table))
    mass = mass if x.kept else mass[:, :, :0]
    return out.to(x.v.dtype), s.logsumexp(3), mass.to(x.v.dtype)


def unindexed(indexes: Sequence[Tensor], counts: Sequence[int], n: int) -> str:
    """Why no kernel can take index tables of terms of so many tables each; empty if one can."""
    for index, count in zip(indexes, counts, strict=True):
        if index.shape != (count, n, n):
            return "it takes an index [R, N, N] for the R tables of a term"
        if index.dtype not in INDEXES or index.numel() >= 2**31:
            return f"no kernel takes an index of {index.numel()} {index.dtype}"
    return ""


def counted(index: Tensor) -> Tensor:
    """An index as kernels read it, in at most 32 bits: what is out of range stays so."""
    index = index.clamp(-1, 2**31 - 1).int() if index.dtype == torch.int64 else index
    return index.contiguous()


def unwindowed(regions: Tensor, batch: int, n: int) -> str:
    """Why no kernel can take the regions of windows; empty if one can."""
    if regions.ndim != 2 or regions.shape[1] != n or batch % max(1, len(regions)):
        return "it takes regions [W, N], W dividing the batch"
    return "" if regions.dtype in INDEXES else f"no kernel takes regions as {regions.dtype}"


def unable(x: Operands) -> str:
    """Why the kernels cannot take these operands; empty if they can."""
    if x.q.ndim != 4 or x.k.shape != x.q.shape or x.v.ndim != 4 or x.v.shape[:3] != x.q.shape[:3]:
        return "it takes queries and keys [B, H, N, D] and values [B, H, N, V]"
    batch, heads, n, width = x.q.shape
    if not 1 <= width <= WIDEST or not 1 <= x.v.shape[3] <= WIDEST:
        return f"a head is not 1 to {WIDEST} wide"
    if x.table.ndim != 3 or len(x.table) not in (1, heads):
        return "it takes offsets [H or 1, R, C]"
    tables = (x.key_table, x.query_table, x.value_table)
    for part, wanted in zip(tables, (width, width, x.v.shape[3]), strict=True):
        if part.ndim != 4 or len(part) not in (1, heads) or part.shape[3] != wanted:
            return "it takes tables [H or 1, R, C, D] of a term, and [H or 1, R, C, V] on values"
    indexes = (x.table_index, x.row_index, x.column_index, x.mass_index)
    counts = (x.table.shape[1], *(part.shape[1] for part in tables))
    if reason := unindexed(indexes, counts, n):
        return reason
    if max(part.shape[1:3].numel() for part in tables) > COLUMNS:
        return f"a term's tables have more than {COLUMNS} columns"
    if reason := unwindowed(x.regions, batch, n):
        return reason
    operands = (x.q, x.k, x.v)
    if len({part.dtype for part in operands}) > 1:
        return "its operands are of different types"
    if n * max(part.stride(2) for part in operands) >= 2**31:
        return "the tokens of a head lie too far apart"
    if any(part.device != x.q.device for part in (*indexes, x.regions)):
        return "its operands are on different devices"
    return refusal(*operands, x.table, *tables)
