"""Kernels of `attention`: a program each block of queries, or of keys, of a head of an image.

Terms are pointers and are looked up a tile at a time. An index table is [R, N, N], one for all
images and heads; lookup r of R has C columns of its own, and an entry outside 0..C-1 stands for no
term. Every sum is in a fixed order, so what the kernels find is the same at every run.

`BLOCK` is the side of a tile of logits; `WIDTH` and `VALUE` are a head's widths and `BUCKETS` the
columns of the masses, padded to powers of two; `TABLES`, `ROWS`, `COLUMNS` and `MASSES` are the R
of each term, `MASKED` says whether there are regions, and `ALIGNED` divides the widths and strides
of q, k and v, so that a row is read 16 bytes at a time. `INSIDE` says whether the forward kernel
makes the rows of queries itself, and gives the values' term.
Sizes and strides come at run time: `TC`, `RC`, `CC` and `MC` are the C of each term, `_b`, `_h` and
`_n` the strides of images, heads and tokens.
"""

from __future__ import annotations

import triton
import triton.language as tl

from spacelang.backends.triton.launch import INTERPRETED

POINTERS = ("table", "table_index", "row_index", "column_index", "mass_index", "regions")
INTEGERS = (
    "H", "N", "D", "V", "TC", "RC", "CC", "MC", "WINDOWS", "q_b", "q_h", "q_n", "k_b", "k_h", "k_n",
    "v_b", "v_h", "v_n", "o_b", "o_h", "o_n", "g_b", "g_h", "g_n", "table_h",
    "rows_b", "rows_h", "rows_n", "columns_b", "columns_h", "columns_n",
)  # fmt: skip
OWN = ("key_h", "key_c", "key_d", "value_h", "KEPT", "B", "SPLITS")  # of some kernels
_KEPT = (*INTEGERS, *OWN, "C", "COUNT")  # no variant is made for their values
_WIDENED = tl.constexpr(INTERPRETED)


@triton.jit
def multiple(x, ALIGNED: tl.constexpr):
    """`x`, which is a multiple: an argument's hint is lost where it is no specialised one."""
    return x // ALIGNED * ALIGNED


