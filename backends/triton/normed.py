"""Kernels that read folded norms, with batch norms as networks have them: folded here, or trained.

    depthwise(x, weight, norm, stride, "gelu", training)
    x, means = squeezed(x, weight, norm, stride, "gelu", training)
    excited(x, weight, norm, stride, "gelu", made_of(means), training)
    cascade(x, heads, offsets, training)

In evaluation a norm is a scale and a shift of each channel, worked out from its statistics at every
call: a write through `.data` leaves no trace by which a kept one could be known to be stale. In
training it needs the whole result of its convolution: the depthwise convolution is a kernel, its
norm and gate are PyTorch's; a cascade has kernels of its own, a few launches a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from spacelang.backends.triton import cascade as cascades
from spacelang.backends.triton import depthwise as depthwises
from spacelang.backends.triton.cascade_training import cascade_training


class Norm(NamedTuple):
    """A batch norm: its statistics and what it learns, each [C] but the count []."""

    mean: Tensor
    variance: Tensor
    count: Tensor
    scale: Tensor
    shift: Tensor
    momentum: float
    eps: float

    def folded(self) -> tuple[Tensor, Tensor]:
        """Scale and shift of each channel in evaluation."""
        scale = self.scale * torch.rsqrt(self.variance + self.eps)
        return scale, self.shift - self.mean * scale

    def trained(self, x: Tensor) -> Tensor:
        """Normalised by its own statistics, which the running ones move towards."""
        self.count.add_(1)
        return functional.batch_norm(
            x, self.mean, self.variance, self.scale, self.shift, True, self.momentum, self.eps
        )


class Head(NamedTuple):
    """Of a head: the projection [2 D + V, V, 1, 1] and the convolution [D, 1, K, K], normed."""

    qkv: Tensor
    qkv_norm: Norm
    conv: Tensor
    conv_norm: Norm


def depthwise(
    x: Tensor, weight: Tensor, norm: Norm, stride: int, activation: str, training: bool
) -> Tensor:
    """act(norm(conv(x, weight))) of planes x [B, C, H, W] and windows [C, 1, K, K]."""
    norm = Norm(*norm)
    if training:
        one, zero = torch.ones_like(norm.scale), torch.zeros_like(norm.scale)
        made = norm.trained(depthwises.depthwise(x, weight, one, zero, None, stride))
        return depthwises.ACTIVATE[activation](made)
    scale, shift = norm.folded()
    return depthwises.depthwise(x, weight, scale, shift, None, stride, activation)


def squeezed(
    x: Tensor, weight: Tensor, norm: Norm, stride: int, activation: str, training: bool
) -> tuple[Tensor, Tensor]:
    """What `excited` goes on from, and the mean [B, C] of each plane that `depthwise` gives."""
    if training:
        planes = depthwise(x, weight, norm, stride, activation, True)
        return planes, planes.mean((2, 3))
    norm = Norm(*norm)
    scale, shift = norm.folded()
    return x, depthwises.squeeze(x, weight, scale, shift, stride, activation)


def excited(
    x: Tensor,
    weight: Tensor,
    norm: Norm,
    stride: int,
    activation: str,
    gate: Tensor,
    training: bool,
) -> Tensor:
    """The planes of `depthwise` times a gate [B, C]; `x` is what `squeezed` gave for it."""
    if training:
        return x * gate[:, :, None, None]
    norm = Norm(*norm)
    scale, shift = norm.folded()
    return depthwises.depthwise(x, weight, scale, shift, gate, stride, activation)


def cascade(
    x: Tensor,
    heads: Sequence[tuple[Tensor, Norm, Tensor, Norm]],
    offsets: Tensor,
    training: bool,
) -> Tensor:
    """The heads' rectified outputs [B, C, R, S] of windows x; `offsets` [H, R S] by distance."""
    found = [Head(a, Norm(*b), c, Norm(*d)) for a, b, c, d in heads]
    if training:
        return _trained(x, found, offsets)
    return cascades.cascade(x, *_fold(found), offsets)


def _fold(heads: Sequence[Head]) -> tuple[Tensor, ...]:
    largest = max(head.conv.shape[2] for head in heads)
    qkv: list[Tensor] = []
    biases: list[Tensor] = []
    windows: list[Tensor] = []
    shifts: list[Tensor] = []
    for head in heads:
        scale, shift = head.qkv_norm.folded()
        qkv.append(head.qkv.flatten(1) * scale[:, None])
        biases.append(shift)
        scale, shift = head.conv_norm.folded()
        around = (largest - head.conv.shape[2]) // 2
        windows.append(functional.pad(head.conv[:, 0] * scale[:, None, None], [around] * 4))
        shifts.append(shift)
    sizes = torch.tensor([h.conv.shape[2] for h in heads], dtype=torch.int32)
    stacked = (torch.stack(part) for part in (qkv, biases, windows, shifts))
    return (*stacked, sizes.to(heads[0].qkv.device))


def _trained(x: Tensor, heads: Sequence[Head], offsets: Tensor) -> Tensor:
    """With norms of the batch, which the running ones move towards.

    Weights are taken in the type of x, as automatic mixed precision has them.
    """
    count = x.numel() // x.shape[1]
    if count == 1:
        raise ValueError(f"expected more than 1 value per channel in training, not {x.shape}")
    sides = [head.qkv_norm for head in heads], [head.conv_norm for head in heads]
    learnt = (torch.stack([torch.stack([n.scale, n.shift]) for n in side], 1) for side in sides)
    qkv_norms, conv_norms = learnt
    out, *moments = cascade_training(
        x, torch.stack([head.qkv.flatten(1) for head in heads]).to(x.dtype), qkv_norms,
        torch.cat([head.conv.flatten() for head in heads]).to(x.dtype), conv_norms, offsets,
        [head.conv.shape[2] for head in heads], heads[0].qkv_norm.eps,
    )  # fmt: skip
    with torch.no_grad():
        for side, both in zip(sides, moments if count else (), strict=count > 0):
            _follow(side, both, count)
    return out


def _follow(norms: Sequence[Norm], moments: Tensor, count: int) -> None:
    """Move running statistics towards those [H, 2, C] of so many values a channel."""
    mean, variance = moments.unbind(1)
    seen = torch.stack([mean, variance * (count / (count - 1))], 1).flatten(0, 1)
    running = [part for norm in norms for part in (norm.mean, norm.variance)]
    torch._foreach_lerp_(running, list(seen.to(running[0].dtype)), norms[0].momentum)
    torch._foreach_add_([norm.count for norm in norms], 1)
