"""Cascaded group attention of a window in one launch: EfficientViT's mixer (CVPR 2023).

    y = cascade(x, heads, offsets)                                       # [B, C, R, S]

x is split into as many groups of channels as there are heads. A head takes its group and what the
head before it gave, f = x_h + f_(h-1):

    q, k, v = norm(qkv_h f)        q = norm(conv_h(q))                     depthwise, in the window
    f_h = softmax(q^T k / sqrt(D) + offsets_h[|dy| S + |dx|]) v              y_h = relu(f_h)

and the heads' y lie side by side, as the projection after them takes them. Norms are those of
evaluation.

A program takes a window through all its heads; no q, k, v or N x N logits are ever written. It goes
through the channels of a head `DEPTH` at a time, so that its registers do not depend on their
number: it finds f_(h-1) where it will lie in y, and makes all heads' y positive at the end. The
rows of q that a depthwise kernel meets are gathered from registers. Gradients are recomputed by
PyTorch, in float32.

Each head's weights and norms lie somewhere else: they are given as pointers, and a program picks
those of the head that it has come to. Slices of channels, and windows that are the middle of larger
ones, are read where they lie. So nothing is folded, stacked or copied before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.nn import functional

from spacelang.backends.triton.cascade_kernels import CONVS, INTEGERS, LAYOUTS, _kernel
from spacelang.backends.triton.launch import (
    differentiable,
    launches,
    operator,
    refusal,
    unmixed,
    wide,
)
from spacelang.backends.triton.norm import Norm, normed
from spacelang.backends.triton.resources import Build

TOKENS, DEEPEST = 64, 64  # of a window; channels of a key
HEADS, WIDEST = 8, 15  # of a cascade; a depthwise kernel, of which half is a digit of three bits
FARTHEST = 2**25  # between rows of a projection
HIP = torch.version.hip is not None
NAME = "cascade"
PARTS = 10  # tensors of a head
LEARNT = (0, 3, 4, 5, 8, 9)  # of them, what has a gradient: weights, scales, shifts


class Head(NamedTuple):
    """Of a head: the projection [2 D + V, V] and the convolution [D, K, K], normed."""

    qkv: Tensor
    qkv_norm: Norm
    conv: Tensor
    conv_norm: Norm

    @property
    def parts(self) -> list[Tensor]:
        """The tensors that it is made of, `PARTS`."""
        return [self.qkv, *self.qkv_norm.parts, self.conv, *self.conv_norm.parts]


def options(hip: bool) -> dict[str, int]:
    """Warps with which registers suffice; those of AMD are twice as wide.

    One stage: a program reads what it writes, so nothing is read early.
    """
    return {"num_warps": 4 if hip else 8, "num_stages": 1}


def distances(rows: int, columns: int, device: torch.device) -> Tensor:
    """|dy| S + |dx| of every two tokens of a window R x S: [R S, R S]."""
    y = torch.arange(rows, device=device).repeat_interleave(columns)
    x = torch.arange(columns, device=device).repeat(rows)
    return (y[:, None] - y).abs() * columns + (x[:, None] - x).abs()


def _by_head(parts: Sequence[Tensor]) -> list[list[Tensor]]:
    """The parts of each head."""
    return [list(parts[first : first + PARTS]) for first in range(0, len(parts), PARTS)]


def reference(x: Tensor, parts: Sequence[Tensor], offsets: Tensor, eps: float) -> Tensor:
    """The same head by head, in float32; weights are taken in the type of x."""
    rows, columns = x.shape[2:]
    index, heads = distances(rows, columns, x.device), _by_head(parts)
    feature, found = wide(x.new_zeros(())), list[Tensor]()
    for group, bias, head in zip(wide(x).chunk(len(heads), 1), wide(offsets), heads, strict=True):
        weight, window = (wide(head[place].to(x.dtype)) for place in (0, 5))
        d, reach = len(window), window.shape[1] // 2
        z = functional.conv2d(feature + group, weight[:, :, None, None])
        q, k, v = normed(z, head[1:5], eps).split([d, d, len(weight) - 2 * d], 1)
        q = functional.conv2d(q, window[:, None], padding=reach, groups=d)
        q = normed(q, head[6:], eps).flatten(2)
        shares = (q.transpose(1, 2) @ k.flatten(2) / d**0.5 + bias[index]).softmax(2)
        feature = (v.flatten(2) @ shares.transpose(1, 2)).unflatten(2, (rows, columns))
        found.append(feature.relu())
    return torch.cat(found, 1).to(x.dtype)


def unable(x: Tensor, parts: Sequence[Tensor], offsets: Tensor) -> str:
    """Why the kernel cannot take these operands; empty if it can."""
    heads = _by_head(parts)
    if x.ndim != 4 or not heads or len(parts) % PARTS or x.shape[1] % len(heads):
        return "it takes [B, C, R, S], C a multiple of the heads"
    if len(heads) > HEADS:
        return f"it has more than {HEADS} heads"
    value, n, d = x.shape[1] // len(heads), x.shape[2:].numel(), len(heads[0][5])
    if offsets.shape != (len(heads), n):
        return "its offsets are not of its heads"
    for qkv, *norm, conv, a, b, c, e in heads:
        if qkv.shape != (2 * d + value, value) or any(p.shape != qkv.shape[:1] for p in norm):
            return "a head's values are not as wide as its group"
        if conv.shape != (d, *conv.shape[-1:] * 2) or any(p.shape != (d,) for p in (a, b, c, e)):
            return "it takes depthwise kernels [D, K, K], and norms of them"
        if conv.shape[1] % 2 == 0 or conv.shape[1] > WIDEST:
            return f"a depthwise kernel is even, or larger than {WIDEST}"
    if not 1 <= n <= TOKENS or not 1 <= d <= DEEPEST or not value:
        return f"its window has not 1 to {TOKENS} tokens, or its keys not 1 to {DEEPEST} channels"
    if any(len({head[place].dtype for head in heads}) > 1 for place in range(PARTS)):
        return "its heads are of different types"
    reach = sum((s - 1) * abs(t) for s, t in zip(x.shape[1:], x.stride()[1:], strict=True))
    wide = max((2 * d + value) * max(head[0].stride()) for head in heads)
    if max(reach, wide) >= 2**31:
        return "the channels of a window, or of a weight, lie too far apart"
    return refusal(x, *parts, offsets)


def _tile(tokens: int, d: int, value: int, dtype: torch.dtype) -> dict[str, int | str]:
    """What a variant is made for: sizes padded to powers of two."""
    return {
        "TOKENS": max(16, triton.next_power_of_2(tokens)),
        "KEY": max(16, triton.next_power_of_2(d)),
        "DEPTH": 16 if value <= 16 or dtype == torch.float32 else 32,
        "PRECISION": "ieee",
    }


def in_rows(qkv: Tensor) -> Tensor:
    """A projection whose channels lie side by side: itself, if it is a slice of one."""
    return qkv if qkv.stride(1) == 1 and 0 <= qkv.stride(0) < FARTHEST else qkv.contiguous()


def in_windows(conv: Tensor) -> Tensor:
    """Depthwise windows [D, K, K] that are dense, or cut out of larger ones that are."""
    side = conv.stride(1)
    cut = conv.stride() == (side * side, side, 1) and side % 2 == 1 and side <= WIDEST
    return conv if cut else conv.clone(memory_format=torch.contiguous_format)


def layout(qkv: Tensor, conv: Tensor) -> int:
    """Half the side of windows, half that of those they are cut out of, the step between rows."""
    return conv.shape[1] // 2 | conv.stride(1) // 2 << 3 | qkv.stride(0) << 6


def _operands(heads: Sequence[Sequence[Tensor]]) -> dict[str, Any]:
    """The parts of all heads by the kernel's names; where there is no head, those of the first."""
    dense = {place: Tensor.contiguous for place in range(PARTS)} | {0: in_rows, 5: in_windows}
    parts = [[dense[place](head[place]) for head in heads] for place in range(PARTS)]
    qkvs, *norms = ([_aligned(x) for x in parts[place]] for place in (0, 1, 2, 3, 4, 6, 7, 8, 9))
    layouts = list(map(layout, qkvs, parts[5]))
    most = 4 if len(heads) <= 4 else HEADS
    pointers = [(*each, *each[:1] * (most - len(each))) for each in (qkvs, *norms)]
    found: dict[str, Any] = {
        "qkvs": pointers[0], "qkv_norms": tuple(pointers[1:5]), "conv_norms": tuple(pointers[5:])
    }  # fmt: skip
    for names, each in ((CONVS, parts[5]), (LAYOUTS, layouts)):
        found |= dict(zip(names, [*each, *each[:1] * HEADS], strict=False))
    return found


