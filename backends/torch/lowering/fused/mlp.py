"""Layer norm, linear, activation, linear: nothing between is kept for the backward pass.

    y = mlp(x, (scale, shift, eps), w1, b1, w2, b2)      x [.., C] -> [.., F]

The backward pass works it out again from `x`: one product more than the six of a step, a
twentieth of an encoder's time, and a quarter of what an encoder would keep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang.backends.torch.lowering.fused.operators import fused
from spacelang.backends.torch.lowering.fused.products import gradients, linear, product

Norm = tuple[Tensor, Tensor, float]
ACTIVATIONS = {"gelu": F.gelu, "relu": torch.relu}


def mlp(
    x: Tensor,
    norm: Norm | None,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    *,
    activation: str,
) -> Tensor:
    """act(norm(x) w1^T + b1) w2^T + b2."""
    scale, shift, eps = norm or (None, None, 0.0)
    if torch.is_grad_enabled() and not torch.is_autocast_enabled(x.device.type):
        return _mlp(x, scale, shift, eps, w1, b1, w2, b2, activation)
    if norm is not None:
        x = F.layer_norm(x, x.shape[-1:], scale, shift, eps)
    return linear(ACTIVATIONS[activation](linear(x, w1, b1)), w2, b2)


def _normed(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The norm of rows, their means and the inverse of their deviations."""
    if scale is None:
        return x, None, None
    return torch.ops.aten.native_layer_norm(x, x.shape[-1:], scale, shift, eps)


def _forward(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float, w1: Tensor,
    b1: Tensor | None, w2: Tensor, b2: Tensor | None, activation: str,
) -> Tensor:  # fmt: skip
    rows = _normed(x.reshape(-1, x.shape[-1]), scale, shift, eps)[0]
    y = product(ACTIVATIONS[activation](product(rows, w1, b1)), w2, b2)
    return y.view(*x.shape[:-1], len(w2))


def _backward(
    slopes: Tensor, x: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float, w1: Tensor,
    b1: Tensor | None, w2: Tensor, needs: list[bool], activation: str,
) -> list[Tensor]:  # fmt: skip
    """Of x, scale, shift, w1, b1, w2 and b2; empty where none is needed."""
    found: dict[int, Tensor] = {}
    flat = x.reshape(-1, x.shape[-1])
    rows, mean, rate = _normed(flat, scale, shift, eps)
    hidden = product(rows, w1, b1)
    active = ACTIVATIONS[activation](hidden)
    slopes = slopes.reshape(-1, len(w2))
    inner, found[5], found[6] = gradients(slopes, active, w2, (any(needs[:5]), *needs[5:]))
    if any(needs[:5]):
        if activation == "gelu":
            inner = torch.ops.aten.gelu_backward(inner, hidden)
        else:
            inner = inner.mul_(active > 0)
        del hidden, active
        found[0], found[3], found[4] = gradients(inner, rows, w1, (any(needs[:3]), *needs[3:5]))
    if scale is not None and any(needs[:3]):
        found[0], found[1], found[2] = torch.ops.aten.native_layer_norm_backward(
            found[0], flat, flat.shape[-1:], mean, rate, scale, shift, needs[:3]
        )
    if needs[0]:
        found[0] = found[0].view(x.shape)
    return [found[i] if needed else x.new_empty(0) for i, needed in enumerate(needs)]


def _fake(
    x: Tensor, scale: Any, shift: Any, eps: Any, w1: Any, b1: Any, w2: Tensor, *_: Any
) -> Tensor:
    return x.new_empty(*x.shape[:-1], w2.shape[0])


def _backward_fake(
    slopes: Tensor, x: Tensor, scale: Tensor | None, shift: Any, eps: float, w1: Tensor,
    b1: Tensor | None, w2: Tensor, needs: list[bool], activation: str,
) -> list[Tensor]:  # fmt: skip
    inner, outer = w1.shape[1:], w1.shape[:1]
    shapes = [x.shape, inner, inner, w1.shape, outer, w2.shape, w2.shape[:1]]
    return [
        x.new_empty(shape if needed else (0,)) for shape, needed in zip(shapes, needs, strict=True)
    ]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, shift, ctx.eps, w1, b1, w2, b2, ctx.activation = inputs
    ctx.save_for_backward(x, scale, shift, w1, b1, w2)
    ctx.there = [part is not None for part in (x, scale, shift, w1, b1, w2, b2)]


def _spread(backward: Callable[..., Any], ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
    x, scale, shift, w1, b1, w2 = ctx.saved_tensors
    learnt = [*ctx.needs_input_grad[:3], *ctx.needs_input_grad[4:8]]
    needs = [need and there for need, there in zip(learnt, ctx.there, strict=True)]
    found = backward(slopes, x, scale, shift, ctx.eps, w1, b1, w2, needs, ctx.activation)
    given = [part if needed else None for part, needed in zip(found, needs, strict=True)]
    return (*given[:3], None, *given[3:], None)


_mlp = fused("mlp", _forward, _backward, _fake, _backward_fake, _setup, _spread)
