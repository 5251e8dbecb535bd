"""Pooling, resizing, and the strided zero of cell spaces. Maps are [B, C, H, W]."""

from __future__ import annotations

from spacelang.diagnostics import counted
from spacelang.ir.dim import ONE
from spacelang.ir.infer import Infer
from spacelang.ir.node import TensorType
from spacelang.ir.op import COUNTED, Interval, op, option


def _pooled(infer: Infer) -> TensorType:
    """As conv; pad defaults to k//2."""
    x = infer.x
    if x.rank != 4:
        infer.fail(
            "SP301",
            f"{infer.name} reads [B, C, H, W], not a tensor of {counted(x.rank, 'axis')}",
        )
    kernel, stride = infer.dim("kernel"), infer.whole("stride")
    pad = infer.padding(kernel // 2)
    infer.need_at_most(2 * pad, kernel, "SP307", "pad by more than half of the window")
    sizes = tuple((side + 2 * pad - kernel) // stride + 1 for side in x.shape[2:])
    for size in sizes:
        infer.need_at_most(ONE, size, "SP307", "the window is larger than the padded map")
    return TensorType((*x.shape[:2], *sizes), x.dtype)


for _name in ("max_pool", "avg_pool"):
    op(
        _name,
        "x",
        kernel=option("size", within=COUNTED),
        stride=option("whole", 1, COUNTED),
        pad=option("size", None, Interval(0)),
        count_pad=option("bool", False),
    ).shape(_pooled)

zero = op("zero", "x", stride=option("whole", 1, COUNTED))


@zero.shape
def _zero(infer: Infer) -> TensorType:
    """Zeros of the type that a strided slice has."""
    x, stride = infer.x, infer.whole("stride")
    if stride == 1:
        return x
    if x.rank != 4:
        infer.fail("SP301", "a strided zero reads [B, C, H, W]")
    return TensorType((*x.shape[:2], *((s - 1) // stride + 1 for s in x.shape[2:])), x.dtype)


MODES = ("bilinear", "nearest")
resize = op("resize", "x", to=option("sizes"), mode=option("string", MODES[0], words=MODES))


@resize.shape
def _resize(infer: Infer) -> TensorType:
    """[B, C, H, W] -> [B, C, h, w] for `to` = [h, w] or one size for both.

    bilinear  between the four nearest entries, pixel centres at halves, no smoothing
    nearest   entry floor(i * H / h)
    """
    x, to = infer.x, infer.dims("to")
    if x.rank != 4:
        infer.fail("SP301", f"resize reads [B, C, H, W], not a tensor of {counted(x.rank, 'axis')}")
    if len(to) not in (1, 2):
        infer.fail("SP306", f"resize to {counted(len(to), 'size')} of two axes")
    for size in to:
        infer.need_whole(size, "a size of resize")
    return TensorType((*x.shape[:2], to[0], to[-1]), x.dtype)
