"""Graphs as `.space` texts: what is written loads to the same hash, what cannot be is named."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from spacelang.build import Builder
from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.block import Block
from spacelang.ir.condition import is_value
from spacelang.ir.decision import Choice
from spacelang.ir.dim import Dim, Symbol
from spacelang.ir.graph import Graph, Output
from spacelang.ir.node import Call, Node, TensorType, Value
from spacelang.ir.rewrite import rewrite, rule, single_use
from spacelang.loader import load
from spacelang.passes.pipeline import run
from spacelang.syntax.format import format
from spacelang.syntax.ir_text import read
from spacelang.syntax.parse import parse
from spacelang.syntax.write import write_space

SPACES = [
    "autoformer.space:autoformer_t",
    "deit.space",
    "swin.space:swin_t",
    "s3.space",
    "tinyvit.space",
    "efficientvit.space",
    "irpe.space",
]


def written(graph: Graph) -> str:
    """The text of a graph, seen to load to the same hash and to be formatted."""
    text = write_space(graph)
    assert load(Source("again.space", text)).hash == graph.hash
    assert format(parse(Source("again.space", text))) == text
    return text


def space(body: str, before: str = "") -> Graph:
    return load(Source("t.space", f"{before}\nspace t {{\n{body}\n}}"))


@pytest.mark.parametrize("address", SPACES)
def test_published_spaces(address):
    written(load(f"spaces/{address}"))


def test_readable():
    text = written(load("spaces/autoformer.space:autoformer_t"))
    lines = {line.strip() for line in text.splitlines()}
    assert "block attention(x: [A, A_2, Width], heads) {" in lines
    assert "for i in 0..<depth { x = encoder(x, drop: i / 130) as encoder[i] }" in lines
    assert "choose ratio in {3, 3.5, 4}" in lines
    assert not any(line.startswith("when 13 < depth") for line in lines)
    assert len(lines) < 60
    assert "encoder[_].attn.qkv.bias: entangle(flat)" in text


def test_a_graph_rewritten_in_python():
    @rule("linear(x) as fc1 |> gelu |> linear as fc2", where=single_use)
    def gated(at, x, fc1, fc2):
        hidden = fc1.attributes["out"]
        gate = at.one("swish", [at.one("linear", [x], {"out": hidden}, label="gate")])
        value = at.one("linear", [x], {"out": hidden}, label="up")
        return at.one("linear", [at.one("mul", [gate, value])], {"out": x.shape[-1]}, label="down")

    graph = rewrite(load("spaces/autoformer.space:autoformer_t"), gated).graph
    text = written(graph)
    assert "as gate" in text
    assert len(graph.storages) == 232 + 28


def test_parts_of_an_edited_graph():
    graph = load("spaces/autoformer.space:autoformer_t")
    with graph.edit() as draft:
        for site in draft.nodes(op="gelu", path="encoder[0..5].gelu"):
            draft.replace(site, op="relu")
        leader, *others = draft.calls("encoder[12..13]")
        for site in others:
            draft.tie(site, leader)
    text = written(draft.result)
    assert "block encoder_2(" in text
    assert "encoder[13]: tie(encoder[12])" in text


def test_a_graph_of_the_builder():
    with Builder("built") as b:
        x = b.input("x", ["B", 8])
        width = b.choose("width[0]", [8, 12], within=[4, 8, 12])
        other = b.choose("width[1]", [8, 12])

        @b.block(late=["drop"])
        def layer(x, drop):
            act = b.choose("act", ["relu", "gelu"])
            y = b.linear(x, width, label="fc")
            y = b.when(act == "relu", b.relu, y, otherwise=b.gelu)
            return b.drop_path(b.linear(y, other, label="out"), drop)

        x = layer(x, 0.1, label="a")
        x = layer(x, 0.2, label="b.c[3]")
        b.output(b.linear(x[:, :4] / 2, 3, label="head"))
        b.output(3 - x, "side")
        b.add("weights { _: entangle }")
    text = written(b.graph)
    assert "within {4, 8, 12}" in text


# One construct each.

CONSTRUCTS = {
    "labels and numbers on either side": """
        y = (x * 2 - 1) as mid
        z = (3 - y) as z
        output (z / y + x) as sum""",
    "slices": """
        y = x[:, 1..]
        z = x[:, 0..<7]
        output (y + z)[:, -1] * 2""",
    "padding and rolling": """
        y = rearrange(x, "b (c y q) -> b c y q", c: 2, y: 2)
        y = roll(pad(y, [0, 1], axes: [2, 3]), [1], axes: [2])
        output mean(y, axes: [2, 3], keep: true) |> conv(4, bias: true, init: fan_out) as c""",
    "lists of results": """
        a, c = split(x, 2, axis: 1)
        d = split(a, 1, axis: 1)
        output concat([c, d[0]], axis: 1)""",
    "weights as operands": """
        w = parameter([4, 8]) as w
        k = parameter([4]) as k
        output linear(x, 4, weight: w, bias: false) + linear(x, 4, weight: w, bias: k)""",
    "training and settings": """
        output mean(x, axes: [1])
        output aux: x
        search evolution { a = 1.5  b = [1, "x", none, true]  c = -2 }""",
    "presence": """
        choose n in 1..3
        for i in 0..<n { x = linear(x, 8) as f[i] }
        output x
        weights { _: entangle }""",
    "conditions": """
        choose n in {1, 2, 3}
        choose on in {true, false}
        choose w in {"a", "b"}
        when n > 1 and (on or w == "b") { x = relu(x) }
        when not (w == "a") { x = gelu(x) }
        when n == 2 { x = x * 2 } else { x = linear(x, 8) as fc }
        output x""",
    "conditions in conditions": """
        choose n in {1, 2}
        choose m in {1, 2}
        when n == 1 {
          x = relu(x)
          when m == 2 { x = gelu(x) }
        } else {
          x = x * 3
        }
        output x""",
    "paths": """
        choose n in {1, 2}
        y = choose op[2] { a: x  b: x * n  c: linear(x, 8) as fc |> relu }
        output choose top { p: choose inner { q: y  r: relu(y) }  s: x + (relu(x) as r) }""",
    "a value that an alternative reads twice": """
        output choose op {
          a: x
          b: [y + relu(y) for y in [linear(x, 8) as fc]][0]
          c: [linear(c * a, 8) as up for a, c in [split(x, 2, axis: 1)]][0]
        }""",
    "names and limits": """
        choose n in {8, 12}
        choose m in {8, 12}
        output linear(linear(x, n) as a, m) as fc
        weights { _: entangle  n: separate  m: store(16) }
        names other { a: first  fc: last.layer[0]  _.weight: _.kernel  a.weight: w in order(1, 0) }
        require n <= m
        require params <= 1K
        require n + m in 16..20""",
    "paths and picks that nothing reads": """
        choose p in 1 of {"a", "b-c"}
        choose q in 2 of 4
        choose a.w in {1, 2}
        output x * w""",
    "places of picks": """
        choose i in 2 of 3
        y = [x, relu(x), gelu(x)][i[0]]
        when i[1] in {0, 2} { y = relu(y) } else when i[1] == 1 { y = tanh(y) }
        output y""",
    "one of three ways": """
        choose n in {1, 2, 3}
        when n == 1 { y = relu(x) } else when n == 2 { y = gelu(x) } else when n == 3 { y = x * 2 }
        output y""",
    "an alternative with statements": """
        choose on in {true, false}
        output choose op {
          a { h = linear(x, 8) as fc  when on { h = relu(h) }  return h + x }
          b: (x * 2) as _
        }""",
    "a size that hangs on a word": """
        choose act in {"relu", "gelu"}
        output linear(linear(x, 8 if act == "relu" else 16) as a, 3) as b
        weights { _: entangle }""",
    "loops": """
        for i, n in enumerate([8, 12, 20, 4]) { x = linear(x, n) as f[i] }
        for i in 2..5 { x = dropout(linear(x, 8) as g[2 * i], 0.1 + i / 20) }
        output x""",
    "an index of a decision": """
        for i in 0..1 { choose n[i] in {8, 12} within 4..12 by 4  x = linear(x, n) as f[i] }
        output x
        weights { _: entangle }""",
}


@pytest.mark.parametrize("body", CONSTRUCTS.values(), ids=CONSTRUCTS)
def test_one_construct(body):
    written(space(f"input x: [B, 8]\n{body}"))


# What passes leave: (before, body), written after `inline`.

INLINED = {
    "a size that a branch fixes": (
        "block f(x, n) { return concat(split(relu(x), n, axis: 1), axis: 1) }",
        """choose n in {2, 4}
        output f(linear(x, 2 * n) as a, n) as f
        weights { _: entangle }""",
    ),
    "banks of two decisions": (
        "block f(x: [B, C]) { choose a in {2, 4} return linear(x, a) as up |> linear(C) as down }",
        """choose width in {8, 12}
        output f(linear(x, width) as stem) as used
        weights { _: separate }""",
    ),
    "decisions of one name, one of them plain": (
        "block f(x) { choose n in {8, 12} return linear(x, n) as up |> linear(8) as down }",
        """x = f(x) as a
        choose n in {4, 8}
        output f(linear(linear(x, n) as up, 8) as down) as b
        weights { _: entangle }""",
    ),
    "a decision whose turn is before one that stands deeper": (
        "block f(x) { choose heads in {1, 2} return concat(split(x, heads, axis: 1), axis: 1) }",
        """choose on in {true, false}
        when on { x = f(x) as a  x = f(x) as b }
        choose op in 1 of {"p", "q"}
        output choose other { p: relu(x)  q: f(x) as c }""",
    ),
    "a path that is decided apart from its alternatives": (
        "block f(x) { choose n in {8, 12} return linear(x, n) as up |> linear(8) as down }",
        """y = choose op { a: f(x) as _  b: x }
        choose n in {8}
        output linear(linear(y, n) as c, 8) as d
        weights { _: entangle }""",
    ),
    "a sum that is called like its block": (
        "block f(x) { return total([x, relu(x)]) }",
        "output f(f(x) as a) as b",
    ),
    "a cell that is live in several ways": (
        """cell c(x) {
          choose n in 1..3
          for i in 0..<n { choose k[i] in {8, 12}  x = linear(linear(x, k) as up[i], 8) as down[i] }
          return x
        }""",
        """choose on in {true, false}
        when on { x = c(x) as first  x = c(x) as second }
        output x
        weights { _: entangle }""",
    ),
}


@pytest.mark.parametrize(("before", "body"), INLINED.values(), ids=INLINED)
def test_inlined(before, body):
    graph = space(f"input x: [B, 8]\n{body}", before)
    written(graph)
    written(run(graph, "inline"))
    written(run(graph, "inline, simplify"))


def test_folded_convolutions():
    graph = space(
        """input x: [B, 3, 4, 4]
        choose width in {4, 8}
        y = conv(x, width, 3) as conv |> batch_norm as norm
        output mean(conv(y, 4, 3) as last |> batch_norm as end, axes: [2, 3])
        weights { _: entangle }"""
    )
    text = written(run(graph, "simplify{fold_norm=true}"))
    assert "batch_norm" not in text


def test_a_limit_with_a_condition():
    body = """choose depth in 1..2
    for i in 0..<depth { choose ratio[i] in {1, 2}  x = linear(linear(x, 8 * ratio) as up[i], 8) as down[i] }
    output x
    weights { _: entangle }
    require sum(ratio[_]) <= 3"""
    graph = space(f"input x: [B, 8]\n{body}")
    assert "(ratio[1] if depth > 1 else 0) + ratio[0] <= 3" in written(graph)
    assert graph.size() == 2 + 3


def test_branches_whose_results_nobody_reads():
    body = """choose depth in 1..3
    for i in 0..<depth {
      states = [x, relu(x), linear(x, 8) as fc[i]]
      x = total(states[0..1])
      side = x + parameter([1, 8]) as shift[i]
    }
    output x"""
    graph = space(f"input x: [B, 8]\n{body}")
    guards = [node for node in graph.root.nodes if node.op == "guard"]
    assert [len(node.types) for node in guards] == [1, 1]
    assert {"shift[2]", "fc[2].weight"} <= set(graph.storages)
    written(graph)


def test_whole_inputs():
    body = (
        "input ids: [B, 12] in 0..<100\noutput mean(take(parameter([100, 4]) as t, ids), axes: [1])"
    )
    assert "in 0..99" in written(space(body))


BLOCKS = """
block sizes(x: [B, C], hidden) { return linear(relu(linear(x, hidden) as a), C) as c }
block many(x, n) { return [x * n, x + 1] }
block alternatives(x, n) { return concat(split(x, n, axis: 1), axis: 1) }
block thins(x, rate) { return dropout(x, rate) }
cell shared(x) { return choose op { a: x  b: linear(x, 8) as fc } }
block hosts(x) { return shared(shared(x) as one) as two }
"""
CALLS = {
    "sizes": "choose w in {8, 16}  output sizes(x, 2 * w) as s  weights { _: entangle }",
    "several results": "a, c = many(x, 3)  output a + c",
    "one for each value": "choose n in {1, 2, 4}  output alternatives(x, n)",
    "one for each value, twice": (
        "choose n in {1, 2, 4}  choose m in {2, 4}  output alternatives(alternatives(x, n), m)"
    ),
    "rates": "choose r in {0, 0.5}  output thins(thins(x, r), 0.1)",
    "cells": "output hosts(shared(x) as first) as h",
    "ties of other sizes": (
        "x = linear(x, 8) as a  x = linear(x, 4) as b  output linear(x, 6) as c"
        "  weights { b: tie(a, slices: leading)  c: tie(elsewhere, slices: leading) }"
    ),
    "alternatives that share": (
        "output choose op { k3: linear(x, 4) as f |> linear(8) as g"
        "  k7: linear(x, 8) as f |> linear(8) as g }  weights { op: entangle(centre) }"
    ),
    "a decision read where it is taken": (
        "choose on in {true, false}  when on { choose n in {8, 12}"
        "  x = linear(x, n) as a |> linear(8) as d }"
        "  x = relu(x)  when on { x = linear(x, n) as b |> linear(8) as e }"
        "  output linear(x, 3) as c  weights { _: entangle }"
    ),
    "a name inside of an alternative": "x = relu(x)\n  output choose op { a: x as kept  b: x * 2 }",
    "ties": (
        "x = sizes(x, 4) as a  x = sizes(x, 4) as b  output sizes(x, 4) as c"
        "  weights { b: tie(a)  c: tie(a) }"
    ),
}


@pytest.mark.parametrize("body", CALLS.values(), ids=CALLS)
def test_calls(body):
    written(space(f"input x: [B, 8]  {body}".replace("  ", "\n"), BLOCKS))


def test_a_block_that_must_know_its_own_decisions():
    before = """
    block own(x) {
      choose k in {1, 2}
      choose heads in {2, 4}
      y = linear(x, 8 * k) as up
      parts = split(y, heads, axis: 1)
      more = split(y, k, axis: 1)
      return (linear(concat(parts, axis: 1), 8) as down) + more[0]
    }
    """
    graph = space("input x: [B, 8]\noutput own(x) as o\nweights { _: entangle }", before)
    assert len(graph.blocks) == 4
    assert written(graph).count('= "yes" if') == 3


# What cannot be written.


OUT = (Value(0),)


def base(*nodes: Node, outputs=OUT, blocks=None, decisions=(), name="t") -> Graph:
    source = Node(0, "input", types=(TensorType((Dim.of(Symbol("B")), Dim.of(8))),), label="x")
    root = Block(name, (source, *nodes), outputs, (), decisions)
    return Graph(name, root, blocks or {}, (Output("output", outputs[0]),))


def strayed() -> Graph:
    """A call whose decisions are kept in another place than it stands."""
    inner = TensorType((Dim.of(Symbol("%B")), Dim.of(8)))
    block = Block("f", (Node(0, "input", types=(inner,)),), OUT, (Symbol("%B"),))
    call = Call("f", "f", "g", "f", (), {"%B": Symbol("B")})
    node = Node(1, "call", OUT, call=call, types=(X,), label="f")
    return base(node, outputs=(Value(1),), blocks={"f": block})


def absent() -> Graph:
    """A decision that is taken where no part of the network stands."""
    live = is_value(OP.symbol, "a")
    choice = Choice("n", "dim", (Fraction(1), Fraction(2)), None, live)
    return base(relu(1, 0), decisions=(choice, OP))


X = TensorType((Dim.of(Symbol("B")), Dim.of(8)))
OP = Choice("op", "path", ("a", "b"))


def relu(id, operand, label="") -> Node:
    return Node(id, "relu", (Value(operand),), types=(X,), label=label)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (base(name="a b"), "the space a b"),
        (base(relu(1, 0, "in"), outputs=(Value(1),)), "the label in"),
        (base(relu(1, 0, "a b"), outputs=(Value(1),)), "the label a b"),
        (replace(base(), outputs=(Output("other", Value(0)),)), "the output other"),
        (base(decisions=(Choice("in", "dim", (1, 2)),)), "the decision in"),
        (base(decisions=(Choice("a.in", "dim", (1, 2)),)), "the decision a.in"),
        (base(decisions=(Choice("w", "dim", ('a"b', "c")),)), "the text"),
        (strayed(), "the call f"),
        (absent(), "the decision n"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_be_written(graph, words):
    with pytest.raises(SpaceError, match="SP605") as caught:
        write_space(graph)
    assert words in caught.value.diagnostics[0].headline


def test_what_would_be_another_network_is_refused():
    """A parameter that is kept in another place, and one that rules do not lay out so."""
    text = """spaceir 1 graph t root t {
      param other: [4, 8] = linear
      %0: [B, 8] = input() as x
      %1: [B, 4] = linear(%0, out=4, bias=false) {weight=other[0:4][0:8]} as fc
      yield %1
    } output %1 as output"""
    assert "fc.weight: tie(other, slices: leading)" in written(read(Source("t", text)))
    moved = text.replace("param other: [4, 8]", "param fc.weight: [[2, 2], 8]").replace(
        "other[0:4][0:8]", "fc.weight[0:2, 0:2][0:8]"
    )
    with pytest.raises(SpaceError, match="another network"):
        write_space(read(Source("t", moved)))
