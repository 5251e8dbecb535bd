"""Kernels of `attention`: a program each block of queries, or of keys, of a head of an image.

Terms are pointers and are looked up a tile at a time. An index table is [R, N, N], one for all
images and heads; lookup r of R has C columns of its own, and an entry outside 0..C-1 stands for no
term. Every sum is in a fixed order, so what the kernels find is the same at every run.

`BLOCK` is the side of a tile of logits; `WIDTH` and `VALUE` are a head's widths and `BUCKETS` the
columns of the widest term, padded to powers of two; `TABLES`, `ROWS`, `COLUMNS` and `MASSES` are
the R of each term, `MASKED` says whether there are regions, and `ALIGNED` divides the widths and
strides of q, k and v, so that a row is read 16 bytes at a time. `INSIDE` says whether the forward
kernel makes the rows of queries and the columns of keys itself, and gives the values' term.
Sizes and strides come at run time: `TC`, `RC`, `CC` and `MC` are the C of each term, `_b`, `_h` and
`_n` the strides of images, heads and tokens, `_r`, `_c` and `_d` those of a table's R, C and D.
"""

from __future__ import annotations

import triton
import triton.language as tl

from spacelang.backends.triton.attention_tiles import (
    dot,
    load,
    multiple,
    narrowed,
    scaled,
    scores,
    slopes_of,
    store,
    summed,
)

POINTERS = ("table_index", "row_index", "column_index", "mass_index", "regions")
INTEGERS = (
    "H", "N", "D", "V", "TC", "RC", "CC", "MC", "WINDOWS", "q_b", "q_h", "q_n", "k_b", "k_h", "k_n",
    "v_b", "v_h", "v_n", "o_b", "o_h", "o_n", "g_b", "g_h", "g_n", "table_h", "table_r", "table_c",
    "rows_b", "rows_h", "rows_n", "columns_b", "columns_h", "columns_n",
)  # fmt: skip
OWN = (  # of some kernels
    "key_h", "key_c", "key_d", "query_h", "query_c", "query_d", "value_h", "KEPT", "B", "SPLITS",
)  # fmt: skip
_KEPT = (*INTEGERS, *OWN, "C", "COUNT")  # no variant is made for their values


