"""The verifier: each of its rows is broken by a graph that keeps all the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest

from spacelang.diagnostics import NOWHERE, Report, Source, SpaceError
from spacelang.ir.block import Block
from spacelang.ir.condition import FALSE, TRUE, compare, is_value
from spacelang.ir.decision import Choice
from spacelang.ir.dialect import Dialect, ForeignHop, Layout, Rename
from spacelang.ir.dim import Dim, Symbol, sqrt
from spacelang.ir.graph import Graph
from spacelang.ir.infer import Infer
from spacelang.ir.node import Call, Node, TensorType, Value
from spacelang.ir.op import lookup
from spacelang.ir.options import complete
from spacelang.ir.param import Gather, Init, Param, Slice
from spacelang.ir.pattern import parse_pattern
from spacelang.ir.row import inferred
from spacelang.ir.rule import StorageRule
from spacelang.ir.subject import Subject
from spacelang.ir.verify import INVARIANTS, STAGES, verified, verify
from spacelang.loader import load
from spacelang.syntax.ir_text import read

TEXT = """
spaceir 1
graph base
block layer {
  size %B
  size %width in {8, 12}
  size %drop in {*}
  decide dim ratio in {2, 3} within {2, 3, 4}
  param fc1.weight: [%width*ratio, %width] = linear
  param fc2.weight: [%width, %width*ratio] = linear
  param fc2.bias: [%width] = zeros undecayed
  %0: [%B, %width] = input() as x
  %1: [%B, %width*ratio] = linear(%0, out=%width*ratio, bias=false) {weight=fc1.weight[0:%width*ratio][0:%width]} as fc1
  %2: [%B, %width] = linear(%1, out=%width) {weight=fc2.weight[0:%width][0:%width*ratio], bias=fc2.bias[0:%width]} as fc2
  %3: [%B, %width] = drop_path(%2, rate=%drop)
  %4: [%B, %width] = add(%0, %3)
  yield %4
}
root base {
  decide dim width in {8, 12}
  decide presence depth in {1, 2}
  decide path op in {"keep", "mix"}
  param stem.weight: [width, 3] = linear
  param op.mix.weight: [width, width] = linear
  param head.weight: [5, width] = linear
  %0: [B, 3] = input() as pixels
  %1: [B, width] = linear(%0, out=width, bias=false) {weight=stem.weight[0:width][0:3]} as stem
  %2: [B, width] = call layer(%1) [%B=B, %drop=0, %width=width] as layers[0]
  %3: [B, width] = guard(%2)
    when depth > 1 {
      %4: [B, width] = input()
      %5: [B, width] = call layer(%4) [%B=B, %drop=1/10, %width=width] as layers[1]
      yield %5
    }
  %6: [B, width] = identity(%3) as tap
  %7: [B, width] = choose(%6) as op
    when op is keep {
      %8: [B, width] = input()
      yield %8
    }
    when op is mix {
      %9: [B, width] = input()
      %10: [B, width] = linear(%9, out=width, bias=false) {weight=op.mix.weight[0:width][0:width]} as op.mix
      yield %10
    }
  %11: [B, 5] = linear(%7, out=5, bias=false) {weight=head.weight[0:5][0:width]} as head
  yield %11
}
output %11 as output
rule "_" entangle
rule "width" store(16)
stored width = 16
require width*depth <= 24
names other {
  rename "layers[i]" to "blocks"[i + 1]
}
search evolution {population=50}
"""

WIDTH = Symbol("width", (8, 12))
B = Dim.of(Symbol("B"))


@pytest.fixture(scope="module")
def base() -> Graph:
    return read(Source("base.spaceir", TEXT))


def at(graph: Graph, id: int, block: str = "", **fields) -> Graph:
    """The graph with fields of one node replaced."""

    def level(found):
        nodes = (replace(n, **fields) if n.id == id else n for n in found.nodes)
        return replace(
            found, nodes=tuple(replace(n, regions=tuple(map(level, n.regions))) for n in nodes)
        )

    return within(graph, block, level)


def within(graph: Graph, block: str, change) -> Graph:
    if not block:
        return replace(graph, root=change(graph.root))
    return replace(graph, blocks={**graph.blocks, block: change(graph.blocks[block])})


def node(graph: Graph, id: int, block: str = "") -> Node:
    owner = graph.blocks[block] if block else graph.root
    return next(n for n in owner.everywhere() if n.id == id)


def attributes(graph: Graph, id: int, block: str = "", **changes) -> Graph:
    return at(graph, id, block, attributes={**node(graph, id, block).attributes, **changes})


def call(graph: Graph, id: int, **changes) -> Graph:
    found = node(graph, id).call
    assert found is not None
    return at(graph, id, call=replace(found, **changes))


def root(graph: Graph, **fields) -> Graph:
    return replace(graph, root=replace(graph.root, **fields))


def append(graph: Graph, *nodes: Node) -> Graph:
    return root(graph, nodes=(*graph.root.nodes, *nodes))


def decide(graph: Graph, path: str, **changes) -> Graph:
    made = tuple(replace(c, **changes) if c.path == path else c for c in graph.root.decisions)
    return root(graph, decisions=made)


def region(graph: Graph, id: int, position: int = 0, **fields) -> Graph:
    regions = list(node(graph, id).regions)
    regions[position] = replace(regions[position], **fields)
    return at(graph, id, regions=tuple(regions))


def view(graph: Graph, id: int, role: str, change, block: str = "") -> Graph:
    params = dict(node(graph, id, block).params)
    params[role] = change(params[role])
    return at(graph, id, block, params=params)


def dim(*sizes) -> TensorType:
    return TensorType(tuple(Dim.of(s) for s in sizes))


def slices(start, length, step=1):
    return Slice(Dim.of(start), Dim.of(length), step)


def gather(graph: Graph, table: str, stored) -> Graph:
    """The head's rows read through a table."""
    part = Gather(table, (Dim.of(stored),), Dim.of(5))
    return view(graph, 11, "weight", lambda v: replace(v, index=((part,), v.index[1])))


