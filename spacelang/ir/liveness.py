"""What a network computes of what is written: the nodes that an output depends on, and when.

A value that nothing reads is not computed, nor one that only an alternative reads that is not
taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING

from spacelang.ir.block import Block
from spacelang.ir.condition import FALSE, TRUE, Condition, conjunction, disjunction, negate
from spacelang.ir.dim import Value as DecisionValue
from spacelang.ir.node import Node, Value
from spacelang.ir.prove import Proved, holds

if TYPE_CHECKING:
    from spacelang.ir.graph import Graph, Instance, Place


def needed(graph: Graph, training: bool = False) -> list[Place]:
    """Every node of every use of every block that an output needs, under the conditions that it is.

    Outputs for training count with `training`. Inputs are left out.
    """
    wanted = [TRUE if training or not o.training else FALSE for o in graph.outputs]
    return _Walk(graph).level(graph.top, graph.root, wanted)[0]


@dataclass(frozen=True)
class Computed:
    """What one architecture computes of a block or region.

    inside  the nodes that run, by id in the order of the level: of a call or a node with a region
            that is taken what runs in there, None of any other
    reads   of each input of the level, whether its value is needed
    wanted  of each output of the level, whether it is
    """

    instance: Instance
    level: Block
    inside: Mapping[int, Computed | None]
    reads: tuple[bool, ...]
    wanted: tuple[bool, ...]

    @property
    def nodes(self) -> Iterator[tuple[Node, Computed | None]]:
        """The nodes that run, in order, each with what runs inside of it."""
        return ((node, self.inside[node.id]) for node in self.level.nodes if node.id in self.inside)

    def leaves(self) -> Iterator[tuple[Instance, Node]]:
        """All that runs but calls, and nodes with regions."""
        for node, inside in self.nodes:
            if inside is not None:
                yield from inside.leaves()
            elif not node.regions:
                yield self.instance, node


def computed(graph: Graph, values: Mapping[str, DecisionValue], training: bool = False) -> Computed:
    """What an architecture, given by values of all decisions, computes for its outputs.

    Outputs for training count with `training`.
    """
    from spacelang.ir.graph import conditions

    def within(instance: Instance, node: Node, results: Sequence[bool]) -> Computed | None:
        if node.call is not None:
            block = graph.blocks[node.call.block]
            return level(instance.enter(node.call, block), block, results)
        for region, condition in zip(node.regions, conditions(node), strict=True):
            if instance.condition(condition).at(values):
                return level(instance, region, results)
        return None

    def level(instance: Instance, block: Block, wanted: Sequence[bool]) -> Computed:
        needs: dict[int, set[int]] = {}  # of each node, which results
        for value, want in zip(block.outputs, wanted, strict=True):
            if want:
                needs.setdefault(value.node, set()).add(value.index)
        inside: dict[int, Computed | None] = {}
        for node in reversed(block.nodes):
            if node.id not in needs or node.op == "input":
                continue
            inside[node.id] = None
            read: Iterable[Value] = node.operands
            if node.call is not None or node.regions:
                results = [index in needs[node.id] for index in range(len(node.types))]
                found = inside[node.id] = within(instance, node, results)
                # Where no region is taken the first operands are the results.
                read = compress(node.operands, found.reads if found is not None else results)
            for value in read:
                needs.setdefault(value.node, set()).add(value.index)
        reads = tuple(node.id in needs for node in block.inputs)
        return Computed(instance, block, inside, reads, tuple(wanted))

    return level(graph.top, graph.root, [training or not o.training for o in graph.outputs])


@dataclass
class _Walk:
    graph: Graph

    def level(
        self, instance: Instance, level: Block, wanted: Sequence[Condition]
    ) -> tuple[list[Place], list[Condition]]:
        """The needed nodes of a level whose outputs are wanted, and when it reads its inputs.

        All conditions hold besides those of the instance.
        """
        from spacelang.ir.graph import Place

        need: dict[Value, Condition] = {}

        def add(value: Value, condition: Condition) -> None:
            before = need.get(value, FALSE)
            if TRUE in (before, condition):
                need[value] = TRUE
            else:
                need[value] = _simple(disjunction(before, condition), instance)

        for value, condition in zip(level.outputs, wanted, strict=True):
            add(value, condition)
        found: list[list[Place]] = []
        for node in reversed(level.nodes):
            results = [need.get(value, FALSE) for value in node.values]
            here = _simple(_any(results), instance)
            if here == FALSE or node.op == "input":
                continue
            inside = instance if here == TRUE else instance.under(here)
            relative = [TRUE if result == here else result for result in results]
            places, operands = self.node(inside, node, relative)
            found.append([Place(inside, node), *places])
            for value, condition in zip(node.operands, operands, strict=True):
                add(value, conjunction(here, condition))
        places = [place for group in reversed(found) for place in group]
        return places, [need.get(Value(node.id), FALSE) for node in level.inputs]

    def node(
        self, instance: Instance, node: Node, results: Sequence[Condition]
    ) -> tuple[list[Place], list[Condition]]:
        """What is needed inside of a node, and when it reads its operands."""
        if node.call is not None:
            block = self.graph.blocks[node.call.block]
            return self.level(instance.enter(node.call, block), block, results)
        if not node.regions:
            return [], [TRUE] * len(node.operands)
        return self.regions(instance, node, results)

    def regions(
        self, instance: Instance, node: Node, results: Sequence[Condition]
    ) -> tuple[list[Place], list[Condition]]:
        from spacelang.ir.graph import conditions

        found: list[Place] = []
        ways: list[tuple[Condition, list[Condition]]] = []
        for region, condition in zip(node.regions, conditions(node), strict=True):
            here = instance.condition(condition)
            if conjunction(*instance.guards, here) == FALSE:
                continue
            places, reads = self.level(instance.under(here), region, results)
            found += places
            ways.append((here, reads))
        if node.op == "guard":  # where the region is absent its results are the first operands
            rest = [FALSE] * (len(node.operands) - len(results))
            ways.append((negate(conjunction(*(way for way, _ in ways))), [*results, *rest]))
        reads: list[Condition] = []
        for position in range(len(node.operands)):
            each = [read[position] for _, read in ways]
            if all(read == each[0] for read in each):
                reads.append(each[0] if each else FALSE)
            else:
                taken = (conjunction(way, read[position]) for way, read in ways)
                reads.append(_any([*taken]))
        return found, reads


def _any(conditions: Sequence[Condition]) -> Condition:
    return TRUE if TRUE in conditions else disjunction(*conditions)


def _simple(condition: Condition, instance: Instance) -> Condition:
    """TRUE for what always holds at an instance."""
    if condition in (TRUE, FALSE):
        return condition
    proved = isinstance(holds(condition, instance.guards), Proved)
    return TRUE if proved else condition
