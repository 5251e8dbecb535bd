"""Tiles of a cascade in training: what its kernels read, norm and write of a window.

Between kernels channels lie outermost, [C, B, N] of C channels, B windows and N tokens: so products
over all windows need no copy. `norm` is [5, C] of a batch norm, in float32: mean, variance,
1 / sqrt(variance + eps), and the scale and shift that come of them. What a program finds for its
window stands in `parts` [B, 2, C], and is added up in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from spacelang.backends.triton.mlp import product


@triton.jit
def place(x, first, window, B, N, TOKENS: tl.constexpr, SIZE: tl.constexpr):
    """Where SIZE channels from `first` on of a window of x [C, B, N] are: [TOKENS, SIZE]."""
    start = x + (tl.cast(first, tl.int64) * B + window) * N
    return start + tl.arange(0, SIZE)[None, :] * (B * N) + tl.arange(0, TOKENS)[:, None]


@triton.jit
def within(first, count, N, TOKENS: tl.constexpr, SIZE: tl.constexpr):
    """Which of them there are: N tokens, and channels up to `count`."""
    channel = (first + tl.arange(0, SIZE))[None, :]
    return (tl.arange(0, TOKENS)[:, None] < N) & (channel < count)


@triton.jit
def line(norm, row, first, count, C, SIZE: tl.constexpr):
    """A row of a norm [.., C], of SIZE channels from `first` on."""
    channel = first + tl.arange(0, SIZE)
    return tl.load(norm + row * C + channel, mask=channel < count, other=0.0)[None, :]


@triton.jit
def centred(z, norm, first, count, window, B, N, C, TOKENS: tl.constexpr, SIZE: tl.constexpr):
    """Channels of z [C, B, N] less their means, over their deviations; 0 beyond them."""
    inside = within(first, count, N, TOKENS, SIZE)
    x = tl.load(place(z, first, window, B, N, TOKENS, SIZE), inside, 0.0).to(tl.float32)
    mean, scale = line(norm, 0, first, count, C, SIZE), line(norm, 2, first, count, C, SIZE)
    return tl.where(inside, (x - mean) * scale, 0.0)


@triton.jit
def normed(z, norm, first, count, window, B, N, C, TOKENS: tl.constexpr, SIZE: tl.constexpr):
    """Channels of z [C, B, N], normed; 0 beyond them."""
    inside = within(first, count, N, TOKENS, SIZE)
    x = tl.load(place(z, first, window, B, N, TOKENS, SIZE), inside, 0.0).to(tl.float32)
    scale, shift = line(norm, 3, first, count, C, SIZE), line(norm, 4, first, count, C, SIZE)
    return tl.where(inside, x * scale + shift, 0.0)


@triton.jit
def unnormed(
    y_grad, centred, norm, sums, first, count, B, N, C, TOKENS: tl.constexpr, SIZE: tl.constexpr
):
    """The gradient of what a norm was given, from that of its result and its sums [2, C]."""
    mean = line(sums, 0, first, count, C, SIZE) / (B * N)
    slope = line(sums, 1, first, count, C, SIZE) / (B * N)
    found = (y_grad - mean - centred * slope) * line(norm, 3, first, count, C, SIZE)
    return tl.where(within(first, count, N, TOKENS, SIZE), found, 0.0)


@triton.jit
def store_parts(parts, first_sum, second_sum, first, count, window, C, SIZE: tl.constexpr):
    """Two sums of each channel of a window."""
    channel = first + tl.arange(0, SIZE)
    at = parts + window * 2 * C + channel
    tl.store(at, first_sum, mask=channel < count)
    tl.store(at + C, second_sum, mask=channel < count)


@triton.jit
def store_moments(parts, tile, inside, first, count, window, N, C, SIZE: tl.constexpr):
    """The mean of each channel of a window, and the sum of squares of what is left."""
    mean = tl.sum(tile, 0) / N
    rest = tl.where(inside, tile - mean[None, :], 0.0)
    store_parts(parts, mean, tl.sum(rest * rest, 0), first, count, window, C, SIZE)


@triton.jit
def features_of(
    x, u, head, first, window, B, R, S, V, x_b, x_c, x_y, x_x,
    TOKENS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """What a head takes: its group of x, and what the head before it gave, u [H, V, B, N]."""
    N = R * S
    token = tl.arange(0, TOKENS)[:, None]
    inside = within(first, V, N, TOKENS, SIZE)
    at = x + window * x_b + tl.cast(head * V + first, tl.int64) * x_c
    at += tl.arange(0, SIZE)[None, :] * x_c + (token // S) * x_y + (token % S) * x_x
    found = tl.load(at, inside, 0.0).to(tl.float32)
    before = place(u, (head - 1) * V + first, window, B, N, TOKENS, SIZE)
    return found + tl.load(before, inside & (head > 0), 0.0).to(tl.float32)


@triton.jit
def shifted(tile, down, right, R, S, TOKENS: tl.constexpr, SIZE: tl.constexpr):
    """A tile whose rows are the tokens so far down and right; 0 outside of the window."""
    token = tl.arange(0, TOKENS)
    y, i = token // S, token % S
    there = (y + down >= 0) & (y + down < R) & (i + right >= 0) & (i + right < S) & (y < R)
    source = tl.where(there, token + down * S + right, 0)
    rows = tl.gather(tile, tl.broadcast_to(source[:, None], (TOKENS, SIZE)), 0)
    return tl.where(there[:, None], rows, 0.0)


@triton.jit
def distances(S, TOKENS: tl.constexpr):
    """|dy| S + |dx| of every two tokens."""
    y, i = tl.arange(0, TOKENS) // S, tl.arange(0, TOKENS) % S
    return tl.abs(y[:, None] - y[None, :]) * S + tl.abs(i[:, None] - i[None, :])


@triton.jit
def shares(
    z, norm, c, conv_norm, offsets, head, window, B, R, S, D, V,
    TOKENS: tl.constexpr, KEY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Queries and keys of a window, normed, and what each query takes of each token."""
    N = R * S
    t = normed(c, conv_norm, 0, D, window, B, N, D, TOKENS, KEY)
    k = normed(from_channel(z, D, B, N), norm + D, 0, D, window, B, N, 2 * D + V, TOKENS, KEY)
    kind = z.dtype.element_ty
    token = tl.arange(0, TOKENS)
    logits = product(t.to(kind), tl.trans(k).to(kind), PRECISION) * tl.rsqrt(D.to(tl.float32))
    seen = (token < N)[None, :]
    bias = tl.load(offsets + head * N + distances(S, TOKENS), (token < N)[:, None] & seen, 0.0)
    logits = tl.where(seen, logits + bias.to(tl.float32), -float("inf"))
    share = tl.exp(logits - tl.max(logits, 1)[:, None])
    return t, k, share / tl.sum(share, 1)[:, None]


@triton.jit
def from_channel(z, first, B, N):
    """Where a channel of z [C, B, N] begins."""
    return z + tl.cast(first, tl.int64) * B * N


@triton.jit
def give(
    y_grad, found, z, norm, parts, first, count, window, B, N, C,
    TOKENS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Store gradients of normed channels, and a window's sums of them: what a norm needs."""
    inside = within(first, count, N, TOKENS, SIZE)
    value = found.to(y_grad.dtype.element_ty)
    tl.store(place(y_grad, first, window, B, N, TOKENS, SIZE), value, mask=inside)
    slope = tl.where(inside, value.to(tl.float32), 0.0)
    rest = centred(z, norm, first, count, window, B, N, C, TOKENS, SIZE)
    share = tl.sum(slope * rest, 0)
    store_parts(parts, tl.sum(slope, 0), share, first, count, window, C, SIZE)
