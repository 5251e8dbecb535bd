"""Backward kernels of `mixed_attention`; arguments are those of `mixed_attention_kernels`.

Each makes the tiles of logits again, so that it holds one result in registers beside them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from spacelang.backends.triton.mixed_attention_tiles import (
    KEPT,
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


@triton.jit(do_not_specialize=KEPT)
def shares_kernel(
    q, k, v, g, lse, delta, after_grad, after_bias_grad,
    before, before_bias, after, after_bias, table, table_index, rows, row_index, regions, scale,
    H, N, D, V, TC, RC, WINDOWS, SHIFTED, ADDED, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, table_r, table_c, rows_b, rows_h, rows_n,
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
    rows = Rows(rows + b * rows_b, rows_h, rows_n, RC)
    terms = terms_of(
        b, scale, table, table_index, rows, row_index, regions, N, TC, RC, WINDOWS,
        table_h, table_r, table_c,
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


@triton.jit(do_not_specialize=KEPT)
def queries_kernel(
    q, k, v, g, lse, delta, q_grad,
    before, before_bias, after, after_bias, table, table_index, rows, row_index, regions, scale,
    H, N, D, V, TC, RC, WINDOWS, SHIFTED, ADDED, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, table_r, table_c, rows_b, rows_h, rows_n,
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
    rows = Rows(rows + b * rows_b, rows_h, rows_n, RC)
    terms = terms_of(
        b, scale, table, table_index, rows, row_index, regions, N, TC, RC, WINDOWS,
        table_h, table_r, table_c,
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


@triton.jit(do_not_specialize=KEPT)
def rows_kernel(
    q, k, v, g, lse, delta, rows_grad,
    before, before_bias, after, after_bias, table, table_index, rows, row_index, regions, scale,
    H, N, D, V, TC, RC, WINDOWS, SHIFTED, ADDED, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, table_r, table_c, rows_b, rows_h, rows_n,
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
    rows = Rows(rows + b * rows_b, rows_h, rows_n, RC)
    terms = terms_of(
        b, scale, table, table_index, rows, row_index, regions, N, TC, RC, WINDOWS,
        table_h, table_r, table_c,
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


@triton.jit(do_not_specialize=KEPT)
def values_kernel(
    q, k, g, lse, v_grad,
    before, before_bias, after, after_bias, table, table_index, rows, row_index, regions, scale,
    H, N, D, V, TC, RC, WINDOWS, SHIFTED, ADDED, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, table_r, table_c, rows_b, rows_h, rows_n,
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
    rows = Rows(rows + b * rows_b, rows_h, rows_n, RC)
    terms = terms_of(
        b, scale, table, table_index, rows, row_index, regions, N, TC, RC, WINDOWS,
        table_h, table_r, table_c,
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


@triton.jit(do_not_specialize=KEPT)
def keys_kernel(
    q, k, v, g, lse, delta, k_grad,
    before, before_bias, after, after_bias, table, table_index, rows, row_index, regions, scale,
    H, N, D, V, TC, RC, WINDOWS, SHIFTED, ADDED, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, table_r, table_c, rows_b, rows_h, rows_n,
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
    rows = Rows(rows + b * rows_b, rows_h, rows_n, RC)
    terms = terms_of(
        b, scale, table, table_index, rows, row_index, regions, N, TC, RC, WINDOWS,
        table_h, table_r, table_c,
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


@triton.jit(do_not_specialize=KEPT)
def sums_kernel(
    q, k, v, g, lse, delta, partial, before_grad, B, SPLITS,
    before, before_bias, after, after_bias, table, table_index, rows, row_index, regions, scale,
    H, N, D, V, TC, RC, WINDOWS, SHIFTED, ADDED, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, table_r, table_c, rows_b, rows_h, rows_n,
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
        lines_of = Rows(rows + b * rows_b, rows_h, rows_n, RC)
        terms = terms_of(
            b, scale, table, table_index, lines_of, row_index, regions, N, TC, RC, WINDOWS,
            table_h, table_r, table_c,
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
