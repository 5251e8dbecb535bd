"""Relative terms of attention: what queries find in tables, and what falls on their entries.

Tensors are [.., H, N, C], tables [H or 1, entries, C]: those of all heads, or one for each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spacelang.backends.torch.lowering.fused.products import product

Term = tuple[Tensor, Tensor, Tensor]
"""Tables [H or 1, R, C, D]; columns [N, K], of entries of all tables; classes [N, K], one-hot."""


def looked_up(x: Tensor, term: Term | None) -> Tensor | None:
    """x_i . table[columns[i, c]]: [.., H, N, D] -> [.., H, N, K]."""
    if term is None:
        return None
    tables, columns, _ = term
    return _multiplied(x, tables.flatten(1, 2)).gather(-1, columns.expand(*x.shape[:-2], -1, -1))


def summed(mass: Tensor, term: Term) -> Tensor:
    """What falls on each entry of the tables: [.., H, N, K] -> [.., H, N, R C]."""
    tables, columns, _ = term
    *batch, heads, tokens, _ = mass.shape
    empty = mass.new_zeros(*batch, tokens, heads, tables.shape[1] * tables.shape[2])
    index = columns.expand(*batch, heads, -1, -1)
    return empty.transpose(-3, -2).scatter_add_(-1, index, mass)


def read(entries: Tensor, term: Term) -> Tensor:
    """The rows of the tables, each times its entry, in all: [.., H, N, R C] -> [.., H, N, D]."""
    return _multiplied(entries, term[0].flatten(1, 2).mT)


def table_gradient(entries: Tensor, x: Tensor, term: Term) -> Tensor:
    """Of the tables, from what falls on each entry, [.., H, N, R C], and x [.., H, N, D]."""
    shape = term[0].shape
    if len(term[0]) > 1:
        return torch.einsum("...hne,...hnd->hed", entries, x).view(shape)
    rows, columns = (
        part.transpose(-3, -2).reshape(-1, part.shape[-1]).t() for part in (entries, x)
    )
    return product(rows, columns).view(shape)


def count(term: Term | None) -> int:
    """How many classes there are."""
    return 0 if term is None else term[2].shape[1]


def by_tokens(x: Tensor, width: int | None = None) -> Tensor:
    """An empty [B, H, N, C], as x is, with tokens before heads in memory: so linear layers are."""
    batch, heads, tokens, own = x.shape
    return x.new_empty(batch, tokens, heads, own if width is None else width).transpose(1, 2)


def _multiplied(x: Tensor, tables: Tensor) -> Tensor:
    """x [.., H, N, D] by tables [H or 1, E, D]: [.., H, N, E]."""
    if len(tables) > 1:
        return x @ tables.mT
    rows = x.transpose(-3, -2)  # tokens first, as linear layers give them
    found = product(rows.reshape(-1, x.shape[-1]), tables[0])
    return found.view(*rows.shape[:-1], tables.shape[1]).transpose(-3, -2)
