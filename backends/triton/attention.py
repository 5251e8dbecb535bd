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
m_ic = sum of p_ij over index[i, j] = c. A program makes its rows of q T^T, those of k T^T of each
block of keys, and m T (`inside`), and masses are written for the gradient of their tables alone;
lookups of more entries are products before the kernel. N x N logits of images and N x N x D tables
exist nowhere; the gradient of offsets needs those of logits, summed over images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import triton
from torch import Tensor

from spacelang.backends.triton import attention_kernels as kernels
from spacelang.backends.triton.attention_operands import (
    Operands,
    counted,
    looked_up,
    reference,
    unable,
    weighed,
)
from spacelang.backends.triton.launch import differentiable, launches, operator

NAME = "attention"
Term = tuple[Tensor, Tensor]  # tables [H or 1, R, C, ...], index [R, N, N]
DIFFERENTIABLE = ("q", "k", "v", "table", "key_table", "query_table", "value_table")
MADE = 256  # columns of a term that a program has registers for, beside masses a fourth
TABLE_BYTES = 2**15  # of a term's tables that a block's memory can hold
PROGRAMS = 256  # about as many of offsets_kernel
TILE = {torch.float32: 16, torch.bfloat16: 32, torch.float16: 32}  # side of a tile of logits
SCATTERED = 1024  # positions a step of scatter_kernel


def options(kernel: str, dtype: torch.dtype, hip: bool) -> dict[str, int]:
    """Warps and stages with which registers suffice; warps of AMD are twice as wide."""
    warps = 4 if hip or (dtype == torch.float32 and kernel not in ("forward", "keys")) else 8
    return {"num_warps": warps, "num_stages": 2}


def lined(x: Tensor) -> Tensor:
    """`x`, or a copy, whose channels lie without gaps."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def by_head(table: Tensor) -> int:
    """The stride of its heads; 0 where all of them have the same."""
    return 0 if len(table) == 1 else table.stride(0)


def constants(x: Operands, strides: tuple[int, ...]) -> dict[str, int]:
    """What a variant of the kernels is made for: neither batch, nor heads, nor tokens."""
    tables = (x.key_table, x.query_table, x.value_table)
    wide = max(part.shape[1:3].numel() for part in tables)
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


def inside(chosen: Mapping[str, int], dtype: torch.dtype) -> bool:
    """Whether the forward kernel makes rows and columns itself and gives the values' term.

    Of no more columns than binaries have registers for without a spill.
    """
    columns = chosen["BUCKETS"]
    most = MADE // 4 if chosen["MASSES"] else MADE
    size = columns * max(chosen["WIDTH"], chosen["VALUE"]) * dtype.itemsize
    return columns <= most and size <= TABLE_BYTES


def launched(x: Operands, out: Tensor, slopes: Tensor, within: bool) -> dict[str, Any]:
    """What every kernel is launched with, by name; lookups that one makes `within` are none."""
    found: dict[str, Any] = {name: lined(getattr(x, name)) for name in ("q", "k", "v")}
    found["table"] = x.table
    found["rows"] = _no_rows(x) if within or not len(x.row_index) else x.rows
    found["columns"] = _no_rows(x) if within or not len(x.column_index) else x.columns
    found |= {name: getattr(x, name).contiguous() for name in kernels.POINTERS}
    found |= {name: counted(part) for name, part in found.items() if name.endswith("_index")}
    tables = (x.table, x.key_table, x.query_table, x.value_table)
    sizes = (
        *x.q.shape[1:], x.v.shape[3], *(part.shape[2] for part in tables), max(1, len(x.regions)),
    )  # fmt: skip
    lines = [part.stride()[:3] for part in (found["q"], found["k"], found["v"], out, slopes)]
    strides = sum(lines, ())
    lookups = (*found["rows"].stride()[:3], *found["columns"].stride()[:3])
    terms = (by_head(x.table), *x.table.stride()[1:], *lookups)
    found |= dict(zip(kernels.INTEGERS, (*sizes, *strides, *terms), strict=True))
    return found | {"scale": x.scale} | constants(x, strides)


def _tables(x: Operands, within: bool) -> dict[str, Any]:
    """What the forward kernel reads tables by, if it does; those of lookups lie as they do."""
    tables = (x.key_table, x.query_table, x.value_table)
    keys, queries, values = (part if within else part[:, :0] for part in tables)
    values = values.contiguous()
    found: dict[str, Any] = {"value_table": values, "value_h": by_head(values)}
    for name, part in (("key", keys.flatten(1, 2)), ("query", queries.flatten(1, 2))):
        steps = (by_head(part), *part.stride()[1:])
        found |= {f"{name}_table": part}
        found |= dict(zip((f"{name}_h", f"{name}_c", f"{name}_d"), steps, strict=True))
    return found


def _launch(kernel: str, grid: tuple[int, ...], common: dict[str, Any], **own: Any) -> None:
    """One kernel, with what all take and what it alone does."""
    chosen = options(kernel, common["q"].dtype, torch.version.hip is not None)
    kernels.KERNELS[kernel][grid](**common, **own, **chosen)


@operator("attention", NAME)
def _op(
    q: Tensor, k: Tensor, v: Tensor, scale: float, table: Tensor, table_index: Tensor,
    key_table: Tensor, row_index: Tensor, query_table: Tensor, column_index: Tensor,
    value_table: Tensor, mass_index: Tensor, regions: Tensor, kept: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Output [B, H, N, V], logarithm of each row's sum [B, H, N], masses [B, H, N or 0, R, C]."""
    x = Operands(
        q, k, v, scale, table, table_index, key_table, row_index, query_table, column_index,
        value_table, mass_index, regions, kept,
    )  # fmt: skip
    out, lse, mass = _empty(x)
    if not launches(NAME, unable(x)):
        for found, value in zip((out, lse, mass), reference(x), strict=True):
            found.copy_(value)
    elif out.numel():
        within = inside(constants(x, ()), q.dtype)
        common = launched(x, out, out, within)
        given = mass if within or kept else _masses(x, q.shape[2])
        own = {"out": out, "lse": lse, "mass": given, "KEPT": given.shape[2], "INSIDE": int(within)}
        own |= _tables(x, within)
        grid = (len(q) * q.shape[1], triton.cdiv(q.shape[2], common["BLOCK"]))
        _launch("forward", grid, common, **own)
        if len(mass_index) and not within:
            out += weighed(given, value_table)
    return out, lse, mass


