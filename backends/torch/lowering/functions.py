"""What PyTorch has no function for: the few functions and modules that lowered networks call.

    y = ByMode(batch_norm)(x, mean, variance, ..)      # a function of the mode, as a module

They need torch alone, so that printed sources can hold them word for word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """Elements dropped at a rate in training, the others scaled up."""
    return F.dropout(x, rate, training)


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
    training: bool,
) -> Tensor:
    """Over axis 1 of [B, C, ..]; in training the running statistics and their count move on."""
    if training:
        count.add_(1)
    return F.batch_norm(x, mean, variance, weight, bias, training, momentum, eps)


def batch_norm_through(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    entries: Tensor,
    momentum: float,
    eps: float,
    training: bool,
) -> Tensor:
    """With some entries of the running statistics, which in training are written back."""
    here, there = mean[entries], variance[entries]
    y = batch_norm(x, here, there, count, weight, bias, momentum, eps, training)
    if training:
        mean.index_copy_(0, entries, here)
        variance.index_copy_(0, entries, there)
    return y


def resize_nearest(x: Tensor, height: int, width: int) -> Tensor:
    """Entry floor(i * H / height) of [B, C, H, W], exactly: F.interpolate rounds i * (H / height),
    which for 2 to 82 entries is another one."""
    rows = torch.arange(height, device=x.device) * x.shape[2] // height
    columns = torch.arange(width, device=x.device) * x.shape[3] // width
    return x.index_select(2, rows).index_select(3, columns)


def path_mask(rate: float, samples: int, device: torch.device) -> Tensor:
    """A factor a sample: 0 at a rate, else what keeps the mean."""
    return (torch.rand(samples, device=device) >= rate) / (1 - rate)


def scale_samples(x: Tensor, mask: Tensor | None) -> Tensor:
    """Each sample, along axis 0, by its factor; without factors as it is."""
    if mask is None:
        return x
    return x * mask.to(x.dtype).reshape([-1] + [1] * (x.dim() - 1))


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Whole samples dropped at a rate in training, the others scaled up."""
    if not training or rate == 0:
        return x
    return scale_samples(x, path_mask(rate, x.shape[0], x.device))


def with_room(x: Tensor, axes: Sequence[int]) -> Tensor:
    """The tensor with one more entry at the end of some axes, which no slice reads."""
    amounts = [int(axis in axes) for axis in reversed(range(x.dim()))]
    return F.pad(x, [n for amount in amounts for n in (0, amount)])


class _SlicedLinear(torch.autograd.Function):
    """A linear layer whose weight is a slice, with the gradients of one whose weight is not.

    PyTorch multiplies for the gradient of a weight in another order where rows are not side by side
    (mm_mat2_backward), and for that of `x` where columns are (mm_mat1_backward), which moves the
    last bit.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows, read = grad_outputs[0].reshape(-1, weight.shape[0]), x.reshape(-1, weight.shape[1])
        back = outer = None
        if ctx.needs_input_grad[0]:
            by_column = read.stride() == (1, len(read))
            back = weight.t().mm(rows.t()).t() if by_column else rows.mm(weight)
            back = back.reshape(x.shape)
        if ctx.needs_input_grad[1]:
            outer = rows.t().mm(read)
        # F.linear adds the bias to rows, but where `x` is not dense to the product of all axes.
        added = rows if x.is_contiguous() or x.dim() == 1 else grad_outputs[0]
        over = tuple(range(added.dim() - 1))
        return back, outer, added.sum(over) if ctx.needs_input_grad[2] else None


def _read_as_dense(weight: Tensor) -> bool:
    """Whether a product adds in the order in which it does for a copy of the weight.

    It does not where neither rows nor columns are side by side, and F.linear makes a copy of its
    own; nor, for doubles, where rows begin at other multiples of 16 bytes than the copy's do, since
    that decides which entries MKL reads together.
    """
    if 1 not in weight.stride():
        return False
    if weight.dtype != torch.float64:
        return True
    over = weight.stride(0) - weight.shape[-1]
    if weight.shape[-1] == 1 and over:
        return False  # a vector whose entries lie apart
    return bool(weight.storage_offset() % 2 == 0 and over % 2 == 0)


def sliced_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear, with a result and gradients that do not depend on whether the weight is a slice.

    Those of a matrix by a single row or column do in float32, by a rounding.
    """
    if not _read_as_dense(weight):
        weight = weight.clone(memory_format=torch.contiguous_format)
    plain = weight.is_contiguous() or not torch.is_grad_enabled()
    if plain or torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight, bias)
    return _SlicedLinear.apply(x, weight, bias)


class ByMode(nn.Module):
    """A function whose last argument is whether it trains, in the module's own mode."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Tensor | float | None) -> Tensor:
        return self.function(*arguments, self.training)

    def extra_repr(self) -> str:
        return self.function.__name__


class Table(nn.Module):
    """A constant tensor that is in no state dict."""

    def __init__(self, entries: Tensor) -> None:
        super().__init__()
        self.register_buffer("entries", entries, persistent=False)

    entries: Tensor

    def forward(self) -> Tensor:
        return self.entries
