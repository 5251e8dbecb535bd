"""Scales of products: a number on the scores is moved onto the queries, where there is less of it.

    (q k + gather(q T)) * s     ->    (q s) k + gather((q s) T)
    mul(mul(x, s), t)           ->    mul(x, s * t)

A product is linear in each operand, and sums, rearranges, gathers and slices pass a factor on. It
is moved only where nothing else reads, or names, a value on the way, never to a larger tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from spacelang.ir.block import Block
from spacelang.ir.dim import ONE, Dim
from spacelang.ir.node import Node, TensorType, Value
from spacelang.ir.prove import Proved, at_most
from spacelang.passes.remake import Body

PASSED = frozenset({"identity", "rearrange", "gather", "slice", "bucket_sum"})
Edge = tuple[int, int]
"""A node, and one of its operands."""


def factor_of(node: Node) -> Dim | None:
    """The number by which a node multiplies its one operand."""
    number = node.attributes.get("number")
    if not isinstance(number, Dim) or len(node.operands) != 1:
        return None
    if node.op == "mul":
        return number
    if node.op == "div" and node.attributes.get("flipped") is not True:
        return ONE / number
    return None


@dataclass(frozen=True)
class _Level:
    level: Block
    blocks: Mapping[str, Block]

    @cached_property
    def reads(self) -> Mapping[Value, int]:
        found: dict[Value, int] = {}
        for value in (*(v for n in self.level.nodes for v in n.operands), *self.level.outputs):
            found[value] = found.get(value, 0) + 1
        return found

    def private(self, value: Value) -> bool:
        """Whether a value has one reader and no name."""
        return self.reads[value] == 1 and not self.level.by_id[value.node].label

    def edges(self, value: Value) -> list[Edge]:
        """The operands to multiply instead of a value; none if that cannot be."""
        node = self.level.by_id[value.node]
        if not self.private(value) or node.regions:
            return []
        match node.op:
            case "einsum" if len(node.operands) == 2:
                return self._smallest(node, (0, 1))
            case "call" if len(node.types) == 1:
                return self._smallest(node, linear_in(self._callee(node), self.blocks))
            case op if op in PASSED or factor_of(node) is not None:
                return self.edges(node.operands[0])
            case "add" | "sub" | "sum_of" if len(node.operands) > 1:
                found = [self.edges(v) for v in node.operands]
                return [e for edges in found for e in edges] if all(found) else []
            case _:
                return []

    def _callee(self, node: Node) -> Block:
        assert node.call is not None
        return self.blocks[node.call.block]

    def _smallest(self, node: Node, positions: Sequence[int]) -> list[Edge]:
        """The operand with the fewest elements, the first of equal ones; none is larger than y."""
        best: int | None = None
        limit = node.types[0]
        for position in positions:
            type = self.level.type_of(node.operands[position])
            if no_larger(type, limit) and (best is None or not no_larger(limit, type)):
                best, limit = position, type
        return [] if best is None else [(node.id, best)]


def no_larger(a: TensorType, b: TensorType) -> bool:
    """Whether one tensor has at most as many elements as another, for every architecture."""
    return isinstance(at_most(_counted(a), _counted(b)), Proved)


def _counted(type: TensorType) -> Dim:
    """Elements with every free size at one: they are batch axes, which both have."""
    elements = type.elements()
    return elements.substitute({s.name: 1 for s in elements.symbols if s.free})


def linear_in(callee: Block, blocks: Mapping[str, Block]) -> list[int]:
    """The operands of which a block's one result is a linear function by its form (`scores`)."""
    if len(callee.outputs) != 1:
        return []
    inside = _Level(callee, blocks)
    place = {node.id: i for i, node in enumerate(callee.inputs)}
    return [place[node] for node in _sources(inside, callee.outputs[0]) if node in place]


def _sources(inside: _Level, value: Value) -> Iterator[int]:
    node = inside.level.by_id[value.node]
    if not inside.private(value):
        return
    if node.op == "input":
        yield node.id
    elif node.op == "einsum" and len(node.operands) == 2 and len(set(node.operands)) == 2:
        for operand in node.operands:
            maker = inside.level.by_id[operand.node]
            if maker.op == "input" and inside.reads[operand] == 1:
                yield maker.id
    elif node.op in PASSED:
        yield from _sources(inside, node.operands[0])


def scales_moved(level: Block, blocks: Mapping[str, Block], body: Body) -> Block:
    """The level with one scale moved, or two merged; itself where there is none."""
    here = _Level(level, blocks)
    for node in level.nodes:
        factor = factor_of(node)
        if factor is None:
            continue
        (inner,) = node.operands
        if factor == ONE and not node.label:
            return _without(level, node, {}, body)
        before = level.by_id[inner.node]
        first = factor_of(before)
        if first is not None and here.private(inner):
            merged = {"number": first * factor, "flipped": False}
            made = replace(node, op="mul", operands=before.operands, attributes=merged)
            nodes = tuple(made if n is node else n for n in level.nodes if n is not before)
            return replace(level, nodes=nodes)
        edges = here.edges(inner)
        if edges:
            return _without(level, node, dict.fromkeys(edges, factor), body)
    return level


def _without(level: Block, gone: Node, edges: Mapping[Edge, Dim], body: Body) -> Block:
    """The level without a scale, its factor put on some operands; its name goes to what it read."""
    (inner,) = gone.operands
    nodes: list[Node] = []
    for node in level.nodes:
        if node is gone:
            continue
        operands = [inner if v == Value(gone.id) else v for v in node.operands]
        for position, value in enumerate(operands):
            factor = edges.get((node.id, position))
            if factor is not None:
                body.types[value] = level.type_of(value)
                operands[position] = body.one("mul", [value], {"number": factor}, span=gone.span)
                nodes.append(body.nodes[-1])
        label = gone.label if node.id == inner.node and gone.label else node.label
        nodes.append(replace(node, operands=tuple(operands), label=label))
    outputs = tuple(inner if v == Value(gone.id) else v for v in level.outputs)
    return replace(level, nodes=tuple(nodes), outputs=outputs)
