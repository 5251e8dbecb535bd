"""Specialising: one architecture of a space, the same IR with nothing left to decide.

Regions whose condition holds take the place of their node, others go; sizes become numbers. Blocks
are remade once for each set of values that they are used with. Parameters keep their paths and
shrink to what the architecture reads: a subnet owns just its slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.condition import Condition
from spacelang.ir.decision import Assignment
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Graph, Instance, conditions
from spacelang.ir.node import Attribute, Call, Node, TensorType, Value
from spacelang.ir.param import Gather, Init, Slice, View

ZERO = Dim.of(0)


def specialize(graph: Graph, assignment: Assignment) -> Graph:
    """The graph of one architecture (SP501, SP504, SP506 for an assignment that does not fit)."""
    values = graph.decisions.check(assignment)
    if not graph.decisions:
        return graph
    work = _Specializer(graph, values)
    root = work.block(graph.top, graph.root.name)
    outputs = tuple(replace(o, value=v) for o, v in zip(graph.outputs, root.outputs, strict=True))
    return replace(
        graph,
        root=root,
        blocks=work.blocks,
        outputs=outputs,
        rules=(),
        stored={},
        require=(),
        search={},
    )


@dataclass
class _Specializer:
    graph: Graph
    values: Mapping[str, DecisionValue]
    blocks: dict[str, Block] = field(default_factory=dict[str, Block])
    made: dict[object, str] = field(default_factory=dict[object, str])

    def call(self, instance: Instance) -> str:
        """The name of the block that a use calls once its decisions are taken."""
        known = {s.name: self.value(instance, s) for s in instance.block.sizes if s.values}
        key = (
            instance.block.name,
            tuple(sorted(known.items(), key=str)),
            tuple(self._below(instance)),
        )
        if key not in self.made:
            name, count = instance.block.name, 2
            while name in self.blocks:
                name, count = f"{instance.block.name}.{count}", count + 1
            self.made[key] = name
            self.blocks[name] = self.block(instance, name)
        return self.made[key]

    def _below(self, instance: Instance) -> Iterator[tuple[str, DecisionValue]]:
        """The decisions that may be taken inside a use: its own, by their path in it, and
        cells'."""
        for path, value in self.values.items():
            if not instance.decide:
                yield path, value
            elif path.startswith((instance.decide + ".", instance.decide + "[")):
                yield path[len(instance.decide) :], value
            elif self._cells:
                yield "/" + path, value

    @cached_property
    def _cells(self) -> bool:
        """Whether any call takes its decisions under a name of the root's."""
        return any(
            n.call is not None and n.call.decide.startswith("/")
            for b in (self.graph.root, *self.graph.blocks.values())
            for n in b.everywhere()
        )

    def value(self, instance: Instance, symbol: Symbol) -> DecisionValue:
        bound = instance.symbol(symbol)
        if isinstance(bound, Symbol):
            return self.values[bound.name]
        return bound.at(self.values)  # type: ignore[return-value]

    def block(self, instance: Instance, name: str) -> Block:
        writer = _Writer(self, instance)
        nodes: list[Node] = []
        outputs = writer.level(instance.block, {}, nodes, top=True)
        shapes = writer.shapes
        params = tuple(
            replace(p, shape=shapes[p.path], bank=())
            for p in instance.block.params
            if p.path in shapes
        )
        sizes = tuple(s for s in instance.block.sizes if not s.values)
        used = _trim(nodes, outputs)
        return Block(name, tuple(used), tuple(outputs), sizes, (), params, instance.block.span)


