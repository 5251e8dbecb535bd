"""A weighted sum of candidate operations' outputs, with gradients of the weights (DARTS, CDARTS).

    node = mixture([pool(x), None, conv(x)], alpha.softmax(0))       # None is the zero operation

    out = sum_o w_o x_o           d x_o = w_o g           d w_o = sum of g x_o

One pass over the candidates each way, where a sum of products takes one each; what is None is
neither read nor written. A program sums d w over its own block, and the blocks are added in order:
gradients are the same at every run. Eight candidates at most: one variant, whichever are there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from spacelang.backends.triton.launch import differentiable, launches, operator, refusal, wide
from spacelang.backends.triton.resources import Build

BLOCK = 1024  # elements of a program
MOST = 8  # candidates
NAME = "mixture"


def reference(candidates: Sequence[Tensor], weights: Tensor, places: Sequence[int]) -> Tensor:
    """The same, summed in float32."""
    pairs = zip(candidates, places, strict=True)
    found = sum(wide(weights[place]) * wide(x) for x, place in pairs)
    return torch.as_tensor(found).to(candidates[0].dtype)


@triton.jit
def _weighted(total, weights, source, at, n, present, PLACE: tl.constexpr):
    """`total` and what candidate `PLACE` adds; one that is not there is not read."""
    there = ((present >> PLACE) & 1) > 0
    weight = tl.load(weights + PLACE, mask=there, other=0.0).to(tl.float32)
    x = tl.load(source + at, mask=(at < n) & there, other=0.0).to(tl.float32)
    return total + weight * x


@triton.jit(do_not_specialize=["n", "present"])
def _forward_kernel(
    x0, x1, x2, x3, x4, x5, x6, x7, weights, out, n, present,
    BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    total = _weighted(total, weights, x0, at, n, present, 0)
    total = _weighted(total, weights, x1, at, n, present, 1)
    total = _weighted(total, weights, x2, at, n, present, 2)
    total = _weighted(total, weights, x3, at, n, present, 3)
    total = _weighted(total, weights, x4, at, n, present, 4)
    total = _weighted(total, weights, x5, at, n, present, 5)
    total = _weighted(total, weights, x6, at, n, present, 6)
    total = _weighted(total, weights, x7, at, n, present, 7)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=at < n)


@triton.jit
def _sloped(gradient, weights, source, result, sums, at, n, present, PLACE: tl.constexpr):
    """Write the gradient of candidate `PLACE`, and this block's share of its weight's."""
    there = ((present >> PLACE) & 1) > 0
    inside = (at < n) & there
    weight = tl.load(weights + PLACE, mask=there, other=0.0).to(tl.float32)
    x = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(result + at, (weight * gradient).to(result.dtype.element_ty), mask=inside)
    tl.store(sums + PLACE, tl.sum(gradient * x, 0))


@triton.jit(do_not_specialize=["n", "present"])
def _backward_kernel(
    gradients, x0, x1, x2, x3, x4, x5, x6, x7, weights,
    d0, d1, d2, d3, d4, d5, d6, d7, sums, n, present,
    BLOCK: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0).to(tl.int64)
    at = block * BLOCK + tl.arange(0, BLOCK)
    line = sums + block * MOST
    g = tl.load(gradients + at, mask=at < n, other=0.0).to(tl.float32)
    _sloped(g, weights, x0, d0, line, at, n, present, 0)
    _sloped(g, weights, x1, d1, line, at, n, present, 1)
    _sloped(g, weights, x2, d2, line, at, n, present, 2)
    _sloped(g, weights, x3, d3, line, at, n, present, 3)
    _sloped(g, weights, x4, d4, line, at, n, present, 4)
    _sloped(g, weights, x5, d5, line, at, n, present, 5)
    _sloped(g, weights, x6, d6, line, at, n, present, 6)
    _sloped(g, weights, x7, d7, line, at, n, present, 7)


def unable(candidates: Sequence[Tensor], weights: Tensor, places: Sequence[int]) -> str:
    """Why the kernels cannot take these operands; empty if they can."""
    if weights.ndim != 1 or len(weights) > MOST:
        return f"it takes a list of at most {MOST} weights"
    if list(places) != sorted(set(places)) or not all(0 <= p < len(weights) for p in places):
        return "it takes each candidate once, in the order of the weights"
    if len({(x.shape, x.dtype) for x in candidates}) > 1:
        return "its candidates are of different shapes or types"
    return refusal(*candidates, weights)


def _dense(candidates: Sequence[Tensor]) -> bool:
    """Whether all lie alike and without gaps, so that their memory can be gone through as it is."""
    stride = torch.empty_like(candidates[0]).stride()
    return all(x.stride() == stride for x in candidates)


def _spread(parts: Sequence[Tensor], places: Sequence[int]) -> list[Tensor]:
    """Each part at its place of `MOST`; at the others any, for it is not touched."""
    there = dict(zip(places, parts, strict=True))
    return [there.get(place, parts[0]) for place in range(MOST)]


@operator("mixture", NAME)
def _op(candidates: list[Tensor], weights: Tensor, places: list[int]) -> Tensor:
    """The sum, of the shape and type of a candidate."""
    dense = _dense(candidates)
    out = torch.empty_like(candidates[0], memory_format=_format(dense))
    if not launches(NAME, unable(candidates, weights, places)):
        return out.copy_(reference(candidates, weights, places))
    parts = candidates if dense else [x.contiguous() for x in candidates]
    if out.numel():
        _forward_kernel[(triton.cdiv(out.numel(), BLOCK),)](
            *_spread(parts, places), weights.contiguous(), out, out.numel(), _present(places),
            BLOCK=BLOCK,
        )  # fmt: skip
    return out


@operator("mixture_backward", NAME)
def _backward_op(
    gradients: Tensor, candidates: list[Tensor], weights: Tensor, places: list[int]
) -> list[Tensor]:
    """Gradients of the candidates, then that of the weights."""
    dense = _dense([*candidates, gradients])
    layout = _format(dense)
    results = [torch.empty_like(x, memory_format=layout) for x in candidates]
    if not launches(NAME, unable(candidates, weights, places)):
        # not autograd.grad: within an operator autograd is off
        _, pulled = torch.func.vjp(lambda w, *x: reference(x, w, places), weights, *candidates)
        slope, *found = pulled(gradients)
        return [*(a.copy_(b) for a, b in zip(results, found, strict=True)), slope]
    parts = candidates if dense else [x.contiguous() for x in candidates]
    total = results[0].numel()
    sums = torch.empty((triton.cdiv(total, BLOCK), MOST), device=weights.device)
    if total:
        _backward_kernel[(len(sums),)](
            gradients if dense else gradients.contiguous(), *_spread(parts, places),
            weights.contiguous(), *_spread(results, places), sums, total, _present(places),
            BLOCK=BLOCK, MOST=MOST,
        )  # fmt: skip
    return [*results, sums.sum(0)[: len(weights)].to(weights.dtype, copy=True)]


def _present(places: Sequence[int]) -> int:
    """The candidates that are there, a bit each."""
    return sum(1 << place for place in places)


def _format(dense: bool) -> torch.memory_format:
    return torch.preserve_format if dense else torch.contiguous_format


@_op.register_fake
def _(candidates: list[Tensor], weights: Tensor, places: list[int]) -> Tensor:
    return torch.empty_like(candidates[0], memory_format=_format(_dense(candidates)))


@_backward_op.register_fake
def _(
    gradients: Tensor, candidates: list[Tensor], weights: Tensor, places: list[int]
) -> list[Tensor]:
    layout = _format(_dense([*candidates, gradients]))
    found = [torch.empty_like(x, memory_format=layout) for x in candidates]
    return [*found, weights.new_empty(weights.shape)]


def _setup(ctx, inputs, output):
    candidates, weights, ctx.places = inputs
    ctx.save_for_backward(*candidates, weights)


def _backward(ctx, gradients):
    *candidates, weights = ctx.saved_tensors
    *found, slope = _backward_op(gradients, candidates, weights, ctx.places)
    return found, slope, None


differentiable(_op, _setup, _backward)


def mixture(candidates: Sequence[Tensor | None], weights: Tensor) -> Tensor:
    """The sum of `weights[o] * candidates[o]` over the candidates that are not None.

    Candidates are of one shape and type, which the sum has too; at least one is there.
    """
    found = {place: x for place, x in enumerate(candidates) if x is not None}
    if not found or len(candidates) != len(weights):
        raise ValueError("a mixture takes a weight for each candidate, one of which is not None")
    return _op(list(found.values()), weights, list(found))


def _builds() -> tuple[Build, ...]:
    """CDARTS's eight candidates."""
    inputs = {f"x{place}": "*bf16" for place in range(MOST)}
    results = {f"d{place}": "*bf16" for place in range(MOST)}
    sizes = {"n": "i32", "present": "i32"}
    forward = {**inputs, "weights": "*fp32", "out": "*bf16", **sizes}
    backward = {
        "gradients": "*bf16", **inputs, "weights": "*fp32", **results, "sums": "*fp32", **sizes,
    }  # fmt: skip
    most = {"BLOCK": BLOCK, "MOST": MOST}
    return (
        Build("mixture.forward", _forward_kernel, forward, {"BLOCK": BLOCK}),
        Build("mixture.backward", _backward_kernel, backward, most),
    )


BUILDS = _builds()
