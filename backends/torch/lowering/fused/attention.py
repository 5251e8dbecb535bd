"""Attention with relative positions as one plain attention on some more channels.

    out = softmax(scale (q k^T + q_i . on_keys[index[i, j]])) v + sum_j p_ij on_values[index[i, j]]

Where few columns of an index differ (AutoFormer, iRPE's cross: one for each row or column of the
grid, and one for the class token), index[i, j] = columns[i, class of j], so that with E, the
classes of the tokens as one-hot rows,

    logits = scale [q | P] [k | E]^T      P_ic = q_i . on_keys[columns[i, c]]
    [u | m] = softmax(logits) [v | E]     m_ic = sum of p_ij over j of class c
    out = u + sum_c m_ic on_values[columns[i, c]]

to the last term what is written above. No N x N matrix is kept: PyTorch's own attention computes
it, or `heads.py` where that is faster. The wider operands are built again in the backward pass; q,
k, v, out and m are what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from spacelang.backends.torch.lowering.fused import heads
from spacelang.backends.torch.lowering.fused.operators import fused
from spacelang.backends.torch.lowering.fused.terms import (
    Term,
    by_tokens,
    count,
    looked_up,
    read,
    summed,
    table_gradient,
)

ALIGNED = 8  # channels are a multiple of it: 94 take longer than 96
aten = torch.ops.aten


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    *,
    on_keys: Term | None = None,
    on_values: Term | None = None,
) -> Tensor:
    """See the top of this file: q, k, v [B, H, N, D] -> [B, H, N, D]."""
    if on_keys is None and on_values is None:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    terms = (*(on_keys or (None,) * 3), *(on_values or (None,) * 3))
    if q.device.type == "cpu":
        return _attention(q, k, v, scale, heads.fits(q), *(_typed(t, q.dtype) for t in terms))[0]
    wide = _widened(q, k, v, on_keys, on_values)
    return _narrowed(F.scaled_dot_product_attention(*wide, scale=scale), v.shape[-1], on_values)


def _typed(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Tables and classes as the operands are, which autocast may have narrowed."""
    return x if x is None or not x.is_floating_point() else x.to(dtype)