def _empty(x: Operands) -> tuple[Tensor, Tensor, Tensor]:
    """Results of the forward operator; heads of a token lie side by side, ready to be merged."""
    (batch, heads, n, _), kind, device = x.q.shape, x.v.dtype, x.q.device
    out = torch.empty(batch, n, heads, x.v.shape[3], dtype=kind, device=device).transpose(1, 2)
    lse = torch.empty(batch, heads, n, device=device, dtype=torch.float32)
    return out, lse, _masses(x, n if x.kept else 0)


def _masses(x: Operands, tokens: int) -> Tensor:
    """Room for the masses of the first tokens."""
    return x.v.new_empty(*x.q.shape[:2], tokens, *x.value_table.shape[1:3])


def _no_rows(x: Operands) -> Tensor:
    return x.q.new_empty(*x.q.shape[:3], 0, 0)


@operator("attention_backward", NAME)
def _backward_op(
    slopes: Tensor, out: Tensor, lse: Tensor, mass: Tensor,
    q: Tensor, k: Tensor, v: Tensor, scale: float, table: Tensor, table_index: Tensor,
    key_table: Tensor, row_index: Tensor, query_table: Tensor, column_index: Tensor,
    value_table: Tensor, mass_index: Tensor, regions: Tensor, kept: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of what is `DIFFERENTIABLE`; that of `value_table` is 0 without masses."""
    x = Operands(
        q, k, v, scale, table, table_index, key_table, row_index, query_table, column_index,
        value_table, mass_index, regions, kept,
    )  # fmt: skip
    inputs = [getattr(x, name) for name in DIFFERENTIABLE]
    if not launches(NAME, unable(x)):

        def again(*free: Tensor) -> Tensor:
            return reference(replace(x, **dict(zip(DIFFERENTIABLE, free, strict=True))))[0]

        _, pulled = torch.func.vjp(again, *inputs)
        return [part.contiguous() for part in pulled(slopes)]
    alike = [torch.empty_like(part, memory_format=torch.contiguous_format) for part in inputs]
    found = dict(zip(DIFFERENTIABLE, alike, strict=True))
    if not out.numel():
        return [part.zero_() for part in alike]
    slopes = lined(slopes)
    common = launched(x, out, slopes, within=False)
    mass_g = looked_up(slopes, value_table) if len(mass_index) else _masses(x, 0)
    common |= {"g": slopes, "mass_g": mass_g.contiguous(), "lse": lse}
    common["delta"] = torch.empty_like(lse)
    batch, heads, n, _ = q.shape
    tiles = triton.cdiv(n, common["BLOCK"])
    grid = (batch * heads, tiles)
    rows_grad, columns_grad = (
        q.new_empty(batch, heads, n, *part.shape[1:3]) for part in (key_table, query_table)
    )
    own = {"out": out, "q_grad": found["q"], "rows_grad": rows_grad}
    _launch("queries", grid, common, **own)
    own = {"k_grad": found["k"], "v_grad": found["v"], "columns_grad": columns_grad}
    _launch("keys", grid, common, **own)
    if len(table_index):
        found["table"] = _table_gradient(x, common, tiles)
    for name, side, grad in (("key", "q", rows_grad), ("query", "k", columns_grad)):
        if grad.numel():
            _, pulled = torch.func.vjp(looked_up, getattr(x, side), getattr(x, f"{name}_table"))
            more, tables = pulled(grad)
            found[side].add_(more, alpha=scale)
            found[f"{name}_table"] = (tables * scale).contiguous()
    if len(mass_index):
        found["value_table"].zero_()
        if kept:
            _, pulled = torch.func.vjp(lambda tables: weighed(mass, tables), value_table)
            found["value_table"] = pulled(slopes)[0].contiguous()
    return list(found.values())


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
        logits, counted(index), found, n, width, count, BLOCK=SCATTERED
    )
    return (found if len(table) == heads else found.sum(0, keepdim=True)).to(table.dtype)


@_op.register_fake
def _(*arguments):
    return _empty(Operands(*arguments))


@_backward_op.register_fake
def _(slopes, out, lse, mass, *arguments):
    x = Operands(*arguments)
    inputs = [getattr(x, name) for name in DIFFERENTIABLE]
    return [torch.empty_like(part, memory_format=torch.contiguous_format) for part in inputs]


def _setup(ctx, inputs, output):
    x = Operands(*inputs)
    ctx.scale, ctx.kept = x.scale, x.kept
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output, *(part for part in inputs if isinstance(part, Tensor)))


def _backward(ctx, slopes, *_):
    assert ctx.kept or not ctx.needs_input_grad[10], "the gradient of its tables needs the masses"
    out, lse, mass, q, k, v, *rest = ctx.saved_tensors
    terms = (q, k, v, ctx.scale, *rest, ctx.kept)
    *found, on_keys, on_queries, on_values = _backward_op(slopes, out, lse, mass, *terms)
    q, k, v, table = found
    return q, k, v, None, table, None, on_keys, None, on_queries, None, on_values, None, None, None


differentiable(_op, _setup, _backward)


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
    table, table_index = offsets or (q.new_empty(1, 0, 0), nothing)
    key_table, row_index = on_keys or (q.new_empty(1, 0, 0, q.shape[3]), nothing)
    query_table, column_index = on_queries or (q.new_empty(1, 0, 0, q.shape[3]), nothing)
    value_table, mass_index = on_values or (q.new_empty(1, 0, 0, v.shape[3]), nothing)
    if regions is None:
        regions = q.new_empty(0, n, dtype=torch.int32)
    kept = torch.is_grad_enabled() and value_table.requires_grad
    return _op(
        q, k, v, scale, table, table_index, key_table, row_index, query_table, column_index,
        value_table, mass_index, regions, kept,
    )[0]  # fmt: skip
