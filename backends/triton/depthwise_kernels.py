"""Kernels of depthwise convolution (see `depthwise`), a program each few planes."""

from __future__ import annotations

import triton
import triton.language as tl

from spacelang.backends.triton.mlp import gelu
from spacelang.backends.triton.norm import factors

SIZES = ("C", "P", "H", "W", "OH", "OW", "STRIDE")
WINDOW = ("w_c", "w_h")  # strides of a weight, which is a slice of a larger one in a space
INTEGERS = (*SIZES, *WINDOW, "x_b", "x_c", "x_h", "x_w", "NORMED", "GATED")
STEPS = ("g_b", "g_c", "g_h", "g_w")  # of what comes back: a mean's is one number a plane


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
def _opened(gate, plane, there, GATED):
    """The gate of each plane, 1 where there is none: a flag at run time, not a variant."""
    return tl.load(gate + plane, mask=there & (GATED > 0), other=1.0).to(tl.float32)


@triton.jit
def _tap(x, start, y, i, inside, H, W, x_h, x_w):
    """x at rows y and columns i of planes; 0 beyond their borders."""
    there = inside & (y >= 0) & (y < H) & (i >= 0) & (i < W)
    return tl.load(x + start + y * x_h + i * x_w, mask=there, other=0.0).to(tl.float32)


