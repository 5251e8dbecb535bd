"""Uses of blocks: which calls lead to each, and blocks parted where their uses shall differ."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from spacelang.ir.block import Block
from spacelang.ir.graph import Graph, Instance
from spacelang.ir.names import fresh
from spacelang.ir.node import Node
from spacelang.ir.words import base_name

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


class _Kind(NamedTuple):
    """Uses of one block that come out alike: their mark, and of which kind each call of them is."""

    block: str
    mark: Hashable
    callees: tuple[tuple[int, int], ...]


def parted(
    graph: Graph, marks: Mapping[Chain, Hashable]
) -> tuple[dict[str, Block], dict[Chain, str]]:
    """Blocks in which uses that are marked differently are uses of different ones.

    The blocks, and the name of the block of every use, callees first. What is not marked, nor leads
    to what is, keeps its block; where all uses of a block are marked alike, they keep it too.
    """
    blocks = blocks_of(graph)
    numbers: dict[_Kind, int] = {}
    changed: list[bool] = []
    number_of: dict[Chain, int] = {}

    def visit(chain: Chain, name: str) -> int:
        callees = tuple(
            (node.id, visit((*chain, node.id), node.call.block))
            for node in blocks[name].everywhere()
            if node.call is not None
        )
        mark = marks.get(chain)
        number = numbers.setdefault(_Kind(name, mark, callees), len(numbers))
        if number == len(changed):
            changed.append(mark is not None or any(changed[callee] for _, callee in callees))
        number_of[chain] = number
        return number

    visit((), ROOT)
    names = _names(graph, list(numbers), changed)
    variants: dict[str, dict[str, Block]] = {name: {name: blocks[name]} for name in blocks}
    for kind, name in zip(numbers, names, strict=True):
        callees = {node: names[callee] for node, callee in kind.callees}
        variants[kind.block][name] = _calling(blocks[kind.block], name, callees)
    made = {name: block for here in variants.values() for name, block in here.items()}
    return made, {chain: names[number] for chain, number in number_of.items()}


def _names(graph: Graph, kinds: Sequence[_Kind], changed: Sequence[bool]) -> list[str]:
    """A name for each kind of use: the unchanged one, else the first, keeps its block's."""
    names = [kind.block for kind in kinds]
    free = {*graph.blocks, ROOT}
    taken = {*graph.blocks, graph.root.name}
    for number in sorted(range(len(kinds)), key=changed.__getitem__):
        if names[number] not in free:
            names[number] = fresh(base_name(names[number]), taken)
        free.discard(names[number])
        taken.add(names[number])
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
