"""Convolution as an operator: PyTorch's compiler makes its own anew for each number of channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang.backends.torch.fused.operators import fused


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
    """F.conv2d."""
    return _conv(x, weight, bias, stride, padding, dilation, groups)


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None,
    stride: int, padding: int, dilation: int, groups: int,
) -> Tensor:  # fmt: skip
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _backward(
    slopes: Tensor, x: Tensor, weight: Tensor, needs: list[bool],
    stride: int, padding: int, dilation: int, groups: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    places = ([stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], groups)
    sizes = [len(weight)]
    found = torch.ops.aten.convolution_backward(slopes, x, weight, sizes, *places, needs)
    back, outer, added = (slopes.new_empty(0) if part is None else part for part in found)
    return back, outer, added


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
