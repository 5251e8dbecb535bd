"""Depthwise convolutions of the fused backend: the same gradients, and theirs in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from small_networks import model_of
from torch import Tensor

from spacelang.backends.torch.lowering.fused import convolution
from spacelang.backends.torch.lowering.fused.convolution import conv2d
from spacelang.backends.torch.lowering.kernels import with_fused

LAST = torch.channels_last
# Kernel, dilation, rows, columns: large ones, dilated ones, maps that are not square or too wide.
PLACES = [(5, 1, 8, 9), (7, 1, 7, 7), (3, 2, 9, 6), (5, 2, 8, 8), (5, 2, 40, 40)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random, dtype=torch.float64)


def differentiated(
    function: Callable[..., Tensor], options: Mapping[str, int], *shapes: tuple[int, ...]
) -> list[Tensor]:
    """The result, gradients, and gradients of those."""
    x, weight, bias = (noise(*s, seed=n).requires_grad_() for n, s in enumerate(shapes))
    x = x.detach().contiguous(memory_format=LAST).requires_grad_()
    y = function(x, weight, bias, **options)
    first = torch.autograd.grad(y, (x, weight, bias), noise(*y.shape, seed=3), create_graph=True)
    second = torch.autograd.grad(torch.stack([(g * g).sum() for g in first]).sum(), (x, weight))
    return [y, *first, *second]


@pytest.mark.parametrize(("kernel", "dilation", "rows", "columns"), PLACES)
def test_depthwise(kernel: int, dilation: int, rows: int, columns: int) -> None:
    options = {"stride": 1, "padding": dilation * (kernel // 2), "dilation": dilation, "groups": 6}
    shapes = ((3, 6, rows, columns), (6, 1, kernel, kernel), (6,))
    taken = (noise(*shapes[0]).contiguous(memory_format=LAST), noise(*shapes[1]))
    assert convolution._slow(*taken, 1, options["padding"], dilation)  # pyright: ignore
    found = differentiated(conv2d, options, *shapes)
    wanted = differentiated(F.conv2d, options, *shapes)
    for one, other in zip(found, wanted, strict=True):
        one, other = one.detach(), other.detach()
        assert one.shape == other.shape
        assert float((one - other).abs().max()) <= 1e-12 * float(other.abs().max())


def test_what_is_left_to_pytorch() -> None:
    x, weight = noise(2, 6, 8, 8).contiguous(memory_format=LAST), noise(6, 1, 5, 5)
    slow = convolution._slow  # pyright: ignore
    assert slow(x, weight, 1, 2, 1)
    assert not slow(x, weight, 2, 2, 1), "a stride"
    assert not slow(x, weight, 1, 0, 1), "the map shrinks"
    assert not slow(x, weight[..., 1:4, 1:4], 1, 1, 1), "oneDNN is fast"
    assert not slow(x.contiguous(), weight, 1, 2, 1), "channels apart"
    assert not slow(x[:0], weight, 1, 2, 1), "nothing to compute"
    assert not slow(x, noise(6, 6, 5, 5), 1, 2, 1), "not depthwise"
    with torch.autocast("cpu", torch.bfloat16):
        assert not slow(x, weight, 1, 2, 1), "narrower numbers"


def test_frozen_weights_have_no_gradient() -> None:
    x = noise(2, 6, 8, 8).contiguous(memory_format=LAST).requires_grad_()
    y = conv2d(x, noise(6, 1, 5, 5), None, stride=1, padding=2, dilation=1, groups=6)
    y.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("name", ["cream.space:cream_to_50", "small_cells.space"])
def test_images_have_their_channels_last(name: str) -> None:
    """Values are those of the network node by node, whatever the layout of the images is."""
    plain = model_of(name).double().train()
    with with_fused():
        fused = model_of(name).double().train()
    shape = [int(size.at({})) for size in plain.graph.root.inputs[0].types[0].shape[1:]]
    x = noise(2, *shape)
    for given in (x, x.contiguous(memory_format=LAST)):
        wanted, found = plain.all_outputs(given), fused.all_outputs(given)
        for output, value in wanted.items():
            assert float((found[output] - value).abs().max()) <= 1e-9 * float(value.abs().max())
    assert x.is_contiguous(), "what is given stays as it is"


def test_under_autocast_it_is_of_the_narrow_type() -> None:
    """Also where gradients are derived outside, and weights stay as they are."""
    x = noise(2, 6, 8, 8).float().contiguous(memory_format=LAST)
    options = {"stride": 1, "padding": 2, "dilation": 1, "groups": 6}
    found: list[Tensor] = []
    for function in (conv2d, F.conv2d):
        leaf = noise(6, 1, 5, 5).float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = function(x, leaf, None, **options)
        assert y.dtype == torch.bfloat16
        (slope,) = torch.autograd.grad(y.float().square().sum(), leaf)
        assert slope.dtype == torch.float32
        found.append(slope)
    assert torch.equal(*found)
