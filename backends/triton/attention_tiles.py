"""Tiles of `attention`: what its kernels read, look up and sum, of a head of an image.

Arguments are those of `attention_kernels`: an index table is [R, N, N], and an entry of it outside
0..C-1 stands for no term.
"""

from __future__ import annotations

import triton
import triton.language as tl

from spacelang.backends.triton.launch import INTERPRETED

_WIDENED = tl.constexpr(INTERPRETED)


@triton.jit
def multiple(x, ALIGNED: tl.constexpr):
    """`x`, which is a multiple: an argument's hint is lost where it is no specialised one."""
    return x // ALIGNED * ALIGNED


@triton.jit
def dot(a, b):
    """A product summed in float32; the interpreter, which has no bfloat16, takes it so as well."""
    if _WIDENED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def narrowed(x, kind: tl.constexpr):
    """Numbers in another type, rounded: the interpreter cuts bfloat16 off, unlike a device."""
    if _WIDENED and kind == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = bits.to(tl.float32, bitcast=True)
    return x.to(kind)


@triton.jit
def load(matrix, start, size, width, stride, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """SIZE rows from `start` on of a matrix [size, width], and 0 beyond it."""
    row = (start + tl.arange(0, SIZE))[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    inside = (row < size) & (column < width)
    return tl.load(matrix + row * stride + column, mask=inside, other=0.0)


@triton.jit
def store(matrix, tile, start, size, width, stride):
    """What `load` reads."""
    row = (start + tl.arange(0, tile.shape[0]))[:, None]
    column = tl.arange(0, tile.shape[1])[None, :]
    inside = (row < size) & (column < width)
    tl.store(matrix + row * stride + column, tile.to(matrix.dtype.element_ty), mask=inside)


@triton.jit
def looked_up(values, line, index, i, j, inside, N, C, step, along, COUNT: tl.constexpr):
    """The sum over r of values[line + r step + index[r, i, j] along], a tile."""
    found = tl.zeros(inside.shape, tl.float32)
    for r in tl.static_range(COUNT):
        at = tl.load(index + (r * N + i) * N + j, mask=inside, other=-1).to(tl.int32)
        there = (at >= 0) & (at < C)
        place = values + line + r * step + at * along
        found += tl.load(place, mask=there, other=0.0).to(tl.float32)
    return found


@triton.jit
def scaled(
    tables, scale, columns, width, step, along, kind: tl.constexpr,
    WIDTH: tl.constexpr, BUCKETS: tl.constexpr,
):  # fmt: skip
    """Tables [columns, width], scaled and turned: [WIDTH, BUCKETS], 0 beyond them."""
    d, c = tl.arange(0, WIDTH)[:, None], tl.arange(0, BUCKETS)[None, :]
    inside = (d < width) & (c < columns)
    found = tl.load(tables + c * step + d * along, mask=inside, other=0.0)
    return narrowed(found.to(tl.float32) * scale, kind)


@triton.jit
def picked(lines, index, i, j, inside, N, C, AXIS: tl.constexpr, COUNT: tl.constexpr):
    """What `looked_up` finds, of the products of queries (AXIS 1) or keys (AXIS 0) with tables.

    A loop that is not unrolled: a gather needs many registers, two at once as many again.
    """
    found = tl.zeros(inside.shape, tl.float32)
    for r in range(COUNT):
        at = tl.load(index + (r * N + i) * N + j, mask=inside, other=-1).to(tl.int32)
        there = (at >= 0) & (at < C)
        entry = tl.gather(lines, tl.where(there, r * C + at, 0), AXIS)
        found += tl.where(there, entry.to(tl.float32), 0.0)
    return found


@triton.jit
def summed(
    sums, tile, index, i, j, inside, N, C,
    AXIS: tl.constexpr, COUNT: tl.constexpr, BUCKETS: tl.constexpr,
):  # fmt: skip
    """`sums` [BLOCK, BUCKETS] and, of `tile`, what each index takes, summed along an axis.

    A pass over the tile a column: as much arithmetic as a product, where atomics have no order.
    Not unrolled, as `picked`: tables are summed with the registers of one.
    """
    columns = tl.arange(0, BUCKETS)[None, :]
    for r in range(COUNT):
        at = tl.load(index + (r * N + i) * N + j, mask=inside, other=-1).to(tl.int32)
        for c in range(C):
            mass = tl.sum(tl.where(at == c, tile, 0.0), AXIS)
            sums += tl.where(columns == r * C + c, mass[:, None], 0.0)
    return sums


@triton.jit
def scores(
    q, k, i, j, inside, scale, table, table_index, table_r, table_c, rows, row_index, rows_n,
    columns, column_index, columns_n, regions, N, TC, RC, CC,
    TABLES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, MASKED: tl.constexpr,
    INSIDE: tl.constexpr = False,
):  # fmt: skip
    """Logits of a tile: scale q k^T and every term that is there; -inf where no key is."""
    s = dot(q, tl.trans(k)) * scale
    s += looked_up(table, 0, table_index, i, j, inside, N, TC, table_r, table_c, TABLES)
    if INSIDE and ROWS:
        s += picked(rows, row_index, i, j, inside, N, RC, 1, ROWS)
    else:
        s += looked_up(rows, i * rows_n, row_index, i, j, inside, N, RC, RC, 1, ROWS)
    if INSIDE and COLUMNS:
        s += picked(columns, column_index, i, j, inside, N, CC, 0, COLUMNS)
    else:
        s += looked_up(columns, j * columns_n, column_index, i, j, inside, N, CC, CC, 1, COLUMNS)
    if MASKED:
        mine = tl.load(regions + i, mask=i < N, other=0)
        theirs = tl.load(regions + j, mask=j < N, other=0)
        s += tl.where(mine == theirs, 0.0, -100.0)
    return tl.where(j < N, s, -float("inf"))


@triton.jit
def slopes_of(
    s, lse, g, values, share, mass_g, mass_index, i, j, inside, N, MC, MASSES: tl.constexpr
):
    """Probabilities of a tile and the gradients of its logits."""
    p = tl.exp(s - lse[:, None])
    p_grad = dot(g, tl.trans(values))
    line = i * (MASSES * MC)
    p_grad += looked_up(mass_g, line, mass_index, i, j, inside, N, MC, MC, 1, MASSES)
    return p, p * (p_grad - share[:, None])
