"""Attention with relative positions as one plain attention on some more channels.

    out = softmax(scale (q k^T + q_i . on_keys[index[i, j]])) v + sum_j p_ij on_values[index[i, j]]

Where few columns of an index differ (AutoFormer, iRPE's cross: one for each row or column of the
grid, and one for the class token), index[i, j] = columns[i, class of j], so that with E, the
classes of the tokens as one-hot rows,

    logits = scale [q | P] [k | E]^T      P_ic = q_i . on_keys[columns[i, c]]
    [u | m] = softmax(logits) [v | E]     m_ic = sum of p_ij over j of class c
    out = u + sum_c m_ic on_values[columns[i, c]]

to the last term what is written above: no N x N matrix exists outside of PyTorch's own attention.
The wider operands are built again in the backward pass; q, k, v, out and m are what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from spacelang.backends.torch.lowering.fused.operators import fused
from spacelang.backends.torch.lowering.fused.products import product

Term = tuple[Tensor, Tensor, Tensor]
"""Tables [H or 1, R, C, D]; columns [N, K], of entries of all tables; classes [N, K], one-hot."""
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
        return _attention(q, k, v, scale, *(_typed(t, q.dtype) for t in terms))[0]
    wide = _widened(q, k, v, *terms)
    return _narrowed(F.scaled_dot_product_attention(*wide, scale=scale), v.shape[-1], *terms[3:])


def _typed(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Tables and classes as the operands are, which autocast may have narrowed."""
    return x if x is None or not x.is_floating_point() else x.to(dtype)


def looked_up(x: Tensor, tables: Tensor, columns: Tensor) -> Tensor:
    """x_i . table[columns[i, c]]: [B, H, N, D] -> [B, H, N, K]."""
    return _multiplied(x, tables.flatten(1, 2)).gather(-1, columns.expand(*x.shape[:2], -1, -1))


def summed(mass: Tensor, columns: Tensor, entries: int) -> Tensor:
    """What falls on each entry of the tables: [B, H, N, K] -> [B, H, N, entries]."""
    empty = mass.new_zeros(*mass.shape[:-1], entries)
    return empty.scatter_add(-1, columns.expand(*mass.shape[:2], -1, -1), mass)


def _multiplied(x: Tensor, tables: Tensor) -> Tensor:
    """x [B, H, N, D] by tables [H or 1, E, D]: [B, H, N, E]."""
    if len(tables) > 1:
        return x @ tables.transpose(1, 2)
    rows = x.transpose(1, 2)  # tokens first, as linear layers give them
    found = product(rows.reshape(-1, x.shape[-1]), tables[0])
    return found.view(*rows.shape[:-1], tables.shape[1]).transpose(1, 2)


