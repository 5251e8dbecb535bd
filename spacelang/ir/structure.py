"""Invariants, first stage: what the other rows walk along. One function a row."""

from __future__ import annotations

from collections.abc import Iterator

from spacelang.diagnostics import Diagnostic
from spacelang.ir.node import STRUCTURAL, Node, Value
from spacelang.ir.op import ops
from spacelang.ir.subject import Subject, broken, everything
from spacelang.ir.uses import ROOT, blocks_of


def names(subject: Subject) -> Iterator[Diagnostic]:
    """A block is found under its name; the root, which nobody calls, has no sizes."""
    for name, block in subject.graph.blocks.items():
        if name != block.name:
            yield broken(f"the block {block.name} is kept as {name}", block.span)
    if subject.graph.root.sizes:
        yield broken("the root has sizes, which nobody binds", subject.graph.root.span)


def ids(subject: Subject) -> Iterator[Diagnostic]:
    """No two nodes of a block, those of its regions included, have one id."""
    for block in subject.blocks:
        seen: set[int] = set()
        for _, node in everything(block):
            if node.id in seen:
                yield broken(f"{block.name} has two nodes %{node.id}", node.span)
            seen.add(node.id)


def order(subject: Subject) -> Iterator[Diagnostic]:
    """What is read was made before, in the same level, and has that many results."""
    for block in subject.blocks:
        waiting = [block]
        for level in waiting:
            made: set[Value] = set()
            for node in level.nodes:
                for value in node.operands:
                    if value not in made:
                        yield broken(
                            f"%{node.id} of {block.name} reads {value} too early", node.span
                        )
                made.update(node.values)
                waiting += node.regions
            for value in level.outputs:
                if value not in made:
                    yield broken(f"{level.name} yields {value}, which it does not make", level.span)


def forms(subject: Subject) -> Iterator[Diagnostic]:
    """Calls, regions, operands and results are such as the op has."""
    for block in subject.blocks:
        for _, node in everything(block):
            for wrong in _form(node):
                yield broken(f"%{node.id} of {block.name}: {wrong}", node.span)


def _form(node: Node) -> Iterator[str]:
    operands, results, regions = len(node.operands), len(node.types), len(node.regions)
    if (node.op == "call") != (node.call is not None):
        yield "only a call calls"
    match node.op:
        case "input" if (operands, results) != (0, 1):
            yield "an input reads nothing and is one value"
        case "identity" if (operands, results) != (1, 1):
            yield "an identity reads one value and is one"
        case "guard" if regions != 1 or operands < results:
            yield "a guard has one region, and a fallback for each result"
        case "choose" if not regions:
            yield "a choice has regions"
        case op if op not in STRUCTURAL and op not in ops():
            yield f"no op is called {op}"
        case op if op not in ("guard", "choose") and regions:
            yield f"{op} has no regions"
        case op if op in STRUCTURAL and node.params:
            yield f"{op} has no parameters"
        case _:
            pass


def regions(subject: Subject) -> Iterator[Diagnostic]:
    """A region takes the node's operands, yields its results, and has no scope of its own."""
    for block in subject.blocks:
        for _, node in everything(block):
            for region in node.regions:
                where = f"a region of %{node.id} of {block.name}"
                if region.sizes or region.decisions or region.params:
                    yield broken(f"{where} has sizes, decisions or parameters", node.span)
                if len(region.inputs) != len(node.operands):
                    yield broken(f"{where} takes {len(region.inputs)} values", node.span)
                if len(region.outputs) != len(node.types):
                    yield broken(f"{where} yields {len(region.outputs)} values", node.span)


def calls(subject: Subject) -> Iterator[Diagnostic]:
    """A call names a block that is there, hands it what it takes and binds each of its sizes."""
    graph = subject.graph
    for block in subject.blocks:
        for _, node in everything(block):
            call = node.call
            if call is None:
                continue
            where = f"%{node.id} of {block.name}"
            callee = graph.blocks.get(call.block)
            if callee is None:
                yield broken(f"{where} calls {call.block}, which is not there", node.span)
                continue
            counts = len(node.operands), len(node.types)
            if counts != (len(callee.inputs), len(callee.outputs)):
                yield broken(f"{where} does not fit the values of {callee.name}", node.span)
            if set(call.sizes) != {size.name for size in callee.sizes}:
                yield broken(f"{where} does not bind the sizes of {callee.name}", node.span)


DEPTH, OPEN = 64, 2_000_000
"""How deep calls stand in each other at most; how many nodes there are with all calls open."""


def recursion(subject: Subject) -> Iterator[Diagnostic]:
    """No block calls itself, through others neither; the network laid open stays finite."""
    graph = subject.graph
    calls = {
        name: [
            n.call.block
            for n in block.everywhere()
            if n.call is not None and n.call.block in graph.blocks
        ]
        for name, block in blocks_of(graph).items()
    }
    nodes: dict[str, int] = {}
    for _ in range(DEPTH + 1):
        ready = [n for n in calls if n not in nodes and all(c in nodes for c in calls[n])]
        sizes = {
            n: sum(1 for _ in blocks_of(graph)[n].everywhere()) + sum(nodes[c] for c in calls[n])
            for n in ready
        }
        nodes.update(sizes)
    for name, block in blocks_of(graph).items():
        if name not in nodes:
            text = f"{block.name} calls itself, or calls stand more than {DEPTH} deep"
            yield broken(text, block.span)
    if nodes.get(ROOT, 0) > OPEN:
        text = f"{graph.name} has {nodes[ROOT]:,} nodes with all calls open, more than {OPEN:,}"
        yield broken(text, graph.root.span)
