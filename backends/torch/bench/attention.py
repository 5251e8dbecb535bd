"""One relative attention alone, forward and backward: 4 heads, 197 tokens, as AutoFormer has it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from spacelang.backends.torch.bench.published.autoformer import HEAD, REACH, explicit
from spacelang.backends.torch.bench.work import Request, Work, versions
from spacelang.backends.torch.lowering.fused.attention import attention
from spacelang.backends.torch.lowering.tables import clipped_index, index_classes, index_columns

GRID = (14, 14)  # patches of AutoFormer's images
HEADS = 4
Attention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of q, k, v [B, H, N, D] and the tables of keys and of values."""


def fused(request: Request) -> Work:
    """As the fused backend has it."""
    tables = _index_tables()
    return _attended(
        lambda q, k, v, on_keys, on_values: attention(
            q, k, v, HEAD**-0.5, on_keys=(on_keys, *tables), on_values=(on_values, *tables)
        ),
        request,
    )


def published(request: Request) -> Work:
    """The same by tables of N x N x d and an explicit softmax."""
    indices = [clipped_index(*GRID, axis=axis, reach=REACH, skip=1) for axis in (0, 1)]

    def rows(table: Tensor) -> Tensor:
        return table[0, 0][indices[0]] + table[0, 1][indices[1]]

    def function(q: Tensor, k: Tensor, v: Tensor, on_keys: Tensor, on_values: Tensor) -> Tensor:
        return explicit(q, k, v, rows(on_keys), rows(on_values))

    return _attended(function, request)


def plain(request: Request) -> Work:
    """PyTorch's own attention, without relative terms: another function, of less work."""
    return _attended(
        lambda q, k, v, on_keys, on_values: F.scaled_dot_product_attention(
            q, k, v, scale=HEAD**-0.5
        ),
        request,
        tables=False,
    )


def _attended(function: Attention, request: Request, tables: bool = True) -> Work:
    random = torch.Generator().manual_seed(0)
    tokens = GRID[0] * GRID[1] + 1
    shapes = [(request["batch"], tokens, HEADS, HEAD)] * 3 + [(1, 2, 2 * REACH + 2, HEAD)] * 2
    leaves = [torch.randn(shape, generator=random).requires_grad_() for shape in shapes]
    learned = leaves if tables else leaves[:3]
    slopes = torch.randn(shapes[0], generator=random)

    def step() -> dict[str, Tensor]:
        q, k, v = (x.transpose(1, 2) for x in leaves[:3])
        y = function(q, k, v, *leaves[3:]).transpose(1, 2)
        found = torch.autograd.grad(y, learned, slopes)
        return {"y": y.detach(), **{f"gradient {n}": g for n, g in enumerate(found)}}

    def call() -> None:
        step()

    products = 2 * HEADS * tokens * tokens * HEAD  # of queries with keys, of weights with values
    return Work(call, step, {"flops": 3 * 2 * request["batch"] * products, "versions": versions()})


def _index_tables() -> tuple[Tensor, Tensor]:
    options: dict[str, float | str] = {}
    for axis in (0, 1):
        own = {"h": GRID[0], "w": GRID[1], "axis": axis, "reach": REACH, "skip": 1}
        options |= {f"t{axis}_{name}": value for name, value in own.items()}
        options |= {f"t{axis}_op": "clipped_index", f"t{axis}_turned": "False"}
    entries = 2 * REACH + 2
    return index_columns(entries, **options), index_classes(entries, **options)


BUILDERS: dict[str, Callable[[Request], Work]] = {
    "attention": fused, "attention.published": published, "attention.plain": plain,
}  # fmt: skip