def _widened(
    q: Tensor, k: Tensor, v: Tensor,
    key_tables: Tensor | None, key_columns: Tensor | None, key_classes: Tensor | None,
    value_tables: Tensor | None, value_columns: Tensor | None, value_classes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """[q | P], [k | E] and [v | E], as wide as each other."""
    widths = [
        x.shape[-1] + (0 if e is None else e.shape[1])
        for x, e in ((q, key_classes), (v, value_classes))
    ]
    width = -(-max(widths) // ALIGNED) * ALIGNED
    found: Tensor | None = None
    if key_tables is not None:
        assert key_columns is not None
        found = looked_up(q, key_tables, key_columns)
    return (
        _beside(q, found, width),
        _beside(k, key_classes, width),
        _beside(v, value_classes, width),
    )


def _beside(x: Tensor, more: Tensor | None, width: int) -> Tensor:
    """[x | more | 0] of a width, tokens before heads in memory."""
    parts = [x] if more is None else [x, more.expand(*x.shape[:2], -1, -1)]
    left = width - sum(part.shape[-1] for part in parts)
    if left:
        parts.append(x.new_zeros(()).expand(*x.shape[:3], left))
    return torch.cat([part.transpose(1, 2) for part in parts], -1).transpose(1, 2)


def _narrowed(
    wide: Tensor, width: int, tables: Tensor | None, columns: Tensor | None, classes: Tensor | None
) -> Tensor:
    """u and the term of the values."""
    u = wide[..., :width]
    if tables is None or columns is None or classes is None:
        return u
    mass = summed(
        wide[..., width : width + classes.shape[1]], columns, tables.shape[1] * tables.shape[2]
    )
    return u + _multiplied(mass, tables.flatten(1, 2).transpose(1, 2))


def _forward(
    q: Tensor, k: Tensor, v: Tensor, scale: float,
    key_tables: Tensor | None, key_columns: Tensor | None, key_classes: Tensor | None,
    value_tables: Tensor | None, value_columns: Tensor | None, value_classes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The result, the logarithms of the sums of rows, and m."""
    values = (value_tables, value_columns, value_classes)
    wide, sums = aten._scaled_dot_product_flash_attention_for_cpu(
        *_widened(q, k, v, key_tables, key_columns, key_classes, *values),
        0.0, False, attn_mask=None, scale=scale,
    )  # fmt: skip
    width = v.shape[-1]
    mass = wide[..., width : width + _count(value_classes)]
    return _by_tokens(_narrowed(wide, width, *values)), _plain(sums), _by_tokens(mass, copy=True)


def _backward(
    slopes: Tensor, out: Tensor, sums: Tensor, mass: Tensor,
    q: Tensor, k: Tensor, v: Tensor, scale: float,
    key_tables: Tensor | None, key_columns: Tensor | None, key_classes: Tensor | None,
    value_tables: Tensor | None, value_columns: Tensor | None, value_classes: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    """Of q, k, v, and of the tables that there are."""
    keys = (key_tables, key_columns, key_classes)
    wide = _widened(q, k, v, *keys, value_tables, value_columns, value_classes)
    found: list[Tensor] = []
    more: Tensor | None = None
    if value_tables is not None:
        assert value_columns is not None
        more = looked_up(slopes, value_tables, value_columns)
        entries = summed(mass, value_columns, value_tables.shape[1] * value_tables.shape[2])
        found.append(_table_gradient(entries, slopes, value_tables))
    width = wide[0].shape[-1]
    # Attention reads its result only in sum_c slope_c out_c, to which m adds as much as it does
    # through `out`: with that in its place, and zeros for m, the sum is the same.
    q_slopes, k_slopes, v_slopes = aten._scaled_dot_product_flash_attention_for_cpu_backward(
        _beside(slopes, more, width), *wide, _beside(out, None, width), sums,
        0.0, False, attn_mask=None, scale=scale,
    )  # fmt: skip
    d = q.shape[-1]
    q_back = q_slopes[..., :d]
    if key_tables is not None:
        assert key_columns is not None
        entries = q_slopes[..., d : d + _count(key_classes)]
        entries = summed(entries, key_columns, key_tables.shape[1] * key_tables.shape[2])
        found.insert(0, _table_gradient(entries, q, key_tables))
        q_back = q_back + _multiplied(entries, key_tables.flatten(1, 2).transpose(1, 2))
    parts = (q_back, k_slopes[..., :d], v_slopes[..., : v.shape[-1]])
    return [*map(_by_tokens, parts), *found]


def _count(classes: Tensor | None) -> int:
    return 0 if classes is None else classes.shape[1]


def _by_tokens(x: Tensor, copy: bool = False) -> Tensor:
    """[B, H, N, C] with tokens before heads in memory, as linear layers give and take them."""
    rows = x.transpose(1, 2)
    rows = rows.clone(memory_format=torch.contiguous_format) if copy else rows.contiguous()
    return rows.transpose(1, 2)


def _plain(sums: Tensor) -> Tensor:
    """[B, H, N] by heads in memory, or by tokens, as PyTorch's attention has given them."""
    return sums.transpose(1, 2).contiguous().transpose(1, 2)


def _fake(q: Tensor, k: Tensor, v: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    mass = q.new_empty(*v.shape[:3], _count(others[6]))
    sums = q.new_empty(*q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
    return _empty_like(v), _plain(sums), _empty_like(mass)


def _backward_fake(
    slopes: Any, out: Any, sums: Any, mass: Any, q: Tensor, k: Tensor, v: Tensor, *others: Any
) -> list[Tensor]:
    tables = [x.new_empty(x.shape) for x in (others[1], others[4]) if x is not None]
    return [*map(_empty_like, (q, k, v)), *tables]


def _empty_like(x: Tensor) -> Tensor:
    batch, heads, tokens, width = x.shape
    return x.new_empty(batch, tokens, heads, width).transpose(1, 2)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, ctx.scale, *terms = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output, q, k, v, *terms)


def _spread(
    backward: Callable[..., Any], ctx: Any, slopes: Tensor, *_: Any
) -> tuple[Tensor | None, ...]:
    out, sums, mass, q, k, v, *terms = ctx.saved_tensors
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        found = iter(_derivable(slopes, q, k, v, ctx.scale, terms))
    else:
        found = iter(backward(slopes, out, sums, mass, q, k, v, ctx.scale, *terms))
    operands = [next(found) for _ in range(3)]
    on_keys, on_values = (None if t is None else next(found) for t in (terms[0], terms[3]))
    return (*operands, None, on_keys, None, None, on_values, None, None)


def _derivable(
    slopes: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float, terms: Sequence[Tensor | None]
) -> list[Tensor]:
    """What `_backward` gives, by operations that have derivatives: N x N matrices are kept."""
    operands = [q, k, v, *(table for table in (terms[0], terms[3]) if table is not None)]
    # Each as a view of its own: one may have been computed from another, or be the same tensor.
    apart = [x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in operands]
    q, k, v, *tables = apart
    on_keys = [tables.pop(0) if terms[0] is not None else None, *terms[1:3]]
    on_values = [tables.pop(0) if terms[3] is not None else None, *terms[4:]]
    wide = _widened(q, k, v, *on_keys, *on_values)
    with sdpa_kernel(SDPBackend.MATH):
        out = F.scaled_dot_product_attention(*wide, scale=scale)
    out = _narrowed(out, v.shape[-1], *on_values)
    return list(torch.autograd.grad(out, apart, slopes, create_graph=True))


_attention = fused("attention", _forward, _backward, _fake, _backward_fake, _setup, _spread)


def _table_gradient(entries: Tensor, x: Tensor, tables: Tensor) -> Tensor:
    """Of tables [H or 1, R, C, D], from what falls on each entry, [B, H, N, R C], and x."""
    if len(tables) > 1:
        return torch.einsum("bhne,bhnd->hed", entries, x).view(tables.shape)
    flat = (part.transpose(1, 2).reshape(-1, part.shape[-1]) for part in (entries, x))
    left, right = flat
    return product(left.t(), right.t()).view(tables.shape)
