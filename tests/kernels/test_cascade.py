"""EfficientViT's cascade of heads in one launch: fused against head by head, and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from kernels.agreement import agree, gradients
from torch import Tensor

from spacelang.backends.triton.cascade import LEARNT, PARTS, Head, _op, cascade, reference, unable
from spacelang.backends.triton.launch import NotFused, require_fused
from spacelang.backends.triton.norm import Norm
from spacelang.diagnostics import SpaceError

# The interpreter cuts bfloat16 off, where a device rounds; each head passes that on to the next.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 3e-3}


EPS = 1e-3


def operands(
    batch: int,
    window: tuple[int, int],
    kernels: tuple[int, ...],
    d: int,
    value: int,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """x, offsets, and the parts of each head."""
    generator = torch.Generator().manual_seed(batch + sum(window) + sum(kernels) + d + value)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def norm(channels: int) -> list[Tensor]:
        mean, variance, scale, shift = drawn(4, channels)
        return [mean / 3, variance.square() + 0.5, scale, shift]

    x = drawn(batch, len(kernels) * value, *window)
    found = [x, drawn(len(kernels), window[0] * window[1])]
    for k in kernels:
        wide = 2 * d + value
        found += [drawn(wide, value) * value**-0.5, *norm(wide), drawn(d, k, k) / k, *norm(d)]
    return [part.to(dtype) for part in found]


def heads_of(parts: Sequence[Tensor]) -> list[Head]:
    def norm(mean: Tensor, variance: Tensor, scale: Tensor, shift: Tensor) -> Norm:
        return Norm(mean, variance, torch.tensor(0), scale, shift, 0.1, EPS)

    starts = range(0, len(parts), PARTS)
    each = [parts[first : first + PARTS] for first in starts]
    return [Head(p[0], norm(*p[1:5]), p[5], norm(*p[6:])) for p in each]


def fused(x: Tensor, offsets: Tensor, *parts: Tensor) -> Tensor:
    return cascade(x, heads_of(parts), offsets)


def plain(x: Tensor, offsets: Tensor, *parts: Tensor) -> Tensor:
    return reference(x, parts, offsets, EPS)


def both(parts: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and gradients of all but statistics, which are constants."""
    learnt = [i for i in range(len(parts)) if i < 2 or (i - 2) % PARTS in LEARNT]

    def by(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*given: Tensor) -> Tensor:
            now = dict(zip(learnt, given, strict=True))
            return function(*(now.get(i, part) for i, part in enumerate(parts)))

        return call

    free = [parts[i] for i in learnt]
    return gradients(by(fused), free), gradients(by(plain), free)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("batch", "window", "kernels", "d", "value"),
    [
        (1, (7, 7), (7, 5, 3), 16, 16),
        (1, (4, 4), (5, 5), 16, 80),
        (1, (2, 2), (3, 3), 4, 192),
        (1, (3, 5), (3, 1, 5), 5, 7),
        (1, (1, 1), (3,), 1, 1),
        (0, (4, 4), (3, 3), 16, 16),
    ],
)
def test_it_is_the_cascade(
    batch: int,
    window: tuple[int, int],
    kernels: tuple[int, ...],
    d: int,
    value: int,
    dtype: torch.dtype,
) -> None:
    parts = operands(batch, window, kernels, d, value, dtype)
    agree(*both(parts), TOLERANCE[dtype])


def test_more_heads_than_four_and_the_widest_kernel() -> None:
    """Halves of kernels are digits of one number, of which 7 is the largest."""
    agree(*both(operands(1, (2, 2), (1, 15, 1, 1, 3), 2, 3)), 1e-5)


def test_windows_of_one_weight_whose_strides_mean_nothing() -> None:
    """PyTorch calls them contiguous whatever the strides of axes of 1: those are no layout."""
    x, offsets, *parts = operands(1, (2, 2), (1, 1), 16, 4)
    for place in (5, 5 + PARTS):
        parts[place] = parts[place].as_strided((16, 1, 1), (1, 16, 16))
        assert parts[place].is_contiguous()
    agree([fused(x, offsets, *parts)], [plain(x, offsets, *parts)], 1e-5)


