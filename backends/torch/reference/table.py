"""Rows of index tables, entry by entry, and of reading by index."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang.backends.torch.reference.at import At, row
from spacelang.ir.dim import Dim
from spacelang.ops.buckets import bucket, bucket_count
from spacelang.ops.formula import entry_at


@row("take")
def _(at: At, table: Tensor, index: Tensor) -> Tensor:
    axis = at.whole("axis") % table.dim()
    found = table.index_select(axis, index.reshape(-1))
    return found.reshape(*table.shape[:axis], *index.shape, *table.shape[axis + 1 :])


@row("gather")
def _(at: At, x: Tensor, index: Tensor) -> Tensor:
    rows = torch.arange(index.shape[0]).unsqueeze(1)
    return x[..., rows, index]


@row("bucket_sum")
def _(at: At, x: Tensor, index: Tensor) -> Tensor:
    columns = F.one_hot(index, at.whole("buckets")).to(x.dtype)
    return torch.einsum("...nm,nmt->...nt", x, columns)


def _table(at: At, entry: Callable[[int, int, int, int], int], skip_entry: int = 0) -> Tensor:
    """The square table of `entry(row i, column i, row j, column j)` over pairs of positions."""
    places = list(product(range(at.whole("h")), range(at.whole("w"))))
    skip = at.whole("skip") if "skip" in at.node.attributes else 0
    side = len(places) + skip
    table = [[skip_entry] * side for _ in range(side)]
    for i, a in enumerate(places):
        for j, b in enumerate(places):
            table[i + skip][j + skip] = entry(*a, *b)
    return torch.tensor(table, dtype=torch.int64).reshape(side, side)


@row("offset_index")
def _(at: At) -> Tensor:
    """Swin's signed offsets, or the absolute ones of LeViT."""
    h, w = at.whole("h"), at.whole("w")
    if at.text("kind") == "absolute":
        return _table(at, lambda a, b, c, d: abs(a - c) * w + abs(b - d))
    return _table(at, lambda a, b, c, d: (a - c + h - 1) * (2 * w - 1) + b - d + w - 1)


@row("clipped_index")
def _(at: At) -> Tensor:
    """AutoFormer's clipped offset of key and query along one axis; 0 for a skipped token."""
    reach, axis = at.whole("reach"), at.whole("axis")
    return _table(
        at, lambda *p: max(-reach, min(reach, p[2 + axis] - p[axis])) + reach + 1, skip_entry=0
    )


@row("bucket_index")
def _(at: At) -> Tensor:
    ratio, method, skip = at.real("ratio"), at.text("method"), at.whole("skip")
    outside = bucket_count(method, ratio, skip) - 1
    return _table(at, lambda a, b, c, d: bucket(method, a - c, b - d, ratio), outside)


@row("shift_mask")
def _(at: At) -> Tensor:
    """-100 between positions of a window that were not neighbours before the cyclic shift."""
    h, w, window, shift = (at.whole(n) for n in ("h", "w", "window", "shift"))

    def part(i: int, n: int) -> int:
        return 0 if i < n - window else 1 if i < n - shift else 2

    masks: list[list[list[list[float]]]] = []
    for y, x in product(range(0, h, window), range(0, w, window)):
        places = product(range(y, y + window), range(x, x + window))
        parts = [(part(i, h), part(j, w)) for i, j in places]
        masks.append([[[0.0 if a == b else -100.0 for b in parts] for a in parts]])
    return torch.tensor(masks)


@row("table")
def _(at: At) -> Tensor:
    """A formula at every place, by exact numbers."""
    shape, given = at.wholes("shape"), at.given("sizes")
    sizes = [at.value(d) for d in (given if isinstance(given, tuple) else ()) if isinstance(d, Dim)]
    places = product(*map(range, shape))
    entries = [float(entry_at(at.text("formula"), place, sizes)) for place in places]
    index = at.flag("index")
    return torch.tensor(entries).to(torch.int64 if index else torch.float32).reshape(shape)
