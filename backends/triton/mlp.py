"""Layer norm, linear and GELU on slices of shared weights: AutoFormer's entangled layers, any MLP.

    linear(x, w, b, norm, slope)          act(layer_norm(x) w^T + b)        [..., C] -> [..., F]
    mlp(x, norm, w1, b1, w2, b2)          gelu(layer_norm(x) w1^T + b1) w2^T + b2

A weight is read where it lies, by its strides: `shared[:320, :256]`, or every third row of a
`qkv`, is not copied. Its sizes and strides are arguments at run time. A program makes a tile of
`ROWS` tokens and `COLUMNS` features. It goes over the channels three times: for the means of its
tokens, for their variances, and for the products of what is normalised, which is never written; nor
is what goes into the GELU. An MLP is two launches: the hidden layer is written once, and read once.

The product and the result are of the weight's type. x may be of float32 where that is half: so it
is under automatic mixed precision, where weights are taken in its type, and what is normalised of a
float32 stream is rounded once, before the product.

Gradients are recomputed by PyTorch from what was read: what is saved for them is x and views.
They are as deterministic as its matrix products, which is: the same at every run of a machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from spacelang.backends.triton.launch import (
    INTERPRETED,
    differentiable,
    launches,
    operator,
    refusal,
    unmixed,
    wide,
)
from spacelang.backends.triton.resources import Build

ROWS, COLUMNS, DEPTH = 64, 64, 32  # the tile of a program, and the channels of a step
NAME = "linear"
ACTIVATIONS = {"none": 0, "gelu": 1, "relu": 2}
_INTERPRETED = tl.constexpr(INTERPRETED)


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    activation: str,
) -> Tensor:
    """The same operation by operation; half types are rounded after each."""
    if scale is not None and shift is not None:
        x = functional.layer_norm(wide(x), x.shape[-1:], wide(scale), wide(shift), eps)
    kind = weight.dtype
    found = functional.linear(x.to(kind), weight, None if bias is None else bias.to(kind))
    found = functional.gelu(found) if activation == "gelu" else found
    return found.relu() if activation == "relu" else found


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """a b, summed in float32. The interpreter multiplies the bits of bfloat16: not so here."""
    if _INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def gelu(x):
    """x Phi(x), exact."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit(do_not_specialize=["M", "F", "C", "x_m", "w_f", "w_c", "out_m", "b_f"])
def _linear_kernel(
    x, weight, bias, scale, shift, out, eps, M, F, C, x_m, w_f, w_c, out_m, b_f,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    NORM: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr,
    ALIGNED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    C = C * ALIGNED  # a multiple that the compiler sees: then loads are wide
    x_m = x_m * ALIGNED
    w_f = w_f * ALIGNED
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    f = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    lines = x + m.to(tl.int64)[:, None] * x_m
    features = weight + f.to(tl.int64)[None, :] * w_f
    if ALIGNED > 1:
        w_c = 1
    deep = tl.arange(0, DEPTH)
    token = (m < M)[:, None]
    if NORM:
        total = tl.zeros((ROWS,), tl.float32)
        for start in range(0, C, DEPTH):
            inside = token & (start + deep < C)[None, :]
            total += tl.sum(tl.load(lines + (start + deep)[None, :], inside, 0.0).to(tl.float32), 1)
        mean = total / C
        square = tl.zeros((ROWS,), tl.float32)
        for start in range(0, C, DEPTH):
            inside = token & (start + deep < C)[None, :]
            part = tl.load(lines + (start + deep)[None, :], inside, 0.0).to(tl.float32)
            part = tl.where(inside, part - mean[:, None], 0.0)
            square += tl.sum(part * part, 1)
        inverse = tl.rsqrt(square / C + eps)
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, C, DEPTH):
        c = start + deep
        part = tl.load(lines + c[None, :], token & (c < C)[None, :], 0.0)
        if NORM:
            slope = tl.load(scale + c, c < C, 0.0).to(tl.float32)
            offset = tl.load(shift + c, c < C, 0.0).to(tl.float32)
            normal = (part.to(tl.float32) - mean[:, None]) * inverse[:, None]
            part = normal * slope[None, :] + offset[None, :]
        block = tl.load(features + c[:, None] * w_c, (c < C)[:, None] & (f < F)[None, :], 0.0)
        sums += product(part.to(block.dtype), block, PRECISION)
    if BIAS:
        sums += tl.load(bias + f * b_f, f < F, 0.0).to(tl.float32)[None, :]
    if ACTIVATION == 1:
        sums = gelu(sums)
    if ACTIVATION == 2:
        sums = tl.where(sums < 0.0, 0.0, sums)  # what is not a number stays so
    at = out + m.to(tl.int64)[:, None] * out_m + f[None, :]
    tl.store(at, sums.to(out.dtype.element_ty), mask=token & (f < F)[None, :])


