"""Depthwise convolution, batch norm, activation, squeeze-excite: the inverted residuals' middle.

    y = gate act(norm(conv(x, w)))        x [B, C, H, W], w [C, 1, K, K], gate [B, C]

The norm is that of evaluation, read where its vectors lie; in training there is none, and PyTorch
norms. `squeeze` is the mean of act(...) over a plane, without the plane being written: what a gate
is made from. So squeeze-excite reads x twice and writes y once, where the plane was written, read
for its mean, read again and written again. Kernels of 3, 5 and 7, padded by half; strides 1 and 2.

A program takes `PLANES` planes that follow one another, each of a channel of an image, and `PIXELS`
pixels of them. The backward recomputes the convolution, writes the gradient of its outcome, and
sums what its planes give to w, scale, shift and gate; images are added in order: gradients are the
same at every run. The gradient of x gathers what each of its pixels went into, so nothing is added
by two programs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor
from torch.nn import functional

from spacelang.backends.triton.depthwise_kernels import (
    INTEGERS,
    SIZES,
    STEPS,
    WINDOW,
    _backward_kernel,
    _forward_kernel,
    _input_kernel,
    _squeeze_kernel,
)
from spacelang.backends.triton.launch import differentiable, launches, operator, refusal, wide
from spacelang.backends.triton.norm import Norm, normed
from spacelang.backends.triton.resources import Build

PLANES, PIXELS = 8, 64
WARPS = 8  # of the backward, which spills with 4
NAME = "depthwise"
SIDES = (3, 5, 7)  # of a window
ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2, "swish": 3, "hard_swish": 4}
ACTIVATE = {
    "none": lambda x: x,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "swish": functional.silu,
    "hard_swish": functional.hardswish,
}


def reference(
    x: Tensor,
    weight: Tensor,
    norm: list[Tensor],
    gate: Tensor | None,
    eps: float,
    stride: int,
    activation: str,
    squeezed: bool,
) -> Tensor:
    """The same operation by operation, in float32."""
    around = weight.shape[2] // 2
    found = functional.conv2d(wide(x), wide(weight), None, stride, around, groups=x.shape[1])
    found = ACTIVATE[activation](normed(found, norm, eps))
    if gate is not None:
        found = found * wide(gate)[:, :, None, None]
    return (found.mean((2, 3)) if squeezed else found).to(x.dtype)


def unable(
    x: Tensor, weight: Tensor, norm: Sequence[Tensor], gate: Tensor | None, stride: int
) -> str:
    """Why the kernels cannot take these operands; empty if they can."""
    if x.ndim != 4 or weight.shape[:2] != (x.shape[1], 1) or weight.ndim != 4:
        return "it takes [B, C, H, W] and a weight [C, 1, K, K]"
    if weight.shape[2] != weight.shape[3] or weight.shape[2] not in SIDES:
        return f"no kernel takes a window of {tuple(weight.shape[2:])}"
    if stride not in (1, 2):
        return f"no kernel takes a stride of {stride}"
    if len(norm) not in (0, 4) or any(part.shape != x.shape[1:2] for part in norm):
        return "it takes a mean, a variance, a scale and a shift of each channel"
    if gate is not None and gate.shape != x.shape[:2]:
        return "it takes a gate of each channel of each image"
    if not x.shape[2] or not x.shape[3]:
        return "its planes are empty"
    reach = sum((size - 1) * step for size, step in zip(x.shape[2:], x.stride()[2:], strict=True))
    many = max(reach, x.shape[1:].numel(), x.shape[:2].numel())  # the steps of int32
    many = max(many, len(weight) * weight.stride(0))
    if many >= 2**31 or x.shape[2:].numel() > 65_535 * PIXELS:
        return "its planes are too large or too many"
    return refusal(x, weight, *norm, *(() if gate is None else (gate,)))


def _sizes(x: Tensor, weight: Tensor, stride: int) -> list[int]:
    """The run-time integers of all kernels, `SIZES` and `WINDOW`."""
    batch, channels, height, width = x.shape
    out = ((height - 1) // stride + 1, (width - 1) // stride + 1)
    steps = (weight.stride(0), weight.stride(2))
    return [channels, batch * channels, height, width, *out, stride, *steps]


def _in_rows(weight: Tensor) -> Tensor:
    """A weight whose rows lie side by side, as those of a slice of a larger one do."""
    return weight if weight.stride(3) == 1 else weight.contiguous()


def _integers(
    x: Tensor, weight: Tensor, norm: Sequence[Tensor], gate: Tensor | None, stride: int
) -> list[int]:
    """Those of kernels that read x, `INTEGERS`."""
    flags = (int(bool(norm)), int(gate is not None))
    return [*_sizes(x, weight, stride), *x.stride(), *flags]


def _vectors(x: Tensor, norm: Sequence[Tensor], gate: Tensor | None) -> list[Tensor]:
    """The parts of a norm and the gate; x where there are none, which is not read as such."""
    found = [part.contiguous() for part in norm] or [x] * 4
    return [*found, x if gate is None else gate.contiguous()]


@operator("depthwise", NAME)
def _op(
    x: Tensor,
    weight: Tensor,
    norm: list[Tensor],
    gate: Tensor | None,
    eps: float,
    stride: int,
    activation: str,
    squeezed: bool,
) -> Tensor:
    """Planes [B, C, H', W'] or, squeezed, their means [B, C], contiguous."""
    if not launches(NAME, unable(x, weight, norm, gate, stride)):
        plain = reference(x, weight, norm, gate, eps, stride, activation, squeezed)
        return plain.contiguous()
    weight = _in_rows(weight)
    sizes = _integers(x, weight, norm, gate, stride)
    shape = x.shape[:2] if squeezed else (*x.shape[:2], *sizes[4:6])
    out = torch.empty(shape, dtype=x.dtype, device=x.device)
    if out.numel():
        kernel = _squeeze_kernel if squeezed else _forward_kernel
        blocks = 1 if squeezed else triton.cdiv(sizes[4] * sizes[5], PIXELS)
        kernel[(triton.cdiv(sizes[1], PLANES), blocks)](
            x, weight, *_vectors(x, norm, gate), out, eps, *sizes, K=weight.shape[2],
            ACTIVATION=ACTIVATIONS[activation], PLANES=PLANES, PIXELS=PIXELS,
        )  # fmt: skip
    return out


@operator("depthwise_backward", NAME)
def _backward_op(
    gradients: Tensor,
    x: Tensor,
    weight: Tensor,
    norm: list[Tensor],
    gate: Tensor | None,
    eps: float,
    stride: int,
    activation: str,
    squeezed: bool,
) -> list[Tensor]:
    """Gradients of x, weight and, where there are, of the norm's scale and shift, and the gate."""
    gates = [] if gate is None else [gate]
    learnt = norm[2:]
    if not launches(NAME, unable(x, weight, norm, gate, stride)):

        def again(x: Tensor, weight: Tensor, *parts: Tensor) -> Tensor:
            both = [*norm[:2], *parts[: len(learnt)]]
            gate = parts[-1] if gates else None
            return reference(x, weight, both, gate, eps, stride, activation, squeezed)

        _, pulled = torch.func.vjp(again, x, weight, *learnt, *gates)
        return [p.clone(memory_format=torch.contiguous_format) for p in pulled(gradients)]
    weight = _in_rows(weight)
    sizes, k = _integers(x, weight, norm, gate, stride), weight.shape[2]
    out = (*x.shape[:2], *sizes[4:6])
    if squeezed:
        gradients = (gradients / (out[2] * out[3]))[:, :, None, None].expand(out)
    slopes = torch.empty(out, dtype=x.dtype, device=x.device)
    sums = torch.empty((*x.shape[:2], k * k + 3), dtype=torch.float32, device=x.device)
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if result.numel():
        programs = triton.cdiv(sizes[1], PLANES)
        _backward_kernel[(programs,)](
            gradients, x, weight, *_vectors(x, norm, gate), slopes, sums, eps, *sizes,
            *gradients.stride(), K=k, ACTIVATION=ACTIVATIONS[activation],
            PLANES=PLANES, PIXELS=PIXELS, SUMS=triton.next_power_of_2(k * k + 3), num_warps=WARPS,
        )  # fmt: skip
        _input_kernel[(programs, triton.cdiv(sizes[2] * sizes[3], PIXELS))](
            slopes, weight, result, *_sizes(x, weight, stride), K=k, PLANES=PLANES, PIXELS=PIXELS
        )
    total = sums.sum(0)
    found = [total[:, : k * k].reshape(weight.shape).to(weight.dtype, copy=True)]
    for place, part in enumerate(learnt):
        found.append(total[:, k * k + place].to(part.dtype, copy=True))
    gated = [sums[:, :, k * k + 2].to(part.dtype, copy=True) for part in gates]
    return [result, *(part.contiguous() for part in (*found, *gated))]


