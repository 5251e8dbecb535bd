"""The text form of a graph: exact both ways, refused with a place, the same on every run."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import fields, replace
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import pytest
from counting import calls_at_most
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spacelang.diagnostics import Source, SpaceError
from spacelang.grammars.build import build
from spacelang.grammars.loader import grammar, tables
from spacelang.ir.block import Block
from spacelang.ir.condition import chosen, compare, conjunction, disjunction, is_value, negate
from spacelang.ir.decision import Choice
from spacelang.ir.dialect import Dialect, ForeignHop, Layout, Rename
from spacelang.ir.dim import Dim, Symbol, conditional, function, maximum, minimum, power
from spacelang.ir.graph import Graph, Output
from spacelang.ir.node import Call, Node, TensorType, Value
from spacelang.ir.param import Gather, Init, Param, Slice, View
from spacelang.ir.pattern import Hop, Pattern, parse_pattern
from spacelang.ir.rule import StorageRule
from spacelang.ir.text import stored, write
from spacelang.ir.words import RESERVED
from spacelang.loader import load
from spacelang.syntax.ir_nodes import Blocks
from spacelang.syntax.ir_parse import parse, scan
from spacelang.syntax.ir_sizes import Values
from spacelang.syntax.ir_text import read
from spacelang.syntax.machine import Machine

SPACES = [
    "autoformer.space:autoformer_t",
    "deit.space",
    "swin.space:swin_t",
    "s3.space",
    "cream.space",
    "tinyvit.space",
    "efficientvit.space",
]

SMALL = """
block mlp(x: [B, C], ratio, drop) {
  choose act in {"relu", "wide gelu"}
  h = linear(x, C * ratio) as fc1
  when act == "relu" { h = relu(h) } else { h = gelu(h) }
  return drop_path(linear(h, C) as fc2, drop)
}
cell normal(x: [B, C]) -> [B, C] {
  return choose op { keep: x  mix: x + linear(x, C) as mix }
}
space small(widths = {8, 12}) {
  choose width in widths within 4..16 by 4
  choose depth in 1..3
  choose wide in {true, false}
  input pixels: [B, 3]
  x = linear(pixels, width) as stem
  for i in 0..<depth { x = x + mlp(x, 2 if wide == true else 3, 0.1 * i) as layers[i] }
  x = normal(x) as cells[0]
  x = normal(x) as cells[1]
  output linear(x, 5) as head
  output auxiliary: linear(x, 2) as aux
  require params <= 10K
  require width * depth <= 24
  weights { _: entangle  width: store(16) }
  names other {
    layers[i]: blocks[i + 1]
    layers[i].fc1.weight: blocks[i].w in order(b, 3)
    _.fc2: _.out
  }
  search evolution { population = 50  rate = 0.25  kinds = ["a", none, true] }
}
"""


def small(**given) -> Graph:
    return load(Source("small.space", SMALL), **given)


def again(graph: Graph) -> Graph:
    return read(Source("again.spaceir", write(graph)))


def refusal(text: str) -> SpaceError:
    with pytest.raises(SpaceError) as caught:
        read(Source("bad.spaceir", text))
    assert {d.code for d in caught.value.diagnostics} <= {"SP103", "SP507", "SP602", "SP603"}
    return caught.value


def test_what_a_reader_would_refuse_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = small()
    monkeypatch.setattr("spacelang.ir.text.MAX_GRAPH", len(write(graph)))
    assert stored(graph) == write(graph)
    monkeypatch.setattr("spacelang.ir.text.MAX_GRAPH", len(write(graph)) - 1)
    with pytest.raises(SpaceError, match="MiB of IR text"):
        stored(graph)


@pytest.mark.parametrize("space", SPACES)
def test_published_spaces_round_trip(space):
    graph = load(f"spaces/{space}")
    text = write(graph)
    assert again(graph) == graph
    assert write(again(graph)) == text
    assert read(Source("full.spaceir", write(graph, full=True))) == graph


def test_everything_of_a_graph_is_kept():
    graph = small()
    found = again(graph)
    for field in fields(Graph):
        if field.compare:
            assert getattr(found, field.name) == getattr(graph, field.name), field.name
    assert graph.stored == {"width": 16}
    assert graph.search["evolution"] == {
        "population": 50, "rate": 0.25, "kinds": ("a", None, True),
    }  # fmt: skip
    assert isinstance(found.search["evolution"]["population"], int)
    assert found.dialects["other"].foreign("layers[2].fc1.weight")[0] == "blocks.2.w"
    assert found.decisions["layers[1].act"].values == ("relu", "wide gelu")
    assert [o.training for o in found.outputs] == [False, True]


def test_readable():
    text = write(load("spaces/autoformer.space:autoformer_t"))
    assert text.startswith("spaceir 1\ngraph autoformer_t\nblock ")
    line = next(line for line in text.splitlines() if line.endswith("as qkv")).strip()
    assert line == (
        "%1: [%B, 197, 3, %heads, 64] = linear(%0, out=[3, %heads, 64], init=init "
        "trunc_normal(1/50), bias_init=init constant(0)) {weight=qkv.weight[0:3, 0:%heads, "
        "0:64][0:%width], bias=qkv.bias[0:192*%heads]} as qkv"
    )
    assert "  decide presence depth in {12, 13, 14}\n" in text
    assert "    when depth > 13 {\n" in text
    assert 'rule "encoder[_].attn.qkv.bias" entangle(flat)\n' in text


def test_reading_takes_a_bounded_number_of_calls():
    text = write(load("spaces/autoformer.space:autoformer_t"))
    with calls_at_most(1_000_000):
        read(Source("t.spaceir", text))


def test_order_of_blocks_means_nothing():
    graph = small()
    text = write(replace(graph, blocks=dict(reversed(graph.blocks.items()))))
    assert read(Source("t", text)) == graph


# What has no place in a shipped space.

WIDTH, HEADS = Symbol("width", (8, 12)), Symbol("attn.heads", (2, 4))
OP = Symbol("op", ("k3", "3x3", "is"))
ODD = Symbol("/normal.ratio", (Fraction(1, 2), 2))


OPTIONS = {"axes": Dim.of(1), "bias": False, "init": None, "bias_init": None}


def tiny(**changes) -> Graph:
    """A graph of one block and one linear node, with fields of its root replaced."""
    width = Dim.of(WIDTH)
    weight = Param("fc.weight", ((width,), (Dim.of(3),)), Init("linear"))
    nodes = (
        Node(0, "input", types=(TensorType((Dim.of(Symbol("B")), Dim.of(3))),), label="pixels"),
        Node(
            4,
            "linear",
            (Value(0),),
            dict(OPTIONS, out=width),
            {
                "weight": View(
                    "fc.weight", ((Slice(Dim.of(0), width),), (Slice(Dim.of(0), Dim.of(3)),))
                )
            },
            types=(TensorType((Dim.of(Symbol("B")), width)),),
            label="fc",
        ),
    )
    root = Block("tiny", nodes, (Value(4),), (), (Choice("width", "dim", WIDTH.values),), (weight,))
    return Graph("tiny", replace(root, **changes), {}, (Output("output", Value(4)),))


def test_parameters_keep_every_field():
    graph = tiny()
    (weight,) = graph.root.params
    odd = Param(
        "param", ((), (Dim.of(2), Dim.of(WIDTH))), Init("normal", (Dim.of(1), Dim.of(-3))),
        "buffer", "i64", persistent=False, decay=False, bank=("width",), reserved=True,
    )  # fmt: skip
    graph = replace(graph, root=replace(graph.root, params=(weight, odd)))
    assert again(graph).root.params == (weight, odd)


def test_views_keep_every_part():
    width = Dim.of(WIDTH)
    parts = [
        Slice(Dim.of(0), width),
        Slice(Dim.of(2), width - 1),
        Slice((12 - width) / 2, width),
        Slice(Dim.of(0), width, 3),
        Slice(minimum(width, Dim.of(10)), Dim.of(1)),
        Gather("centre", (width, Dim.of(7)), width),
        Gather("all", (), Dim.of(7)),
    ]
    view = View("fc.weight", (tuple(parts), ()))
    graph = tiny()
    node = replace(graph.root.nodes[1], params={"": view})
    text = write(replace(graph, root=replace(graph.root, nodes=(graph.root.nodes[0], node))))
    piece = next(p for p in parse(Source("t", text)).children if getattr(p, "rule", "") == "root")
    reader = Blocks(Source("t", text), {"width": WIDTH, "B": Symbol("B")})
    assert reader.block(piece, reader.outline(piece)).nodes[1].params == {"": view}


def test_calls_keep_every_prefix():
    width = Dim.of(WIDTH)
    type = TensorType((width,))
    inner = Block(
        "output",
        (Node(0, "input", types=(TensorType((Dim.of(Symbol("%w", (8, 12))),)),)),),
        (Value(0),),
        (Symbol("%w", (8, 12)), Symbol("%rate", rate=True), Symbol("%op", ("k3",))),
    )
    sizes = {"%w": WIDTH, "%rate": Dim.of(Fraction(1, 3)), "%op": Symbol("op", ("k3",))}
    nodes = [Node(0, "input", types=(type,), label="x")]
    calls = [
        Call("output", "a", "a", "a", (), sizes),
        Call("output", "", "/normal", "a", ("b.c", "d[0]"), {**sizes, "%w": width}),
        Call("output", "other", "", "", (), sizes),
    ]
    for number, call in enumerate(calls):
        label = "a" if number < 2 else ""
        nodes.append(
            Node(number + 1, "call", (Value(number),), call=call, types=(type,), label=label)
        )
    root = Block(
        "r", tuple(nodes), (Value(3),), (),
        (Choice("width", "dim", WIDTH.values), Choice("op", "path", OP.values)),
    )  # fmt: skip
    graph = Graph("r", root, {"output": inner}, (Output("output", Value(3)),))
    found = again(graph)
    assert found == graph
    assert found.blocks["output"].sizes[1].rate
    assert isinstance(found.root.nodes[1].call.sizes["%w"], Symbol)
    assert isinstance(found.root.nodes[2].call.sizes["%w"], Dim)


def test_attributes_keep_their_kinds():
    values = {
        "a": True, "b": Dim.of(1), "c": "1", "d": None, "e": (), "f": (Dim.of(1), ("x", None)),
        "g": Init("normal", (Dim.of(1),)), "h": Init("ones"), "i": OP, "j": compare("<", WIDTH, 12),
        "k": is_value(OP, "3x3"), "when": Dim.of(WIDTH) / 3, "l": 'a "quoted"\n\\ text \u00e9',
    }  # fmt: skip
    node = Node(9, "linear", (), values)
    graph = tiny()
    text = write(replace(graph, root=replace(graph.root, nodes=(*graph.root.nodes, node))))
    piece = next(p for p in parse(Source("t", text)).children if getattr(p, "rule", "") == "root")
    reader = Blocks(Source("t", text), {"width": WIDTH, "B": Symbol("B"), "op": OP})
    found = reader.block(piece, reader.outline(piece)).nodes[2].attributes
    for key, value in values.items():
        assert found[key] == value, key
        assert type(found[key]) is type(value), key


def test_names_and_rules_keep_every_part():
    i = Dim.of(Symbol("i", rate=True))
    renames = (
        Rename(
            parse_pattern("a[i].b[_][0..3]"),
            (ForeignHop("x", (i // 2, i % 2)), ForeignHop("y")),
            Layout("order", ("b", "3", "a b")),
        ),
        Rename(
            Pattern((Hop("c"),), anywhere=True), (), Layout("shape", (), (Dim.of(1), Dim.of(2)))
        ),
    )
    graph = replace(
        tiny(),
        dialects={"names": Dialect("names", renames), "plain": Dialect("plain")},
        rules=(
            StorageRule(Pattern((), anywhere=True), "entangle"),
            StorageRule(parse_pattern("fc.weight"), "entangle", "centre"),
            StorageRule(parse_pattern("fc[_]"), "tie", 2),
        ),
        search={"search": {"x": -1.5, "y": (1, (2.0, "z")), "in": 1e-30}, "empty": {}},
    )
    assert again(graph) == graph


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_reserved_words_are_names_too(word):
    graph = tiny()
    nodes = (replace(graph.root.nodes[0], label=word), *graph.root.nodes[1:])
    choice = Choice(word, "path", (word, "x"))
    live = is_value(choice.symbol, word)
    graph = replace(
        graph,
        name=word,
        root=replace(
            graph.root,
            name=word,
            nodes=nodes,
            decisions=(*graph.root.decisions, choice, Choice("n", "dim", (1, 2), None, live)),
        ),
        outputs=(Output(word, Value(4)),),
        require=(is_value(choice.symbol, word),),
        search={word: {word: word}},
    )
    assert again(graph) == graph


# Sizes and conditions.

A, B, FREE = Symbol("%a", (1, 2, 3)), Symbol("b.c[1]", (2, 4)), Symbol("B")
PICK = Choice("picks", "pick", ((0, 1), (0, 2), (1, 2))).symbol
ODD_PICK = Symbol("/normal.picks", PICK.values)
SYMBOLS = {s.name: s for s in (A, B, FREE, OP, PICK, ODD, ODD_PICK)}
NUMERIC = [Dim.of(s) for s in (A, B, FREE, ODD)]


def grow(inner):
    two = st.tuples(inner, inner)
    return st.one_of(
        two.map(lambda p: p[0] + p[1]),
        two.map(lambda p: p[0] * p[1]),
        two.map(lambda p: p[0] - p[1]),
        two.map(lambda p: minimum(*p)),
        two.map(lambda p: maximum(*p)),
        two.map(lambda p: p[0] // (p[1] * p[1] + 1)),
        two.map(lambda p: p[0] / (p[1] * p[1] + 1)),
        inner.map(lambda d: function("sqrt", d * d + 1)),
        inner.map(lambda d: power(d * d + 1, Dim.of(Fraction(1, 3)))),
        st.tuples(truths, inner, inner).map(lambda p: conditional(*p)),
    )


atoms = st.one_of(
    st.tuples(st.sampled_from(NUMERIC), st.sampled_from(NUMERIC), st.integers(-3, 3)).map(
        lambda p: compare("<", p[0], p[1] + p[2])
    ),
    st.sampled_from([is_value(OP, value) for value in OP.values]),
    st.tuples(st.sampled_from([PICK, ODD_PICK]), st.integers(0, 1), st.integers(0, 2)).map(
        lambda p: chosen(*p)
    ),
    st.sampled_from(NUMERIC).map(lambda d: compare("==", d, 2)),
)
truths = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda c: conjunction(*c)),
        st.lists(inner, min_size=2, max_size=3).map(lambda c: disjunction(*c)),
        inner.map(negate),
    ),
    max_leaves=5,
)
leaves = st.one_of(st.sampled_from(NUMERIC), st.fractions(-9, 9, max_denominator=4).map(Dim.of))
sizes = st.recursive(leaves, grow, max_leaves=6)
many = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


def printed(value) -> str:
    """A value as it stands in the text of a graph."""
    graph = tiny()
    node = Node(1, "linear", (), {"a": value})
    text = write(replace(graph, root=replace(graph.root, nodes=(node,))))
    return text.split("linear(a=", 1)[1].split("\n", 1)[0].removesuffix(")")


def parsed(text: str):
    source = Source("t", f"spaceir 1 graph g root r {{ %0 = linear(a={text}) yield }}")
    root = parse(source).children[2]
    node = root.children[1]
    value = node.children[2].children[1].children[1]
    reader = Values(source, SYMBOLS)
    return reader.condition(value.children[0]) if value.rule == "condition" else reader.dim(value)


@many
@given(sizes)
def test_sizes_read_back(size):
    assert parsed(printed(size)) == size


@many
@given(truths)
def test_conditions_read_back(condition):
    found = parsed(printed(condition))
    assert found == condition
    assert str(found) == str(condition)


# The hash.


def test_hash_is_of_the_network_and_not_of_its_spelling():
    graph = load("spaces/autoformer.space:autoformer_t")
    shift = {name: 7 + i for i, name in enumerate(graph.blocks)}

    def moved(level, by):
        nodes = tuple(
            replace(
                n,
                id=n.id + by,
                operands=tuple(replace(v, node=v.node + by) for v in n.operands),
                regions=tuple(moved(r, by) for r in n.regions),
            )
            for n in level.nodes
        )
        outputs = tuple(replace(v, node=v.node + by) for v in level.outputs)
        return replace(level, nodes=nodes, outputs=outputs)

    blocks = {name: moved(block, shift[name]) for name, block in graph.blocks.items()}
    other = replace(graph, blocks=dict(reversed(blocks.items())))
    assert other != graph
    assert other.hash == graph.hash
    assert again(graph).hash == graph.hash


def test_hash_tells_what_differs():
    graph = load("spaces/autoformer.space:autoformer_t")
    found = {graph.hash}
    variants = [
        replace(graph, rules=graph.rules[:-1]),
        replace(graph, stored={}),
        replace(graph, name="other"),
        replace(graph, dialects={}),
        load("spaces/autoformer.space:autoformer_t", classes=10),
        load("spaces/autoformer.space:autoformer_t_yaml"),
    ]
    for other in variants:
        found.add(other.hash)
    assert len(found) == len(variants) + 1


def test_text_and_hash_do_not_depend_on_the_seed_of_hashing():
    code = (
        "from spacelang.loader import load; from spacelang.ir.text import write; import hashlib\n"
        "for name in ('autoformer.space:autoformer_t', 'efficientvit.space:efficientvit_search'):\n"
        "    g = load('spaces/' + name)\n"
        "    print(hashlib.sha256(write(g).encode()).hexdigest(), g.hash)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "77")
    }
    assert len(found) == 1


# What is refused.

HEAD = "spaceir 1 graph g "
BODY = "%0: [B, 3] = input() as x yield %0"
WHOLE = HEAD + "root r { " + BODY + " } output %0 as output"


def test_the_smallest_graph():
    assert read(Source("t", WHOLE)).outputs == (Output("output", Value(0)),)
    assert read(Source("t", "# a remark\n" + WHOLE + " # and another")).name == "g"


def nested(form: str, inner: str, times: int) -> str:
    for _ in range(times):
        inner = form.format(inner)
    return inner


FREE = [chr(65 + i) + chr(65 + j) for i in range(5) for j in range(5)]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "1:1", "does not fit"),
        ("spaceir 2 graph g", "1:9", "version 2"),
        (HEAD, "1:17", "one root, not 0"),
        (WHOLE + " root r { " + BODY + " }", "1:85", "one root, not 2"),
        (WHOLE.replace("input()", "frobnicate()"), None, "no op is called frobnicate"),
        (WHOLE.replace("input()", "input(a=1)"), None, "no option a"),
        (WHOLE.replace("yield", "%1: [B, 3] = relu(%0, a=1) yield"), None, "no option a"),
        (WHOLE.replace("input()", "linear(out=1, out=2)"), None, "out is given twice"),
        (WHOLE.replace("[B, 3]", "[B, 3/0]"), None, "no size"),
        (WHOLE.replace("[B, 3]", "[B, " + "9" * 65 + "]"), None, "64 digits"),
        (WHOLE.replace("[B, 3]", "[B, frob(3)]"), None, "no function is called frob"),
        (WHOLE.replace("[B, 3]", "[B, power(2, 1000000)]"), None, "a power of more"),
        (WHOLE.replace("[B, 3]", "[" + nested("power({}, 64)", "9", 5) + "]"), None, "a power of more"),
        (WHOLE.replace("[B, 3]", "[" + nested("power({}, 8)", "B", 5) + "]"), None, "4,096 bits"),
        (WHOLE.replace("[B, 3]", "[power(A + B + C + D + E + F, 9)]"), None, "a sum to the power"),
        (WHOLE.replace("[B, 3]", "[power(" + " + ".join(FREE) + ", 8)]"), None, "terms"),
        (WHOLE.replace("[B, 3]", "[B, " + "*".join(["9" * 60] * 6) + "]"), None, "1,024 bits"),
        (WHOLE.replace("[B, 3]", "[" + "*".join(["B"] * 300) + "]"), None, "4,096 bits"),
        (WHOLE.replace("[B, 3]", "[min(" + ", ".join(FREE * 50) + ")]"), None, "500 numbers"),
        (WHOLE.replace("input()", "linear(out=C)"), None, "C is neither"),
        (WHOLE.replace("{ %0", "{ decide odd a in {1} %0"), None, "of the kind odd"),
        (WHOLE.replace("{ %0", "{ decide dim a in {1/0} %0"), None, "over 0"),
        (WHOLE.replace("{ %0", "{ param p: [1] = ones frobbed %0"), None, "cannot be frobbed"),
        (WHOLE.replace("{ %0", "{ param p: [1] = ones buffer buffer %0"), None, "means nothing"),
        (WHOLE.replace("{ %0", "{ param p: [1] = ones bank %0"), None, "means nothing"),
        (WHOLE + ' stored a = 1 stored a = 2', None, "a second stored a"),
        (WHOLE + " search a {x=1, x=2}", None, "a second setting x"),
        (WHOLE + ' rule "a..b" entangle', None, "path pattern"),
        (WHOLE + ' rule "a" frobnicate', None, "no storage rule"),
        (WHOLE + " require width < 3", None, "neither a size nor a decision"),
        (WHOLE + " output %0 as output", None, "two of one name"),
        (WHOLE.replace("as x", 'as @"\\q"'), None, "escape"),
        (WHOLE.replace("yield %0", "yield %1"), None, "does not make"),
        (WHOLE + " \u00e9", None, "means nothing"),
        (WHOLE.replace("[B, 3]", "[B, " + "*".join(["(A + B + C + D)"] * 40) + "]"), None, "terms"),
        (WHOLE.replace("[B, 3]", "[B, " + "-" * 200 + "3]"), None, "levels"),
        (WHOLE.replace("%0: [B", "%0.1: [B"), None, "first value"),
    ],
)  # fmt: skip
def test_refused_with_a_place(text, place, words):
    found = refusal(text)
    assert words in str(found)
    if place is not None:
        line, column = found.diagnostics[0].primary.span.position
        assert f"{line}:{column}" == place


def test_brackets_cost_nothing():
    deep = read(Source("t", WHOLE.replace("[B, 3]", "[B, " + "(" * 500 + "3" + ")" * 500 + "]")))
    assert deep == read(Source("t", WHOLE))


def test_a_second_block_of_a_name():
    text = HEAD + "block a { yield } block a { yield } root r { " + BODY + " } output %0 as o"
    assert "a second block a" in str(refusal(text))


@pytest.mark.parametrize(("length", "width"), [(4000, 1), (60, 2)])
def test_calls_without_an_end_in_sight(length, width):
    """Thousands of blocks in each other, or 2^60 uses of one: refused before they are walked."""
    parts = [HEAD + "block c0 { %0: [3] = input() yield %0 }"]
    for number in range(1, length):
        calls = " ".join(f"%{i}: [3] = call c{number - 1}(%{i - 1})" for i in range(1, width + 1))
        parts.append(f"block c{number} {{ %0: [3] = input() {calls} yield %{width} }}")
    parts.append(f"root r {{ %0: [3] = input() %1: [3] = call c{length - 1}(%0) yield %1 }}")
    with calls_at_most(15_000_000):
        assert "deep" in str(refusal("\n".join(parts))) or width == 2


def test_errors_of_several_blocks_at_once():
    text = (
        HEAD
        + "block a { %0: [C] = input() yield %0 }\nblock b { %0: [D] = input() yield %0 }\n"
        + "root r { " + BODY + " } output %0 as o"
    )  # fmt: skip
    found = refusal(text)
    assert [d.primary.span.position[0] for d in found.diagnostics] == [1, 2]


def test_the_verifier_runs_after_reading():
    text = write(small())
    bad = text.replace("linear(%0, out=width", "linear(%0, out=2*width", 1)
    assert bad != text
    assert {d.code for d in refusal(bad).diagnostics} == {"SP602"}


def outcome(text: str) -> Graph | str:
    """The graph of a text, or the diagnostics; any other exception is a failure of the test."""
    try:
        return read(Source("m", text))
    except SpaceError as failed:
        return str(failed)


def test_mutated_texts_never_crash():
    """Words of a text dropped, doubled, swapped, replaced: a graph or diagnostics, nothing else."""
    random.seed(11)
    texts = [write(small()), write(load("spaces/autoformer.space:autoformer_t"))]
    words = [t.split(" ") for t in texts]
    pool = [
        "%0",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "=",
        "when",
        "yield",
        "-1",
        "0",
        "1/0",
        "heads",
        '"',
    ]
    read_back = 0
    for _ in range(250):
        parts = list(random.choice(words))
        for _ in range(random.randint(1, 3)):
            at, other = random.randrange(len(parts)), random.randrange(len(parts))
            match random.randrange(4):
                case 0:
                    del parts[at]
                case 1:
                    parts.insert(at, parts[other])
                case 2:
                    parts[at], parts[other] = parts[other], parts[at]
                case _:
                    parts[at] = random.choice(pool)
        text = " ".join(parts)
        graph = outcome(text)
        if isinstance(graph, Graph):
            read_back += 1
            assert again(graph) == graph
        else:
            assert graph
    assert read_back < 250


def test_the_grammar_is_strict_and_its_tables_are_current():
    from lark import Lark

    Lark(grammar("ir"), parser="lalr", strict=True)
    stored = files("spacelang.grammars").joinpath("ir.json").read_text(encoding="utf-8")
    assert json.loads(stored) == json.loads(json.dumps(build("ir")))


def test_every_form_of_the_grammar_is_parsed(monkeypatch):
    """Every alternative of every rule, with and without each of its optional parts, and every word
    and sign: by one text that has them, and one that has none."""
    used: set[int] = set()
    reduce = Machine._reduce

    def counted(machine, number, here):
        used.add(number)
        reduce(machine, number, here)

    forms = (Path(__file__).parent / "forms.spaceir").read_text("utf-8")
    texts = [forms, "spaceir 1 graph nothing"]
    grammar = tables("ir")
    monkeypatch.setattr(Machine, "_reduce", counted)
    words: set[str] = set()
    for text in texts:
        source = Source("forms.spaceir", text)
        assert parse(source).rule == "start"
        words |= {token.text for token in scan(source, grammar)}
    assert [rule for n, rule in enumerate(grammar.rules) if n not in used] == []
    assert grammar.literals.keys() - words == set()


def test_every_word_of_the_grammar_is_reserved():
    words = {text for text in tables("ir").literals if text.isalpha()}
    assert words == RESERVED


def test_json_texts_are_what_the_text_holds():
    graph = replace(tiny(), search={"e": {"t": 'a"b\\c\n\t\u2028'}})
    assert json.dumps('a"b\\c\n\t\u2028') in write(graph)
    assert again(graph) == graph
