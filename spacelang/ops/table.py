"""Tables and reading by index: take, gather, bucket_sum, tables by a formula, of offsets, masks.

The tables are pure functions of their sizes: constants of the network, stored only where labelled.
"""

from __future__ import annotations

from spacelang.ir.dim import Dim
from spacelang.ir.node import TensorType
from spacelang.ir.op import COUNTED, POSITIVE, Infer, Interval, op, option, shown
from spacelang.ops.buckets import METHODS
from spacelang.ops.formula import mistake

INDEX = "i64"

take = op("take", "table index", axis=option("whole", 0))


@take.shape
def _take(infer: Infer) -> TensorType:
    """Entries of an axis of `table` by `index`; the axis is replaced by the index's axes."""
    table, index = infer.types
    axis = infer.axis(infer.whole("axis"), table.rank)
    if index.dtype != INDEX:
        infer.fail("SP209", "the index of take must be whole numbers", f"it is {shown(index)}")
    return TensorType(table.shape[:axis] + index.shape + table.shape[axis + 1 :], table.dtype)


gather = op("gather", "x index")


@gather.shape
def _gather(infer: Infer) -> TensorType:
    """x [.., N, T], index [N, M] -> [.., N, M]: entry index[n, m] of row n."""
    x, index = infer.types
    if x.rank < 2 or index.rank != 2 or index.dtype != INDEX:
        infer.fail(
            "SP301",
            "gather reads x [.., N, T] by whole numbers [N, M]",
            f"{shown(x)} by {shown(index)}",
        )
    infer.need_equal(x.shape[-2], index.shape[0], "SP304", "rows of x and of the index")
    return TensorType((*x.shape[:-1], index.shape[1]), x.dtype)


bucket_sum = op("bucket_sum", "x index", buckets=option("size"))


@bucket_sum.shape
def _bucket_sum(infer: Infer) -> TensorType:
    """x [.., N, M], index [N, M] -> [.., N, T]: entry t of row n adds the x[n, m] with index t.

    The transpose of `gather`: it only adds.
    """
    x, index = infer.types
    if x.rank < 2 or index.rank != 2 or index.dtype != INDEX:
        infer.fail("SP301", "bucket_sum reads [.., N, M] by whole numbers [N, M]", f"{x}, {index}")
    infer.need_equal(x.shape[-2], index.shape[0], "SP304", "rows of x and of the index")
    infer.need_equal(x.shape[-1], index.shape[1], "SP304", "columns of x and of the index")
    return TensorType((*x.shape[:-1], infer.dim("buckets")), x.dtype)


def _square(infer: Infer) -> TensorType:
    side = infer.dim("h") * infer.dim("w") + (infer.dim("skip") if "skip" in infer.options else 0)
    infer.need_bound(side, "the number of positions")
    infer.need_whole(side, "the number of positions")
    return TensorType((side, side), INDEX)


KINDS = ("signed", "absolute")
op(
    "offset_index",
    "",
    "table",
    h=option("size", within=COUNTED),
    w=option("size", within=COUNTED),
    kind=option("string", KINDS[0], words=KINDS),
).shape(_square)
op(
    "clipped_index",
    "",
    "table",
    h=option("size", within=COUNTED),
    w=option("size", within=COUNTED),
    axis=option("whole", within=Interval(0, 1)),
    reach=option("size", within=Interval(0)),
    skip=option("whole", 0, Interval(0)),
).shape(_square)
op(
    "bucket_index",
    "",
    "table",
    h=option("size", within=COUNTED),
    w=option("size", within=COUNTED),
    method=option("string", words=tuple(table for tables in METHODS.values() for table in tables)),
    ratio=option("number", Dim.of(1.9), POSITIVE),
    skip=option("whole", 0, Interval(0)),
).shape(_square)
shift_mask = op(
    "shift_mask",
    "",
    "table",
    h=option("size", within=COUNTED),
    w=option("size", within=COUNTED),
    window=option("size", within=COUNTED),
    shift=option("size", within=Interval(0)),
)


@shift_mask.shape
def _shift_mask(infer: Infer) -> TensorType:
    """[windows, 1, w*w, w*w]: -100 between positions of a window that a cyclic shift brought
    together."""
    window = infer.dim("window")
    for side in ("h", "w"):
        infer.need_whole(infer.dim(side) / window, f"windows along {side} of shift_mask")
    windows = infer.dim("h") * infer.dim("w") / (window * window)
    infer.need_bound(windows, "the number of windows")
    infer.need_whole(windows, "the number of windows")
    return TensorType((windows, Dim.of(1), window * window, window * window))


table = op(
    "table",
    "",
    "table written",
    shape=option("sizes"),
    formula=option("string"),
    sizes=option("sizes", ()),
    index=option("bool", False),
)


@table.shape
def _table(infer: Infer) -> TensorType:
    """The values of a formula at all places of a shape; see `formula.py`."""
    shape = infer.dims("shape")
    for size in shape:
        infer.need_bound(size, "a size of a table")
        infer.need_whole(size, "a size of a table")
    wrong = mistake(infer.text("formula"), len(shape), len(infer.dims("sizes")))
    if wrong:
        infer.fail("SP209", "a formula that has no value", wrong)
    return TensorType(shape, INDEX if infer.flag("index") else "f32")
