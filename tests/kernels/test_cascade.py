"""EfficientViT's cascade of heads in one launch: fused against head by head, and its gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kernels.agreement import agree, gradients
from torch import Tensor

from spacelang.backends.triton.cascade import _op, cascade, reference, unable
from spacelang.backends.triton.launch import NotFused, require_fused
from spacelang.diagnostics import SpaceError

# The interpreter cuts bfloat16 off, where a device rounds; each head passes that on to the next.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 3e-3}


def operands(
    batch: int,
    window: tuple[int, int],
    kernels: tuple[int, ...],
    d: int,
    value: int,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(batch + sum(window) + sum(kernels) + d + value)
    heads, largest = len(kernels), max(kernels)
    shapes = (
        (batch, heads * value, *window), (heads, 2 * d + value, value), (heads, 2 * d + value),
        (heads, d, largest, largest), (heads, d), (heads, window[0] * window[1]),
    )  # fmt: skip
    drawn = [torch.randn(shape, generator=generator) for shape in shapes]
    drawn[1] *= value**-0.5
    for head, size in enumerate(kernels):  # 0 around a smaller kernel
        margin = (largest - size) // 2
        kept = drawn[3][head, :, margin : margin + size, margin : margin + size].clone() / size
        drawn[3][head] = 0
        drawn[3][head, :, margin : margin + size, margin : margin + size] = kept
    x, qkv, qkv_bias, conv, conv_bias, offsets = (part.to(dtype) for part in drawn)
    sizes = torch.tensor(kernels, dtype=torch.int32)
    return [x, qkv, qkv_bias, conv, conv_bias, sizes, offsets]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("batch", "window", "kernels", "d", "value"),
    [
        (1, (7, 7), (7, 5, 3), 16, 16),
        (1, (4, 4), (5, 5), 16, 80),
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
    found, wanted = gradients(cascade, parts), gradients(reference, parts)
    agree(found, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("resolution", [4, 7])
def test_it_is_an_installed_package_s_attention(resolution: int) -> None:
    """Batch norms folded, offsets by distance: what comes before timm's projection."""
    attention = pytest.importorskip("timm.models.efficientvit_msra").CascadedGroupAttention
    torch.manual_seed(0)
    kernels, d, heads = (5, 3), 16, 2
    net = attention(24, d, num_heads=heads, attn_ratio=0.75, resolution=resolution, kernels=kernels)
    net.requires_grad_(False)
    for name, part in (*net.named_parameters(), *net.named_buffers()):
        if part.is_floating_point():
            part.copy_(torch.rand_like(part) + 0.5 if "var" in name else torch.randn_like(part) / 3)
    net.eval()

    def folded(layer: torch.nn.Module) -> tuple[Tensor, Tensor]:
        scale = layer.bn.weight / (layer.bn.running_var + layer.bn.eps).sqrt()
        weight = layer.conv.weight * scale[:, None, None, None]
        return weight, layer.bn.bias - scale * layer.bn.running_mean

    qkv = [folded(layer) for layer in net.qkvs]
    convolutions = [folded(layer) for layer in net.dws]
    conv = torch.zeros(heads, d, max(kernels), max(kernels))
    for head, (weight, _) in enumerate(convolutions):
        margin = (max(kernels) - kernels[head]) // 2
        inner = slice(margin, margin + kernels[head])
        conv[head, :, inner, inner] = weight[:, 0]
    x = torch.randn(1, 24, resolution, resolution)
    y = cascade(
        x, torch.stack([w[:, :, 0, 0] for w, _ in qkv]), torch.stack([b for _, b in qkv]),
        conv, torch.stack([b for _, b in convolutions]),
        torch.tensor(kernels, dtype=torch.int32), net.attention_biases,
    )  # fmt: skip
    agree([net.proj[1](y)], [net(x)], 1e-5)


def test_windows_may_lie_in_any_way(guarded: Callable[[], int]) -> None:
    """Channels last, and a window within a map; not a number around each; guards around y."""
    parts = operands(2, (3, 4), (3, 5), 4, 6)
    wanted = reference(*parts)
    for place, part in enumerate(parts):
        if part.is_floating_point():
            around = torch.full([size + 20 for size in part.shape], torch.nan)
            view = around[tuple(slice(10, 10 + size) for size in part.shape)]
            parts[place] = view.copy_(part)
    agree([cascade(*parts)], [wanted], 1e-5)
    parts[0] = parts[0].contiguous(memory_format=torch.channels_last)
    agree([cascade(*parts)], [wanted], 1e-5)
    parts[5] = torch.tensor([99, 5], dtype=torch.int32)  # no kernel is larger than the largest
    agree([cascade(*parts)], [wanted], 1e-5)
    assert guarded() >= 3


def test_what_the_kernel_cannot_take_goes_to_the_reference() -> None:
    parts = operands(1, (9, 9), (3,), 4, 4)
    with pytest.warns(NotFused, match="1 to 64 tokens"):
        found = gradients(cascade, parts)
    agree(found, gradients(reference, parts), 1e-6)
    parts = operands(1, (3, 3), (3,), 4, 4)
    parts[5] = parts[5].long()
    with require_fused(), pytest.raises(SpaceError, match="int32"):
        cascade(*parts)
    x, *rest = operands(1, (3, 4), (3, 3), 4, 4)
    assert unable(x, *rest) == ""
    apart = torch.empty_strided((2, 8, 3, 4), (1, 2**29, 4, 1), device="meta")
    assert "too far apart" in unable(apart, *(part.to("meta") for part in rest))


def test_the_operators_keep_their_promises() -> None:
    parts = operands(1, (2, 3), (3,), 3, 4)
    free = [part.requires_grad_(part.is_floating_point()) for part in parts]
    torch.library.opcheck(_op, tuple(free))
