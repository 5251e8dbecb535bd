"""Cascaded group attention in training: batch norms by the statistics of all windows together.

The cascade is that of `cascade`, with norms of the batch in place of its statistics:

    z = qkv_h (x_h + u_(h-1))       q, k, v = norm(z)       c = conv_h(q)       t = norm(c)
    u_h = softmax(t^T k / sqrt(D) + offsets_h[|dy| S + |dx|]) v                y_h = relu(u_h)

A norm needs its sums over all windows before one of them can go on, so a head cannot be less than
three launches: what makes z, what makes c, what makes u. Between them a small kernel makes a norm
of the moments of windows (means and squares around them, which cancel nothing): five launches a
head, and of a head z, c and u exist in memory, but no q, k, v, t or N x N maps.

Backward, from the last head to the first, with z, c, u and the norms kept:

    dt, dk, dv, dlogits       of a window, from du; their sums, and those times what was normed
    dc, then dq and dconv     dc = scale (dt - mean dt - c^ mean(dt c^))       c^ normed, not scaled
    dz, then dqkv = dz f^T and df = qkv^T dz, two products over all windows; df is part of du

Weights of heads are read where they lie, in any type. Every sum is in a fixed order: gradients are
the same at every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.nn import functional

from spacelang.backends.triton import cascade_training_kernels as kernels
from spacelang.backends.triton.cascade import (
    DEEPEST,
    HIP,
    TOKENS,
    distances,
    in_rows,
    in_windows,
    options,
)
from spacelang.backends.triton.launch import differentiable, launches, operator, refusal, wide
from spacelang.backends.triton.resources import Build

NAME = "cascade in training"
PARTS = 6  # tensors of a head
PROGRAMS = 256  # that go over windows in turn
WINDOWS, COLUMNS = 64, 16  # of a step of the kernel that makes norms, and its channels


@dataclass(frozen=True, slots=True)
class Operands:
    """What the operator takes."""

    x: Tensor  # [B, H V, R, S]
    offsets: Tensor  # [H, R S]
    parts: Sequence[Tensor]  # of each head, `PARTS`: see `Head`
    eps: float

    @property
    def heads(self) -> list[Head]:
        """The parts of each head."""
        starts = range(0, len(self.parts), PARTS)
        return [Head(*self.parts[first : first + PARTS]) for first in starts]


class Head(NamedTuple):
    """Of a head: its projection, its depthwise windows, and what their norms have learnt."""

    qkv: Tensor  # [2 D + V, V]
    scale: Tensor
    shift: Tensor
    conv: Tensor  # [D, K, K]
    conv_scale: Tensor
    conv_shift: Tensor


def reference(x: Operands) -> tuple[Tensor, Tensor, Tensor]:
    """The same head by head in float32: the result, and means and variances of both norms."""
    rows, columns = x.x.shape[2:]
    index, heads, kind = distances(rows, columns, x.x.device), x.heads, x.x.dtype
    feature, found = wide(x.x.new_zeros(())), list[Tensor]()
    moments: tuple[list[Tensor], list[Tensor]] = ([], [])

    def norm(z: Tensor, scale: Tensor, shift: Tensor, kept: list[Tensor]) -> Tensor:
        variance, mean = torch.var_mean(z, (0, 2, 3), correction=0)
        kept.append(torch.stack([mean, variance]))
        return functional.batch_norm(z, None, None, wide(scale), wide(shift), True, 0.0, x.eps)

    for head, bias, group in zip(heads, x.offsets, wide(x.x).chunk(len(heads), 1), strict=True):
        d, weight, window = len(head.conv), wide(head.qkv.to(kind)), wide(head.conv.to(kind))
        z = functional.conv2d(feature + group, weight[:, :, None, None])
        z = norm(z, head.scale, head.shift, moments[0])
        q, k, v = z.split([d, d, z.shape[1] - 2 * d], 1)
        c = functional.conv2d(q, window[:, None], padding=window.shape[2] // 2, groups=d)
        t = norm(c, head.conv_scale, head.conv_shift, moments[1])
        logits = t.flatten(2).transpose(1, 2) @ k.flatten(2) / d**0.5
        shares = (logits + wide(bias)[index]).softmax(2)
        feature = (v.flatten(2) @ shares.transpose(1, 2)).unflatten(2, (rows, columns))
        found.append(feature.relu())
    return torch.cat(found, 1).to(kind), torch.stack(moments[0]), torch.stack(moments[1])


def unable(x: Operands) -> str:
    """Why the kernels cannot take these operands; empty if they can."""
    if x.x.ndim != 4 or not x.parts or len(x.parts) % PARTS or x.x.shape[1] % len(x.heads):
        return "it takes [B, C, R, S], C a multiple of the heads"
    value, n, d = x.x.shape[1] // len(x.heads), x.x.shape[2:].numel(), len(x.heads[0].conv)
    if x.offsets.shape != (len(x.heads), n):
        return "its offsets are not of its heads"
    for qkv, scale, shift, conv, *others in x.heads:
        if qkv.shape != (2 * d + value, value):
            return "a head's values are not as wide as its group"
        if conv.shape != (d, *conv.shape[-1:] * 2) or conv.shape[1] % 2 == 0:
            return "it takes depthwise windows [D, K, K], K odd"
        if conv.shape[1] > 7:
            return "a depthwise window is larger than 7"
        if any(p.shape != qkv.shape[:1] for p in (scale, shift)):
            return "a norm is not of its projection"
        if any(p.shape != conv.shape[:1] for p in others):
            return "a norm is not of its convolution"
    if not 1 <= n <= TOKENS or not 1 <= d <= DEEPEST or not value:
        return f"its window has not 1 to {TOKENS} tokens, or its keys not 1 to {DEEPEST} channels"
    reach = sum((s - 1) * abs(t) for s, t in zip(x.x.shape[1:], x.x.stride()[1:], strict=True))
    wide = max((2 * d + value) * max(head.qkv.stride()) for head in x.heads)
    if max(reach, wide, (2 * d + value) * len(x.x) * n) >= 2**31:
        return "its windows are too many, or lie too far apart"
    return refusal(x.x, *x.parts, x.offsets)


def tile(n: int, d: int) -> dict[str, int | str]:
    """What a variant is made for: sizes padded to powers of two."""
    return {
        "TOKENS": max(16, triton.next_power_of_2(n)),
        "KEY": max(16, triton.next_power_of_2(d)),
        "DEPTH": 16,
        "PRECISION": "ieee",
        "TAPS": 64,
        "WINDOWS": WINDOWS,
        "SIZE": COLUMNS,
    }


class _Launcher:
    """Launches kernels with what all of them take, each with what it has arguments for."""

    def __init__(self, x: Operands) -> None:
        batch, _, height, width = x.x.shape
        head = x.heads[0]
        self.common: dict[str, Any] = {
            "x": x.x, "offsets": x.offsets.contiguous(), "H": len(x.heads), "B": batch,
            "R": height, "S": width, "D": len(head.conv), "V": head.qkv.shape[1],
            "SPLITS": min(batch, PROGRAMS), "eps": x.eps,
            **dict(zip(("x_b", "x_c", "x_y", "x_x"), x.x.stride(), strict=True)),
            **tile(height * width, len(head.conv)),
        }  # fmt: skip

    def __call__(self, name: str, programs: int, **own: Any) -> None:
        function = kernels.KERNELS[name]
        given = {**self.common, **own}
        taken = {argument: given[argument] for argument in function.arg_names}
        function[(programs,)](**taken, **options(HIP))


def _weights(head: Head) -> dict[str, Any]:
    """What kernels read of a head's weights, where they lie."""
    qkv, conv = in_rows(head.qkv), in_windows(head.conv)
    sides = {"L": conv.shape[1], "STORED": conv.stride(1)}
    return {"qkv": qkv, "w_f": qkv.stride(0), "conv": conv} | sides