@pytest.mark.parametrize("resolution", [4, 7])
def test_it_is_an_installed_package_s_attention(resolution: int) -> None:
    """Its norms in evaluation, offsets by distance: what comes before timm's projection."""
    attention = pytest.importorskip("timm.models.efficientvit_msra").CascadedGroupAttention
    torch.manual_seed(0)
    kernels, d, heads = (5, 3), 16, 2
    net = attention(24, d, num_heads=heads, attn_ratio=0.75, resolution=resolution, kernels=kernels)
    net.requires_grad_(False)
    for name, part in (*net.named_parameters(), *net.named_buffers()):
        if part.is_floating_point():
            part.copy_(torch.rand_like(part) + 0.5 if "var" in name else torch.randn_like(part) / 3)
    net.eval()

    def norm(layer: torch.nn.Module) -> Norm:
        bn = layer.bn
        kept = (bn.running_mean, bn.running_var, bn.num_batches_tracked)
        return Norm(*kept, bn.weight, bn.bias, bn.momentum, bn.eps)

    found = [
        Head(qkv.conv.weight.flatten(1), norm(qkv), conv.conv.weight[:, 0], norm(conv))
        for qkv, conv in zip(net.qkvs, net.dws, strict=True)
    ]
    x = torch.randn(1, 24, resolution, resolution)
    y = cascade(x, found, net.attention_biases)
    agree([net.proj[1](y)], [net(x)], 1e-5)


def test_windows_may_lie_in_any_way(guarded: Callable[[], int]) -> None:
    """Channels last, and a window within a map; not a number around each; guards around y."""
    parts = operands(2, (3, 4), (3, 5), 4, 6)
    wanted = plain(*parts)
    for place, part in enumerate(parts):
        margin = 4 if part.ndim == 3 else 10  # of windows that are read where they lie
        around = torch.full([size + 2 * margin for size in part.shape], torch.nan)
        view = around[tuple(slice(margin, margin + size) for size in part.shape)]
        parts[place] = view.copy_(part)
    agree([fused(*parts)], [wanted], 1e-5)
    parts[0] = parts[0].contiguous(memory_format=torch.channels_last)
    agree([fused(*parts)], [wanted], 1e-5)
    parts[2] = parts[2].t().contiguous().t()  # channels of a projection apart, of one head
    agree([fused(*parts)], [wanted], 1e-5)
    assert guarded() >= 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_weights_are_taken_in_the_type_of_the_windows(dtype: torch.dtype) -> None:
    """As under `--amp`, where weights and norms stay in float32."""
    x, *parts = operands(1, (3, 4), (3, 5), 8, 16)
    with require_fused():
        found = fused(x.to(dtype), *parts)
    assert found.dtype == dtype
    agree([found], [plain(x.to(dtype), *parts)], TOLERANCE[dtype])


def test_what_the_kernel_cannot_take_goes_to_the_reference() -> None:
    parts = operands(1, (9, 9), (3,), 4, 4)
    with pytest.warns(NotFused, match="1 to 64 tokens"):
        found, wanted = both(parts)
    agree(found, wanted, 1e-6)
    x, offsets, *parts = operands(1, (3, 4), (3, 3), 4, 4)
    assert unable(x, parts, offsets) == ""
    for place, part, reason in (
        (0, parts[0][:-1], "as wide as its group"),
        (2, parts[2][:-1], "as wide as its group"),
        (5, parts[5][:, :2, :2], "even, or larger than 15"),
        (9, parts[9][:-1], "norms of them"),
        (PARTS, parts[PARTS].half(), "of different types"),
    ):
        assert reason in unable(x, [*parts[:place], part, *parts[place + 1 :]], offsets)
    assert "offsets" in unable(x, parts, offsets[:1])
    many = operands(1, (2, 2), (1,) * 9, 1, 1)
    with require_fused(), pytest.raises(SpaceError, match="more than 8 heads"):
        fused(*many)
    apart = torch.empty_strided((2, 8, 3, 4), (1, 2**29, 4, 1), device="meta")
    meta = [part.to("meta") for part in (offsets, *parts)]
    assert "too far apart" in unable(apart, meta[1:], meta[0])
    other = heads_of(parts)[0]
    other = other._replace(conv_norm=other.conv_norm._replace(eps=0.1))
    with pytest.raises(ValueError, match="same eps"):
        cascade(x, [other, other], offsets)


def test_the_operators_keep_their_promises() -> None:
    x, offsets, *parts = operands(1, (2, 3), (3,), 3, 4)
    for place in LEARNT:
        parts[place].requires_grad_()
    torch.library.opcheck(_op, (x.requires_grad_(), parts, offsets.requires_grad_(), EPS))
