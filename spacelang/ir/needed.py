"""What a network computes of what is written: the nodes that an output depends on, and when.

A value that nothing reads is not computed, nor one that only an alternative reads that is not
taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spacelang.ir.block import Block
from spacelang.ir.condition import FALSE, TRUE, Condition, conjunction, disjunction, negate
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
