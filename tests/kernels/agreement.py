"""How kernels are compared with their references: outputs and gradients, by the largest magnitude."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients(function: Callable[..., Tensor], operands: Sequence[Tensor]) -> list[Tensor]:
    """The output and the gradient of every operand of real numbers."""
    free = [part.detach().requires_grad_(part.is_floating_point()) for part in operands]
    out = function(*free)
    slope = torch.linspace(-1, 1.5, out.numel()).reshape(out.shape).to(out.dtype)
    learnt = [part for part in free if part.requires_grad]
    return [out.detach(), *torch.autograd.grad(out, learnt, slope)]


def agree(
    found: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float, exact: bool = False
) -> None:
    """Equal types and shapes, and no number further off than a share of the largest wanted.

    With `exact` what is wanted was computed in a wider type.
    """
    for a, b in zip(found, wanted, strict=True):
        assert exact or a.dtype == b.dtype
        assert a.shape == b.shape
        if b.numel():
            assert (a.float() - b.float()).abs().max() <= tolerance * b.float().abs().max()
