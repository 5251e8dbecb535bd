"""A group of attention by `flex_attention`, where that can express it: terms as changes of scores.

    model = flexible(graph, name, compiled=True)     # a network that is one attention

Lookups by queries and by keys are products with their tables before it, as they are for our
kernels. It has no place for terms of the values, and none for heads that are mixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from spacelang import plugins
from spacelang.backends.torch.lowering.lower import Lowering
from spacelang.backends.torch.supernet import Supernet
from spacelang.ir.graph import Graph
from spacelang.passes.fused_cost import group_of

Term = tuple[Tensor, Tensor]  # tables [H or 1, R, C, ..] and their index [R, N, N]
Score = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
LACKS = {
    "attention": "it has no relative term of the values",
    "mixed_attention": "it mixes no heads",
}
"""Why it cannot be a contender, where it cannot."""


def lacks(graph: Graph, name: str) -> str:
    """Why it cannot express a group of a kernel; empty where it can."""
    group = group_of(graph.blocks[name])
    if group is None or group.kernel != "attention":
        return LACKS.get("" if group is None else group.kernel, "the group is no attention")
    terms: tuple[Any, ...] = getattr(group, "terms", ())
    return LACKS["attention"] if any(term.kind == "values" for term in terms) else ""


def flexible(graph: Graph, name: str, compiled: bool) -> Supernet:
    """A network whose attention, a fused block, is computed by `flex_attention`."""
    lowering = Lowering(graph, kernels="triton")
    module = lowering.block(name).module
    function = plugins.load("spacelang.kernels", "attention")
    run = torch.compile(flex_attention, dynamic=False) if compiled else flex_attention

    def call(*operands: Any, **terms: Any) -> Tensor:
        return flexed(run, *operands, **terms)

    for node in module.graph.nodes:
        if node.target is function:
            node.target = call
    module.recompile()
    return Supernet(graph, lowering=lowering).eval()


def flexed(
    run: Callable[..., Any],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    *,
    offsets: Term | None = None,
    on_keys: Term | None = None,
    on_queries: Term | None = None,
    regions: Tensor | None = None,
) -> Tensor:
    """What our kernel of attention computes of the same operands, but for terms of the values."""
    changes: list[Score] = []
    if offsets is not None:
        changes.append(_offsets(*offsets))
    for x, term in ((q, on_keys), (k, on_queries)):
        if term is not None:
            tables = (scale * term[0]).to(x.dtype).expand(x.shape[1], *term[0].shape[1:])
            rows = torch.einsum("bhnd,hrcd->bhnrc", x, tables)
            changes.append(_lookup(rows, term[1], x is q))
    if regions is not None:
        changes.append(_apart(regions))

    def score(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        for change in changes:
            s = s + change(s, b, h, i, j)
        return s

    return run(q, k, v, score_mod=score if changes else None, scale=scale)


def _offsets(tables: Tensor, index: Tensor) -> Score:
    """Entries of tables [H or 1, R, C]."""
    heads, count, width = tables.shape

    def change(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        own = h if heads > 1 else torch.zeros_like(h)
        return _sum(count, width, index, i, j, s, lambda r, c: tables[own, r, c])

    return change


def _lookup(rows: Tensor, index: Tensor, by_query: bool) -> Score:
    """Entries of rows [B, H, N, R, C], of queries or of keys."""
    count, width = rows.shape[3:]

    def change(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        own = i if by_query else j
        return _sum(count, width, index, i, j, s, lambda r, c: rows[b, h, own, r, c])

    return change


def _sum(
    count: int,
    width: int,
    index: Tensor,
    i: Tensor,
    j: Tensor,
    s: Tensor,
    entry: Callable[[int, Tensor], Tensor],
) -> Tensor:
    """What R indices pick; an entry of an index that there is not stands for no term."""
    found = torch.zeros_like(s)
    for r in range(count):
        c = index[r, i, j].to(torch.int32)
        there = (c >= 0) & (c < width)
        found = found + torch.where(there, entry(r, torch.where(there, c, 0)).to(s.dtype), 0.0)
    return found


def _apart(regions: Tensor) -> Score:
    """-100 where two tokens of a window lie in different regions [W, N]."""
    windows = len(regions)

    def change(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        same = regions[b % windows, i] == regions[b % windows, j]
        return torch.where(same, 0.0, -100.0).to(s.dtype)

    return change