def _aligned(x: Tensor) -> Tensor:
    """At 16 bytes: no variant is made for what is not, which a slice from its start is."""
    return x if x.data_ptr() % 16 == 0 else x.clone(memory_format=torch.contiguous_format)


@operator("cascade", NAME)
def _op(x: Tensor, parts: list[Tensor], offsets: Tensor, eps: float) -> Tensor:
    """The heads' rectified outputs [B, C, R, S], contiguous."""
    if not launches(NAME, unable(x, parts, offsets)):
        return reference(x, parts, offsets, eps).contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if len(out):
        heads = _by_head(parts)
        value, d = heads[0][0].shape[1], len(heads[0][5])
        sizes = (len(heads), *x.shape[2:], d, value, *x.stride())
        _kernel[(len(x),)](
            x=x, offsets=offsets.contiguous(), out=out, eps=eps,
            **dict(zip(INTEGERS, sizes, strict=False)), **_operands(heads),
            **_tile(x.shape[2:].numel(), d, value, x.dtype), **options(HIP),
        )  # fmt: skip
    return out


@torch.library.custom_op("spacelang::cascade_backward", mutates_args=())
def _backward_op(
    gradients: Tensor, x: Tensor, parts: list[Tensor], offsets: Tensor, eps: float
) -> list[Tensor]:
    """Gradients of x, of what each head has learnt, and of offsets, recomputed by PyTorch."""
    learnt = _learnt(parts)

    def again(x: Tensor, offsets: Tensor, *given: Tensor) -> Tensor:
        rest = iter(given)
        now = [next(rest) if i % PARTS in LEARNT else part for i, part in enumerate(parts)]
        return reference(x, now, offsets, eps)

    with unmixed(x):
        _, pulled = torch.func.vjp(again, x, offsets, *learnt)
        return [part.clone(memory_format=torch.contiguous_format) for part in pulled(gradients)]


