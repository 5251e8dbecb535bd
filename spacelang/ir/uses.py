"""Uses of blocks: which calls lead to each, and blocks parted where their uses shall differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from spacelang.ir.block import Block
from spacelang.ir.graph import Graph, Instance
from spacelang.ir.names import fresh
from spacelang.ir.node import Node

ROOT = ""
"""The key of the network's own block, whose name may be that of a block, too."""

Chain = tuple[int, ...]


@dataclass(frozen=True)
class Use:
    """One use of a block; `chain` are the ids of the calls that lead to it from the root.

    `named` says whether its call has a path of its own, not just its caller's.
    """

    chain: Chain
    block: str
    instance: Instance
    named: bool = True


def uses(graph: Graph) -> Iterator[Use]:
    """Every use of every block, callers first."""
    waiting = [Use((), ROOT, graph.top)]
    while waiting:
        use = waiting.pop()
        yield use
        inner = [
            Use(
                (*use.chain, node.id),
                node.call.block,
                use.instance.enter(node.call, graph.blocks[node.call.block]),
                bool(node.call.path),
            )
            for node in use.instance.block.everywhere()
            if node.call is not None
        ]
        waiting += reversed(inner)


def blocks_of(graph: Graph) -> dict[str, Block]:
    """All blocks by name, the root under `ROOT`."""
    return {**graph.blocks, ROOT: graph.root}


def with_blocks(graph: Graph, blocks: Mapping[str, Block]) -> Graph:
    """The graph with other blocks; its outputs are what the root now yields, in their order."""
    root = blocks[ROOT]
    outputs = (replace(o, value=v) for o, v in zip(graph.outputs, root.outputs, strict=True))
    inner = {name: block for name, block in blocks.items() if name != ROOT}
    return replace(graph, root=root, blocks=inner, outputs=tuple(outputs))


def parted(
    graph: Graph, marks: Mapping[Chain, frozenset[int]]
) -> tuple[dict[str, Block], dict[Chain, str]]:
    """Blocks in which uses that are marked differently are uses of different ones.

    The blocks, and the name of the block of every use. What is not marked, nor leads to what is,
    keeps its block; where all uses of a block are marked alike, they keep it too.
    """
    found = list(uses(graph))
    kinds: dict[tuple[object, ...], int] = {}
    kind_of: dict[Chain, int] = {}
    members: dict[str, dict[int, bool]] = {}
    callees: dict[int, Mapping[int, int]] = {}
    plain: dict[int, bool] = {}
    for use in reversed(found):
        below = {
            node.id: kind_of[(*use.chain, node.id)]
            for node in use.instance.block.everywhere()
            if node.call is not None
        }
        marked = marks.get(use.chain, frozenset())
        key = (use.block, marked, tuple(sorted(below.items())))
        kind = kinds.setdefault(key, len(kinds))
        kind_of[use.chain], callees[kind] = kind, below
        plain[kind] = not marked and all(plain[k] for k in below.values())
        members.setdefault(use.block, {})[kind] = plain[kind]
    names = _names(graph, members)
    blocks: dict[str, Block] = {}
    for name, block in blocks_of(graph).items():
        for kind in sorted(members.get(name, {}), key=lambda kind: names[kind] != name):
            inner = {id: names[k] for id, k in callees[kind].items()}
            blocks[names[kind]] = _calling(block, names[kind], inner)
        blocks.setdefault(name, block)
    return blocks, {chain: names[kind] for chain, kind in kind_of.items()}


def _names(graph: Graph, members: Mapping[str, Mapping[int, bool]]) -> dict[int, str]:
    """A name for each kind of use: the plain one, else the first, keeps its block's."""
    names: dict[int, str] = {}
    taken = set(graph.blocks)
    for block, here in members.items():
        keeps = next((kind for kind, is_plain in here.items() if is_plain), next(iter(here)))
        for kind in here:
            name = block if kind == keeps else fresh(block, taken)
            taken.add(name)
            names[kind] = name
    return names


def _calling(block: Block, name: str, callees: Mapping[int, str]) -> Block:
    """A block under a name, whose calls lead to other blocks; itself if nothing differs."""
    calls = [node for node in block.everywhere() if node.call is not None]
    same = all(n.call is not None and n.call.block == callees[n.id] for n in calls)
    if name in (block.name, ROOT) and same:
        return block

    def node(old: Node) -> Node:
        call = None if old.call is None else replace(old.call, block=callees[old.id])
        regions = tuple(replace(r, nodes=tuple(map(node, r.nodes))) for r in old.regions)
        return replace(old, call=call, regions=regions)

    return replace(block, name=name or block.name, nodes=tuple(map(node, block.nodes)))
