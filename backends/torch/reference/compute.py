"""Rows that compute: products, norms, arithmetic, activations, drops, pools."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang.backends.torch.reference.at import ROWS, At, Row, row
from spacelang.ir.dim import Dim


@row("identity")
def _(at: At, x: Tensor) -> Tensor:
    return x


@row("parameter", "buffer")
def _(at: At) -> Tensor:
    return at.params[""]


@row("linear")
def _(at: At, x: Tensor, *extra: Tensor) -> Tensor:
    weight, bias = at.weight("weight", extra), at.weight("bias", extra)
    assert weight is not None
    x = x.reshape(*x.shape[: x.dim() - at.whole("axes")], -1)
    y = torch.matmul(x, weight.T)
    y = y if bias is None else y + bias
    return y.reshape(*x.shape[:-1], *at.wholes("out"))


@row("conv")
def _(at: At, x: Tensor, *extra: Tensor) -> Tensor:
    weight, bias = at.weight("weight", extra), at.weight("bias", extra)
    assert weight is not None
    kernel, dilation = at.whole("kernel"), at.whole("dilation")
    pad = dilation * (kernel - 1) // 2 if at.given("pad") is None else at.whole("pad")
    return F.conv2d(x, weight, bias, at.whole("stride"), pad, dilation, at.whole("groups"))


@row("conv_transpose")
def _(at: At, x: Tensor) -> Tensor:
    """A convolution of the map with zeros between its entries, by the kernel turned around."""
    stride, kernel, groups = (at.whole(n) for n in ("stride", "kernel", "groups"))
    over = kernel - stride
    pad = (over + 1) // 2 if at.given("pad") is None else at.whole("pad")
    extra = over % 2 if stride > 1 else 0
    if at.given("extra") is not None:
        extra = at.whole("extra")
    batch, channels, height, width = x.shape
    spread = x.new_zeros(batch, channels, (height - 1) * stride + 1, (width - 1) * stride + 1)
    spread[:, :, ::stride, ::stride] = x
    before, after = kernel - 1 - pad, kernel - 1 - pad + extra
    weight = at.params["weight"].unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    spread = F.pad(spread, (before, after, before, after))
    return F.conv2d(spread, weight.flip(2, 3), at.params.get("bias"), groups=groups)


@row("einsum")
def _(at: At, *xs: Tensor) -> Tensor:
    return torch.einsum(at.text("pattern"), *xs)


def _normal(x: Tensor, axes: list[int], eps: float) -> Tensor:
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / torch.sqrt(((x - mean) ** 2).mean(axes, keepdim=True) + eps)


@row("layer_norm")
def _(at: At, x: Tensor) -> Tensor:
    axes = list(range(x.dim() - at.whole("axes"), x.dim()))
    shape = [x.shape[a] for a in axes]
    y = _normal(x, axes, at.real("eps"))
    return y * at.params["weight"].reshape(shape) + at.params["bias"].reshape(shape)


@row("rms_norm")
def _(at: At, x: Tensor) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + at.real("eps")) * at.params["weight"]


@row("group_norm")
def _(at: At, x: Tensor) -> Tensor:
    groups = at.whole("groups")
    parts = x.reshape(x.shape[0], groups, -1)
    y = _normal(parts, [2], at.real("eps")).reshape(x.shape)
    shape = [1, -1] + [1] * (x.dim() - 2)
    return y * at.params["weight"].reshape(shape) + at.params["bias"].reshape(shape)


@row("batch_norm")
def _(at: At, x: Tensor) -> Tensor:
    shape = [1, -1] + [1] * (x.dim() - 2)
    axes = [0, *range(2, x.dim())]
    mean, variance = at.params["running_mean"], at.params["running_var"]
    if at.training:
        count = x.numel() // x.shape[1]
        momentum = at.real("momentum")
        here = x.mean(axes)
        spread = ((x - here.reshape(shape)) ** 2).mean(axes)
        unbiased = spread.detach() * count / (count - 1)
        at.updates["running_mean"] = (1 - momentum) * mean + momentum * here.detach()
        at.updates["running_var"] = (1 - momentum) * variance + momentum * unbiased
        at.updates["num_batches_tracked"] = at.params["num_batches_tracked"] + 1
        mean, variance = here, spread
    y = (x - mean.reshape(shape)) / torch.sqrt(variance.reshape(shape) + at.real("eps"))
    if "weight" in at.params:
        y = y * at.params["weight"].reshape(shape) + at.params["bias"].reshape(shape)
    return y


def _arithmetic(function: Callable[..., Tensor]) -> Row:
    def run(at: At, a: Tensor, *b: Tensor) -> Tensor:
        if b:
            return function(a, b[0])
        dim = at.given("number")
        assert isinstance(dim, Dim)
        number = at.value(dim)
        return function(number, a) if at.flag("flipped") else function(a, number)

    return run


for _name, _function in {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}.items():
    ROWS[_name] = _arithmetic(_function)

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: x.clamp(min=0),
    "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2,
    "swish": lambda x: x * torch.sigmoid(x),
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "hard_sigmoid": lambda x: (x + 3).clamp(0, 6) / 6,
    "hard_swish": lambda x: x * (x + 3).clamp(0, 6) / 6,
    "softmax": lambda x: torch.softmax(x, -1),
    "tanh": torch.tanh,
    "exp": torch.exp,
    "sqrt": torch.sqrt,
    "abs": torch.abs,
}
for _name, _function in _ACTIVATIONS.items():
    ROWS[_name] = lambda at, x, _function=_function: _function(x)


@row("sum_of")
def _(at: At, *xs: Tensor) -> Tensor:
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    return total


@row("mixture")
def _(at: At, weights: Tensor, *xs: Tensor) -> Tensor:
    return torch.einsum("n,n...->...", weights, torch.stack(xs))


@row("dropout")
def _(at: At, x: Tensor) -> Tensor:
    return F.dropout(x, at.real("rate"), at.training)


@row("drop_path")
def _(at: At, x: Tensor) -> Tensor:
    if at.mask is None:
        return x
    return x * at.mask.to(x.dtype).reshape([-1] + [1] * (x.dim() - 1))


def _patches(at: At, x: Tensor, fill: float) -> Tensor:
    """[B, C, H, W] -> [B, C, H', W', k*k], padded with `fill`."""
    kernel, stride = at.whole("kernel"), at.whole("stride")
    pad = kernel // 2 if at.given("pad") is None else at.whole("pad")
    x = F.pad(x, (pad, pad, pad, pad), value=fill)
    windows = x.unfold(2, kernel, stride).unfold(3, kernel, stride)
    return windows.flatten(4)


@row("max_pool")
def _(at: At, x: Tensor) -> Tensor:
    return _patches(at, x, -math.inf).amax(-1)


@row("avg_pool")
def _(at: At, x: Tensor) -> Tensor:
    if at.flag("count_pad"):
        return _patches(at, x, 0).mean(-1)
    return _patches(at, x, 0).sum(-1) / _patches(at, torch.ones_like(x), 0).sum(-1)


@row("resize")
def _(at: At, x: Tensor) -> Tensor:
    """Each axis by a matrix of weights."""
    to = at.wholes("to")
    for axis, size in zip((2, 3), (to[0], to[-1]), strict=True):
        old = x.shape[axis]
        matrix = x.new_zeros(size, old)
        for i in range(size):
            if at.text("mode") == "nearest":
                matrix[i, i * old // size] = 1
                continue
            place = min(max((i + 0.5) * old / size - 0.5, 0), old - 1)
            low = min(int(place), old - 1)
            high = min(low + 1, old - 1)
            matrix[i, low] += 1 - (place - low)
            matrix[i, high] += place - low
        x = torch.movedim(torch.movedim(x, axis, -1) @ matrix.T, -1, axis)
    return x


@row("zero")
def _(at: At, x: Tensor) -> Tensor:
    stride = at.whole("stride")
    return torch.zeros_like(x if stride == 1 else x[:, :, ::stride, ::stride])
