"""The loss against sparse soft labels: TinyViT's distillation (ECCV 2022).

    loss = soft_labels(logits, classes, probabilities)       # [B], float32

The K kept probabilities of a sample stand for themselves; what they lack to 1 is spread evenly over
the other C - K classes, nothing where rounding has made them more; one of a class that is not 0 to
C - 1 is none of the K. With t so made and p = softmax(z) the loss of a sample is -t . log p, so

    loss = mass lse(z) - r (sum z - sum_k z_k) - sum_k t_k z_k       mass = sum t, r = residual
    d loss / d z_c = mass p_c - t_c

One pass over the C logits each way; the dense labels never exist.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from spacelang.backends.triton.launch import FLOATS, differentiable, launches, operator, refusal
from spacelang.backends.triton.resources import Build

BLOCK = 1024  # classes a step
NAME = "soft_labels"


def reference(logits: Tensor, classes: Tensor, probabilities: Tensor) -> Tensor:
    """The same by dense labels, in float32."""
    count, index = logits.shape[1], classes.long()
    there = (index >= 0) & (index < count)
    kept = probabilities.float().where(there, 0)
    others = (count - there.sum(1, keepdim=True)).clamp(min=1)
    residual = (1 - kept.sum(1, keepdim=True)).clamp(min=0) / others
    # What is nowhere goes to a class more, which is dropped.
    labels = residual.repeat(1, count + 1).scatter(1, index.where(there, count), kept)[:, :count]
    return -(labels * logits.float().log_softmax(1)).sum(1)


@triton.jit
def _labels(classes, probabilities, row, K, C, TOP: tl.constexpr):
    """The kept classes of a row, their probabilities, which are there, the residual, the mass."""
    k = tl.arange(0, TOP)
    index = tl.load(classes + row * K + k, mask=k < K, other=-1).to(tl.int64)
    # Nothing is read or written for a class there is not. -1 of an unsigned type may be one.
    inside = (k < K) & (index >= 0) & (index < C)
    kept = tl.load(probabilities + row * K + k, mask=inside, other=0.0).to(tl.float32)
    others = C - tl.sum(inside.to(tl.int32), 0)
    residual = tl.maximum(1.0 - tl.sum(kept, 0), 0.0) / tl.maximum(others, 1)
    return index, kept, inside, residual, residual * others + tl.sum(kept, 0)


@triton.jit(do_not_specialize=["stride", "C", "K"])
def _forward_kernel(
    logits, classes, probabilities, losses, normalisers, stride, C, K,
    BLOCK: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    line = logits + row * stride
    highest, total, plain = -float("inf"), 0.0, 0.0
    for start in range(0, C, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z = tl.load(line + at, mask=at < C, other=-float("inf")).to(tl.float32)
        above = tl.maximum(highest, tl.max(z, 0))
        total = total * tl.exp(highest - above) + tl.sum(tl.exp(z - above), 0)
        highest = above
        plain += tl.sum(tl.where(at < C, z, 0.0), 0)
    normaliser = highest + tl.log(total)
    index, kept, inside, residual, mass = _labels(classes, probabilities, row, K, C, TOP)
    z = tl.load(line + index, mask=inside, other=0.0).to(tl.float32)
    loss = mass * normaliser - residual * (plain - tl.sum(z, 0)) - tl.sum(kept * z, 0)
    tl.store(losses + row, loss)
    tl.store(normalisers + row, normaliser)


@triton.jit(do_not_specialize=["stride", "C", "K"])
def _backward_kernel(
    gradients, logits, classes, probabilities, normalisers, result, stride, C, K,
    BLOCK: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    _, _, _, residual, mass = _labels(classes, probabilities, row, K, C, TOP)
    z = tl.load(logits + row * stride + at, mask=at < C, other=0.0).to(tl.float32)
    slope = mass * tl.exp(z - tl.load(normalisers + row)) - residual
    value = tl.load(gradients + row) * slope
    tl.store(result + row * C + at, value.to(result.dtype.element_ty), mask=at < C)


@triton.jit(do_not_specialize=["stride", "C", "K"])
def _backward_kept_kernel(
    gradients, logits, classes, probabilities, normalisers, result, stride, C, K,
    TOP: tl.constexpr,
):  # fmt: skip
    """Over what the kernel before it wrote: the classes that have a probability of their own."""
    row = tl.program_id(0).to(tl.int64)
    index, kept, inside, _, mass = _labels(classes, probabilities, row, K, C, TOP)
    z = tl.load(logits + row * stride + index, mask=inside, other=0.0).to(tl.float32)
    slope = mass * tl.exp(z - tl.load(normalisers + row)) - kept
    value = tl.load(gradients + row) * slope
    tl.store(result + row * C + index, value.to(result.dtype.element_ty), mask=inside)


def unable(logits: Tensor, classes: Tensor, probabilities: Tensor) -> str:
    """Why the kernels cannot take these operands; empty if they can."""
    if logits.ndim != 2 or classes.shape != probabilities.shape or classes.ndim != 2:
        return "it takes logits [B, C] and labels [B, K]"
    if len(classes) != len(logits) or not 1 <= classes.shape[1] <= logits.shape[1]:
        return "it takes as many rows of labels as of logits, of at most as many classes"
    if classes.dtype not in (torch.uint16, torch.int32, torch.int64):
        return f"no kernel takes classes as {classes.dtype}"
    if logits.stride(1) != 1 and logits.shape[1] > 1:
        return "the logits of a sample do not lie side by side"
    return refusal(logits, probabilities, dtypes=FLOATS) or (
        "its operands are on different devices" if classes.device != logits.device else ""
    )


@operator("soft_labels", NAME)
def _op(logits: Tensor, classes: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Losses [B] and what normalises each row [B]."""
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    normalisers = torch.empty_like(losses)
    if not launches(NAME, unable(logits, classes, probabilities)):
        losses.copy_(reference(logits, classes, probabilities))
        return losses, normalisers.copy_(logits.float().logsumexp(1))
    count, size = logits.shape
    if count:
        k = classes.shape[1]
        _forward_kernel[(count,)](
            logits, classes.contiguous(), probabilities.contiguous(), losses, normalisers,
            logits.stride(0), size, k, BLOCK=BLOCK, TOP=triton.next_power_of_2(k),
        )  # fmt: skip
    return losses, normalisers


