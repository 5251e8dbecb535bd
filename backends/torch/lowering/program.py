"""Programs: what a network does, function by function, with what depends on decisions marked.

    program = compile_program(lowering)        # once: every use of every block, conditions in place
    plan = program.plan(values)                # at each activation: only numbers are worked out

Values live in numbered slots. A guard or choice costs nothing at run time: the plan takes the steps
of the region that is there and lets the results stand for its outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from spacelang.backends.torch.lowering.lower import Function, Lowering
from spacelang.backends.torch.lowering.ports import Entries, Mask, Table, known
from spacelang.backends.torch.lowering.tables import TableKey
from spacelang.backends.torch.lowering.views import block_key
from spacelang.ir.block import Block
from spacelang.ir.condition import Condition
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.graph import Graph, Instance, conditions
from spacelang.ir.node import Node, Value, join
from spacelang.ir.storage import bank_position

Values = Mapping[str, DecisionValue]


@dataclass(frozen=True)
class Step:
    """A call of a function at one place of the network."""

    path: str
    function: Function
    operands: tuple[int, ...]
    results: tuple[int, ...]
    weights: tuple[tuple[str, tuple[Symbol, ...]], ...]
    sizes: tuple[Dim, ...]
    masks: tuple[Mask, ...]
    tables: tuple[Table | Entries | TableKey, ...]
    training: bool

    @cached_property
    def banked(self) -> bool:
        return any(bank for _, bank in self.weights)


@dataclass(frozen=True)
class Tap:
    """Where a value that is exposed is, once what stands before has run."""

    path: str
    slot: int


@dataclass(frozen=True)
class Case:
    condition: Condition
    steps: tuple[Step | Fork | Tap, ...]
    results: tuple[int, ...]


@dataclass(frozen=True)
class Fork:
    """Regions of which the one whose condition holds runs; without one the fallbacks pass."""

    cases: tuple[Case, ...]
    fallbacks: tuple[int, ...]
    results: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """A step of a plan: all numbers are known; `done` are slots that nobody reads later."""

    step: Step
    operands: tuple[int, ...]
    positions: tuple[int, ...]  # of the tensor that is read, in the bank of each weight
    sizes: tuple[int | float, ...]
    rates: tuple[float, ...]
    tables: tuple[TableKey, ...]
    done: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """One architecture: what runs, in order, and where the outputs are."""

    values: Values = field(repr=False)
    runs: tuple[Run, ...] = field(repr=False)
    outputs: tuple[int, ...]


class Program:
    """The steps of a whole network. `batch` are its free sizes: name -> (input, axis)."""

    def __init__(self, lowering: Lowering) -> None:
        self.lowering, self.graph = lowering, lowering.graph
        self.count = 0
        slots: dict[Value, int] = {}
        self.inputs = tuple(self._slot(slots, Value(n.id)) for n in self.graph.root.inputs)
        self.steps = self._level(self.graph.top, self.graph.root, slots)
        self.outputs = tuple(slots[o.value] for o in self.graph.outputs)
        self.batch = {
            symbol.name: (number, axis)
            for number, node in enumerate(self.graph.root.inputs)
            for axis, size in enumerate(node.types[0].shape)
            for symbol in size.symbols
            if symbol.free and size == Dim.of(symbol)
        }

    def _slot(self, slots: dict[Value, int], value: Value) -> int:
        slots[value] = self.count
        self.count += 1
        return slots[value]

    @property
    def paths(self) -> frozenset[str]:
        """The places where something runs."""
        return frozenset(step.path for step in self.everywhere())

    def everywhere(self) -> Iterator[Step]:
        """The steps of all networks."""
        return _everywhere(self.steps)

    # Steps, once.

    def _level(
        self, instance: Instance, level: Block, slots: dict[Value, int]
    ) -> tuple[Step | Fork | Tap, ...]:
        """The steps of a block or region whose inputs have their slots."""
        steps: list[Step | Fork | Tap] = []
        main = main_nodes(self.graph, level)
        waiting: list[Node] = []

        def flush() -> None:
            if waiting:
                function = self.lowering.stretch(instance, level, waiting)
                operands = tuple(slots[v] for v in function.operands)
                results = tuple(self._slot(slots, v) for v in function.results)
                steps.append(self._step(instance.path, instance, function, operands, results))
                for node in waiting:
                    steps.extend(self._taps(instance, node, slots))
                waiting.clear()

        for node in level.nodes:
            if node.op == "input":
                continue
            if node.call is None and not node.regions:
                if waiting and self._parted(level, main, waiting[-1], node):
                    flush()
                waiting.append(node)
                continue
            flush()
            steps += (
                self._call(instance, node, slots)
                if node.call
                else [self._fork(instance, node, slots)]
            )
            steps += self._taps(instance, node, slots)
        flush()
        return tuple(steps)

    def _parted(self, level: Block, main: frozenset[int], before: Node, node: Node) -> bool:
        """Whether a node is in another step than the one before it.

        What takes a value apart stays with what made it, which may have made it part by part.
        """
        if (before.id in main) != (node.id in main):
            return True
        if node.op == "unstack" and node.operands[0].node == before.id:
            return False
        return self.lowering.alone(level, before) or self.lowering.alone(level, node)

    def _taps(self, instance: Instance, node: Node, slots: Mapping[Value, int]) -> tuple[Tap, ...]:
        """Where the value of a node is, if it is exposed."""
        if node.types and (block_key(instance, self.graph), node.id) in self.lowering.exposed:
            return (Tap(join(instance.path, node.label), slots[Value(node.id)]),)
        return ()

    def _call(
        self, instance: Instance, node: Node, slots: dict[Value, int]
    ) -> tuple[Step | Fork | Tap, ...]:
        assert node.call is not None
        block = self.graph.blocks[node.call.block]
        operands = tuple(slots[v] for v in node.operands)
        callee = instance.enter(node.call, block)
        if block.name in self.lowering.pure:
            results = tuple(self._slot(slots, v) for v in node.values)
            function = self.lowering.block(block.name)
            return (self._step(callee.path, callee, function, operands, results),)
        inner = dict(zip((Value(n.id) for n in block.inputs), operands, strict=True))
        steps = self._level(callee, block, inner)
        slots.update(zip(node.values, (inner[v] for v in block.outputs), strict=True))
        return steps

    def _fork(self, instance: Instance, node: Node, slots: dict[Value, int]) -> Fork:
        operands = tuple(slots[v] for v in node.operands)
        cases: list[Case] = []
        for region, condition in zip(node.regions, conditions(node), strict=True):
            inner = dict(zip((Value(n.id) for n in region.inputs), operands, strict=True))
            steps = self._level(instance, region, inner)
            results = tuple(inner[v] for v in region.outputs)
            cases.append(Case(instance.condition(condition), steps, results))
        results = tuple(self._slot(slots, v) for v in node.values)
        return Fork(tuple(cases), operands[: len(results)], results)

    def _step(
        self,
        path: str,
        instance: Instance,
        function: Function,
        operands: tuple[int, ...],
        results: tuple[int, ...],
    ) -> Step:
        items = [port.at(instance, self.graph) for port in function.ports]
        weights = [p.used(instance, self.graph) for p in function.ports if p.kind == "weight"]
        return Step(
            path,
            function,
            operands,
            results,
            tuple(weights),
            tuple(i for i in items if isinstance(i, Dim)),
            tuple(i for i in items if isinstance(i, Mask)),
            tuple(i.known() or i for i in items if isinstance(i, Table | Entries)),
            None in items,
        )

    # Plans, at each activation.

    def plan(self, values: Values, outputs: Sequence[int] | None = None) -> Plan:
        """What runs for these decisions to give some outputs; None: all but those for training."""
        picker = _Picker(values)
        picker.take(self.steps)
        if outputs is None:
            outputs = [i for i, o in enumerate(self.graph.outputs) if not o.training]
        slots = tuple(picker.slot(self.outputs[i]) for i in outputs)
        return Plan(values, picker.runs(slots), slots)

    def taps(self, values: Values, others: str | None = None) -> tuple[tuple[str, ...], Plan]:
        """The paths of exposed values that are there for these decisions, and what gives them.

        Its first result is the network's own; `others` begins the names of its other outputs, where
        these are wanted too.
        """
        picker = _Picker(values)
        picker.take(self.steps)
        made = {slot for step in picker.steps for slot in step.results} | set(self.inputs)
        found: dict[str, int] = {}
        for tap in picker.taps:
            if picker.slot(tap.slot) in made:
                found.setdefault(tap.path, picker.slot(tap.slot))
        main = next(i for i, o in enumerate(self.graph.outputs) if not o.training)
        if others is not None:
            for number, output in enumerate(self.graph.outputs):
                if number != main:
                    found[others + output.name] = picker.slot(self.outputs[number])
        slots = (picker.slot(self.outputs[main]), *found.values())
        return tuple(found), Plan(values, picker.runs(slots), slots)


def _everywhere(steps: Sequence[Step | Fork | Tap]) -> Iterator[Step]:
    for step in steps:
        if isinstance(step, Step):
            yield step
        elif isinstance(step, Fork):
            for case in step.cases:
                yield from _everywhere(case.steps)


class _Picker:
    """The steps that are there for some decisions, and which slot stands for which."""

    def __init__(self, values: Values) -> None:
        self.values = values
        self.steps: list[Step] = []
        self.taps: list[Tap] = []
        self.stands: dict[int, int] = {}
        self.known: dict[Dim, int | float] = {}

    def slot(self, slot: int) -> int:
        return self.stands.get(slot, slot)

    def take(self, steps: Sequence[Step | Fork | Tap]) -> None:
        for step in steps:
            if isinstance(step, Step):
                self.steps.append(step)
                continue
            if isinstance(step, Tap):
                self.taps.append(step)
                continue
            sources = step.fallbacks
            for case in step.cases:
                if case.condition.at(self.values):
                    self.take(case.steps)
                    sources = case.results
                    break
            for result, source in zip(step.results, sources, strict=True):
                self.stands[result] = self.slot(source)

    def runs(self, outputs: Sequence[int]) -> tuple[Run, ...]:
        """The steps that the outputs need; each value is let go after its last reader."""
        needed = set(outputs)
        found: list[Run] = []
        for step in reversed(self.steps):
            if needed.isdisjoint(step.results):
                continue
            operands = tuple(self.slot(s) for s in step.operands)
            done = {*operands, *step.results} - needed
            needed.update(operands)
            found.append(
                Run(
                    step,
                    operands,
                    self.positions(step),
                    tuple(self.number(size) for size in step.sizes),
                    tuple(float(self.number(mask.rate)) for mask in step.masks),
                    tuple(map(self.table, step.tables)),
                    tuple(done),
                )
            )
        return tuple(reversed(found))

    def positions(self, step: Step) -> tuple[int, ...]:
        if not step.banked:
            return (0,) * len(step.weights)
        return tuple(bank_position(bank, self.values) for _, bank in step.weights)

    def table(self, table: Table | Entries | TableKey) -> TableKey:
        return table if isinstance(table, TableKey) else table.key(self.number)

    def number(self, dim: Dim) -> int | float:
        found = self.known.get(dim)
        if found is None:
            found = self.known[dim] = known(dim, self.values)
        return found


def main_nodes(graph: Graph, level: Block) -> frozenset[int]:
    """The nodes of a level that the network computes when it does not train."""
    if level is not graph.root:
        return frozenset(node.id for node in level.nodes)
    found = {o.value.node for o in graph.outputs if not o.training}
    for node in reversed(level.nodes):
        if node.id in found:
            found.update(v.node for v in node.operands)
    return frozenset(found)
