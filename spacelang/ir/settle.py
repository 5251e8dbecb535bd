"""Settling a graph after edits: types found anew where operands changed, unused things left out.

Recorded types and views stay wherever they still agree. A parameter whose every view is a prefix
grows or shrinks with what its node needs; any other is left for the verifier to judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from spacelang.diagnostics import SpaceError
from spacelang.ir.block import Block
from spacelang.ir.condition import Condition
from spacelang.ir.graph import Graph, conditions
from spacelang.ir.infer import Settled
from spacelang.ir.known import Known
from spacelang.ir.node import STRUCTURAL, Node, TensorType, Value
from spacelang.ir.param import Param, View
from spacelang.ir.retype import At, differs, inferred, names_of
from spacelang.ir.uses import ROOT, blocks_of, with_blocks


def settled(graph: Graph, touched: set[str]) -> Graph:
    """The graph with the types of touched blocks found anew, and of those that call them."""
    blocks = blocks_of(graph)
    moved: set[str] = set()
    known = Known(graph)
    for name in _callees_first(graph):
        block = blocks[name]
        below = {n.call.block for n in block.everywhere() if n.call is not None}
        if name not in touched and not below & moved:
            continue
        before = [block.type_of(value) for value in block.outputs]
        work = _Settler(blocks, known, {param.path: param for param in block.params})
        made = replace(block, nodes=work.level(block, (), None), params=tuple(work.params.values()))
        read = {view.param for node in made.everywhere() for view in node.params.values()}
        made = replace(made, params=tuple(p for p in made.params if p.path in read or p.reserved))
        blocks[name] = made
        if any(
            differs(a, made.type_of(v), At()) for a, v in zip(before, made.outputs, strict=False)
        ):
            moved.add(name)
    return with_blocks(graph, blocks)


def pruned(graph: Graph) -> Graph:
    """The graph without the blocks that nobody calls."""
    used = set(_callees_first(graph))
    if used >= set(graph.blocks):
        return graph
    return replace(graph, blocks={n: b for n, b in graph.blocks.items() if n in used})


def _callees_first(graph: Graph) -> Iterator[str]:
    """The names of the blocks that the network uses, the root's last."""
    done: set[str] = set()
    blocks = blocks_of(graph)
    waiting = [ROOT]
    while waiting:
        name = waiting[-1]
        calls = (n.call.block for n in blocks[name].everywhere() if n.call is not None)
        inner = [c for c in calls if c not in done and c in blocks and c not in waiting]
        if inner:
            waiting.append(inner[0])
            continue
        waiting.pop()
        if name not in done:
            done.add(name)
            yield name


@dataclass
class _Settler:
    """One block. `params` are its parameters as they are found to be."""

    blocks: dict[str, Block]
    known: Known
    params: dict[str, Param] = field(default_factory=dict[str, Param])

    def level(
        self, level: Block, guards: tuple[Condition, ...], inputs: list[TensorType] | None
    ) -> tuple[Node, ...]:
        """The nodes of a level, `inputs` being the types of a region's operands."""
        types: dict[Value, TensorType] = {}
        given = iter(inputs or ())
        nodes: list[Node] = []
        for node in level.nodes:
            if node.op == "input":
                made = node if inputs is None else self._with_types(node, (next(given),), guards)
            else:
                operands = [types[v] for v in node.operands if v in types]
                complete = len(operands) == len(node.operands)  # else the verifier says what lacks
                made = self._node(node, operands, guards) if complete else node
            nodes.append(made)
            types.update(zip(made.values, made.types, strict=True))
        return tuple(nodes)

    def _node(self, node: Node, operands: list[TensorType], guards: tuple[Condition, ...]) -> Node:
        if node.op not in STRUCTURAL:
            return self._applied(node, operands, guards)
        if node.op == "identity":
            return self._with_types(node, tuple(operands), guards)
        if node.call is not None:
            callee = self.blocks.get(node.call.block)
            if callee is None:
                return node
            names = names_of(node.call, self.known.decisions(callee))
            types = tuple(callee.type_of(v).substitute(names) for v in callee.outputs)
            return self._with_types(node, types, guards)
        regions = tuple(
            replace(region, nodes=self.level(region, (*guards, condition), operands))
            for region, condition in zip(node.regions, conditions(node), strict=True)
        )
        node = replace(node, regions=regions)
        if node.op == "guard":
            return self._with_types(node, tuple(operands[: len(node.types)]), guards)
        found = {tuple(region.type_of(v) for v in region.outputs) for region in regions}
        return self._with_types(node, found.pop(), guards) if len(found) == 1 else node

    def _applied(
        self, node: Node, operands: list[TensorType], guards: tuple[Condition, ...]
    ) -> Node:
        try:
            found = inferred(node, tuple(operands), At(guards), Settled)
        except SpaceError:  # the verifier tells what does not fit, also at the uses of the block
            return node
        views = dict(node.params)
        for role, view in node.params.items():
            if role in found.params and view.param in self.params and view.leading:
                wanted = found.params[role]
                if wanted.shape != view.lengths and _alike(wanted, view):
                    path = view.param
                    self.params[path] = replace(self.params[path], shape=wanted.shape)
                    views[role] = replace(found.views[role], param=path)
        return replace(self._with_types(node, found.types, guards), params=views)

    def _with_types(
        self, node: Node, types: tuple[TensorType, ...], guards: tuple[Condition, ...]
    ) -> Node:
        """A node of other types, where they are others."""
        at = At(guards)
        if len(types) == len(node.types) and not any(
            differs(old, new, at) for old, new in zip(node.types, types, strict=True)
        ):
            return node
        return replace(node, types=types)


def _alike(param: Param, view: View) -> bool:
    """Whether a parameter has the axes and factors that a view has."""
    return [len(axis) for axis in param.shape] == [len(axis) for axis in view.index]
