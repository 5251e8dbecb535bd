"""The loss against sparse soft labels: fused against dense, forward and gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from spacelang.backends.torch.distillation.logits.record import dense, top
from spacelang.backends.torch.training import losses
from spacelang.backends.triton.launch import NotFused, require_fused
from spacelang.backends.triton.soft_labels import _op, reference, soft_labels
from spacelang.diagnostics import SpaceError

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def operands(
    batch: int, classes: int, k: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch + classes + k)
    logits = 2 * torch.randn(batch, classes, generator=generator)
    teacher = 3 * torch.randn(batch, classes, generator=generator)
    kept = teacher.softmax(1).topk(k, 1)
    return logits.to(dtype), kept.indices, kept.values.half()


def close(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """Within a share of the largest magnitude of what is compared."""
    if not wanted.numel():
        return found.shape == wanted.shape
    limit = tolerance * wanted.float().abs().max()
    return bool((found.float() - wanted.float()).abs().max() <= limit)


def test_no_class_has_less_than_nothing() -> None:
    """Rounded up, the kept probabilities may be more than 1 together: t is those alone."""
    logits, index, kept = operands(3, 20, 4)
    kept = kept / kept.sum(1, keepdim=True) * 1.001
    assert (kept.sum(1) > 1).all()
    free = logits.requires_grad_()
    labels = torch.zeros(3, 20).scatter(1, index, kept.float())
    wanted = -(labels * free.log_softmax(1)).sum(1)
    slopes = [
        torch.autograd.grad(f.sum(), free)[0] for f in (soft_labels(free, index, kept), wanted)
    ]
    for function in (soft_labels, reference, losses.soft_labels):
        assert close(function(logits, index, kept), wanted, 1e-6)
    assert close(*slopes, 1e-6)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("batch", "classes", "k"),
    [(1, 1, 1), (3, 10, 10), (4, 1000, 10), (2, 1024, 7), (3, 2500, 100), (0, 10, 3)],
)
def test_it_is_the_dense_loss(batch: int, classes: int, k: int, dtype: torch.dtype) -> None:
    logits, index, kept = operands(batch, classes, k, dtype)
    weights = torch.linspace(0.5, 1.5, batch)
    results: list[tuple[Tensor, Tensor]] = []
    for function in (soft_labels, reference):
        free = logits.clone().requires_grad_()
        losses = function(free, index, kept)
        (losses * weights).sum().backward()
        assert free.grad is not None
        results.append((losses.detach(), free.grad))
    (loss, gradient), (wanted, slope) = results
    assert close(loss, wanted, 1e-5)  # both in float32 whatever the logits are
    assert gradient.dtype == dtype
    assert close(gradient, slope, TOLERANCE[dtype])


def test_records_of_a_store_are_its_labels() -> None:
    logits, _, _ = operands(4, 50, 5)
    records = top(torch.randn(4, 50), 5, ids=np.arange(4), seeds=np.arange(4))
    index = torch.from_numpy(records.classes)
    kept = torch.from_numpy(records.probabilities)
    wanted = -(dense(records, 50) * logits.log_softmax(1)).sum(1)
    assert close(soft_labels(logits, index, kept), wanted, 1e-5)


def test_rows_may_lie_apart() -> None:
    logits, index, kept = operands(4, 30, 5)
    apart = torch.full((4, 47), torch.nan)
    apart[:, :30] = logits
    view = apart[:, :30]
    assert not view.is_contiguous()
    assert torch.equal(soft_labels(view, index, kept), soft_labels(logits, index, kept))


def test_nothing_is_touched_beyond_its_buffers(guarded: Callable[[], int]) -> None:
    """Neither forward nor backward, also for a class that there is not: it stands for no label."""
    logits, index, kept = operands(3, 37, 4)
    around = torch.full((5, 64), torch.nan)
    around[1:4, 5:42] = logits
    view = around[1:4, 5:42].requires_grad_()
    index[0, 2], index[2, 0] = 10**6, -5
    found = soft_labels(view, index, kept)
    (slope,) = torch.autograd.grad(found.sum(), view)
    assert guarded() == 3  # losses, normalisers, the gradient
    wanted = reference(view, index, kept)
    assert close(found, wanted, 1e-6)
    assert close(slope, torch.autograd.grad(wanted.sum(), view)[0], 1e-5)
    without = torch.tensor([0, 1, 3])  # the same as if that label had never been
    assert close(found[:1], reference(view[:1], index[:1, without], kept[:1, without]), 1e-6)


def test_more_classes_than_a_short_index_has() -> None:
    """What pads a row of three labels to four is no class: all bits of one are 65,535, which is."""
    logits, index, kept = operands(2, 65_540, 3)
    index %= 65_536
    results: list[list[Tensor]] = []
    for kind in (torch.uint16, torch.int64):
        free = logits.clone().requires_grad_()
        losses = soft_labels(free, index.to(kind), kept)
        results.append([losses.detach(), *torch.autograd.grad(losses.sum(), free)])
    for short, long in zip(*results, strict=True):
        assert torch.equal(short, long)


def test_what_the_kernel_cannot_take_goes_to_the_reference() -> None:
    logits, index, kept = operands(3, 20, 4)
    free = logits.t().contiguous().t().requires_grad_()
    with pytest.warns(NotFused, match="side by side"):
        found = soft_labels(free, index, kept)
    assert close(found, reference(logits, index, kept), 1e-6)
    (slope,) = torch.autograd.grad(reference(free, index, kept).sum(), free)
    assert close(torch.autograd.grad(found.sum(), free)[0], slope, 1e-6)
    with (
        require_fused(),
        pytest.raises(SpaceError, match="no kernel takes float64"),
    ):
        soft_labels(logits.double(), index, kept)


def test_the_operators_keep_their_promises() -> None:
    logits, index, kept = operands(3, 20, 4)
    torch.library.opcheck(_op, (logits.requires_grad_(), index, kept))


def test_it_passes_through_export() -> None:
    class Net(torch.nn.Module):
        def forward(self, logits: Tensor, index: Tensor, kept: Tensor) -> Tensor:
            return soft_labels(logits, index, kept).mean()

    inputs = operands(3, 20, 4)
    exported = torch.export.export(Net(), inputs)
    assert any("soft_labels" in str(node.target) for node in exported.graph.nodes)
    assert torch.equal(exported.module()(*inputs), Net()(*inputs))
