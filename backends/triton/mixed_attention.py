"""Attention whose heads are mixed before and after the softmax: MiniViT's Mini-DeiT and Mini-Swin.

    s = scale q k^T + terms                     q, k [B, H, N, D], v [B, H, N, V]
    m_o = sum_h before[o, h] s_h + before_bias[o]    and -100 where regions[w, i] != regions[w, j]
    r_o = sum_h after[o, h] softmax(m)_h + after_bias[o]
    out = r v

Terms are offsets and iRPE on keys, as `attention` has them. What the rows of a head weigh depends
on all heads, so a program has all heads of a block of queries (or of keys), and goes over the keys
twice: the mix after the softmax needs normalised rows. N x N matrices of images exist nowhere; the
gradient of offsets needs those of logits, summed over images.

The gradient of `before_bias` is 0: a softmax does not see what is added to all of a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from torch import Tensor

from spacelang.backends.triton import mixed_attention_tiles as tiles
from spacelang.backends.triton.attention import PROGRAMS, Term, by_head, gathered_back, lined
from spacelang.backends.triton.attention_operands import (
    COLUMNS,
    WIDEST,
    chosen,
    counted,
    looked_up,
    unindexed,
    unwindowed,
)
from spacelang.backends.triton.launch import differentiable, launches, operator, refusal, wide
from spacelang.backends.triton.mixed_attention_kernels import KERNELS

NAME = "mixed_attention"
Mix = tuple[Tensor, Tensor | None]  # weights [H, H] of each head of the result, and its bias [H]
DIFFERENTIABLE = (
    "q",
    "k",
    "v",
    "before",
    "before_bias",
    "after",
    "after_bias",
    "table",
    "key_table",
)
HEADS = 32  # at most
HIP = torch.version.hip is not None
BLOCK = 16  # tokens of a step
MADE = 64  # entries of tables, of all heads, that a program can hold the products with, at most


@dataclass(frozen=True, slots=True)
class Operands:
    """What the operator takes; a term that is not there has R = 0, regions none have W = 0."""

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    before: Tensor  # [H, H]
    before_bias: Tensor  # [H], or [0] where there is none
    after: Tensor
    after_bias: Tensor
    table: Tensor  # [H or 1, R, C], added to the logits as it stands
    table_index: Tensor  # [R, N, N]
    key_table: Tensor  # [H or 1, R, C, D], whose product with a query is added, times the scale
    row_index: Tensor
    regions: Tensor  # [W, N]

    @property
    def rows(self) -> Tensor:
        """Each query with each row of `key_table`, scaled: [B, H, N, R, C] in float32."""
        if not len(self.row_index):
            return self.q.new_empty(*self.q.shape[:3], 0, 0, dtype=torch.float32)
        return looked_up(wide(self.q), self.scale * wide(self.key_table)).contiguous()


def reference(x: Operands) -> tuple[Tensor, Tensor]:
    """The same with N x N logits: output, and the logarithm of the sum of each mixed row."""
    rows = x.rows
    s = x.scale * wide(x.q) @ wide(x.k).transpose(2, 3)
    for r, index in enumerate(x.table_index):
        s = s + chosen(wide(x.table)[:, r, None], index)
    for r, index in enumerate(x.row_index):
        s = s + chosen(rows[:, :, :, r], index)
    m = torch.einsum("oh,bhij->boij", wide(x.before), s)
    if len(x.before_bias):
        m = m + wide(x.before_bias)[:, None, None]
    if len(x.regions):
        apart = x.regions[:, None, :, None] != x.regions[:, None, None, :]
        m = m - 100.0 * apart.repeat(len(m) // len(x.regions), 1, 1, 1)
    weights = torch.einsum("oh,bhij->boij", wide(x.after), m.softmax(3))
    if len(x.after_bias):
        weights = weights + wide(x.after_bias)[:, None, None]
    return (weights @ wide(x.v)).to(x.v.dtype), m.logsumexp(3)


def unable(x: Operands) -> str:
    """Why the kernels cannot take these operands; empty if they can."""
    if x.q.ndim != 4 or x.k.shape != x.q.shape or x.v.ndim != 4 or x.v.shape[:3] != x.q.shape[:3]:
        return "it takes queries and keys [B, H, N, D] and values [B, H, N, V]"
    batch, heads, n, width = x.q.shape
    if heads > HEADS:
        return f"{heads} heads are more than the {HEADS} that a program can hold"
    if not 1 <= width <= WIDEST or not 1 <= x.v.shape[3] <= WIDEST:
        return f"a head is not 1 to {WIDEST} wide"
    if any(mix.shape != (heads, heads) for mix in (x.before, x.after)):
        return "it takes mixes of heads [H, H]"
    if any(bias.shape not in ((heads,), (0,)) for bias in (x.before_bias, x.after_bias)):
        return "it takes biases of mixes [H], or none"
    if x.table.ndim != 3 or len(x.table) not in (1, heads):
        return "it takes offsets [H or 1, R, C]"
    tables = x.key_table
    if tables.ndim != 4 or len(tables) not in (1, heads) or tables.shape[3] != width:
        return "it takes tables of a term of the queries [H or 1, R, C, D]"
    indexes = (x.table_index, x.row_index)
    if reason := unindexed(indexes, (x.table.shape[1], tables.shape[1]), n):
        return reason
    if tables.shape[1:3].numel() > COLUMNS:
        return f"a term's tables have more than {COLUMNS} columns"
    if reason := unwindowed(x.regions, batch, n):
        return reason
    operands = (x.q, x.k, x.v)
    if len({part.dtype for part in operands}) > 1:
        return "its operands are of different types"
    reach = (heads * part.stride(1) + n * part.stride(2) for part in operands)
    if max(*reach, heads * n * tables.shape[1:3].numel()) >= 2**31:
        return "the heads and tokens of an image lie too far apart"
    if len(x.table_index) and heads * n * n >= 2**31:
        return f"the gradients of {heads} x {n} x {n} logits are more than it can count"
    if any(part.device != x.q.device for part in (*indexes, x.regions)):
        return "its operands are on different devices"
    weights = (x.before, x.before_bias, x.after, x.after_bias, x.table, x.key_table)
    return refusal(*operands, *weights)


def options(dtype: torch.dtype, hip: bool) -> dict[str, int | str]:
    """Warps and stages with which registers suffice; warps of AMD are twice as wide.

    And how float32 operands of mixes are multiplied, beside half types in three parts of TF32,
    which together have their bits; AMD multiplies float32 itself.
    """
    parts = "ieee" if hip or dtype == torch.float32 else "tf32x3"
    return {"num_warps": 4 if hip else 8, "num_stages": 1, "PRECISION": parts}


def owned(heads: int, inside: bool = False) -> int:
    """Tokens of a program, of so many padded heads: all heads of a tile are held in registers."""
    return 8 if heads == HEADS or (inside and heads == 16) else 16


def inside(x: Operands) -> bool:
    """Whether the forward kernel makes the rows of `key_table` itself, so that none are written."""
    rows = x.key_table.shape[1:3].numel()
    return 0 < rows <= MADE and len(x.key_table) == 1 and x.q.shape[1] <= 16


def constants(x: Operands, strides: tuple[int, ...]) -> dict[str, Any]:
    """What a variant of the kernels is made for: neither batch nor tokens, and heads padded."""
    widths = (x.q.shape[3], x.v.shape[3])
    heads = max(8, triton.next_power_of_2(x.q.shape[1]))
    return {
        "HEADS": heads,
        "OWN": owned(heads),
        "BLOCK": BLOCK,
        "WIDTH": max(16, triton.next_power_of_2(widths[0])),
        "VALUE": max(16, triton.next_power_of_2(widths[1])),
        "BUCKETS": max(16, triton.next_power_of_2(x.key_table.shape[1:3].numel())),
        "TABLES": len(x.table_index),
        "ROWS": len(x.row_index),
        "MASKED": int(len(x.regions) > 0),
        "ALIGNED": 1 if any(step % 8 for step in (*strides, *widths)) else 8,
    }


def launched(x: Operands, out: Tensor, slopes: Tensor, rows: Tensor) -> dict[str, Any]:
    """What every kernel is launched with, by name; `rows` [B, H, N, R, C] are of `key_table`."""
    found: dict[str, Any] = {name: lined(getattr(x, name)) for name in ("q", "k", "v")}
    found |= {name: getattr(x, name).contiguous() for name in tiles.POINTERS}
    found |= {name: counted(part) for name, part in found.items() if name.endswith("_index")}
    found |= {"table": x.table, "rows": rows}
    sizes = (
        *x.q.shape[1:], x.v.shape[3], x.table.shape[2], x.key_table.shape[2],
        max(1, len(x.regions)), len(x.before_bias), len(x.after_bias),
    )  # fmt: skip
    lines = [part.stride()[:3] for part in (found["q"], found["k"], found["v"], out, slopes)]
    strides = sum(lines, ())
    terms = (by_head(x.table), *x.table.stride()[1:], *rows.stride()[:3])
    found |= dict(zip(tiles.INTEGERS, (*sizes, *strides, *terms), strict=True))
    return found | {"scale": x.scale} | constants(x, strides)


def _launch(kernel: str, grid: tuple[int, ...], common: dict[str, Any], **own: Any) -> None:
    """One kernel, with what all take and what it alone does."""
    function = KERNELS[kernel]
    taken = {name: value for name, value in common.items() if name in function.arg_names}
    function[grid](**taken, **own, **options(common["q"].dtype, HIP))


@operator("mixed_attention", NAME)
def _op(
    q: Tensor, k: Tensor, v: Tensor, scale: float, before: Tensor, before_bias: Tensor,
    after: Tensor, after_bias: Tensor, table: Tensor, table_index: Tensor, key_table: Tensor,
    row_index: Tensor, regions: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Output [B, H, N, V], and the logarithm of the sum of each mixed row [B, H, N]."""
    x = Operands(
        q, k, v, scale, before, before_bias, after, after_bias, table, table_index, key_table,
        row_index, regions,
    )  # fmt: skip
    out, lse = _empty(x)
    if not launches(NAME, unable(x)):
        for found, value in zip((out, lse), reference(x), strict=True):
            found.copy_(value)
    elif out.numel():
        within = inside(x)
        rows = q.new_empty(1, 1, 1, 0, 0, dtype=torch.float32) if within else x.rows
        common = launched(x, out, out, rows)
        common["OWN"] = owned(common["HEADS"], within)
        grid = (len(q), triton.cdiv(q.shape[2], common["OWN"]))
        tables = key_table.flatten(1, 2)  # as they lie
        own = {"key_table": tables, "key_c": tables.stride(1), "key_d": tables.stride(2)}
        _launch("forward", grid, common, out=out, lse=lse, INSIDE=int(within), **own)
    return out, lse


