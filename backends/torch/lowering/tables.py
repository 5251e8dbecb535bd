"""Index tables: constants computed from their sizes, once for each set of them.

    key = TableKey("clipped_index", (("axis", 0), ("h", 14), ("reach", 14), ("skip", 1), ("w", 14)))
    entries = table(key)                                           # int64 [197, 197]

Rows and columns are the positions of an h by w grid, row by row, after `skip` tokens of no place.
The functions need torch alone, so that printed sources can hold them word for word.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class TableKey:
    """An op without operands and its options, sorted by name."""

    op: str
    options: tuple[tuple[str, float | int | str], ...]


def offsets(h: int, w: int) -> tuple[Tensor, Tensor]:
    """Row and column of every position, less those of every other: two of [hw, hw]."""
    row, column = torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)
    return row.unsqueeze(1) - row, column.unsqueeze(1) - column


def offset_index(h: int, w: int, kind: str) -> Tensor:
    """An entry for every signed offset (Swin) or, absolute, for every distance (LeViT)."""
    rows, columns = offsets(h, w)
    if kind == "absolute":
        return rows.abs() * w + columns.abs()
    return (rows + h - 1) * (2 * w - 1) + columns + w - 1


def clipped_index(h: int, w: int, axis: int, reach: int, skip: int) -> Tensor:
    """AutoFormer: the offset along an axis, clipped at `reach`; 0 for pairs with skipped tokens."""
    offset = offsets(w=w, h=h)[axis].neg().clamp(-reach, reach) + reach + 1
    return F.pad(offset, (skip, 0, skip, 0))


def bucket(distance: Tensor, ratio: float) -> Tensor:
    """iRPE's bucket of a distance: itself up to `ratio`, then by logarithm, at most 2 ratio."""
    x = distance.to(torch.float64)
    far = ratio + (x.abs().clamp(min=ratio) / ratio).log() / math.log(8) * ratio
    capped = (far.round().clamp(max=2 * ratio) * x.sign()).trunc()
    return torch.where(x.abs() <= ratio, x.round(), capped).to(torch.int64)


def bucket_index(h: int, w: int, method: str, ratio: float, skip: int) -> Tensor:
    """iRPE's maps from offset to bucket; one more bucket for pairs with a skipped token."""
    rows, columns = offsets(h, w)
    reach = int(2 * ratio)
    side, buckets = 2 * reach + 1, 2 * reach + 1
    if method == "product":
        buckets = side * side
        found = (bucket(rows, ratio) + reach) * side + bucket(columns, ratio) + reach
    else:
        squared = rows**2 + columns**2
        distance = {
            "euclidean": squared.to(torch.float64).sqrt().round(),
            "quantised": squared,
            "cross_rows": rows,
            "cross_cols": columns,
        }[method]
        found = bucket(distance, ratio) + reach
    return F.pad(found, (skip, 0, skip, 0), value=buckets)


