"""Index tables: against counting them entry by entry, and against the published iRPE ids."""

from __future__ import annotations

import hashlib

import pytest
import torch
from small_spaces import graph, inputs

from spacelang.backends.torch.interpret import interpret
from spacelang.backends.torch.tables import TableKey, table

TABLES = [
    'offset_index(4, 3)',
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
    options = sorted(node.attributes.items())
    key = TableKey(node.op, tuple((n, str(v) if isinstance(v, str) else number(v)) for n, v in options))
    counted = interpret(space, {}, inputs(space))["t"]
    assert torch.equal(table(key), counted)
    assert table(key).dtype == counted.dtype


def number(dim: object) -> float | int:
    value = dim.at({})  # type: ignore[attr-defined]
    return int(value) if value == int(value) else float(value)


# Sums and SHA-256 of the int32 bytes, measured on the published code.
PUBLISHED = [
    ("product", 14, 14, 1.9, 1, "970ed76a977009fe066a6fab17d4dffeb059df1e1250c3cdb5ef62e25dd4dea9"),
    ("euclidean", 14, 14, 1.9, 0, "4bfaad74d950b70441ddb1b8e3cedb71369a0c6e80fec4bc0eea8f4926e0f60e"),
    ("quantised", 14, 14, 1.9, 1, "3f9bec8a2b2f6e91c857a1c0979bf34738731de82788f552997c767b44d9b674"),
    ("cross_rows", 10, 14, 1.9, 1, "1c976a78f25e637310c9f25de39d07c402a7f854626726cf89abb440191587da"),
    ("cross_cols", 7, 7, 1.9, 0, "e4872d6d7be24207ec1a603c939f8168fec22c9e789d5d2f331f9bc7a6336f86"),
    ("product", 24, 24, 1.9, 1, "af14cff1358d87d864dc1e68d1e823cd7fc125d393aed4553cfc886e9f30b091"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "h", "w", "ratio", "skip", "digest"), PUBLISHED)
def test_published_buckets(method: str, h: int, w: int, ratio: float, skip: int, digest: str) -> None:
    options = {"h": h, "w": w, "method": method, "ratio": ratio, "skip": skip}
    found = table(TableKey("bucket_index", tuple(sorted(options.items()))))
    content = found.to(torch.int32).numpy().astype("<i4").tobytes()
    assert hashlib.sha256(content).hexdigest() == digest


def test_a_method_that_is_none() -> None:
    options = (("h", 2), ("method", "manhattan"), ("ratio", 2), ("skip", 0), ("w", 2))
    with pytest.raises(KeyError):
        table(TableKey("bucket_index", options))
