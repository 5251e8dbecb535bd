"""Splits: choices that call one block for each value of a decision that the block must know."""

from __future__ import annotations

from dataclasses import dataclass

from spacelang.ir.condition import Chosen, Compare, Condition, Is
from spacelang.ir.dim import Symbol, symbol_of
from spacelang.ir.dim import Value as Candidate
from spacelang.ir.graph import conditions
from spacelang.ir.node import Call, Node, Value

Case = tuple[tuple[tuple[Symbol, Candidate], ...], Call]
"""What is known in one case of a split, and the call that it is."""


@dataclass(frozen=True)
class Split:
    """A call of one block for each value of a decision that the block must know.

    `node` is one of the calls; `cases` are what is known in each, and the call.
    """

    node: Node
    operands: tuple[Value, ...]
    cases: tuple[Case, ...]


def alternatives(node: Node) -> Split | None:
    """The split that a choice is: regions that only call, in the order of the decision's values."""
    if node.op != "choose" or node.label:
        return None
    found: list[Split] = []
    for region, truth in zip(node.regions, conditions(node), strict=True):
        case = _case(truth)
        body = [inner for inner in region.nodes if inner.op != "input"]
        if case is None or len(body) != 1 or region.outputs != body[0].values:
            return None
        inner = body[0]
        here = (
            Split(inner, inner.operands, (((), inner.call),)) if inner.call else alternatives(inner)
        )
        if here is None:
            return None
        outer = {Value(i.id): v for i, v in zip(region.inputs, node.operands, strict=True)}
        cases = tuple(((case, *known), call) for known, call in here.cases)
        found.append(Split(here.node, tuple(outer[v] for v in here.operands), cases))
    first = found[0]
    places = {(c.path, c.decide, c.store, c.own) for s in found for _, c in s.cases}
    if len(places) > 1 or any(s.operands != first.operands for s in found):
        return None
    if len({s.cases[0][0][0][0] for s in found}) > 1 or first.node.label != first.cases[0][1].path:
        return None
    return Split(first.node, first.operands, tuple(case for s in found for case in s.cases))


def selected(node: Node) -> dict[int, Value] | None:
    """What a choice yields for each source at one place of a pick, if it does nothing else."""
    if node.op != "choose" or len(node.types) != 1:
        return None
    found: dict[int, Value] = {}
    places: set[tuple[Symbol, int]] = set()
    for region, truth in zip(node.regions, conditions(node), strict=True):
        inputs = [Value(inner.id) for inner in region.inputs]
        if not isinstance(truth, Chosen) or len(inputs) < len(region.nodes):
            return None
        if region.outputs[0] not in inputs or (found and truth.source <= max(found)):
            return None
        places.add((truth.symbol, truth.position))
        found[truth.source] = node.operands[inputs.index(region.outputs[0])]
    return found if len(places) == 1 else None


def _case(truth: Condition) -> tuple[Symbol, Candidate] | None:
    """The decision and the value that a condition says it takes."""
    match truth:
        case Is(symbol, value):
            return symbol, value
        case Compare("==", left, right) if right.constant is not None:
            symbol = symbol_of(left)
            return None if symbol is None else (symbol, right.constant)
        case _:
            return None
