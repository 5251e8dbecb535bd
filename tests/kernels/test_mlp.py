"""Layer norm, linear and GELU on slices: fused against plain, forward and every gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kernels.agreement import agree, gradients
from torch import Tensor
from torch.nn import functional

from spacelang.backends.triton.launch import NotFused, require_fused
from spacelang.backends.triton.mlp import _backward_op, _op, linear, mlp, reference
from spacelang.diagnostics import SpaceError

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def drawn(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(map(sum, shapes)))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("shape", "features"),
    [((2, 5, 24), 40), ((1, 1), 1), ((70, 33), 67), ((3, 7, 96), 16), ((0, 4, 8), 8)],
)
@pytest.mark.parametrize("activation", ["none", "gelu", "relu"])
def test_a_layer(
    shape: tuple[int, ...], features: int, activation: str, dtype: torch.dtype
) -> None:
    """With a norm where there is more than one channel, without bias where there is one."""
    c = shape[-1]
    operands = drawn(shape, (features, c), (features,), (c,), (c,), dtype=dtype)
    operands = operands if c > 1 else operands[:2]

    def fused(x: Tensor, w: Tensor, b=None, scale=None, shift=None) -> Tensor:
        norm = None if scale is None else (scale, shift, 1e-5)
        return linear(x, w, b, norm, activation)

    def plain(x: Tensor, w: Tensor, b=None, scale=None, shift=None) -> Tensor:
        parts = [None if p is None else p.float() for p in (x, w, b, scale, shift)]
        return reference(*parts, 1e-5, activation).to(dtype)

    (out, *found), (wanted, *slopes) = gradients(fused, operands), gradients(plain, operands)
    agree([out], [wanted], TOLERANCE[dtype])
    if activation != "relu" or dtype == torch.float32:  # a half type rounds what is near 0 to it
        agree(found, slopes, TOLERANCE[dtype])


def test_a_backward_pass_within_mixed_precision_is_that_without() -> None:
    x, weight, bias = (t.requires_grad_() for t in drawn((2, 5, 24), (40, 24), (40,)))

    def pulled() -> list[Tensor]:
        return [*torch.autograd.grad(linear(x, weight, bias).square().sum(), (x, weight, bias))]

    apart = pulled()
    made = linear(x, weight, bias).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        within = torch.autograd.grad(made, (x, weight, bias))
    assert all(map(torch.equal, within, apart))


@pytest.mark.parametrize("stream", [torch.float32, torch.bfloat16], ids=str)
def test_automatic_mixed_precision(stream: torch.dtype) -> None:
    """Of a stream of either type: products of bfloat16, gradients of the types of what is stored."""
    x, *rest = drawn((2, 5, 24), (24,), (24,), (40, 24), (40,), (24, 40), (24,))
    operands = [x.to(stream), *rest]

    def fused(x, scale, shift, *layers) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16), require_fused():
            return mlp(x, (scale, shift, 1e-5), *layers)

    def plain(x, scale, shift, w1, b1, w2, b2) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = functional.linear(functional.layer_norm(x, (24,), scale, shift), w1, b1)
            return functional.linear(functional.gelu(hidden), w2, b2)

    found, wanted = gradients(fused, operands), gradients(plain, operands)
    assert [part.dtype for part in found] == [torch.bfloat16, stream, *[torch.float32] * 6]
    agree(found, wanted, TOLERANCE[torch.bfloat16])


def test_slices_are_read_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leading widths of an MLP and every third row of a qkv; no copy is made of any weight."""
    x, w1, b1, w2, b2, scale, shift = drawn(
        (2, 5, 16), (64, 32), (64,), (32, 64), (32,), (32,), (32,)
    )
    qkv = drawn((96, 32))[0]

    def network(fused: bool) -> Callable[..., Tensor]:
        def plain_layer(x, w, b=None, norm=None, activation="none"):
            return reference(x, w, b, *(norm or (None, None, 0.0)), activation)

        def run(x, w1, b1, w2, b2, scale, shift, qkv) -> Tensor:
            norm = (scale[:16], shift[:16], 1e-6)
            layer = linear if fused else plain_layer
            first = layer(x, qkv[1:49:3, :16], None, norm)
            if fused:
                return mlp(first, norm, w1[:40, :16], b1[:40], w2[:24, :40], b2[:24])
            hidden = layer(first, w1[:40, :16], b1[:40], norm, "gelu")
            return layer(hidden, w2[:24, :40], b2[:24])

        return run

    operands = [x, w1, b1, w2, b2, scale, shift, qkv]
    agree(gradients(network(True), operands), gradients(network(False), operands), 1e-5)

    def kept(part: Tensor) -> Tensor:
        assert part.is_contiguous()
        return part

    monkeypatch.setattr(Tensor, "contiguous", kept)
    with torch.no_grad():
        network(True)(x, w1, b1, w2, b2, scale[:16], shift[:16], qkv)
        linear(x, w1[:, :16].t()[:, :16].t()[:9])
        linear(x, w1.t()[:16].t())
    monkeypatch.undo()
    turned = x.transpose(0, 2).contiguous().transpose(0, 2)  # copied: its channels lie apart
    agree([linear(turned, w1[:, :16])], [functional.linear(x, w1[:, :16])], 1e-5)