@operator("soft_labels_backward", NAME)
def _backward_op(
    gradients: Tensor,
    logits: Tensor,
    classes: Tensor,
    probabilities: Tensor,
    normalisers: Tensor,
) -> Tensor:
    """The gradient of the logits [B, C]."""
    if not launches(NAME, unable(logits, classes, probabilities)):
        # not autograd.grad: within an operator autograd is off
        _, pulled = torch.func.vjp(lambda z: reference(z, classes, probabilities), logits)
        return pulled(gradients)[0].contiguous()
    count, size = logits.shape
    result = torch.empty((count, size), dtype=logits.dtype, device=logits.device)
    if count:
        k = classes.shape[1]
        operands = (
            gradients.contiguous(), logits, classes.contiguous(), probabilities.contiguous(),
            normalisers, result, logits.stride(0), size, k,
        )  # fmt: skip
        top = triton.next_power_of_2(k)
        _backward_kernel[(count, triton.cdiv(size, BLOCK))](*operands, BLOCK=BLOCK, TOP=top)
        _backward_kept_kernel[(count,)](*operands, TOP=top)
    return result


@_op.register_fake
def _(logits: Tensor, classes: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    empty = logits.new_empty(len(logits), dtype=torch.float32)
    return empty, torch.empty_like(empty)


@_backward_op.register_fake
def _(
    gradients: Tensor,
    logits: Tensor,
    classes: Tensor,
    probabilities: Tensor,
    normalisers: Tensor,
) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, gradients, _):
    logits, classes, probabilities, normalisers = ctx.saved_tensors
    found = _backward_op(gradients, logits, classes, probabilities, normalisers)
    return found, None, None


differentiable(_op, _setup, _backward)


def soft_labels(logits: Tensor, classes: Tensor, probabilities: Tensor) -> Tensor:
    """The loss of each sample [B], float32, of logits [B, C] against classes and their probability.

    `classes` and `probabilities` are [B, K]; a class stands once in a row.
    """
    return _op(logits, classes, probabilities)[0]


def _builds() -> tuple[Build, ...]:
    """TinyViT's pre-training: 100 of 21,841 classes; and 10 of 1,000."""
    found: list[Build] = []
    sizes = dict.fromkeys(("stride", "C", "K"), "i32")
    sums = {"losses": "*fp32", "normalisers": "*fp32"}
    for k, kind in ((10, "bf16"), (100, "fp16")):
        labels = {"logits": f"*{kind}", "classes": "*u16", "probabilities": "*fp16"}
        slopes = {"gradients": "*fp32", **labels, "normalisers": "*fp32", "result": f"*{kind}"}
        top = {"TOP": triton.next_power_of_2(k)}
        name, constants = f"[{k} {kind}]", {"BLOCK": BLOCK, **top}
        found += [
            Build(f"soft_labels.forward{name}", _forward_kernel, labels | sums | sizes, constants),
            Build(f"soft_labels.backward{name}", _backward_kernel, slopes | sizes, constants),
            Build(f"soft_labels.kept{name}", _backward_kept_kernel, slopes | sizes, top),
        ]
    return tuple(found)


BUILDS = _builds()
