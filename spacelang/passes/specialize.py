"""Specialising: one architecture of a space, the same IR with nothing left to decide.

Regions whose condition holds take the place of their node, others go; sizes become numbers. Blocks
are remade once for each set of values that they are used with. Parameters keep their paths and
shrink to what the architecture reads: a subnet owns just its slice. Tied uses keep their places in
what they share; where they read several tensors of a bank, these are numbered (`weight.0`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce

from spacelang.diagnostics import SpaceError, error
from spacelang.ir.block import Block
from spacelang.ir.condition import Condition
from spacelang.ir.decision import Assignment, exact
from spacelang.ir.dim import ZERO, Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.gather import ascending, in_order, joined, picked, read
from spacelang.ir.graph import Graph, Instance, conditions
from spacelang.ir.levels import needed_nodes
from spacelang.ir.names import fresh
from spacelang.ir.node import Attribute, Call, Node, TensorType, Value
from spacelang.ir.param import Gather, Init, Slice, View
from spacelang.ir.storage import bank_of, bank_position
from spacelang.passes.below import Below
from spacelang.passes.unflatten import unflattened

Shape = tuple[tuple[Dim, ...], ...]
Reads = tuple[tuple[Sequence[int], ...], ...]
"""Entries of each factor of each axis, in order."""


def specialize(graph: Graph, assignment: Assignment) -> Graph:
    """The graph of one architecture (SP501, SP504, SP506 for an assignment that does not fit)."""
    values = graph.decisions.check(assignment)
    if not graph.decisions:
        return graph
    work = _Specializer(graph, values)
    root = work.block(graph.top, graph.root.name)
    outputs = tuple(replace(o, value=v) for o, v in zip(graph.outputs, root.outputs, strict=True))
    made = replace(
        graph,
        root=root,
        blocks=work.blocks,
        outputs=outputs,
        rules=(),
        stored={},
        require=(),
        search={},
    )
    return unflattened(made) if any(rule.argument == "flat" for rule in graph.rules) else made


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
            self._below.of(instance),
            (instance.path, instance.store) if self.apart else (),
        )
        if key not in self.made:
            name = fresh(instance.block.name, self.blocks)
            self.made[key] = name
            self.blocks[name] = self.block(instance, name)
        return self.made[key]

    @cached_property
    def _below(self) -> Below[DecisionValue]:
        return Below(self.graph, self.values)

    def value(self, instance: Instance, symbol: Symbol) -> DecisionValue:
        bound = instance.symbol(symbol)
        if isinstance(bound, Symbol):
            return self.values[bound.name]
        return exact(bound.at(self.values))

    @cached_property
    def apart(self) -> Mapping[str, Mapping[int, Reads]]:
        """The storages of which tied uses read other entries than leading ones, or other tensors.

        By position in the bank, the entries that are kept. SP601 where uses read different entries
        and one of them in another order than that in which they are stored.
        """
        shared = self.graph.memo("shared entries", _shared)
        if not shared:
            return {}
        reads: dict[str, dict[int, set[Reads]]] = {}
        for place in self.graph.places():
            if not all(guard.at(self.values) for guard in place.guards):
                continue
            for view in place.node.params.values():
                path = place.instance.param(view.param)
                if path in shared:
                    position = self.position(place.instance, view)
                    here = reads.setdefault(path, {}).setdefault(position, set())
                    here.add(self.reads(place.instance, view))
        return {
            path: {position: _kept(path, each) for position, each in banks.items()}
            for path, banks in reads.items()
            if len(banks) > 1 or any(not _leading(each) for each in banks.values())
        }

    def position(self, instance: Instance, view: View) -> int:
        bank = bank_of(instance, instance.block.param[view.param])
        return bank_position(bank, self.values)

    def reads(self, instance: Instance, view: View) -> Reads:
        """The entries of each factor that a use reads."""

        def number(size: Dim) -> int:
            return int(instance.absolute(size).at(self.values))

        return tuple(tuple(read(part, number) for part in axis) for axis in view.index)

    def block(self, instance: Instance, name: str) -> Block:
        writer = _Writer(self, instance)
        nodes: list[Node] = []
        outputs = writer.level(instance.block, {}, nodes, top=True)
        used = needed_nodes(nodes, outputs)  # regions that are gone have read the others
        shapes = {**_shapes(used), **writer.shapes}
        params = tuple(
            replace(p, path=path, shape=shapes[path], bank=())
            for p in instance.block.params
            for path in sorted(writer.paths.get(p.path, ()))
            if path in shapes
        )
        sizes = tuple(s for s in instance.block.sizes if not s.values)
        return Block(name, tuple(used), tuple(outputs), sizes, (), params, instance.block.span)


def _shared(graph: Graph) -> frozenset[str]:
    """The storages with several uses, of which one may read other than leading entries."""
    uses: dict[str, int] = {}
    odd: set[str] = set()
    for place in graph.places():
        for view in place.node.params.values():
            path = place.instance.param(view.param)
            uses[path] = uses.get(path, 0) + 1
            if not view.leading or place.instance.block.param[view.param].bank:
                odd.add(path)
    return frozenset(path for path in odd if uses[path] > 1)


def _leading(reads: set[Reads]) -> bool:
    """Whether all uses read the same entries of each factor, or all of them leading ones."""
    return all(
        len(each) == 1 or all(entries == range(len(entries)) for entries in each)
        for axes in zip(*reads, strict=True)
        for factors in zip(*axes, strict=True)
        for each in [set(factors)]
    )


def _kept(path: str, reads: set[Reads]) -> Reads:
    """What is kept of each factor: what one use reads, counted from 0 if all read the same."""

    def union(each: set[Sequence[int]]) -> Sequence[int]:
        first, *rest = each
        if rest and not all(map(ascending, each)):
            raise SpaceError(
                error("SP601", f"{path} cannot be specialised")
                .note("it is tied, and a use reads entries in another order than they are stored")
            )  # fmt: skip
        return range(len(first)) if not rest else reduce(joined, rest, first)

    return tuple(
        tuple(union(set(factors)) for factors in zip(*axes, strict=True))
        for axes in zip(*reads, strict=True)
    )


class _Writer:
    """Writes the nodes of one block for known values."""

    def __init__(self, work: _Specializer, instance: Instance) -> None:
        self.work, self.instance = work, instance
        self.paths: dict[str, set[str]] = {}  # of the tensors that became of a parameter
        self.shapes: dict[str, Shape] = {}  # of those that tied uses read here and there
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
        """What is left of a view: the leading entries, or its place in what tied uses share."""
        lengths = tuple(tuple(self.dim(part.length) for part in axis) for axis in view.index)
        apart = self.work.apart.get(self.instance.param(view.param))
        if apart is not None:
            return self.placed(view, apart)
        self.paths.setdefault(view.param, set()).add(view.param)
        return View(view.param, tuple(tuple(Slice(ZERO, n) for n in axis) for axis in lengths))

    def placed(self, view: View, apart: Mapping[int, Reads]) -> View:
        position = self.work.position(self.instance, view)
        path = f"{view.param}.{position}" if len(apart) > 1 else view.param
        kept = apart[position]
        self.paths.setdefault(view.param, set()).add(path)
        self.shapes[path] = tuple(tuple(Dim.of(len(each)) for each in axis) for axis in kept)

        def part(here: Sequence[int], kept: Sequence[int]) -> Slice | Gather:
            if len(here) == len(kept):
                return Slice(ZERO, Dim.of(len(kept)))
            places = {entry: place for place, entry in enumerate(kept)}
            return picked(in_order([places[entry] for entry in here]))

        pairs = zip(self.work.reads(self.instance, view), kept, strict=True)
        return View(path, tuple(tuple(map(part, *axes)) for axes in pairs))


def _shapes(nodes: Iterable[Node]) -> dict[str, Shape]:
    """The largest lengths that views of each parameter read."""
    found: dict[str, Shape] = {}
    for node in nodes:
        for view in node.params.values():
            here, before = view.lengths, found.get(view.param)
            if before is not None:
                axes = zip(before, here, strict=True)
                here = tuple(tuple(map(_larger, a, b)) for a, b in axes)
            found[view.param] = here
    return found


def _larger(a: Dim, b: Dim) -> Dim:
    return max(a, b, key=lambda size: int(size.at({})))
