"""The check that no kernel reaches beyond its operands sees one that does."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError


@triton.jit
def _moved_kernel(x, out, shift, add, N, STEP: tl.constexpr):
    at = tl.arange(0, 8)
    value = tl.load(x + at * STEP + shift, mask=at < N, other=0.0)
    tl.store(out + at + add, tl.where(at < 2, value, 0.0), mask=at < N)


def moved(x: torch.Tensor, shift: int, add: int, count: int = 5, step: int = 1) -> torch.Tensor:
    out = torch.zeros(9)[2:7]  # there is room around it, which is not its
    _moved_kernel[(1,)](x, out, shift, add, count, STEP=step)
    return out


def test_what_lies_inside_is_let_through() -> None:
    x = torch.arange(9.0)[2:7]
    assert moved(x, 0, 0).tolist() == [2, 3, 0, 0, 0]
    assert moved(torch.arange(20.0)[::2][:5], 0, 0, step=2)[1] == 2
    moved(x, 99, 99, count=0)


@pytest.mark.parametrize(("shift", "add"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_one_element_beyond_is_seen(shift: int, add: int) -> None:
    """Also where it is read and dropped, and where the memory beside belongs to the program."""
    with pytest.raises(InterpreterError, match="beyond the operands"):
        moved(torch.arange(9.0)[2:7], shift, add)


def test_a_gap_is_seen() -> None:
    with pytest.raises(InterpreterError, match="beyond the operands"):
        moved(torch.arange(20.0)[::2][:5], 0, 0)
