"""Buckets of image relative position encoding (iRPE, ICCV 2021): from an offset to a table's row.

    bucket_table("product", 14, 14, 1.9, skip=1)    # 197 rows of 197 ids below 50

One number fixes all: with alpha = ratio, beta = 2 ratio and gamma = 8 ratio a distance up to
alpha is kept, a larger one grows by its logarithm and stops at beta. Pure Python, so that passes
may count and backends may compare; ids are those of the published code for every grid that it was
tried on.
"""

from __future__ import annotations

import math

METHODS: dict[str, tuple[str, ...]] = {
    "euclidean": ("euclidean",),
    "quantised": ("quantised",),
    "cross": ("cross_rows", "cross_cols"),
    "product": ("product",),
}
"""Method -> the methods of its tables, as the op `bucket_index` names them."""


def reach(ratio: float) -> int:
    """The largest id on either side of zero: a fractional beta is cut off, not rounded."""
    return int(2 * ratio)


def piecewise(distance: int, ratio: float) -> int:
    """The bucket of a signed distance; halves round to even, as in the published code."""
    size = abs(distance)
    if size <= ratio:
        return distance
    grown = round(ratio + math.log(size / ratio) / math.log(8) * ratio)
    capped = int(min(2 * ratio, grown))
    return capped if distance > 0 else -capped


def bucket_count(table: str, ratio: float, skip: int = 0) -> int:
    """Rows of a table; one more serves every pair with a token that has no place in the grid."""
    side = 2 * reach(ratio) + 1
    return (side * side if table == "product" else side) + (skip > 0)


def bucket(table: str, rows: int, columns: int, ratio: float) -> int:
    """The id of an offset, query minus key. KeyError for a table that is none of `METHODS`."""
    origin = reach(ratio)
    match table:
        case "euclidean":
            return piecewise(round(math.sqrt(rows * rows + columns * columns)), ratio) + origin
        case "quantised":  # the squared distance itself is fed, without its root
            return piecewise(rows * rows + columns * columns, ratio) + origin
        case "cross_rows":
            return piecewise(rows, ratio) + origin
        case "cross_cols":
            return piecewise(columns, ratio) + origin
        case "product":
            side = 2 * origin + 1
            return (piecewise(rows, ratio) + origin) * side + piecewise(columns, ratio) + origin
        case _:
            raise KeyError(table)


def bucket_table(
    table: str, height: int, width: int, ratio: float, skip: int = 0
) -> tuple[tuple[int, ...], ...]:
    """Ids of all pairs, [query, key], in raster order after `skip` tokens without a place."""
    ids = {
        (rows, columns): bucket(table, rows, columns, ratio)
        for rows in range(1 - height, height)
        for columns in range(1 - width, width)
    }
    outside = bucket_count(table, ratio, skip) - 1
    places = [(y, x) for y in range(height) for x in range(width)]
    border = (outside,) * (skip + len(places))
    return (border,) * skip + tuple(
        (outside,) * skip + tuple(ids[y - v, x - u] for v, u in places) for y, x in places
    )