@triton.jit
def _dot(a, b):
    """A product summed in float32; the interpreter, which has no bfloat16, takes it so as well."""
    if _WIDENED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _load(matrix, start, size, width, stride, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """SIZE rows from `start` on of a matrix [size, width], and 0 beyond it."""
    row = (start + tl.arange(0, SIZE))[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    inside = (row < size) & (column < width)
    return tl.load(matrix + row * stride + column, mask=inside, other=0.0)


@triton.jit
def _store(matrix, tile, start, size, width, stride):
    """What `_load` reads."""
    row = (start + tl.arange(0, tile.shape[0]))[:, None]
    column = tl.arange(0, tile.shape[1])[None, :]
    inside = (row < size) & (column < width)
    tl.store(matrix + row * stride + column, tile.to(matrix.dtype.element_ty), mask=inside)


@triton.jit
def _looked_up(values, line, index, i, j, inside, N, C, COUNT: tl.constexpr):
    """The sum over r of values[line + r C + index[r, i, j]], a tile."""
    found = tl.zeros(inside.shape, tl.float32)
    for r in tl.static_range(COUNT):
        at = tl.load(index + (r * N + i) * N + j, mask=inside, other=-1).to(tl.int32)
        there = (at >= 0) & (at < C)
        found += tl.load(values + line + r * C + at, mask=there, other=0.0).to(tl.float32)
    return found


@triton.jit
def _made_rows(
    q, tables, scale, columns, width, step, along, WIDTH: tl.constexpr, BUCKETS: tl.constexpr
):
    """Each of a block of queries with each row of tables [columns, width]: [BLOCK, BUCKETS]."""
    d, c = tl.arange(0, WIDTH)[:, None], tl.arange(0, BUCKETS)[None, :]
    inside = (d < width) & (c < columns)
    right = tl.load(tables + c * step + d * along, mask=inside, other=0.0).to(tl.float32) * scale
    return _dot(q, right.to(q.dtype)).to(q.dtype)


@triton.jit
def _picked(rows, index, i, j, inside, N, C, COUNT: tl.constexpr):
    """What `_looked_up` finds, of rows that `_made_rows` has made."""
    found = tl.zeros(inside.shape, tl.float32)
    for r in tl.static_range(COUNT):
        at = tl.load(index + (r * N + i) * N + j, mask=inside, other=-1).to(tl.int32)
        there = (at >= 0) & (at < C)
        entry = tl.gather(rows, tl.where(there, r * C + at, 0), 1)
        found += tl.where(there, entry.to(tl.float32), 0.0)
    return found


@triton.jit
def _summed(
    sums, tile, index, i, j, inside, N, C,
    AXIS: tl.constexpr, COUNT: tl.constexpr, BUCKETS: tl.constexpr,
):  # fmt: skip
    """`sums` [BLOCK, BUCKETS] and, of `tile`, what each index takes, summed along an axis.

    A pass over the tile a column: as much arithmetic as a product, where atomics have no order.
    """
    columns = tl.arange(0, BUCKETS)[None, :]
    for r in tl.static_range(COUNT):
        at = tl.load(index + (r * N + i) * N + j, mask=inside, other=-1).to(tl.int32)
        for c in range(C):
            mass = tl.sum(tl.where(at == c, tile, 0.0), AXIS)
            sums += tl.where(columns == r * C + c, mass[:, None], 0.0)
    return sums


@triton.jit
def _scores(
    q, k, i, j, inside, scale, table, table_index, rows, row_index, rows_n, columns, column_index,
    columns_n, regions, N, TC, RC, CC,
    TABLES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, MASKED: tl.constexpr,
    INSIDE: tl.constexpr = False,
):  # fmt: skip
    """Logits of a tile: scale q k^T and every term that is there; -inf where no key is."""
    s = _dot(q, tl.trans(k)) * scale
    s += _looked_up(table, 0, table_index, i, j, inside, N, TC, TABLES)
    if INSIDE:
        s += _picked(rows, row_index, i, j, inside, N, RC, ROWS)
    else:
        s += _looked_up(rows, i * rows_n, row_index, i, j, inside, N, RC, ROWS)
    s += _looked_up(columns, j * columns_n, column_index, i, j, inside, N, CC, COLUMNS)
    if MASKED:
        mine = tl.load(regions + i, mask=i < N, other=0)
        theirs = tl.load(regions + j, mask=j < N, other=0)
        s += tl.where(mine == theirs, 0.0, -100.0)
    return tl.where(j < N, s, -float("inf"))


@triton.jit
def _slopes(
    s, lse, g, values, share, mass_g, mass_index, i, j, inside, N, MC, MASSES: tl.constexpr
):
    """Probabilities of a tile and the gradients of its logits."""
    p = tl.exp(s - lse[:, None])
    p_grad = _dot(g, tl.trans(values))
    p_grad += _looked_up(mass_g, i * (MASSES * MC), mass_index, i, j, inside, N, MC, MASSES)
    return p, p * (p_grad - share[:, None])


@triton.jit(do_not_specialize=_KEPT)
def forward_kernel(
    q, k, v, out, lse, mass, key_table, value_table, key_h, key_c, key_d, value_h, KEPT,
    table, table_index, rows, row_index, columns, column_index, mass_index, regions, scale,
    H, N, D, V, TC, RC, CC, MC, WINDOWS, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, rows_b, rows_h, rows_n, columns_b, columns_h, columns_n,
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
    columns += b * columns_b + h * columns_h
    regions += (b % WINDOWS) * N
    D, V = multiple(D, ALIGNED), multiple(V, ALIGNED)
    q_n = multiple(q_n, ALIGNED)
    k_n = multiple(k_n, ALIGNED)
    v_n = multiple(v_n, ALIGNED)
    o_n = multiple(o_n, ALIGNED)

    line = start + tl.arange(0, BLOCK)
    i = line[:, None]
    queries = _load(q, start, N, D, q_n, BLOCK, WIDTH)
    if INSIDE and ROWS:
        key_table += h * key_h
        rows = _made_rows(queries, key_table, scale, ROWS * RC, D, key_c, key_d, WIDTH, BUCKETS)
    else:
        rows += b * rows_b + h * rows_h
    highest = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    result = tl.zeros((BLOCK, VALUE), tl.float32)
    sums = tl.zeros((BLOCK, BUCKETS), tl.float32)
    for first in range(0, N, BLOCK):
        j = (first + tl.arange(0, BLOCK))[None, :]
        inside = (i < N) & (j < N)
        keys = _load(k, first, N, D, k_n, BLOCK, WIDTH)
        values = _load(v, first, N, V, v_n, BLOCK, VALUE)
        s = _scores(
            queries, keys, i, j, inside, scale, table, table_index, rows, row_index, rows_n,
            columns, column_index, columns_n, regions, N, TC, RC, CC,
            TABLES, ROWS, COLUMNS, MASKED, INSIDE,
        )  # fmt: skip
        above = tl.maximum(highest, tl.max(s, 1))
        p = tl.exp(s - above[:, None])
        decay = tl.exp(highest - above)
        total = total * decay + tl.sum(p, 1)
        highest = above
        result = result * decay[:, None] + _dot(p.to(values.dtype), values)
        if MASSES:
            sums = _summed(
                sums * decay[:, None], p, mass_index, i, j, inside, N, MC, 1, MASSES, BUCKETS
            )
    result = result / total[:, None]
    tl.store(lse + both * N + line, highest + tl.log(total), mask=line < N)
    if MASSES:
        width = MASSES * MC
        sums = sums / total[:, None]
        _store(mass + both * N * width, sums, start, KEPT, width, width)
        if INSIDE:
            tables = _load(value_table + h * value_h, 0, width, V, V, BUCKETS, VALUE)
            result += _dot(sums.to(v.dtype.element_ty), tables.to(v.dtype.element_ty))
    _store(out, result, start, N, V, o_n)


@triton.jit(do_not_specialize=_KEPT)
def queries_kernel(
    q, k, v, out, g, mass_g, lse, delta, q_grad, rows_grad,
    table, table_index, rows, row_index, columns, column_index, mass_index, regions, scale,
    H, N, D, V, TC, RC, CC, MC, WINDOWS, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, rows_b, rows_h, rows_n, columns_b, columns_h, columns_n,
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
    slopes = _load(g, start, N, V, g_n, BLOCK, VALUE)
    forward = _load(out, start, N, V, o_n, BLOCK, VALUE)
    share = tl.sum(forward.to(tl.float32) * slopes.to(tl.float32), 1)
    tl.store(delta + both * N + line, share, mask=line < N)

    normaliser = tl.load(lse + both * N + line, mask=line < N, other=float("inf"))
    queries = _load(q, start, N, D, q_n, BLOCK, WIDTH)
    result = tl.zeros((BLOCK, WIDTH), tl.float32)
    sums = tl.zeros((BLOCK, BUCKETS), tl.float32)
    for first in range(0, N, BLOCK):
        j = (first + tl.arange(0, BLOCK))[None, :]
        inside = (i < N) & (j < N)
        keys = _load(k, first, N, D, k_n, BLOCK, WIDTH)
        values = _load(v, first, N, V, v_n, BLOCK, VALUE)
        s = _scores(
            queries, keys, i, j, inside, scale, table, table_index, rows, row_index, rows_n,
            columns, column_index, columns_n, regions, N, TC, RC, CC,
            TABLES, ROWS, COLUMNS, MASKED,
        )  # fmt: skip
        _, s_grad = _slopes(
            s, normaliser, slopes, values, share, mass_g, mass_index, i, j, inside, N, MC, MASSES
        )
        result += _dot(s_grad.to(keys.dtype), keys)
        if ROWS:
            sums = _summed(sums, s_grad, row_index, i, j, inside, N, RC, 1, ROWS, BUCKETS)
    _store(q_grad + both * N * D, result * scale, start, N, D, D)
    if ROWS:
        width = ROWS * RC
        _store(rows_grad + both * N * width, sums, start, N, width, width)


@triton.jit(do_not_specialize=_KEPT)
def keys_kernel(
    q, k, v, g, mass_g, lse, delta, k_grad, v_grad, columns_grad,
    table, table_index, rows, row_index, columns, column_index, mass_index, regions, scale,
    H, N, D, V, TC, RC, CC, MC, WINDOWS, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, rows_b, rows_h, rows_n, columns_b, columns_h, columns_n,
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
    keys = _load(k, start, N, D, k_n, BLOCK, WIDTH)
    values = _load(v, start, N, V, v_n, BLOCK, VALUE)
    result = tl.zeros((BLOCK, WIDTH), tl.float32)
    values_result = tl.zeros((BLOCK, VALUE), tl.float32)
    sums = tl.zeros((BLOCK, BUCKETS), tl.float32)
    for first in range(0, N, BLOCK):
        line = first + tl.arange(0, BLOCK)
        i = line[:, None]
        inside = (i < N) & (j < N)
        queries = _load(q, first, N, D, q_n, BLOCK, WIDTH)
        slopes = _load(g, first, N, V, g_n, BLOCK, VALUE)
        normaliser = tl.load(lse + both * N + line, mask=line < N, other=float("inf"))
        share = tl.load(delta + both * N + line, mask=line < N, other=0.0)
        s = _scores(
            queries, keys, i, j, inside, scale, table, table_index, rows, row_index, rows_n,
            columns, column_index, columns_n, regions, N, TC, RC, CC,
            TABLES, ROWS, COLUMNS, MASKED,
        )  # fmt: skip
        p, s_grad = _slopes(
            s, normaliser, slopes, values, share, mass_g, mass_index, i, j, inside, N, MC, MASSES
        )
        values_result += _dot(tl.trans(p.to(slopes.dtype)), slopes)
        result += _dot(tl.trans(s_grad.to(queries.dtype)), queries)
        if COLUMNS:
            sums = _summed(sums, s_grad, column_index, i, j, inside, N, CC, 0, COLUMNS, BUCKETS)
    _store(k_grad + both * N * D, result * scale, start, N, D, D)
    _store(v_grad + both * N * V, values_result, start, N, V, V)
    if COLUMNS:
        width = COLUMNS * CC
        _store(columns_grad + both * N * width, sums, start, N, width, width)


@triton.jit(do_not_specialize=_KEPT)
def offsets_kernel(
    q, k, v, g, mass_g, lse, delta, partial,
    table, table_index, rows, row_index, columns, column_index, mass_index, regions, scale,
    B, SPLITS,
    H, N, D, V, TC, RC, CC, MC, WINDOWS, q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    o_b, o_h, o_n, g_b, g_h, g_n, table_h, rows_b, rows_h, rows_n, columns_b, columns_h, columns_n,
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
        s = _scores(
            _load(at_q, start, N, D, q_n, BLOCK, WIDTH),
            _load(at_k, first, N, D, k_n, BLOCK, WIDTH),
            i, j, inside, scale, table, table_index, rows + b * rows_b + h * rows_h, row_index,
            rows_n, columns + b * columns_b + h * columns_h, column_index, columns_n,
            regions + (b % WINDOWS) * N, N, TC, RC, CC, TABLES, ROWS, COLUMNS, MASKED,
        )  # fmt: skip
        _, s_grad = _slopes(
            s, normaliser, _load(at_g, start, N, V, g_n, BLOCK, VALUE),
            _load(at_v, first, N, V, v_n, BLOCK, VALUE), share,
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
