"""Inserting: a block put on what a node reads, or on every use of what it makes.

    insert(mix_heads, before: blocks[_].attn.softmax, name: "conv_l")
    insert(local, after: layers[_].blocks[_].mid)         # no name: the block's own labels

The block stands in the block that holds the node, under the same conditions, and so in every use
of it that the path names. It must give back the type that it takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from spacelang.diagnostics import Diagnostic, Report, SpaceError, error, spelt
from spacelang.ir import levels
from spacelang.ir.block import Block
from spacelang.ir.condition import Condition
from spacelang.ir.graph import Graph
from spacelang.ir.node import Node, TensorType, Value, join
from spacelang.ir.pattern import Pattern
from spacelang.ir.prove import Proved, Refuted, equal
from spacelang.ir.uses import Chain
from spacelang.passes.base import BlockSource, Insertion, Pass
from spacelang.passes.clashes import own_paths, refuse_clashes
from spacelang.passes.places import Spot, find, put_after, put_before, rewrite

Anchor = tuple[str, int]
"""A node by the key of its block and its id."""
LABELS = re.compile(r"[A-Za-z_]\w*(\[\d+\])*(\.[A-Za-z_]\w*(\[\d+\])*)*", re.ASCII)
"""Paths that a place may have."""


@dataclass(frozen=True)
class Insert(Pass):
    """A block on one operand of the nodes of a path, or on their value.

    before, after   the path: one of the two            name   the place of the block, may be empty
    operand         which operand of the node, from 0; for `before`
    """

    name: ClassVar[str] = "insert"

    block: BlockSource
    before: Pattern | None = None
    after: Pattern | None = None
    name_: str = ""
    operand: int = 0

    def run(self, graph: Graph, report: Report) -> Graph:
        """The graph with the block put in. SP504 without a place, SP601 where it does not fit."""
        report.extend(self._mistakes())
        report.check()
        pattern = self.before or self.after
        assert pattern is not None
        anchors = find(graph, pattern)
        uses: dict[Chain, tuple[str, tuple[int, ...]]] = {}
        made: dict[Anchor, Insertion] = {}
        blocks = dict(graph.blocks)
        for spot in anchors:
            _, before = uses.get(spot.chain, ("", ()))
            uses[spot.chain] = (spot.block, (*before, spot.node.id))
            here = (spot.block, spot.node.id)
            if here not in made:
                taken = frozenset({graph.root.name, *blocks})
                made[here] = _shared(self._insertion(spot, taken), made.values())
                blocks |= made[here].blocks
        grown = replace(graph, blocks=blocks)
        self._refuse_clashes(grown, anchors, made)
        return rewrite(grown, uses, lambda block, key: self._edited(block, made, *key))

    def _mistakes(self) -> Iterator[Diagnostic]:
        if (self.before is None) == (self.after is None):
            yield error("SP204", "insert takes one of before and after")
        for name, value, kind in (
            ("before", self.before, Pattern | None),
            ("after", self.after, Pattern | None),
            ("name", self.name_, str),
            ("operand", self.operand, int),
        ):
            if not isinstance(value, kind) or isinstance(value, bool):
                yield error("SP209", f"insert: {name} cannot be {spelt(value)}")
            elif isinstance(value, str) and value and LABELS.fullmatch(value) is None:
                found = error("SP209", f"insert: {name} cannot be {spelt(value)}")
                yield found.note("it is a path of labels, as in local.conv[0]")

    def _path(self, node: Node) -> str:
        """Where the block is called: its name below the labels that the node stands under."""
        return join(node.label.rpartition(".")[0], self.name_)

    def _insertion(self, spot: Spot, taken: frozenset[str]) -> Insertion:
        """The block made for a node; proved to give back what it takes."""
        block, node = spot.instance.block, spot.node
        here = levels.find(block, node.id, ())
        assert here is not None
        type = here.level.type_of(self._read(node))
        try:
            made = self.block.at(type, self._path(node), taken)
        except SpaceError as failed:
            raise SpaceError(
                tuple(d.also(node.span, f"inserted at {spot.path}") for d in failed.diagnostics)
            ) from failed
        wrong = _misfit(type, made.result, here.guards)
        if wrong:
            raise SpaceError(
                error("SP601", f"{self.block.name} does not fit at {spot.path}: it gives {wrong}")
                .also(node.span, f"takes {_plain(type)}")
                .also(made.blocks[made.call.block].span, f"gives {_plain(made.result)}")
            )
        return made

    def _read(self, node: Node) -> Value:
        """The value that the block is put on."""
        if self.before is not None:
            if not 0 <= self.operand < len(node.operands):
                found = error("SP601", f"{node.op} has {len(node.operands)} operands")
                raise SpaceError(found.also(node.span).note(f"operand: {self.operand}, from 0"))
            return node.operands[self.operand]
        if len(node.types) != 1:
            found = error("SP601", f"{node.op} has {len(node.types)} results")
            raise SpaceError(found.also(node.span).hint("insert before what reads one of them"))
        return node.values[0]

    def _refuse_clashes(
        self, graph: Graph, anchors: tuple[Spot, ...], made: dict[Anchor, Insertion]
    ) -> None:
        added: list[tuple[Spot, list[str]]] = []
        for spot in anchors:
            call = made[spot.block, spot.node.id].call
            paths = own_paths(graph, graph.blocks[call.block])
            added.append((spot, [join(call.path, p) for p in paths]))
        refuse_clashes(graph, added, f"inserting {self.block.name}")

    def _edited(
        self, block: Block, made: dict[Anchor, Insertion], name: str, nodes: tuple[int, ...]
    ) -> Block:
        for node in nodes:
            put = partial(self._put, node=node, insertion=made[name, node], id=block.next_id)
            block = levels.changed(block, node, put)
        return block

    def _put(self, level: Block, node: int, insertion: Insertion, id: int) -> Block:
        anchor = level.by_id[node]
        call, read = insertion.call, self._read(anchor)
        inner = Node(
            id,
            "call",
            (read,),
            call=call,
            types=(level.type_of(read),),
            label=call.path,
            span=anchor.span,
        )
        if self.before is not None:
            return put_before(level, node, self.operand, [inner], inner.values[0])
        return put_after(level, read, [inner], inner.values[0])


def _shared(made: Insertion, others: Iterable[Insertion]) -> Insertion:
    """An insertion of one block that another one has made already, with the block of that."""
    block = made.blocks[made.call.block]
    for other in others:
        same = other.blocks[other.call.block]
        if len(made.blocks) == len(other.blocks) == 1 and replace(block, name=same.name) == same:
            return replace(made, call=replace(made.call, block=same.name), blocks=other.blocks)
    return made


def _misfit(type: TensorType, result: TensorType, guards: tuple[Condition, ...]) -> str:
    """How a result differs from the type that it stands for, empty if it is proved not to."""
    if type.rank != result.rank:
        return f"{result.rank} axes for {type.rank}"
    if type.dtype != result.dtype:
        return f"{result.dtype} for {type.dtype}"
    for wanted, made in zip(type.shape, result.shape, strict=True):
        verdict = equal(wanted, made, guards)
        if isinstance(verdict, Refuted) and verdict.example:
            point = ", ".join(f"{name} = {v}" for name, v in verdict.example.items())
            return _plain(f"{made} for {wanted}, when {point}")
        if not isinstance(verdict, Proved):
            return _plain(f"{made} for {wanted}")
    return ""


def _plain(what: object) -> str:
    """Types and sizes as the text has them: a size that a caller binds under its name there."""
    return str(what).replace("%", "")
