"""Flow: where values come from and go to over the borders of blocks and regions.

    flow.reaches(at)      whether a value becomes what a softmax reads, but for its order
    flow.softened(at)     whether a value comes from a softmax in the same way
    flow.scale(at)        the number that a value was multiplied by since it was made

A value is named by its block and its id there; one definition of a block stands for all of its
uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.dim import ONE, Dim, Symbol
from spacelang.ir.graph import Graph
from spacelang.ir.node import Call, Node, TensorType, Value, join
from spacelang.ir.uses import ROOT

At = tuple[str, Value]
Stack = tuple[tuple[str, Node], ...]

PASSIVE = frozenset(
    {"identity", "rearrange", "slice", "unstack", "split", "roll", "expand", "dropout"}
)
"""Ops that hand on what was multiplied into their first operand."""


@dataclass(frozen=True)
class Flow:
    """The values of all blocks of a graph and how they hang together."""

    graph: Graph

    @cached_property
    def blocks(self) -> Mapping[str, Block]:
        return {ROOT: self.graph.root, **self.graph.blocks}

    @cached_property
    def nodes(self) -> Mapping[tuple[str, int], Node]:
        """Every node by block and id."""
        return {(n, node.id): node for n, b in self.blocks.items() for node in b.everywhere()}

    @cached_property
    def callers(self) -> Mapping[str, list[tuple[str, Node]]]:
        """The calls of each block, with the block that each stands in."""
        found: dict[str, list[tuple[str, Node]]] = {name: [] for name in self.blocks}
        for (name, _), node in self.nodes.items():
            if node.call is not None:
                found[node.call.block].append((name, node))
        return found

    @cached_property
    def owners(self) -> Mapping[tuple[str, int], tuple[Node, int]]:
        """The inputs of regions: the node that owns the region, and which operand it is."""
        return {
            (name, inner.id): (node, position)
            for (name, _), node in self.nodes.items()
            for region in node.regions
            for position, inner in enumerate(region.inputs)
        }

    def node(self, at: At) -> Node:
        return self.nodes[at[0], at[1].node]

    def type(self, at: At) -> TensorType:
        return self.node(at).types[at[1].index]

    def sources(self, at: At) -> tuple[At, ...] | None:
        """Where a value that crosses a border comes from; None where an op makes it."""
        name, value = at
        node = self.node(at)
        if node.op == "input":
            if (name, node.id) in self.owners:
                owner, position = self.owners[name, node.id]
                return ((name, owner.operands[position]),)
            position = self.blocks[name].inputs.index(node)
            return tuple((caller, call.operands[position]) for caller, call in self.callers[name])
        if node.call is not None:
            return ((node.call.block, self.blocks[node.call.block].outputs[value.index]),)
        if node.regions:
            ends = [(name, region.outputs[value.index]) for region in node.regions]
            return (
                (*ends, (name, node.operands[value.index])) if node.op == "guard" else tuple(ends)
            )
        return None

    # To and from a softmax.

    @cached_property
    def _back(self) -> Mapping[At, tuple[At, ...]]:
        """Every value and those that it is made of element by element; products end the way."""
        found: dict[At, tuple[At, ...]] = {}
        for (name, _), node in self.nodes.items():
            for value, type in zip(node.values, node.types, strict=True):
                at = (name, value)
                sources = self.sources(at)
                if sources is None and node.op in ("softmax", "einsum"):
                    sources = ()
                elif sources is None:
                    size = type.elements()
                    read = ((name, v) for v in node.operands)
                    sources = tuple(s for s in read if self.type(s).elements() == size)
                found[at] = sources
        return found

    @cached_property
    def _before_softmax(self) -> frozenset[At]:
        """Every value that becomes what a softmax reads."""
        read = [
            (n, v)
            for (n, _), node in self.nodes.items()
            if node.op == "softmax"
            for v in node.operands
        ]
        return frozenset(_closure(read, self._back))

    @cached_property
    def _after_softmax(self) -> frozenset[At]:
        """Every value that comes from the result of a softmax."""
        forth: dict[At, list[At]] = {}
        for at, sources in self._back.items():
            for source in sources:
                forth.setdefault(source, []).append(at)
        made = [
            (n, v)
            for (n, _), node in self.nodes.items()
            if node.op == "softmax"
            for v in node.values
        ]
        return frozenset(_closure(made, forth))

    def reaches(self, at: At) -> bool:
        return at in self._before_softmax

    def softened(self, at: At) -> bool:
        return at in self._after_softmax

    # Scales.

    def scale(self, at: At, stack: Stack = ()) -> Dim:
        """The product of the numbers that the value was multiplied by, in the sizes of its block.

        SP601 where calls of the block hand in values of different scales.
        """
        name, value = at
        node = self.node(at)
        if node.op == "input" and (name, node.id) not in self.owners:
            return self._outside(name, node, stack)
        if node.call is not None:
            callee = self.blocks[node.call.block]
            inner = self.scale(
                (node.call.block, callee.outputs[value.index]), (*stack, (name, node))
            )
            return outward(inner, node.call)
        if node.op in PASSIVE or node.op == "input":
            sources = self.sources(at) or ((name, node.operands[0]),)
            return self.scale(sources[0], stack)
        number = node.attributes.get("number")
        if node.op in ("mul", "div") and isinstance(number, Dim):
            rest = self.scale((name, node.operands[0]), stack)
            if node.op == "mul":
                return rest * number
            return rest / number if node.attributes.get("flipped") is not True else ONE
        return ONE

    def _outside(self, name: str, node: Node, stack: Stack) -> Dim:
        position = self.blocks[name].inputs.index(node)
        calls = [stack[-1]] if stack else self.callers[name]
        found: set[Dim] = set()
        for caller, outer in calls:
            assert outer.call is not None
            scale = self.scale((caller, outer.operands[position]), stack[:-1])
            found.add(inward(scale, outer.call, self.blocks[name]))
        if len(found) > 1:
            raise SpaceError(
                error("SP601", f"{name} is called with values of different scales", node.span)
                .note(" and ".join(sorted(map(str, found))))
            )  # fmt: skip
        return found.pop() if found else ONE


def _closure(start: Iterable[At], edges: Mapping[At, Iterable[At]]) -> Iterator[At]:
    seen: set[At] = set()
    waiting = list(start)
    while waiting:
        at = waiting.pop()
        if at not in seen:
            seen.add(at)
            yield at
            waiting += edges.get(at, ())


def outward(dim: Dim, call: Call) -> Dim:
    """A size of a block in those of its caller."""
    return dim.substitute(
        {
            s.name: call.sizes.get(s.name, Symbol(join(call.decide, s.name), s.values))
            for s in dim.symbols
        }
    )


def inward(dim: Dim, call: Call, callee: Block) -> Dim:
    """A size of a caller in those of the block. SP601 where the block is not told all of it."""
    if dim.constant is not None:
        return dim
    own = {s.name: s for s in callee.sizes}
    told = {v.name: own[name] for name, v in call.sizes.items() if isinstance(v, Symbol)}
    missing = sorted(s.name for s in dim.symbols if s.name not in told)
    if missing:
        raise SpaceError(
            error("SP601", f"{callee.name} does not know {missing[0]}", callee.span)
            .note(f"a value that it is given was scaled by {dim}")
        )  # fmt: skip
    return dim.substitute({s.name: told[s.name] for s in dim.symbols})
