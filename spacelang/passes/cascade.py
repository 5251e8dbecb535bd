"""Cascading: plain multi-head attention becomes cascaded groups (EfficientViT).

    head 1    sees the first slice of the channels
    head i    sees the i-th slice plus the result of head i - 1

Two ways of writing a plain attention are understood. With heads on slices, side by side:

    for i in 0..<heads { ys = ys + [head(parts[i])] }  y = concat(ys, axis: 1)

the slices get their sum and nothing else changes. With all heads out of one projection (DeiT):

    q, k, v = linear(x, [3, heads, dim]) as qkv |> ..  linear(o, C, axes: 2) as proj

every group of heads gets a projection of its slice, `qkv[0]`, `qkv[1]`, .., in the place of the
whole (`heads.py`). One group is the plain attention again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import ClassVar

from spacelang.diagnostics import NOWHERE, Report, SpaceError, Span, error, spelt
from spacelang.ir.block import Block
from spacelang.ir.conflict import shown
from spacelang.ir.graph import Graph
from spacelang.ir.node import Node, Value
from spacelang.ir.pattern import Pattern
from spacelang.ir.retype import At, differs
from spacelang.ir.uses import Chain
from spacelang.passes.base import Pass
from spacelang.passes.heads import grouped
from spacelang.passes.places import find, rewrite
from spacelang.passes.remake import Body, without_stale_rules


@dataclass(frozen=True)
class Cascade(Pass):
    """Cascade the attention of the blocks that `path` names, in `parts` groups (0: one a head)."""

    name: ClassVar[str] = "cascade"
    preserves: ClassVar[frozenset[str]] = frozenset({"space"})
    path: Pattern
    parts: int = 0

    def run(self, graph: Graph, report: Report) -> Graph:
        """The graph in which each group of heads is also fed by what the one before it gave."""
        if not _counts(self.parts):
            raise SpaceError(error("SP209", f"cascade: parts is a number, not {spelt(self.parts)}"))
        chosen: dict[Chain, bool] = {}
        for spot in find(graph, self.path):
            if spot.node.call is None:
                what = f"{spot.path} is no block"
                raise refuse(what, "name the one that holds the attention", spot.node.span)
            chosen[(*spot.chain, spot.node.id)] = True
        made = rewrite(graph, chosen, lambda block, _: self._block(block, graph.blocks))
        return without_stale_rules(graph, made)

    def _block(self, block: Block, blocks: Mapping[str, Block]) -> Block:
        slices = find_slices(block)
        if slices is None:
            return grouped(block, self.parts, blocks)
        heads = len(slices.results)
        if self.parts not in (0, 1, heads):
            raise refuse(
                f"{block.name} has {heads} heads on slices",
                f"they cannot make {self.parts} groups",
                slices.split.span,
            )
        return block if heads == 1 or self.parts == 1 else slices.cascaded(block)


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def refuse(what: str, why: str, span: Span = NOWHERE) -> SpaceError:
    """SP601: the node that does not fit, and the reason."""
    return SpaceError(error("SP601", f"cascade does not fit: {what}", span).note(why))


@dataclass(frozen=True)
class Slices:
    """Heads on slices: the split, the join, and what each head gives."""

    split: Node
    join: Node
    results: tuple[Value, ...]
    head: Mapping[int, int]

    def cascaded(self, block: Block) -> Block:
        body = Body(count(block.next_id))
        for node in block.nodes:
            body.types.update(zip(node.values, node.types, strict=True))
        fed: dict[int, Value] = {}
        nodes: list[Node] = []
        for node in _in_turn(block, self.head):
            head = self.head.get(node.id, 0)
            part = Value(self.split.id, head)
            if head and part in node.operands:
                if head not in fed:
                    self._check(block, head)
                    before = self.results[head - 1]
                    fed[head] = body.one("add", [part, before], span=self.split.span)
                    nodes.append(body.nodes[-1])
                operands = tuple(fed[head] if v == part else v for v in node.operands)
                node = replace(node, operands=operands)
            nodes.append(node)
        return replace(block, nodes=tuple(nodes))

    def _check(self, block: Block, head: int) -> None:
        given = block.type_of(self.results[head - 1])
        part = block.type_of(Value(self.split.id, head))
        found = differs(given, part, At())
        if found:
            raise refuse(
                f"head {head - 1} of {block.name} gives what cannot be added to the next slice",
                f"it is {shown(given)}, the slice is {shown(part)}",
                self.split.span,
            )


def _in_turn(block: Block, head: Mapping[int, int]) -> list[Node]:
    """The nodes in an order in which each head comes after the one before it."""
    needs: dict[int, set[int]] = {n.id: {v.node for v in n.operands} for n in block.nodes}
    last: dict[int, set[int]] = {}
    for node in block.nodes:
        last.setdefault(head.get(node.id, -1), set()).add(node.id)
    for node in block.nodes:
        if head.get(node.id, 0) > 0:
            needs[node.id] |= last[head[node.id] - 1]
    ordered: list[Node] = []
    done: set[int] = set()
    waiting = list(block.nodes)
    while waiting:
        node = next(n for n in waiting if needs[n.id] <= done)
        waiting.remove(node)
        ordered.append(node)
        done.add(node.id)
    return ordered


def find_slices(block: Block) -> Slices | None:
    """Heads on slices in a block, or None where nothing is split and joined again."""
    for split in block.nodes:
        if split.op != "split":
            continue
        of: dict[int, frozenset[int]] = {}
        for node in block.nodes:
            read = frozenset[int]()
            for value in node.operands:
                own = frozenset((value.index,)) if value.node == split.id else frozenset[int]()
                read |= own | of.get(value.node, frozenset())
            if node.op == "concat" and len(split.types) == len(node.operands) and read:
                return _joined(block, split, node, of)
            of[node.id] = read
    return None


def _joined(
    block: Block, split: Node, join: Node, of: Mapping[int, frozenset[int]]
) -> Slices | None:
    if any(v.node == split.id for v in join.operands):
        return None
    for head, value in enumerate(join.operands):
        if of[value.node] != frozenset((head,)):
            met = ", ".join(str(i) for i in sorted(of[value.node])) or "none"
            raise refuse(
                f"part {head} of `concat` in {block.name} is no head of its own",
                f"it reads the slices {met}, not just slice {head}",
                join.span,
            )
    heads = {node: min(read) for node, read in of.items() if read}
    beside = [
        n for n in block.nodes
        if n.id not in heads and n.id != join.id and any(v.node in heads for v in n.operands)
    ]  # fmt: skip
    if beside or any(v.node in heads for v in block.outputs):
        raise refuse(
            f"a head of {block.name} is read beside the `concat`",
            "its value would change for that reader",
            beside[0].span if beside else split.span,
        )
    return Slices(split, join, join.operands, heads)
