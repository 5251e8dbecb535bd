"""Weights of mixtures: parameters of the network, handed down through calls and regions.

    %2 parameter as alphas.normal.dag[0][0].op    %3 softmax %2    %9 call normal %0, %1, %3, ..

Every block that has a mixture, or calls a block that has one, gets an input for its weights. Those
of a decision with others inside, `alphas.op.a.inner`, are `alphas.op.alphas`: no tensor holds one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from spacelang.ir.block import Block
from spacelang.ir.dim import Dim
from spacelang.ir.graph import Graph
from spacelang.ir.names import under
from spacelang.ir.node import Node, TensorType, Value
from spacelang.ir.options import attribute
from spacelang.ir.param import Init, Param, leading
from spacelang.ir.pattern import split
from spacelang.passes.remake import Body, with_root

Weightings = Mapping[str, tuple[str | None, float]]


def hand_down(
    graph: Graph, root: Block, blocks: Mapping[str, Block], weightings: Weightings
) -> Graph:
    """The graph with these blocks, whose nodes `mixture` name a decision for weights to come.

    `weightings` has, for the label of a decision, the op that makes weights of its parameters (or
    none), and the deviation from zero with which they start.
    """
    work = _Work(blocks)
    body = Body(count(root.next_id))
    for node in root.inputs:
        body.put(node)
    have: dict[str, Value] = {}
    params: list[Param] = []
    before = (p.path for p in root.params if p.path.startswith("alphas."))
    keys = work.level(root.nodes)
    decided = with_root(graph, root, blocks).decisions  # what stood for a draw is there by source
    known = (*graph.decisions, *decided, *(key.removeprefix("/") for key in keys))
    taken = {*known, *(path.removeprefix("alphas.") for path in before)}
    for key, size in keys.items():
        op, spread = weightings[split(key)[-1].name]
        path = key.removeprefix("/")
        holds = any(other.startswith(f"{path}.") for other in taken)
        param = _alphas(f"{path}.alphas" if holds else path, size, spread)
        params.append(param)
        have[key] = _weights(body, param, op)
    work.write(root.nodes, have, body)
    made = replace(root, nodes=tuple(body.nodes), params=(*params, *root.params))
    return with_root(graph, made, {name: work.block(block) for name, block in blocks.items()})


def _alphas(path: str, size: int, spread: float) -> Param:
    start = Init("normal", (Dim.of(spread),))
    return Param(f"alphas.{path}", ((Dim.of(size),),), start, decay=False)


def _weights(body: Body, param: Param, op: str | None) -> Value:
    """The parameter's value, and what the weighting makes of it."""
    size = param.shape[0][0]
    value = body.put(
        Node(
            next(body.ids),
            "parameter",
            (),
            {"shape": (size,), "init": attribute(param.init)},
            {"": leading(param)},
            types=(TensorType((size,)),),
            label=param.path,
        )
    )[0]
    return value if op is None else body.one(op, [value])


@dataclass
class _Work:
    blocks: Mapping[str, Block]
    _needs: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])

    def needs(self, name: str) -> dict[str, int]:
        """The decisions, by path in a block, whose weights it needs, and how many there are."""
        if name not in self._needs:
            self._needs[name] = self.level(self.blocks[name].nodes)
        return self._needs[name]

    def level(self, nodes: Sequence[Node]) -> dict[str, int]:
        found: dict[str, int] = {}
        for node in nodes:
            found |= dict(self._of_node(node))
        return found

    def _of_node(self, node: Node) -> Iterator[tuple[str, int]]:
        decision = node.attributes.get("decision")
        if node.op == "mixture" and isinstance(decision, str):
            yield decision, len(node.operands)
        if node.call is not None:
            for key, size in self.needs(node.call.block).items():
                yield under(node.call.decide, key), size
        for region in node.regions:
            yield from self.level(region.nodes).items()

    def block(self, block: Block) -> Block:
        """A block with inputs for the weights that it needs."""
        needs = self.needs(block.name)
        if not needs:
            return block
        body = Body(count(block.next_id))
        for node in block.inputs:
            body.put(node)
        self.write(block.nodes, _inputs(needs, body), body)
        return replace(block, nodes=tuple(body.nodes))

    def write(self, nodes: Sequence[Node], have: Mapping[str, Value], body: Body) -> None:
        """The nodes of a level with their weights; inputs stand there already."""
        for node in nodes:
            if node.op == "input":
                continue
            keys = list(dict(self._of_node(node)))
            given = tuple(have[key] for key in keys)
            if node.op == "mixture":
                body.put(replace(node, operands=(*given, *node.operands), attributes={}))
            elif node.regions:
                regions = tuple(self._region(r, self._of_node(node), body) for r in node.regions)
                body.put(replace(node, operands=(*node.operands, *given), regions=regions))
            else:
                body.put(replace(node, operands=(*node.operands, *given)))

    def _region(self, region: Block, needs: Iterator[tuple[str, int]], outer: Body) -> Block:
        body = Body(outer.ids)
        for node in region.inputs:
            body.put(node)
        self.write(region.nodes, _inputs(dict(needs), body), body)
        return replace(region, nodes=tuple(body.nodes))


def _inputs(needs: Mapping[str, int], body: Body) -> dict[str, Value]:
    return {key: body.input(TensorType((Dim.of(size),))) for key, size in needs.items()}
