"""Depthwise convolution, batch norm, activation, squeeze-excite: the inverted residuals' middle.

    y = gate act(scale conv(x, w) + shift)        x [B, C, H, W], w [C, 1, K, K], gate [B, C]

Batch norm is its scale and shift of a channel: folded statistics, or a batch's, which PyTorch sums.
`squeeze` is the mean of act(...) over a plane, without the plane being written: what a gate is made
from. So squeeze-excite reads x twice and writes y once, where the plane was written, read for its
mean, read again and written again. Kernels of 3, 5 and 7, padded by half; strides of 1 and 2.

A program takes `PLANES` images of one channel and `PIXELS` pixels of them. The backward recomputes
the convolution, writes the gradient of its outcome, and sums what its planes give to w, scale,
shift and gate; images are added in order: gradients are the same at every run. The gradient of x
gathers what each of its pixels went into, so nothing is added by two programs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from spacelang.backends.triton.launch import launches, refusal
from spacelang.backends.triton.mlp import gelu
from spacelang.backends.triton.resources import Build

PLANES, PIXELS = 8, 64
WARPS = 8  # of the backward, which spills with 4
NAME = "depthwise"
SIZES = (3, 5, 7)
ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2, "swish": 3, "hard_swish": 4}
_TORCH = {
    "none": lambda x: x,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "swish": functional.silu,
    "hard_swish": functional.hardswish,
}
INTEGERS = ("C", "P", "H", "W", "OH", "OW", "STRIDE", "x_b", "x_c", "x_h", "x_w")
STEPS = ("g_b", "g_c", "g_h", "g_w")  # of what comes back: a mean's is one number a plane


def reference(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    gate: Tensor | None,
    stride: int,
    activation: str,
    squeezed: bool,
) -> Tensor:
    """The same operation by operation, in float32."""
    around = weight.shape[2] // 2
    found = functional.conv2d(x.float(), weight.float(), None, stride, around, groups=x.shape[1])
    found = found * scale.float()[:, None, None] + shift.float()[:, None, None]
    found = _TORCH[activation](found)
    if gate is not None:
        found = found * gate.float()[:, :, None, None]
    return (found.mean((2, 3)) if squeezed else found).to(x.dtype)


@triton.jit
def _activated(z, ACTIVATION: tl.constexpr):
    if ACTIVATION == 1:
        z = tl.where(z < 0.0, 0.0, z)  # what is not a number stays so
    if ACTIVATION == 2:
        z = gelu(z)
    if ACTIVATION == 3:
        z = z * tl.sigmoid(z)
    if ACTIVATION == 4:
        z = z * tl.minimum(tl.maximum(z + 3.0, 0.0), 6.0) / 6.0
    return z


@triton.jit
def _slope(z, ACTIVATION: tl.constexpr):
    """The derivative of an activation; where it has none, what PyTorch takes."""
    found = tl.full(z.shape, 1.0, tl.float32)
    if ACTIVATION == 1:
        found = tl.where(z > 0.0, 1.0, 0.0)
    if ACTIVATION == 2:
        density = 0.3989422804014327 * tl.exp(-0.5 * z * z)
        found = 0.5 * (1.0 + tl.erf(z * 0.7071067811865476)) + z * density
    if ACTIVATION == 3:
        sigmoid = tl.sigmoid(z)
        found = sigmoid * (1.0 + z * (1.0 - sigmoid))
    if ACTIVATION == 4:
        found = tl.where(z < -3.0, 0.0, tl.where(z <= 3.0, z / 3.0 + 0.5, 1.0))
    return found


@triton.jit
def _planes(P, C, x_b, x_c, PLANES: tl.constexpr):
    """The planes of a program [PLANES, 1], their channels, where they begin, which there are."""
    plane = (tl.program_id(0) * PLANES + tl.arange(0, PLANES))[:, None]
    channel = plane % C
    start = (plane // C).to(tl.int64) * x_b + channel.to(tl.int64) * x_c
    return plane, channel, start, plane < P


@triton.jit
def _tap(x, start, y, i, inside, H, W, x_h, x_w):
    """x at rows y and columns i of planes; 0 beyond their borders."""
    there = inside & (y >= 0) & (y < H) & (i >= 0) & (i < W)
    return tl.load(x + start + y * x_h + i * x_w, mask=there, other=0.0).to(tl.float32)


@triton.jit
def _convolved(
    x, weight, channel, start, pixel, inside, H, W, OW, STRIDE, x_h, x_w,
    K: tl.constexpr, PLANES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """The convolution at the pixels [1, PIXELS] of planes."""
    top = (pixel // OW) * STRIDE - K // 2
    left = (pixel % OW) * STRIDE - K // 2
    total = tl.zeros((PLANES, PIXELS), tl.float32)
    for tap in range(K * K):
        w = tl.load(weight + channel * (K * K) + tap).to(tl.float32)
        total += w * _tap(x, start, top + tap // K, left + tap % K, inside, H, W, x_h, x_w)
    return total


@triton.jit(do_not_specialize=[*INTEGERS])
def _forward_kernel(
    x, weight, scale, shift, gate, out, C, P, H, W, OH, OW, STRIDE, x_b, x_c, x_h, x_w,
    K: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr,
    PLANES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    plane, channel, start, there = _planes(P, C, x_b, x_c, PLANES)
    pixel = (tl.program_id(1) * PIXELS + tl.arange(0, PIXELS))[None, :]
    inside = there & (pixel < OH * OW)
    z = _convolved(
        x, weight, channel, start, pixel, inside, H, W, OW, STRIDE, x_h, x_w, K, PLANES, PIXELS
    )
    z = z * tl.load(scale + channel).to(tl.float32) + tl.load(shift + channel).to(tl.float32)
    value = _activated(z, ACTIVATION)
    if GATED:
        value *= tl.load(gate + plane, mask=there, other=0.0).to(tl.float32)
    at = out + plane.to(tl.int64) * (OH * OW) + pixel
    tl.store(at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=[*INTEGERS])
def _squeeze_kernel(
    x, weight, scale, shift, gate, out, C, P, H, W, OH, OW, STRIDE, x_b, x_c, x_h, x_w,
    K: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr,
    PLANES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    plane, channel, start, there = _planes(P, C, x_b, x_c, PLANES)
    slope = tl.load(scale + channel).to(tl.float32)
    offset = tl.load(shift + channel).to(tl.float32)
    total = tl.zeros((PLANES, PIXELS), tl.float32)
    for begin in range(0, OH * OW, PIXELS):
        pixel = (begin + tl.arange(0, PIXELS))[None, :]
        inside = there & (pixel < OH * OW)
        z = _convolved(
            x, weight, channel, start, pixel, inside, H, W, OW, STRIDE, x_h, x_w, K, PLANES, PIXELS
        )
        total += tl.where(inside, _activated(z * slope + offset, ACTIVATION), 0.0)
    mean = tl.sum(total, 1)[:, None] / (OH * OW)
    if GATED:
        mean *= tl.load(gate + plane, mask=there, other=0.0).to(tl.float32)
    tl.store(out + plane, mean.to(out.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=[*INTEGERS, *STEPS])
def _backward_kernel(
    gradients, x, weight, scale, shift, gate, slopes, sums,
    C, P, H, W, OH, OW, STRIDE, x_b, x_c, x_h, x_w, g_b, g_c, g_h, g_w,
    K: tl.constexpr, ACTIVATION: tl.constexpr, GATED: tl.constexpr,
    PLANES: tl.constexpr, PIXELS: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Gradients of the convolution's outcome; a plane's sums for w (K K), scale, shift and gate."""
    plane, channel, start, there = _planes(P, C, x_b, x_c, PLANES)
    g_start = (plane // C).to(tl.int64) * g_b + channel.to(tl.int64) * g_c
    factor = tl.load(scale + channel).to(tl.float32)
    offset = tl.load(shift + channel).to(tl.float32)
    open = tl.full((PLANES, 1), 1.0, tl.float32)
    if GATED:
        open = tl.load(gate + plane, mask=there, other=0.0).to(tl.float32)
    column = tl.arange(0, SUMS)[None, :]
    found = tl.zeros((PLANES, SUMS), tl.float32)
    for begin in range(0, OH * OW, PIXELS):
        pixel = (begin + tl.arange(0, PIXELS))[None, :]
        inside = there & (pixel < OH * OW)
        value = _convolved(
            x, weight, channel, start, pixel, inside, H, W, OW, STRIDE, x_h, x_w, K, PLANES, PIXELS
        )
        z = value * factor + offset
        at = gradients + g_start + (pixel // OW) * g_h + (pixel % OW) * g_w
        g = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        before = g * open * _slope(z, ACTIVATION)
        share = tl.sum(before * value, 1)[:, None]
        found += tl.where(column == K * K, share, 0.0)
        found += tl.where(column == K * K + 1, tl.sum(before, 1)[:, None], 0.0)
        if GATED:
            share = tl.sum(g * _activated(z, ACTIVATION), 1)[:, None]
            found += tl.where(column == K * K + 2, share, 0.0)
        slope = before * factor
        at = slopes + plane.to(tl.int64) * (OH * OW) + pixel
        tl.store(at, slope.to(slopes.dtype.element_ty), mask=inside)
        top = (pixel // OW) * STRIDE - K // 2
        left = (pixel % OW) * STRIDE - K // 2
        for tap in range(K * K):
            part = _tap(x, start, top + tap // K, left + tap % K, inside, H, W, x_h, x_w)
            found += tl.where(column == tap, tl.sum(slope * part, 1)[:, None], 0.0)
    mask = there & (column < K * K + 3)
    tl.store(sums + plane.to(tl.int64) * (K * K + 3) + column, found, mask=mask)


@triton.jit(do_not_specialize=["C", "P", "H", "W", "OH", "OW", "STRIDE"])
def _input_kernel(
    slopes, weight, result, C, P, H, W, OH, OW, STRIDE,
    K: tl.constexpr, PLANES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """The gradient of x: what each pixel went into, by what it was multiplied with."""
    plane, channel, start, there = _planes(P, C, C * OH * OW, OH * OW, PLANES)
    pixel = (tl.program_id(1) * PIXELS + tl.arange(0, PIXELS))[None, :]
    inside = there & (pixel < H * W)
    total = tl.zeros((PLANES, PIXELS), tl.float32)
    for tap in range(K * K):
        y = pixel // W + K // 2 - tap // K
        i = pixel % W + K // 2 - tap % K
        met = inside & (y % STRIDE == 0) & (i % STRIDE == 0)
        w = tl.load(weight + channel * (K * K) + tap).to(tl.float32)
        total += w * _tap(slopes, start, y // STRIDE, i // STRIDE, met & (y >= 0) & (i >= 0),
                          OH, OW, OW, 1)  # fmt: skip
    at = result + plane.to(tl.int64) * (H * W) + pixel
    tl.store(at, total.to(result.dtype.element_ty), mask=inside)


def unable(
    x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, gate: Tensor | None, stride: int
) -> str:
    """Why the kernels cannot take these operands; empty if they can."""
    if x.ndim != 4 or weight.shape[:2] != (x.shape[1], 1) or weight.ndim != 4:
        return "it takes [B, C, H, W] and a weight [C, 1, K, K]"
    if weight.shape[2] != weight.shape[3] or weight.shape[2] not in SIZES:
        return f"no kernel takes a window of {tuple(weight.shape[2:])}"
    if stride not in (1, 2):
        return f"no kernel takes a stride of {stride}"
    if scale.shape != x.shape[1:2] or shift.shape != x.shape[1:2]:
        return "it takes a scale and a shift of each channel"
    if gate is not None and gate.shape != x.shape[:2]:
        return "it takes a gate of each channel of each image"
    if not x.shape[2] or not x.shape[3]:
        return "its planes are empty"
    reach = sum((size - 1) * step for size, step in zip(x.shape[2:], x.stride()[2:], strict=True))
    if reach >= 2**31 or x.shape[2:].numel() > 65_535 * PIXELS or x.shape[:2].numel() >= 2**31:
        return "its planes are too large or too many"
    return refusal(x, weight, scale, shift, *(() if gate is None else (gate,)))


def _sizes(x: Tensor, stride: int) -> list[int]:
    """The run-time integers of a kernel, `INTEGERS`."""
    batch, channels, height, width = x.shape
    out = ((height - 1) // stride + 1, (width - 1) // stride + 1)
    return [channels, batch * channels, height, width, *out, stride, *x.stride()]


@torch.library.custom_op("spacelang::depthwise", mutates_args=())
def _op(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    gate: Tensor | None,
    stride: int,
    activation: str,
    squeezed: bool,
) -> Tensor:
    """Planes [B, C, H', W'] or, squeezed, their means [B, C], contiguous."""
    if not launches(NAME, unable(x, weight, scale, shift, gate, stride)):
        plain = reference(x, weight, scale, shift, gate, stride, activation, squeezed)
        return plain.contiguous()
    sizes = _sizes(x, stride)
    shape = x.shape[:2] if squeezed else (*x.shape[:2], *sizes[4:6])
    out = torch.empty(shape, dtype=x.dtype, device=x.device)
    if out.numel():
        kernel = _squeeze_kernel if squeezed else _forward_kernel
        blocks = 1 if squeezed else triton.cdiv(sizes[4] * sizes[5], PIXELS)
        kernel[(triton.cdiv(sizes[1], PLANES), blocks)](
            x, weight.contiguous(), scale.contiguous(), shift.contiguous(),
            x if gate is None else gate.contiguous(), out, *sizes, K=weight.shape[2],
            ACTIVATION=ACTIVATIONS[activation], GATED=int(gate is not None),
            PLANES=PLANES, PIXELS=PIXELS,
        )  # fmt: skip
    return out


@torch.library.custom_op("spacelang::depthwise_backward", mutates_args=())
def _backward_op(
    gradients: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    gate: Tensor | None,
    stride: int,
    activation: str,
    squeezed: bool,
) -> list[Tensor]:
    """Gradients of x, weight, scale, shift and, where there is one, of the gate."""
    gates = [] if gate is None else [gate]
    if not launches(NAME, unable(x, weight, scale, shift, gate, stride)):
        options = (stride, activation, squeezed)

        def again(*parts: Tensor) -> Tensor:
            return reference(*parts[:4], parts[4] if gates else None, *options)

        _, pulled = torch.func.vjp(again, x, weight, scale, shift, *gates)
        return [p.clone(memory_format=torch.contiguous_format) for p in pulled(gradients)]
    sizes, k = _sizes(x, stride), weight.shape[2]
    out = (*x.shape[:2], *sizes[4:6])
    if squeezed:
        gradients = (gradients / (out[2] * out[3]))[:, :, None, None].expand(out)
    kept = weight.contiguous()
    slopes = torch.empty(out, dtype=x.dtype, device=x.device)
    sums = torch.empty((*x.shape[:2], k * k + 3), dtype=torch.float32, device=x.device)
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if result.numel():
        programs = triton.cdiv(sizes[1], PLANES)
        _backward_kernel[(programs,)](
            gradients, x, kept, scale.contiguous(), shift.contiguous(),
            x if gate is None else gate.contiguous(), slopes, sums, *sizes, *gradients.stride(),
            K=k, ACTIVATION=ACTIVATIONS[activation], GATED=int(gate is not None),
            PLANES=PLANES, PIXELS=PIXELS, SUMS=triton.next_power_of_2(k * k + 3), num_warps=WARPS,
        )  # fmt: skip
        _input_kernel[(programs, triton.cdiv(sizes[2] * sizes[3], PIXELS))](
            slopes, kept, result, *sizes[:7], K=k, PLANES=PLANES, PIXELS=PIXELS
        )
    total = sums.sum(0)
    found = [
        total[:, : k * k].reshape(weight.shape).to(weight.dtype, copy=True),
        total[:, k * k].to(scale.dtype, copy=True),
        total[:, k * k + 1].to(shift.dtype, copy=True),
    ]
    gated = [sums[:, :, k * k + 2].to(part.dtype, copy=True) for part in gates]
    return [result, *(part.contiguous() for part in (*found, *gated))]


@_op.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    gate: Tensor | None,
    stride: int,
    activation: str,
    squeezed: bool,
) -> Tensor:
    return x.new_empty(x.shape[:2] if squeezed else (*x.shape[:2], *_sizes(x, stride)[4:6]))


@_backward_op.register_fake
def _(
    gradients: Tensor,
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    gate: Tensor | None,
    stride: int,
    activation: str,
    squeezed: bool,
) -> list[Tensor]:
    return [p.new_empty(p.shape) for p in (x, weight, scale, shift, gate) if p is not None]


def _setup(ctx, inputs, output):
    *operands, ctx.stride, ctx.activation, ctx.squeezed = inputs
    ctx.save_for_backward(*operands)


def _backward(ctx, gradients):
    operands = ctx.saved_tensors
    found = _backward_op(gradients, *operands, ctx.stride, ctx.activation, ctx.squeezed)
    return (*found, *(() if operands[4] is not None else (None,)), None, None, None)


_op.register_autograd(_backward, setup_context=_setup)


def depthwise(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    gate: Tensor | None = None,
    stride: int = 1,
    activation: str = "none",
) -> Tensor:
    """gate act(scale conv(x, weight) + shift) of planes x [B, C, H, W], padded by half a window.

    `weight` [C, 1, K, K], `scale` and `shift` [C], `gate` [B, C]; `activation` of `ACTIVATIONS`.
    """
    return _op(x, weight, scale, shift, gate, stride, _known(activation), False)


def squeeze(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    shift: Tensor,
    stride: int = 1,
    activation: str = "none",
) -> Tensor:
    """The mean [B, C] of each plane of `depthwise`, which is not written."""
    return _op(x, weight, scale, shift, None, stride, _known(activation), True)


def _known(activation: str) -> str:
    if activation not in ACTIVATIONS:
        raise ValueError(f"a depthwise convolution has no activation {activation!r} to fuse")
    return activation


def _builds() -> tuple[Build, ...]:
    """Cream's and EfficientViT's windows, in float16 and, the largest, in float32."""
    found: list[Build] = []
    integers = dict.fromkeys(INTEGERS, "i32")
    steps = dict.fromkeys(STEPS, "i32")
    tile = {"PLANES": PLANES, "PIXELS": PIXELS}
    for kind, k in (("fp16", 3), ("fp16", 5), ("fp16", 7), ("fp32", 7)):
        flags = {"K": k, "ACTIVATION": ACTIVATIONS["swish"], "GATED": 1, **tile}
        operands = dict.fromkeys(("x", "weight", "scale", "shift", "gate"), f"*{kind}")
        forward = {**operands, "out": f"*{kind}", **integers}
        backward = {
            "gradients": f"*{kind}", **operands, "slopes": f"*{kind}", "sums": "*fp32",
            **integers, **steps,
        }  # fmt: skip
        inputs = dict.fromkeys(("slopes", "weight", "result"), f"*{kind}")
        inputs |= dict.fromkeys(INTEGERS[:7], "i32")
        sums = {"SUMS": triton.next_power_of_2(k * k + 3)}
        name = f"[{k} {kind}]"
        found += [
            Build(f"depthwise.forward{name}", _forward_kernel, forward, flags),
            Build(
                f"depthwise.backward{name}",
                _backward_kernel,
                backward,
                flags | sums,
                {"num_warps": WARPS},
            ),
            Build(f"depthwise.input{name}", _input_kernel, inputs, {"K": k, **tile}),
        ]
        if k == 5:
            found.append(Build(f"depthwise.squeeze{name}", _squeeze_kernel, forward, flags))
    return tuple(found)


BUILDS = _builds()