def _widened(
    q: Tensor, k: Tensor, v: Tensor, on_keys: Term | None, on_values: Term | None
) -> tuple[Tensor, Tensor, Tensor]:
    """[q | P], [k | E] and [v | E], as wide as each other."""
    width = max(q.shape[-1] + count(on_keys), v.shape[-1] + count(on_values))
    width = -(-width // ALIGNED) * ALIGNED
    return (
        _beside(q, looked_up(q, on_keys), width),
        _beside(k, on_keys and on_keys[2], width),
        _beside(v, on_values and on_values[2], width),
    )


def _beside(x: Tensor, more: Tensor | None, width: int) -> Tensor:
    """[x | more | 0] of a width."""
    parts = [x] if more is None else [x, more.expand(*x.shape[:2], -1, -1)]
    left = width - sum(part.shape[-1] for part in parts)
    if left:
        parts.append(x.new_zeros(()).expand(*x.shape[:3], left))
    return torch.cat(parts, -1)


def _narrowed(wide: Tensor, width: int, on_values: Term | None) -> Tensor:
    """u and the term of the values."""
    u = wide[..., :width]
    if on_values is None:
        return u
    return u + read(summed(wide[..., width : width + count(on_values)], on_values), on_values)


def _forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float, by_head: bool,
    key_tables: Tensor | None, key_columns: Tensor | None, key_classes: Tensor | None,
    value_tables: Tensor | None, value_columns: Tensor | None, value_classes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The result, the logarithms of the sums of rows (none by head), and m."""
    on_keys = _term(key_tables, key_columns, key_classes)
    on_values = _term(value_tables, value_columns, value_classes)
    if by_head:
        out, mass = heads.attended(q, k, v, scale, on_keys, on_values)
        return out, q.new_empty(*q.shape[:2], 0), mass
    wide, sums = aten._scaled_dot_product_flash_attention_for_cpu(
        *_widened(q, k, v, on_keys, on_values), 0.0, False, attn_mask=None, scale=scale
    )
    width = v.shape[-1]
    mass = wide[..., width : width + count(on_values)]
    out = _narrowed(wide, width, on_values)
    return _by_tokens(out), _plain(sums), _by_tokens(mass, copy=True)


def _backward(
    slopes: Tensor, out: Tensor, sums: Tensor, mass: Tensor,
    q: Tensor, k: Tensor, v: Tensor, scale: float, by_head: bool,
    key_tables: Tensor | None, key_columns: Tensor | None, key_classes: Tensor | None,
    value_tables: Tensor | None, value_columns: Tensor | None, value_classes: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    """Of q, k, v, and of the tables that there are."""
    on_keys = _term(key_tables, key_columns, key_classes)
    on_values = _term(value_tables, value_columns, value_classes)
    if by_head:
        return heads.slopes_of(slopes, mass, q, k, v, scale, on_keys, on_values)
    wide = _widened(q, k, v, on_keys, on_values)
    width = wide[0].shape[-1]
    wide_slopes = _beside(slopes, looked_up(slopes, on_values), width)
    # Attention reads its result only in sum_c slope_c out_c, to which m adds as much as it does
    # through `out`: with that in its place, and zeros for m, the sum is the same.
    q_slopes, k_slopes, v_slopes = aten._scaled_dot_product_flash_attention_for_cpu_backward(
        wide_slopes, *wide, _beside(out, None, width), sums,
        0.0, False, attn_mask=None, scale=scale,
    )  # fmt: skip
    tables: list[Tensor] = []
    d = q.shape[-1]
    q_back = q_slopes[..., :d]
    if on_keys is not None:
        entries = summed(q_slopes[..., d : d + count(on_keys)], on_keys)
        tables.append(table_gradient(entries, q, on_keys))
        q_back = q_back + read(entries, on_keys)
    if on_values is not None:
        tables.append(table_gradient(summed(mass, on_values), slopes, on_values))
    parts = (q_back, k_slopes[..., :d], v_slopes[..., : v.shape[-1]])
    return [*map(_by_tokens, parts), *tables]


def _term(tables: Tensor | None, columns: Tensor | None, classes: Tensor | None) -> Term | None:
    if tables is None or columns is None or classes is None:
        return None
    return tables, columns, classes


def _by_tokens(x: Tensor, copy: bool = False) -> Tensor:
    """[B, H, N, C] with tokens before heads in memory, as linear layers give and take them."""
    rows = x.transpose(1, 2)
    rows = rows.clone(memory_format=torch.contiguous_format) if copy else rows.contiguous()
    return rows.transpose(1, 2)


def _plain(sums: Tensor) -> Tensor:
    """[B, H, N] by heads in memory, or by tokens, as PyTorch's attention has given them."""
    return sums.transpose(1, 2).contiguous().transpose(1, 2)


def _fake(
    q: Tensor, k: Tensor, v: Tensor, scale: float, by_head: bool, *terms: Any
) -> tuple[Tensor, Tensor, Tensor]:
    mass = by_tokens(v, count(_term(*terms[3:])))
    if by_head:
        return by_tokens(v), q.new_empty(*q.shape[:2], 0), mass
    sums = q.new_empty(*q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
    return by_tokens(v), _plain(sums), mass


def _backward_fake(
    slopes: Any, out: Any, sums: Any, mass: Any, q: Tensor, k: Tensor, v: Tensor, scale: float,
    by_head: bool, *terms: Any,
) -> list[Tensor]:  # fmt: skip
    tables = [x.new_empty(x.shape) for x in (terms[0], terms[3]) if x is not None]
    return [*map(by_tokens, (q, k, v)), *tables]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, ctx.scale, ctx.by_head, *terms = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output, q, k, v, *terms)


def _spread(
    backward: Callable[..., Any], ctx: Any, slopes: Tensor, *_: Any
) -> tuple[Tensor | None, ...]:
    out, sums, mass, q, k, v, *terms = ctx.saved_tensors
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        found = iter(_derivable(slopes, q, k, v, ctx.scale, terms))
    else:
        found = iter(backward(slopes, out, sums, mass, q, k, v, ctx.scale, ctx.by_head, *terms))
    operands = [next(found) for _ in range(3)]
    on_keys, on_values = (None if t is None else next(found) for t in (terms[0], terms[3]))
    return (*operands, None, None, on_keys, None, None, on_values, None, None)


def _derivable(
    slopes: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float, terms: Sequence[Tensor | None]
) -> list[Tensor]:
    """What `_backward` gives, by operations that have derivatives: N x N matrices are kept."""
    operands = [q, k, v, *(table for table in (terms[0], terms[3]) if table is not None)]
    # Each as a view of its own: one may have been computed from another, or be the same tensor.
    apart = [x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in operands]
    q, k, v, *tables = apart
    on_keys = _term(tables.pop(0) if terms[0] is not None else None, *terms[1:3])
    on_values = _term(tables.pop(0) if terms[3] is not None else None, *terms[4:])
    wide = _widened(q, k, v, on_keys, on_values)
    with sdpa_kernel(SDPBackend.MATH):
        out = F.scaled_dot_product_attention(*wide, scale=scale)
    out = _narrowed(out, v.shape[-1], on_values)
    return list(torch.autograd.grad(out, apart, slopes, create_graph=True))


_attention = fused("attention", _forward, _backward, _fake, _backward_fake, _setup, _spread)