@_op.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    norm: list[Tensor],
    gate: Tensor | None,
    eps: float,
    stride: int,
    activation: str,
    squeezed: bool,
) -> Tensor:
    return x.new_empty(x.shape[:2] if squeezed else (*x.shape[:2], *_sizes(x, weight, stride)[4:6]))


@_backward_op.register_fake
def _(
    gradients: Tensor,
    x: Tensor,
    weight: Tensor,
    norm: list[Tensor],
    gate: Tensor | None,
    eps: float,
    stride: int,
    activation: str,
    squeezed: bool,
) -> list[Tensor]:
    return [p.new_empty(p.shape) for p in (x, weight, *norm[2:], gate) if p is not None]


def _setup(ctx, inputs, output):
    x, weight, norm, gate, *ctx.rest = inputs
    ctx.save_for_backward(x, weight, gate, *norm)


def _backward(ctx, gradients):
    x, weight, gate, *norm = ctx.saved_tensors
    back, outer, *found = _backward_op(gradients, x, weight, norm, gate, *ctx.rest)
    opened = None if gate is None else found.pop()
    return back, outer, [None, None, *found] if norm else [], opened, *[None] * len(ctx.rest)


differentiable(_op, _setup, _backward)


def depthwise(
    x: Tensor,
    weight: Tensor,
    norm: Norm | None = None,
    gate: Tensor | None = None,
    stride: int = 1,
    activation: str = "none",
) -> Tensor:
    """gate act(norm(conv(x, weight))) of planes x [B, C, H, W], padded by half a window.

    `weight` [C, 1, K, K], `gate` [B, C]; the norm is that of evaluation; `activation` of
    `ACTIVATIONS`.
    """
    parts, eps = _parts(norm)
    return _op(x, weight, parts, gate, eps, stride, _known(activation), False)


