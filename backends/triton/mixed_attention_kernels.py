"""Kernels of `mixed_attention`: a program each block of queries or keys, of all heads of an image.

A program has OWN queries and goes over the keys, BLOCK at a time, or the other way round. A tile of
logits is [HEADS, queries, keys]; a mix of heads is a small product with the tile as a matrix. Terms
are looked up as in `attention_kernels`: an entry of an index outside 0..C-1 stands for no term.
Every sum is in a fixed order, so what the kernels find is the same at every run.

`HEADS` is the number of heads, padded to a power of two: the weights of heads that are not there
are 0, so they give nothing to others and are stored nowhere. `WIDTH`, `VALUE` and `BUCKETS` are a
head's widths and the columns of the rows' terms, padded; `TABLES` and `ROWS` the R of each term,
`MASKED` says whether there are regions, `ALIGNED` divides widths and strides, and `PRECISION` is
that of the mixes. Sizes and strides come at run time: `TC` and `RC` are the C of each term,
`SHIFTED` and `ADDED` the lengths of the biases before and after, H or 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

from spacelang.backends.triton.attention_kernels import multiple
from spacelang.backends.triton.launch import INTERPRETED

WEIGHTS = ("before", "before_bias", "after", "after_bias")
POINTERS = (*WEIGHTS, "table", "table_index", "row_index", "regions")
INTEGERS = (
    "H", "N", "D", "V", "TC", "RC", "WINDOWS", "SHIFTED", "ADDED", "q_b", "q_h", "q_n",
    "k_b", "k_h", "k_n", "v_b", "v_h", "v_n", "o_b", "o_h", "o_n", "g_b", "g_h", "g_n", "table_h",
    "rows_b", "rows_h", "rows_n",
)  # fmt: skip
_KEPT = (*INTEGERS, "B", "SPLITS")  # no variant is made for their values
PARTS = tl.constexpr(8)  # of a sum over a tile, so that each warp has one of its own
_WIDENED = tl.constexpr(INTERPRETED)


@triton.jit
def _product(a, b, PRECISION: tl.constexpr):
    """A product summed in float32; the interpreter, which has no bfloat16, takes it so as well."""
    if _WIDENED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _load(
    x, start, H, N, D, x_h, x_n, HEADS: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
    channel=0,
):  # fmt: skip
    """BLOCK rows from `start` on of every head of x [H, N, D], and 0 beyond it.

    WIDTH channels from `channel` on.
    """
    h = tl.arange(0, HEADS)[:, None, None]
    row = (start + tl.arange(0, BLOCK))[None, :, None]
    column = channel + tl.arange(0, WIDTH)[None, None, :]
    inside = (h < H) & (row < N) & (column < D)
    return tl.load(x + h * x_h + row * x_n + column, mask=inside, other=0.0)


@triton.jit
def _pairs(
    x, y, start, first, H, N, D, x_h, x_n, y_h, y_n,
    HEADS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """x_i . y_j of every head, a tile; a step has 16 channels, for registers are few."""
    DEPTH: tl.constexpr = 16
    found = tl.zeros((HEADS, ROWS, COLUMNS), tl.float32)
    for channel in range(0, D, DEPTH):
        left = _load(x, start, H, N, D, x_h, x_n, HEADS, ROWS, DEPTH, channel)
        right = _load(y, first, H, N, D, y_h, y_n, HEADS, COLUMNS, DEPTH, channel)
        found += _product(left, tl.trans(right, (0, 2, 1)), "ieee")
    return found


@triton.jit
def _store(x, tile, start, H, N, D, x_h, x_n):
    """What `_load` reads."""
    h = tl.arange(0, tile.shape[0])[:, None, None]
    row = (start + tl.arange(0, tile.shape[1]))[None, :, None]
    column = tl.arange(0, tile.shape[2])[None, None, :]
    inside = (h < H) & (row < N) & (column < D)
    tl.store(x + h * x_h + row * x_n + column, tile.to(x.dtype.element_ty), mask=inside)


@triton.jit
def _square(weights, H, HEADS: tl.constexpr):
    """A mix of heads [H, H], in float32 and padded with 0."""
    row = tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, HEADS)[None, :]
    inside = (row < H) & (column < H)
    return tl.load(weights + row * H + column, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _store_square(weights, found, H):
    """What `_square` reads."""
    row = tl.arange(0, found.shape[0])[:, None]
    column = tl.arange(0, found.shape[1])[None, :]
    tl.store(weights + row * H + column, found, mask=(row < H) & (column < H))


@triton.jit
def _by_head(bias, count, HEADS: tl.constexpr):
    """A number of each head, ready to be added to a tile; 0 where a mix has no bias."""
    h = tl.arange(0, HEADS)
    return tl.load(bias + h, mask=h < count, other=0.0).to(tl.float32)[:, None, None]


@triton.jit
def _mixed(weights, tile, PRECISION: tl.constexpr):
    """Of each head of the result the sum of its weights times the heads of a tile."""
    flat = tl.reshape(tile, (tile.shape[0], tile.shape[1] * tile.shape[2]))
    return tl.reshape(_product(weights, flat, PRECISION), tile.shape)


@triton.jit
def _crossed(a, b, PRECISION: tl.constexpr):
    """The products of all heads of a tile with all of another, in parts: [PARTS, HEADS, HEADS]."""
    size: tl.constexpr = a.shape[1] * a.shape[2] // PARTS
    a = tl.trans(tl.reshape(a, (a.shape[0], PARTS, size)), (1, 0, 2))
    b = tl.trans(tl.reshape(b, (b.shape[0], PARTS, size)), (1, 2, 0))
    return _product(a, b, PRECISION)


@triton.jit
def _looked_up(values, h, index, i, j, inside, N, C, COUNT: tl.constexpr):
    """The sum over r of values[h + r C + index[r, i, j]], h where a head or a row of it starts."""
    found = tl.zeros(inside.shape, tl.float32)
    for r in tl.static_range(COUNT):
        pair = (i < N) & (j < N)
        at = tl.load(index + (r * N + i) * N + j, mask=pair, other=-1).to(tl.int32)
        there = inside & (at >= 0) & (at < C)
        found += tl.load(values + h + r * C + at, mask=there, other=0.0).to(tl.float32)
    return found


@triton.jit
def _tile(
    q, k, start, first, mix, shift, scale, table, table_index, rows, row_index, regions,
    H, N, D, TC, RC, q_h, q_n, k_h, k_n, table_h, rows_h, rows_n,
    HEADS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, WIDTH: tl.constexpr,
    TABLES: tl.constexpr, ROWS: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Logits of a tile, and the same mixed and masked: -inf where no key is."""
    h = tl.arange(0, HEADS)[:, None, None]
    i = (start + tl.arange(0, QUERIES))[None, :, None]
    j = (first + tl.arange(0, KEYS))[None, None, :]
    inside = (h < H) & (i < N) & (j < N)
    s = _pairs(q, k, start, first, H, N, D, q_h, q_n, k_h, k_n, HEADS, QUERIES, KEYS, WIDTH) * scale
    s += _looked_up(table, h * table_h, table_index, i, j, inside, N, TC, TABLES)
    s += _looked_up(rows, h * rows_h + i * rows_n, row_index, i, j, inside, N, RC, ROWS)
    m = _mixed(mix, s, PRECISION) + shift
    if MASKED:
        mine = tl.load(regions + i, mask=i < N, other=0)
        theirs = tl.load(regions + j, mask=j < N, other=0)
        m += tl.where(mine == theirs, 0.0, -100.0)
    return s, tl.where(j < N, m, -float("inf"))


