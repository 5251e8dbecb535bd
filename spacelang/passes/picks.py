"""Picks that are summed: what each position makes of the source that it draws.

    total(inputs) |s, source, e| { return edge(s) as dag[n][e] }

stands in the graph as one slice of nodes a position, each with nodes that select by the pick, and
the `sum_of` that ends them. `Sum.renamed` says what the nodes of the first position are called for
another source: their labels have the number of the source where the position stood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from spacelang.diagnostics import SpaceError, Span, error
from spacelang.ir.block import Block
from spacelang.ir.condition import All, Any, Chosen, Condition, Not
from spacelang.ir.decision import Choice, drawn, sources
from spacelang.ir.graph import conditions
from spacelang.ir.levels import needed_nodes
from spacelang.ir.node import Node, Value

_INDEX = re.compile(r"\[(\d+)\]")


def refuse(choice: Choice, why: str, span: Span) -> SpaceError:
    """SP601: why a decision cannot become a mixture, and where."""
    return SpaceError(
        error("SP601", f"{choice.path} cannot become a mixture: {why}", span).also(
            choice.span, "the decision"
        )
    )


@dataclass
class Sum:
    """The sum of what the positions of a pick make; `slices` are their nodes, in order.

    `end` is the node that adds them up; where one value is drawn, the node that selects it.
    """

    choice: Choice
    end: Node
    slices: tuple[tuple[Node, ...], ...]
    results: tuple[Value, ...]
    _parts: Mapping[str, tuple[str | int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self._parts = dict(self._templates())

    def renamed(self, source: int) -> Callable[[str], str]:
        """Names of the first position's nodes, for the alternative that reads a source."""

        def name(old: str) -> str:
            parts = self._parts.get(old)
            if parts is None:
                return old
            return "".join(f"[{source}]" if part == -1 else str(part) for part in parts)

        return name

    @property
    def named(self) -> tuple[str, ...]:
        """The names of the first position's nodes that the position stands in."""
        return tuple(self._parts)

    def _templates(self) -> Iterator[tuple[str, tuple[str | int, ...]]]:
        """Names of the first slice in parts, -1 where the position stands (by the second slice)."""
        if len(self.slices) < 2:
            return
        first, second = (list(_names(nodes)) for nodes in self.slices[:2])
        if len(first) != len(second):
            raise refuse(self.choice, "its positions are computed differently", self.end.span)
        for a, b in zip(first, second, strict=True):
            if a == b:
                continue
            left, right = _INDEX.split(a), _INDEX.split(b)
            if len(left) != len(right):
                raise refuse(self.choice, f"{a} and {b} are named differently", self.end.span)
            parts: list[str | int] = []
            for number, (m, n) in enumerate(zip(left, right, strict=True)):
                if number % 2 == 0:
                    if m != n:
                        raise refuse(self.choice, f"{a} and {b} differ", self.end.span)
                    parts.append(m)
                else:
                    parts.append(f"[{m}]" if m == n else -1)
            yield a, tuple(parts)


def _names(nodes: Iterable[Node]) -> Iterator[str]:
    """Everything that nodes are called or call something by, in order."""
    for node in nodes:
        yield node.label
        yield from (view.param for view in node.params.values())
        if node.call is not None:
            yield from (node.call.path, node.call.decide, node.call.store)
        yield from sorted(s.name for c in conditions(node) for s in c.symbols)
        for region in node.regions:
            yield from _names(region.nodes)


def sums(level: Block, choice: Choice) -> list[Sum]:
    """Where a level adds up what the positions of a pick make; SP601 if it does something else."""
    count = drawn(choice)
    of: dict[int, frozenset[int]] = {}
    found: list[Sum] = []
    for node in level.nodes:
        own = frozenset(_positions(node, choice))
        tags = own.union(*(of.get(v.node, frozenset[int]()) for v in node.operands))
        if count == 1 and own:
            found.append(Sum(choice, node, ((node,),), node.values))
        elif len(tags) > 1:
            found.append(_sum(level, choice, node, of, count))
        else:
            of[node.id] = tags
    inside = {n.id for s in found for nodes in s.slices for n in nodes}
    ends = {s.end.id for s in found}
    for node in level.nodes:
        if node.id in inside or node.id in ends:
            continue
        if of.get(node.id):
            raise refuse(choice, "what is made of its picks is not summed by `total`", node.span)
        if any(v.node in inside for v in node.operands):
            raise refuse(choice, "what is made of a pick is read beside the sum", node.span)
    for value in level.outputs:
        if of.get(value.node):
            raise refuse(choice, "what is made of its picks is not summed by `total`", choice.span)
    return found


def _sum(
    level: Block, choice: Choice, end: Node, of: Mapping[int, frozenset[int]], count: int
) -> Sum:
    positions = [of.get(v.node, frozenset[int]()) for v in end.operands]
    if end.op != "sum_of" or positions != [frozenset((e,)) for e in range(count)]:
        raise refuse(choice, "its positions meet in something else than `total`", end.span)
    slices = tuple(_slice(level, value, of) for value in end.operands)
    return Sum(choice, end, slices, end.operands)


def _slice(level: Block, value: Value, of: Mapping[int, frozenset[int]]) -> tuple[Node, ...]:
    """The nodes between the pick and a value."""
    made = [node for node in level.nodes if of.get(node.id)]
    return tuple(needed_nodes(made, [value], keep=lambda _: False))


def _positions(node: Node, choice: Choice) -> Iterator[int]:
    for condition in conditions(node):
        for chosen in _chosen(condition):
            if chosen.symbol.name == choice.path:
                yield chosen.position
    for region in node.regions:
        for inner in region.nodes:
            yield from _positions(inner, choice)


def _chosen(condition: Condition) -> Iterator[Chosen]:
    if isinstance(condition, Chosen):
        yield condition
    elif isinstance(condition, Not):
        yield from _chosen(condition.operand)
    elif isinstance(condition, All | Any):
        for operand in condition.operands:
            yield from _chosen(operand)


__all__ = ["Sum", "drawn", "refuse", "sources", "sums"]