def squeeze(
    x: Tensor,
    weight: Tensor,
    norm: Norm | None = None,
    stride: int = 1,
    activation: str = "none",
) -> Tensor:
    """The mean [B, C] of each plane of `depthwise`, which is not written."""
    parts, eps = _parts(norm)
    return _op(x, weight, parts, None, eps, stride, _known(activation), True)


def _parts(norm: Norm | None) -> tuple[list[Tensor], float]:
    return ([], 0.0) if norm is None else (norm.parts, norm.eps)


def _known(activation: str) -> str:
    if activation not in ACTIVATIONS:
        raise ValueError(f"a depthwise convolution has no activation {activation!r} to fuse")
    return activation


GATED = ("swish", "hard_swish", "relu")  # what a squeeze-excite follows
LAUNCHED = (
    *(("fp16", k, activation) for k in (3, 5, 7) for activation in (*GATED, "none")),
    ("fp32", 7, "swish"), ("bf16", 3, "gelu"),
)  # fmt: skip


def _builds() -> tuple[Build, ...]:
    """Those of Cream, MobileNetV3 and EfficientViT, one in float32, and TinyViT's.

    Where there is no activation, that is EfficientViT's, or it trains. In bfloat16 weights and
    norms are float32, as automatic mixed precision has them.
    """
    found: list[Build] = []
    integers = dict.fromkeys(INTEGERS, "i32")
    steps = dict.fromkeys(STEPS, "i32")
    tile = {"PLANES": PLANES, "PIXELS": PIXELS}
    inner: set[str] = set()  # kernels without an activation, of which there is one a window
    for kind, k, activation in LAUNCHED:
        flags = {"K": k, "ACTIVATION": ACTIVATIONS[activation], **tile}
        stored = "*fp32" if kind == "bf16" else f"*{kind}"
        operands = dict.fromkeys(("x", "gate"), f"*{kind}")
        operands |= dict.fromkeys(("weight", "mean", "variance", "scale", "shift"), stored)
        forward = {**operands, "out": f"*{kind}", "eps": "fp32", **integers}
        backward = {
            "gradients": f"*{kind}", **operands, "slopes": f"*{kind}", "sums": "*fp32",
            "eps": "fp32", **integers, **steps,
        }  # fmt: skip
        inputs = dict.fromkeys(("slopes", "result"), f"*{kind}") | {"weight": stored}
        inputs |= dict.fromkeys((*SIZES, *WINDOW), "i32")
        sums = {"SUMS": triton.next_power_of_2(k * k + 3)}
        name, plain = f"[{k} {activation} {kind}]", f"depthwise.input[{k} {kind}]"
        found += [
            Build(f"depthwise.forward{name}", _forward_kernel, forward, flags),
            Build(
                f"depthwise.backward{name}",
                _backward_kernel,
                backward,
                flags | sums,
                {"num_warps": WARPS},
            ),
        ]
        if plain not in inner:
            inner.add(plain)
            found.append(Build(plain, _input_kernel, inputs, {"K": k, **tile}))
        if activation in GATED and kind == "fp16":
            found.append(Build(f"depthwise.squeeze{name}", _squeeze_kernel, forward, flags))
    return tuple(found)


BUILDS = _builds()
