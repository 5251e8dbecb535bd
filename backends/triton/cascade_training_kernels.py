"""Kernels of a cascade in training (see `cascade_training`): a program each window.

What they read and write is laid out as `cascade_training_tiles` says.
"""

from __future__ import annotations

import triton
import triton.language as tl

from spacelang.backends.triton import cascade_training_tiles as tiles
from spacelang.backends.triton.cascade_kernels import tap_of
from spacelang.backends.triton.mlp import product

INTEGERS = (
    "head", "H", "B", "N", "R", "S", "D", "V", "L", "STORED", "C", "SPLITS", "w_f",
    "x_b", "x_c", "x_y", "x_x", "g_b", "g_c", "g_y", "g_x",
)  # fmt: skip
_KEPT = (*INTEGERS, "eps")  # no variant is made for their values
_ANYWHERE = ("qkv", "conv", "scale", "shift")  # nor for where slices of weights begin


@triton.jit(do_not_specialize=_KEPT, do_not_specialize_on_alignment=_ANYWHERE)
def project_kernel(
    x, u, qkv, z, parts, head, B, R, S, D, V, x_b, x_c, x_y, x_x, w_f,
    TOKENS: tl.constexpr, KEY: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A head's projection of a window, z [C, B, N], and its moments."""
    window = tl.program_id(0).to(tl.int64)
    N, C = R * S, 2 * D + V
    kind = z.dtype.element_ty
    for first in range(0, C, DEPTH):
        row = first + tl.arange(0, DEPTH)
        total = tl.zeros((TOKENS, DEPTH), tl.float32)
        for start in range(0, V, DEPTH):
            feature = tiles.features_of(
                x, u, head, start, window, B, R, S, V, x_b, x_c, x_y, x_x, TOKENS, DEPTH
            )
            c = start + tl.arange(0, DEPTH)
            at = qkv + row[None, :] * w_f + c[:, None]
            w = tl.load(at, (row < C)[None, :] & (c < V)[:, None], 0.0)
            total += product(feature.to(kind), w.to(kind), PRECISION)
        value = total.to(kind)
        inside = tiles.within(first, C, N, TOKENS, DEPTH)
        tl.store(tiles.place(z, first, window, B, N, TOKENS, DEPTH), value, mask=inside)
        tiles.store_moments(parts, value.to(tl.float32), inside, first, C, window, N, C, DEPTH)


@triton.jit(do_not_specialize=_KEPT, do_not_specialize_on_alignment=_ANYWHERE)
def moments_kernel(
    parts, scale, shift, norm, eps, B, N, C, WINDOWS: tl.constexpr, SIZE: tl.constexpr
):
    """A batch norm from the moments of windows: the mean of means, and squares around it."""
    channel = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    column = (channel < C)[None, :]
    total = tl.zeros((WINDOWS, SIZE), tl.float32)
    for first in range(0, B, WINDOWS):
        window = (first + tl.arange(0, WINDOWS))[:, None]
        at = parts + window * 2 * C + channel[None, :]
        total += tl.load(at, (window < B) & column, 0.0)
    mean = tl.sum(total, 0) / B
    total = tl.zeros((WINDOWS, SIZE), tl.float32)
    for first in range(0, B, WINDOWS):
        window = (first + tl.arange(0, WINDOWS))[:, None]
        at = parts + window * 2 * C + channel[None, :]
        inside = (window < B) & column
        rest = tl.load(at, inside, 0.0) - mean[None, :]
        total += tl.where(inside, tl.load(at + C, inside, 0.0) + N * rest * rest, 0.0)
    variance = tl.sum(total, 0) / (B * N)
    narrowed = tl.rsqrt(variance + eps)
    factor = tl.load(scale + channel, mask=channel < C, other=0.0).to(tl.float32) * narrowed
    offset = tl.load(shift + channel, mask=channel < C, other=0.0).to(tl.float32) - mean * factor
    tl.store(norm + channel, mean, mask=channel < C)
    tl.store(norm + C + channel, variance, mask=channel < C)
    tl.store(norm + 2 * C + channel, narrowed, mask=channel < C)
    tl.store(norm + 3 * C + channel, factor, mask=channel < C)
    tl.store(norm + 4 * C + channel, offset, mask=channel < C)


@triton.jit(do_not_specialize=_KEPT, do_not_specialize_on_alignment=_ANYWHERE)
def convolve_kernel(
    z, norm, conv, c, parts, B, R, S, D, V, L, STORED,
    TOKENS: tl.constexpr, KEY: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The depthwise convolution of a window's normed queries, c [D, B, N], and its moments."""
    window = tl.program_id(0).to(tl.int64)
    N, key = R * S, tl.arange(0, KEY)
    q = tiles.normed(z, norm, 0, D, window, B, N, 2 * D + V, TOKENS, KEY)
    total = tl.zeros((TOKENS, KEY), tl.float32)
    for tap in range(L * L):
        w = tap_of(conv, key, D, tap, L, STORED).to(z.dtype.element_ty).to(tl.float32)
        rows = tiles.shifted(q, tap // L - L // 2, tap % L - L // 2, R, S, TOKENS, KEY)
        total += rows * w[None, :]
    value = total.to(c.dtype.element_ty)
    inside = tiles.within(0, D, N, TOKENS, KEY)
    tl.store(tiles.place(c, 0, window, B, N, TOKENS, KEY), value, mask=inside)
    tiles.store_moments(
        parts, tl.where(inside, value.to(tl.float32), 0.0), inside, 0, D, window, N, D, KEY
    )


@triton.jit(do_not_specialize=_KEPT)
def attend_kernel(
    z, norm, c, conv_norm, offsets, u, out, head, H, B, R, S, D, V,
    TOKENS: tl.constexpr, KEY: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What a head gives for a window: u [H, V, B, N], and rectified in out [B, H V, N]."""
    window = tl.program_id(0).to(tl.int64)
    N, C = R * S, 2 * D + V
    kind = z.dtype.element_ty
    _, _, share = tiles.shares(
        z, norm, c, conv_norm, offsets, head, window, B, R, S, D, V, TOKENS, KEY, PRECISION
    )
    for first in range(0, V, DEPTH):
        v = tiles.normed(z, norm, 2 * D + first, C, window, B, N, C, TOKENS, DEPTH)
        value = product(share.to(kind), v.to(kind), PRECISION).to(kind)
        inside = tiles.within(first, V, N, TOKENS, DEPTH)
        tl.store(tiles.place(u, head * V + first, window, B, N, TOKENS, DEPTH), value, mask=inside)
        channel = (head * V + first + tl.arange(0, DEPTH))[None, :]
        at = out + (window * (H * V) + channel) * N + tl.arange(0, TOKENS)[:, None]
        tl.store(at, tl.where(value < 0, 0.0, value).to(kind), mask=inside)


@triton.jit(do_not_specialize=_KEPT)
def attend_back_kernel(
    g, after, u, z, norm, c, conv_norm, offsets, y_grad, t_grad, parts, conv_parts, offset_parts,
    head, H, B, R, S, D, V, g_b, g_c, g_y, g_x,
    TOKENS: tl.constexpr, KEY: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a window's normed keys, values and queries, and of offsets [B, N].

    Of what the head gave: `g` where u > 0, and `after` [H, V, B, N], what the next head found.
    """
    window = tl.program_id(0).to(tl.int64)
    N, C = R * S, 2 * D + V
    kind = z.dtype.element_ty
    token = tl.arange(0, TOKENS)
    t, k, share = tiles.shares(
        z, norm, c, conv_norm, offsets, head, window, B, R, S, D, V, TOKENS, KEY, PRECISION
    )
    share = tl.where((token < N)[:, None], share, 0.0)
    share_grad = tl.zeros((TOKENS, TOKENS), tl.float32)
    for first in range(0, V, DEPTH):
        inside = tiles.within(first, V, N, TOKENS, DEPTH)
        channel = head * V + first
        gave = tl.load(tiles.place(u, channel, window, B, N, TOKENS, DEPTH), inside, 0.0)
        at = g + window * g_b + channel.to(tl.int64) * g_c + tl.arange(0, DEPTH)[None, :] * g_c
        at += ((token // S) * g_y + (token % S) * g_x)[:, None]
        slope = tl.load(at, inside & (gave > 0), 0.0).to(tl.float32)
        at = tiles.place(after, channel + V, window, B, N, TOKENS, DEPTH)
        slope += tl.load(at, inside & (head + 1 < H), 0.0).to(tl.float32)
        slope = slope.to(kind)
        v = tiles.normed(z, norm, 2 * D + first, C, window, B, N, C, TOKENS, DEPTH).to(kind)
        share_grad += product(slope, tl.trans(v), PRECISION)
        v_grad = product(tl.trans(share).to(kind), slope, PRECISION)
        tiles.give(y_grad, v_grad, z, norm, parts, 2 * D + first, C, window, B, N, C, TOKENS, DEPTH)
    s_grad = share * (share_grad - tl.sum(share * share_grad, 1)[:, None])
    place = tiles.distances(S, TOKENS)
    for distance in range(0, N):
        found = tl.sum(tl.sum(tl.where(place == distance, s_grad, 0.0), 1), 0)
        tl.store(offset_parts + window * N + distance, found)
    s_grad = (s_grad * tl.rsqrt(D.to(tl.float32))).to(kind)
    k_grad = product(tl.trans(s_grad), t.to(kind), PRECISION)
    tiles.give(
        tiles.from_channel(y_grad, D, B, N), k_grad, tiles.from_channel(z, D, B, N), norm + D,
        parts + D, 0, D, window, B, N, C, TOKENS, KEY,
    )  # fmt: skip
    t_found = product(s_grad, k.to(kind), PRECISION)
    tiles.give(t_grad, t_found, c, conv_norm, conv_parts, 0, D, window, B, N, D, TOKENS, KEY)


@triton.jit(do_not_specialize=_KEPT, do_not_specialize_on_alignment=_ANYWHERE)
def convolve_back_kernel(
    t_grad, sums, c, conv_norm, z, norm, conv, y_grad, parts, conv_grad,
    B, R, S, D, V, L, STORED, SPLITS,
    TOKENS: tl.constexpr, KEY: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Gradients of normed queries, and of the windows [SPLITS, D, L L] of a convolution."""
    N, C, key = R * S, 2 * D + V, tl.arange(0, KEY)
    taps = tl.arange(0, TAPS)[:, None]
    weights = tl.zeros((TAPS, KEY), tl.float32)
    split = tl.program_id(0)
    for number in range(split, B, SPLITS):
        window = tl.cast(number, tl.int64)
        inside = tiles.within(0, D, N, TOKENS, KEY)
        slope = tl.load(tiles.place(t_grad, 0, window, B, N, TOKENS, KEY), inside, 0.0).to(
            tl.float32
        )
        centred = tiles.centred(c, conv_norm, 0, D, window, B, N, D, TOKENS, KEY)
        c_grad = tiles.unnormed(slope, centred, conv_norm, sums, 0, D, B, N, D, TOKENS, KEY)
        q = tiles.normed(z, norm, 0, D, window, B, N, C, TOKENS, KEY)
        total = tl.zeros((TOKENS, KEY), tl.float32)
        for tap in range(L * L):
            down, right = tap // L - L // 2, tap % L - L // 2
            w = tap_of(conv, key, D, tap, L, STORED).to(z.dtype.element_ty).to(tl.float32)
            total += tiles.shifted(c_grad, -down, -right, R, S, TOKENS, KEY) * w[None, :]
            share = tl.sum(c_grad * tiles.shifted(q, down, right, R, S, TOKENS, KEY), 0)
            weights += tl.where(taps == tap, share[None, :], 0.0)
        tiles.give(y_grad, total, z, norm, parts, 0, D, window, B, N, C, TOKENS, KEY)
    at = conv_grad + (split * D + key)[None, :] * (L * L) + taps
    tl.store(at, weights, mask=(taps < L * L) & (key < D)[None, :])


@triton.jit(do_not_specialize=_KEPT)
def unnorm_kernel(
    y_grad, sums, z, norm, x, u, z_grad, features, head, B, R, S, D, V, x_b, x_c, x_y, x_x,
    TOKENS: tl.constexpr, KEY: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a window's projection, and what it was of, [V, B, N], for a product of both."""
    window = tl.program_id(0).to(tl.int64)
    N, C = R * S, 2 * D + V
    for first in range(0, C, DEPTH):
        inside = tiles.within(first, C, N, TOKENS, DEPTH)
        at = tiles.place(y_grad, first, window, B, N, TOKENS, DEPTH)
        slope = tl.load(at, inside, 0.0).to(tl.float32)
        centred = tiles.centred(z, norm, first, C, window, B, N, C, TOKENS, DEPTH)
        found = tiles.unnormed(slope, centred, norm, sums, first, C, B, N, C, TOKENS, DEPTH)
        at = tiles.place(z_grad, first, window, B, N, TOKENS, DEPTH)
        tl.store(at, found.to(z_grad.dtype.element_ty), mask=inside)
    for first in range(0, V, DEPTH):
        feature = tiles.features_of(
            x, u, head, first, window, B, R, S, V, x_b, x_c, x_y, x_x, TOKENS, DEPTH
        )
        at = tiles.place(features, first, window, B, N, TOKENS, DEPTH)
        inside = tiles.within(first, V, N, TOKENS, DEPTH)
        tl.store(at, feature.to(features.dtype.element_ty), mask=inside)


KERNELS = {
    "project": project_kernel,
    "moments": moments_kernel,
    "convolve": convolve_kernel,
    "attend": attend_kernel,
    "attend_back": attend_back_kernel,
    "convolve_back": convolve_back_kernel,
    "unnorm": unnorm_kernel,
}