class _Writer:
    """Writes the nodes of one block for known values."""

    def __init__(self, work: _Specializer, instance: Instance) -> None:
        self.work, self.instance = work, instance
        self.shapes: dict[str, tuple[tuple[Dim, ...], ...]] = {}
        self._known: dict[Dim, Dim] = {}

    def dim(self, dim: Dim) -> Dim:
        """A size with all decisions taken; free sizes and rates stay."""
        if dim.constant is not None:
            return dim
        found = self._known.get(dim)
        if found is None:
            fixed = {s.name: self.work.value(self.instance, s) for s in dim.symbols if s.values}
            found = self._known[dim] = dim.substitute(fixed)
        return found

    def holds(self, condition: Condition) -> bool:
        values = {s.name: self.work.value(self.instance, s) for s in condition.symbols}
        return condition.at(values)

    def level(
        self, block: Block, inputs: Mapping[int, Value], nodes: list[Node], top: bool = False
    ) -> list[Value]:
        """Append the nodes of a block or region; the values of its outputs."""
        seen: dict[Value, Value] = {Value(i): v for i, v in inputs.items()}

        def value(old: Value) -> Value:
            return seen.get(old, old)

        for node in block.nodes:
            if node.op == "input" and not top:
                continue
            operands = tuple(value(v) for v in node.operands)
            if not node.regions:
                nodes.append(self.node(node, operands))
                continue
            taken = [
                r for r, c in zip(node.regions, conditions(node), strict=True) if self.holds(c)
            ]
            if not taken and node.op == "choose":
                raise SpaceError(
                    error("SP602", "no alternative is there for this architecture", node.span)
                )
            if not taken:
                seen.update(zip(node.values, operands, strict=False))
                continue
            region = taken[0]
            bound = {i.id: v for i, v in zip(region.inputs, operands, strict=True)}
            seen.update(zip(node.values, self.level(region, bound, nodes), strict=True))
        return [value(v) for v in block.outputs]

    def node(self, node: Node, operands: tuple[Value, ...]) -> Node:
        call = node.call
        if call is not None:
            inner = self.instance.enter(call, self.work.graph.blocks[call.block])
            call = self._call(call, self.work.call(inner))
        return replace(
            node,
            operands=operands,
            attributes={k: self.attribute(v) for k, v in node.attributes.items()},
            params={role: self.view(v) for role, v in node.params.items()},
            call=call,
            types=tuple(
                TensorType(tuple(self.dim(d) for d in t.shape), t.dtype) for t in node.types
            ),
        )

    def _call(self, call: Call, name: str) -> Call:
        sizes = {
            size: self.dim(value) if isinstance(value, Dim) else value
            for size, value in call.sizes.items()
            if (isinstance(value, Symbol) and not value.values)
            or (isinstance(value, Dim) and self._open(call, size))
        }
        return replace(call, block=name, sizes=sizes)

    def _open(self, call: Call, size: str) -> bool:
        block = self.work.graph.blocks[call.block]
        return any(s.name == size and not s.values for s in block.sizes)

    def attribute(self, value: Attribute) -> Attribute:
        if isinstance(value, Dim):
            return self.dim(value)
        if isinstance(value, tuple):
            return tuple(self.attribute(v) for v in value)
        if isinstance(value, Init):
            return Init(value.rule, tuple(self.dim(d) for d in value.arguments))
        return value

    def view(self, view: View) -> View:
        lengths = tuple(tuple(self.dim(part.length) for part in axis) for axis in view.index)
        before = self.shapes.get(view.param)
        if before is not None:
            lengths = tuple(
                tuple(Dim.of(max(int(m.at({})), int(n.at({})))) for m, n in zip(a, b, strict=True))
                for a, b in zip(before, lengths, strict=True)
            )
        self.shapes[view.param] = lengths
        index = tuple(
            tuple(
                Slice(ZERO, self.dim(part.length), 1)
                if isinstance(part, Slice)
                else Gather(
                    part.table, tuple(self.dim(a) for a in part.arguments), self.dim(part.length)
                )
                for part in axis
            )
            for axis in view.index
        )
        return View(view.param, index)


def _trim(nodes: list[Node], outputs: list[Value]) -> list[Node]:
    """Nodes without those that only regions which are gone have read; inputs stay."""
    needed = {v.node for v in outputs}
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.op == "input" or node.id in needed:
            kept.append(node)
            needed.update(v.node for v in node.operands)
    return kept[::-1]
