"""What parameters declare, in its plainest form: what the block itself reads of them.

Several blocks may read one tied tensor, each declaring that it be as large as the largest of them
needs it; the storage is the same where each declares its own need alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from spacelang.diagnostics import SpaceError
from spacelang.ir.block import Block
from spacelang.ir.graph import Graph
from spacelang.ir.param import Param, larger
from spacelang.ir.storage import storages
from spacelang.ir.uses import ROOT, blocks_of, with_blocks

Needs = dict[tuple[str, str], Param]
"""Parameters by the block that owns them and their path in it."""


def plain_needs(graph: Graph) -> Graph:
    """The graph whose parameters declare what their blocks read, where they are then stored as
    they are."""
    needs = {(name, p.path): p for name, b in blocks_of(graph).items() for p in _needs(b)}
    if not needs:
        return graph
    made = _declaring(graph, needs)
    try:
        before, after = graph.storages, storages(made)
    except SpaceError:
        return graph  # what has no storage is for the verifier to refuse
    wider = {path for path, found in before.items() if after[path].extents != found.extents}
    if not wider:
        return made
    for place in graph.places():
        block = place.instance.block
        name = ROOT if block is graph.root else block.name
        for view in place.node.params.values():
            if place.instance.param(view.param) in wider:
                needs.pop((name, view.param), None)
    return _declaring(graph, needs)


def _needs(block: Block) -> Iterator[Param]:
    """Parameters as large as the block reads them, of which it declares something else."""
    found: dict[str, Param] = {}
    for node in block.everywhere():
        for view in node.params.values():
            here = replace(block.param[view.param], shape=view.lengths)
            before = found.get(view.param)
            found[view.param] = here if before is None else larger(before, here)
    yield from (p for p in found.values() if not p.reserved and p != block.param[p.path])


def _declaring(graph: Graph, needs: Needs) -> Graph:
    made = {
        name: replace(block, params=tuple(needs.get((name, p.path), p) for p in block.params))
        for name, block in blocks_of(graph).items()
    }
    return with_blocks(graph, made)
