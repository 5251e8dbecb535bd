"""Kernels of a cascade in training (see `cascade_training`): a program each window.

Between kernels channels lie outermost, [C, B, N] of C channels, B windows and N tokens: so products
over all windows need no copy. `norm` is [5, C] of a batch norm, in float32: mean, variance,
1 / sqrt(variance + eps), and the scale and shift that come of them. What a program finds for its
window stands in `parts` [B, 2, C], and is added up in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from spacelang.backends.triton.mlp import product

INTEGERS = (
    "head", "H", "B", "N", "R", "S", "D", "V", "L", "C", "SPLITS", "x_b", "x_c", "x_y", "x_x",
    "g_b", "g_c", "g_y", "g_x",
)  # fmt: skip
_KEPT = (*INTEGERS, "eps")  # no variant is made for their values


@triton.jit
def _at(x, first, window, B, N, TOKENS: tl.constexpr, SIZE: tl.constexpr):
    """Where SIZE channels from `first` on of a window of x [C, B, N] are: [TOKENS, SIZE]."""
    start = x + (tl.cast(first, tl.int64) * B + window) * N
    return start + tl.arange(0, SIZE)[None, :] * (B * N) + tl.arange(0, TOKENS)[:, None]


@triton.jit
def _inside(first, count, N, TOKENS: tl.constexpr, SIZE: tl.constexpr):
    """Which of them there are: N tokens, and channels up to `count`."""
    channel = (first + tl.arange(0, SIZE))[None, :]
    return (tl.arange(0, TOKENS)[:, None] < N) & (channel < count)


@triton.jit
def _row(norm, row, first, count, C, SIZE: tl.constexpr):
    """A row of a norm [.., C], of SIZE channels from `first` on."""
    channel = first + tl.arange(0, SIZE)
    return tl.load(norm + row * C + channel, mask=channel < count, other=0.0)[None, :]


@triton.jit
def _centred(z, norm, first, count, window, B, N, C, TOKENS: tl.constexpr, SIZE: tl.constexpr):
    """Channels of z [C, B, N] less their means, over their deviations; 0 beyond them."""
    inside = _inside(first, count, N, TOKENS, SIZE)
    x = tl.load(_at(z, first, window, B, N, TOKENS, SIZE), inside, 0.0).to(tl.float32)
    mean, scale = _row(norm, 0, first, count, C, SIZE), _row(norm, 2, first, count, C, SIZE)
    return tl.where(inside, (x - mean) * scale, 0.0)


@triton.jit
def _normed(z, norm, first, count, window, B, N, C, TOKENS: tl.constexpr, SIZE: tl.constexpr):
    """Channels of z [C, B, N], normed; 0 beyond them."""
    inside = _inside(first, count, N, TOKENS, SIZE)
    x = tl.load(_at(z, first, window, B, N, TOKENS, SIZE), inside, 0.0).to(tl.float32)
    scale, shift = _row(norm, 3, first, count, C, SIZE), _row(norm, 4, first, count, C, SIZE)
    return tl.where(inside, x * scale + shift, 0.0)


@triton.jit
def _unnormed(
    y_grad, centred, norm, sums, first, count, B, N, C, TOKENS: tl.constexpr, SIZE: tl.constexpr
):
    """The gradient of what a norm was given, from that of its result and its sums [2, C]."""
    mean = _row(sums, 0, first, count, C, SIZE) / (B * N)
    slope = _row(sums, 1, first, count, C, SIZE) / (B * N)
    found = (y_grad - mean - centred * slope) * _row(norm, 3, first, count, C, SIZE)
    return tl.where(_inside(first, count, N, TOKENS, SIZE), found, 0.0)


@triton.jit
def _store_parts(parts, first_sum, second_sum, first, count, window, C, SIZE: tl.constexpr):
    """Two sums of each channel of a window."""
    channel = first + tl.arange(0, SIZE)
    at = parts + window * 2 * C + channel
    tl.store(at, first_sum, mask=channel < count)
    tl.store(at + C, second_sum, mask=channel < count)


@triton.jit
def _store_moments(parts, tile, inside, first, count, window, N, C, SIZE: tl.constexpr):
    """The mean of each channel of a window, and the sum of squares of what is left."""
    mean = tl.sum(tile, 0) / N
    rest = tl.where(inside, tile - mean[None, :], 0.0)
    _store_parts(parts, mean, tl.sum(rest * rest, 0), first, count, window, C, SIZE)


@triton.jit
def _features(
    x, u, head, first, window, B, R, S, V, x_b, x_c, x_y, x_x,
    TOKENS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """What a head takes: its group of x, and what the head before it gave, u [H, V, B, N]."""
    N = R * S
    token = tl.arange(0, TOKENS)[:, None]
    inside = _inside(first, V, N, TOKENS, SIZE)
    at = x + window * x_b + tl.cast(head * V + first, tl.int64) * x_c
    at += tl.arange(0, SIZE)[None, :] * x_c + (token // S) * x_y + (token % S) * x_x
    found = tl.load(at, inside, 0.0).to(tl.float32)
    before = _at(u, (head - 1) * V + first, window, B, N, TOKENS, SIZE)
    return found + tl.load(before, inside & (head > 0), 0.0).to(tl.float32)


@triton.jit
def _shifted(tile, down, right, R, S, TOKENS: tl.constexpr, SIZE: tl.constexpr):
    """A tile whose rows are the tokens so far down and right; 0 outside of the window."""
    token = tl.arange(0, TOKENS)
    y, i = token // S, token % S
    there = (y + down >= 0) & (y + down < R) & (i + right >= 0) & (i + right < S) & (y < R)
    source = tl.where(there, token + down * S + right, 0)
    rows = tl.gather(tile, tl.broadcast_to(source[:, None], (TOKENS, SIZE)), 0)
    return tl.where(there[:, None], rows, 0.0)


@triton.jit(do_not_specialize=_KEPT)
def project_kernel(
    x, u, qkv, z, parts, head, B, R, S, D, V, x_b, x_c, x_y, x_x,
    TOKENS: tl.constexpr, KEY: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A head's projection of a window, z [C, B, N], and its moments."""
    window = tl.program_id(0).to(tl.int64)
    N, C = R * S, 2 * D + V
    for first in range(0, C, DEPTH):
        row = first + tl.arange(0, DEPTH)
        total = tl.zeros((TOKENS, DEPTH), tl.float32)
        for start in range(0, V, DEPTH):
            feature = _features(
                x, u, head, start, window, B, R, S, V, x_b, x_c, x_y, x_x, TOKENS, DEPTH
            )
            c = start + tl.arange(0, DEPTH)
            at = qkv + (head * C + row)[None, :] * V + c[:, None]
            w = tl.load(at, (row < C)[None, :] & (c < V)[:, None], 0.0)
            total += product(feature.to(w.dtype), w, PRECISION)
        value = total.to(z.dtype.element_ty)
        inside = _inside(first, C, N, TOKENS, DEPTH)
        tl.store(_at(z, first, window, B, N, TOKENS, DEPTH), value, mask=inside)
        _store_moments(parts, value.to(tl.float32), inside, first, C, window, N, C, DEPTH)


