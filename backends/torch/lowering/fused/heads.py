"""Relative attention head by head: its N x N matrix is made, used while in a cache, and dropped.

    if fits(q):
        out, mass = attended(q, k, v, scale, on_keys, on_values)
        slopes = slopes_of(slopes, mass, q, k, v, scale, on_keys, on_values)

PyTorch's own attention goes by blocks of rows, in float32 with products by MKL; whole heads are
products that oneDNN computes in half the time. In bfloat16, where oneDNN has products of many
matrices, it is all heads of an image. The weights are worked out again in the backward pass.
Images go one by one: pages of what all of them would need are given back and zeroed at each call.
Names are those of `attention.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spacelang.backends.torch.lowering.fused.operators import constant
from spacelang.backends.torch.lowering.fused.products import product
from spacelang.backends.torch.lowering.fused.terms import (
    Term,
    by_tokens,
    count,
    looked_up,
    read,
    summed,
    table_gradient,
)

LEAST = 3 << 19  # multiply-adds of a product from which they are more than their calls
MOST = 1025  # tokens, as far as it was measured: three matrices of a head are 13 MB
THREADS = 1, 2  # with more, a head has too little work for all, and an image


def fits(q: Tensor) -> bool:
    """Whether attention of queries [B, H, N, D] is faster so."""
    heads, tokens, width = q.shape[1:]
    work = tokens * tokens * width * (1 if _alone(q) else heads)
    return tokens <= MOST and work >= LEAST and _threads() <= THREADS[not _alone(q)]


@constant
def _threads() -> int:
    return torch.get_num_threads()


def attended(
    q: Tensor, k: Tensor, v: Tensor, scale: float, on_keys: Term | None, on_values: Term | None
) -> tuple[Tensor, Tensor]:
    """The result [B, H, N, D], and m [B, H, N, K]."""
    width = v.shape[-1]
    out = by_tokens(v)
    mass = by_tokens(v, count(on_values))
    wide = wide_q, wide_k, wide_v = _rooms((q, on_keys), (k, on_keys), (v, on_values))
    heads = tuple(zip(*map(_parts, wide), strict=True))
    for q_, k_, v_, u, m in zip(q, k, v, out, mass, strict=True):
        q_ = q_ * scale
        _put(wide_q, q_, looked_up(q_, on_keys))
        _put(wide_k, k_)
        _put(wide_v, v_)
        for (x, y, z), to_u, to_m in zip(heads, _parts(u), _parts(m), strict=True):
            both = _times(_weights(x, y), z.mT)
            to_u.copy_(both[..., :width])
            to_m.copy_(both[..., width:])
        if on_values is not None:
            u.add_(read(summed(m, on_values), on_values))
    return out, mass


def slopes_of(
    slopes: Tensor, mass: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float,
    on_keys: Term | None, on_values: Term | None,
) -> list[Tensor]:  # fmt: skip
    """The gradients of q, k, v, and of the tables that there are."""
    d, e = q.shape[-1], v.shape[-1]
    results = q_back, k_back, v_back = [by_tokens(x) for x in (q, k, v)]
    key_tables, value_tables = (_sums(term) for term in (on_keys, on_values))
    wide_q, wide_k, wide_v, wide_s = wide = _rooms(
        (q, on_keys), (k, on_keys), (v, on_values), (slopes, on_values)
    )
    whole = torch.empty_like(wide_q)
    heads = tuple(zip(*map(_parts, (*wide, whole)), strict=True))
    images = zip(slopes, mass, q, k, v, *results, strict=True)
    for s, m, q_, k_, v_, to_q, to_k, to_v in images:
        q_ = q_ * scale
        _put(wide_q, q_, looked_up(q_, on_keys))
        _put(wide_k, k_)
        _put(wide_v, v_)
        _put(wide_s, s, looked_up(s, on_values))
        for (x, y, z, t, back_x), back_y, back_z in zip(
            heads, _parts(to_k), _parts(to_v), strict=True
        ):
            p = _weights(x, y)
            back_z.copy_(_times(p.mT, t[..., :e].mT))
            logits = torch.ops.aten._softmax_backward_data(_times(t, z), p, -1, p.dtype)
            back_x.copy_(_times(logits, y.mT))
            back_y.copy_(_times(logits.mT, x[..., :d].mT))
        if on_values is not None:
            value_tables += table_gradient(summed(m, on_values), s, on_values)
        if on_keys is None:
            to_q.copy_(whole)
        else:
            entries = summed(whole[..., d:], on_keys)
            key_tables += table_gradient(entries, q_, on_keys)
            torch.add(whole[..., :d], read(entries, on_keys), out=to_q)
    both = ((key_tables, on_keys), (value_tables, on_values))
    tables = [found.to(q.dtype) for found, term in both if term is not None]
    return [q_back.mul_(scale), k_back, v_back, *tables]


def _sums(term: Term | None) -> Tensor:
    """Zeros for the gradient of tables, to which images add: at least of 32 bits."""
    if term is None:
        return torch.zeros(0)
    return torch.zeros_like(term[0], dtype=torch.promote_types(term[0].dtype, torch.float32))


def _times(x: Tensor, y: Tensor) -> Tensor:
    """x y^T."""
    return product(x, y) if x.dim() == 2 else torch.bmm(x, y.mT)


def _weights(q: Tensor, k: Tensor) -> Tensor:
    return torch.softmax(_times(q, k), -1, dtype=q.dtype)


def _rooms(*operands: tuple[Tensor, Term | None]) -> tuple[Tensor, ...]:
    """For one image of each operand: its channels, and the classes of its term."""
    rooms: list[Tensor] = []
    for x, term in operands:
        rooms.append(x.new_empty(*x.shape[1:3], x.shape[3] + count(term)))
        if term is not None:
            rooms[-1][..., x.shape[3] :] = term[2]
    return tuple(rooms)


def _put(room: Tensor, x: Tensor, more: Tensor | None = None) -> None:
    room[..., : x.shape[-1]] = x
    if more is not None:
        room[..., x.shape[-1] :] = more


def _parts(x: Tensor) -> tuple[Tensor, ...]:
    return x.unbind() if _alone(x) else (x,)


def _alone(x: Tensor) -> bool:
    """Whether heads are computed one by one, as oneDNN takes them, else all of an image."""
    return x.dtype == torch.float32
