"""Cascaded group attention of a window in one launch: EfficientViT's mixer (CVPR 2023, section 3).

    y = cascade(x, qkv, qkv_bias, conv, conv_bias, sizes, offsets)       # [B, C, R, S]

x is split into as many groups of channels as there are heads. A head takes its group and what the
head before it gave, f = x_h + f_(h-1):

    q, k, v = qkv_h f + qkv_bias_h        q = conv_h(q) + conv_bias_h      depthwise, in the window
    f_h = softmax(q^T k / sqrt(D) + offsets_h[|dy| S + |dx|]) v              y_h = relu(f_h)

and the heads' y lie side by side, as the projection after them takes them. Batch norms are folded
into the weights. Windows of depthwise kernels stand in the middle of L x L, L the largest of them.

A program takes a window through all its heads; no q, k, v or N x N logits are ever written. It goes
through the channels of a head `DEPTH` at a time, so that its registers do not depend on their
number: it finds f_(h-1) where it will lie in y, and makes all heads' y positive at the end. The
rows of q that a depthwise kernel meets are gathered from registers. Gradients are recomputed by
PyTorch, in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from spacelang.backends.triton.launch import launches, operator, refusal, wide
from spacelang.backends.triton.mlp import product
from spacelang.backends.triton.resources import Build

TOKENS, DEEPEST = 64, 64  # of a window; channels of a key
OPTIONS = {"num_warps": 8, "num_stages": 1}  # a program reads what it writes: nothing read early
NAME = "cascade"
INTEGERS = ("H", "R", "S", "D", "V", "L", "x_b", "x_c", "x_y", "x_x")


def distances(rows: int, columns: int, device: torch.device) -> Tensor:
    """|dy| S + |dx| of every two tokens of a window R x S: [R S, R S]."""
    y = torch.arange(rows, device=device).repeat_interleave(columns)
    x = torch.arange(columns, device=device).repeat(rows)
    return (y[:, None] - y).abs() * columns + (x[:, None] - x).abs()


def reference(
    x: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor,
    conv: Tensor,
    conv_bias: Tensor,
    sizes: Tensor,
    offsets: Tensor,
) -> Tensor:
    """The same head by head, in float32."""
    rows, columns = x.shape[2:]
    d, index = conv.shape[1], distances(rows, columns, x.device)
    feature, found = wide(x.new_zeros(())), list[Tensor]()
    for head, group in enumerate(wide(x).chunk(len(qkv), 1)):
        feature = feature + group
        z = functional.conv2d(feature, wide(qkv[head])[:, :, None, None], wide(qkv_bias[head]))
        q, k, v = z.split([d, d, z.shape[1] - 2 * d], 1)
        window, bias = wide(conv[head])[:, None], wide(conv_bias[head])
        q = functional.conv2d(q, window, bias, padding=conv.shape[2] // 2, groups=d)
        logits = q.flatten(2).transpose(1, 2) @ k.flatten(2) / d**0.5
        shares = (logits + wide(offsets[head])[index]).softmax(2)
        feature = (v.flatten(2) @ shares.transpose(1, 2)).unflatten(2, (rows, columns))
        found.append(feature.relu())
    return torch.cat(found, 1).to(x.dtype)


@triton.jit
def _projected(
    lines, x_c, before, N, there, weight, bias, first, count, V,
    TOKENS: tl.constexpr, SIZE: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`count` features from row `first` on of a head's qkv, [tokens, SIZE]; 0 beyond them.

    Of its group at `lines` and of what the head before it gave at `before`; `there` are its tokens,
    and those of the head before it.
    """
    row = tl.arange(0, SIZE)
    token, earlier = there
    offset = tl.load(bias + first + row, row < count, 0.0).to(tl.float32)
    total = tl.zeros((TOKENS, SIZE), tl.float32) + offset[None, :]
    for start in range(0, V, DEPTH):
        c = start + tl.arange(0, DEPTH)
        wanted = (c < V)[None, :]
        feature = tl.load(lines + c[None, :] * x_c, token & wanted, 0.0).to(tl.float32)
        feature += tl.load(before + c[None, :] * N, earlier & wanted, 0.0).to(tl.float32)
        at = weight + (first + row)[None, :] * V + c[:, None]
        w = tl.load(at, (row < count)[None, :] & (c < V)[:, None], 0.0)
        total += product(feature.to(w.dtype), w, PRECISION)
    return total


