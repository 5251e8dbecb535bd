"""Invariants, first stage: what the other rows walk along. One function a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from spacelang.diagnostics import Diagnostic, Span
from spacelang.ir.block import Block
from spacelang.ir.node import STRUCTURAL, Node, Value
from spacelang.ir.op import ops
from spacelang.ir.param import Param
from spacelang.ir.subject import Subject, broken, everything
from spacelang.ir.uses import ROOT, blocks_of
from spacelang.ir.words import PLAIN


def names(subject: Subject) -> Iterator[Diagnostic]:
    """A block is found under its name; the root, which nobody calls, has no sizes."""
    for name, block in subject.graph.blocks.items():
        if name != block.name:
            yield broken(f"the block {block.name} is kept as {name}", block.span)
    if subject.graph.root.sizes:
        yield broken("the root has sizes, which nobody binds", subject.graph.root.span)


def spelling(subject: Subject) -> Iterator[Diagnostic]:
    """A name is labels of letters, digits and `_`, with `.` and `[3]` between them, and no other
    text; a place may count from the root by a `/` before it, or be its owner's and empty."""
    graph = subject.graph
    whole = [("graph", graph.name), *(("output", output.name) for output in graph.outputs)]
    whole += [("dialect", name) for name in graph.dialects]
    whole += [("engine", name) for name in graph.search]
    yield from _misspelt(whole, graph.root.span)
    for block in subject.blocks:
        yield from _misspelt(_names(block), block.span)
        for choice in block.decisions:
            yield from _misspelt([("decision", choice.path)], choice.span)
        for param in block.params:
            yield from _misspelt(_names_of_param(param), param.span)
        for _, node in everything(block):
            yield from _misspelt(_names_of(node), node.span)


def _misspelt(names: Iterable[tuple[str, str]], span: Span) -> Iterator[Diagnostic]:
    for what, name in names:
        place = name.removeprefix("/") if what in ROOTED else name
        if not PLAIN.fullmatch(place) and (place or what not in EMPTY):
            yield broken(f"the {what} {name!r} is no name", span)


EMPTY = ("place", "symbol")
"""What may be its owner's own place."""
ROOTED = (*EMPTY, "parameter")
"""What may count from the root."""


def _names(block: Block) -> Iterator[tuple[str, str]]:
    yield "block", block.name
    yield from (("size", size.name) for size in block.sizes)


def _names_of_param(param: Param) -> Iterator[tuple[str, str]]:
    yield "parameter", param.path
    yield "init", param.init.rule
    yield "type", param.dtype


def _names_of(node: Node) -> Iterator[tuple[str, str]]:
    yield "op", node.op
    yield "place", node.label
    for type in node.types:
        yield "type", type.dtype
        yield from (("symbol", symbol.name) for size in type.shape for symbol in size.symbols)
    yield from (("region", region.name) for region in node.regions)
    yield from (("option", name) for name in node.attributes)
    yield from (("place", role) for role in node.params)
    yield from (("place", view.param) for view in node.params.values())
    call = node.call
    if call is not None:
        yield "block", call.block
        yield from (("place", place) for place in (call.path, call.decide, call.store, *call.own))
        yield from (("size", name) for name in call.sizes)


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