def _empty(x: Operands) -> tuple[Tensor, Tensor]:
    """Results of the forward operator; heads of a token lie side by side, ready to be merged."""
    (batch, heads, n, _), kind, device = x.q.shape, x.v.dtype, x.q.device
    out = torch.empty(batch, n, heads, x.v.shape[3], dtype=kind, device=device).transpose(1, 2)
    return out, torch.empty(batch, heads, n, device=device, dtype=torch.float32)


@operator("mixed_attention_backward", NAME)
def _backward_op(
    slopes: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float, before: Tensor,
    before_bias: Tensor, after: Tensor, after_bias: Tensor, table: Tensor, table_index: Tensor,
    key_table: Tensor, row_index: Tensor, regions: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Gradients of what is `DIFFERENTIABLE`."""
    x = Operands(
        q, k, v, scale, before, before_bias, after, after_bias, table, table_index, key_table,
        row_index, regions,
    )  # fmt: skip
    inputs = [getattr(x, name) for name in DIFFERENTIABLE]
    if not launches(NAME, unable(x)):

        def again(*free: Tensor) -> Tensor:
            return reference(replace(x, **dict(zip(DIFFERENTIABLE, free, strict=True))))[0]

        _, pulled = torch.func.vjp(again, *inputs)
        return [part.contiguous() for part in pulled(slopes)]
    alike = [torch.empty_like(part, memory_format=torch.contiguous_format) for part in inputs]
    found = dict(zip(DIFFERENTIABLE, alike, strict=True))
    if not slopes.numel():
        return [part.zero_() for part in alike]
    slopes = lined(slopes)
    common = launched(x, slopes, slopes, x.rows) | {"g": slopes, "lse": lse}
    common["delta"] = torch.empty_like(lse)
    batch, heads, n, _ = q.shape
    grid = (batch, triton.cdiv(n, common["OWN"]))
    after_parts, bias_parts = _parts(q, grid, heads, heads), _parts(q, grid, heads)
    _launch("shares", grid, common, after_grad=after_parts, after_bias_grad=bias_parts)
    _launch("queries", grid, common, q_grad=found["q"])
    if len(row_index):
        rows_grad = q.new_empty(batch, heads, n, *key_table.shape[1:3])
        _launch("rows", grid, common, rows_grad=rows_grad)
        _, pulled = torch.func.vjp(looked_up, q, key_table)
        more, tables = pulled(rows_grad)
        found["q"].add_(more, alpha=scale)
        found["key_table"] = (tables * scale).contiguous()
    _launch("values", grid, common, v_grad=found["v"])
    _launch("keys", grid, common, k_grad=found["k"])
    tiles = grid[1] * triton.cdiv(n, BLOCK)
    splits = min(batch, max(1, PROGRAMS // tiles))
    before_parts = _parts(q, (splits, tiles), heads, heads)
    logits = _parts(q, (splits, int(len(table_index) > 0)), heads, n, n)
    own = {"partial": logits, "before_grad": before_parts, "B": batch, "SPLITS": splits}
    _launch("sums", (tiles, splits), common, **own)
    found["before"] = before_parts.sum(0).to(before.dtype)
    found["after"] = after_parts.sum(0).to(after.dtype)
    found["before_bias"].zero_()
    if len(after_bias):
        found["after_bias"] = bias_parts.sum(0).to(after_bias.dtype)
    if len(table_index):
        found["table"] = gathered_back(logits.sum(0), table, table_index)
    return list(found.values())


def _parts(like: Tensor, programs: tuple[int, int], *shape: int) -> Tensor:
    """Room for what each of some programs finds."""
    count = programs[0] * programs[1]
    return torch.empty(count, *shape, device=like.device, dtype=torch.float32)


@_op.register_fake
def _(*arguments):
    return _empty(Operands(*arguments))


@_backward_op.register_fake
def _(slopes, lse, *arguments):
    x = Operands(*arguments)
    inputs = [getattr(x, name) for name in DIFFERENTIABLE]
    return [torch.empty_like(part, memory_format=torch.contiguous_format) for part in inputs]


def _setup(ctx, inputs, output):
    ctx.scale = inputs[3]
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *(part for part in inputs if isinstance(part, Tensor)))


def _backward(ctx, slopes, _):
    lse, q, k, v, *rest = ctx.saved_tensors
    *found, table, key_table = _backward_op(slopes, lse, q, k, v, ctx.scale, *rest)
    return *found[:3], None, *found[3:], table, None, key_table, None, None


differentiable(_op, _setup, _backward)


def mixed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    before: Mix | None,
    after: Mix | None,
    *,
    offsets: Term | None = None,
    on_keys: Term | None = None,
    regions: Tensor | None = None,
) -> Tensor:
    """Attention with mixes of heads, [B, H, N, V]; see the top of this file. None mixes nothing.

    `offsets` are [H or 1, R, C], `on_keys` [H or 1, R, C, D]; an entry of an index that is not 0 to
    C - 1 stands for no term. `regions` are [W, N].
    """
    heads, n = q.shape[1:3]
    nothing = q.new_empty(0, n, n, dtype=torch.int32)
    table, table_index = offsets or (q.new_empty(1, 0, 0), nothing)
    key_table, row_index = on_keys or (q.new_empty(1, 0, 0, q.shape[3]), nothing)
    mixes: list[Tensor] = []
    for weights, bias in (
        (torch.eye(heads, dtype=q.dtype, device=q.device), None) if mix is None else mix
        for mix in (before, after)
    ):
        mixes += (weights, weights.new_empty(0) if bias is None else bias)
    if regions is None:
        regions = q.new_empty(0, n, dtype=torch.int32)
    return _op(q, k, v, scale, *mixes, table, table_index, key_table, row_index, regions)[0]
