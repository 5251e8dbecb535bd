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
from typing import Generic, TypeVar

from spacelang.diagnostics import NOWHERE, Diagnostic, SpaceError, Span, error
from spacelang.ir.block import Block
from spacelang.ir.condition import FALSE, Condition, conjunction
from spacelang.ir.graph import Graph, Instance, conditions
from spacelang.ir.infer import Infer
from spacelang.ir.names import fresh
from spacelang.ir.node import Node, TensorType, Value, join
from spacelang.ir.op import lookup
from spacelang.ir.options import complete
from spacelang.ir.pattern import Pattern
from spacelang.ir.prove import feasible

Chain = tuple[int, ...]
Key = TypeVar("Key", bound=Hashable)
ROOT = ""
"""The key of the network's own block, whose name may be that of a block, too."""
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
        node = self.node
        if node.call is not None:
            return node.call.path or stem(node.call.block)
        return node.label or node.op

    @property
    def path(self) -> str:
        """Where the node is in the whole network."""
        return join(self.instance.path, self.name)

    @property
    def block(self) -> str:
        """The key of the block that the node stands in."""
        return self.instance.block.name if self.chain else ROOT


def stem(block: str) -> str:
    """The name that the text gives to a block: `encoder` of `encoder.2`."""
    name, _, count = block.rpartition(".")
    return name if name and count.isdecimal() else block


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


def level_guards(block: Block, node: int) -> tuple[Condition, ...] | None:
    """The conditions, in the block's own sizes, under which one of its nodes stands."""
    if node in block.by_id:
        return ()
    for owner in block.nodes:
        for region, condition in zip(owner.regions, conditions(owner), strict=True):
            inner = level_guards(region, node)
            if inner is not None:
                return (condition, *inner)
    return None


def level_of(block: Block, node: int) -> Block:
    """The block or the region of it that holds a node. KeyError if there is none."""
    if node in block.by_id:
        return block
    for owner in block.nodes:
        for region in owner.regions:
            if any(inner.id == node for inner in region.everywhere()):
                return level_of(region, node)
    raise KeyError(node)


# Edits of one block.


def at_level(block: Block, node: int, change: Callable[[Block], Block]) -> Block:
    """The block with the level that holds a node changed."""
    if node in block.by_id:
        return change(block)
    nodes = tuple(
        replace(
            owner,
            regions=tuple(
                at_level(r, node, change) if any(n.id == node for n in r.everywhere()) else r
                for r in owner.regions
            ),
        )
        if owner.regions
        else owner
        for owner in block.nodes
    )
    return replace(block, nodes=nodes)


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


def apply(
    op: str,
    id: int,
    operands: Sequence[tuple[Value, TensorType]],
    options: Mapping[str, object],
    guards: tuple[Condition, ...],
    span: Span = NOWHERE,
) -> Node:
    """A node of an op without parameters, its shapes proved where it is to stand."""
    definition = lookup(op)
    attributes = complete(definition, options, span)
    infer = Infer(op, tuple(t for _, t in operands), attributes, (), guards, span)
    assert definition.shape_row is not None
    result = definition.shape_row(infer)
    types = (result,) if isinstance(result, TensorType) else tuple(result)
    return Node(id, op, tuple(v for v, _ in operands), attributes, types=types, span=span)


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
    return _Rewriter(graph, chosen, edit).run()


class _Rewriter(Generic[Key]):
    """Numbers the kinds of every block from its uses, then makes a block of each kind.

    A kind is a block, what is edited in it and which calls, by node, are of changed blocks.
    """

    def __init__(
        self, graph: Graph, chosen: Mapping[Chain, Key], edit: Callable[[Block, Key], Block]
    ) -> None:
        self.graph, self.chosen, self.edit = graph, chosen, edit
        self.numbers: dict[tuple[str, Key | None, tuple[tuple[int, int], ...]], int] = {}
        self.changed: dict[int, bool] = {}

    def run(self) -> Graph:
        self._visit((), ROOT, self.graph.root)
        names = self._names()
        blocks = dict(self.graph.blocks)
        top = self.graph.root
        for (name, key, below), number in self.numbers.items():
            if not self.changed[number]:
                continue
            callees = {node: names[inner] for node, inner in below}
            if name == ROOT:
                top = self._make(top, key, callees)
            else:
                block = replace(self.graph.blocks[name], name=names[number])
                blocks[block.name] = self._make(block, key, callees)
        outputs = tuple(
            replace(o, value=v) for o, v in zip(self.graph.outputs, top.outputs, strict=True)
        )
        return replace(self.graph, root=top, blocks=blocks, outputs=outputs)

    def _visit(self, chain: Chain, name: str, block: Block) -> int:
        """The number of the kind that a use of a block is."""
        below: list[tuple[int, int]] = []
        for node in block.everywhere():
            if node.call is not None:
                callee = node.call.block
                inner = self._visit((*chain, node.id), callee, self.graph.blocks[callee])
                if self.changed[inner]:
                    below.append((node.id, inner))
        key = self.chosen.get(chain)
        variant = (name, key, tuple(below))
        number = self.numbers.setdefault(variant, len(self.numbers))
        self.changed[number] = key is not None or bool(below)
        return number

    def _names(self) -> dict[int, str]:
        """A name for every kind; unchanged ones come first, and so keep theirs."""
        taken = {*self.graph.blocks, self.graph.root.name}
        free = {*self.graph.blocks, ROOT}
        found: dict[int, str] = {}
        for (name, _, _), number in sorted(self.numbers.items(), key=lambda v: self.changed[v[1]]):
            if name in free:
                free.discard(name)
                found[number] = name
            else:
                found[number] = fresh(stem(name), taken)
                taken.add(found[number])
        return found

    def _make(self, block: Block, key: Key | None, callees: Mapping[int, str]) -> Block:
        block = _calling(block, callees)
        return block if key is None else self.edit(block, key)


def _calling(level: Block, callees: Mapping[int, str]) -> Block:
    """A block or region whose calls, by node, are of other blocks."""
    if not callees:
        return level
    nodes = tuple(
        replace(
            node,
            call=replace(node.call, block=callees[node.id])
            if node.call is not None and node.id in callees
            else node.call,
            regions=tuple(_calling(r, callees) for r in node.regions),
        )
        for node in level.nodes
    )
    return replace(level, nodes=nodes)


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
