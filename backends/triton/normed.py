"""Kernels of groups with batch norms, as networks have them: in evaluation, and in training.

    depthwise(x, weight, norm, stride, "gelu", training)
    x, means = squeezed(x, weight, norm, stride, "gelu", training)
    excited(x, weight, norm, stride, "gelu", made_of(means), training)
    cascade(x, heads, offsets, training)

In evaluation kernels read statistics, scales and shifts themselves at every call: nothing is
folded before, and nothing kept that could be stale. In training a norm needs the whole result of
its convolution: the depthwise convolution is a kernel, its norm and gate are PyTorch's; a cascade
has kernels of its own, a few launches a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spacelang.backends.triton import cascade as cascades
from spacelang.backends.triton import cascade_training as trained
from spacelang.backends.triton import depthwise as depthwises
from spacelang.backends.triton.cascade import Head
from spacelang.backends.triton.norm import Norm


def depthwise(
    x: Tensor, weight: Tensor, norm: Norm, stride: int, activation: str, training: bool
) -> Tensor:
    """act(norm(conv(x, weight))) of planes x [B, C, H, W] and windows [C, 1, K, K]."""
    norm = Norm(*norm)
    if training:
        made = norm.trained(depthwises.depthwise(x, weight, None, None, stride))
        return depthwises.ACTIVATE[activation](made)
    return depthwises.depthwise(x, weight, norm, None, stride, activation)


def squeezed(
    x: Tensor, weight: Tensor, norm: Norm, stride: int, activation: str, training: bool
) -> tuple[Tensor, Tensor]:
    """What `excited` goes on from, and the mean [B, C] of each plane that `depthwise` gives."""
    if training:
        planes = depthwise(x, weight, norm, stride, activation, True)
        return planes, planes.mean((2, 3))
    return x, depthwises.squeeze(x, weight, Norm(*norm), stride, activation)


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
    return depthwises.depthwise(x, weight, Norm(*norm), gate, stride, activation)


def cascade(
    x: Tensor,
    heads: Sequence[tuple[Tensor, Norm, Tensor, Norm]],
    offsets: Tensor,
    training: bool,
) -> Tensor:
    """The heads' rectified outputs [B, C, R, S] of windows x; `offsets` [H, R S] by distance."""
    found = [Head(a.flatten(1), Norm(*b), c[:, 0], Norm(*d)) for a, b, c, d in heads]
    if training:
        return _trained(x, found, offsets)
    return cascades.cascade(x, found, offsets)


def _trained(x: Tensor, heads: Sequence[Head], offsets: Tensor) -> Tensor:
    """With norms of the batch, which the running ones move towards."""
    count = x.numel() // x.shape[1]
    if count == 1:
        raise ValueError(f"expected more than 1 value per channel in training, not {x.shape}")
    sides = [head.qkv_norm for head in heads], [head.conv_norm for head in heads]
    learnt = [trained.Head(a, b.scale, b.shift, c, d.scale, d.shift) for a, b, c, d in heads]
    out, *moments = trained.cascade_training(x, offsets, learnt, heads[0].qkv_norm.eps)
    with torch.no_grad():
        for side, both in zip(sides, moments, strict=True) if count else ():
            _follow(side, both, count)
    return out


def _follow(norms: Sequence[Norm], moments: Tensor, count: int) -> None:
    """Move running statistics towards those [H, 2, C] of so many values a channel."""
    mean, variance = moments.unbind(1)
    seen = torch.stack([mean, variance * (count / (count - 1))], 1).flatten(0, 1)
    running = [part for norm in norms for part in (norm.mean, norm.variance)]
    torch._foreach_lerp_(running, list(seen.to(running[0].dtype)), norms[0].momentum)
    torch._foreach_add_([norm.count for norm in norms], 1)
