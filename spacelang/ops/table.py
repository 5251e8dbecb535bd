"""Tables and reading by index: take, gather, bucket_sum, tables by a formula, of offsets, masks.

The tables are pure functions of their sizes: constants of the network, stored only where labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from math import prod

from spacelang.ir.atom import LIMIT, Number, exact
from spacelang.ir.condition import compare
from spacelang.ir.conflict import shown
from spacelang.ir.dim import (
    ONE,
    ZERO,
    Dim,
    Symbol,
    conditional,
    floor,
    function,
    maximum,
    minimum,
    sqrt,
)
from spacelang.ir.entries import Entries, IndexOf
from spacelang.ir.infer import Infer
from spacelang.ir.node import TensorType
from spacelang.ir.op import COUNTED, POSITIVE, Interval, op, option
from spacelang.ops.buckets import METHODS
from spacelang.ops.formula import depth, entry_at, entry_of, mistake
from spacelang.ops.limits import MAX_DEPTH, MAX_ENTRIES, MAX_SIDE, Beyond

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


@take.room
def _(of: IndexOf) -> Dim:
    table, _ = of.types
    return table.shape[of.whole("axis") % table.rank]


@take.entries
def _(of: IndexOf) -> Entries:
    return of.operands[0]


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


@gather.room
def _(of: IndexOf) -> Dim:
    return of.types[0].shape[-1]


@gather.entries
def _(of: IndexOf) -> Entries:
    return of.operands[0]


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


@bucket_sum.room
def _(of: IndexOf) -> Dim:
    return of.dim("buckets")


def _square(infer: Infer) -> TensorType:
    for name in {"axis", "skip"} & set(infer.options):
        infer.whole(name)
    side = infer.dim("h") * infer.dim("w") + (infer.dim("skip") if "skip" in infer.options else 0)
    infer.need_bound(side, "the number of positions")
    infer.need_whole(side, "the number of positions")
    return TensorType((side, side), INDEX)


KINDS = ("signed", "absolute")
offset_index = op(
    "offset_index",
    "",
    "table",
    h=option("size", within=COUNTED),
    w=option("size", within=COUNTED),
    kind=option("string", KINDS[0], words=KINDS),
)
offset_index.shape(_square)


@offset_index.entries
def _(of: IndexOf) -> Entries:
    """One for every distance, or one for every signed offset."""
    h, w = of.dim("h"), of.dim("w")
    if of.text("kind") == "absolute":
        return Entries(ZERO, h * w - 1)
    return Entries(ZERO, (2 * h - 1) * (2 * w - 1) - 1)


clipped_index = op(
    "clipped_index",
    "",
    "table",
    h=option("size", within=COUNTED),
    w=option("size", within=COUNTED),
    axis=option("whole", within=Interval(0, 1)),
    reach=option("size", within=Interval(0)),
    skip=option("whole", 0, Interval(0)),
)
clipped_index.shape(_square)


@clipped_index.entries
def _(of: IndexOf) -> Entries:
    """`reach + 1` is the offset 0, around which the axis reaches as far as it has positions."""
    middle = of.dim("reach") + 1
    far = minimum(of.dim("reach"), of.dim("w" if of.whole("axis") else "h") - 1)
    return Entries(ZERO if of.whole("skip") else middle - far, middle + far)


bucket_index = op(
    "bucket_index",
    "",
    "table",
    h=option("size", within=COUNTED),
    w=option("size", within=COUNTED),
    method=option("string", words=tuple(table for tables in METHODS.values() for table in tables)),
    ratio=option("number", Dim.of(1.9), POSITIVE),
    skip=option("whole", 0, Interval(0)),
)
bucket_index.shape(_square)


@bucket_index.entries
def _(of: IndexOf) -> Entries:
    """Buckets grow with the offset, so those of the corners are the ends (`buckets.py`); what has
    no place has the last bucket of all."""
    rows, columns, ratio = of.dim("h") - 1, of.dim("w") - 1, of.dim("ratio")
    origin = floor(2 * ratio)
    side = 2 * origin + 1
    low, high, last = ZERO, ZERO, side
    match of.text("method"):
        case "euclidean":
            high = _bucket(function("round", sqrt(rows * rows + columns * columns)), ratio)
        case "quantised":
            high = _bucket(rows * rows + columns * columns, ratio)
        case "cross_rows":
            low, high = -_bucket(rows, ratio), _bucket(rows, ratio)
        case "cross_cols":
            low, high = -_bucket(columns, ratio), _bucket(columns, ratio)
        case _:
            high = _bucket(rows, ratio) * side + _bucket(columns, ratio)
            low, last, origin = -high, side * side, origin * side + origin
    return Entries(low + origin, last if of.whole("skip") else high + origin)


def _bucket(distance: Dim, ratio: Dim) -> Dim:
    """`buckets.piecewise` of a distance of at least 0."""
    far = function("log", maximum(distance, ratio) / ratio) / function("log", 8) * ratio
    grown = floor(minimum(2 * ratio, function("round", ratio + far)))
    return conditional(compare("<=", distance, ratio), distance, grown)


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
    shape, sizes, words = infer.dims("shape"), infer.dims("sizes"), infer.text("formula")
    for size in shape:
        infer.need_bound(size, "a size of a table")
        infer.need_whole(size, "a size of a table")
        infer.need_some(size, "a size of a table")
        infer.need_at_most(size, Dim.of(MAX_SIDE), "SP507", f"{LARGEST}: {MAX_SIDE:,} on an axis")
    entries = prod(shape, start=ONE)
    infer.need_at_most(entries, Dim.of(MAX_ENTRIES), "SP507", f"{LARGEST}: {MAX_ENTRIES:,} entries")
    for size in sizes:
        infer.need_bound(size, "a number in a table")
    wrong = mistake(words, len(shape), len(sizes))
    if wrong:
        infer.fail("SP209", f"a formula that has no value: {wrong}")
    if depth(words) > MAX_DEPTH:
        infer.fail("SP507", f"a formula is nested deeper than {MAX_DEPTH}")
    if "power" in words.split():  # all else is held where it is computed
        try:
            entry_of(words, _places(shape, "%"), sizes)
        except Beyond as failed:
            infer.fail(failed.code, f"a formula with {failed}")
        except ArithmeticError:
            pass  # a part of it has no value: what reads by it is told so
    return TensorType(shape, INDEX if infer.flag("index") else "f32")


LARGEST = "a table is at most"


def _places(shape: Sequence[Dim], mark: str) -> list[Dim]:
    """Symbols for the indices, of as many values as an axis ever has."""
    longest = (int(side.bounds()[1]) for side in shape)
    return [Dim.of(Symbol(f"{mark}i{a}", tuple(range(n)))) for a, n in enumerate(longest)]


@table.entries
def _(of: IndexOf) -> Entries:
    """Those of a small table as they are; else the formula, of indices inside of the shape.

    ArithmeticError where a part of the formula has no value."""
    shape, sizes, words = of.dims("shape"), of.dims("sizes"), of.text("formula")
    known = [size.constant for size in (*shape, *sizes)]
    sides = tuple(int(side.at({})) for side in shape) if None not in known else ()
    if sides and prod(sides) <= LIMIT:
        least, most = _ends(words, sides, tuple(size.at({}) for size in sizes))
        return Entries(Dim.of(least), Dim.of(most))
    places = _places(shape, of.mark)
    sided = zip(places, shape, strict=True)
    inside = tuple(compare("<", place, side) for place, side in sided)
    entry = entry_of(words, places, sizes, (*of.guards, *inside))
    return Entries(entry, entry, inside)


@lru_cache(maxsize=1024)
def _ends(words: str, shape: tuple[int, ...], sizes: tuple[Number, ...]) -> tuple[Number, Number]:
    """The least and the largest entry of a table."""
    entries: list[Number] = []
    for place in product(*map(range, shape)):
        try:
            entries.append(exact(entry_at(words, place, sizes)))
        except (ArithmeticError, ValueError) as failed:
            at = ", ".join(map(str, place))
            raise ArithmeticError(f"a part of its formula has no value at {at}: {failed}") from None
    return min(entries), max(entries)