@triton.jit
def _convolved(
    x, windows, w_h, start, pixel, inside, H, W, OW, STRIDE, x_h, x_w,
    K: tl.constexpr, PLANES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """The convolution at the pixels [1, PIXELS] of planes, with their windows."""
    top = (pixel // OW) * STRIDE - K // 2
    left = (pixel % OW) * STRIDE - K // 2
    total = tl.zeros((PLANES, PIXELS), tl.float32)
    for tap in range(K * K):
        w = tl.load(windows + (tap // K) * w_h + tap % K).to(tl.float32)
        total += w * _tap(x, start, top + tap // K, left + tap % K, inside, H, W, x_h, x_w)
    return total


@triton.jit(do_not_specialize=[*INTEGERS], do_not_specialize_on_alignment=["weight"])
def _forward_kernel(
    x, weight, mean, variance, scale, shift, gate, out, eps,
    C, P, H, W, OH, OW, STRIDE, w_c, w_h, x_b, x_c, x_h, x_w, NORMED, GATED,
    K: tl.constexpr, ACTIVATION: tl.constexpr, PLANES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    plane, channel, start, there = _planes(P, C, x_b, x_c, PLANES)
    pixel = (tl.program_id(1) * PIXELS + tl.arange(0, PIXELS))[None, :]
    inside = there & (pixel < OH * OW)
    z = _convolved(
        x, weight + channel * w_c, w_h, start, pixel, inside, H, W, OW, STRIDE, x_h, x_w,
        K, PLANES, PIXELS,
    )  # fmt: skip
    centre, rate, factor, offset = factors(mean, variance, scale, shift, channel, NORMED > 0, eps)
    z = (z - centre) * (rate * factor) + offset
    value = _activated(z, ACTIVATION) * _opened(gate, plane, there, GATED)
    at = out + plane.to(tl.int64) * (OH * OW) + pixel
    tl.store(at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=[*INTEGERS], do_not_specialize_on_alignment=["weight"])
def _squeeze_kernel(
    x, weight, mean, variance, scale, shift, gate, out, eps,
    C, P, H, W, OH, OW, STRIDE, w_c, w_h, x_b, x_c, x_h, x_w, NORMED, GATED,
    K: tl.constexpr, ACTIVATION: tl.constexpr, PLANES: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    plane, channel, start, there = _planes(P, C, x_b, x_c, PLANES)
    centre, rate, factor, offset = factors(mean, variance, scale, shift, channel, NORMED > 0, eps)
    total = tl.zeros((PLANES, PIXELS), tl.float32)
    for begin in range(0, OH * OW, PIXELS):
        pixel = (begin + tl.arange(0, PIXELS))[None, :]
        inside = there & (pixel < OH * OW)
        z = _convolved(
            x, weight + channel * w_c, w_h, start, pixel, inside, H, W, OW, STRIDE, x_h, x_w,
            K, PLANES, PIXELS,
        )  # fmt: skip
        z = (z - centre) * (rate * factor) + offset
        total += tl.where(inside, _activated(z, ACTIVATION), 0.0)
    found = tl.sum(total, 1)[:, None] / (OH * OW)
    tl.store(out + plane, found.to(out.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=[*INTEGERS, *STEPS], do_not_specialize_on_alignment=["weight"])
def _backward_kernel(
    gradients, x, weight, mean, variance, scale, shift, gate, slopes, sums, eps,
    C, P, H, W, OH, OW, STRIDE, w_c, w_h, x_b, x_c, x_h, x_w, NORMED, GATED,
    g_b, g_c, g_h, g_w, K: tl.constexpr, ACTIVATION: tl.constexpr,
    PLANES: tl.constexpr, PIXELS: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Gradients of the convolution's outcome; a plane's sums for w (K K), scale, shift and gate."""
    plane, channel, start, there = _planes(P, C, x_b, x_c, PLANES)
    g_start = (plane // C).to(tl.int64) * g_b + channel.to(tl.int64) * g_c
    centre, rate, factor, offset = factors(mean, variance, scale, shift, channel, NORMED > 0, eps)
    open = _opened(gate, plane, there, GATED)
    column = tl.arange(0, SUMS)[None, :]
    found = tl.zeros((PLANES, SUMS), tl.float32)
    for begin in range(0, OH * OW, PIXELS):
        pixel = (begin + tl.arange(0, PIXELS))[None, :]
        inside = there & (pixel < OH * OW)
        value = _convolved(
            x, weight + channel * w_c, w_h, start, pixel, inside, H, W, OW, STRIDE, x_h, x_w,
            K, PLANES, PIXELS,
        )  # fmt: skip
        normal = (value - centre) * rate
        z = normal * factor + offset
        at = gradients + g_start + (pixel // OW) * g_h + (pixel % OW) * g_w
        g = tl.load(at, mask=inside, other=0.0).to(tl.float32)
        before = g * open * _slope(z, ACTIVATION)
        share = tl.sum(before * normal, 1)[:, None]
        found += tl.where(column == K * K, share, 0.0)
        found += tl.where(column == K * K + 1, tl.sum(before, 1)[:, None], 0.0)
        if GATED:
            share = tl.sum(g * _activated(z, ACTIVATION), 1)[:, None]
            found += tl.where(column == K * K + 2, share, 0.0)
        slope = before * rate * factor
        at = slopes + plane.to(tl.int64) * (OH * OW) + pixel
        tl.store(at, slope.to(slopes.dtype.element_ty), mask=inside)
        top = (pixel // OW) * STRIDE - K // 2
        left = (pixel % OW) * STRIDE - K // 2
        for tap in range(K * K):
            part = _tap(x, start, top + tap // K, left + tap % K, inside, H, W, x_h, x_w)
            found += tl.where(column == tap, tl.sum(slope * part, 1)[:, None], 0.0)
    mask = there & (column < K * K + 3)
    tl.store(sums + plane.to(tl.int64) * (K * K + 3) + column, found, mask=mask)


@triton.jit(do_not_specialize=[*SIZES, *WINDOW], do_not_specialize_on_alignment=["weight"])
def _input_kernel(
    slopes, weight, result, C, P, H, W, OH, OW, STRIDE, w_c, w_h,
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
        at = weight + channel * w_c + (tap // K) * w_h + tap % K
        w = tl.load(at).to(tl.float32)
        total += w * _tap(slopes, start, y // STRIDE, i // STRIDE, met & (y >= 0) & (i >= 0),
                          OH, OW, OW, 1)  # fmt: skip
    at = result + plane.to(tl.int64) * (H * W) + pixel
    tl.store(at, total.to(result.dtype.element_ty), mask=inside)