@triton.jit(do_not_specialize=_KEPT)
def forward_kernel(
    q, k, v, out, lse, mass, key_table, query_table, value_table,
    key_h, key_c, key_d, query_h, query_c, query_d, value_h, KEPT,
    table, table_index, rows, row_index, columns, column_index, mass_index, regions, scale,
    H, N, D, V, TC, RC, CC, MC, WINDOWS, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, table_r, table_c,
    rows_b, rows_h, rows_n, columns_b, columns_h, columns_n,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, VALUE: tl.constexpr, BUCKETS: tl.constexpr,
    TABLES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, MASSES: tl.constexpr,
    MASKED: tl.constexpr, ALIGNED: tl.constexpr, INSIDE: tl.constexpr,
):  # fmt: skip
    """A block of queries against all keys, with a running maximum and sum.

    The masses of the first KEPT tokens are written: of all, or of none.
    """
    start = tl.program_id(1) * BLOCK
    both = tl.program_id(0).to(tl.int64)
    b, h = both // H, both % H
    q += multiple(b * q_b + h * q_h, ALIGNED)
    k += multiple(b * k_b + h * k_h, ALIGNED)
    v += multiple(b * v_b + h * v_h, ALIGNED)
    out += multiple(b * o_b + h * o_h, ALIGNED)
    table += h * table_h
    regions += (b % WINDOWS) * N
    D, V = multiple(D, ALIGNED), multiple(V, ALIGNED)
    q_n = multiple(q_n, ALIGNED)
    k_n = multiple(k_n, ALIGNED)
    v_n = multiple(v_n, ALIGNED)
    o_n = multiple(o_n, ALIGNED)

    line = start + tl.arange(0, BLOCK)
    i = line[:, None]
    queries = load(q, start, N, D, q_n, BLOCK, WIDTH)
    if INSIDE and ROWS:
        key_table += h * key_h
        right = scaled(key_table, scale, ROWS * RC, D, key_c, key_d, queries.dtype, WIDTH, BUCKETS)
        rows = narrowed(dot(queries, right), queries.dtype)
    else:
        rows += b * rows_b + h * rows_h
    if INSIDE and COLUMNS:
        query_table += h * query_h
        left = scaled(
            query_table, scale, COLUMNS * CC, D, query_c, query_d, queries.dtype, WIDTH, BUCKETS
        )
        left = tl.trans(left)
    else:
        columns += b * columns_b + h * columns_h
    highest = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    result = tl.zeros((BLOCK, VALUE), tl.float32)
    sums = tl.zeros((BLOCK, BUCKETS), tl.float32)
    for first in range(0, N, BLOCK):
        j = (first + tl.arange(0, BLOCK))[None, :]
        inside = (i < N) & (j < N)
        keys = load(k, first, N, D, k_n, BLOCK, WIDTH)
        values = load(v, first, N, V, v_n, BLOCK, VALUE)
        met = columns
        if INSIDE and COLUMNS:
            met = narrowed(dot(left, tl.trans(keys)), keys.dtype)
        s = scores(
            queries, keys, i, j, inside, scale, table, table_index, table_r, table_c,
            rows, row_index, rows_n, met, column_index, columns_n, regions, N, TC, RC, CC,
            TABLES, ROWS, COLUMNS, MASKED, INSIDE,
        )  # fmt: skip
        above = tl.maximum(highest, tl.max(s, 1))
        p = tl.exp(s - above[:, None])
        decay = tl.exp(highest - above)
        total = total * decay + tl.sum(p, 1)
        highest = above
        result = result * decay[:, None] + dot(p.to(values.dtype), values)
        if MASSES:
            sums = summed(
                sums * decay[:, None], p, mass_index, i, j, inside, N, MC, 1, MASSES, BUCKETS
            )
    result = result / total[:, None]
    tl.store(lse + both * N + line, highest + tl.log(total), mask=line < N)
    if MASSES:
        width = MASSES * MC
        sums = sums / total[:, None]
        store(mass + both * N * width, sums, start, KEPT, width, width)
        if INSIDE:
            tables = load(value_table + h * value_h, 0, width, V, V, BUCKETS, VALUE)
            result += dot(sums.to(v.dtype.element_ty), tables.to(v.dtype.element_ty))
    store(out, result, start, N, V, o_n)