@operator("cascade_training", NAME)
def _op(x: Tensor, offsets: Tensor, parts: list[Tensor], eps: float) -> list[Tensor]:
    """y [B, H V, R, S], both norms [H, 5, channels], and z, c, u [H, channels, B, N] as kept."""
    o = Operands(x, offsets, parts, eps)
    found = _empty(o)
    out, norms, conv_norms, z, c, u = found
    if not launches(NAME, unable(o)):
        y, moments, conv_moments = reference(o)
        out.copy_(y)
        norms[:, :2].copy_(moments)
        conv_norms[:, :2].copy_(conv_moments)
        return found
    launch, batch, sums = _Launcher(o), len(x), dict[str, Any]()
    sums["parts"] = torch.empty(batch * 2 * z.shape[1], device=x.device, dtype=torch.float32)
    for number, head in enumerate(o.heads if batch else ()):
        kept = {"z": z[number], "norm": norms[number], "c": c[number], "u": u, "out": out}
        own = {"head": number, "conv_norm": conv_norms[number], **kept, **sums, **_weights(head)}
        launch("project", batch, **own)
        _norm(launch, norms[number], head.scale, head.shift, **sums)
        launch("convolve", batch, **own)
        _norm(launch, conv_norms[number], head.conv_scale, head.conv_shift, **sums)
        launch("attend", batch, **own)
    return found


