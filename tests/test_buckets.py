"""Bucket tables of iRPE, held against the published ones."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacelang.ops.buckets import METHODS, bucket_count, bucket_table, piecewise, reach

# Grid, table, skip; buckets, used, sum and sha256 of the ids as int32, measured on the reference.
TABLES = [
    (14, 14, "euclidean", 0, 7, 4, 222844, "4bfaad74d950b704"),
    (14, 14, "euclidean", 1, 8, 5, 225595, "3db14ceeb53fcc8a"),
    (14, 14, "quantised", 0, 7, 4, 227776, "281fe2491f12e232"),
    (14, 14, "quantised", 1, 8, 5, 230527, "3f9bec8a2b2f6e91"),
    (14, 14, "product", 0, 49, 49, 921984, "1a374b138951200d"),
    (14, 14, "product", 1, 50, 50, 941241, "970ed76a977009fe"),
    (14, 14, "cross_rows", 0, 7, 7, 115248, "451a2df693bfb07f"),
    (14, 14, "cross_rows", 1, 8, 8, 117999, "123c77e4bcbd1d10"),
    (14, 14, "cross_cols", 0, 7, 7, 115248, "47738d244c5cee58"),
    (14, 14, "cross_cols", 1, 8, 8, 117999, "a51ad96ad912655f"),
    (7, 7, "euclidean", 0, 7, 4, 12851, "2d3db1857a0b20a8"),
    (7, 7, "quantised", 1, 8, 5, 14472, "63feb21e2f53a75b"),
    (7, 7, "product", 1, 50, 50, 62475, "659cd29106108712"),
    (10, 14, "product", 0, 49, 49, 470400, "a4a344ef00e6926c"),
    (10, 14, "product", 1, 50, 50, 484169, "74d66d709880bb48"),
    (10, 14, "cross_rows", 0, 7, 7, 58800, "cfc3efe07c7a8324"),
    (10, 14, "cross_cols", 1, 8, 8, 60767, "e3de96128cf81ce0"),
    (3, 3, "euclidean", 0, 7, 3, 347, "54cb60da3780b3b6"),
    (3, 3, "quantised", 0, 7, 4, 395, "49c2ebdcc5a3ef5a"),
    (3, 3, "product", 0, 49, 25, 1944, "9cce0ebd67333393"),
    (3, 3, "product", 1, 50, 26, 2875, "de2f9232b2bf533d"),
    (3, 3, "cross_cols", 0, 7, 5, 243, "0e0f45f467ef229a"),
]


@pytest.mark.parametrize(("h", "w", "table", "skip", "buckets", "used", "total", "digest"), TABLES)
def test_bucket_tables_are_the_published_ones(
    h: int, w: int, table: str, skip: int, buckets: int, used: int, total: int, digest: str
) -> None:
    ids = [i for row in bucket_table(table, h, w, 1.9, skip) for i in row]
    assert (bucket_count(table, 1.9, skip), len(set(ids)), sum(ids)) == (buckets, used, total)
    assert hashlib.sha256(struct.pack(f"<{len(ids)}i", *ids)).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    ("ratio", "runs"),
    [
        (1.9, {0: 0, 1: 1, 2: 2, 3: 2, 4: 3, 39: 3}),
        (2.0, {2: 2, 3: 2, 4: 3, 9: 3, 10: 4, 39: 4}),
        (2.5, {3: 3, 5: 3, 6: 4, 13: 4, 14: 5}),
        (3.0, {4: 3, 5: 4, 8: 4, 9: 5, 16: 5, 17: 6}),
        (20, {19: 19, 20: 20, 21: 20, 22: 21, 26: 23, 39: 26}),
        (33, {32: 32, 33: 33, 34: 33, 35: 34, 39: 36}),
    ],
)
def test_piecewise_function(ratio: float, runs: Mapping[int, int]) -> None:
    assert {x: piecewise(x, ratio) for x in runs} == runs
    assert all(piecewise(-x, ratio) == -y for x, y in runs.items())


@given(
    st.sampled_from([t for tables in METHODS.values() for t in tables]),
    st.floats(0.1, 40),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 2),
)
def test_ids_stay_in_the_table(table: str, ratio: float, h: int, w: int, skip: int) -> None:
    rows = bucket_table(table, h, w, ratio, skip)
    assert len(rows) == h * w + skip
    assert {len(row) for row in rows} == {len(rows)}
    ids = {i for row in rows for i in row}
    assert min(ids) >= 0
    assert max(ids) < bucket_count(table, ratio, skip)
    centre = {rows[i][i] for i in range(skip, len(rows))}
    side = 2 * reach(ratio) + 1
    assert centre == {reach(ratio) * (side + 1 if table == "product" else 1)}
