"""Kernels that read folded norms, with batch norms as networks have them: folded here, or trained.

    depthwise(x, weight, norm, stride, "gelu", training)
    x, means = squeezed(x, weight, norm, stride, "gelu", training)
    excited(x, weight, norm, stride, "gelu", made_of(means), training)
    cascade(x, heads, offsets, training)

In evaluation a norm is a scale and a shift of each channel, worked out from its statistics. In
training it needs the whole result of its convolution: the depthwise convolution is a kernel, its
norm and gate are PyTorch's; a cascade trains operation by operation. What is folded is kept as long as its
tensors are the same, where no gradient is wanted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from spacelang.backends.triton import cascade as cascades
from spacelang.backends.triton import depthwise as depthwises

KEPT = 256
"""Norms, or cascades, whose folded weights are kept at most."""


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
    scale, shift = kept(norm[:5], norm.folded)
    return depthwises.depthwise(x, weight, scale, shift, None, stride, activation)


def squeezed(
    x: Tensor, weight: Tensor, norm: Norm, stride: int, activation: str, training: bool
) -> tuple[Tensor, Tensor]:
    """What `excited` goes on from, and the mean [B, C] of each plane that `depthwise` gives."""
    if training:
        planes = depthwise(x, weight, norm, stride, activation, True)
        return planes, planes.mean((2, 3))
    norm = Norm(*norm)
    scale, shift = kept(norm[:5], norm.folded)
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
    scale, shift = kept(norm[:5], norm.folded)
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
    parts = ((h.qkv, *h.qkv_norm[:5], h.conv, *h.conv_norm[:5]) for h in found)
    folded = kept([tensor for part in parts for tensor in part], lambda: _fold(found))
    return cascades.cascade(x, *folded, offsets)


Folded = tuple[Tensor, ...]
_kept: OrderedDict[object, tuple[Sequence[Tensor], Folded]] = OrderedDict()


def kept(tensors: Sequence[Tensor], fold: Callable[[], Folded]) -> Folded:
    """What `fold` makes of tensors, made again where they have changed, or gradients are wanted."""
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if torch.compiler.is_compiling() or wanted or any(t.is_inference() for t in tensors):
        return fold()
    key = tuple((t.data_ptr(), t._version, t.shape, t.stride(), t.dtype, t.device) for t in tensors)
    if key not in _kept:
        # The tensors are kept, too: else others may come to lie where they were.
        _kept[key] = tuple(t.detach() for t in tensors), fold()
        if len(_kept) > KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return _kept[key][1]


def _fold(heads: Sequence[Head]) -> Folded:
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
    """Head by head with norms of the batch."""
    rows, columns = x.shape[2:]
    index = cascades.distances(rows, columns, x.device)
    feature: Tensor | None = None
    found: list[Tensor] = []
    for number, (head, part) in enumerate(zip(heads, x.chunk(len(heads), 1), strict=True)):
        feature = part if feature is None else part + feature
        z = head.qkv_norm.trained(functional.conv2d(feature, head.qkv))
        d = len(head.conv)
        q, k, v = z.split([d, d, z.shape[1] - 2 * d], 1)
        around = head.conv.shape[2] // 2
        q = head.conv_norm.trained(functional.conv2d(q, head.conv, padding=around, groups=d))
        logits = q.flatten(2).transpose(1, 2) @ k.flatten(2) * d**-0.5 + offsets[number][index]
        feature = (v.flatten(2) @ logits.softmax(2).transpose(1, 2)).unflatten(2, (rows, columns))
        found.append(feature)
    return torch.cat(found, 1).relu()