def _norm(launch: _Launcher, norm: Tensor, scale: Tensor, shift: Tensor, parts: Tensor) -> None:
    """The norm of a head, from the moments of its windows."""
    learnt = {"scale": scale.contiguous(), "shift": shift.contiguous()}
    sizes = {"N": launch.common["R"] * launch.common["S"], "C": len(scale)}
    launch("moments", triton.cdiv(len(scale), COLUMNS), norm=norm, parts=parts, **learnt, **sizes)


def _empty(x: Operands) -> list[Tensor]:
    """Results of the operator."""
    batch, heads, (width, value) = len(x.x), len(x.heads), x.heads[0].qkv.shape
    d, n = len(x.heads[0].conv), x.x.shape[2:].numel()
    norms = (
        wide(torch.empty(heads, 5, channels, device=x.x.device, dtype=x.x.dtype))
        for channels in (width, d)
    )
    kept = (
        torch.empty(heads, channels, batch, n, device=x.x.device, dtype=x.x.dtype)
        for channels in (width, d, value)
    )
    return [torch.empty(x.x.shape, device=x.x.device, dtype=x.x.dtype), *norms, *kept]


@operator("cascade_training_backward", NAME)
def _backward_op(
    g: Tensor, norms: Tensor, conv_norms: Tensor, z: Tensor, c: Tensor, u: Tensor,
    x: Tensor, offsets: Tensor, parts: list[Tensor], eps: float,
) -> list[Tensor]:  # fmt: skip
    """Gradients of x, of offsets, and of the parts."""
    o = Operands(x, offsets, parts, eps)
    if not launches(NAME, unable(o)):

        def again(x: Tensor, offsets: Tensor, *parts: Tensor) -> Tensor:
            return reference(Operands(x, offsets, parts, eps))[0]

        _, pulled = torch.func.vjp(again, x, offsets, *parts)
        return [part.clone(memory_format=torch.contiguous_format) for part in pulled(g)]
    found = [
        torch.zeros_like(part, memory_format=torch.contiguous_format)
        for part in (x, offsets, *parts)
    ]
    if not g.numel():
        return found
    launch, batch = _Launcher(o), len(x)
    width, n, d = z.shape[1], z.shape[3], c.shape[1]
    splits = launch.common["SPLITS"]
    rest = (torch.empty_like(part[0]) for part in (z, z, c, u))
    y_grad, z_grad, t_grad, features = rest
    after, offset_sums = torch.empty_like(u), g.new_empty(batch, n, dtype=torch.float32)
    sums = g.new_empty(batch, 2, width, dtype=torch.float32)
    conv_sums = g.new_empty(batch, 2, d, dtype=torch.float32)
    steps = dict(zip(("g_b", "g_c", "g_y", "g_x"), g.stride(), strict=True))
    for number, head in reversed(list(enumerate(o.heads))):
        own = {
            "head": number, "z": z[number], "norm": norms[number], "c": c[number], "u": u,
            "conv_norm": conv_norms[number], "parts": sums, "y_grad": y_grad, "t_grad": t_grad,
            "z_grad": z_grad, "features": features, **_weights(head),
        }  # fmt: skip
        more = {"g": g, "after": after, "conv_parts": conv_sums, **steps}
        launch("attend_back", batch, **own, **more, offset_parts=offset_sums)
        found[1][number] = offset_sums.sum(0)
        conv_norm_grad = conv_sums.sum(0)  # of its shift, and of its scale
        conv_grad = g.new_empty(splits, *head.conv.shape, dtype=torch.float32)
        launch("convolve_back", splits, **own, sums=conv_norm_grad, conv_grad=conv_grad)
        norm_grad = sums.sum(0)
        launch("unnorm", batch, **own, sums=norm_grad)
        qkv_grad = z_grad.flatten(1) @ features.flatten(1).t()
        torch.mm(head.qkv.to(z.dtype).t(), z_grad.flatten(1), out=after[number].flatten(1))
        mine = (qkv_grad, *norm_grad.flip(0), conv_grad.sum(0), *conv_norm_grad.flip(0))
        for place, part in enumerate(mine, 2 + number * PARTS):
            found[place].copy_(part)
    found[0] = after.permute(2, 0, 1, 3).reshape(x.shape).contiguous()
    return found


