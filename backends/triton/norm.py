"""Batch norms as kernels read them in evaluation: where they lie, and nothing folded before.

    y = (x - mean) rate scale + shift        rate = 1 / sqrt(variance + eps)

The four vectors of a norm are operands of the kernel that norms. Statistics are constants: what a
kernel computes has gradients of scale and shift, and none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from spacelang.backends.triton.launch import wide


class Norm(NamedTuple):
    """A batch norm: its statistics and what it learns, each [C] but the count []."""

    mean: Tensor
    variance: Tensor
    count: Tensor
    scale: Tensor
    shift: Tensor
    momentum: float
    eps: float

    @property
    def parts(self) -> list[Tensor]:
        """What it norms by in evaluation."""
        return [self.mean, self.variance, self.scale, self.shift]

    def trained(self, x: Tensor) -> Tensor:
        """Normalised by its own statistics, which the running ones move towards."""
        self.count.add_(1)
        return functional.batch_norm(
            x, self.mean, self.variance, self.scale, self.shift, True, self.momentum, self.eps
        )


def normed(x: Tensor, parts: Sequence[Tensor], eps: float) -> Tensor:
    """Maps [B, C, H, W] by the parts of a norm; as they are where there are none."""
    if not parts:
        return x
    mean, variance, scale, shift = (wide(part)[:, None, None] for part in parts)
    return (x - mean) * (torch.rsqrt(variance + eps) * scale) + shift


@triton.jit
def factors(mean, variance, scale, shift, at, there, eps):
    """Mean, rate, scale and shift of channels; where none is there, those that change nothing."""
    centre = tl.load(mean + at, there, 0.0).to(tl.float32)
    rate = tl.rsqrt(tl.load(variance + at, there, 1.0).to(tl.float32) + eps)
    factor = tl.load(scale + at, there, 1.0).to(tl.float32)
    offset = tl.load(shift + at, there, 0.0).to(tl.float32)
    return centre, tl.where(there, rate, 1.0), factor, offset
