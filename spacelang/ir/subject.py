"""A graph under examination: what the rows of the verifier look up, and what they find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from spacelang.diagnostics import Diagnostic, Span, error
from spacelang.ir.block import Block
from spacelang.ir.graph import Graph, Instance
from spacelang.ir.known import Known, Symbols
from spacelang.ir.node import Node


@dataclass(frozen=True)
class Subject:
    """A graph under examination, with what several rows look up."""

    graph: Graph

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """All blocks, the root last."""
        return (*self.graph.blocks.values(), self.graph.root)

    @cached_property
    def known(self) -> Known:
        """Which symbols each block may mention."""
        return Known(self.graph)

    @cached_property
    def uses(self) -> Mapping[str, list[Instance]]:
        """The uses of every block by its name; the root's is apart."""
        found: dict[str, list[Instance]] = {}
        for instance in self.graph.instances():
            found.setdefault(instance.block.name, []).append(instance)
        return found

    def symbols(self, block: Block) -> Symbols:
        """The symbols that a block may mention, by name."""
        return self.known.root() if block is self.graph.root else self.known.block(block)


Row = Callable[[Subject], Iterator[Diagnostic]]


def broken(text: str, span: Span) -> Diagnostic:
    """SP602: an invariant that does not hold."""
    return error("SP602", text, span)


def everything(block: Block) -> Iterator[tuple[Block, Node]]:
    """Every node of a block with the level that it stands in."""
    waiting = [block]
    for level in waiting:
        for node in level.nodes:
            yield level, node
            waiting += node.regions
