"""Kernels of `mixed_attention`: a program each block of queries or keys, of all heads of an image.

A program has OWN queries and goes over the keys, BLOCK at a time, or the other way round; tiles are
those of `mixed_attention_tiles`. Every sum is in a fixed order, so what the kernels find is the
same at every run.

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

from spacelang.backends.triton.mixed_attention_tiles import (
    PARTS,
    Rows,
    by_column,
    by_head,
    crossed,
    dense,
    lines,
    load,
    logits,
    mixed,
    product,
    rows_of,
    slopes,
    square,
    store,
    store_lines,
    store_square,
    terms_of,
)

WEIGHTS = ("before", "before_bias", "after", "after_bias")
POINTERS = (*WEIGHTS, "table", "table_index", "row_index", "regions")
INTEGERS = (
    "H", "N", "D", "V", "TC", "RC", "WINDOWS", "SHIFTED", "ADDED", "q_b", "q_h", "q_n",
    "k_b", "k_h", "k_n", "v_b", "v_h", "v_n", "o_b", "o_h", "o_n", "g_b", "g_h", "g_n", "table_h",
    "rows_b", "rows_h", "rows_n",
)  # fmt: skip
_KEPT = (*INTEGERS, "B", "SPLITS")  # no variant is made for their values


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
    b, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * OWN
    q = rows_of(q, b, q_b, q_h, q_n, D, ALIGNED)
    k = rows_of(k, b, k_b, k_h, k_n, D, ALIGNED)
    v = rows_of(v, b, v_b, v_h, v_n, V, ALIGNED)
    out = rows_of(out, b, o_b, o_h, o_n, V, ALIGNED)
    lse += b * H * N
    terms = terms_of(
        b, scale, table, table_index, rows, row_index, regions, N, TC, RC, WINDOWS,
        table_h, rows_b, rows_h, rows_n,
    )  # fmt: skip
    mix, shift = square(before, H, HEADS), by_head(before_bias, SHIFTED, HEADS)
    highest = tl.full((HEADS, OWN), -float("inf"), tl.float32)
    total = tl.zeros((HEADS, OWN), tl.float32)
    for first in range(0, N, BLOCK):
        _, m = logits(
            q, k, start, first, mix, shift, terms, H, N,
            HEADS, OWN, BLOCK, TABLES, ROWS, MASKED, PRECISION,
        )  # fmt: skip
        above = tl.maximum(highest, tl.max(m, 2))
        total = total * tl.exp(highest - above) + tl.sum(tl.exp(m - above[:, :, None]), 2)
        highest = above
    normaliser = highest + tl.log(total)
    store_lines(lse, normaliser, start, H, N)

    mix_after, added = square(after, H, HEADS), by_head(after_bias, ADDED, HEADS)
    result = tl.zeros((HEADS, OWN, VALUE), tl.float32)
    for first in range(0, N, BLOCK):
        _, m = logits(
            q, k, start, first, mix, shift, terms, H, N,
            HEADS, OWN, BLOCK, TABLES, ROWS, MASKED, PRECISION,
        )  # fmt: skip
        p = tl.exp(m - normaliser[:, :, None])
        values = load(v, first, H, N, HEADS, BLOCK, VALUE)
        weights = mixed(mix_after, p, PRECISION) + added
        result += product(weights.to(values.dtype), values, "ieee")
    store(out, result, start, H, N)


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
    b, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * OWN
    q = rows_of(q, b, q_b, q_h, q_n, D, ALIGNED)
    k = rows_of(k, b, k_b, k_h, k_n, D, ALIGNED)
    v = rows_of(v, b, v_b, v_h, v_n, V, ALIGNED)
    g = rows_of(g, b, g_b, g_h, g_n, V, ALIGNED)
    lse += b * H * N
    delta += b * H * N
    part = b * tl.num_programs(1) + tl.program_id(1)
    terms = terms_of(
        b, scale, table, table_index, rows, row_index, regions, N, TC, RC, WINDOWS,
        table_h, rows_b, rows_h, rows_n,
    )  # fmt: skip
    mix, shift = square(before, H, HEADS), by_head(before_bias, SHIFTED, HEADS)
    mix_after = square(after, H, HEADS)
    share = tl.zeros((HEADS, OWN), tl.float32)
    found = tl.zeros((PARTS, HEADS, HEADS), tl.float32)
    added = tl.zeros((HEADS,), tl.float32)
    for first in range(0, N, BLOCK):
        _, m = logits(
            q, k, start, first, mix, shift, terms, H, N,
            HEADS, OWN, BLOCK, TABLES, ROWS, MASKED, PRECISION,
        )  # fmt: skip
        p, weights_grad, p_grad = slopes(
            m, lse, mix_after, g, v, start, first, H, N, HEADS, OWN, BLOCK, PRECISION
        )
        share += tl.sum(p * p_grad, 2)
        found += crossed(weights_grad, p, PRECISION)
        added += tl.sum(tl.sum(weights_grad, 2), 1)
    store_lines(delta, share, start, H, N)
    store_square(after_grad + part * H * H, tl.sum(found, 0), H)
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
    b, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * OWN
    q = rows_of(q, b, q_b, q_h, q_n, D, ALIGNED)
    k = rows_of(k, b, k_b, k_h, k_n, D, ALIGNED)
    v = rows_of(v, b, v_b, v_h, v_n, V, ALIGNED)
    g = rows_of(g, b, g_b, g_h, g_n, V, ALIGNED)
    lse += b * H * N
    delta += b * H * N
    terms = terms_of(
        b, scale, table, table_index, rows, row_index, regions, N, TC, RC, WINDOWS,
        table_h, rows_b, rows_h, rows_n,
    )  # fmt: skip
    mix, shift = square(before, H, HEADS), by_head(before_bias, SHIFTED, HEADS)
    mix_after = square(after, H, HEADS)
    share = lines(delta, start, H, N, 0.0, HEADS, OWN)[:, :, None]
    result = tl.zeros((HEADS, OWN, WIDTH), tl.float32)
    for first in range(0, N, BLOCK):
        _, m = logits(
            q, k, start, first, mix, shift, terms, H, N,
            HEADS, OWN, BLOCK, TABLES, ROWS, MASKED, PRECISION,
        )  # fmt: skip
        p, _, p_grad = slopes(
            m, lse, mix_after, g, v, start, first, H, N, HEADS, OWN, BLOCK, PRECISION
        )
        s_grad = mixed(tl.trans(mix), p * (p_grad - share), PRECISION)
        keys = load(k, first, H, N, HEADS, BLOCK, WIDTH)
        result += product(s_grad.to(keys.dtype), keys, "ieee")
    store(dense(q_grad, b, H, N, q.width), result * scale, start, H, N)


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
    b, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * OWN
    q = rows_of(q, b, q_b, q_h, q_n, D, ALIGNED)
    k = rows_of(k, b, k_b, k_h, k_n, D, ALIGNED)
    v = rows_of(v, b, v_b, v_h, v_n, V, ALIGNED)
    g = rows_of(g, b, g_b, g_h, g_n, V, ALIGNED)
    lse += b * H * N
    delta += b * H * N
    terms = terms_of(
        b, scale, table, table_index, rows, row_index, regions, N, TC, RC, WINDOWS,
        table_h, rows_b, rows_h, rows_n,
    )  # fmt: skip
    mix, shift = square(before, H, HEADS), by_head(before_bias, SHIFTED, HEADS)
    mix_after = square(after, H, HEADS)
    share = lines(delta, start, H, N, 0.0, HEADS, OWN)[:, :, None]
    sums = tl.zeros((OWN, HEADS, BUCKETS), tl.float32)
    for first in range(0, N, BLOCK):
        _, m = logits(
            q, k, start, first, mix, shift, terms, H, N,
            HEADS, OWN, BLOCK, TABLES, ROWS, MASKED, PRECISION,
        )  # fmt: skip
        p, _, p_grad = slopes(
            m, lse, mix_after, g, v, start, first, H, N, HEADS, OWN, BLOCK, PRECISION
        )
        s_grad = mixed(tl.trans(mix), p * (p_grad - share), PRECISION)
        s_grad = s_grad.to(rows_grad.dtype.element_ty)
        sums = by_column(sums, s_grad, row_index, start, first, N, RC, ROWS)
    store(dense(rows_grad, b, H, N, ROWS * RC), tl.trans(sums, (1, 0, 2)), start, H, N)


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
    b, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * OWN
    q = rows_of(q, b, q_b, q_h, q_n, D, ALIGNED)
    k = rows_of(k, b, k_b, k_h, k_n, D, ALIGNED)
    g = rows_of(g, b, g_b, g_h, g_n, V, ALIGNED)
    lse += b * H * N
    terms = terms_of(
        b, scale, table, table_index, rows, row_index, regions, N, TC, RC, WINDOWS,
        table_h, rows_b, rows_h, rows_n,
    )  # fmt: skip
    mix, shift = square(before, H, HEADS), by_head(before_bias, SHIFTED, HEADS)
    mix_after, added = square(after, H, HEADS), by_head(after_bias, ADDED, HEADS)
    result = tl.zeros((HEADS, OWN, VALUE), tl.float32)
    for first in range(0, N, BLOCK):
        _, m = logits(
            q, k, first, start, mix, shift, terms, H, N,
            HEADS, BLOCK, OWN, TABLES, ROWS, MASKED, PRECISION,
        )  # fmt: skip
        p = tl.exp(m - lines(lse, first, H, N, float("inf"), HEADS, BLOCK)[:, :, None])
        slope = load(g, first, H, N, HEADS, BLOCK, VALUE)
        weights = (mixed(mix_after, p, PRECISION) + added).to(slope.dtype)
        result += product(tl.trans(weights, (0, 2, 1)), slope, "ieee")
    store(dense(v_grad, b, H, N, g.width), result, start, H, N)


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
    b, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * OWN
    q = rows_of(q, b, q_b, q_h, q_n, D, ALIGNED)
    k = rows_of(k, b, k_b, k_h, k_n, D, ALIGNED)
    v = rows_of(v, b, v_b, v_h, v_n, V, ALIGNED)
    g = rows_of(g, b, g_b, g_h, g_n, V, ALIGNED)
    lse += b * H * N
    delta += b * H * N
    terms = terms_of(
        b, scale, table, table_index, rows, row_index, regions, N, TC, RC, WINDOWS,
        table_h, rows_b, rows_h, rows_n,
    )  # fmt: skip
    mix, shift = square(before, H, HEADS), by_head(before_bias, SHIFTED, HEADS)
    mix_after = square(after, H, HEADS)
    result = tl.zeros((HEADS, OWN, WIDTH), tl.float32)
    for first in range(0, N, BLOCK):
        _, m = logits(
            q, k, first, start, mix, shift, terms, H, N,
            HEADS, BLOCK, OWN, TABLES, ROWS, MASKED, PRECISION,
        )  # fmt: skip
        p, _, p_grad = slopes(
            m, lse, mix_after, g, v, first, start, H, N, HEADS, BLOCK, OWN, PRECISION
        )
        share = lines(delta, first, H, N, 0.0, HEADS, BLOCK)[:, :, None]
        s_grad = mixed(tl.trans(mix), p * (p_grad - share), PRECISION)
        queries = load(q, first, H, N, HEADS, BLOCK, WIDTH)
        result += product(tl.trans(s_grad, (0, 2, 1)).to(queries.dtype), queries, "ieee")
    store(dense(k_grad, b, H, N, k.width), result * scale, start, H, N)


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
    mix, shift = square(before, H, HEADS), by_head(before_bias, SHIFTED, HEADS)
    mix_after = square(after, H, HEADS)
    result = tl.zeros((HEADS, OWN, BLOCK), tl.float32)
    found = tl.zeros((PARTS, HEADS, HEADS), tl.float32)
    for image in range(split, B, SPLITS):
        b = tl.cast(image, tl.int64)
        q_rows = rows_of(q, b, q_b, q_h, q_n, D, ALIGNED)
        k_rows = rows_of(k, b, k_b, k_h, k_n, D, ALIGNED)
        v_rows = rows_of(v, b, v_b, v_h, v_n, V, ALIGNED)
        g_rows = rows_of(g, b, g_b, g_h, g_n, V, ALIGNED)
        terms = terms_of(
            b, scale, table, table_index, rows, row_index, regions, N, TC, RC, WINDOWS,
            table_h, rows_b, rows_h, rows_n,
        )  # fmt: skip
        s, m = logits(
            q_rows, k_rows, start, first, mix, shift, terms, H, N,
            HEADS, OWN, BLOCK, TABLES, ROWS, MASKED, PRECISION,
        )  # fmt: skip
        p, _, p_grad = slopes(
            m, lse + b * H * N, mix_after, g_rows, v_rows, start, first, H, N,
            HEADS, OWN, BLOCK, PRECISION,
        )  # fmt: skip
        share = lines(delta + b * H * N, start, H, N, 0.0, HEADS, OWN)[:, :, None]
        m_grad = p * (p_grad - share)
        found += crossed(m_grad, s, PRECISION)
        if TABLES:
            result += mixed(tl.trans(mix), m_grad, PRECISION)
    part = tl.cast(split, tl.int64) * tl.num_programs(0) + tl.program_id(0)
    store_square(before_grad + part * H * H, tl.sum(found, 0), H)
    if TABLES:
        at = partial + tl.cast(split, tl.int64) * H * N * N + first
        store(Rows(at, N * N, N, N - first), result, start, H, N)


KERNELS = {
    "forward": forward_kernel,
    "shares": shares_kernel,
    "queries": queries_kernel,
    "rows": rows_kernel,
    "values": values_kernel,
    "keys": keys_kernel,
    "sums": sums_kernel,
}
