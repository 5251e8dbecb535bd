"""Forward kernel of `mixed_attention`: a program each block of queries, of all heads of an image.

A program has OWN queries and goes over the keys, BLOCK at a time, or the other way round (of
`mixed_attention_backward`); tiles are those of `mixed_attention_tiles`. Every sum is in a fixed
order, so what the kernels find is the same at every run.

`HEADS` is the number of heads, padded to a power of two: the weights of heads that are not there
are 0, so they give nothing to others and are stored nowhere. `WIDTH`, `VALUE` and `BUCKETS` are a
head's widths and the columns of the rows' terms, padded; `TABLES` and `ROWS` the R of each term,
`INSIDE` says whether a program makes those rows itself, of one `key_table` [R, C, D] of all heads,
`MASKED` says whether there are regions, `ALIGNED` divides widths and strides, and `PRECISION` is
that of the mixes. Sizes and strides come at run time: `TC` and `RC` are the C of each term,
`SHIFTED` and `ADDED` the lengths of the biases before and after, H or 0.
"""

from __future__ import annotations

import triton
import triton.language as tl

from spacelang.backends.triton import mixed_attention_backward as backward
from spacelang.backends.triton.mixed_attention_tiles import (
    KEPT,
    Rows,
    by_head,
    load,
    logits,
    made_rows,
    mixed,
    product,
    rows_of,
    square,
    store,
    store_lines,
    terms_of,
)


@triton.jit(do_not_specialize=KEPT)
def forward_kernel(
    q, k, v, out, lse, key_table, key_c, key_d,
    before, before_bias, after, after_bias, table, table_index, rows, row_index, regions, scale,
    H, N, D, V, TC, RC, WINDOWS, SHIFTED, ADDED, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, table_r, table_c, rows_b, rows_h, rows_n,
    HEADS: tl.constexpr, OWN: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr,
    VALUE: tl.constexpr, BUCKETS: tl.constexpr, TABLES: tl.constexpr, ROWS: tl.constexpr,
    MASKED: tl.constexpr, ALIGNED: tl.constexpr, PRECISION: tl.constexpr, INSIDE: tl.constexpr,
):  # fmt: skip
    """A block of queries against all keys, twice: for its normalisers, and for what it gives."""
    b, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * OWN
    q = rows_of(q, b, q_b, q_h, q_n, D, ALIGNED)
    k = rows_of(k, b, k_b, k_h, k_n, D, ALIGNED)
    v = rows_of(v, b, v_b, v_h, v_n, V, ALIGNED)
    out = rows_of(out, b, o_b, o_h, o_n, V, ALIGNED)
    lse += b * H * N
    if INSIDE:
        rows = made_rows(q, key_table, key_c, key_d, start, H, N, ROWS * RC, HEADS, OWN, BUCKETS)
        rows *= scale
    else:
        rows = Rows(rows + b * rows_b, rows_h, rows_n, RC)
    terms = terms_of(
        b, scale, table, table_index, rows, row_index, regions, N, TC, RC, WINDOWS,
        table_h, table_r, table_c,
    )  # fmt: skip
    mix, shift = square(before, H, HEADS), by_head(before_bias, SHIFTED, HEADS)
    highest = tl.full((HEADS, OWN), -float("inf"), tl.float32)
    total = tl.zeros((HEADS, OWN), tl.float32)
    for first in range(0, N, BLOCK):
        _, m = logits(
            q, k, start, first, mix, shift, terms, H, N,
            HEADS, OWN, BLOCK, TABLES, ROWS, MASKED, PRECISION, INSIDE,
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
            HEADS, OWN, BLOCK, TABLES, ROWS, MASKED, PRECISION, INSIDE,
        )  # fmt: skip
        p = tl.exp(m - normaliser[:, :, None])
        values = load(v, first, H, N, HEADS, BLOCK, VALUE)
        weights = mixed(mix_after, p, PRECISION) + added
        result += product(weights.to(values.dtype), values, "ieee")
    store(out, result, start, H, N)


KERNELS = {
    "forward": forward_kernel,
    "shares": backward.shares_kernel,
    "queries": backward.queries_kernel,
    "rows": backward.rows_kernel,
    "values": backward.values_kernel,
    "keys": backward.keys_kernel,
    "sums": backward.sums_kernel,
}
