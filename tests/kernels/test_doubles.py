"""What kernels do not take is computed as it is: doubles in doubles, norms as they are now."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from spacelang.backends.triton import cascade, cascade_training, depthwise, mixture, normed
from spacelang.backends.triton.norm import Norm


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def test_a_sum_of_candidates() -> None:
    assert gradcheck(lambda a, b, w: mixture.reference([a, b], w, [0, 2]), (
        drawn(2, 3), drawn(2, 3), drawn(3)))  # fmt: skip


@pytest.mark.parametrize("squeezed", [False, True])
def test_a_depthwise_convolution(squeezed: bool) -> None:
    def run(*parts: Tensor) -> Tensor:
        x, weight, *norm, gate = parts
        norm[1] = norm[1].square() + 1
        return depthwise.reference(x, weight, norm, gate, 1e-5, 1, "gelu", squeezed)

    vectors = [drawn(3) for _ in range(4)]
    assert gradcheck(run, (drawn(2, 3, 4, 4), drawn(3, 1, 3, 3), *vectors, drawn(2, 3)))


def test_a_cascade() -> None:
    def run(x: Tensor, offsets: Tensor, *parts: Tensor) -> Tensor:
        now = [p.square() + 1 if place in (2, 7) else p for place, p in enumerate(parts)]
        return cascade.reference(x, now, offsets, 1e-5)

    head = ((8, 4), *[(8,)] * 4, (2, 3, 3), *[(2,)] * 4)
    shapes = ((1, 4, 2, 2), (1, 4), *head)
    assert gradcheck(run, tuple(drawn(*shape) for shape in shapes))


def test_a_cascade_in_training() -> None:
    def run(x: Tensor, offsets: Tensor, *parts: Tensor) -> Tensor:
        return cascade_training.reference(cascade_training.Operands(x, offsets, parts, 1e-5))[0]

    head = ((8, 4), (8,), (8,), (2, 3, 3), (2,), (2,))
    shapes = ((2, 8, 2, 2), (2, 4), *head, *head)
    assert gradcheck(run, tuple(drawn(*shape) for shape in shapes))


@torch.no_grad()
def test_norms_are_those_of_the_moment() -> None:
    """A write through `.data` moves no version, and is seen all the same."""
    parts = [torch.rand(3) + 0.5 for _ in range(4)]
    norm = Norm(parts[0], parts[1], torch.tensor(0), *parts[2:], 0.1, 1e-5)
    x, weight = torch.randn(1, 3, 5, 5), torch.randn(3, 1, 3, 3)
    once = normed.depthwise(x, weight, norm, 1, "gelu", False)
    norm.scale.data.zero_()
    norm.shift.data.zero_()
    assert once.any()
    assert not normed.depthwise(x, weight, norm, 1, "gelu", False).any()