def unable(
    x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None, shift: Tensor | None
) -> str:
    """Why the kernel cannot take these operands; empty if it can."""
    if x.ndim < 1 or weight.ndim != 2 or x.shape[-1] != weight.shape[1] or not x.shape[-1]:
        return "it takes [..., C] and a weight [F, C], of one channel or more"
    if bias is not None and bias.shape != weight.shape[:1]:
        return "it takes a bias of as many features as the weight"
    if (scale is None) != (shift is None):
        return "it takes a norm's scale and shift together"
    if any(part is not None and part.shape != x.shape[-1:] for part in (scale, shift)):
        return "it takes a norm of as many channels as its input"
    if x.dtype not in (weight.dtype, torch.float32):
        return "its input and its weight are of different types"
    if weight.shape[1] * weight.stride(1) >= 2**31 or len(weight) > 65_535 * COLUMNS:
        return "its weight is too large"
    return refusal(x, weight, *(part for part in (bias, scale, shift) if part is not None))


def _warps(dtype: torch.dtype) -> int:
    """Float32 is multiplied outside of tensor cores: more threads share its tile."""
    return 8 if dtype == torch.float32 else 4


def _arguments(x: Tensor, weight: Tensor, out: Tensor) -> tuple[list[int], int]:
    """Sizes and strides of lines [M, C] and their results [M, F], and what divides those of rows.

    What is divided stands divided, for the kernel to multiply.
    """
    rows = (x.shape[1], x.stride(0), weight.stride(0))
    aligned = 8 if weight.stride(1) == 1 and all(size % 8 == 0 for size in rows) else 1
    c, x_m, w_f = (size // aligned for size in rows)
    return [len(x), len(weight), c, x_m, w_f, weight.stride(1), out.stride(0)], aligned


@operator("linear", NAME)
def _op(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    activation: str,
) -> Tensor:
    """The result [..., F], contiguous."""
    shape = (*x.shape[:-1], len(weight))
    if not launches(NAME, unable(x, weight, bias, scale, shift)):
        return reference(x, weight, bias, scale, shift, eps, activation).contiguous()
    lines = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    lines = lines if lines.stride(1) == 1 or lines.shape[1] == 1 else lines.contiguous()
    out = torch.empty((len(lines), len(weight)), dtype=weight.dtype, device=x.device)
    if out.numel():
        integers, aligned = _arguments(lines, weight, out)
        grid = (triton.cdiv(len(lines), ROWS), triton.cdiv(len(weight), COLUMNS))
        _linear_kernel[grid](
            lines, weight, x if bias is None else bias, x if scale is None else scale.contiguous(),
            x if shift is None else shift.contiguous(), out, eps, *integers,
            1 if bias is None else bias.stride(0), ROWS=ROWS, COLUMNS=COLUMNS, DEPTH=DEPTH,
            NORM=int(scale is not None), BIAS=int(bias is not None),
            ACTIVATION=ACTIVATIONS[activation], ALIGNED=aligned, PRECISION="ieee",
            num_warps=_warps(weight.dtype),
        )  # fmt: skip
    return out.view(shape)


@torch.library.custom_op("spacelang::linear_backward", mutates_args=())
def _backward_op(
    gradients: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    activation: str,
    needs: list[bool],
) -> list[Tensor]:
    """Gradients of what is needed of x, weight, bias, scale and shift, recomputed by PyTorch."""
    operands = (x, weight, bias, scale, shift)

    def again(*parts: Tensor) -> Tensor:
        rest = iter(parts)
        now = (next(rest) if need else part for need, part in zip(needs, operands, strict=True))
        return reference(*now, eps, activation)

    with unmixed(x):
        _, pulled = torch.func.vjp(again, *_needed(operands, needs))
        return [part.clone(memory_format=torch.contiguous_format) for part in pulled(gradients)]


def _needed(operands: Sequence[Tensor | None], needs: Sequence[bool]) -> list[Tensor]:
    pairs = zip(operands, needs, strict=True)
    return [part for part, need in pairs if need and part is not None]


@_op.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    activation: str,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=weight.dtype)


