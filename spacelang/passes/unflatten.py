"""Factors of parameters that were stored flat, once nothing is left to decide.

`entangle(flat)` reads one prefix of all entries, so that its axis has one factor. In a network that
reads all of it the same entries in the same order are the factors that the op gives: 576 entries of
a bias are [3, 3, 64].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from spacelang.ir.block import Block
from spacelang.ir.dim import Dim, product
from spacelang.ir.graph import Graph
from spacelang.ir.node import Attribute, Node
from spacelang.ir.param import Slice, View, leading
from spacelang.ir.uses import ROOT, blocks_of, uses, with_blocks

Factors = tuple[Dim, ...]


def unflattened(graph: Graph) -> Graph:
    """The graph in which what all readers read whole, by the same factors, has these factors."""
    readers: dict[str, set[Factors | None]] = {}
    places: dict[tuple[str, str], set[str]] = {}
    for use in uses(graph):
        name = use.block if use.chain else ROOT
        for node, role in _views(use.instance.block):
            view = node.params[role]
            path = use.instance.param(view.param)
            whole = view == leading(use.instance.block.param[view.param])
            readers.setdefault(path, set()).add(_factors(node, view) if whole else None)
            places.setdefault((name, view.param), set()).add(path)
    found: dict[str, dict[str, Factors]] = {}
    for (name, param), paths in places.items():
        kinds = {factors for path in paths for factors in readers[path]}
        for factors in kinds if len(kinds) == 1 else ():
            if factors is not None:
                found.setdefault(name, {})[param] = factors
    if not found:
        return graph
    blocks = {name: _made(block, found.get(name, {})) for name, block in blocks_of(graph).items()}
    return with_blocks(graph, blocks)


def _views(block: Block) -> Iterator[tuple[Node, str]]:
    for node in block.everywhere():
        for role in node.params:
            yield node, role


def _factors(node: Node, view: View) -> Factors | None:
    """The factors that an op gives to the one axis of a parameter, where it is stored as one."""
    given: Attribute = node.attributes.get("out")
    if node.op == "parameter":
        shape = node.attributes["shape"]
        given = shape[0] if isinstance(shape, tuple) and len(shape) == 1 else None
    if len(view.index) != 1 or len(view.index[0]) != 1 or not isinstance(given, tuple):
        return None
    factors = tuple(size for size in given if isinstance(size, Dim))
    return factors if product(factors) == view.index[0][0].length else None


def _made(block: Block, found: Mapping[str, Factors]) -> Block:
    def node(old: Node) -> Node:
        params = {role: _whole(view, found) for role, view in old.params.items()}
        regions = tuple(replace(r, nodes=tuple(map(node, r.nodes))) for r in old.regions)
        return replace(old, params=params, regions=regions)

    params = (replace(p, shape=(found[p.path],)) if p.path in found else p for p in block.params)
    return replace(block, nodes=tuple(map(node, block.nodes)), params=tuple(params))


def _whole(view: View, found: Mapping[str, Factors]) -> View:
    if view.param not in found:
        return view
    return View(view.param, (tuple(Slice(Dim.of(0), n) for n in found[view.param]),))
