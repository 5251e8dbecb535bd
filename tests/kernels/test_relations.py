"""MiniViT's relations: fused against N x N matrices, and the gradients of q, k and v."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from kernels.agreement import agree
from torch import Tensor

from spacelang.backends.torch.training import losses
from spacelang.backends.triton.launch import NotFused, require_fused
from spacelang.backends.triton.relations import _op, reference, relations
from spacelang.diagnostics import SpaceError

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def drawn(
    batch: int, tokens: int, channels: int, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(batch + tokens + channels)
    return [torch.randn(batch, tokens, channels, generator=generator).to(dtype) for _ in range(3)]


def gradients(
    function: Callable[..., Tensor], student: Sequence[Tensor], *rest: object
) -> list[Tensor]:
    """The loss, and the gradients of the student's q, k and v."""
    free = [part.detach().requires_grad_() for part in student]
    loss = function(free, *rest)
    return [loss.detach(), *torch.autograd.grad(loss, free)]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("batch", "tokens", "channels", "given", "heads"),
    [
        (1, 49, 24, 40, 1),
        (1, 1, 1, 3, 1),
        (1, 67, 8, 12, 2),
        (1, 5, 36, 33, 3),
        (1, 197, 8, 12, 1),
    ],
)
def test_it_is_the_loss(
    batch: int, tokens: int, channels: int, given: int, heads: int, dtype: torch.dtype
) -> None:
    if tokens > {torch.float16: 67, torch.bfloat16: 49}.get(dtype, tokens):
        pytest.skip("whole images are in float32")
    student, teacher = drawn(batch, tokens, channels, dtype), drawn(batch, tokens, given, dtype)
    found = gradients(relations, student, teacher, heads)
    assert all(part.dtype == dtype for part in found[1:])
    wide = [part.float() for part in student], [part.float() for part in teacher]
    wanted = gradients(losses.relations, *wide, heads)
    if tokens == 1:  # one token relates to itself alone: nothing to learn but rounding
        assert all(part.abs().max() < 1e-6 for part in (*found, *wanted))
        return
    agree(found[:1], wanted[:1], 1e-5)  # in float32 whatever its operands are
    agree(found[1:], wanted[1:], TOLERANCE[dtype], exact=True)


def test_golden_values_of_the_published_loss() -> None:
    """The documents' tensors, of one generator in their order: 2.93173814, and 3.57147312."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        [torch.randn(4, 49, width, generator=generator) for _ in range(3)]
        for width in (96, 96, 128, 128)
    ]
    pairs = list(zip(parts[:2], parts[2:], strict=True))
    found = sum(relations(s, t) for s, t in pairs) / 2
    assert found == pytest.approx(2.93173814, abs=1e-5)


def test_slices_of_one_qkv(guarded: Callable[[], int]) -> None:
    """As a layer gives them, not a number around; guards around what is made."""
    student, teacher = drawn(2, 9, 12), drawn(2, 9, 20)
    wanted = gradients(losses.relations, student, teacher, 2)
    around = torch.full((4, 15, 96), torch.nan)
    for place, part in enumerate(student):
        around[1:3, 3:12, 10 + 12 * place : 22 + 12 * place] = part
    views = around[1:3, 3:12, 10:46].split(12, 2)
    agree(gradients(relations, views, teacher, 2), wanted, 1e-5)
    last = [part.transpose(1, 2).contiguous().transpose(1, 2) for part in student]
    agree(gradients(relations, last, teacher, 2), wanted, 1e-5)
    assert guarded() == 8


def test_small_gradients_are_not_lost() -> None:
    """Of a float16 student, whose shares of a mean are smaller than its smallest number."""
    student, teacher = drawn(1, 49, 24), drawn(1, 49, 40)

    def small(*operands) -> Tensor:
        return relations(*operands) * 2**-13

    wanted = gradients(small, student, teacher)
    found = gradients(small, [part.half() for part in student], teacher)
    agree(found[1:], wanted[1:], 0.1, exact=True)  # what float16 can say of them at the end


def test_no_image() -> None:
    found = _op(drawn(0, 5, 4), drawn(0, 5, 4), 2)
    assert all(part.shape == (9, 0, 2, 5) for part in found)


def test_what_the_kernel_cannot_take_goes_to_the_reference() -> None:
    student, teacher = drawn(1, 4, 6), drawn(1, 4, 8)
    double = [[part.double() for part in parts] for parts in (student, teacher)]
    with pytest.warns(NotFused, match="float64") as told:
        found = gradients(relations, *double, 1)
    assert len(told) == 1  # of forward and backward together
    agree(found, gradients(losses.relations, student, teacher, 1), 1e-5, exact=True)
    learning = [part.clone().requires_grad_() for part in teacher]
    with pytest.warns(NotFused, match="gradient for a teacher"):
        loss = relations(student, learning)
    (wanted,) = torch.autograd.grad(losses.relations(student, learning), learning[1])
    agree(list(torch.autograd.grad(loss, learning[1])), [wanted], 1e-5)
    with require_fused(), pytest.raises(SpaceError, match="make 4 heads"):
        relations(student, teacher, 4)


def test_the_operators_keep_their_promises() -> None:
    student = [part.requires_grad_() for part in drawn(1, 4, 6)]
    torch.library.opcheck(_op, (student, drawn(1, 4, 8), 1))
    assert reference(student, student, 2).shape == (9, 1, 2, 4)