@triton.jit
def _lines(sums, start, H, N, other, HEADS: tl.constexpr, BLOCK: tl.constexpr):
    """A number of each query of all heads, from [H, N]."""
    h = tl.arange(0, HEADS)[:, None]
    i = (start + tl.arange(0, BLOCK))[None, :]
    return tl.load(sums + h * N + i, mask=(h < H) & (i < N), other=other)


@triton.jit
def _store_lines(sums, found, start, H, N):
    """What `_lines` reads."""
    h = tl.arange(0, found.shape[0])[:, None]
    i = (start + tl.arange(0, found.shape[1]))[None, :]
    tl.store(sums + h * N + i, found, mask=(h < H) & (i < N))


@triton.jit(do_not_specialize=_KEPT)
def forward_kernel(
    q, k, v, out, lse,
    before, before_bias, after, after_bias, table, table_index, rows, row_index, regions, scale,
    H, N, D, V, TC, RC, WINDOWS, SHIFTED, ADDED, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, rows_b, rows_h, rows_n,
    HEADS: tl.constexpr, OWN: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
    VALUE: tl.constexpr, BUCKETS: tl.constexpr, TABLES: tl.constexpr, ROWS: tl.constexpr,
    MASKED: tl.constexpr, ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of queries against all keys, twice: for its normalisers, and for what it gives."""
    start = tl.program_id(1) * OWN
    b = tl.program_id(0).to(tl.int64)
    q += multiple(b * q_b, ALIGNED)
    k += multiple(b * k_b, ALIGNED)
    v += multiple(b * v_b, ALIGNED)
    out += multiple(b * o_b, ALIGNED)
    lse += b * H * N
    rows += b * rows_b
    regions += (b % WINDOWS) * N
    D, V = multiple(D, ALIGNED), multiple(V, ALIGNED)
    q_h, q_n = multiple(q_h, ALIGNED), multiple(q_n, ALIGNED)
    k_h, k_n = multiple(k_h, ALIGNED), multiple(k_n, ALIGNED)
    v_h, v_n = multiple(v_h, ALIGNED), multiple(v_n, ALIGNED)
    o_h, o_n = multiple(o_h, ALIGNED), multiple(o_n, ALIGNED)

    mix, shift = _square(before, H, HEADS), _by_head(before_bias, SHIFTED, HEADS)
    highest = tl.full((HEADS, OWN), -float("inf"), tl.float32)
    total = tl.zeros((HEADS, OWN), tl.float32)
    for first in range(0, N, BLOCK):
        _, m = _tile(
            q, k, start, first, mix, shift, scale, table, table_index, rows, row_index,
            regions, H, N, D, TC, RC, q_h, q_n, k_h, k_n, table_h, rows_h, rows_n,
            HEADS, OWN, BLOCK, WIDTH, TABLES, ROWS, MASKED, PRECISION,
        )  # fmt: skip
        above = tl.maximum(highest, tl.max(m, 2))
        total = total * tl.exp(highest - above) + tl.sum(tl.exp(m - above[:, :, None]), 2)
        highest = above
    normaliser = highest + tl.log(total)
    _store_lines(lse, normaliser, start, H, N)

    mix_after, added = _square(after, H, HEADS), _by_head(after_bias, ADDED, HEADS)
    result = tl.zeros((HEADS, OWN, VALUE), tl.float32)
    for first in range(0, N, BLOCK):
        _, m = _tile(
            q, k, start, first, mix, shift, scale, table, table_index, rows, row_index,
            regions, H, N, D, TC, RC, q_h, q_n, k_h, k_n, table_h, rows_h, rows_n,
            HEADS, OWN, BLOCK, WIDTH, TABLES, ROWS, MASKED, PRECISION,
        )  # fmt: skip
        p = tl.exp(m - normaliser[:, :, None])
        values = _load(v, first, H, N, V, v_h, v_n, HEADS, BLOCK, VALUE)
        weights = _mixed(mix_after, p, PRECISION) + added
        result += _product(weights.to(values.dtype), values, "ieee")
    _store(out, result, start, H, N, V, o_h, o_n)


@triton.jit
def _slopes(
    m, lse, mix_after, g, v, start, first, H, N, V, g_h, g_n, v_h, v_n,
    HEADS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, VALUE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Probabilities of a tile, and the gradients of their mix and of themselves."""
    p = tl.exp(m - _lines(lse, start, H, N, float("inf"), HEADS, QUERIES)[:, :, None])
    weights_grad = _pairs(
        g, v, start, first, H, N, V, g_h, g_n, v_h, v_n, HEADS, QUERIES, KEYS, VALUE
    )
    return p, weights_grad, _mixed(tl.trans(mix_after), weights_grad, PRECISION)


@triton.jit(do_not_specialize=_KEPT)
def shares_kernel(
    q, k, v, g, lse, delta, after_grad, after_bias_grad,
    before, before_bias, after, after_bias, table, table_index, rows, row_index, regions, scale,
    H, N, D, V, TC, RC, WINDOWS, SHIFTED, ADDED, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, rows_b, rows_h, rows_n,
    HEADS: tl.constexpr, OWN: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
    VALUE: tl.constexpr, BUCKETS: tl.constexpr, TABLES: tl.constexpr, ROWS: tl.constexpr,
    MASKED: tl.constexpr, ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Row sums of p dp of a block of queries, and its part of the gradients of the mix after."""
    start = tl.program_id(1) * OWN
    b = tl.program_id(0).to(tl.int64)
    q += multiple(b * q_b, ALIGNED)
    k += multiple(b * k_b, ALIGNED)
    v += multiple(b * v_b, ALIGNED)
    g += multiple(b * g_b, ALIGNED)
    lse += b * H * N
    delta += b * H * N
    rows += b * rows_b
    regions += (b % WINDOWS) * N
    part = b * tl.num_programs(1) + tl.program_id(1)
    D, V = multiple(D, ALIGNED), multiple(V, ALIGNED)
    q_h, q_n = multiple(q_h, ALIGNED), multiple(q_n, ALIGNED)
    k_h, k_n = multiple(k_h, ALIGNED), multiple(k_n, ALIGNED)
    v_h, v_n = multiple(v_h, ALIGNED), multiple(v_n, ALIGNED)
    g_h, g_n = multiple(g_h, ALIGNED), multiple(g_n, ALIGNED)

    mix, shift = _square(before, H, HEADS), _by_head(before_bias, SHIFTED, HEADS)
    mix_after = _square(after, H, HEADS)
    share = tl.zeros((HEADS, OWN), tl.float32)
    found = tl.zeros((PARTS, HEADS, HEADS), tl.float32)
    added = tl.zeros((HEADS,), tl.float32)
    for first in range(0, N, BLOCK):
        _, m = _tile(
            q, k, start, first, mix, shift, scale, table, table_index, rows, row_index,
            regions, H, N, D, TC, RC, q_h, q_n, k_h, k_n, table_h, rows_h, rows_n,
            HEADS, OWN, BLOCK, WIDTH, TABLES, ROWS, MASKED, PRECISION,
        )  # fmt: skip
        p, weights_grad, p_grad = _slopes(
            m, lse, mix_after, g, v, start, first, H, N, V, g_h, g_n, v_h, v_n,
            HEADS, OWN, BLOCK, VALUE, PRECISION,
        )  # fmt: skip
        share += tl.sum(p * p_grad, 2)
        found += _crossed(weights_grad, p, PRECISION)
        added += tl.sum(tl.sum(weights_grad, 2), 1)
    _store_lines(delta, share, start, H, N)
    _store_square(after_grad + part * H * H, tl.sum(found, 0), H)
    h = tl.arange(0, HEADS)
    tl.store(after_bias_grad + part * H + h, added, mask=h < H)


@triton.jit(do_not_specialize=_KEPT)
def queries_kernel(
    q, k, v, g, lse, delta, q_grad,
    before, before_bias, after, after_bias, table, table_index, rows, row_index, regions, scale,
    H, N, D, V, TC, RC, WINDOWS, SHIFTED, ADDED, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, rows_b, rows_h, rows_n,
    HEADS: tl.constexpr, OWN: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
    VALUE: tl.constexpr, BUCKETS: tl.constexpr, TABLES: tl.constexpr, ROWS: tl.constexpr,
    MASKED: tl.constexpr, ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of queries."""
    start = tl.program_id(1) * OWN
    b = tl.program_id(0).to(tl.int64)
    q += multiple(b * q_b, ALIGNED)
    k += multiple(b * k_b, ALIGNED)
    v += multiple(b * v_b, ALIGNED)
    g += multiple(b * g_b, ALIGNED)
    lse += b * H * N
    delta += b * H * N
    rows += b * rows_b
    regions += (b % WINDOWS) * N
    D, V = multiple(D, ALIGNED), multiple(V, ALIGNED)
    q_h, q_n = multiple(q_h, ALIGNED), multiple(q_n, ALIGNED)
    k_h, k_n = multiple(k_h, ALIGNED), multiple(k_n, ALIGNED)
    v_h, v_n = multiple(v_h, ALIGNED), multiple(v_n, ALIGNED)
    g_h, g_n = multiple(g_h, ALIGNED), multiple(g_n, ALIGNED)

    mix, shift = _square(before, H, HEADS), _by_head(before_bias, SHIFTED, HEADS)
    mix_after = _square(after, H, HEADS)
    share = _lines(delta, start, H, N, 0.0, HEADS, OWN)[:, :, None]
    result = tl.zeros((HEADS, OWN, WIDTH), tl.float32)
    for first in range(0, N, BLOCK):
        _, m = _tile(
            q, k, start, first, mix, shift, scale, table, table_index, rows, row_index,
            regions, H, N, D, TC, RC, q_h, q_n, k_h, k_n, table_h, rows_h, rows_n,
            HEADS, OWN, BLOCK, WIDTH, TABLES, ROWS, MASKED, PRECISION,
        )  # fmt: skip
        p, _, p_grad = _slopes(
            m, lse, mix_after, g, v, start, first, H, N, V, g_h, g_n, v_h, v_n,
            HEADS, OWN, BLOCK, VALUE, PRECISION,
        )  # fmt: skip
        s_grad = _mixed(tl.trans(mix), p * (p_grad - share), PRECISION)
        keys = _load(k, first, H, N, D, k_h, k_n, HEADS, BLOCK, WIDTH)
        result += _product(s_grad.to(keys.dtype), keys, "ieee")
    _store(q_grad + b * H * N * D, result * scale, start, H, N, D, N * D, D)


@triton.jit
def _summed(sums, tile, index, start, first, N, C, COUNT: tl.constexpr):
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
        sums += _product(turned, tl.where(chosen, 1.0, 0.0).to(tile.dtype), "ieee")
    return sums


@triton.jit(do_not_specialize=_KEPT)
def rows_kernel(
    q, k, v, g, lse, delta, rows_grad,
    before, before_bias, after, after_bias, table, table_index, rows, row_index, regions, scale,
    H, N, D, V, TC, RC, WINDOWS, SHIFTED, ADDED, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, rows_b, rows_h, rows_n,
    HEADS: tl.constexpr, OWN: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
    VALUE: tl.constexpr, BUCKETS: tl.constexpr, TABLES: tl.constexpr, ROWS: tl.constexpr,
    MASKED: tl.constexpr, ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of the rows of a block of queries."""
    start = tl.program_id(1) * OWN
    b = tl.program_id(0).to(tl.int64)
    q += multiple(b * q_b, ALIGNED)
    k += multiple(b * k_b, ALIGNED)
    v += multiple(b * v_b, ALIGNED)
    g += multiple(b * g_b, ALIGNED)
    lse += b * H * N
    delta += b * H * N
    rows += b * rows_b
    regions += (b % WINDOWS) * N
    D, V = multiple(D, ALIGNED), multiple(V, ALIGNED)
    q_h, q_n = multiple(q_h, ALIGNED), multiple(q_n, ALIGNED)
    k_h, k_n = multiple(k_h, ALIGNED), multiple(k_n, ALIGNED)
    v_h, v_n = multiple(v_h, ALIGNED), multiple(v_n, ALIGNED)
    g_h, g_n = multiple(g_h, ALIGNED), multiple(g_n, ALIGNED)

    mix, shift = _square(before, H, HEADS), _by_head(before_bias, SHIFTED, HEADS)
    mix_after = _square(after, H, HEADS)
    share = _lines(delta, start, H, N, 0.0, HEADS, OWN)[:, :, None]
    sums = tl.zeros((OWN, HEADS, BUCKETS), tl.float32)
    for first in range(0, N, BLOCK):
        _, m = _tile(
            q, k, start, first, mix, shift, scale, table, table_index, rows, row_index,
            regions, H, N, D, TC, RC, q_h, q_n, k_h, k_n, table_h, rows_h, rows_n,
            HEADS, OWN, BLOCK, WIDTH, TABLES, ROWS, MASKED, PRECISION,
        )  # fmt: skip
        p, _, p_grad = _slopes(
            m, lse, mix_after, g, v, start, first, H, N, V, g_h, g_n, v_h, v_n,
            HEADS, OWN, BLOCK, VALUE, PRECISION,
        )  # fmt: skip
        s_grad = _mixed(tl.trans(mix), p * (p_grad - share), PRECISION).to(k.dtype.element_ty)
        sums = _summed(sums, s_grad, row_index, start, first, N, RC, ROWS)
    width = ROWS * RC
    turned = tl.trans(sums, (1, 0, 2))
    _store(rows_grad + b * H * N * width, turned, start, H, N, width, N * width, width)


@triton.jit(do_not_specialize=_KEPT)
def values_kernel(
    q, k, g, lse, v_grad,
    before, before_bias, after, after_bias, table, table_index, rows, row_index, regions, scale,
    H, N, D, V, TC, RC, WINDOWS, SHIFTED, ADDED, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, rows_b, rows_h, rows_n,
    HEADS: tl.constexpr, OWN: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
    VALUE: tl.constexpr, BUCKETS: tl.constexpr, TABLES: tl.constexpr, ROWS: tl.constexpr,
    MASKED: tl.constexpr, ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of values."""
    start = tl.program_id(1) * OWN
    b = tl.program_id(0).to(tl.int64)
    q += multiple(b * q_b, ALIGNED)
    k += multiple(b * k_b, ALIGNED)
    g += multiple(b * g_b, ALIGNED)
    lse += b * H * N
    rows += b * rows_b
    regions += (b % WINDOWS) * N
    D, V = multiple(D, ALIGNED), multiple(V, ALIGNED)
    q_h, q_n = multiple(q_h, ALIGNED), multiple(q_n, ALIGNED)
    k_h, k_n = multiple(k_h, ALIGNED), multiple(k_n, ALIGNED)
    g_h, g_n = multiple(g_h, ALIGNED), multiple(g_n, ALIGNED)

    mix, shift = _square(before, H, HEADS), _by_head(before_bias, SHIFTED, HEADS)
    mix_after, added = _square(after, H, HEADS), _by_head(after_bias, ADDED, HEADS)
    result = tl.zeros((HEADS, OWN, VALUE), tl.float32)
    for first in range(0, N, BLOCK):
        _, m = _tile(
            q, k, first, start, mix, shift, scale, table, table_index, rows, row_index,
            regions, H, N, D, TC, RC, q_h, q_n, k_h, k_n, table_h, rows_h, rows_n,
            HEADS, BLOCK, OWN, WIDTH, TABLES, ROWS, MASKED, PRECISION,
        )  # fmt: skip
        p = tl.exp(m - _lines(lse, first, H, N, float("inf"), HEADS, BLOCK)[:, :, None])
        slopes = _load(g, first, H, N, V, g_h, g_n, HEADS, BLOCK, VALUE)
        weights = (_mixed(mix_after, p, PRECISION) + added).to(slopes.dtype)
        result += _product(tl.trans(weights, (0, 2, 1)), slopes, "ieee")
    _store(v_grad + b * H * N * V, result, start, H, N, V, N * V, V)


@triton.jit(do_not_specialize=_KEPT)
def keys_kernel(
    q, k, v, g, lse, delta, k_grad,
    before, before_bias, after, after_bias, table, table_index, rows, row_index, regions, scale,
    H, N, D, V, TC, RC, WINDOWS, SHIFTED, ADDED, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, rows_b, rows_h, rows_n,
    HEADS: tl.constexpr, OWN: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
    VALUE: tl.constexpr, BUCKETS: tl.constexpr, TABLES: tl.constexpr, ROWS: tl.constexpr,
    MASKED: tl.constexpr, ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of keys."""
    start = tl.program_id(1) * OWN
    b = tl.program_id(0).to(tl.int64)
    q += multiple(b * q_b, ALIGNED)
    k += multiple(b * k_b, ALIGNED)
    v += multiple(b * v_b, ALIGNED)
    g += multiple(b * g_b, ALIGNED)
    lse += b * H * N
    delta += b * H * N
    rows += b * rows_b
    regions += (b % WINDOWS) * N
    D, V = multiple(D, ALIGNED), multiple(V, ALIGNED)
    q_h, q_n = multiple(q_h, ALIGNED), multiple(q_n, ALIGNED)
    k_h, k_n = multiple(k_h, ALIGNED), multiple(k_n, ALIGNED)
    v_h, v_n = multiple(v_h, ALIGNED), multiple(v_n, ALIGNED)
    g_h, g_n = multiple(g_h, ALIGNED), multiple(g_n, ALIGNED)

    mix, shift = _square(before, H, HEADS), _by_head(before_bias, SHIFTED, HEADS)
    mix_after = _square(after, H, HEADS)
    result = tl.zeros((HEADS, OWN, WIDTH), tl.float32)
    for first in range(0, N, BLOCK):
        _, m = _tile(
            q, k, first, start, mix, shift, scale, table, table_index, rows, row_index,
            regions, H, N, D, TC, RC, q_h, q_n, k_h, k_n, table_h, rows_h, rows_n,
            HEADS, BLOCK, OWN, WIDTH, TABLES, ROWS, MASKED, PRECISION,
        )  # fmt: skip
        p, _, p_grad = _slopes(
            m, lse, mix_after, g, v, first, start, H, N, V, g_h, g_n, v_h, v_n,
            HEADS, BLOCK, OWN, VALUE, PRECISION,
        )  # fmt: skip
        share = _lines(delta, first, H, N, 0.0, HEADS, BLOCK)[:, :, None]
        s_grad = _mixed(tl.trans(mix), p * (p_grad - share), PRECISION)
        queries = _load(q, first, H, N, D, q_h, q_n, HEADS, BLOCK, WIDTH)
        result += _product(tl.trans(s_grad, (0, 2, 1)).to(queries.dtype), queries, "ieee")
    _store(k_grad + b * H * N * D, result * scale, start, H, N, D, N * D, D)


@triton.jit(do_not_specialize=_KEPT)
def sums_kernel(
    q, k, v, g, lse, delta, partial, before_grad, B, SPLITS,
    before, before_bias, after, after_bias, table, table_index, rows, row_index, regions, scale,
    H, N, D, V, TC, RC, WINDOWS, SHIFTED, ADDED, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, rows_b, rows_h, rows_n,
    HEADS: tl.constexpr, OWN: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
    VALUE: tl.constexpr, BUCKETS: tl.constexpr, TABLES: tl.constexpr, ROWS: tl.constexpr,
    MASKED: tl.constexpr, ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What is summed over images: every SPLITS-th of them, of a tile of logits.

    Its part of the gradient of the mix before, and gradients of the logits, [SPLITS, H, N, N].
    """
    tiles = tl.cdiv(N, BLOCK)
    start = (tl.program_id(0) // tiles) * OWN
    first = (tl.program_id(0) % tiles) * BLOCK
    split = tl.program_id(1)
    D, V = multiple(D, ALIGNED), multiple(V, ALIGNED)
    q_h, q_n = multiple(q_h, ALIGNED), multiple(q_n, ALIGNED)
    k_h, k_n = multiple(k_h, ALIGNED), multiple(k_n, ALIGNED)
    v_h, v_n = multiple(v_h, ALIGNED), multiple(v_n, ALIGNED)
    g_h, g_n = multiple(g_h, ALIGNED), multiple(g_n, ALIGNED)

    mix, shift = _square(before, H, HEADS), _by_head(before_bias, SHIFTED, HEADS)
    mix_after = _square(after, H, HEADS)
    result = tl.zeros((HEADS, OWN, BLOCK), tl.float32)
    found = tl.zeros((PARTS, HEADS, HEADS), tl.float32)
    for image in range(split, B, SPLITS):
        b = tl.cast(image, tl.int64)
        at_q, at_k = q + multiple(b * q_b, ALIGNED), k + multiple(b * k_b, ALIGNED)
        at_v, at_g = v + multiple(b * v_b, ALIGNED), g + multiple(b * g_b, ALIGNED)
        at_rows, at_regions = rows + b * rows_b, regions + (b % WINDOWS) * N
        s, m = _tile(
            at_q, at_k, start, first, mix, shift, scale, table, table_index, at_rows, row_index,
            at_regions, H, N, D, TC, RC, q_h, q_n, k_h, k_n, table_h, rows_h, rows_n,
            HEADS, OWN, BLOCK, WIDTH, TABLES, ROWS, MASKED, PRECISION,
        )  # fmt: skip
        p, _, p_grad = _slopes(
            m, lse + b * H * N, mix_after, at_g, at_v, start, first, H, N, V, g_h, g_n, v_h, v_n,
            HEADS, OWN, BLOCK, VALUE, PRECISION,
        )  # fmt: skip
        share = _lines(delta + b * H * N, start, H, N, 0.0, HEADS, OWN)[:, :, None]
        m_grad = p * (p_grad - share)
        found += _crossed(m_grad, s, PRECISION)
        if TABLES:
            result += _mixed(tl.trans(mix), m_grad, PRECISION)
    part = tl.cast(split, tl.int64) * tl.num_programs(0) + tl.program_id(0)
    _store_square(before_grad + part * H * H, tl.sum(found, 0), H)
    if TABLES:
        at = partial + tl.cast(split, tl.int64) * H * N * N + first
        _store(at, result, start, H, N, N - first, N * N, N)


KERNELS = {
    "forward": forward_kernel,
    "shares": shares_kernel,
    "queries": queries_kernel,
    "rows": rows_kernel,
    "values": values_kernel,
    "keys": keys_kernel,
    "sums": sums_kernel,
}