@triton.jit(do_not_specialize=_KEPT)
def queries_kernel(
    q, k, v, out, g, mass_g, lse, delta, q_grad, rows_grad,
    table, table_index, rows, row_index, columns, column_index, mass_index, regions, scale,
    H, N, D, V, TC, RC, CC, MC, WINDOWS, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, table_r, table_c,
    rows_b, rows_h, rows_n, columns_b, columns_h, columns_n,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, VALUE: tl.constexpr, BUCKETS: tl.constexpr,
    TABLES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, MASSES: tl.constexpr,
    MASKED: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of queries and of its rows; `delta`, which the other kernels read."""
    start = tl.program_id(1) * BLOCK
    both = tl.program_id(0).to(tl.int64)
    b, h = both // H, both % H
    q += multiple(b * q_b + h * q_h, ALIGNED)
    k += multiple(b * k_b + h * k_h, ALIGNED)
    v += multiple(b * v_b + h * v_h, ALIGNED)
    out += multiple(b * o_b + h * o_h, ALIGNED)
    g += multiple(b * g_b + h * g_h, ALIGNED)
    table += h * table_h
    rows += b * rows_b + h * rows_h
    columns += b * columns_b + h * columns_h
    regions += (b % WINDOWS) * N
    D, V = multiple(D, ALIGNED), multiple(V, ALIGNED)
    q_n = multiple(q_n, ALIGNED)
    k_n = multiple(k_n, ALIGNED)
    v_n = multiple(v_n, ALIGNED)
    o_n = multiple(o_n, ALIGNED)
    g_n = multiple(g_n, ALIGNED)
    mass_g += both * N * (MASSES * MC)

    line = start + tl.arange(0, BLOCK)
    i = line[:, None]
    slopes = load(g, start, N, V, g_n, BLOCK, VALUE)
    forward = load(out, start, N, V, o_n, BLOCK, VALUE)
    share = tl.sum(forward.to(tl.float32) * slopes.to(tl.float32), 1)
    tl.store(delta + both * N + line, share, mask=line < N)

    normaliser = tl.load(lse + both * N + line, mask=line < N, other=float("inf"))
    queries = load(q, start, N, D, q_n, BLOCK, WIDTH)
    result = tl.zeros((BLOCK, WIDTH), tl.float32)
    sums = tl.zeros((BLOCK, BUCKETS), tl.float32)
    for first in range(0, N, BLOCK):
        j = (first + tl.arange(0, BLOCK))[None, :]
        inside = (i < N) & (j < N)
        keys = load(k, first, N, D, k_n, BLOCK, WIDTH)
        values = load(v, first, N, V, v_n, BLOCK, VALUE)
        s = scores(
            queries, keys, i, j, inside, scale, table, table_index, table_r, table_c,
            rows, row_index, rows_n, columns, column_index, columns_n, regions, N, TC, RC, CC,
            TABLES, ROWS, COLUMNS, MASKED,
        )  # fmt: skip
        _, s_grad = slopes_of(
            s, normaliser, slopes, values, share, mass_g, mass_index, i, j, inside, N, MC, MASSES
        )
        result += dot(s_grad.to(keys.dtype), keys)
        if ROWS:
            sums = summed(sums, s_grad, row_index, i, j, inside, N, RC, 1, ROWS, BUCKETS)
    store(q_grad + both * N * D, result * scale, start, N, D, D)
    if ROWS:
        width = ROWS * RC
        store(rows_grad + both * N * width, sums, start, N, width, width)


@triton.jit(do_not_specialize=_KEPT)
def keys_kernel(
    q, k, v, g, mass_g, lse, delta, k_grad, v_grad, columns_grad,
    table, table_index, rows, row_index, columns, column_index, mass_index, regions, scale,
    H, N, D, V, TC, RC, CC, MC, WINDOWS, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, table_r, table_c,
    rows_b, rows_h, rows_n, columns_b, columns_h, columns_n,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, VALUE: tl.constexpr, BUCKETS: tl.constexpr,
    TABLES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, MASSES: tl.constexpr,
    MASKED: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of keys, of its values and of its columns."""
    start = tl.program_id(1) * BLOCK
    both = tl.program_id(0).to(tl.int64)
    b, h = both // H, both % H
    q += multiple(b * q_b + h * q_h, ALIGNED)
    k += multiple(b * k_b + h * k_h, ALIGNED)
    v += multiple(b * v_b + h * v_h, ALIGNED)
    g += multiple(b * g_b + h * g_h, ALIGNED)
    table += h * table_h
    rows += b * rows_b + h * rows_h
    columns += b * columns_b + h * columns_h
    regions += (b % WINDOWS) * N
    D, V = multiple(D, ALIGNED), multiple(V, ALIGNED)
    q_n = multiple(q_n, ALIGNED)
    k_n = multiple(k_n, ALIGNED)
    v_n = multiple(v_n, ALIGNED)
    g_n = multiple(g_n, ALIGNED)
    mass_g += both * N * (MASSES * MC)

    j = (start + tl.arange(0, BLOCK))[None, :]
    keys = load(k, start, N, D, k_n, BLOCK, WIDTH)
    values = load(v, start, N, V, v_n, BLOCK, VALUE)
    result = tl.zeros((BLOCK, WIDTH), tl.float32)
    values_result = tl.zeros((BLOCK, VALUE), tl.float32)
    sums = tl.zeros((BLOCK, BUCKETS), tl.float32)
    for first in range(0, N, BLOCK):
        line = first + tl.arange(0, BLOCK)
        i = line[:, None]
        inside = (i < N) & (j < N)
        queries = load(q, first, N, D, q_n, BLOCK, WIDTH)
        slopes = load(g, first, N, V, g_n, BLOCK, VALUE)
        normaliser = tl.load(lse + both * N + line, mask=line < N, other=float("inf"))
        share = tl.load(delta + both * N + line, mask=line < N, other=0.0)
        s = scores(
            queries, keys, i, j, inside, scale, table, table_index, table_r, table_c,
            rows, row_index, rows_n, columns, column_index, columns_n, regions, N, TC, RC, CC,
            TABLES, ROWS, COLUMNS, MASKED,
        )  # fmt: skip
        p, s_grad = slopes_of(
            s, normaliser, slopes, values, share, mass_g, mass_index, i, j, inside, N, MC, MASSES
        )
        values_result += dot(tl.trans(p.to(slopes.dtype)), slopes)
        result += dot(tl.trans(s_grad.to(queries.dtype)), queries)
        if COLUMNS:
            sums = summed(sums, s_grad, column_index, i, j, inside, N, CC, 0, COLUMNS, BUCKETS)
    store(k_grad + both * N * D, result * scale, start, N, D, D)
    store(v_grad + both * N * V, values_result, start, N, V, V)
    if COLUMNS:
        width = COLUMNS * CC
        store(columns_grad + both * N * width, sums, start, N, width, width)


@triton.jit(do_not_specialize=_KEPT)
def offsets_kernel(
    q, k, v, g, mass_g, lse, delta, partial,
    table, table_index, rows, row_index, columns, column_index, mass_index, regions, scale,
    B, SPLITS,
    H, N, D, V, TC, RC, CC, MC, WINDOWS, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, table_r, table_c,
    rows_b, rows_h, rows_n, columns_b, columns_h, columns_n,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, VALUE: tl.constexpr, BUCKETS: tl.constexpr,
    TABLES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, MASSES: tl.constexpr,
    MASKED: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of logits, summed over every SPLITS-th image: [SPLITS, H, N, N]."""
    tiles = tl.cdiv(N, BLOCK)
    start = (tl.program_id(0) // tiles) * BLOCK
    first = (tl.program_id(0) % tiles) * BLOCK
    h = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)
    table += h * table_h
    D, V = multiple(D, ALIGNED), multiple(V, ALIGNED)
    q_n = multiple(q_n, ALIGNED)
    k_n = multiple(k_n, ALIGNED)
    v_n = multiple(v_n, ALIGNED)
    g_n = multiple(g_n, ALIGNED)

    line = start + tl.arange(0, BLOCK)
    i = line[:, None]
    j = (first + tl.arange(0, BLOCK))[None, :]
    inside = (i < N) & (j < N)
    result = tl.zeros((BLOCK, BLOCK), tl.float32)
    for image in range(split, B, SPLITS):
        b = tl.cast(image, tl.int64)
        both = b * H + h
        at_q = q + multiple(b * q_b + h * q_h, ALIGNED)
        at_k = k + multiple(b * k_b + h * k_h, ALIGNED)
        at_v = v + multiple(b * v_b + h * v_h, ALIGNED)
        at_g = g + multiple(b * g_b + h * g_h, ALIGNED)
        normaliser = tl.load(lse + both * N + line, mask=line < N, other=float("inf"))
        share = tl.load(delta + both * N + line, mask=line < N, other=0.0)
        s = scores(
            load(at_q, start, N, D, q_n, BLOCK, WIDTH),
            load(at_k, first, N, D, k_n, BLOCK, WIDTH),
            i, j, inside, scale, table, table_index, table_r, table_c,
            rows + b * rows_b + h * rows_h, row_index, rows_n,
            columns + b * columns_b + h * columns_h, column_index, columns_n,
            regions + (b % WINDOWS) * N, N, TC, RC, CC, TABLES, ROWS, COLUMNS, MASKED,
        )  # fmt: skip
        _, s_grad = slopes_of(
            s, normaliser, load(at_g, start, N, V, g_n, BLOCK, VALUE),
            load(at_v, first, N, V, v_n, BLOCK, VALUE), share,
            mass_g + both * N * (MASSES * MC), mass_index, i, j, inside, N, MC, MASSES,
        )  # fmt: skip
        result += s_grad
    tl.store(partial + ((split * H + h) * N + i) * N + j, result, mask=inside)


@triton.jit(do_not_specialize=_KEPT)
def scatter_kernel(summed, table_index, table_grad, N, C, COUNT, BLOCK: tl.constexpr):
    """The gradient of a column of a head's table: the sum over where its index stands."""
    r, c = tl.program_id(0) // C, tl.program_id(0) % C
    h = tl.program_id(1).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, N * N, BLOCK):
        at = first + tl.arange(0, BLOCK)
        index = tl.load(table_index + r * N * N + at, mask=at < N * N, other=-1).to(tl.int32)
        total += tl.load(summed + h * N * N + at, mask=index == c, other=0.0)
    tl.store(table_grad + (h * COUNT + r) * C + c, tl.sum(total, 0))


KERNELS = {
    "forward": forward_kernel,
    "queries": queries_kernel,
    "keys": keys_kernel,
    "offsets": offsets_kernel,
}
