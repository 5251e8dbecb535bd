"""The kernel of a cascade of heads (see `cascade`): a program takes a window through them all."""

from __future__ import annotations

import triton
import triton.language as tl

from spacelang.backends.triton.mlp import product
from spacelang.backends.triton.norm import factors

# Of each head: its depthwise windows, and how its weights lie (`cascade.layout`). Not tuples, of
# which Triton makes a variant by the values of numbers, and by whether a pointer is at 16 bytes,
# where the middle of a larger window is not.
CONVS = tuple(f"conv{head}" for head in range(8))
LAYOUTS = tuple(f"layout{head}" for head in range(8))
INTEGERS = ("H", "R", "S", "D", "V", "x_b", "x_c", "x_y", "x_x", *LAYOUTS)


@triton.jit
def _picked(parts, head):
    """The pointer or number of a head, which is known at run time alone."""
    found = parts[0]
    for place in tl.static_range(1, len(parts)):
        found = tl.where(head == place, parts[place], found)
    return found


@triton.jit
def _norm(parts, head):
    """The vectors of a head's norm."""
    mean, variance = _picked(parts[0], head), _picked(parts[1], head)
    return mean, variance, _picked(parts[2], head), _picked(parts[3], head)


@triton.jit
def _projected(
    lines, x_c, before, N, there, weight, w_f, norm, eps, first, count, V,
    TOKENS: tl.constexpr, SIZE: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`count` features from row `first` on of a head's qkv, normed, [tokens, SIZE]; 0 beyond them.

    Of its group at `lines` and of what the head before it gave at `before`; `there` are its tokens,
    and those of the head before it.
    """
    row = tl.arange(0, SIZE)
    token, earlier = there
    kind = lines.dtype.element_ty
    total = tl.zeros((TOKENS, SIZE), tl.float32)
    for start in range(0, V, DEPTH):
        c = start + tl.arange(0, DEPTH)
        wanted = (c < V)[None, :]
        feature = tl.load(lines + c[None, :] * x_c, token & wanted, 0.0).to(tl.float32)
        feature += tl.load(before + c[None, :] * N, earlier & wanted, 0.0).to(tl.float32)
        at = weight + (first + row)[None, :] * w_f + c[:, None]
        w = tl.load(at, (row < count)[None, :] & (c < V)[:, None], 0.0)
        total += product(feature.to(kind), w.to(kind), PRECISION)
    return _normed(total, norm, first + row, row < count, eps)


@triton.jit
def _normed(z, norm, channel, there, eps):
    """Channels of z [tokens, channels], normed; 0 beyond them, as z is."""
    mean, variance, scale, shift = norm
    centre, rate, factor, offset = factors(mean, variance, scale, shift, channel, there, eps)
    return (z - centre[None, :]) * (rate * factor)[None, :] + offset[None, :]


@triton.jit
def tap_of(conv, key, D, tap, size, stored):
    """A tap of each window [D, size, size], cut out of larger ones of the side `stored`."""
    at = (key * stored + tap // size) * stored + tap % size
    return tl.load(conv + at, key < D, 0.0)


@triton.jit
def _convolved(q, conv, norm, eps, half, stored, D, R, S, TOKENS: tl.constexpr, KEY: tl.constexpr):
    """The depthwise convolution of q [tokens, KEY] over the window R x S, 0 around it, normed."""
    token = tl.arange(0, TOKENS)
    y, i = token // S, token % S
    key = tl.arange(0, KEY)
    size = 2 * half + 1
    total = tl.zeros((TOKENS, KEY), tl.float32)
    for tap in range(size * size):
        down, right = tap // size - half, tap % size - half
        there = (y + down >= 0) & (y + down < R) & (i + right >= 0) & (i + right < S) & (y < R)
        source = tl.where(there, token + down * S + right, 0)
        rows = tl.gather(q, tl.broadcast_to(source[:, None], (TOKENS, KEY)), 0)
        w = tap_of(conv, key, D, tap, size, stored).to(tl.float32)
        total += tl.where(there[:, None], rows * w[None, :], 0.0)
    return _normed(total, norm, key, key < D, eps)


@triton.jit(do_not_specialize=[*INTEGERS], do_not_specialize_on_alignment=[*CONVS])
def _kernel(
    x, qkvs, qkv_norms, conv_norms, conv0, conv1, conv2, conv3, conv4, conv5, conv6, conv7,
    offsets, out, eps, H, R, S, D, V, x_b, x_c, x_y, x_x,
    layout0, layout1, layout2, layout3, layout4, layout5, layout6, layout7,
    TOKENS: tl.constexpr, KEY: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    window = tl.program_id(0).to(tl.int64)
    kind = x.dtype.element_ty
    N = R * S
    token = tl.arange(0, TOKENS)
    inside = (token < N)[:, None]
    seen = (token < N)[None, :]
    y, i = token // S, token % S
    lines = x + window * x_b + (y * x_y + i * x_x)[:, None]
    result = out + window * (H * V) * N + token[:, None]
    convs = (conv0, conv1, conv2, conv3, conv4, conv5, conv6, conv7)
    layouts = (layout0, layout1, layout2, layout3, layout4, layout5, layout6, layout7)
    for head in range(H):
        group, before = lines + head * V * x_c, result + (head - 1) * V * N
        weight, norm = _picked(qkvs, head), _norm(qkv_norms, head)
        layout = _picked(layouts, head)
        half, stored, w_f = layout & 7, 2 * ((layout >> 3) & 7) + 1, layout >> 6
        there = (inside, inside & (head > 0))
        tl.debug_barrier()  # what is read of the head before was written by other threads
        q = _projected(
            group, x_c, before, N, there, weight, w_f, norm, eps, 0, D, V,
            TOKENS, KEY, DEPTH, PRECISION,
        )  # fmt: skip
        conv, conv_norm = _picked(convs, head), _norm(conv_norms, head)
        q = _convolved(q, conv, conv_norm, eps, half, stored, D, R, S, TOKENS, KEY)
        k = _projected(
            group, x_c, before, N, there, weight, w_f, norm, eps, D, D, V,
            TOKENS, KEY, DEPTH, PRECISION,
        )  # fmt: skip
        logits = product(q.to(kind), tl.trans(k).to(kind), PRECISION) * tl.rsqrt(D.to(tl.float32))
        place = tl.abs(y[:, None] - y[None, :]) * S + tl.abs(i[:, None] - i[None, :])
        logits += tl.load(offsets + head * N + place, inside & seen, 0.0).to(tl.float32)
        logits = tl.where(seen, logits, -float("inf"))
        share = tl.exp(logits - tl.max(logits, 1)[:, None])
        share = share / tl.sum(share, 1)[:, None]
        for start in range(0, V, DEPTH):
            v = _projected(
                group, x_c, before, N, there, weight, w_f, norm, eps,
                2 * D + start, V - start, V, TOKENS, DEPTH, DEPTH, PRECISION,
            )  # fmt: skip
            feature = product(share.to(kind), v.to(kind), PRECISION)
            c = (start + tl.arange(0, DEPTH))[None, :]
            at = result + (head * V + c) * N
            tl.store(at, feature.to(out.dtype.element_ty), mask=inside & (c < V))
    tl.debug_barrier()
    for start in range(0, H * V, DEPTH):
        c = (start + tl.arange(0, DEPTH))[None, :]
        mask = inside & (c < H * V)
        feature = tl.load(result + c * N, mask, 0.0)
        tl.store(result + c * N, tl.where(feature < 0, 0.0, feature).to(feature.dtype), mask=mask)
