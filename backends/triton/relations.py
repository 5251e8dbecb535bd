"""How tokens relate in queries, keys and values: MiniViT's distillation of attention.

    loss = relations((q, k, v), (q_t, k_t, v_t), heads)       # a number

For each of the nine pairs (a, b) of q, k and v, S = a b^T / sqrt(d) of the student and T = c d^T /
sqrt(d_t) of the teacher, with s = softmax(S) and t = softmax(T) by rows, the loss of a row is

    lse(S_i) - sum_j t_ij S_ij           d loss / d S_ij = s_ij - t_ij

and the loss is the mean over pairs, images, heads and rows. Tiles of S and T are made where they
are used, in float32, and kept by nobody: both passes hold `BLOCK` x `BLOCK` of them.

The backward gives a program `BLOCK` tokens of one of q, k, v: a. With D = s - t of each pair,

    d a_i = sum_b sum_j (D^ab_ij + D^ba_ji) b_j / sqrt(d)

and S^ba_ji = S^ab_ij is the same tile, normalised by its columns: one product serves both. A
program adds to its own lines alone, so the gradient is the same at every run. The teacher has none.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from spacelang.backends.triton.launch import differentiable, launches, operator, refusal
from spacelang.backends.triton.mlp import product
from spacelang.backends.triton.resources import Build

BLOCK, DEPTH = 64, 32  # tokens of a tile; channels of a step
OPTIONS = {"num_warps": 8, "num_stages": 1}  # a tile of 64 spills with less, or with more
NAME = "relations"
INTEGERS = (
    "H",
    "N",
    "D",
    "E",
    "s_b",
    "s_n",
    "t_b",
    "t_n",
)  # heads, tokens, channels of a head of the student and of the teacher; strides of both


def reference(student: Sequence[Tensor], teacher: Sequence[Tensor], heads: int) -> Tensor:
    """The loss of every row, [9, B, heads, N], with N x N matrices, in float32."""

    def related(a: Tensor, b: Tensor) -> Tensor:
        a, b = (part.float().unflatten(2, (heads, -1)).transpose(1, 2) for part in (a, b))
        return a @ b.transpose(2, 3) / a.shape[3] ** 0.5

    pairs = zip(
        itertools.product(student, repeat=2), itertools.product(teacher, repeat=2), strict=True
    )
    return torch.stack(
        [-(related(*c).softmax(3) * related(*a).log_softmax(3)).sum(3) for a, c in pairs]
    )


@triton.jit
def _chosen(which, q, k, v):
    """One of three pointers."""
    return tl.where(which == 0, q, tl.where(which == 1, k, v))


@triton.jit
def _tile(
    a, b, i, j, N, D, stride, BLOCK: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr
):
    """a_i . b_j / sqrt(D) for BLOCK rows i and BLOCK rows j of [N, D]."""
    deep = tl.arange(0, DEPTH)
    left = a + i.to(tl.int64)[:, None] * stride
    right = b + j.to(tl.int64)[None, :] * stride
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, D, DEPTH):
        d = start + deep
        rows = tl.load(left + d[None, :], (i < N)[:, None] & (d < D)[None, :], 0.0)
        columns = tl.load(right + d[:, None], (d < D)[:, None] & (j < N)[None, :], 0.0)
        total += product(rows, columns, PRECISION)
    return total * tl.rsqrt(D.to(tl.float32))


@triton.jit(do_not_specialize=[*INTEGERS])
def _forward_kernel(
    q, k, v, q_t, k_t, v_t, losses, own, given, H, N, D, E, s_b, s_n, t_b, t_n,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Losses of rows, and lse of the student's (`own`) and of the teacher's (`given`)."""
    pair, lot = tl.program_id(1), tl.program_id(2).to(tl.int64)
    mine = (lot // H) * s_b + (lot % H) * D
    theirs = (lot // H) * t_b + (lot % H) * E
    a = _chosen(pair // 3, q, k, v) + mine
    b = _chosen(pair % 3, q, k, v) + mine
    c = _chosen(pair // 3, q_t, k_t, v_t) + theirs
    d = _chosen(pair % 3, q_t, k_t, v_t) + theirs
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    top = tl.full((BLOCK,), -float("inf"), tl.float32)  # of the student's row so far, and its sum
    total = tl.zeros((BLOCK,), tl.float32)
    top_t = tl.full((BLOCK,), -float("inf"), tl.float32)
    total_t = tl.zeros((BLOCK,), tl.float32)
    crossed = tl.zeros((BLOCK,), tl.float32)  # sum of exp(T - top_t) S
    for start in range(0, N, BLOCK):
        j = start + tl.arange(0, BLOCK)
        inside = (j < N)[None, :]
        s = _tile(a, b, i, j, N, D, s_n, BLOCK, DEPTH, PRECISION)
        t = _tile(c, d, i, j, N, E, t_n, BLOCK, DEPTH, PRECISION)
        masked = tl.where(inside, s, -float("inf"))
        above = tl.maximum(top, tl.max(masked, 1))
        total = total * tl.exp(top - above) + tl.sum(tl.exp(masked - above[:, None]), 1)
        top = above
        t = tl.where(inside, t, -float("inf"))
        above = tl.maximum(top_t, tl.max(t, 1))
        weight = tl.exp(t - above[:, None])
        shrunk = tl.exp(top_t - above)
        total_t = total_t * shrunk + tl.sum(weight, 1)
        crossed = crossed * shrunk + tl.sum(weight * s, 1)
        top_t = above
    normaliser = top + tl.log(total)
    at = (pair * tl.num_programs(2).to(tl.int64) + lot) * N + i
    tl.store(losses + at, normaliser - crossed / total_t, mask=i < N)
    tl.store(own + at, normaliser, mask=i < N)
    tl.store(given + at, top_t + tl.log(total_t), mask=i < N)


@triton.jit
def _lines(gradients, own, given, at, there):
    """The gradients of rows' losses, and their normalisers."""
    g = tl.load(gradients + at, mask=there, other=0.0)
    return g, tl.load(own + at, mask=there, other=0.0), tl.load(given + at, mask=there, other=0.0)


@triton.jit(do_not_specialize=[*INTEGERS])
def _backward_kernel(
    gradients, q, k, v, q_t, k_t, v_t, own, given, result, H, N, D, E, s_b, s_n, t_b, t_n,
    BLOCK: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients [3, lots, N, D] of q, k and v, added up in memory, for D has no bound."""
    which, lot = tl.program_id(1), tl.program_id(2).to(tl.int64)
    lots = tl.num_programs(2).to(tl.int64)
    mine = (lot // H) * s_b + (lot % H) * D
    theirs = (lot // H) * t_b + (lot % H) * E
    a = _chosen(which, q, k, v) + mine
    c = _chosen(which, q_t, k_t, v_t) + theirs
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    line = result + ((which * lots + lot) * N + i)[:, None] * D
    deep = tl.arange(0, DEPTH)
    scale = tl.rsqrt(D.to(tl.float32))
    for other in range(3):
        b = _chosen(other, q, k, v) + mine
        d = _chosen(other, q_t, k_t, v_t) + theirs
        at = ((which * 3 + other) * lots + lot) * N + i
        g, normaliser, normaliser_t = _lines(gradients, own, given, at, i < N)
        for start in range(0, N, BLOCK):
            j = start + tl.arange(0, BLOCK)
            s = _tile(a, b, i, j, N, D, s_n, BLOCK, DEPTH, PRECISION)
            t = _tile(c, d, i, j, N, E, t_n, BLOCK, DEPTH, PRECISION)
            rows = tl.exp(s - normaliser[:, None]) - tl.exp(t - normaliser_t[:, None])
            back = ((other * 3 + which) * lots + lot) * N + j
            g_j, n_j, n_t = _lines(gradients, own, given, back, j < N)
            columns = tl.exp(s - n_j[None, :]) - tl.exp(t - n_t[None, :])
            slope = (rows * g[:, None] + columns * g_j[None, :]) * scale
            inside = (i < N)[:, None] & (j < N)[None, :]
            slope = tl.where(inside, slope, 0.0).to(q.dtype.element_ty)
            for begin in range(0, D, DEPTH):
                column = (begin + deep)[None, :]
                there = (i < N)[:, None] & (column < D)
                part = b + j.to(tl.int64)[:, None] * s_n + column
                part = tl.load(part, (j < N)[:, None] & (column < D), 0.0)
                tl.debug_barrier()  # what is read here was written by other threads
                total = tl.load(line + column, there & (other + start > 0), 0.0)
                tl.store(line + column, total + product(slope, part, PRECISION), mask=there)


def unable(student: Sequence[Tensor], teacher: Sequence[Tensor], heads: int) -> str:
    """Why the kernels cannot take these operands; empty if they can."""
    first, given = student[0], teacher[0]
    if first.ndim != 3 or given.ndim != 3 or first.shape[:2] != given.shape[:2]:
        return "it takes q, k and v [B, tokens, channels] of as many tokens"
    for parts in (student, teacher):
        if len(parts) != 3 or len({(part.shape, part.dtype) for part in parts}) > 1:
            return "its q, k and v are of different shapes or types"
    if heads < 1 or first.shape[2] % heads or given.shape[2] % heads:
        return f"its channels do not make {heads} heads"
    if not first.shape[2] or not given.shape[2]:
        return "it has no channels"
    if first.shape[0] * heads > 65_535:  # the third axis of a grid
        return "it takes at most 65,535 images times heads"
    return refusal(*student, *teacher)


def _lined(parts: Sequence[Tensor]) -> Sequence[Tensor]:
    """`parts`, or copies, that lie alike, the channels of a token side by side."""
    alike = all(part.stride() == parts[0].stride() for part in parts) and parts[0].stride(2) == 1
    return parts if alike else [part.contiguous() for part in parts]


def _integers(student: Sequence[Tensor], teacher: Sequence[Tensor], heads: int) -> list[int]:
    """The run-time integers of a kernel, `INTEGERS`."""
    tokens, channels = student[0].shape[1:]
    strides = (*student[0].stride()[:2], *teacher[0].stride()[:2])
    return [heads, tokens, channels // heads, teacher[0].shape[2] // heads, *strides]


@operator("relations", NAME)
def _op(student: list[Tensor], teacher: list[Tensor], heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, and both normalisers, of all rows [9, B, heads, N]."""
    shape = (9, student[0].shape[0], heads, student[0].shape[1])
    made = [torch.empty(shape, device=student[0].device) for _ in range(3)]
    if not launches(NAME, unable(student, teacher, heads)):
        losses, own, given = made
        return losses.copy_(reference(student, teacher, heads)), own.zero_(), given.zero_()
    mine, theirs = _lined(student), _lined(teacher)
    if made[0].numel():
        grid = (triton.cdiv(shape[3], _tiled(shape[3])["BLOCK"]), 9, shape[1] * heads)
        _forward_kernel[grid](
            *mine, *theirs, *made, *_integers(mine, theirs, heads), **_tiled(shape[3])
        )  # fmt: skip
    return made[0], made[1], made[2]


@operator("relations_backward", NAME)
def _backward_op(
    gradients: Tensor,
    student: list[Tensor],
    teacher: list[Tensor],
    own: Tensor,
    given: Tensor,
    heads: int,
) -> list[Tensor]:
    """Gradients of the student's q, k and v."""
    if not launches(NAME, unable(student, teacher, heads)):
        _, pulled = torch.func.vjp(lambda *s: reference(s, teacher, heads), *student)
        return [p.clone(memory_format=torch.contiguous_format) for p in pulled(gradients)]
    mine, theirs = _lined(student), _lined(teacher)
    # As they are, a mean's shares of a row would vanish in float16.
    peak = gradients.abs().amax().clamp_min(1e-38) if gradients.numel() else gradients.sum()
    scaled = gradients / peak
    batch, tokens, channels = student[0].shape
    shape = (3, batch, heads, tokens, channels // heads)
    result = torch.empty(shape, dtype=torch.float32, device=own.device)
    if result.numel():
        grid = (triton.cdiv(tokens, _tiled(tokens)["BLOCK"]), 3, batch * heads)
        _backward_kernel[grid](
            scaled.contiguous(), *mine, *theirs, own, given, result,
            *_integers(mine, theirs, heads), **_tiled(tokens),
        )  # fmt: skip
    joined = (result * peak).transpose(2, 3).flatten(3)
    return [part.to(student[0].dtype, copy=True).contiguous() for part in joined]


def _tiled(tokens: int) -> dict[str, int | str]:
    """The tile of so many tokens: three variants, of 16, 32 and 64."""
    block = min(BLOCK, max(16, triton.next_power_of_2(tokens)))
    return {"BLOCK": block, "DEPTH": DEPTH, "PRECISION": "ieee"} | OPTIONS


@_op.register_fake
def _(student: list[Tensor], teacher: list[Tensor], heads: int) -> tuple[Tensor, Tensor, Tensor]:
    shape = (9, student[0].shape[0], heads, student[0].shape[1])
    made = [student[0].new_empty(shape, dtype=torch.float32) for _ in range(3)]
    return made[0], made[1], made[2]


@_backward_op.register_fake
def _(
    gradients: Tensor,
    student: list[Tensor],
    teacher: list[Tensor],
    own: Tensor,
    given: Tensor,
    heads: int,
) -> list[Tensor]:
    return [part.new_empty(part.shape) for part in student]


def _setup(ctx, inputs, output):
    student, teacher, ctx.heads = inputs
    ctx.save_for_backward(*student, *teacher, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx, gradients, *_):
    *parts, own, given = ctx.saved_tensors
    found = _backward_op(gradients, parts[:3], parts[3:], own, given, ctx.heads)
    return found, [None] * 3, None


differentiable(_op, _setup, _backward)


def relations(student: Sequence[Tensor], teacher: Sequence[Tensor], heads: int = 1) -> Tensor:
    """The loss of `losses.relations`, a float32 number: q, k, v [B, tokens, channels] each.

    Channels of student and teacher may differ. A teacher that learns too gets its gradient from
    the reference.
    """
    if any(part.requires_grad for part in teacher) and torch.is_grad_enabled():
        launches(NAME, "it has no gradient for a teacher")
        return reference(student, teacher, heads).mean()
    return _op(list(student), list(teacher), heads)[0].mean()


def _builds() -> tuple[Build, ...]:
    """Mini-Swin's student and teacher, in half precision and in single."""
    found: list[Build] = []
    integers = dict.fromkeys(INTEGERS, "i32")
    tile = {"BLOCK": BLOCK, "DEPTH": DEPTH, "PRECISION": "ieee"}
    for kind in ("bf16", "fp32"):
        operands = dict.fromkeys(("q", "k", "v", "q_t", "k_t", "v_t"), f"*{kind}")
        sums = {"own": "*fp32", "given": "*fp32"}
        forward = {**operands, "losses": "*fp32", **sums, **integers}
        backward = {"gradients": "*fp32", **operands, **sums, "result": "*fp32", **integers}
        found += [
            Build(f"relations.forward[{kind}]", _forward_kernel, forward, tile, OPTIONS),
            Build(f"relations.backward[{kind}]", _backward_kernel, backward, tile, OPTIONS),
        ]
    return tuple(found)


BUILDS = _builds()