def _learnt(parts: Sequence[Tensor]) -> list[Tensor]:
    return [part for place, part in enumerate(parts) if place % PARTS in LEARNT]


@_op.register_fake
def _(x: Tensor, parts: list[Tensor], offsets: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape)


@_backward_op.register_fake
def _(
    gradients: Tensor, x: Tensor, parts: list[Tensor], offsets: Tensor, eps: float
) -> list[Tensor]:
    return [part.new_empty(part.shape) for part in (x, offsets, *_learnt(parts))]


def _setup(ctx, inputs, output):
    x, parts, offsets, ctx.eps = inputs
    ctx.save_for_backward(x, offsets, *parts)


def _backward(ctx, gradients):
    x, offsets, *parts = ctx.saved_tensors
    back, moved, *found = _backward_op(gradients, x, parts, offsets, ctx.eps)
    rest = iter(found)
    slopes = [next(rest) if place % PARTS in LEARNT else None for place in range(len(parts))]
    return back, slopes, moved, None


differentiable(_op, _setup, _backward)


def cascade(x: Tensor, heads: Sequence[Head], offsets: Tensor) -> Tensor:
    """The heads' rectified outputs [B, H V, R, S] of windows x [B, H V, R, S].

    `offsets` [H, R S] by the distance |dy| S + |dx|. Weights are taken in the type of x; all norms
    have the same eps.
    """
    rates = {norm.eps for head in heads for norm in (head.qkv_norm, head.conv_norm)}
    if len(rates) != 1:
        raise ValueError("a cascade takes one head or more, and norms of the same eps")
    return _op(x, [part for head in heads for part in head.parts], offsets, rates.pop())


def _builds() -> tuple[Build, ...]:
    """EfficientViT's windows of 7 x 7 and 4 x 4, heads of 16 and of more channels.

    In bfloat16 weights and norms are float32, as automatic mixed precision has them.
    """
    found: list[Build] = []
    for kind, tokens, value in (
        ("fp16", 49, 16), ("bf16", 49, 64), ("fp16", 16, 112), ("fp32", 49, 64),
    ):  # fmt: skip
        one = ("*fp32" if kind == "bf16" else f"*{kind}",) * 4
        types = {
            **dict.fromkeys(("x", "out"), f"*{kind}"), "offsets": one[0], "qkvs": one,
            **dict.fromkeys(CONVS, one[0]), "qkv_norms": (one,) * 4, "conv_norms": (one,) * 4,
            "eps": "fp32", **dict.fromkeys(INTEGERS, "i32"),
        }  # fmt: skip
        tile = _tile(tokens, 16, value, torch.float32 if kind == "fp32" else torch.float16)
        name = f"cascade[{tokens} {value} {kind}]"
        told = {"shallow": int(value <= 16), "few heads": 1}
        found.append(Build(name, _kernel, types, tile, options(False), options(True), told=told))
    return tuple(found)


BUILDS = _builds()