def banked(graph: Graph, start: int) -> Graph:
    """The head with a tensor for each width, read from an entry on."""
    params = (*graph.root.params[:-1], replace(graph.root.params[-1], bank=("width",)))
    made = root(graph, params=params)
    return view(made, 11, "weight", lambda v: replace(
        v, index=(v.index[0], (slices(start, WIDTH),))))  # fmt: skip


def renamed(graph: Graph, id: int, role: str, path: str) -> Graph:
    """A parameter that a node reads, by another path."""
    old = node(graph, id).params[role].param
    params = tuple(replace(p, path=path) if p.path == old else p for p in graph.root.params)
    return view(root(graph, params=params), id, role, lambda v: replace(v, param=path))


def _taken(graph: Graph, side: int) -> Graph:
    """Columns of what the head gives, of which there are 5, by an index of entries below `side`."""
    options = {"h": Dim.of(1), "w": Dim.of(side), "kind": "absolute"}
    made = Node(60, "offset_index", (), options, types=(replace(dim(side, side), dtype="i64"),))
    axis = {"axis": Dim.of(1)}
    read = Node(61, "take", (Value(11), Value(60)), axis, types=(dim(B, side, side),))
    return append(graph, made, read)


STRANGE = Dim.of(Symbol("strange", (8, 12)))
INPUT = Node(90, "input", types=(dim(B, 3),))

ODD = 'a", 0) or f("b'