def test_nothing_is_touched_beyond_its_buffers(guarded: Callable[[], int]) -> None:
    """Around each operand nothing is a number, and around the output stand guards."""
    shapes = ((5, 19), (7, 19), (7,), (19,), (19,))
    views: list[Tensor] = []
    for part in drawn(*shapes):
        around = torch.full([size + 50 for size in part.shape], torch.nan)
        view = around[tuple(slice(25, 25 + size) for size in part.shape)]
        views.append(view.copy_(part))
    found = linear(*views[:3], (views[3], views[4], 1e-5), "gelu")
    wanted = reference(*views, 1e-5, "gelu")
    agree([found], [wanted], 1e-5)
    assert guarded() == 1


def test_what_the_kernel_cannot_take_goes_to_the_reference() -> None:
    x, w, b = drawn((3, 8), (4, 8), (4,), dtype=torch.float64)
    with pytest.warns(NotFused, match="float64"):
        found = gradients(lambda *parts: linear(*parts, activation="gelu"), [x, w, b])
    wanted = gradients(lambda *parts: reference(*parts, None, None, 0.0, "gelu"), [x, w, b])
    agree(found, wanted, 1e-12)
    with require_fused(), pytest.raises(SpaceError, match="different types"):
        linear(x, w.float())
    one = torch.tensor([[torch.nan, 1.0]])
    assert linear(one, torch.ones(3, 2), activation="relu").isnan().all()  # and is not lost
    with pytest.raises(ValueError, match="no activation"):
        linear(x, w, activation="tanh")


def test_nothing_is_computed_for_what_is_frozen() -> None:
    x, w, b, scale, shift = drawn((3, 8), (4, 8), (4,), (8,), (8,))
    g = torch.ones(3, 4)
    rest = (x, w, b, scale, shift, 1e-5, "gelu")
    every = _backward_op(g, *rest, [True] * 5)
    for place in range(5):
        needs = [place == other for other in range(5)]
        agree(_backward_op(g, *rest, needs), [every[place]], 1e-6)
    w.requires_grad_()
    (found,) = torch.autograd.grad(linear(x, w, b, (scale, shift, 1e-5), "gelu").sum(), [w])
    agree([found], [every[1]], 1e-6)


def test_the_operators_keep_their_promises() -> None:
    operands = [part.requires_grad_() for part in drawn((3, 8), (4, 8), (4,), (8,), (8,))]
    torch.library.opcheck(_op, (*operands, 1e-5, "gelu"))
    torch.library.opcheck(_op, (operands[0], operands[1], None, None, None, 0.0, "none"))
    torch.library.opcheck(_op, (operands[0].detach(), *operands[1:], 1e-5, "gelu"))
