"""Depthwise convolution, norm, activation and gate: fused against plain, and every gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kernels.agreement import agree, gradients
from torch import Tensor
from torch.nn import functional

from spacelang.backends.triton.depthwise import ACTIVATIONS, _op, depthwise, reference, squeeze
from spacelang.backends.triton.launch import NotFused, require_fused
from spacelang.diagnostics import SpaceError

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def operands(
    shape: tuple[int, ...], k: int, gated: bool = True, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(shape) + k)
    c = shape[1]
    shapes = [shape, (c, 1, k, k), (c,), (c,), *([shape[:2]] if gated else [])]
    return [torch.randn(size, generator=generator).to(dtype) for size in shapes]


def both(
    parts: list[Tensor], stride: int, activation: str, squeezed: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    def fused(x, w, scale, shift, gate=None) -> Tensor:
        if squeezed:
            return squeeze(x, w, scale, shift, stride, activation)
        return depthwise(x, w, scale, shift, gate, stride, activation)

    def plain(x, w, scale, shift, gate=None) -> Tensor:
        return reference(x, w, scale, shift, gate, stride, activation, squeezed)

    return gradients(fused, parts), gradients(plain, parts)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("shape", "k", "stride", "gated"),
    [
        ((2, 5, 7, 7), 3, 1, True),
        ((1, 3, 9, 13), 5, 2, False),
        ((3, 4, 4, 6), 7, 2, True),
        ((1, 1, 1, 1), 7, 1, False),
        ((0, 3, 5, 5), 3, 1, True),
    ],
)
def test_it_is_the_convolution(
    shape: tuple[int, ...], k: int, stride: int, gated: bool, dtype: torch.dtype
) -> None:
    found, wanted = both(operands(shape, k, gated, dtype), stride, "swish")
    agree(found, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_and_their_slopes(activation: str) -> None:
    parts = operands((2, 3, 5, 4), 3)
    parts[2] *= 3  # beyond the knees of a hard swish
    agree(*both(parts, 1, activation), 1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_means_of_planes_that_are_not_written(dtype: torch.dtype) -> None:
    parts = operands((2, 5, 9, 10), 5, False, dtype)
    agree(*both(parts, 2, "hard_swish", squeezed=True), TOLERANCE[dtype])


def test_squeeze_and_excite() -> None:
    """Its gate from the means of the same planes: as Cream's blocks, with all gradients."""
    *parts, _ = operands((2, 6, 8, 8), 5)
    reduce, expand = torch.randn(3, 6), torch.randn(6, 3)

    def gate(means: Tensor, reduce: Tensor, expand: Tensor) -> Tensor:
        return functional.hardsigmoid((means @ reduce.t()).relu() @ expand.t())

    def fused(x, w, scale, shift, *se) -> Tensor:
        opened = gate(squeeze(x, w, scale, shift, 2, "swish"), *se)
        return depthwise(x, w, scale, shift, opened, 2, "swish")

    def plain(x, w, scale, shift, *se) -> Tensor:
        planes = reference(x, w, scale, shift, None, 2, "swish", False)
        return planes * gate(planes.mean((2, 3)), *se)[:, :, None, None]

    parts += [reduce, expand]
    agree(gradients(fused, parts), gradients(plain, parts), 1e-5)


def test_batch_norm_is_its_scale_and_shift() -> None:
    x, w, *_ = operands((2, 4, 7, 7), 3)
    norm = torch.nn.BatchNorm2d(4).eval()
    for part in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        assert part is not None
        torch.nn.init.uniform_(part, 0.5, 1.5)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    found = depthwise(x, w, scale, norm.bias - scale * norm.running_mean, activation="relu")
    wanted = norm(functional.conv2d(x, w, padding=1, groups=4)).relu()
    agree([found.detach()], [wanted.detach()], 1e-5)


def test_planes_may_lie_in_any_way(guarded: Callable[[], int]) -> None:
    """Channels last, with gaps and not a number around each operand; guards around results."""
    parts = operands((2, 5, 6, 7), 3)
    wanted = both(parts, 2, "gelu")[1]
    views: list[Tensor] = []
    for part in parts:
        around = torch.full([size + 20 for size in part.shape], torch.nan)
        view = around[tuple(slice(10, 10 + size) for size in part.shape)]
        views.append(view.copy_(part))
    agree(both(views, 2, "gelu")[0], wanted, 1e-5)
    views[0] = parts[0].contiguous(memory_format=torch.channels_last)
    agree(both(views, 2, "gelu")[0], wanted, 1e-5)
    squeezed = both(parts[:4], 2, "gelu", squeezed=True)[1]
    agree(both(views[:4], 2, "gelu", squeezed=True)[0], squeezed, 1e-5)
    assert guarded() >= 12


def test_what_the_kernel_cannot_take_goes_to_the_reference() -> None:
    parts = operands((1, 2, 8, 8), 9)
    with pytest.warns(NotFused, match="window of") as told:
        found, wanted = both(parts, 1, "swish")
    assert len(told) == 1  # of forward and backward together
    agree(found, wanted, 1e-6)
    parts = operands((1, 2, 8, 8), 3)
    with require_fused(), pytest.raises(SpaceError, match="stride of 3"):
        depthwise(*parts[:4], stride=3)
    parts[0][0, 1, 4, 4] = torch.nan
    assert depthwise(*parts[:4], activation="relu").isnan().sum() == 9  # and is not lost
    with pytest.raises(ValueError, match="no activation"):
        depthwise(*parts[:4], activation="tanh")


def test_the_operators_keep_their_promises() -> None:
    parts = [part.requires_grad_() for part in operands((2, 3, 5, 4), 3)]
    torch.library.opcheck(_op, (*parts, 2, "swish", False))
    torch.library.opcheck(_op, (*parts[:4], None, 1, "none", True))
