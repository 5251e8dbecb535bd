"""Rules of linear, conv, einsum and parameter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx

from spacelang.backends.torch.lowering.emit import Emit, lowers
from spacelang.backends.torch.lowering.frame import Entries, Result
from spacelang.ir.dim import Dim


@lowers("linear")
def _linear(emit: Emit) -> Result:
    axes, out = emit.whole("axes"), emit.dims("out")
    x = emit.x if axes == 1 else emit.method("flatten", emit.x, -axes)
    count = emit.frame.entries(emit.node)
    if count is None:
        weight, bias = emit.param("weight"), emit.param("bias")
        return _factored(emit, emit.frame.linear(emit.node, x, weight, bias), out)
    parts: list[fx.Node] = []
    for entry in range(count):
        weight, bias = emit.param("weight", (entry, count)), emit.param("bias", (entry, count))
        parts.append(_factored(emit, emit.frame.linear(emit.node, x, weight, bias), out[1:]))
    return Entries(tuple(parts))


def _factored(emit: Emit, y: fx.Node, out: tuple[Dim, ...]) -> fx.Node:
    """One axis a factor."""
    return y if len(out) == 1 else emit.method("unflatten", y, -1, emit.sizes(out))


@lowers("conv")
def _conv(emit: Emit) -> fx.Node:
    kernel, dilation = emit.dim("kernel"), emit.whole("dilation")
    pad = emit.node.attributes["pad"]
    by = pad if isinstance(pad, Dim) else dilation * (kernel - 1) // 2
    return emit.call(
        emit.frame.conv2d,
        emit.x,
        emit.param("weight"),
        emit.param("bias"),
        stride=emit.whole("stride"),
        padding=emit.size(by),
        dilation=dilation,
        groups=emit.size(emit.dim("groups")),
    )


@lowers("conv_transpose")
def _conv_transpose(emit: Emit) -> fx.Node:
    stride = emit.whole("stride")
    over = emit.dim("kernel") - stride
    pad, extra = emit.node.attributes["pad"], emit.node.attributes["extra"]
    return emit.call(
        F.conv_transpose2d,
        emit.x,
        emit.param("weight"),
        emit.param("bias"),
        stride=stride,
        padding=emit.size(pad if isinstance(pad, Dim) else (over + 1) // 2),
        output_padding=emit.size(
            extra if isinstance(extra, Dim) else over % 2 * min(stride - 1, 1)
        ),
        groups=emit.size(emit.dim("groups")),
    )


@lowers("einsum")
def _einsum(emit: Emit) -> fx.Node:
    return emit.call(torch.einsum, emit.text("pattern"), *emit.operands)


@lowers("parameter", "buffer")
def _parameter(emit: Emit) -> Result:
    found = emit.param("")
    assert found is not None
    return found
