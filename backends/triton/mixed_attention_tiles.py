"""Tiles of `mixed_attention`: what its kernels read, mix and write, all heads at once.

A tile of logits is [HEADS, queries, keys]; a mix of heads is a small product with the tile as a
matrix. Terms are looked up as in `attention_tiles`: an entry of an index outside 0..C-1 stands
for no term.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from spacelang.backends.triton.attention_tiles import multiple
from spacelang.backends.triton.launch import INTERPRETED

WEIGHTS = ("before", "before_bias", "after", "after_bias")
POINTERS = (*WEIGHTS, "table_index", "row_index", "regions")
INTEGERS = (
    "H", "N", "D", "V", "TC", "RC", "WINDOWS", "SHIFTED", "ADDED", "q_b", "q_h", "q_n",
    "k_b", "k_h", "k_n", "v_b", "v_h", "v_n", "o_b", "o_h", "o_n", "g_b", "g_h", "g_n", "table_h",
    "table_r", "table_c", "rows_b", "rows_h", "rows_n",
)  # fmt: skip
OWN = ("key_c", "key_d", "B", "SPLITS")  # of some kernels
KEPT = (*INTEGERS, *OWN)  # no variant is made for their values
PARTS = tl.constexpr(8)  # of a sum over a tile, so that each warp has one of its own
_WIDENED = tl.constexpr(INTERPRETED)


class Rows(NamedTuple):
    """Queries, keys, values or a gradient of an image, [H, N, width]: where they are."""

    start: tl.tensor
    head: tl.tensor  # strides
    token: tl.tensor
    width: tl.tensor


class Terms(NamedTuple):
    """What is added to the logits of an image: offsets, lookups by the query, regions."""

    scale: tl.tensor
    table: tl.tensor
    table_index: tl.tensor
    table_head: tl.tensor  # strides
    table_row: tl.tensor
    table_entry: tl.tensor
    table_columns: tl.tensor
    rows: Rows  # or what `made_rows` makes
    row_index: tl.tensor
    row_columns: tl.tensor
    regions: tl.tensor


@triton.jit
def rows_of(x, image, x_b, x_h, x_n, width, ALIGNED: tl.constexpr):
    """The rows of an image of x; ALIGNED divides its strides and its width."""
    return Rows(
        x + multiple(image * x_b, ALIGNED),
        multiple(x_h, ALIGNED),
        multiple(x_n, ALIGNED),
        multiple(width, ALIGNED),
    )


@triton.jit
def terms_of(
    image, scale, table, table_index, rows, row_index, regions, N, TC, RC, WINDOWS,
    table_h, table_r, table_c,
):  # fmt: skip
    """The terms of an image and of its window."""
    seen = regions + (image % WINDOWS) * N
    return Terms(
        scale, table, table_index, table_h, table_r, table_c, TC, rows, row_index, RC, seen
    )


@triton.jit
def made_rows(
    q, tables, step, along, start, H, N, columns,
    HEADS: tl.constexpr, OWN: tl.constexpr, BUCKETS: tl.constexpr,
):  # fmt: skip
    """Each of a block of queries with each row of tables [columns, D]: [HEADS, OWN, BUCKETS]."""
    DEPTH: tl.constexpr = 16
    found = tl.zeros((HEADS * OWN, BUCKETS), tl.float32)
    for channel in range(0, q.width, DEPTH):
        left = load(q, start, H, N, HEADS, OWN, DEPTH, channel)
        c = channel + tl.arange(0, DEPTH)[:, None]
        column = tl.arange(0, BUCKETS)[None, :]
        inside = (column < columns) & (c < q.width)
        right = tl.load(tables + column * step + c * along, mask=inside, other=0.0).to(left.dtype)
        found += product(tl.reshape(left, (HEADS * OWN, DEPTH)), right, "ieee")
    return tl.reshape(found, (HEADS, OWN, BUCKETS))


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """A product summed in float32; the interpreter, which has no bfloat16, takes it so as well."""
    if _WIDENED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def load(x, first, H, N, HEADS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, channel=0):
    """BLOCK tokens from `first` on of every head of rows x, and 0 beyond them.

    WIDTH channels from `channel` on.
    """
    h = tl.arange(0, HEADS)[:, None, None]
    row = (first + tl.arange(0, BLOCK))[None, :, None]
    column = channel + tl.arange(0, WIDTH)[None, None, :]
    inside = (h < H) & (row < N) & (column < x.width)
    return tl.load(x.start + h * x.head + row * x.token + column, mask=inside, other=0.0)


@triton.jit
def store(x, tile, first, H, N):
    """What `load` reads."""
    h = tl.arange(0, tile.shape[0])[:, None, None]
    row = (first + tl.arange(0, tile.shape[1]))[None, :, None]
    column = tl.arange(0, tile.shape[2])[None, None, :]
    inside = (h < H) & (row < N) & (column < x.width)
    at = x.start + h * x.head + row * x.token + column
    tl.store(at, tile.to(x.start.dtype.element_ty), mask=inside)


@triton.jit
def dense(x, image, H, N, width):
    """The rows of an image of x [B, H, N, width], which is contiguous."""
    return Rows(x + image * H * N * width, N * width, width, width)


@triton.jit
def pairs(x, y, start, first, H, N, HEADS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """x_i . y_j of every head, a tile; a step has 16 channels, for registers are few."""
    DEPTH: tl.constexpr = 16
    found = tl.zeros((HEADS, ROWS, COLUMNS), tl.float32)
    for channel in range(0, x.width, DEPTH):
        left = load(x, start, H, N, HEADS, ROWS, DEPTH, channel)
        right = load(y, first, H, N, HEADS, COLUMNS, DEPTH, channel)
        found += product(left, tl.trans(right, (0, 2, 1)), "ieee")
    return found


@triton.jit
def square(weights, H, HEADS: tl.constexpr):
    """A mix of heads [H, H], in float32 and padded with 0."""
    row = tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, HEADS)[None, :]
    inside = (row < H) & (column < H)
    return tl.load(weights + row * H + column, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def store_square(weights, found, H):
    """What `square` reads."""
    row = tl.arange(0, found.shape[0])[:, None]
    column = tl.arange(0, found.shape[1])[None, :]
    tl.store(weights + row * H + column, found, mask=(row < H) & (column < H))


@triton.jit
def by_head(bias, count, HEADS: tl.constexpr):
    """A number of each head, ready to be added to a tile; 0 where a mix has no bias."""
    h = tl.arange(0, HEADS)
    return tl.load(bias + h, mask=h < count, other=0.0).to(tl.float32)[:, None, None]


@triton.jit
def mixed(weights, tile, PRECISION: tl.constexpr):
    """Of each head of the result the sum of its weights times the heads of a tile."""
    flat = tl.reshape(tile, (tile.shape[0], tile.shape[1] * tile.shape[2]))
    return tl.reshape(product(weights, flat, PRECISION), tile.shape)


@triton.jit
def crossed(a, b, PRECISION: tl.constexpr):
    """The products of all heads of a tile with all of another, in parts: [PARTS, HEADS, HEADS]."""
    size: tl.constexpr = a.shape[1] * a.shape[2] // PARTS
    a = tl.trans(tl.reshape(a, (a.shape[0], PARTS, size)), (1, 0, 2))
    b = tl.trans(tl.reshape(b, (b.shape[0], PARTS, size)), (1, 2, 0))
    return product(a, b, PRECISION)


@triton.jit
def lines(sums, first, H, N, other, HEADS: tl.constexpr, BLOCK: tl.constexpr):
    """A number of each query of all heads, from [H, N]."""
    h = tl.arange(0, HEADS)[:, None]
    i = (first + tl.arange(0, BLOCK))[None, :]
    return tl.load(sums + h * N + i, mask=(h < H) & (i < N), other=other)


@triton.jit
def store_lines(sums, found, first, H, N):
    """What `lines` reads."""
    h = tl.arange(0, found.shape[0])[:, None]
    i = (first + tl.arange(0, found.shape[1]))[None, :]
    tl.store(sums + h * N + i, found, mask=(h < H) & (i < N))


@triton.jit
def _looked_up(values, line, index, i, j, inside, N, C, step, along, COUNT: tl.constexpr):
    """The sum over r of values[line + r step + index[r, i, j] along], a tile."""
    found = tl.zeros(inside.shape, tl.float32)
    for r in tl.static_range(COUNT):
        pair = (i < N) & (j < N)
        at = tl.load(index + (r * N + i) * N + j, mask=pair, other=-1).to(tl.int32)
        there = inside & (at >= 0) & (at < C)
        place = values + line + r * step + at * along
        found += tl.load(place, mask=there, other=0.0).to(tl.float32)
    return found


@triton.jit
def _picked(rows, index, i, j, inside, N, C, COUNT: tl.constexpr):
    """The same of rows that `made_rows` has made, [HEADS, QUERIES, BUCKETS]."""
    found = tl.zeros(inside.shape, tl.float32)
    for r in tl.static_range(COUNT):
        pair = (i < N) & (j < N)
        at = tl.load(index + (r * N + i) * N + j, mask=pair, other=-1).to(tl.int32)
        there = inside & (at >= 0) & (at < C)
        column = tl.where(there, tl.broadcast_to(r * C + at, inside.shape), 0)
        found += tl.where(there, tl.gather(rows, column, 2), 0.0)
    return found


@triton.jit
def logits(
    q, k, start, first, mix, shift, terms, H, N,
    HEADS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    TABLES: tl.constexpr, ROWS: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
    INSIDE: tl.constexpr = 0,
):  # fmt: skip
    """Logits of a tile, and the same mixed and masked: -inf where no key is."""
    h = tl.arange(0, HEADS)[:, None, None]
    i = (start + tl.arange(0, QUERIES))[None, :, None]
    j = (first + tl.arange(0, KEYS))[None, None, :]
    inside = (h < H) & (i < N) & (j < N)
    s = pairs(q, k, start, first, H, N, HEADS, QUERIES, KEYS) * terms.scale
    s += _looked_up(
        terms.table, h * terms.table_head, terms.table_index, i, j, inside, N,
        terms.table_columns, terms.table_row, terms.table_entry, TABLES,
    )  # fmt: skip
    if INSIDE:
        s += _picked(terms.rows, terms.row_index, i, j, inside, N, terms.row_columns, ROWS)
    else:
        line = h * terms.rows.head + i * terms.rows.token
        s += _looked_up(
            terms.rows.start, line, terms.row_index, i, j, inside, N, terms.row_columns,
            terms.row_columns, 1, ROWS,
        )  # fmt: skip
    m = mixed(mix, s, PRECISION) + shift
    if MASKED:
        mine = tl.load(terms.regions + i, mask=i < N, other=0)
        theirs = tl.load(terms.regions + j, mask=j < N, other=0)
        m += tl.where(mine == theirs, 0.0, -100.0)
    return s, tl.where(j < N, m, -float("inf"))


@triton.jit
def slopes(
    m, lse, mix_after, g, v, start, first, H, N,
    HEADS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Probabilities of a tile, and the gradients of their mix and of themselves."""
    p = tl.exp(m - lines(lse, start, H, N, float("inf"), HEADS, QUERIES)[:, :, None])
    weights_grad = pairs(g, v, start, first, H, N, HEADS, QUERIES, KEYS)
    return p, weights_grad, mixed(tl.trans(mix_after), weights_grad, PRECISION)


@triton.jit
def by_column(sums, tile, index, start, first, N, C, COUNT: tl.constexpr):
    """`sums` [OWN, HEADS, BUCKETS] and, of each query's rows of `tile`, what each index takes.

    A product with rows that are 1 where the index is the column.
    """
    i = (start + tl.arange(0, tile.shape[1]))[:, None, None]
    j = (first + tl.arange(0, tile.shape[2]))[None, :, None]
    columns = tl.arange(0, sums.shape[2])[None, None, :]
    turned = tl.trans(tile, (1, 0, 2))
    for r in tl.static_range(COUNT):
        at = tl.load(index + (r * N + i) * N + j, mask=(i < N) & (j < N), other=-1).to(tl.int32)
        chosen = (at >= 0) & (at < C) & (r * C + at == columns)
        sums += product(turned, tl.where(chosen, 1.0, 0.0).to(tile.dtype), "ieee")
    return sums
