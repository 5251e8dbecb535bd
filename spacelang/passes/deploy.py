"""A fixed network made ready to run: the same outputs in evaluation, from fewer operations.

    main, recipes = deployed(graph)     # SP506 where decisions are open

Norms are folded, what only training needs is gone, relative terms are in their bucket form, calls
are inlined, names of values are dropped. Numbers, residuals and constant tables become weights of
their own. `recipes` are graphs without inputs, to be run one after the other: each has weights of
the next ones, or of `main`, as its outputs, under their paths there.
"""

from __future__ import annotations

from dataclasses import replace

from spacelang.diagnostics import Report
from spacelang.ir.block import Block
from spacelang.ir.graph import Graph, Output
from spacelang.ir.node import Node, Value
from spacelang.ir.param import Init, Param, leading
from spacelang.passes.bucketise import bucketised
from spacelang.passes.fold import STORED, Names, constants, derived, materialised, trimmed
from spacelang.passes.inference import for_inference
from spacelang.passes.inline import inlined
from spacelang.passes.products import (
    pointwise_linear,
    residuals_folded,
    scales_folded,
    tiny_depthwise,
)
from spacelang.passes.remake import each_block, with_root
from spacelang.passes.simplify import Simplify

IDLE = frozenset({"identity", "dropout", "drop_path"})  # in evaluation


def deployed(graph: Graph, batch: int = 1, maps: bool = False) -> tuple[Graph, tuple[Graph, ...]]:
    """The network, and the graphs that compute its weights from those of `graph`.

    `batch` is how many inputs it is meant for: it decides what pays, not what is computed.
    """
    graph = simplified(each_block(for_inference(bucketised(graph)), unnamed))  # once a block
    graph = simplified(each_block(inlined(graph), unnamed))
    graph = tiny_depthwise(scales_folded(residuals_folded(graph)), batch)
    graph = simplified(graph if maps else pointwise_linear(graph))
    stored, weights = materialised(graph)
    main, tables = constants_stored(stored)
    return main, tuple(recipe for recipe in (weights, tables) if recipe is not None)


def simplified(graph: Graph) -> Graph:
    """The graph simplified."""
    report = Report()
    found = Simplify().run(graph, report)
    report.check()
    return found


def unnamed(block: Block) -> Block:
    """A block without names of values, and without what evaluation passes on as it is."""
    seen: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in block.nodes:
        operands = tuple(seen.get(v, v) for v in node.operands)
        if node.op in IDLE:
            seen[Value(node.id)] = operands[0]
            continue
        label = node.label if node.op in STORED or node.op == "input" else ""
        nodes.append(replace(node, operands=operands, label=label))
    outputs = tuple(seen.get(v, v) for v in block.outputs)
    return replace(block, nodes=tuple(nodes), outputs=outputs)


def constants_stored(graph: Graph) -> tuple[Graph, Graph | None]:
    """The graph with every tensor that is computed from weights and tables alone as a weight.

    And the graph that computes them, with their paths as names of its outputs; None where there is
    nothing to compute.
    """
    root = graph.root
    fixed = {i for i in constants(root) if not _open(root.by_id[i])}
    wanted = {
        value
        for node in root.nodes
        if node.id not in fixed
        for value in node.operands
        if value.node in fixed and not _plain(root.by_id[value.node])
    }
    if not wanted:
        return graph, None
    params, names = dict(root.param), Names(root.param)
    outputs: list[Output] = []
    nodes: list[Node] = []
    for node in root.nodes:
        if Value(node.id) not in wanted:
            nodes.append(node)
            continue
        path = names.free(f"constant_{len(outputs)}")
        shape = tuple((size,) for size in node.types[0].shape)
        params[path] = Param(path, shape, Init("zeros"), decay=False)
        sizes = tuple(size for (size,) in shape)
        attributes = {"shape": sizes, "init": params[path].init}
        views = {"": leading(params[path])}
        nodes.append(
            Node(node.id, "parameter", (), attributes, views, types=node.types, label=path)
        )
        outputs.append(Output(path, Value(node.id)))
    main = trimmed(replace(root, nodes=tuple(nodes), params=tuple(params.values())))
    return with_root(graph, main, {}), derived(graph, root, fixed, outputs, "constants")


def _open(node: Node) -> bool:
    """Whether a value is as large as the batch."""
    return any(s.free for type in node.types for size in type.shape for s in size.symbols)


def _plain(node: Node) -> bool:
    """What is stored as it is, has several results, or is a table of indices."""
    return node.op in STORED or len(node.types) != 1 or node.types[0].dtype != "f32"


__all__ = ["constants_stored", "deployed", "simplified", "unnamed"]
