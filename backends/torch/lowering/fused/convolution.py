"""Convolution: depthwise ones with a faster backward pass, and an operator for all sizes.

    y = conv2d(x, weight, bias, stride=1, padding=2, dilation=1, groups=channels)

PyTorch's compiler makes its own operator anew for each number of channels: while it compiles, this
one stands in its place. Eagerly all is PyTorch's own but two gradients of depthwise convolutions of
stride 1 on a processor, for which oneDNN has no fast code. With kernel size k, dilation d,

    slope of x[c, i]       sum_u  slope[c, i + pad - u d] weight[c, u]
    slope of weight[c, u]  sum_i  slope[c, i] x[c, i + u d - pad]

the first is a convolution of the slopes by the kernel turned around (2 to 10 times as fast where
it is dilated), the second one of x by the slopes as a kernel as large as the map, of stride d (2 to
10 times as fast for kernels of 5 and more).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang.backends.torch.lowering.fused.operators import fused

LARGE = 5  # kernels from which oneDNN's gradient of the weight is slow
WIDEST = 32  # maps that are no kernel too large
LAST = torch.channels_last


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
) -> Tensor:
    """F.conv2d.

    Under autocast the operands are narrowed before they are kept: an operator keeps what it is
    given, and its derivative is of operands and slopes of one type.
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        narrow = torch.get_autocast_dtype(kind)
        x, weight = x.to(narrow), weight.to(narrow)
        bias = None if bias is None else bias.to(narrow)
    if not torch.compiler.is_compiling() and not _slow(x, weight, stride, padding, dilation):
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return _conv(x, weight, bias, stride, padding, dilation, groups)


def _slow(x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int) -> bool:
    """Whether it is a depthwise convolution whose gradients are computed faster here."""
    kernel, channels, size = weight.shape[-1], x.shape[1], x.shape[-1]
    return (
        len(weight) == channels > 1 == weight.shape[1]
        and len(x) > 0
        and stride == 1
        and 2 * padding == dilation * (kernel - 1)  # the map stays as large as it is
        and x.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and x.is_contiguous(memory_format=LAST)
        and (dilation > 1 or (kernel >= LARGE and size <= WIDEST))
    )


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None,
    stride: int, padding: int, dilation: int, groups: int,
) -> Tensor:  # fmt: skip
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _backward(
    slopes: Tensor, x: Tensor, weight: Tensor, needs: list[bool],
    stride: int, padding: int, dilation: int, groups: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    if _slow(x, weight, stride, padding, dilation):
        none = slopes.new_empty(0)
        return (
            _of_map(slopes, weight, padding, dilation) if needs[0] else none,
            _of_weight(slopes, x, weight, padding, dilation) if needs[1] else none,
            slopes.sum((0, 2, 3)) if needs[2] else none,
        )
    places = ([stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], groups)
    sizes = [len(weight)]
    found = torch.ops.aten.convolution_backward(slopes, x, weight, sizes, *places, needs)
    back, outer, added = (slopes.new_empty(0) if part is None else part for part in found)
    return back, outer, added


def _of_map(slopes: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
    turned = weight.flip(2, 3)
    found = F.conv2d(slopes, turned, None, 1, padding, dilation, len(weight))
    return found.contiguous(memory_format=LAST)


def _of_weight(slopes: Tensor, x: Tensor, weight: Tensor, padding: int, dilation: int) -> Tensor:
    """Channels of all samples side by side are the channels of one map."""
    kernel = weight.shape[-1]
    if kernel < LARGE or x.shape[-1] > WIDEST:
        places = ([1] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], len(weight))
        needs = (False, True, False)
        return torch.ops.aten.convolution_backward(slopes, x, weight, None, *places, needs)[1]
    wide, kernels = (t.permute(2, 3, 0, 1).flatten(2).permute(2, 0, 1) for t in (x, slopes))
    found = F.conv2d(wide[None], kernels[:, None], None, dilation, padding, 1, len(kernels))
    return found.view(x.shape[0], *weight.shape).sum(0)


def _backward_fake(
    slopes: Tensor, x: Tensor, weight: Tensor, needs: list[bool], *_: int
) -> tuple[Tensor, Tensor, Tensor]:
    none = slopes.new_empty(0)
    back, outer = (
        torch.empty_like(t) if n else none for t, n in zip((x, weight), needs, strict=False)
    )
    return back, outer, weight.new_empty(weight.shape[:1]) if needs[2] else none


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, *ctx.places = inputs
    ctx.save_for_backward(x, weight)
    ctx.biased = bias is not None


def _spread(backward: Callable[..., Any], ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
    needs = [*ctx.needs_input_grad[:2], ctx.biased and ctx.needs_input_grad[2]]
    found = backward(slopes, *ctx.saved_tensors, needs, *ctx.places)
    own = (x if needed else None for x, needed in zip(found, needs, strict=True))
    return (*own, None, None, None, None)


_conv = fused("conv2d", _forward, _backward, _forward, _backward_fake, _setup, _spread)
