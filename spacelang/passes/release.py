"""Releasing: parameters as their ops declare them, without what earlier storage rules made of them.

    qkv.bias stored flat, or once for every candidate    ->    [3, heads, dim], leading entries

Storage is laid out by rules after every pass; a flat prefix has lost its factors by then, so a rule
that takes the place of another starts from the op again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from spacelang.ir import levels
from spacelang.ir.block import Block
from spacelang.ir.dim import ZERO, Dim
from spacelang.ir.graph import Graph
from spacelang.ir.infer import Settled
from spacelang.ir.node import Node
from spacelang.ir.param import Gather, Param, Slice, View
from spacelang.ir.retype import At, inferred
from spacelang.ir.uses import Chain
from spacelang.passes.places import rewrite, spots


def released(graph: Graph, paths: Collection[str]) -> Graph:
    """The graph with the stored parameters of these paths as their ops declare them."""
    chosen: dict[Chain, list[int]] = {}
    for spot in spots(graph):
        if any(spot.instance.param(view.param) in paths for view in spot.node.params.values()):
            chosen.setdefault(spot.chain, []).append(spot.node.id)
    return rewrite(graph, {c: tuple(sorted(set(nodes))) for c, nodes in chosen.items()}, _declared)


def _declared(block: Block, nodes: tuple[int, ...]) -> Block:
    params = {param.path: param for param in block.params}
    fresh: dict[int, dict[str, View]] = {}
    for node in nodes:
        here = levels.find(block, node, ())
        assert here is not None
        fresh[node] = _views(here.level, here.node, At(here.guards), params)

    def changed(node: Node) -> Node:
        regions = tuple(level(r) for r in node.regions)
        return replace(node, params=fresh.get(node.id, node.params), regions=regions)

    def level(inner: Block) -> Block:
        return replace(inner, nodes=tuple(map(changed, inner.nodes)))

    return replace(level(block), params=tuple(params.values()))


def _views(level: Block, node: Node, at: At, params: dict[str, Param]) -> dict[str, View]:
    """The views of a node from the start of each factor; what it reads is declared anew."""
    types = tuple(level.type_of(v) for v in node.operands)
    found = inferred(node, types, at, Settled)  # proved at its uses, where more may hold
    views: dict[str, View] = {}
    for role, old in node.params.items():
        param, fresh = params[old.param], found.params[role]
        if _ranks(param.shape) == _ranks(fresh.shape):
            params[old.param] = replace(param, bank=())
            views[role] = View(old.param, tuple(tuple(map(_leading, axis)) for axis in old.index))
        else:
            params[old.param] = replace(param, shape=fresh.shape, bank=())
            views[role] = View(old.param, found.views[role].index)
    return views


def _ranks(shape: tuple[tuple[Dim, ...], ...]) -> tuple[int, ...]:
    return tuple(map(len, shape))


def _leading(part: Slice | Gather) -> Slice | Gather:
    """The leading entries of a decided size, without a rule's start or table; a known size stays
    where it is."""
    return Slice(ZERO, part.length) if part.length.symbols else part
