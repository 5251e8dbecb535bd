"""Places: the nodes that a path names over all uses of their blocks, and edits at some of them.

    find(graph, pattern)                 the spots of `blocks[_].attn.softmax`
    rewrite(graph, chosen, edit)         blocks edited at the chosen uses

A node is found under its label, a call under its path, a node without either under the name of
its op or, for a call, of its block. A block that is changed at all of its uses is changed in its
place, else the changed uses get a copy of it, and so do the blocks that lead to them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TypeVar

from spacelang.diagnostics import Diagnostic, SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.condition import FALSE, conjunction
from spacelang.ir.graph import Graph, Instance, conditions
from spacelang.ir.node import Node, Value, join
from spacelang.ir.pattern import Pattern
from spacelang.ir.sites import name_of
from spacelang.ir.uses import ROOT, Chain, parted, with_blocks

Key = TypeVar("Key", bound=Hashable)
INDEX = re.compile(r"\[[^\]]*\]")


@dataclass(frozen=True)
class Spot:
    """A node of one use of a block; `chain` are the call nodes that lead to the use."""

    chain: Chain
    instance: Instance
    node: Node

    @property
    def name(self) -> str:
        """What the node is called inside its block."""
        return name_of(self.node)

    @property
    def path(self) -> str:
        """Where the node is in the whole network."""
        return join(self.instance.path, self.name)

    @property
    def block(self) -> str:
        """The key of the block that the node stands in."""
        return self.instance.block.name if self.chain else ROOT


def spots(graph: Graph) -> Iterator[Spot]:
    """Every node of every use of every block, those of regions too, in the order of the text."""
    yield from _spots(graph, (), graph.top, graph.top.block)


def _spots(graph: Graph, chain: Chain, instance: Instance, level: Block) -> Iterator[Spot]:
    for node in level.nodes:
        yield Spot(chain, instance, node)
        if node.call is not None:
            inner = instance.enter(node.call, graph.blocks[node.call.block])
            yield from _spots(graph, (*chain, node.id), inner, inner.block)
        for region, condition in zip(node.regions, conditions(node), strict=True):
            here = instance.condition(condition)
            if conjunction(*instance.guards, here) != FALSE:
                yield from _spots(graph, chain, instance.under(here), region)


def find(graph: Graph, pattern: Pattern) -> tuple[Spot, ...]:
    """The nodes that a pattern names. SP504 if there is none."""
    found = tuple(
        spot
        for spot in spots(graph)
        if spot.node.op != "input" and pattern.match(spot.path) is not None
    )
    if not found:
        raise SpaceError(nothing(pattern, (spot.path for spot in spots(graph))))
    return found


def nothing(pattern: Pattern, paths: Iterable[str]) -> Diagnostic:
    """SP504 for a pattern that fits none of the paths, with the nearest one."""
    known = sorted({INDEX.sub("[_]", path) for path in paths})
    near = get_close_matches(INDEX.sub("[_]", str(pattern)), known, 1)
    found = error("SP504", f"nothing has the path {pattern}")
    return found.hint(f"did you mean {near[0]}?") if near else found


def below(path: str, pattern: Pattern) -> bool:
    """Whether a pattern names a place or one that it stands in."""
    hops = path.split(".")
    return any(pattern.match(".".join(hops[: i + 1])) is not None for i in range(len(hops)))


# Edits of one level.


def put_after(level: Block, value: Value, nodes: Sequence[Node], result: Value) -> Block:
    """The level with nodes after the one that makes a value; readers of it read `result`."""

    def other(read: Value) -> Value:
        return result if read == value else read

    made: list[Node] = []
    seen = False
    for node in level.nodes:
        made.append(replace(node, operands=tuple(map(other, node.operands))) if seen else node)
        if node.id == value.node:
            made += nodes
            seen = True
    return replace(level, nodes=tuple(made), outputs=tuple(map(other, level.outputs)))


def put_before(
    level: Block, node: int, operand: int, nodes: Sequence[Node], result: Value
) -> Block:
    """The level with nodes before one of its own, which reads `result` as that operand."""
    made: list[Node] = []
    for here in level.nodes:
        if here.id == node:
            made += nodes
            read = list(here.operands)
            read[operand] = result
            here = replace(here, operands=tuple(read))
        made.append(here)
    return replace(level, nodes=tuple(made))


# Edits of a graph.


def rewrite(
    graph: Graph, chosen: Mapping[Chain, Key], edit: Callable[[Block, Key], Block]
) -> Graph:
    """The graph with `edit(block, key)` at the uses that `chosen` names; it keeps ids of calls.

    Uses of one block that come out alike share a block. The first kind keeps the name if no use is
    left unchanged.
    """
    if not chosen:
        return graph
    blocks, names = parted(graph, chosen)
    keys = {name: chosen[chain] for chain, name in names.items() if chain in chosen}
    for name, key in keys.items():
        blocks[name] = edit(blocks[name], key)
    return with_blocks(graph, blocks)
