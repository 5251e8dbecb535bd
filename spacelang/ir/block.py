"""A block: a pure function of tensors, weights and sizes, defined once and called many times.

block encoder(x: [B, N, %width]) sizes %width decides heads, ratio
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from spacelang.diagnostics import NOWHERE, Span
from spacelang.ir.decision import Choice
from spacelang.ir.dim import Symbol
from spacelang.ir.node import Node, TensorType, Value
from spacelang.ir.param import Param


@dataclass(frozen=True)
class Block:
    """Nodes in an order in which each comes after what it reads.

    sizes      symbols that every call binds; one without values is a number that no shape may hold
    decisions  taken anew by every call, by their path inside the block
    params     owned by every call's store, by their path inside the block
    """

    name: str
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    sizes: tuple[Symbol, ...] = ()
    decisions: tuple[Choice, ...] = ()
    params: tuple[Param, ...] = ()
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    @cached_property
    def by_id(self) -> dict[int, Node]:
        """The nodes of this level by id, those of regions not among them."""
        return {node.id: node for node in self.nodes}

    @cached_property
    def order(self) -> dict[int, int]:
        """Where the nodes of this level stand in it, by id."""
        return {id: place for place, id in enumerate(self.by_id)}

    @cached_property
    def all_by_id(self) -> dict[int, Node]:
        """The same with the nodes of regions."""
        return {node.id: node for node in self.everywhere()}

    @cached_property
    def inputs(self) -> tuple[Node, ...]:
        """The nodes of op `input`, in the order of the block's operands."""
        return tuple(node for node in self.nodes if node.op == "input")

    @cached_property
    def holders(self) -> tuple[Node, ...]:
        """The nodes of this level inside of which there is other code."""
        return tuple(node for node in self.nodes if node.holds)

    @cached_property
    def param(self) -> dict[str, Param]:
        """The parameters that the block owns, by their path inside of it."""
        return {param.path: param for param in self.params}

    @cached_property
    def readers(self) -> dict[Value, tuple[Node, ...]]:
        """The nodes of this level that read a value (outputs of the block are not nodes)."""
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.operands:
                found.setdefault(value, []).append(node)
        return {value: tuple(nodes) for value, nodes in found.items()}

    def type_of(self, value: Value) -> TensorType:
        """The type of a value of this level (KeyError if no node of it makes that)."""
        return self.by_id[value.node].types[value.index]

    def everywhere(self) -> Iterator[Node]:
        """All nodes, those of regions too, each before the regions that it owns."""
        for node in self.nodes:
            yield node
            for region in node.regions:
                yield from region.everywhere()

    @cached_property
    def next_id(self) -> int:
        """An id that no node of this block or of its regions has."""
        return 1 + max((node.id for node in self.everywhere()), default=-1)