@_op.register_fake
def _(*arguments):
    return _empty(Operands(*arguments))


@_backward_op.register_fake
def _(g, norms, conv_norms, z, c, u, x, offsets, parts, eps):
    inputs = (x, offsets, *parts)
    return [torch.empty_like(part, memory_format=torch.contiguous_format) for part in inputs]


def _setup(ctx, inputs, output):
    x, offsets, parts, ctx.eps = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:], x, offsets, *parts)


def _backward(ctx, slopes):
    *kept, x, offsets = ctx.saved_tensors[:7]
    found = _backward_op(slopes[0], *kept, x, offsets, list(ctx.saved_tensors[7:]), ctx.eps)
    return found[0], found[1], found[2:], None


differentiable(_op, _setup, _backward)


def cascade_training(
    x: Tensor, offsets: Tensor, heads: Sequence[Head], eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The heads' rectified outputs [B, H V, R, S], and means and variances of both norms.

    Those are [H, 2, 2 D + V] and [H, 2, D], of all windows, variances as they norm (biased).
    `offsets` [H, R S] by the distance |dy| S + |dx|. Weights are taken in the type of x.
    """
    out, norms, conv_norms, *_ = _op(x, offsets, [part for head in heads for part in head], eps)
    return out, norms[:, :2], conv_norms[:, :2]


def _builds() -> tuple[Build, ...]:
    """EfficientViT's windows of 7 x 7 and 4 x 4."""
    found: list[Build] = []
    floats = ("norm", "conv_norm", "parts", "conv_parts", "sums", "offset_parts", "conv_grad")
    for kind, n in (("fp16", 49), ("fp16", 16), ("bf16", 49), ("fp32", 49)):
        constants = tile(n, 16)
        types = dict.fromkeys(floats, "*fp32") | dict.fromkeys(kernels.INTEGERS, "i32")
        types["eps"] = "fp32"
        if kind == "bf16":  # as automatic mixed precision has it
            types |= dict.fromkeys(("qkv", "conv", "scale", "shift", "offsets"), "*fp32")
        for name, kernel in kernels.KERNELS.items():
            arguments = [a for a in kernel.arg_names if a not in constants]
            signature = {a: types.get(a, f"*{kind}") for a in arguments}
            own = {a: constants[a] for a in kernel.arg_names if a in constants}
            title = f"cascade_training.{name}[{n} {kind}]"
            found.append(Build(title, kernel, signature, own, options(False), options(True)))
    return tuple(found)


BUILDS = _builds()
