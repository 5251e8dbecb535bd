"""Ops that move elements and compute nothing: rearrange, concat, split, slices, pad, roll,
expand."""

from __future__ import annotations

from spacelang.diagnostics import counted
from spacelang.ir.conflict import shown
from spacelang.ir.dim import ONE, ZERO, Dim, maximum, minimum, product
from spacelang.ir.entries import Entries, IndexOf
from spacelang.ir.infer import Infer
from spacelang.ir.node import TensorType
from spacelang.ir.op import op, option
from spacelang.ops.patterns import bind_rearrange, parse_rearrange

rearrange = op("rearrange", "x", "open moves", pattern=option("string"), sizes=option("any", ()))


@rearrange.shape
def _rearrange(infer: Infer) -> TensorType:
    """Split, permute and merge axes by a pattern; sizes by name where a group leaves them open."""
    sides = parse_rearrange(infer)
    sizes, leading = bind_rearrange(infer, sides)
    shape: list[Dim] = []
    for group in sides.right:
        if group == ("...",):
            shape += leading
        else:
            shape.append(product(sizes[n] for n in group if n != "1"))
    return TensorType(tuple(shape), infer.x.dtype)


concat = op("concat", "xs*", "moves", axis=option("whole"))


@concat.shape
def _concat(infer: Infer) -> TensorType:
    """Parts side by side along an axis; their other sizes are equal."""
    first = infer.x
    axis = infer.axis(infer.whole("axis"), first.rank)
    total = ZERO
    for number, part in enumerate(infer.types, 1):
        if part.rank != first.rank:
            infer.fail(
                "SP301",
                f"part {number} of concat has {counted(part.rank, 'axis')}, the first {first.rank}",
            )
        for i, (a, b) in enumerate(zip(first.shape, part.shape, strict=True)):
            if i != axis:
                infer.need_equal(a, b, "SP304", f"axis {i} of part {number} of concat differs")
        total = total + part.shape[axis]
    return TensorType((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype)


split = op("split", "x", "moves", parts=option("sizes"), axis=option("whole"))


@split.shape
def _split(infer: Infer) -> list[TensorType]:
    """A list of parts along an axis: a number of equal ones, or their sizes."""
    x = infer.x
    axis = infer.axis(infer.whole("axis"), x.rank)
    given = infer.options["parts"]
    if isinstance(given, tuple):
        sizes = infer.dims("parts")
        whole = sum(sizes, ZERO)
        infer.need_equal(whole, x.shape[axis], "SP304", "the parts are not the whole axis")
    else:
        count = infer.whole("parts")
        if count < 1:
            infer.fail("SP307", f"split into {counted(count, 'part')}")
        sizes = (x.shape[axis] / count,) * count
        infer.need_whole(sizes[0], "a part")
    return [TensorType((*x.shape[:axis], n, *x.shape[axis + 1 :]), x.dtype) for n in sizes]


unstack = op("unstack", "x", "moves", axis=option("whole"))


@unstack.shape
def _unstack(infer: Infer) -> list[TensorType]:
    """The list of slices along an axis, which is gone."""
    x = infer.x
    axis = infer.axis(infer.whole("axis"), x.rank)
    count = infer.known(x.shape[axis], "the axis of unstack")
    return [TensorType(x.shape[:axis] + x.shape[axis + 1 :], x.dtype)] * count


expand = op("expand", "x", "moves", to=option("sizes"))


@expand.shape
def _expand(infer: Infer) -> TensorType:
    """Axes of one entry repeated, without a copy."""
    x, to = infer.x, infer.dims("to")
    if len(to) != x.rank:
        infer.fail("SP301", f"expand to {counted(len(to), 'axis')} of a tensor of {x.rank}")
    for old, new in zip(x.shape, to, strict=True):
        if old != ONE:
            infer.need_equal(old, new, "SP304", "only an axis of one entry expands")
    return TensorType(to, x.dtype)


slice_ = op("slice", "x", "written moves", index=option("any"))


@slice_.shape
def _slice(infer: Infer) -> TensorType:
    """`x[..]`: one entry an axis: none (all of it), a number (drops the axis) or (start, stop)."""
    x, index = infer.x, infer.options["index"]
    entries = index if isinstance(index, tuple) else (index,)
    if len(entries) > x.rank:
        infer.fail(
            "SP301",
            f"{counted(len(entries), 'index')} of a tensor of {counted(x.rank, 'axis')}",
        )
    shape: list[Dim] = []
    for axis, size in enumerate(x.shape):
        entry = entries[axis] if axis < len(entries) else None
        if entry is None:
            shape.append(size)
        elif isinstance(entry, Dim):
            here = entry if entry.constant is None or entry.constant >= 0 else size + entry
            outside = f"index {shown(entry)} of an axis of {shown(size)}"
            infer.need_whole(here, "an index")
            infer.need_at_most(here + 1, size, "SP307", outside)
            infer.need_at_most(ZERO, here, "SP307", outside)
        elif isinstance(entry, tuple):
            start, stop = (d for d in entry if isinstance(d, Dim))
            infer.need_at_most(ZERO, start, "SP307", "a slice starts before its axis")
            outside = f"a slice ends at {shown(stop)} of an axis of {shown(size)}"
            infer.need_at_most(stop, size, "SP307", outside)
            infer.need_whole(start, "the start of a slice")
            shape.append(stop - start)
    return TensorType(tuple(shape), x.dtype)


pad = op("pad", "x", by=option("sizes"), axes=option("wholes"))


@pad.shape
def _pad(infer: Infer) -> TensorType:
    """Zeros at the end of axes."""
    x, by, axes = infer.x, infer.dims("by"), infer.wholes("axes")
    if len(by) != len(axes):
        infer.fail("SP306", f"pad has {counted(len(by), 'size')} for {counted(len(axes), 'axis')}")
    shape = list(x.shape)
    for amount, axis in zip(by, axes, strict=True):
        infer.need_at_most(ZERO, amount, "SP307", "pad by less than nothing")
        shape[infer.axis(axis, x.rank)] += amount
    return TensorType(tuple(shape), x.dtype)


@pad.entries
def _padded(of: IndexOf) -> Entries:
    (x,) = of.operands
    return Entries(minimum(x.low, ZERO), maximum(x.high, ZERO), x.where)


roll = op("roll", "x", "moves", by=option("sizes"), axes=option("wholes"))


@roll.shape
def _roll(infer: Infer) -> TensorType:
    """Entries moved cyclically along axes."""
    by, axes = infer.dims("by"), infer.wholes("axes")
    if len(by) != len(axes):
        infer.fail("SP306", f"roll has {counted(len(by), 'step')} for {counted(len(axes), 'axis')}")
    for axis in axes:
        infer.axis(axis, infer.x.rank)
    return infer.x


mean = op("mean", "x", axes=option("wholes"), keep=option("bool", False))


@mean.shape
def _mean(infer: Infer) -> TensorType:
    """The mean over axes, which are gone, or of one entry with `keep`."""
    x = infer.x
    axes = {infer.axis(a, x.rank) for a in infer.wholes("axes")}
    kept = infer.flag("keep")
    shape = [ONE if i in axes else d for i, d in enumerate(x.shape) if i not in axes or kept]
    return TensorType(tuple(shape), x.dtype)
