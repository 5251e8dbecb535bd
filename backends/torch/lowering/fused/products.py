"""Linear layers of training through oneDNN, whose products take half as long as PyTorch's own here.

    y = linear(x, weight, bias)        # F.linear, a weight may be a slice

PyTorch computes float32 products by MKL, at 33 to 100 GFLOP/s on one core of an AMD EPYC where
oneDNN reaches 60 to 190, the three of a training step alike. Weights are taken as they are in
each call: what is packed once, as for inference, would be stale after a step. oneDNN falls to a
reference implementation, a thousand times slower, where rows of a matrix are not side by side: a
weight that is a slice is copied, which takes a hundredth of the product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang.backends.torch.lowering.functions import sliced_linear
from spacelang.backends.torch.lowering.fused.operators import fused

LEAST = 1 << 20  # multiply-adds from which it pays


@cache
def available() -> bool:
    """Whether this PyTorch has the operators, and its processor oneDNN."""
    names = ("_linear_pointwise", "_convolution_pointwise")
    if not torch.backends.mkldnn.is_available():
        return False
    return all(hasattr(torch.ops.mkldnn, name) for name in names)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear: by oneDNN where that is faster, else with the gradients of `sliced_linear`.

    While it is compiled it is one operator for all sizes.
    """
    if torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight, bias)
    if torch.compiler.is_compiling() or fast(x, weight):
        return _linear(x, weight, bias)
    return sliced_linear(x, weight, bias)


def fast(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes the product of all rows of `x` with a weight, and sooner."""
    work = x.numel() * weight.shape[0]
    return x.device.type == "cpu" and x.dtype == torch.float32 and work >= LEAST and available()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x w^T + b of matrices by rows or by columns side by side: [M, C], [F, C] -> [M, F].

    Where it is to be derived, as in a backward pass that is itself derived, it is PyTorch's own:
    oneDNN's operator has no derivative, and its result would count as a constant.
    """
    if _derived(x, weight, bias) or not fast(x, weight):
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(_dense(x), _dense(weight), bias, "none", [], "")


def _derived(*operands: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in operands)


def _dense(x: Tensor) -> Tensor:
    if x.is_contiguous() or x.t().is_contiguous():
        return x
    return x.contiguous() if x.stride(1) == 1 else x.t().contiguous().t()


def gradients(
    rows: Tensor, x: Tensor, weight: Tensor, needs: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of x [M, C], weight [F, C] and bias [F] from that of the result [M, F]; empty where none
    is needed."""
    rows, none = _dense(rows), rows.new_empty(0)
    back = product(rows, _dense(weight).t()) if needs[0] else none
    outer = product(rows.t(), x.t()) if needs[1] else none
    return back, outer, rows.sum(0) if needs[2] else none


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = product(x.reshape(-1, x.shape[-1]), weight, bias)
    return y.view(*x.shape[:-1], len(weight))


def _backward(
    slopes: Tensor, x: Tensor, weight: Tensor, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    rows, flat = slopes.reshape(-1, len(weight)), x.reshape(-1, x.shape[-1])
    back, outer, added = gradients(rows, flat, weight, needs)
    return back.view(x.shape) if needs[0] else back, outer, added


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _backward_fake(
    slopes: Tensor, x: Tensor, weight: Tensor, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (x.shape, weight.shape, weight.shape[:1])
    back, outer, added = (
        x.new_empty(shape if needed else (0,)) for shape, needed in zip(shapes, needs, strict=True)
    )
    return back, outer, added


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.biased = inputs[2] is not None


def _spread(backward: Callable[..., Any], ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
    needs = [*ctx.needs_input_grad[:2], ctx.biased and ctx.needs_input_grad[2]]
    found = backward(slopes, *ctx.saved_tensors, needs)
    return tuple(x if needed else None for x, needed in zip(found, needs, strict=True))


_linear = fused("linear", _forward, _backward, _fake, _backward_fake, _setup, _spread)