def shift_mask(h: int, w: int, window: int, shift: int) -> Tensor:
    """-100 between positions of a window that only a cyclic shift made neighbours (Swin)."""
    row, column = (
        (torch.arange(n) >= n - window).long() + (torch.arange(n) >= n - shift) for n in (h, w)
    )
    part = (row.unsqueeze(1) * 3 + column).reshape(h // window, window, w // window, window)
    flat = part.transpose(1, 2).reshape(-1, 1, window * window)
    return torch.where(flat.unsqueeze(2) == flat.unsqueeze(3), 0.0, -100.0)


def shift_regions(h: int, w: int, window: int, shift: int) -> Tensor:
    """[windows, w*w]: which positions of a window belong together, of which `shift_mask` tells."""
    row, column = (
        (torch.arange(n) >= n - window).int() + (torch.arange(n) >= n - shift) for n in (h, w)
    )
    part = (row.unsqueeze(1) * 3 + column).reshape(h // window, window, w // window, window)
    return part.transpose(1, 2).reshape(-1, window * window).to(torch.int16)


def stacked_index(entries: int, **options: float | str) -> Tensor:
    """Tables one on another, in as few bytes as count so many entries: none is larger.

    `t0_op` is the first, `t0_h` its `h`.
    """
    count = sum(name.endswith("_op") for name in options)
    found: list[Tensor] = []
    for number in range(count):
        start = f"t{number}_"
        own = {n.removeprefix(start): v for n, v in options.items() if n.startswith(start)}
        turned = own.pop("turned") == "True"
        index = TABLES[str(own.pop("op"))](**own)
        found.append(index.t() if turned else index)
    kinds = (kind for kind in (torch.int8, torch.int16) if entries - 1 <= torch.iinfo(kind).max)
    return torch.stack(found).to(next(kinds, torch.int32))


def index_columns(entries: int, **options: float | str) -> Tensor:
    """[N, K]: the columns of tables that are stacked, equal ones once, table after table; entries
    count on from table to table, each of which has so many."""
    stack = stacked_index(entries, **options)
    parts = [_columns(index)[0] + entries * r for r, index in enumerate(stack)]
    return torch.cat(parts, 1)


def index_classes(entries: int, **options: float | str) -> Tensor:
    """[N, K]: 1 where a token's own column of a table is one of `index_columns`, else 0."""
    found = [F.one_hot(_columns(index)[1]) for index in stacked_index(entries, **options)]
    return torch.cat(found, 1).to(torch.float32)


def _columns(index: Tensor) -> tuple[Tensor, Tensor]:
    """The columns [N, K] that differ, and which of them is the column of each token."""
    found = torch.unique(index.long(), dim=1, return_inverse=True)
    return found[0], found[1]


def formula_table(formula: str, index: str, **sizes: float) -> Tensor:
    """A number at every place of a shape, by words in postfix order: `i0` an index, `n0` a size."""
    shape = [int(sizes[f"shape{axis}"]) for axis in range(len(sizes)) if f"shape{axis}" in sizes]
    two = {
        "+": torch.add, "-": torch.sub, "*": torch.mul, "/": torch.div, "power": torch.pow,
        "min": torch.minimum, "max": torch.maximum, "//": torch.floor_divide, "<": torch.lt,
        "<=": torch.le, "==": torch.eq, "!=": torch.ne, "and": torch.logical_and,
        "or": torch.logical_or,
    }  # fmt: skip
    one = {
        "exp": torch.exp, "log": torch.log, "sin": torch.sin, "cos": torch.cos,
        "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "round": torch.round,
    }  # fmt: skip
    stack: list[Tensor] = []
    for word in formula.split():
        if word in two:
            last = stack.pop()
            stack.append(two[word](stack.pop(), last).to(torch.float64))
        elif word in one:
            stack.append(one[word](stack.pop()))
        elif word == "if":
            truth, other, value = stack.pop(), stack.pop(), stack.pop()
            stack.append(torch.where(truth != 0, value, other))
        elif word[0] == "i":
            axis = int(word[1:])
            side = [shape[axis] if a == axis else 1 for a in range(len(shape))]
            stack.append(torch.arange(shape[axis], dtype=torch.float64).reshape(side))
        else:
            top, _, bottom = word.partition("/")
            known = sizes["sizes" + word[1:]] if word[0] == "n" else int(top) / int(bottom or 1)
            stack.append(torch.tensor(known, dtype=torch.float64))
    entries = stack.pop().expand(shape)
    return entries.to(torch.int64 if index == "True" else torch.float32).clone()


TABLES: dict[str, Callable[..., Tensor]] = {
    "offset_index": offset_index,
    "clipped_index": clipped_index,
    "bucket_index": bucket_index,
    "shift_mask": shift_mask,
    "table": formula_table,
}


def listed_index(entries: str) -> Tensor:
    """Entries one by one, as of a weight that is read through an index table."""
    return torch.tensor([int(entry) for entry in entries.split()], dtype=torch.int64)


def listed_key(entries: Sequence[int]) -> TableKey:
    """The table of these entries."""
    return TableKey(listed_index.__name__, (("entries", " ".join(map(str, entries))),))


def parts_index(length: int, **sizes: int) -> Tensor:
    """Parts side by side, the k-th of size k, each from where it starts if all are their largest;
    the last has what is left of the length."""
    found: list[int] = []
    start = 0
    for k in range(len(sizes) // 2):
        found += range(start, start + sizes[f"size{k}"])
        start += sizes[f"largest{k}"]
    found += range(start, start + length - len(found))
    return torch.tensor(found, dtype=torch.int64)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    **TABLES,
    **{f.__name__: f for f in (listed_index, shift_regions)},
    **{f.__name__: f for f in (stacked_index, index_columns, index_classes)},
}
"""Those of `TABLES`, each an op, what weights are read through, and what kernels read."""


def table(key: TableKey) -> Tensor:
    """The entries of a table."""
    return FUNCTIONS[key.op](**dict(key.options))
