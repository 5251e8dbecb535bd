"""A graph for evaluation alone: what only training needs is gone, norms are folded.

    graph = for_inference(graph)        # the same outputs in evaluation, for every architecture

Outputs that exist for training go with what only they read; batch norms become part of the products
beside them, which moves the last bits of a value. Decisions stay as they are.
"""

from __future__ import annotations

from dataclasses import replace

from spacelang.diagnostics import Report
from spacelang.ir.graph import Graph
from spacelang.passes.remake import with_root
from spacelang.passes.simplify import Simplify


def for_inference(graph: Graph) -> Graph:
    """The graph without what evaluation does not read."""
    report = Report()
    found = Simplify(fold_norm=True).run(_without_training(graph), report)
    report.check()
    return found


def _without_training(graph: Graph) -> Graph:
    """The graph without its outputs for training, and without what only they depend on."""
    outputs = tuple(o for o in graph.outputs if not o.training)
    if len(outputs) == len(graph.outputs):
        return graph
    needed = {o.value.node for o in outputs}
    for node in reversed(graph.root.nodes):
        if node.id in needed:
            needed.update(v.node for v in node.operands)
    root = replace(
        graph.root,
        nodes=tuple(n for n in graph.root.nodes if n.id in needed or n.op == "input"),
        outputs=tuple(o.value for o in outputs),
    )
    read = {view.param for node in root.everywhere() for view in node.params.values()}
    kept = tuple(p for p in root.params if p.path in read or p.reserved)
    remade = replace(graph, outputs=outputs)
    return with_root(remade, replace(root, params=kept), graph.blocks)
