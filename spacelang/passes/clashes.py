"""Clashes: parameters that a pass adds, where one is of their path already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.graph import Graph
from spacelang.ir.node import join
from spacelang.ir.prove import feasible
from spacelang.ir.uses import Chain
from spacelang.passes.places import Spot


def own_paths(graph: Graph, block: Block) -> Iterator[str]:
    """The paths of all parameters and decisions of a use of a block, nested ones too."""
    yield from (p.path for p in block.params)
    yield from (c.path for c in block.decisions)
    for node in block.everywhere():
        if node.call is not None:
            inner = own_paths(graph, graph.blocks[node.call.block])
            yield from (join(node.call.path, path) for path in inner)


def refuse_clashes(graph: Graph, added: Iterable[tuple[Spot, Iterable[str]]], what: str) -> None:
    """SP601 where a parameter added at a spot, by its path in the spot's block, meets another.

    Two additions of one path may stand where they exclude each other: then they share it.
    """
    kept: dict[str, list[Spot]] = {}
    known: dict[Chain, set[str]] = {}
    taken = set(graph.storages) | set(graph.decisions)
    for spot, paths in added:
        if spot.chain not in known:
            known[spot.chain] = {
                join(spot.instance.path, p) for p in own_paths(graph, spot.instance.block)
            }
        for path in (join(spot.instance.path, p) for p in paths):
            if path in taken or path in known[spot.chain]:
                raise SpaceError(
                    error("SP601", f"{what} makes {path}, which is there already", spot.node.span)
                )
            for other in kept.get(path, []):
                if feasible((*spot.instance.guards, *other.instance.guards)) is not False:
                    raise SpaceError(
                        error("SP601", f"{what} makes {path} twice", spot.node.span, "here")
                        .also(other.node.span, "and here")
                        .hint("label the two apart, and name one of them")
                    )
            kept.setdefault(path, []).append(spot)