@triton.jit(do_not_specialize=_KEPT)
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


@triton.jit(do_not_specialize=_KEPT)
def convolve_kernel(
    z, norm, conv, c, parts, B, R, S, D, V, L,
    TOKENS: tl.constexpr, KEY: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The depthwise convolution of a window's normed queries, c [D, B, N], and its moments."""
    window = tl.program_id(0).to(tl.int64)
    N, key = R * S, tl.arange(0, KEY)
    q = _normed(z, norm, 0, D, window, B, N, 2 * D + V, TOKENS, KEY)
    total = tl.zeros((TOKENS, KEY), tl.float32)
    for tap in range(L * L):
        w = tl.load(conv + key * (L * L) + tap, key < D, 0.0).to(tl.float32)
        rows = _shifted(q, tap // L - L // 2, tap % L - L // 2, R, S, TOKENS, KEY)
        total += rows * w[None, :]
    value = total.to(c.dtype.element_ty)
    inside = _inside(0, D, N, TOKENS, KEY)
    tl.store(_at(c, 0, window, B, N, TOKENS, KEY), value, mask=inside)
    _store_moments(
        parts, tl.where(inside, value.to(tl.float32), 0.0), inside, 0, D, window, N, D, KEY
    )


@triton.jit
def _distances(S, TOKENS: tl.constexpr):
    """|dy| S + |dx| of every two tokens."""
    y, i = tl.arange(0, TOKENS) // S, tl.arange(0, TOKENS) % S
    return tl.abs(y[:, None] - y[None, :]) * S + tl.abs(i[:, None] - i[None, :])


@triton.jit
def _shares(
    z, norm, c, conv_norm, offsets, head, window, B, R, S, D, V,
    TOKENS: tl.constexpr, KEY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Queries and keys of a window, normed, and what each query takes of each token."""
    N = R * S
    t = _normed(c, conv_norm, 0, D, window, B, N, D, TOKENS, KEY)
    k = _normed(_at_channel(z, D, B, N), norm + D, 0, D, window, B, N, 2 * D + V, TOKENS, KEY)
    kind = z.dtype.element_ty
    token = tl.arange(0, TOKENS)
    logits = product(t.to(kind), tl.trans(k).to(kind), PRECISION) * tl.rsqrt(D.to(tl.float32))
    seen = (token < N)[None, :]
    bias = tl.load(offsets + head * N + _distances(S, TOKENS), (token < N)[:, None] & seen, 0.0)
    logits = tl.where(seen, logits + bias.to(tl.float32), -float("inf"))
    share = tl.exp(logits - tl.max(logits, 1)[:, None])
    return t, k, share / tl.sum(share, 1)[:, None]


@triton.jit
def _at_channel(z, first, B, N):
    """Where a channel of z [C, B, N] begins."""
    return z + tl.cast(first, tl.int64) * B * N


@triton.jit(do_not_specialize=_KEPT)
def attend_kernel(
    z, norm, c, conv_norm, offsets, u, out, head, H, B, R, S, D, V,
    TOKENS: tl.constexpr, KEY: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What a head gives for a window: u [H, V, B, N], and rectified in out [B, H V, N]."""
    window = tl.program_id(0).to(tl.int64)
    N, C = R * S, 2 * D + V
    kind = z.dtype.element_ty
    _, _, share = _shares(
        z, norm, c, conv_norm, offsets, head, window, B, R, S, D, V, TOKENS, KEY, PRECISION
    )
    for first in range(0, V, DEPTH):
        v = _normed(z, norm, 2 * D + first, C, window, B, N, C, TOKENS, DEPTH)
        value = product(share.to(kind), v.to(kind), PRECISION).to(kind)
        inside = _inside(first, V, N, TOKENS, DEPTH)
        tl.store(_at(u, head * V + first, window, B, N, TOKENS, DEPTH), value, mask=inside)
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
    t, k, share = _shares(
        z, norm, c, conv_norm, offsets, head, window, B, R, S, D, V, TOKENS, KEY, PRECISION
    )
    share = tl.where((token < N)[:, None], share, 0.0)
    share_grad = tl.zeros((TOKENS, TOKENS), tl.float32)
    for first in range(0, V, DEPTH):
        inside = _inside(first, V, N, TOKENS, DEPTH)
        channel = head * V + first
        gave = tl.load(_at(u, channel, window, B, N, TOKENS, DEPTH), inside, 0.0)
        at = g + window * g_b + channel.to(tl.int64) * g_c + tl.arange(0, DEPTH)[None, :] * g_c
        at += ((token // S) * g_y + (token % S) * g_x)[:, None]
        slope = tl.load(at, inside & (gave > 0), 0.0).to(tl.float32)
        at = _at(after, channel + V, window, B, N, TOKENS, DEPTH)
        slope += tl.load(at, inside & (head + 1 < H), 0.0).to(tl.float32)
        slope = slope.to(kind)
        v = _normed(z, norm, 2 * D + first, C, window, B, N, C, TOKENS, DEPTH).to(kind)
        share_grad += product(slope, tl.trans(v), PRECISION)
        v_grad = product(tl.trans(share).to(kind), slope, PRECISION)
        _give(y_grad, v_grad, z, norm, parts, 2 * D + first, C, window, B, N, C, TOKENS, DEPTH)
    s_grad = share * (share_grad - tl.sum(share * share_grad, 1)[:, None])
    place = _distances(S, TOKENS)
    for distance in range(0, N):
        found = tl.sum(tl.sum(tl.where(place == distance, s_grad, 0.0), 1), 0)
        tl.store(offset_parts + window * N + distance, found)
    s_grad = (s_grad * tl.rsqrt(D.to(tl.float32))).to(kind)
    k_grad = product(tl.trans(s_grad), t.to(kind), PRECISION)
    _give(
        _at_channel(y_grad, D, B, N), k_grad, _at_channel(z, D, B, N), norm + D, parts + D,
        0, D, window, B, N, C, TOKENS, KEY,
    )  # fmt: skip
    t_found = product(s_grad, k.to(kind), PRECISION)
    _give(t_grad, t_found, c, conv_norm, conv_parts, 0, D, window, B, N, D, TOKENS, KEY)


@triton.jit
def _give(
    y_grad, found, z, norm, parts, first, count, window, B, N, C,
    TOKENS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Store gradients of normed channels, and a window's sums of them: what a norm needs."""
    inside = _inside(first, count, N, TOKENS, SIZE)
    value = found.to(y_grad.dtype.element_ty)
    tl.store(_at(y_grad, first, window, B, N, TOKENS, SIZE), value, mask=inside)
    slope = tl.where(inside, value.to(tl.float32), 0.0)
    centred = _centred(z, norm, first, count, window, B, N, C, TOKENS, SIZE)
    share = tl.sum(slope * centred, 0)
    _store_parts(parts, tl.sum(slope, 0), share, first, count, window, C, SIZE)


@triton.jit(do_not_specialize=_KEPT)
def convolve_back_kernel(
    t_grad, sums, c, conv_norm, z, norm, conv, y_grad, parts, conv_grad,
    B, R, S, D, V, L, SPLITS,
    TOKENS: tl.constexpr, KEY: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Gradients of normed queries, and of the windows [SPLITS, D, L L] of a convolution."""
    N, C, key = R * S, 2 * D + V, tl.arange(0, KEY)
    taps = tl.arange(0, TAPS)[:, None]
    weights = tl.zeros((TAPS, KEY), tl.float32)
    split = tl.program_id(0)
    for number in range(split, B, SPLITS):
        window = tl.cast(number, tl.int64)
        inside = _inside(0, D, N, TOKENS, KEY)
        slope = tl.load(_at(t_grad, 0, window, B, N, TOKENS, KEY), inside, 0.0).to(tl.float32)
        centred = _centred(c, conv_norm, 0, D, window, B, N, D, TOKENS, KEY)
        c_grad = _unnormed(slope, centred, conv_norm, sums, 0, D, B, N, D, TOKENS, KEY)
        q = _normed(z, norm, 0, D, window, B, N, C, TOKENS, KEY)
        total = tl.zeros((TOKENS, KEY), tl.float32)
        for tap in range(L * L):
            down, right = tap // L - L // 2, tap % L - L // 2
            w = tl.load(conv + key * (L * L) + tap, key < D, 0.0).to(tl.float32)
            total += _shifted(c_grad, -down, -right, R, S, TOKENS, KEY) * w[None, :]
            share = tl.sum(c_grad * _shifted(q, down, right, R, S, TOKENS, KEY), 0)
            weights += tl.where(taps == tap, share[None, :], 0.0)
        _give(y_grad, total, z, norm, parts, 0, D, window, B, N, C, TOKENS, KEY)
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
        inside = _inside(first, C, N, TOKENS, DEPTH)
        at = _at(y_grad, first, window, B, N, TOKENS, DEPTH)
        slope = tl.load(at, inside, 0.0).to(tl.float32)
        centred = _centred(z, norm, first, C, window, B, N, C, TOKENS, DEPTH)
        found = _unnormed(slope, centred, norm, sums, first, C, B, N, C, TOKENS, DEPTH)
        at = _at(z_grad, first, window, B, N, TOKENS, DEPTH)
        tl.store(at, found.to(z_grad.dtype.element_ty), mask=inside)
    for first in range(0, V, DEPTH):
        feature = _features(
            x, u, head, first, window, B, R, S, V, x_b, x_c, x_y, x_x, TOKENS, DEPTH
        )
        at = _at(features, first, window, B, N, TOKENS, DEPTH)
        inside = _inside(first, V, N, TOKENS, DEPTH)
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
