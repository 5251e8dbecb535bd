"""Cascaded group attention in training: batch norms by the statistics of all windows together.

The cascade is that of `cascade`, with norms where it has them folded:

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

Every sum is in a fixed order: gradients are the same at every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional

from spacelang.backends.triton import cascade_training_kernels as kernels
from spacelang.backends.triton.cascade import DEEPEST, HIP, TOKENS, distances, options
from spacelang.backends.triton.launch import launches, operator, refusal, wide
from spacelang.backends.triton.resources import Build

NAME = "cascade in training"
PROGRAMS = 256  # that go over windows in turn
WINDOWS, COLUMNS = 64, 16  # of a step of the kernel that makes norms, and its channels


@dataclass(frozen=True, slots=True)
class Operands:
    """What the operator takes; norms are [2, H, channels], scales before shifts."""

    x: Tensor  # [B, H V, R, S]
    qkv: Tensor  # [H, 2 D + V, V]
    qkv_norm: Tensor
    conv: Tensor  # windows [D, K, K] of all heads, one after the other
    conv_norm: Tensor
    offsets: Tensor  # [H, R S]
    sizes: Sequence[int]  # K of each head
    eps: float

    @property
    def depth(self) -> int:
        """D."""
        return self.conv_norm.shape[2]

    @property
    def windows(self) -> list[Tensor]:
        """The depthwise windows [D, K, K] of each head."""
        parts = self.conv.split([self.depth * size**2 for size in self.sizes])
        return [p.unflatten(0, (self.depth, k, k)) for p, k in zip(parts, self.sizes, strict=True)]


def reference(x: Operands) -> tuple[Tensor, Tensor, Tensor]:
    """The same head by head in float32: the result, and means and variances of both norms."""
    rows, columns = x.x.shape[2:]
    d, index = x.depth, distances(rows, columns, x.x.device)
    feature, found = wide(x.x.new_zeros(())), list[Tensor]()
    moments: tuple[list[Tensor], list[Tensor]] = ([], [])

    def norm(z: Tensor, both: Tensor, kept: list[Tensor]) -> Tensor:
        variance, mean = torch.var_mean(z, (0, 2, 3), correction=0)
        kept.append(torch.stack([mean, variance]))
        return functional.batch_norm(z, None, None, *wide(both), True, 0.0, x.eps)

    windows = x.windows
    for head, group in enumerate(wide(x.x).chunk(len(x.qkv), 1)):
        z = functional.conv2d(feature + group, wide(x.qkv[head])[:, :, None, None])
        z = norm(z, x.qkv_norm[:, head], moments[0])
        q, k, v = z.split([d, d, z.shape[1] - 2 * d], 1)
        window = wide(windows[head])[:, None]
        c = functional.conv2d(q, window, padding=window.shape[2] // 2, groups=d)
        t = norm(c, x.conv_norm[:, head], moments[1])
        logits = t.flatten(2).transpose(1, 2) @ k.flatten(2) / d**0.5
        shares = (logits + wide(x.offsets[head])[index]).softmax(2)
        feature = (v.flatten(2) @ shares.transpose(1, 2)).unflatten(2, (rows, columns))
        found.append(feature.relu())
    return torch.cat(found, 1).to(x.x.dtype), torch.stack(moments[0]), torch.stack(moments[1])


def unable(x: Operands) -> str:
    """Why the kernels cannot take these operands; empty if they can."""
    if x.x.ndim != 4 or x.qkv.ndim != 3 or not len(x.qkv) or x.x.shape[1] % len(x.qkv):
        return "it takes [B, C, R, S], C a multiple of the heads"
    heads, d, value, n = len(x.qkv), x.depth, x.qkv.shape[2], x.x.shape[2:].numel()
    if value != x.x.shape[1] // heads or x.qkv.shape[1] != 2 * d + value:
        return "a head's values are not as wide as its group"
    norms, wanted = (
        (x.qkv_norm.shape, x.conv_norm.shape),
        ((2, heads, 2 * d + value), (2, heads, d)),
    )
    if norms != wanted or x.offsets.shape != (heads, n) or len(x.sizes) != heads:
        return "its norms, sizes or offsets are not of its heads"
    if any(k % 2 == 0 for k in x.sizes) or len(x.conv) != d * sum(k * k for k in x.sizes):
        return "it takes depthwise windows [D, K, K], K odd"
    if max(x.sizes) > 7:
        return "a depthwise window is larger than 7"
    if not 1 <= n <= TOKENS or not 1 <= d <= DEEPEST or not value:
        return f"its window has not 1 to {TOKENS} tokens, or its keys not 1 to {DEEPEST} channels"
    if len({part.dtype for part in (x.x, x.qkv, x.conv)}) > 1:
        return "its input and its weights are of different types"
    reach = sum((s - 1) * abs(t) for s, t in zip(x.x.shape[1:], x.x.stride()[1:], strict=True))
    if max(reach, (2 * d + value) * len(x.x) * n) >= 2**31:
        return "its windows are too many, or lie too far apart"
    return refusal(x.x, x.qkv, x.qkv_norm, x.conv, x.conv_norm, x.offsets)


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
        batch, _, rows, columns = x.x.shape
        d, value = x.depth, x.qkv.shape[2]
        self.common: dict[str, Any] = {
            "x": x.x, "qkv": x.qkv.contiguous(), "offsets": x.offsets.contiguous(),
            "H": len(x.qkv), "B": batch, "R": rows, "S": columns, "D": d, "V": value,
            "SPLITS": min(batch, PROGRAMS), "eps": x.eps,
            **dict(zip(("x_b", "x_c", "x_y", "x_x"), x.x.stride(), strict=True)),
            **tile(rows * columns, d),
        }  # fmt: skip

    def __call__(self, name: str, programs: int, **own: Any) -> None:
        function = kernels.KERNELS[name]
        given = {**self.common, **own}
        taken = {argument: given[argument] for argument in function.arg_names}
        function[(programs,)](**taken, **options(HIP))


@operator("cascade_training", NAME)
def _op(
    x: Tensor, qkv: Tensor, qkv_norm: Tensor, conv: Tensor, conv_norm: Tensor, offsets: Tensor,
    sizes: Sequence[int], eps: float,
) -> list[Tensor]:  # fmt: skip
    """y [B, H V, R, S], both norms [H, 5, channels], and z, c, u [H, channels, B, N] as kept."""
    o = Operands(x, qkv, qkv_norm, conv, conv_norm, offsets, sizes, eps)
    found = _empty(o)
    out, norms, conv_norms, z, c, u = found
    if not launches(NAME, unable(o)):
        y, moments, conv_moments = reference(o)
        out.copy_(y)
        norms[:, :2].copy_(moments)
        conv_norms[:, :2].copy_(conv_moments)
        return found
    launch, batch, windows = _Launcher(o), len(x), o.windows
    n, d, width = x.shape[2:].numel(), o.depth, qkv.shape[1]
    parts = torch.empty(batch * 2 * width, device=x.device, dtype=torch.float32)
    for head, size in enumerate(sizes if batch else ()):
        own = {
            "head": head, "z": z[head], "norm": norms[head], "c": c[head], "u": u, "out": out,
            "conv_norm": conv_norms[head], "conv": windows[head].contiguous(), "L": size,
            "parts": parts,
        }  # fmt: skip
        launch("project", batch, **own)
        _norm(launch, own, "norm", qkv_norm[:, head].contiguous(), n, width)
        launch("convolve", batch, **own)
        _norm(launch, own, "conv_norm", conv_norm[:, head].contiguous(), n, d)
        launch("attend", batch, **own)
    return found


def _norm(
    launch: _Launcher, own: dict[str, Any], name: str, both: Tensor, n: int, channels: int
) -> None:
    """The norm of a head, from the moments of its windows."""
    mine = {"norm": own[name], "parts": own["parts"], "scale": both[0], "shift": both[1]}
    launch("moments", triton.cdiv(channels, COLUMNS), **mine, N=n, C=channels)


def _empty(x: Operands) -> list[Tensor]:
    """Results of the operator."""
    heads, d, value, n = len(x.qkv), x.depth, x.qkv.shape[2], x.x.shape[2:].numel()
    norms = (
        wide(torch.empty(heads, 5, channels, device=x.x.device, dtype=x.x.dtype))
        for channels in (2 * d + value, d)
    )
    kept = (
        torch.empty(heads, channels, len(x.x), n, device=x.x.device, dtype=x.x.dtype)
        for channels in (2 * d + value, d, value)
    )
    return [torch.empty(x.x.shape, device=x.x.device, dtype=x.x.dtype), *norms, *kept]


@operator("cascade_training_backward", NAME)
def _backward_op(
    g: Tensor, norms: Tensor, conv_norms: Tensor, z: Tensor, c: Tensor, u: Tensor,
    x: Tensor, qkv: Tensor, qkv_norm: Tensor, conv: Tensor, conv_norm: Tensor, offsets: Tensor,
    sizes: Sequence[int], eps: float,
) -> list[Tensor]:  # fmt: skip
    """Gradients of all operands that are tensors, in their order."""
    o = Operands(x, qkv, qkv_norm, conv, conv_norm, offsets, sizes, eps)
    inputs = (x, qkv, qkv_norm, conv, conv_norm, offsets)
    if not launches(NAME, unable(o)):

        def again(*parts: Tensor) -> Tensor:
            return reference(Operands(*parts, sizes, eps))[0]

        _, pulled = torch.func.vjp(again, *inputs)
        return [part.clone(memory_format=torch.contiguous_format) for part in pulled(g)]
    found = [torch.zeros_like(p, memory_format=torch.contiguous_format) for p in inputs]
    if not g.numel():
        return found
    launch, batch, windows = _Launcher(o), len(x), o.windows
    heads, width, n, d = *qkv.shape[:2], x.shape[2:].numel(), o.depth
    splits = launch.common["SPLITS"]
    rest = (torch.empty_like(part[0]) for part in (z, z, c, u))
    y_grad, z_grad, t_grad, features = rest
    after, offset_parts = torch.empty_like(u), g.new_empty(batch, n, dtype=torch.float32)
    parts = g.new_empty(batch, 2, width, dtype=torch.float32)
    conv_parts = g.new_empty(batch, 2, d, dtype=torch.float32)
    conv_grads = list[Tensor]()
    steps = dict(zip(("g_b", "g_c", "g_y", "g_x"), g.stride(), strict=True))
    for head in reversed(range(heads)):
        size = sizes[head]
        own = {
            "head": head, "z": z[head], "norm": norms[head], "c": c[head], "u": u, "L": size,
            "conv_norm": conv_norms[head], "conv": windows[head].contiguous(), "parts": parts,
            "y_grad": y_grad, "t_grad": t_grad, "z_grad": z_grad, "features": features,
        }  # fmt: skip
        more = {"g": g, "after": after, "conv_parts": conv_parts, **steps}
        launch("attend_back", batch, **own, **more, offset_parts=offset_parts)
        found[5][head] = offset_parts.sum(0)
        sums = conv_parts.sum(0)
        found[4][:, head] = sums.flip(0)
        conv_grad = g.new_empty(splits, d, size, size, dtype=torch.float32)
        launch("convolve_back", splits, **own, sums=sums, conv_grad=conv_grad)
        conv_grads.append(conv_grad.sum(0).flatten())
        sums = parts.sum(0)
        found[2][:, head] = sums.flip(0)
        launch("unnorm", batch, **own, sums=sums)
        found[1][head] = z_grad.flatten(1) @ features.flatten(1).t()
        torch.mm(qkv[head].t(), z_grad.flatten(1), out=after[head].flatten(1))
    found[0] = after.permute(2, 0, 1, 3).reshape(x.shape).contiguous()
    found[3] = torch.cat(conv_grads[::-1]).to(conv.dtype)
    return found


@_op.register_fake
def _(*arguments):
    return _empty(Operands(*arguments))


@_backward_op.register_fake
def _(g, norms, conv_norms, z, c, u, *arguments):
    inputs = (part for part in arguments if isinstance(part, Tensor))
    return [torch.empty_like(part, memory_format=torch.contiguous_format) for part in inputs]


def _setup(ctx, inputs, output):
    ctx.rest = inputs[6:]
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:], *inputs[:6])


def _backward(ctx, slopes):
    return (*_backward_op(slopes[0], *ctx.saved_tensors, *ctx.rest), None, None)


_op.register_autograd(_backward, setup_context=_setup)


def cascade_training(
    x: Tensor, qkv: Tensor, qkv_norm: Tensor, conv: Tensor, conv_norm: Tensor, offsets: Tensor,
    sizes: Sequence[int], eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The heads' rectified outputs [B, H V, R, S], and means and variances of both norms.

    Those are [H, 2, 2 D + V] and [H, 2, D], of all windows, variances as they norm (biased). See
    `Operands` for what it takes.
    """
    out, norms, conv_norms, *_ = _op(x, qkv, qkv_norm, conv, conv_norm, offsets, sizes, eps)
    return out, norms[:, :2], conv_norms[:, :2]


def _builds() -> tuple[Build, ...]:
    """EfficientViT's windows of 7 x 7 and 4 x 4."""
    found: list[Build] = []
    floats = ("norm", "conv_norm", "parts", "conv_parts", "sums", "offset_parts", "conv_grad")
    for kind, n in (("fp16", 49), ("fp16", 16), ("bf16", 49), ("fp32", 49)):
        constants = tile(n, 16)
        types = dict.fromkeys(floats, "*fp32") | dict.fromkeys(kernels.INTEGERS, "i32")
        types["eps"] = "fp32"
        for name, kernel in kernels.KERNELS.items():
            arguments = [a for a in kernel.arg_names if a not in constants]
            signature = {a: types.get(a, f"*{kind}") for a in arguments}
            own = {a: constants[a] for a in kernel.arg_names if a in constants}
            title = f"cascade_training.{name}[{n} {kind}]"
            found.append(Build(title, kernel, signature, own, options(False), options(True)))
    return tuple(found)


BUILDS = _builds()
