"""Attention with relative positions: iRPE, AutoFormer, and offsets of Swin, TinyViT, EfficientViT.

    out = softmax(scale q k^T + terms) v + value term          q, k [B, H, N, D], v [B, H, N, V]

    offsets[h, index[i, j]]                         learned offsets; iRPE's bias mode
    scale q_i . on_keys[h, index[i, j]]             iRPE on keys; AutoFormer's keys
    scale k_j . on_queries[h, index[i, j]]          iRPE on queries, whose id(j, i) is transposed
    -100 where regions[w, i] != regions[w, j]       windows that are shifted; image b is w = b % W
    sum_j p_ij on_values[h, index[i, j]]            iRPE and AutoFormer on values

A term is tables [H or 1, R, C, ...] and an index [R, N, N]; its R lookups are added (the rows and
columns of AutoFormer and of iRPE's cross). As an index takes C values, q_i . T[index[i, j]] is
entry index[i, j] of row i of q T^T, [N, C], and sum_j p_ij T[index[i, j]] is m_i T with the masses
m_ic = sum of p_ij over index[i, j] = c. Those two are small products; the lookups, the softmax and
the masses are the kernels, and neither N x N logits nor N x N x D tables exist.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from torch import Tensor

from spacelang.backends.triton import attention_kernels as kernels
from spacelang.backends.triton.launch import launches, operator, refusal, wide

NAME = "attention"
Term = tuple[Tensor, Tensor]  # tables [H or 1, R, C, ...], index [R, N, N]
DIFFERENTIABLE = ("q", "k", "v", "table", "rows", "columns")
INDEXES = frozenset({torch.int16, torch.int32, torch.int64})
WIDEST = 128  # of a head
COLUMNS = 512  # of all tables of a term together
PROGRAMS = 256  # about as many of offsets_kernel
TILE = {torch.float32: 16, torch.bfloat16: 32, torch.float16: 32}  # side of a tile of logits
SCATTERED = 1024  # positions a step of scatter_kernel


@dataclass(frozen=True, slots=True)
class Operands:
    """What the operator takes; a term that is not there has R = 0, regions none have W = 0."""

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    table: Tensor  # [H or 1, R, C], added as it stands
    table_index: Tensor  # [R, N, N], as all that follow
    rows: Tensor  # [B, H, N, R, C], of queries
    row_index: Tensor
    columns: Tensor  # [B, H, N, R, C], of keys
    column_index: Tensor
    mass_index: Tensor
    buckets: int  # C of the masses
    regions: Tensor  # [W, N]


def reference(x: Operands) -> tuple[Tensor, Tensor, Tensor]:
    """The same with N x N logits: output, logarithm of each row's sum, masses [B, H, N, R, C]."""
    batch, heads, n, _ = x.q.shape
    everywhere = (batch, heads, n, n)
    s = x.scale * wide(x.q) @ wide(x.k).transpose(2, 3)
    for r, index in enumerate(x.table_index.long()):
        s = s + wide(x.table)[:, r][:, index]
    for r, index in enumerate(x.row_index.long()):
        s = s + wide(x.rows[:, :, :, r]).gather(3, index.expand(everywhere))
    for r, index in enumerate(x.column_index.long()):
        found = wide(x.columns[:, :, :, r]).gather(3, index.t().expand(everywhere))
        s = s + found.transpose(2, 3)
    if len(x.regions):
        apart = x.regions[:, None, :, None] != x.regions[:, None, None, :]
        s = s - 100.0 * apart.repeat(batch // len(x.regions), 1, 1, 1)
    p = s.softmax(3)
    empty = p.new_zeros(batch, heads, n, x.buckets)
    masses = [empty.scatter_add(3, at.expand(everywhere), p) for at in x.mass_index.long()]
    mass = torch.stack(masses, 3) if masses else p.new_empty(batch, heads, n, 0, x.buckets)
    return (p @ wide(x.v)).to(x.v.dtype), s.logsumexp(3), mass.to(x.v.dtype)


def unable(x: Operands) -> str:
    """Why the kernels cannot take these operands; empty if they can."""
    if x.q.ndim != 4 or x.k.shape != x.q.shape or x.v.ndim != 4 or x.v.shape[:3] != x.q.shape[:3]:
        return "it takes queries and keys [B, H, N, D] and values [B, H, N, V]"
    batch, heads, n, width = x.q.shape
    if not 1 <= width <= WIDEST or not 1 <= x.v.shape[3] <= WIDEST:
        return f"a head is not 1 to {WIDEST} wide"
    if x.table.ndim != 3 or len(x.table) not in (1, heads):
        return "it takes offsets [H or 1, R, C]"
    if any(part.ndim != 5 or part.shape[:3] != x.q.shape[:3] for part in (x.rows, x.columns)):
        return "it takes terms of queries and of keys as [B, H, N, R, C]"
    indexes = (x.table_index, x.row_index, x.column_index, x.mass_index)
    counts = (x.table.shape[1], x.rows.shape[3], x.columns.shape[3], len(x.mass_index))
    for index, count in zip(indexes, counts, strict=True):
        if index.shape != (count, n, n):
            return "it takes an index [R, N, N] for the R tables of a term"
        if index.dtype not in INDEXES or index.numel() >= 2**31:
            return f"no kernel takes an index of {index.numel()} {index.dtype}"
    widths = (counts[1] * x.rows.shape[4], counts[2] * x.columns.shape[4], counts[3] * x.buckets)
    if max(widths) > COLUMNS:
        return f"a term's tables have more than {COLUMNS} columns"
    if x.regions.ndim != 2 or x.regions.shape[1] != n or batch % max(1, len(x.regions)):
        return "it takes regions [W, N], W dividing the batch"
    if x.regions.dtype not in INDEXES:
        return f"no kernel takes regions as {x.regions.dtype}"
    operands = (x.q, x.k, x.v, x.rows, x.columns)
    if len({part.dtype for part in operands}) > 1:
        return "its operands are of different types"
    if n * max(part.stride(2) for part in operands) >= 2**31:
        return "the tokens of a head lie too far apart"
    if any(part.device != x.q.device for part in (*indexes, x.regions)):
        return "its operands are on different devices"
    return refusal(*operands, x.table)


def options(kernel: str, dtype: torch.dtype, hip: bool) -> dict[str, int]:
    """Warps and stages with which registers suffice; warps of AMD are twice as wide."""
    warps = 4 if hip or (dtype == torch.float32 and kernel not in ("forward", "keys")) else 8
    return {"num_warps": warps, "num_stages": 2}


def lined(x: Tensor, width: int = 1) -> Tensor:
    """`x`, or a copy, whose rows of `width` last axes lie without gaps."""
    strides = [x.shape[axis + 1 :].numel() for axis in range(x.ndim)][-width:]
    wanted = zip(x.stride()[-width:], strides, x.shape[-width:], strict=True)
    return x if all(a == b or size == 1 for a, b, size in wanted) else x.contiguous()


def constants(x: Operands, strides: tuple[int, ...]) -> dict[str, int]:
    """What a variant of the kernels is made for: neither batch, nor heads, nor tokens."""
    wide = max(x.rows.shape[3:].numel(), x.columns.shape[3:].numel(), len(x.mass_index) * x.buckets)
    widths = (x.q.shape[3], x.v.shape[3])
    return {
        "BLOCK": TILE[x.q.dtype],
        "WIDTH": max(16, triton.next_power_of_2(widths[0])),
        "VALUE": max(16, triton.next_power_of_2(widths[1])),
        "BUCKETS": max(16, triton.next_power_of_2(wide)),
        "TABLES": len(x.table_index),
        "ROWS": len(x.row_index),
        "COLUMNS": len(x.column_index),
        "MASSES": len(x.mass_index),
        "MASKED": int(len(x.regions) > 0),
        "ALIGNED": 1 if any(step % 8 for step in (*strides, *widths)) else 8,
    }


def launched(x: Operands, out: Tensor, slopes: Tensor) -> dict[str, Any]:
    """What every kernel is launched with, by name."""
    found: dict[str, Any] = {name: lined(getattr(x, name)) for name in ("q", "k", "v")}
    found |= {name: lined(getattr(x, name), 2) for name in ("rows", "columns")}
    found |= {name: getattr(x, name).contiguous() for name in kernels.POINTERS}
    sizes = (
        *x.q.shape[1:], x.v.shape[3], x.table.shape[2], x.rows.shape[4], x.columns.shape[4],
        x.buckets, max(1, len(x.regions)),
    )  # fmt: skip
    lines = [part.stride()[:3] for part in (found["q"], found["k"], found["v"], out, slopes)]
    strides = sum(lines, ())
    by_head = 0 if len(x.table) == 1 else found["table"].stride(0)
    terms = (by_head, *found["rows"].stride()[:3], *found["columns"].stride()[:3])
    found |= dict(zip(kernels.INTEGERS, (*sizes, *strides, *terms), strict=True))
    return found | {"scale": x.scale} | constants(x, strides)


def _launch(kernel: str, grid: tuple[int, ...], common: dict[str, Any], **own: Any) -> None:
    """One kernel, with what all take and what it alone does."""
    chosen = options(kernel, common["q"].dtype, torch.version.hip is not None)
    kernels.KERNELS[kernel][grid](**common, **own, **chosen)


@operator("attention", NAME)
def _op(
    q: Tensor, k: Tensor, v: Tensor, scale: float, table: Tensor, table_index: Tensor, rows: Tensor,
    row_index: Tensor, columns: Tensor, column_index: Tensor, mass_index: Tensor, buckets: int,
    regions: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Output [B, H, N, V], logarithm of each row's sum [B, H, N], masses [B, H, N, R, C]."""
    x = Operands(
        q, k, v, scale, table, table_index, rows, row_index, columns, column_index, mass_index,
        buckets, regions,
    )  # fmt: skip
    out, lse, mass = _empty(x)
    if not launches(NAME, unable(x)):
        for found, value in zip((out, lse, mass), reference(x), strict=True):
            found.copy_(value)
    elif out.numel():
        common = launched(x, out, out)
        grid = (len(q) * q.shape[1], triton.cdiv(q.shape[2], common["BLOCK"]))
        _launch("forward", grid, common, out=out, lse=lse, mass=mass)
    return out, lse, mass


def _empty(x: Operands) -> tuple[Tensor, Tensor, Tensor]:
    """Results of the forward operator; heads of a token lie side by side, ready to be merged."""
    (batch, heads, n, _), kind, device = x.q.shape, x.v.dtype, x.q.device
    out = torch.empty(batch, n, heads, x.v.shape[3], dtype=kind, device=device).transpose(1, 2)
    lse = torch.empty(batch, heads, n, device=device, dtype=torch.float32)
    shape = (batch, heads, n, len(x.mass_index), x.buckets)
    return out, lse, torch.empty(shape, dtype=kind, device=device)


@operator("attention_backward", NAME)
def _backward_op(
    slopes: Tensor, mass_slopes: Tensor, out: Tensor, lse: Tensor, mass: Tensor,
    q: Tensor, k: Tensor, v: Tensor, scale: float, table: Tensor, table_index: Tensor, rows: Tensor,
    row_index: Tensor, columns: Tensor, column_index: Tensor, mass_index: Tensor, buckets: int,
    regions: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Gradients of q, k, v, table, rows and columns."""
    x = Operands(
        q, k, v, scale, table, table_index, rows, row_index, columns, column_index, mass_index,
        buckets, regions,
    )  # fmt: skip
    inputs = [getattr(x, name) for name in DIFFERENTIABLE]
    found = [torch.empty_like(part, memory_format=torch.contiguous_format) for part in inputs]
    if not launches(NAME, unable(x)):

        def again(*free: Tensor) -> tuple[Tensor, Tensor]:
            found, _, masses = reference(replace(x, **dict(zip(DIFFERENTIABLE, free, strict=True))))
            return found, masses

        _, pulled = torch.func.vjp(again, *inputs)
        return [part.contiguous() for part in pulled((slopes, mass_slopes))]
    if not out.numel():
        return [part.zero_() for part in found]
    slopes = lined(slopes)
    common = launched(x, out, slopes)
    common |= {"g": slopes, "mass_g": mass_slopes.contiguous(), "lse": lse}
    common["delta"] = torch.empty_like(lse)
    batch, heads, n, _ = q.shape
    tiles = triton.cdiv(n, common["BLOCK"])
    grid = (batch * heads, tiles)
    own = {"out": out, "mass": mass, "q_grad": found[0], "rows_grad": found[4]}
    _launch("queries", grid, common, **own)
    own = {"k_grad": found[1], "v_grad": found[2], "columns_grad": found[5]}
    _launch("keys", grid, common, **own)
    if len(table_index):
        found[3] = _table_gradient(x, common, tiles)
    return found


def _table_gradient(x: Operands, common: dict[str, Any], tiles: int) -> Tensor:
    """Gradients of logits summed over images in `splits` parts, and then by their index."""
    batch, heads, n, _ = x.q.shape
    splits = min(batch, max(1, PROGRAMS // (tiles * tiles * heads)))
    partial = torch.empty(splits, heads, n, n, device=x.q.device, dtype=torch.float32)
    own = {"partial": partial, "B": batch, "SPLITS": splits}
    _launch("offsets", (tiles * tiles, heads, splits), common, **own)
    return gathered_back(partial.sum(0), x.table, x.table_index)


def gathered_back(logits: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """The gradient of offsets from that of the logits of all images together, [H, N, N]."""
    heads, n, _ = logits.shape
    _, count, width = table.shape
    found = torch.empty(heads, count, width, device=logits.device, dtype=torch.float32)
    kernels.scatter_kernel[(count * width, heads)](
        logits, index.contiguous(), found, n, width, count, BLOCK=SCATTERED
    )
    return (found if len(table) == heads else found.sum(0, keepdim=True)).to(table.dtype)


@_op.register_fake
def _(*arguments):
    return _empty(Operands(*arguments))


@_backward_op.register_fake
def _(slopes, mass_slopes, out, lse, mass, *arguments):
    x = Operands(*arguments)
    inputs = [getattr(x, name) for name in DIFFERENTIABLE]
    return [torch.empty_like(part, memory_format=torch.contiguous_format) for part in inputs]


def _setup(ctx, inputs, output):
    x = Operands(*inputs)
    ctx.scale, ctx.buckets = x.scale, x.buckets
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*output, *(part for part in inputs if isinstance(part, Tensor)))


def _backward(ctx, slopes, _, mass_slopes):
    out, lse, mass, *kept = ctx.saved_tensors
    terms = (*kept[:3], ctx.scale, *kept[3:10], ctx.buckets, kept[10])
    q, k, v, table, rows, columns = _backward_op(slopes, mass_slopes, out, lse, mass, *terms)
    return q, k, v, None, table, None, rows, None, columns, None, None, None, None


_op.register_autograd(_backward, setup_context=_setup)


def looked_up(x: Tensor, tables: Tensor) -> Tensor:
    """Each row of x [B, H, N, D] with each of tables [H or 1, R, C, D]: [B, H, N, R, C]."""
    if len(tables) == 1:
        return torch.einsum("bhnd,rcd->bhnrc", x, tables[0].to(x.dtype))
    return torch.einsum("bhnd,hrcd->bhnrc", x, tables.to(x.dtype))


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    *,
    offsets: Term | None = None,
    on_keys: Term | None = None,
    on_queries: Term | None = None,
    on_values: Term | None = None,
    regions: Tensor | None = None,
) -> Tensor:
    """softmax(scale q k^T + terms) v and the value term, [B, H, N, V]; see the top of this file.

    `offsets` are [H or 1, R, C], the other tables [H or 1, R, C, D or V]; an entry of an index that
    is not 0 to C - 1 stands for no term. `regions` are [W, N].
    """
    n = q.shape[2]
    nothing = q.new_empty(0, n, n, dtype=torch.int32)
    none = q.new_empty(*q.shape[:3], 0, 0)
    table, table_index = offsets or (q.new_empty(1, 0, 0), nothing)
    rows = none if on_keys is None else looked_up(q, scale * on_keys[0])
    columns = none if on_queries is None else looked_up(k, scale * on_queries[0])
    out, _, mass = _op(
        q, k, v, scale, table, table_index,
        rows, nothing if on_keys is None else on_keys[1],
        columns, nothing if on_queries is None else on_queries[1],
        nothing if on_values is None else on_values[1],
        0 if on_values is None else on_values[0].shape[2],
        q.new_empty(0, n, dtype=torch.int32) if regions is None else regions,
    )  # fmt: skip
    if on_values is None:
        return out
    tables = on_values[0].to(v.dtype)
    if len(tables) == 1:
        return out + torch.einsum("bhnrc,rcv->bhnv", mass, tables[0])
    return out + torch.einsum("bhnrc,hrcv->bhnv", mass, tables)