@_backward_op.register_fake
def _(
    gradients: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    eps: float,
    activation: str,
    needs: list[bool],
) -> list[Tensor]:
    return [p.new_empty(p.shape) for p in _needed((x, weight, bias, scale, shift), needs)]


def _setup(ctx, inputs, output):
    *operands, ctx.eps, ctx.activation = inputs
    ctx.save_for_backward(*operands)


def _backward(ctx, gradients):
    operands = ctx.saved_tensors
    learnt = zip(operands, ctx.needs_input_grad, strict=False)
    needs = [part is not None and need for part, need in learnt]
    found = iter(_backward_op(gradients, *operands, ctx.eps, ctx.activation, needs))
    return (*(next(found) if need else None for need in needs), None, None)


differentiable(_op, _setup, _backward)

Norm = tuple[Tensor, Tensor, float]  # scale [C], shift [C], epsilon


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm: Norm | None = None,
    activation: str = "none",
) -> Tensor:
    """act(layer_norm(x) weight^T + bias) [..., F] of x [..., C] and weight [F, C], a view or not.

    `activation` is one of `ACTIVATIONS`; the GELU is exact. Within `torch.autocast` it is of that
    type, as PyTorch's own linear layer.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"a linear layer has no activation {activation!r} to fuse")
    scale, shift, eps = norm or (None, None, 0.0)
    if torch.is_autocast_enabled(x.device.type):
        weight = weight.to(torch.get_autocast_dtype(x.device.type))
    return _op(x, weight, bias, scale, shift, eps, activation)


def mlp(
    x: Tensor,
    norm: Norm | None,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    activation: str = "gelu",
) -> Tensor:
    """act(layer_norm(x) w1^T + b1) w2^T + b2, two launches."""
    return linear(linear(x, w1, b1, norm, activation), w2, b2)


def _builds() -> tuple[Build, ...]:
    """The two layers of an MLP, where all widths are multiples of 8, and where one is not.

    `mixed` is the first of a float32 stream under automatic mixed precision.
    """
    names = ("x", "weight", "bias", "scale", "shift", "out")
    stored = dict.fromkeys(("x", "bias", "scale", "shift"), "*fp32")
    integers = dict.fromkeys(("M", "F", "C", "x_m", "w_f", "w_c", "out_m", "b_f"), "i32")
    tile = {"ROWS": ROWS, "COLUMNS": COLUMNS, "DEPTH": DEPTH, "BIAS": 1, "PRECISION": "ieee"}
    first, second = {"NORM": 1, "ACTIVATION": 1}, {"NORM": 0, "ACTIVATION": 0}
    return tuple(
        Build(
            f"linear.{name}[{kind}]",
            _linear_kernel,
            {**dict.fromkeys(names, f"*{kind}"), **wider, "eps": "fp32", **integers},
            {**tile, **flags, "ALIGNED": aligned},
            {"num_warps": _warps(torch.float32 if kind == "fp32" else torch.bfloat16)},
        )
        for kind, name, flags, aligned, wider in (
            ("bf16", "norm_gelu", first, 8, {}),
            ("bf16", "plain", second, 8, {}),
            ("bf16", "odd", first, 1, {}),
            ("bf16", "odd_plain", second, 1, {}),
            ("bf16", "mixed", first, 8, stored),
            ("fp32", "norm_gelu", first, 8, {}),
            ("fp32", "plain", second, 8, {}),
        )
    )


BUILDS = _builds()
