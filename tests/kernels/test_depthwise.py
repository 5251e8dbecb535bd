"""Depthwise convolution, norm, activation and gate: fused against plain, and every gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from kernels.agreement import agree, gradients
from torch import Tensor
from torch.nn import functional

from spacelang.backends.triton.depthwise import (
    ACTIVATIONS,
    _op,
    depthwise,
    reference,
    squeeze,
    unable,
)
from spacelang.backends.triton.launch import NotFused, require_fused
from spacelang.backends.triton.norm import Norm
from spacelang.diagnostics import SpaceError

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


EPS = 1e-3
NORM = slice(2, 6)  # of operands: a mean, a variance, a scale and a shift


def operands(
    shape: tuple[int, ...], k: int, gated: bool = True, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(shape) + k)
    c = shape[1]
    shapes = [shape, (c, 1, k, k), *[(c,)] * 4, *([shape[:2]] if gated else [])]
    found = [torch.randn(size, generator=generator) for size in shapes]
    found[3] = found[3].square() + 0.3
    return [part.to(dtype) for part in found]


def norm_of(parts: Sequence[Tensor]) -> Norm:
    """Of constant statistics: kernels give no gradients of them."""
    mean, variance, scale, shift = parts
    return Norm(mean.detach(), variance.detach(), torch.tensor(0), scale, shift, 0.1, EPS)


def both(
    parts: list[Tensor], stride: int, activation: str, squeezed: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    def fused(x, w, scale, shift, gate=None) -> Tensor:
        norm = norm_of((*parts[2:4], scale, shift))
        if squeezed:
            return squeeze(x, w, norm, stride, activation)
        return depthwise(x, w, norm, gate, stride, activation)

    def plain(x, w, scale, shift, gate=None) -> Tensor:
        norm = [*parts[2:4], scale, shift]
        return reference(x, w, norm, gate, EPS, stride, activation, squeezed)

    learnt = [*parts[:2], *parts[4:]]
    return gradients(fused, learnt), gradients(plain, learnt)


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
    parts[4] *= 3  # beyond the knees of a hard swish
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
        norm = norm_of((*parts[2:4], scale, shift))
        opened = gate(squeeze(x, w, norm, 2, "swish"), *se)
        return depthwise(x, w, norm, opened, 2, "swish")

    def plain(x, w, scale, shift, *se) -> Tensor:
        norm = [*parts[2:4], scale, shift]
        planes = reference(x, w, norm, None, EPS, 2, "swish", False)
        return planes * gate(planes.mean((2, 3)), *se)[:, :, None, None]

    learnt = [*parts[:2], *parts[4:], reduce, expand]
    agree(gradients(fused, learnt), gradients(plain, learnt), 1e-5)


def test_the_norm_is_pytorch_s() -> None:
    """In float32 beside planes of half a type, too, as networks under `--amp` have it."""
    x, w, *_ = operands((2, 4, 7, 7), 3)
    norm = torch.nn.BatchNorm2d(4).eval()
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    for part in (mean, variance, norm.weight, norm.bias):
        torch.nn.init.uniform_(part, 0.5, 1.5)
    count = torch.tensor(0)
    given = Norm(mean, variance, count, norm.weight, norm.bias, 0.1, norm.eps)
    wanted = norm(functional.conv2d(x, w, padding=1, groups=4)).relu()
    agree([depthwise(x, w, given, activation="relu").detach()], [wanted.detach()], 1e-5)
    found = depthwise(x.half(), w, given, activation="relu").detach()
    assert found.dtype == torch.float16
    agree([found], [wanted.detach()], 3e-3, exact=True)


def test_without_a_norm_it_is_the_convolution_alone() -> None:
    """In training: what lies where a norm would is not read."""
    parts = operands((2, 4, 7, 6), 5, gated=False)[:2]
    found = gradients(lambda x, w: depthwise(x, w, stride=2), parts)
    wanted = gradients(lambda x, w: functional.conv2d(x, w, padding=2, stride=2, groups=4), parts)
    agree(found, wanted, 1e-5)


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
    squeezed = both(parts[:6], 2, "gelu", squeezed=True)[1]
    agree(both(views[:6], 2, "gelu", squeezed=True)[0], squeezed, 1e-5)
    assert guarded() >= 12


def test_what_the_kernel_cannot_take_goes_to_the_reference() -> None:
    parts = operands((1, 2, 8, 8), 9)
    with pytest.warns(NotFused, match="window of") as told:
        found, wanted = both(parts, 1, "swish")
    assert len(told) == 1  # of forward and backward together
    agree(found, wanted, 1e-6)
    parts = operands((1, 2, 8, 8), 3)
    with require_fused(), pytest.raises(SpaceError, match="stride of 3"):
        depthwise(*parts[:2], stride=3)
    parts[0][0, 1, 4, 4] = torch.nan
    norm = norm_of(parts[NORM])
    assert depthwise(*parts[:2], norm, activation="relu").isnan().sum() == 9  # and is not lost
    with pytest.raises(ValueError, match="no activation"):
        depthwise(*parts[:2], activation="tanh")


def test_planes_beyond_int32_are_refused() -> None:
    """Of an image together, too: the kernel of their gradient steps over them in 32 bits."""
    weight = torch.empty(512, 1, 3, 3, device="meta")
    planes = torch.empty(2, 512, 2048, 2047, device="meta")
    assert unable(planes, weight, [], None, 1) == ""
    planes = torch.empty(2, 512, 2048, 2048, device="meta")
    assert "too large or too many" in unable(planes, weight, [], None, 1)


def test_the_operators_keep_their_promises() -> None:
    parts = operands((2, 3, 5, 4), 3)
    x, w, mean, variance, *rest = parts
    scale, shift, gate = (part.requires_grad_() for part in rest)
    norm = [mean, variance, scale, shift]
    torch.library.opcheck(
        _op, (x.requires_grad_(), w.requires_grad_(), norm, gate, EPS, 2, "swish", False)
    )
    torch.library.opcheck(_op, (x, w, [], None, 0.0, 1, "none", True))