BROKEN: list[tuple[str, str, Callable[[Graph], Graph]]] = [
    ("spelling", "a label", lambda g: at(g, 6, label=ODD)),
    ("spelling", "the graph", lambda g: replace(g, name=ODD)),
    ("spelling", "the root", lambda g: root(g, name="two words")),
    ("spelling", "a block", lambda g: _block_called(g, ODD)),
    ("spelling", "a block that is a place", lambda g: _block_called(g, "/layer")),
    ("spelling", "an unused size", lambda g: within(
        g, "layer", lambda b: replace(b, sizes=(*b.sizes, Symbol("%a b", (1, 2)))))),
    ("spelling", "a free size", lambda g: append(
        g, replace(INPUT, types=(TensorType((Dim.of(Symbol(ODD)),)),)))),
    ("spelling", "a decision", lambda g: root(g, decisions=(
        *g.root.decisions, Choice(ODD, "dim", (Fraction(1), Fraction(2)))))),
    ("spelling", "a parameter", lambda g: renamed(g, 11, "weight", f"{ODD}.weight")),
    ("spelling", "a rule of initialization", lambda g: _head(g, init=Init("a b"))),
    ("spelling", "the type of a parameter", lambda g: _head(g, dtype="f 32")),
    ("spelling", "the type of a value", lambda g: append(
        g, replace(INPUT, types=(replace(dim(B, 3), dtype="f\n"),)))),
    ("spelling", "a region", lambda g: region(g, 3, name=ODD)),
    ("spelling", "the place of a call", lambda g: call(g, 2, path="a\\")),
    ("spelling", "a place of decisions", lambda g: call(g, 2, decide="//a")),
    ("spelling", "a place of weights", lambda g: call(g, 2, store="a..b")),
    ("spelling", "what a call owns", lambda g: call(g, 2, own=("ﬁ",))),
    ("spelling", "an output", lambda g: replace(g, outputs=(replace(g.outputs[0], name=""),))),
    ("spelling", "a dialect", lambda g: replace(g, dialects={ODD: Dialect(ODD)})),
    ("spelling", "an engine", lambda g: replace(g, search={ODD: {}})),
    ("names", "key", lambda g: replace(g, blocks={**g.blocks, "other": g.blocks["layer"]})),
    ("names", "root with sizes", lambda g: root(g, sizes=(Symbol("%x", (1, 2)),))),
    ("ids", "twice in a level", lambda g: append(g, replace(INPUT, id=1))),
    ("ids", "twice through a region", lambda g: append(g, replace(INPUT, id=5))),
    ("order", "read by what nobody reads", lambda g: root(g, nodes=(
        *g.root.nodes[:2], Node(70, "identity", (Value(6),), types=(dim(B, WIDTH),)),
        *g.root.nodes[2:]))),
    ("order", "read too early", lambda g: at(g, 1, operands=(Value(2),))),
    ("order", "no such result", lambda g: at(g, 11, operands=(Value(7, 1),))),
    ("order", "out of a region", lambda g: at(g, 11, operands=(Value(5),))),
    ("order", "into a region", lambda g: at(g, 5, operands=(Value(2),))),
    ("order", "yielded", lambda g: root(g, outputs=(Value(12),))),
    ("forms", "unknown op", lambda g: at(g, 11, op="frobnicate")),
    ("forms", "call without one", lambda g: at(g, 2, call=None)),
    ("forms", "op with a call", lambda g: at(g, 6, call=node(g, 2).call)),
    ("forms", "input that reads", lambda g: at(g, 10, op="input")),
    ("forms", "input without a type", lambda g: append(g, replace(INPUT, types=()))),
    ("forms", "guard without a region", lambda g: at(
        g, 3, regions=(), attributes={"conditions": ()})),
    ("forms", "guard without fallback", lambda g: at(g, 3, types=(dim(B, WIDTH),) * 2)),
    ("forms", "choice without regions", lambda g: at(
        g, 7, regions=(), attributes={"conditions": ()})),
    ("forms", "regions of an op", lambda g: at(g, 11, regions=(_body(g),))),
    ("forms", "parameters of a call", lambda g: at(g, 6, params=dict(node(g, 1).params))),
    ("regions", "own decision", lambda g: region(g, 3, decisions=(Choice("a", "dim", (1, 2)),))),
    ("regions", "own size", lambda g: region(g, 3, sizes=(Symbol("%a", (1, 2)),))),
    ("regions", "another input", lambda g: at(g, 7, operands=(Value(6), Value(1)))),
    ("regions", "another output", lambda g: region(g, 3, outputs=(Value(5), Value(5)))),
    ("calls", "unknown block", lambda g: call(g, 2, block="other")),
    ("calls", "operands", lambda g: at(g, 2, operands=(Value(1), Value(1)))),
    ("calls", "results", lambda g: at(g, 2, types=(dim(B, WIDTH),) * 2)),
    ("calls", "a size too few", lambda g: call(g, 2, sizes={"%B": B})),
    ("calls", "a size too many", lambda g: call(g, 2, sizes={**node(g, 2).call.sizes, "%z": B})),
    ("recursion", "too deep", lambda g: _chain(g, 70, 1)),
    ("recursion", "itself", lambda g: _recursive(g)),
    ("recursion", "too large", lambda g: _chain(g, 30, 2)),
    ("symbols", "in a type", lambda g: at(g, 6, types=(TensorType((B, STRANGE)),))),
    ("symbols", "in an option", lambda g: attributes(g, 11, out=STRANGE)),
    ("symbols", "in a condition", lambda g: attributes(
        g, 3, conditions=(compare(">", STRANGE, 8),))),
    ("symbols", "in a view", lambda g: view(g, 11, "weight", lambda v: replace(
        v, index=(v.index[0], (Slice(Dim.of(0), STRANGE),))))),
    ("symbols", "in a parameter", lambda g: root(g, params=(
        *g.root.params, Param("x", ((STRANGE,),), Init("ones"), reserved=True)))),
    ("symbols", "in a binding", lambda g: call(g, 2, sizes={
        **node(g, 2).call.sizes, "%width": Symbol("strange", (8, 12))})),
    ("symbols", "with other values", lambda g: decide(g, "width", values=(8, 12, 16))),
    ("symbols", "live", lambda g: decide(g, "depth", live=compare(">", STRANGE, 8))),
    ("symbols", "a size twice", lambda g: within(
        g, "layer", lambda b: replace(b, sizes=(*b.sizes, Symbol("%width", (8, 12)))))),
    ("options", "unknown", lambda g: attributes(g, 11, frob=True)),
    ("options", "lacking", lambda g: at(g, 11, attributes={
        k: v for k, v in node(g, 11).attributes.items() if k != "axes"})),
    ("options", "of another kind", lambda g: attributes(g, 11, bias=Dim.of(1))),
    ("options", "of another kind of list", lambda g: attributes(g, 11, out=("a",))),
    ("options", "given twice", lambda g: attributes(g, 11, given=("weight", "weight"))),
    ("options", "given what is none", lambda g: attributes(g, 11, given=("x",))),
    ("options", "operands", lambda g: at(g, 11, operands=(Value(7),) * 4)),
    ("options", "of a guard", lambda g: attributes(g, 3, frob=True)),
    ("options", "no condition", lambda g: attributes(g, 3, conditions=(True,))),
    ("params", "twice", lambda g: root(g, params=(*g.root.params, g.root.params[0]))),
    ("params", "undeclared", lambda g: root(g, params=g.root.params[1:])),
    ("params", "other axes", lambda g: view(
        g, 11, "weight", lambda v: replace(v, index=v.index[:1]))),
    ("params", "other factors", lambda g: view(
        g, 11, "weight", lambda v: replace(v, index=(v.index[0] * 2, v.index[1])))),
    ("params", "bank", lambda g: root(g, params=(
        *g.root.params[:-1], replace(g.root.params[-1], bank=("strange",))))),
    ("params", "table", lambda g: gather(g, "frob", 5)),
    ("decisions", "twice", lambda g: root(g, decisions=(*g.root.decisions, g.root.decisions[0]))),
    ("decisions", "no values", lambda g: root(g, decisions=(
        *g.root.decisions, Choice("empty", "dim", ())))),
    ("decisions", "a value twice", lambda g: root(g, decisions=(
        *g.root.decisions, Choice("twice", "dim", (Fraction(1), Fraction(1)))))),
    ("decisions", "mixed", lambda g: root(g, decisions=(
        *g.root.decisions, Choice("mixed", "dim", (Fraction(1), "a"))))),
    ("decisions", "kind", lambda g: root(g, decisions=(
        *g.root.decisions, Choice("odd", "pick", (Fraction(1),))))),
    ("decisions", "hull", lambda g: decide(g, "depth", hull=(Fraction(1),))),
    ("decisions", "one path from two places", lambda g: root(g, decisions=(
        *g.root.decisions, Choice("layers[0].ratio", "dim", (Fraction(2), Fraction(5)))))),
    ("bindings", "of a size that nothing has", lambda g: _idle(g)),
    ("bindings", "another value", lambda g: _bound(g, Dim.of(10))),
    ("rates", "in a shape", lambda g: _rated(g)),
    ("batches", "whether something is there", lambda g: attributes(
        g, 3, conditions=(compare(">", B, 3),))),
    ("batches", "whether something is decided", lambda g: decide(
        g, "depth", live=compare(">", B, 3))),
    ("values", "a divisor of zero", lambda g: _divided(g, 1 / (Dim.of(WIDTH) - 8))),
    ("values", "a root below zero", lambda g: _divided(g, sqrt(Dim.of(WIDTH) - 9))),
    ("values", "in a condition", lambda g: attributes(
        g, 3, conditions=(compare(">", 8 // (Dim.of(WIDTH) - 8), 1),))),
    ("values", "whether something is decided", lambda g: decide(
        g, "depth", live=compare(">", 8 // (Dim.of(WIDTH) - 8), 1))),
    ("values", "in a requirement", lambda g: replace(
        g, require=(compare(">", 8 // (Dim.of(WIDTH) - 8), 1),))),
    ("ranges", "a rate of 2 at one use", lambda g: _bound(g, Dim.of(2), "%drop")),
    ("reads", "an entry past the end", lambda g: _taken(g, 6)),
    ("types", "of a result", lambda g: at(g, 11, types=(dim(B, 6),))),
    ("types", "more results", lambda g: at(g, 11, types=(dim(B, 5),) * 2)),
    ("types", "refused", lambda g: attributes(g, 11, axes=Dim.of(7))),
    ("types", "dtype", lambda g: at(g, 11, types=(TensorType((B, Dim.of(5)), "i64"),))),
    ("types", "roles", lambda g: at(g, 11, params={})),
    ("types", "what is read", lambda g: view(g, 11, "weight", lambda v: replace(
        v, index=((slices(0, 4),), v.index[1])))),
    ("types", "the role of what is read", lambda g: root(g, params=tuple(
        replace(p, role="buffer") if p.path == "head.weight" else p for p in g.root.params))),
    ("types", "whether what is read is kept", lambda g: root(g, params=tuple(
        replace(p, persistent=False) if p.path == "head.weight" else p for p in g.root.params))),
    ("types", "the type of what is read", lambda g: root(g, params=tuple(
        replace(p, dtype="f64") if p.path == "head.weight" else p for p in g.root.params))),
    ("identities", "another type", lambda g: _relabelled(g)),
    ("borders", "operand", lambda g: _unborderly(g)),
    ("borders", "result", lambda g: _wrong_result(g)),
    ("branches", "input", lambda g: _wrong_branch(g)),
    ("branches", "fallback", lambda g: _wrong_fallback(g)),
    ("branches", "result", lambda g: _wrong_alternative(g)),
    ("choices", "may lack", lambda g: _conditions(g, is_value(OP, "keep"), FALSE)),
    ("choices", "may be two", lambda g: _conditions(g, is_value(OP, "keep"), TRUE)),
    ("outputs", "none", lambda g: replace(g, outputs=(), root=replace(g.root, outputs=()))),
    ("outputs", "one name", lambda g: replace(
        g, outputs=g.outputs * 2, root=replace(g.root, outputs=g.root.outputs * 2))),
    ("outputs", "not what the root yields", lambda g: replace(
        g, outputs=(replace(g.outputs[0], value=Value(7)),))),
    ("rules", "kind", lambda g: replace(g, rules=(StorageRule(parse_pattern("_"), "frob"),))),
    ("rules", "argument", lambda g: replace(g, rules=(
        StorageRule(parse_pattern("_"), "entangle", "middle"),))),
    ("rules", "number", lambda g: replace(g, rules=(StorageRule(parse_pattern("_"), "store", 0),))),
    ("stored", "too small", lambda g: replace(g, stored={"width": 9})),
    ("stored", "unknown", lambda g: replace(g, stored={"height": 9})),
    ("stored", "no number", lambda g: replace(g, stored={"op": 9})),
    ("require", "unknown", lambda g: replace(g, require=(compare("<", STRANGE, 9),))),
    ("dialects", "key", lambda g: replace(g, dialects={"a": Dialect("b")})),
    ("dialects", "index", lambda g: replace(g, dialects={"a": Dialect("a", (
        Rename(parse_pattern("x[i]"), (ForeignHop("y", (Dim.of(Symbol("j")),)),)),))})),
    ("dialects", "layout", lambda g: replace(g, dialects={"a": Dialect("a", (
        Rename(parse_pattern("x"), (ForeignHop("y"),), Layout("frob")),))})),
    ("search", "setting", lambda g: replace(g, search={"evolution": {"a": object()}})),
    ("search", "setting in a list", lambda g: replace(g, search={"evolution": {"a": (1, {})}})),
    ("storage", "past the end", lambda g: view(g, 11, "weight", lambda v: replace(
        v, index=((slices(2, 5),), v.index[1])))),
    ("storage", "by steps", lambda g: view(g, 11, "weight", lambda v: replace(
        v, index=((slices(0, 5, 2),), v.index[1])))),
    ("storage", "before the start", lambda g: view(g, 11, "weight", lambda v: replace(
        v, index=((slices(-1, 5),), v.index[1])))),
    ("storage", "gathered past the end", lambda g: gather(g, "band", 7)),
    ("storage", "gathered by other numbers", lambda g: gather(g, "band", 6)),
    ("storage", "gathered by fractions", lambda g: gather(g, "band", Fraction(11, 2))),
    ("storage", "of a bank past the end", lambda g: banked(g, 1)),
    ("storage", "named like a layer", lambda g: renamed(g, 11, "weight", "op.mix")),
]  # fmt: skip

OP = Symbol("op", ("keep", "mix"))


def _body(graph: Graph):
    """A region with an id of its own."""
    source = Node(80, "input", types=(dim(B, WIDTH),))
    return replace(node(graph, 3).regions[0], nodes=(source,), outputs=(Value(80),))


def _conditions(graph: Graph, *truths) -> Graph:
    return attributes(graph, 7, conditions=truths)


def _recursive(graph: Graph) -> Graph:
    layer = graph.blocks["layer"]
    inner = Call("layer", "deep", "deep", "deep", (), {s.name: s for s in layer.sizes})
    extra = Node(
        50, "call", (Value(0),), call=inner, types=(layer.nodes[0].types[0],), label="deep"
    )
    return within(graph, "layer", lambda b: replace(b, nodes=(*b.nodes, extra)))


def _chain(graph: Graph, length: int, width: int) -> Graph:
    """Blocks that call each other, and the last of them called by nobody but the first."""
    type = dim(4)
    blocks = {"c0": Block("c0", (Node(0, "input", types=(type,)),), (Value(0),))}
    for number in range(1, length):
        calls = tuple(
            Node(i, "call", (Value(i - 1),), call=Call(f"c{number - 1}", "", "", ""), types=(type,))
            for i in range(1, width + 1)
        )
        source = Node(0, "input", types=(type,))
        blocks[f"c{number}"] = Block(f"c{number}", (source, *calls), (Value(width),))
    last = f"c{length - 1}"
    source = Node(90, "input", types=(type,), label="z")
    top = Node(91, "call", (Value(90),), call=Call(last, "", "", ""), types=(type,))
    graph = replace(graph, blocks={**graph.blocks, **blocks})
    return append(graph, source, top)


def _block_called(graph: Graph, name: str) -> Graph:
    """The block, kept and called by another name."""
    made = replace(graph, blocks={name: replace(graph.blocks["layer"], name=name)})
    return call(call(made, 2, block=name), 5, block=name)


def _head(graph: Graph, **fields) -> Graph:
    """The last parameter with fields replaced."""
    *others, head = graph.root.params
    return root(graph, params=(*others, replace(head, **fields)))


def _divided(graph: Graph, by: Dim) -> Graph:
    """A value that is divided by a number."""
    made = complete(lookup("div"), {"number": by}, NOWHERE)
    return append(graph, Node(60, "div", (Value(11),), made, types=(dim(B, 5),)))


def _bound(graph: Graph, size: Dim, name: str = "%width") -> Graph:
    return call(graph, 2, sizes={**node(graph, 2).call.sizes, name: size})


def _rated(graph: Graph) -> Graph:
    """An axis that something is repeated along is the rate."""
    layer = graph.blocks["layer"]
    *shape, drop = (Dim.of(size) for size in layer.sizes)
    long = (*shape, Dim.of(1))
    nodes = (
        Node(60, "rearrange", (Value(0),), {"pattern": "b c -> b c 1", "sizes": ()},
             types=(TensorType(long),)),
        Node(61, "expand", (Value(60),), {"to": (*shape, drop)},
             types=(TensorType((*shape, drop)),)),
    )  # fmt: skip
    return within(graph, "layer", lambda b: replace(b, nodes=(*b.nodes, *nodes)))


def _idle(graph: Graph) -> Graph:
    """A size that no shape holds, bound to what it never is."""
    idle = Symbol("%idle", (Fraction(1), Fraction(2)))
    made = within(graph, "layer", lambda b: replace(b, sizes=(*b.sizes, idle)))
    for id in (2, 5):
        found = node(made, id).call
        assert found is not None
        made = call(made, id, sizes={**found.sizes, "%idle": Dim.of(5)})
    return made


def _relabelled(graph: Graph) -> Graph:
    """A dead identity of another type, so that nothing else reads it."""
    return append(graph, Node(70, "identity", (Value(1),), types=(dim(B, 5),), label="other"))


def _dead_call(graph: Graph, operand: Value, type: TensorType) -> Graph:
    made = replace(node(graph, 2), id=71, operands=(operand,), types=(type,), label="extra")
    return append(graph, replace(made, call=replace(made.call, path="extra")))


def _unborderly(graph: Graph) -> Graph:
    return _dead_call(graph, Value(0), dim(B, WIDTH))


def _wrong_result(graph: Graph) -> Graph:
    return _dead_call(graph, Value(1), dim(B, 3))


def _dead_guard(graph: Graph, operand: Value, inside: TensorType, outside: TensorType) -> Graph:
    body = replace(
        node(graph, 3).regions[0], nodes=(Node(73, "input", types=(inside,)),), outputs=(Value(73),)
    )
    made = replace(node(graph, 3), id=72, operands=(operand,), regions=(body,), types=(outside,))
    return append(graph, made)


def _wrong_branch(graph: Graph) -> Graph:
    return _dead_guard(graph, Value(1), dim(B, 3), dim(B, 3))


def _wrong_fallback(graph: Graph) -> Graph:
    """The region agrees with the node, the fallback does not."""
    guard = node(_dead_guard(graph, Value(0), dim(B, 3), dim(B, WIDTH)), 72)
    source = Node(75, "input", types=(dim(B, WIDTH),))
    inputs = (*guard.regions[0].nodes, source)
    body = replace(guard.regions[0], nodes=inputs, outputs=(Value(75),))
    return append(graph, replace(guard, operands=(Value(0), Value(1)), regions=(body,)))


def _wrong_alternative(graph: Graph) -> Graph:
    made = node(graph, 7)
    bodies = tuple(
        replace(r, nodes=(replace(r.inputs[0], id=76 + i),), outputs=(Value(76 + i),))
        for i, r in enumerate(made.regions)
    )
    return append(graph, replace(made, id=74, regions=bodies, types=(dim(B, 5),), label="x"))


def findings(graph: Graph, rows) -> dict[str, list[str]]:
    subject = Subject(graph)
    found = {row.__name__: [d.headline for d in row(subject)] for row in rows}
    return {name: texts for name, texts in found.items() if texts}


@pytest.mark.parametrize(("row", "what", "change"), BROKEN, ids=[f"{r}: {w}" for r, w, _ in BROKEN])
def test_a_row_finds_what_no_other_finds(base, row, what, change):
    graph = change(base)
    assert graph != base
    report = Report()
    verify(graph, report)
    assert report.errors, f"{row}: {what}"
    assert {d.code for d in report.errors} == {"SP602"}
    for stage in STAGES:
        found = findings(graph, stage)
        if row in {r.__name__ for r in stage}:
            assert set(found) == {row}, found
            return
        assert found == {}, found


def test_every_row_is_broken_by_a_test():
    assert {row for row, _, _ in BROKEN} == set(INVARIANTS)
    assert all(sentence.endswith(".") for sentence in INVARIANTS.values())


ALONE = {"ids": 1, "forms": 1, "calls": 4, "symbols": 2}
"""Which graph of a row no other row refuses, nor trips over; the first, if not said."""


def without(graph: Graph, row: str) -> set[str]:
    """The codes of what the verifier finds with one of its rows left out."""
    report = Report()
    verify(graph, report, [[r for r in stage if r.__name__ != row] for stage in STAGES])
    return {found.code for found in report.errors}


@pytest.mark.parametrize("row", INVARIANTS)
def test_without_a_row_a_broken_graph_passes(base, row):
    """Each row is needed: nothing else refuses one of the graphs that it refuses."""
    change = [change for name, _, change in BROKEN if name == row][ALONE.get(row, 0)]
    assert without(change(base), row) == set()


def test_what_is_right_is_not_found(base):
    assert verified(gather(base, "band", 5))
    assert verified(banked(base, 0))
    assert verified(_taken(base, 5))


def test_the_base_keeps_them_all(base):
    assert verified(base) is base


def test_what_is_broken_is_raised(base):
    with pytest.raises(SpaceError) as caught:
        verified(at(base, 11, types=(dim(B, 6),)))
    assert "%11 of base at the root: it is [B, 5], recorded as [B, 6]" in str(caught.value)


def test_a_block_that_is_right_only_where_it_is_called():
    """`pad` makes the type true only under the caller's condition: it is judged at each use."""
    text = """
    spaceir 1 graph g
    block halves {
      size %B size %n in {3, 4}
      %0: [%B, %n] = input()
      %1: [%B, 2, %n/2] = rearrange(%0, pattern="b (two n) -> b two n", sizes=[["two", 2]])
      yield %1
    }
    root g {
      decide dim n in {3, 4}
      %0: [B, n] = input()
      %1: [B, 2, 2] = choose(%0)
        when n == 4 {
          %2: [B, n] = input()
          %3: [B, 2, n/2] = call halves(%2) [%B=B, %n=n]
          yield %3
        }
        when n == 3 {
          %4: [B, n] = input()
          %5: [B, 2] = slice(%4, index=[none, [0, 2]])
          %6: [B, 1, 2] = rearrange(%5, pattern="b c -> b 1 c")
          %7: [B, 2, 2] = expand(%6, to=[B, 2, 2])
          CUT
          yield %7
        }
      yield %1
    }
    output %1 as output
    """
    graph = read(Source("t", text.replace("CUT", "")))
    assert len(graph.blocks) == 1
    bad = text.replace("CUT", "%8: [B, 2, n/2] = call halves(%4) [%B=B, %n=n]")
    with pytest.raises(SpaceError, match="%1 of halves"):
        read(Source("t", bad))


def test_a_cells_decision_in_a_shape_two_blocks_up():
    """What counts from the root keeps its path, however far up it is seen."""
    text = """
    cell c(x) { choose w in {4, 8}  return linear(x, w) as f }
    block inner(x) { return relu(c(x) as a) }
    block outer(x) { return inner(x) as b }
    space t {
      input x: [B, 8]
      output linear(outer(x) as o, 3) as head
      weights { _: entangle }
    }
    """
    graph = verified(load(Source("t.space", text)))
    assert list(graph.decisions) == ["c.w"]
    assert graph.storages["head.weight"].shape == ((3,), (8,))


def test_the_answer_of_a_shape_row_is_shared_and_fixed():
    """Who asks for the same gets the same, so nobody may change it."""
    type = TensorType((Dim.of(2), Dim.of(3)))
    definition = lookup("linear")

    def asked() -> Infer:
        return Infer("linear", (type,), complete(definition, {"out": Dim.of(4)}, NOWHERE))

    first, infer = asked(), asked()
    found = inferred(definition, first)
    assert inferred(definition, infer) is found
    assert set(found.params) == set(found.views) == {"weight", "bias"}
    for table in (found.params, found.views):
        with pytest.raises(TypeError):
            table["weight"] = None
    first.params.clear()
    first.views.clear()
    assert set(found.params) == set(found.views) == {"weight", "bias"}


@pytest.mark.parametrize(
    "space", ["autoformer.space:autoformer_t", "swin.space", "s3.space", "cream.space"]
)
def test_published_spaces_keep_them_all(space):
    assert verified(load(f"spaces/{space}"))