@triton.jit
def _convolved(q, conv, bias, size, first, D, L, R, S, TOKENS: tl.constexpr, KEY: tl.constexpr):
    """The depthwise convolution of q [tokens, KEY] over the window R x S, 0 around it."""
    token = tl.arange(0, TOKENS)
    y, i = token // S, token % S
    key = tl.arange(0, KEY)
    offset = tl.load(bias + first + key, key < D, 0.0).to(tl.float32)
    total = tl.zeros((TOKENS, KEY), tl.float32) + offset[None, :]
    for tap in range(size * size):
        down, right = tap // size - size // 2, tap % size - size // 2
        there = (y + down >= 0) & (y + down < R) & (i + right >= 0) & (i + right < S) & (y < R)
        source = tl.where(there, token + down * S + right, 0)
        rows = tl.gather(q, tl.broadcast_to(source[:, None], (TOKENS, KEY)), 0)
        at = ((first + key) * L + L // 2 + down) * L + L // 2 + right
        w = tl.load(conv + at, key < D, 0.0).to(tl.float32)
        total += tl.where(there[:, None], rows * w[None, :], 0.0)
    return total


@triton.jit(do_not_specialize=[*INTEGERS])
def _kernel(
    x, qkv, qkv_bias, conv, conv_bias, sizes, offsets, out,
    H, R, S, D, V, L, x_b, x_c, x_y, x_x,
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
    for head in range(H):
        group, before = lines + head * V * x_c, result + (head - 1) * V * N
        weight, bias = qkv + head * (2 * D + V) * V, qkv_bias + head * (2 * D + V)
        there = (inside, inside & (head > 0))
        tl.debug_barrier()  # what is read of the head before was written by other threads
        q = _projected(
            group, x_c, before, N, there, weight, bias, 0, D, V, TOKENS, KEY, DEPTH, PRECISION
        )
        size = tl.maximum(0, tl.minimum(tl.load(sizes + head), L))  # nothing is read beyond
        q = _convolved(q, conv, conv_bias, size, head * D, D, L, R, S, TOKENS, KEY)
        k = _projected(
            group, x_c, before, N, there, weight, bias, D, D, V, TOKENS, KEY, DEPTH, PRECISION
        )
        logits = product(q.to(kind), tl.trans(k).to(kind), PRECISION) * tl.rsqrt(D.to(tl.float32))
        place = tl.abs(y[:, None] - y[None, :]) * S + tl.abs(i[:, None] - i[None, :])
        logits += tl.load(offsets + head * N + place, inside & seen, 0.0).to(tl.float32)
        logits = tl.where(seen, logits, -float("inf"))
        share = tl.exp(logits - tl.max(logits, 1)[:, None])
        share = share / tl.sum(share, 1)[:, None]
        for start in range(0, V, DEPTH):
            v = _projected(
                group, x_c, before, N, there, weight, bias, 2 * D + start, V - start, V,
                TOKENS, DEPTH, DEPTH, PRECISION,
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


def unable(
    x: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor,
    conv: Tensor,
    conv_bias: Tensor,
    sizes: Tensor,
    offsets: Tensor,
) -> str:
    """Why the kernel cannot take these operands; empty if it can."""
    if x.ndim != 4 or qkv.ndim != 3 or conv.ndim != 4 or not len(qkv) or x.shape[1] % len(qkv):
        return "it takes [B, C, R, S], C a multiple of the heads"
    heads, d, value, n = len(qkv), conv.shape[1], qkv.shape[2], x.shape[2] * x.shape[3]
    if value != x.shape[1] // heads or qkv.shape[1] != 2 * d + value:
        return "a head's values are not as wide as its group"
    if conv.shape != (heads, d, conv.shape[2], conv.shape[2]) or not conv.shape[2] % 2:
        return "it takes depthwise kernels [heads, D, L, L], L odd"
    wanted = ((heads, 2 * d + value), (heads, d), (heads,), (heads, n))
    if (qkv_bias.shape, conv_bias.shape, sizes.shape, offsets.shape) != wanted:
        return "its biases, sizes or offsets are not of its heads"
    if not 1 <= n <= TOKENS or not 1 <= d <= DEEPEST or not value:
        return f"its window has not 1 to {TOKENS} tokens, or its keys not 1 to {DEEPEST} channels"
    if sizes.dtype != torch.int32 or sizes.device != x.device:
        return "it takes the sizes of its kernels as int32 beside its input"
    if qkv.dtype != x.dtype:
        return "its input and its weights are of different types"
    reach = sum((s - 1) * abs(t) for s, t in zip(x.shape[1:], x.stride()[1:], strict=True))
    if reach >= 2**31:
        return "the channels of a window lie too far apart"
    return refusal(x, qkv, qkv_bias, conv, conv_bias, offsets)


def _tile(tokens: int, d: int, value: int, dtype: torch.dtype) -> dict[str, int | str]:
    """What a variant is made for: sizes padded to powers of two."""
    return {
        "TOKENS": max(16, triton.next_power_of_2(tokens)),
        "KEY": max(16, triton.next_power_of_2(d)),
        "DEPTH": 16 if value <= 16 or dtype == torch.float32 else 32,
        "PRECISION": "ieee",
    }


@operator("cascade", NAME)
def _op(
    x: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor,
    conv: Tensor,
    conv_bias: Tensor,
    sizes: Tensor,
    offsets: Tensor,
) -> Tensor:
    """The heads' rectified outputs [B, C, R, S], contiguous."""
    operands = (x, qkv, qkv_bias, conv, conv_bias, sizes, offsets)
    if not launches(NAME, unable(*operands)):
        return reference(*operands).contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if len(out):
        _, _, rows, columns = x.shape
        heads, d, value = len(qkv), conv.shape[1], qkv.shape[2]
        _kernel[(len(x),)](
            x, *(part.contiguous() for part in operands[1:]), out,
            heads, rows, columns, d, value, conv.shape[2], *x.stride(),
            **_tile(rows * columns, d, value, x.dtype), **OPTIONS,
        )  # fmt: skip
    return out


@torch.library.custom_op("spacelang::cascade_backward", mutates_args=())
def _backward_op(
    gradients: Tensor,
    x: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor,
    conv: Tensor,
    conv_bias: Tensor,
    sizes: Tensor,
    offsets: Tensor,
) -> list[Tensor]:
    """Gradients of all but the sizes, recomputed by PyTorch in float32."""

    def again(*parts: Tensor) -> Tensor:
        return reference(*parts[:5], sizes, parts[5])

    _, pulled = torch.func.vjp(again, x, qkv, qkv_bias, conv, conv_bias, offsets)
    return [part.clone(memory_format=torch.contiguous_format) for part in pulled(gradients)]


@_op.register_fake
def _(
    x: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor,
    conv: Tensor,
    conv_bias: Tensor,
    sizes: Tensor,
    offsets: Tensor,
) -> Tensor:
    return x.new_empty(x.shape)


@_backward_op.register_fake
def _(
    gradients: Tensor,
    x: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor,
    conv: Tensor,
    conv_bias: Tensor,
    sizes: Tensor,
    offsets: Tensor,
) -> list[Tensor]:
    return [part.new_empty(part.shape) for part in (x, qkv, qkv_bias, conv, conv_bias, offsets)]


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, gradients):
    *found, offsets = _backward_op(gradients, *ctx.saved_tensors)
    return (*found, None, offsets)


_op.register_autograd(_backward, setup_context=_setup)


def cascade(
    x: Tensor,
    qkv: Tensor,
    qkv_bias: Tensor,
    conv: Tensor,
    conv_bias: Tensor,
    sizes: Tensor,
    offsets: Tensor,
) -> Tensor:
    """The heads' rectified outputs [B, H V, R, S] of windows x [B, H V, R, S].

    `qkv` [H, 2 D + V, V] with its bias; depthwise kernels `conv` [H, D, L, L] with theirs, whose
    middle `sizes` [H] (int32, odd) are not 0; `offsets` [H, R S] by the distance |dy| S + |dx|.
    """
    return _op(x, qkv, qkv_bias, conv, conv_bias, sizes, offsets)


def _builds() -> tuple[Build, ...]:
    """EfficientViT's windows of 7 x 7 and 4 x 4, heads of 16 and of more channels."""
    names = ("x", "qkv", "qkv_bias", "conv", "conv_bias", "sizes", "offsets", "out")
    found: list[Build] = []
    for kind, tokens, value in (
        ("fp16", 49, 16), ("fp16", 49, 64), ("fp16", 16, 112), ("fp32", 49, 64),
    ):  # fmt: skip
        types = {**dict.fromkeys(names, f"*{kind}"), "sizes": "*i32"}
        types |= dict.fromkeys(INTEGERS, "i32")
        tile = _tile(tokens, 16, value, torch.float16 if kind == "fp16" else torch.float32)
        name = f"cascade[{tokens} {value} {kind}]"
        found.append(Build(name, _kernel, types, tile, OPTIONS))
    return tuple(found)


BUILDS = _builds()
