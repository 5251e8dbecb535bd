"""Kernels that cannot be compiled or launched: their references, one warning, or an error."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from kernels.agreement import agree, gradients
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError

from spacelang.backends.triton import attention_kernels, launch
from spacelang.backends.triton.attention import attention
from spacelang.backends.triton.mixture import mixture
from spacelang.diagnostics import SpaceError

FAILURES = {
    "compiler": RuntimeError("Failed to find C compiler.\nPlease specify one"),
    "assembler": PTXASError("no such target"),
    "memory of a block": OutOfResources(300_000, 232_448, "shared memory"),
}


class Broken:
    """Stands for a kernel and fails as one does."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        raise self.failure


@pytest.fixture(autouse=True)
def nothing_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_failed", {})
    monkeypatch.setattr(launch, "_told", set())


def operands() -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, 5, 16, generator=random) for _ in range(3)]


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention(q, k, v, 0.25)


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("kernel", ["forward", "keys"])
def test_one_warning(kernel: str, failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says why, the results are those of the reference, and the kernel is not tried again."""
    wanted = gradients(fused, operands())
    monkeypatch.setitem(attention_kernels.KERNELS, kernel, Broken(failure))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            agree(gradients(fused, operands()), wanted, 1e-5)
    found = [str(one.message) for one in told if one.category is launch.NotFused]
    first = str(failure).splitlines()[0]
    assert found == [f"attention does not run fused: it failed: {first}"]


def test_where_kernels_are_required_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(attention_kernels.KERNELS, "forward", Broken(FAILURES["compiler"]))
    for _ in range(2):
        with launch.require_fused(), pytest.raises(SpaceError, match="Failed to find C compiler"):
            fused(*operands())


def test_it_is_an_error_in_threads_of_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a backward pass runs in one that knows no context of the caller's."""
    monkeypatch.setitem(attention_kernels.KERNELS, "keys", Broken(FAILURES["compiler"]))
    leaves = [x.requires_grad_() for x in operands()]
    with launch.require_fused(), ThreadPoolExecutor(1) as other:
        back = other.submit(fused(*leaves).sum().backward)
        with pytest.raises(SpaceError, match="Failed to find C compiler"):
            back.result()
    with pytest.warns(launch.NotFused):
        fused(*operands())


def test_what_is_no_failure_of_a_kernel_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither memory that a device lacks, which a reference would need more of, nor a defect."""
    for failure in (torch.OutOfMemoryError("of a device"), IndexError("a defect")):
        monkeypatch.setitem(attention_kernels.KERNELS, "forward", Broken(failure))
        with pytest.raises(type(failure)):
            fused(*operands())
    assert launch._failed == {}


def test_operands_that_a_reference_refuses_too_are_no_failure_of_a_kernel() -> None:
    q, k, v = (x.double() for x in operands())
    with pytest.warns(launch.NotFused), pytest.raises(RuntimeError):
        fused(q, k[..., :8], v)
    assert launch._failed == {}


def test_kernels_run_on_the_device_of_their_operands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever is the current one: it is changed around every operator, to its first tensor's."""
    asked: list[Tensor] = []

    @contextmanager
    def guard(x: Tensor) -> Iterator[None]:
        asked.append(x)
        yield
        asked.append(x)

    monkeypatch.setattr(torch.cuda, "device_of", guard)
    q, k, v = operands()
    gradients(fused, (q, k, v))
    assert [x.data_ptr() == q.data_ptr() for x in asked] == [True, True, False, False]
    weights = torch.ones(2)
    mixture([k, v], weights)
    assert [x.data_ptr() for x in asked[4:]] == 2 * [k.data_ptr()]
