"""Rules of pooling and of the strided zero."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import fx

from spacelang.backends.torch.lowering.emit import Emit, lowers
from spacelang.backends.torch.lowering.frame import Size
from spacelang.backends.torch.lowering.functions import resize_nearest
from spacelang.ir.dim import Dim


def _padding(emit: Emit) -> Size:
    pad = emit.node.attributes["pad"]
    return emit.size(pad if isinstance(pad, Dim) else emit.dim("kernel") // 2)


@lowers("max_pool")
def _max_pool(emit: Emit) -> fx.Node:
    kernel = emit.size(emit.dim("kernel"))
    return emit.call(F.max_pool2d, emit.x, kernel, emit.whole("stride"), _padding(emit))


@lowers("avg_pool")
def _avg_pool(emit: Emit) -> fx.Node:
    kernel, count = emit.size(emit.dim("kernel")), emit.flag("count_pad")
    return emit.call(
        F.avg_pool2d,
        emit.x,
        kernel,
        emit.whole("stride"),
        _padding(emit),
        count_include_pad=count,
    )


@lowers("resize")
def _resize(emit: Emit) -> fx.Node:
    sizes = tuple(emit.size(d) for d in emit.node.types[0].shape[2:])
    if emit.text("mode") == "nearest":
        return emit.call(resize_nearest, emit.x, *sizes)
    return emit.call(F.interpolate, emit.x, sizes, mode="bilinear", align_corners=False)


@lowers("zero")
def _zero(emit: Emit) -> fx.Node:
    stride = emit.whole("stride")
    x = emit.x
    if stride != 1:
        step = slice(None, None, stride)
        x = emit.call(operator.getitem, x, (slice(None), slice(None), step, step))
    return emit.call(torch.zeros_like, x)
