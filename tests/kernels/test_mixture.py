"""The weighted sum of candidates: fused against plain, forward and every gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kernels.agreement import agree
from torch import Tensor

from spacelang.backends.triton.launch import NotFused, require_fused
from spacelang.backends.triton.mixture import _op, mixture, reference
from spacelang.diagnostics import SpaceError

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def operands(
    count: int, shape: tuple[int, ...], missing: set[int] = frozenset(), dtype=torch.float32
) -> tuple[list[Tensor | None], Tensor]:
    generator = torch.Generator().manual_seed(count + len(shape))
    made = [torch.randn(shape, generator=generator).to(dtype) for _ in range(count)]
    weights = torch.randn(count, generator=generator).softmax(0)
    return [None if place in missing else x for place, x in enumerate(made)], weights


def gradients(function, candidates: list[Tensor | None], weights: Tensor) -> list[Tensor]:
    """The output, the gradients of all that is there, and that of the weights."""
    free = [None if x is None else x.detach().requires_grad_() for x in candidates]
    weights = weights.clone().requires_grad_()
    out = function(free, weights)
    slope = torch.linspace(-1, 1.5, out.numel()).reshape(out.shape).to(out.dtype)
    there = [x for x in free if x is not None]
    return [out.detach(), *torch.autograd.grad(out, [*there, weights], slope)]


def plain(candidates: list[Tensor | None], weights: Tensor) -> Tensor:
    places = [place for place, x in enumerate(candidates) if x is not None]
    return reference([x for x in candidates if x is not None], weights, places)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("count", "shape", "missing"),
    [
        (8, (2, 5, 7, 7), {7}),
        (1, (1,), set()),
        (3, (1025,), {0}),
        (8, (2, 3, 4), {0, 2, 3, 4, 5, 6, 7}),
        (4, (0, 5), set()),
    ],
)
def test_it_is_the_sum(
    count: int, shape: tuple[int, ...], missing: set[int], dtype: torch.dtype
) -> None:
    candidates, weights = operands(count, shape, missing, dtype)
    found = gradients(mixture, candidates, weights)
    agree(found, gradients(plain, candidates, weights), TOLERANCE[dtype])
    assert all(found[-1][place] == 0 for place in missing)


def test_candidates_may_lie_in_any_way() -> None:
    """All with channels last keeps that; ways that differ, and gaps, come out contiguous."""
    candidates, weights = operands(3, (2, 4, 3, 5))
    wanted = gradients(plain, candidates, weights)
    last = [x.contiguous(memory_format=torch.channels_last) for x in candidates if x is not None]
    agree(gradients(mixture, last, weights), wanted, 1e-5)
    assert mixture(last, weights).is_contiguous(memory_format=torch.channels_last)
    wide = torch.full((2, 4, 3, 9), torch.nan)
    wide[..., 2:7] = last[1]
    mixed = [last[0], wide[..., 2:7], candidates[2]]
    agree(gradients(mixture, mixed, weights), wanted, 1e-5)
    assert mixture(mixed, weights).is_contiguous()


def test_nothing_is_touched_beyond_its_buffers(guarded: Callable[[], int]) -> None:
    """Around the inputs nothing is a number; the buffers that it makes have guards."""
    _, weights = operands(3, (37,))
    around = torch.full((3, 64), torch.nan)
    around[:, 5:42] = torch.randn(3, 37)
    weights = torch.cat((weights, torch.full((8,), torch.nan)))[:3]
    for part in gradients(mixture, list(around[:, 5:42]), weights):
        assert part.isfinite().all()
    assert guarded() >= 5  # the sum, three gradients, the sums of the weights


def test_what_the_kernel_cannot_take_goes_to_the_reference() -> None:
    candidates, weights = operands(9, (3, 4))
    wanted = gradients(plain, candidates, weights)
    with pytest.warns(NotFused, match="at most 8") as told:
        found = gradients(mixture, candidates, weights)
    assert len(told) == 1  # of forward and backward together
    agree(found, wanted, 1e-6)
    with require_fused(), pytest.raises(SpaceError, match="at most 8"):
        mixture(candidates, weights)
    with pytest.raises(ValueError, match="a weight for each"):
        mixture([None, None], weights[:2])


def test_the_operators_keep_their_promises() -> None:
    candidates, weights = operands(3, (2, 4, 3), {1})
    there = [x.requires_grad_() for x in candidates if x is not None]
    torch.library.opcheck(_op, (there, weights.requires_grad_(), [0, 2]))
