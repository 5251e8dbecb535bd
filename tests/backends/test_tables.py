"""Index tables: against counting them entry by entry, and against the published iRPE ids."""

from __future__ import annotations

import hashlib

import pytest
import torch
from small_spaces import graph, inputs

from spacelang.backends.torch.lowering.ports import known, table_of
from spacelang.backends.torch.lowering.tables import TableKey, stacked_index, table
from spacelang.backends.torch.reference.interpret import interpret

TABLES = [
    "offset_index(4, 3)",
    'offset_index(4, 3, kind: "absolute")',
    "clipped_index(4, 5, axis: 0, reach: 2, skip: 1)",
    "clipped_index(4, 5, axis: 1, reach: 2)",
    "shift_mask(8, 12, 4, 2)",
    "shift_mask(6, 6, 3, 1)",
    *(
        f'bucket_index(7, 5, method: "{method}", ratio: {ratio}, skip: {skip})'
        for method in ("product", "euclidean", "quantised", "cross_rows", "cross_cols")
        for ratio, skip in ((1.9, 1), (2.0, 0), (20, 2))
    ),
]


@pytest.mark.parametrize("call", TABLES)
def test_entries_equal_those_counted(call: str) -> None:
    space = graph(f"space one {{ input x: [B, 1]  output t: {call} as t  output x }}")
    node = next(n for n in space.root.nodes if n.label == "t")
    counted = interpret(space, {}, inputs(space))["t"]
    computed = table(table_of(node).key(lambda dim: known(dim, {})))
    assert torch.equal(computed, counted)
    assert computed.dtype == counted.dtype


# The first sixteen digits of the SHA-256 of the int32 bytes, measured on the published code.
PUBLISHED = [
    ("product", 14, 14, 1.9, 1, "970ed76a977009fe"),
    ("euclidean", 14, 14, 1.9, 0, "4bfaad74d950b704"),
    ("quantised", 14, 14, 1.9, 1, "3f9bec8a2b2f6e91"),
    ("cross_rows", 10, 14, 1.9, 1, "1c976a78f25e6373"),
    ("cross_cols", 7, 7, 1.9, 0, "e4872d6d7be24207"),
    ("product", 24, 24, 1.9, 1, "af14cff1358d87d8"),
]


@pytest.mark.parametrize(("method", "h", "w", "ratio", "skip", "digest"), PUBLISHED)
def test_published_buckets(
    method: str, h: int, w: int, ratio: float, skip: int, digest: str
) -> None:
    options = {"h": h, "w": w, "method": method, "ratio": ratio, "skip": skip}
    found = table(TableKey("bucket_index", tuple(sorted(options.items()))))
    content = found.to(torch.int32).numpy().astype("<i4").tobytes()
    assert hashlib.sha256(content).hexdigest().startswith(digest)


def test_a_method_that_is_none() -> None:
    options = (("h", 2), ("method", "manhattan"), ("ratio", 2), ("skip", 0), ("w", 2))
    with pytest.raises(KeyError):
        table(TableKey("bucket_index", options))


@pytest.mark.parametrize(
    ("entries", "kind"),
    [(128, torch.int8), (129, torch.int16), (2**15, torch.int16), (2**15 + 1, torch.int32)],
)
def test_what_kernels_read_is_of_few_bytes(entries: int, kind: torch.dtype) -> None:
    """So few that the last entry has a number; one table turned, one not."""
    named = {
        "op": "table",
        "formula": f"i0 {entries - 1} *",
        "index": "True",
        "shape0": 2,
        "shape1": 2,
    }
    tables = {f"t{place}_{name}": value for place in range(2) for name, value in named.items()}
    found = stacked_index(entries, **tables, t0_turned="True", t1_turned="False")
    assert found.dtype == kind
    last = entries - 1
    assert found.tolist() == [[[0, last], [0, last]], [[0, 0], [last, last]]]
