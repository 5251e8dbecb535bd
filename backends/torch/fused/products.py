"""Linear layers of training through oneDNN, whose products take half as long as PyTorch's own here.

    y = linear(x, weight, bias)        # F.linear, a weight may be a slice

PyTorch computes float32 products by MKL, at 33 to 100 GFLOP/s on one core of an AMD EPYC where
oneDNN reaches 60 to 190, the three of a training step alike. Weights are taken as they are in
each call: what is packed once, as for inference, would be stale after a step. oneDNN falls to a
reference implementation, a thousand times slower, where rows of a matrix are not side by side: a
weight that is a slice is copied, which takes a hundredth of the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang.backends.torch.functions import sliced_linear
from spacelang.backends.torch.packed import available

LEAST = 1 << 20  # multiply-adds from which it pays


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear: by oneDNN where that is faster, else with the gradients of `sliced_linear`."""
    if torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight, bias)
    if not fast(x, weight):
        return sliced_linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


def fast(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes the product of all rows of `x` with a weight, and sooner."""
    work = x.numel() * weight.shape[0]
    return x.device.type == "cpu" and x.dtype == torch.float32 and work >= LEAST and available()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x w^T + b of matrices by rows or by columns side by side: [M, C], [F, C] -> [M, F]."""
    if x.dtype != torch.float32 or x.device.type != "cpu" or not available():
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(_dense(x), _dense(weight), bias, "none", [], "")


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous() or x.t().is_contiguous() else x.contiguous()


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = product(x.reshape(-1, x.shape[-1]), weight, bias)
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = grad_outputs[0].reshape(-1, len(weight))
        flat = x.reshape(-1, x.shape[-1])
        back, outer, added = gradients(rows, flat, weight, ctx.needs_input_grad)
        return back if back is None else back.view(x.shape), outer, added


def gradients(
    rows: Tensor, x: Tensor, weight: Tensor, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Of x [M, C], weight [F, C] and bias [F] from that of the result [M, F], those needed."""
    rows = _dense(rows)
    back = product(rows, _dense(weight).t()) if needs[0] else None
    outer = product(rows.t(), x.t()) if needs[1] else None
    return back, outer, rows.sum(0) if needs[2] else None
