"""The Python Builder: each space here is written twice, and both have one hash."""

from __future__ import annotations

import pytest

import spacelang
from spacelang.build import Builder
from spacelang.diagnostics import Source, SpaceError
from spacelang.ir.build import BlockBuilder
from spacelang.ir.condition import TRUE
from spacelang.ir.dim import Symbol
from spacelang.ir.graph import Graph, Instance
from spacelang.ir.verify import verified
from spacelang.loader import load


def text(source: str, **given) -> Graph:
    return load(Source("same.space", source), **given)


def same(builder: Builder, source: str) -> Graph:
    """The builder's graph, which is the text's."""
    graph, other = builder.graph, text(source)
    assert graph.hash == other.hash
    return verified(graph)


def test_public_name():
    assert spacelang.Builder is Builder


AUTOFORMER = """
use vit
default linear(init: trunc_normal(0.02), bias_init: 0)

block relative(grid, dim, reach = 4) {
  v = parameter([2 * reach + 2, dim], init: trunc_normal(0.02)) as embeddings_table_v
  h = parameter([2 * reach + 2, dim], init: trunc_normal(0.02)) as embeddings_table_h
  return take(v, clipped_index(grid, grid, axis: 0, reach: reach, skip: 1))
       + take(h, clipped_index(grid, grid, axis: 1, reach: reach, skip: 1))
}
block attention(x, heads, grid, dim = 16) {
  q, k, v = linear(x, [3, heads, dim]) as qkv |> unstack(axis: 2)
  s = scores(q, k) + einsum("bihd,ijd->bhij", q, relative(grid, dim) as rel_pos_embed_k)
  p = softmax(s * rsqrt(dim))
  o = weigh(p, v) + einsum("bhij,ijd->bihd", p, relative(grid, dim) as rel_pos_embed_v)
  return linear(o, x_width(x), axes: 2) as proj
}
block x_width_of(x: [B, N, C]) { return x }
space small {
  input pixels: [B, 1, 28, 28]
  choose width in {32, 48}
  choose depth in 2..4
  block encoder(x, drop) {
    choose heads in {2, 3}
    choose ratio in {2, 3.5} within 1..4 by 0.5
    x = x + drop_path(attention(layer_norm(x) as attn_norm, heads, 4) as attn, drop)
    h = linear(gelu(linear(layer_norm(x) as ffn_norm, width * ratio) as fc1), width) as fc2
    return x + drop_path(h, drop)
  }
  x = patch_embed(pixels, width, patch: 7) as patch_embed_super
  x = add_positions(prepend_token(tokens(x)) as _) as _
  for i in 0..<depth { x = encoder(x, 0.1 * i / (largest(2..4) - 1)) as encoder[i] }
  x = layer_norm(x) as norm
  output linear(mean(x[:, 1..], axes: [1]), 10) as head
  weights { _: entangle  width: store(64)  encoder[_].attn.qkv.bias: entangle(flat) }
  names published { encoder[i]: blocks[i] }
  search evolution { population = 50  budget = "params <= 5M" }
  require params <= 2M
}
"""


def test_a_small_autoformer():
    source = AUTOFORMER.replace("x_width(x)", "C").replace("attention(x,", "attention(x: [.., C],")
    source = source.replace("block x_width_of(x: [B, N, C]) { return x }\n", "")
    with Builder("small", use=["vit"]) as b:
        b.default("linear", init=b.trunc_normal(0.02), bias_init=0)

        @b.block
        def relative(grid, dim, reach=4):
            start = {"init": b.trunc_normal(0.02)}
            v = b.parameter([2 * reach + 2, dim], **start, label="embeddings_table_v")
            h = b.parameter([2 * reach + 2, dim], **start, label="embeddings_table_h")
            rows = b.clipped_index(grid, grid, axis=0, reach=reach, skip=1)
            left = b.take(v, rows)
            return left + b.take(h, b.clipped_index(grid, grid, axis=1, reach=reach, skip=1))

        @b.block
        def attention(x, heads, grid, dim=16):
            q, k, v = b.unstack(b.linear(x, [3, heads, dim], label="qkv"), axis=2)
            scores = b.scores(q, k)
            bias = relative(grid, dim, label="rel_pos_embed_k")
            s = scores + b.einsum("bihd,ijd->bhij", q, bias)
            p = b.softmax(s * b.rsqrt(dim))
            mixed = b.weigh(p, v)
            o = mixed + b.einsum("bhij,ijd->bihd", p, relative(grid, dim, label="rel_pos_embed_v"))
            return b.linear(o, x.shape[-1], axes=2, label="proj")

        pixels = b.input("pixels", ["B", 1, 28, 28])
        width = b.choose("width", [32, 48])
        depth = b.choose("depth", range(2, 5))

        @b.block(late=["drop"])
        def encoder(x, drop):
            heads = b.choose("heads", [2, 3])
            ratio = b.choose("ratio", [2, 3.5], within=[1, 1.5, 2, 2.5, 3, 3.5, 4])
            a = attention(b.layer_norm(x, label="attn_norm"), heads, 4, label="attn")
            x = x + b.drop_path(a, drop)
            h = b.linear(b.layer_norm(x, label="ffn_norm"), width * ratio, label="fc1")
            return x + b.drop_path(b.linear(b.gelu(h), width, label="fc2"), drop)

        x = b.patch_embed(pixels, width, patch=7, label="patch_embed_super")
        x = b.prepend_token(b.tokens(x), label="_")
        x = b.add_positions(x, label="_")
        x = b.repeat(depth, lambda i, x: encoder(x, 0.1 * i / 3, label=f"encoder[{i}]"), x)
        x = b.layer_norm(x, label="norm")
        b.output(b.linear(b.mean(x[:, 1:], axes=[1]), 10, label="head"))
        b.add("weights { _: entangle  width: store(64)  encoder[_].attn.qkv.bias: entangle(flat) }")
        b.add("names published { encoder[i]: blocks[i] }")
        b.add('search evolution { population = 50  budget = "params <= 5M" }')
        b.require("params <= 2M")
    graph = same(b, source)
    assert graph.decisions["depth"].kind == "presence"
    assert len(graph.decisions) == 10
    assert graph.storages["encoder[3].attn.qkv.weight"].shape == ((3, 3, 16), (64,))


CELLS = """
block conv_bn(x, out, k = 1) {
  return conv(x, out, k) as c |> batch_norm as bn
}
cell normal(a, c) {
  choose inputs in 2 of [a, c, a + c]
  y = total(inputs) |v, s, e| { return conv_bn(v, 4) as edges[e] }
  return choose op { skip: y  mix: y + conv_bn(y, 4, 3) as inner  none: zero(y) }
}
space cells {
  choose kernel in {1, 3}
  choose act in {"relu", "gelu"}
  choose wide in {true, false}
  input pixels: [B, 3, 8, 8]
  x = conv(pixels, 4, kernel) as stem
  y = normal(x, x) as cells[0]
  z = normal(y, x) as cells[1]
  when act == "relu" { z = relu(z) } else { z = gelu(z) }
  when wide and kernel > 1 { z = conv_bn(z, 4) as extra }
  output linear(mean(z, axes: [2, 3]), 5) as head
  output aux: linear(mean(y, axes: [2, 3]), 5) as side
  weights { _: entangle  kernel: entangle(centre) }
  require kernel <= 3
}
"""


def test_cells_paths_picks_and_conditions():
    with Builder("cells") as b:

        @b.block
        def conv_bn(x, out, k=1):
            return b.batch_norm(b.conv(x, out, k, label="c"), label="bn")

        @b.cell
        def normal(a, c):
            picked = b.pick("inputs", 2, [a, c, a + c])
            y = b.total(picked, lambda v, s, e: conv_bn(v, 4, label=f"edges[{e}]"))
            return b.choose_path(
                "op",
                {
                    "skip": lambda: y,
                    "mix": lambda: y + conv_bn(y, 4, 3, label="inner"),
                    "none": lambda: b.zero(y),
                },
            )

        kernel = b.choose("kernel", [1, 3])
        act = b.choose("act", ["relu", "gelu"])
        wide = b.choose("wide", [True, False])
        pixels = b.input("pixels", ["B", 3, 8, 8])
        x = b.conv(pixels, 4, kernel, label="stem")
        y = normal(x, x, label="cells[0]")
        z = b.normal(y, x, label="cells[1]")
        z = b.when(act == "relu", lambda z: b.relu(z), z, otherwise=lambda z: b.gelu(z))
        z = b.when(wide & (kernel > 1), lambda z: conv_bn(z, 4, label="extra"), z)
        b.output(b.linear(b.mean(z, axes=[2, 3]), 5, label="head"))
        b.output(b.linear(b.mean(y, axes=[2, 3]), 5, label="side"), "aux")
        b.add("weights { _: entangle  kernel: entangle(centre) }")
        b.require(kernel <= 3)
    graph = same(b, CELLS)
    assert graph.decisions.keys() == {"normal.op", "normal.inputs", "kernel", "act", "wide"}


SPLITS = """
block windows(x, window) {
  parts = split(x, window, axis: 1)
  return concat([relu(p) for p in parts], axis: 1)
}
block layer(x, window) {
  choose heads in {1, 2}
  qs = split(linear(x, 12) as q, heads, axis: 1)
  y = cascade(qs, axis: 1) |i, part| { return linear(part, 12 / heads) as mix[i] }
  return windows(x + y, window)
}
space splits {
  choose window in {2, 3}
  choose shape[0] in {4, 8}
  input ids: [B, 12] in 0..<100
  t = parameter([100, 12]) as table
  x = mean(take(t, ids), axes: [1])
  x = layer(x, window) as layers[0]
  for i in 1..<3 { x = layer(x, 2) as layers[i] }
  (x * 2 - 1) as scaled
  output linear(x[:, 0..<6] / 3, shape) as head
  weights { _: entangle }
}
"""


def test_alternatives_slices_lists_and_whole_inputs():
    source = SPLITS.replace("(x * 2 - 1) as scaled\n", "x = (x * 2 - 1) as scaled\n")
    with Builder("splits") as b:

        @b.block
        def windows(x, window):
            return b.concat([b.relu(p) for p in b.split(x, window, axis=1)], axis=1)

        @b.block
        def layer(x, window):
            heads = b.choose("heads", [1, 2])
            qs = b.split(b.linear(x, 12, label="q"), heads, axis=1)
            y = b.cascade(qs, lambda i, part: b.linear(part, 12 / heads, label=f"mix[{i}]"), axis=1)
            return windows(x + y, window)

        window = b.choose("window", [2, 3])
        shape = b.choose("shape[0]", [4, 8])
        ids = b.input("ids", ["B", 12], within=range(100))
        t = b.parameter([100, 12], label="table")
        x = b.mean(b.take(t, ids), axes=[1])
        x = b.call(layer, x, window, label="layers[0]")
        for i in range(1, 3):
            x = b.call("layer", x, 2, label=f"layers[{i}]")
        x = b.tag(x * 2 - 1, "scaled")
        b.output(b.linear(x[:, :6] / 3, shape, label="head"))
        b.add("weights { _: entangle }")
    graph = same(b, source)
    assert any(n.op == "choose" for n in graph.blocks["layer"].everywhere()) or any(
        n.op == "choose" for n in graph.root.everywhere()
    )


def test_sizes_of_the_space_inside_blocks_and_operators():
    source = """
    space sums {
      choose width in {8, 12}
      choose depth in 1..2
      input x: [B, 24]
      block half(x) {
        let w = (width + 4) // 2 - width % 4
        return linear(x, 2 if depth > 1 and not width == 8 or depth < 1 else w) as fc
      }
      output half(x) as a
      weights { _: entangle }
    }
    """
    with Builder("sums") as b:
        width = b.choose("width", [8, 12])
        depth = b.choose("depth", range(1, 3))
        x = b.input("x", ["B", 24])

        @b.block
        def half(x):
            w = (width + 4) // 2 - width % 4
            truth = (depth > 1) & ~(width == 8) | (depth < 1)
            return b.linear(x, b.either(truth, 2, w), label="fc")

        b.output(half(x, label="a"))
        b.add("weights { _: entangle }")
    same(b, source)


# Errors.


def _unequal() -> None:
    with Builder("bad") as b:
        x = b.input("x", ["B", 8])
        width = b.choose("width", [8, 12])
        b.output(x + b.linear(x, width, label="fc"))


def test_errors_show_the_line_of_the_program():
    with pytest.raises(SpaceError) as caught:
        _unequal()
    (found,) = caught.value.diagnostics
    assert found.code == "SP304"
    assert found.primary.span.source.name == __file__
    assert 'b.output(x + b.linear(x, width, label="fc"))' in str(caught.value)
    assert "width = 12" in str(caught.value)


def _wrong_inside() -> None:
    with Builder("bad") as b:
        x = b.input("x", ["B", 8])

        @b.block
        def inner(x):
            return b.conv(x, 4)

        @b.block
        def outer(x):
            return inner(x)

        outer(x)


def test_errors_inside_of_blocks():
    with pytest.raises(SpaceError, match="SP301") as caught:
        _wrong_inside()
    assert "return b.conv(x, 4)" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda b, x, n: b.linear(x, 4, label="a b"), "is no label"),
        (lambda b, x, n: b.choose("a b", [1, 2]), "no name of a decision"),
        (lambda b, x, n: b.choose("n", [1, 2]), "SP203"),
        (lambda b, x, n: b.choose("m", []), "SP503"),
        (lambda b, x, n: b.choose("m", [1, "a"]), "SP209"),
        (lambda b, x, n: b.repeat(x, lambda i, x: x, x), "the bound is a tensor"),
        (lambda b, x, n: b.repeat(n, lambda i, x: b.linear(x, 9 + i), x), "SP205"),
        (lambda b, x, n: int(n), "SP308"),
        (lambda b, x, n: bool(n > 1), "SP308"),
        (lambda b, x, n: b.total(3), "reads a list of tensors"),
        (lambda b, x, n: b.require(n > 7), "never holds"),
        (
            lambda b, x, n: b.when(n == 2, lambda x: (b.require(n < 2), x)[1], x),
            "where n == 2: no architecture there meets it",
        ),
        (lambda b, x, n: b.add("weights { _: frobnicate }"), "SP604"),
        (lambda b, x, n: b.add("x ="), "SP101"),
        (lambda b, x, n: b.trunc_normal(), "takes 1 numbers"),
        (lambda b, x, n: b.linear(x, object()), "cannot be object"),
        (lambda b, x, n: b.block(lambda x, *y: x, name="f"), r"a parameter \*y"),
        (lambda b, x, n: b.block(lambda x: x, name="f", late=["y"]), "no parameter y"),
        (lambda b, x, n: b.tag(n, "a"), "a label on a number"),
        (lambda b, x, n: x[::2], "no step"),
        (lambda b, x, n: n.shape, "has no shape"),
        (lambda b, x, n: b.output(n), "the output is a number"),
        (lambda b, x, n: b.graph, "not finished"),
        (lambda b, x, n: b.finish(), "has no output"),
    ],
)
def test_what_is_refused(make, words):
    b = Builder("bad")
    x, n = b.input("x", ["B", 8]), b.choose("n", [1, 2])
    with pytest.raises(SpaceError, match=words):
        make(b, x, n)


def test_a_limit_leaves_out_alternatives_of_a_block_in_both():
    """As in a text: the value that meets it not is excluded, not refused."""
    with Builder("s") as b:
        x = b.input("x", ["B", 12])

        @b.block
        def apart(x):
            heads = b.choose("heads", [2, 3, 4])
            b.require(heads <= 3)
            parts = b.split(x, heads, axis=1)
            return b.concat([b.linear(p, 4, label=f"h[{i}]") for i, p in enumerate(parts)], axis=1)

        b.output(b.linear(apart(x, label="f"), 2, label="head"))
        b.add("weights { _: entangle }")
    assert b.graph.size() == 2
    assert {s["f.heads"] for s in b.graph.sample(20, seed=0)} == {2, 3}


def test_names_that_are_nothing():
    b = Builder("bad")
    with pytest.raises(AttributeError, match="did you mean linear"):
        b.linaer(3)
    assert not hasattr(b, "_missing")


def test_a_tensor_around_a_block_is_refused():
    b = Builder("bad")
    x = b.input("x", ["B", 8])

    @b.block
    def inner(y):
        return y + x

    with pytest.raises(SpaceError, match="SP208"):
        inner(x)


def test_a_failure_in_python_leaves_no_graph():
    with pytest.raises(ZeroDivisionError), Builder("bad") as b:
        b.input("x", ["B", 1 // 0])
    with pytest.raises(SpaceError, match="not finished"):
        b.graph  # noqa: B018


def test_after_an_error_the_builder_goes_on():
    b = Builder("sound")
    x = b.input("x", ["B", 8])
    with pytest.raises(SpaceError):
        b.conv(x, 4)
    b.output(b.linear(x, 4, label="fc"))
    assert verified(b.finish()) is b.graph


def test_known_numbers_are_pythons_too():
    b = Builder("numbers")
    x = b.input("x", ["B", 8])
    seen = []

    @b.block
    def inner(x, n):
        seen.append(int(n))
        return [b.linear(x, 4, label=f"fc[{i}]") for i in range(n)][-1]

    n = b.choose("n", [1, 2])
    assert float(b.thing(3).at({})) == 3.0
    assert int(x.shape[1]) == 8
    assert repr(x.shape[1]) == "<a number: 8>"
    b.output(inner(x, n, label="a"))
    b.add("weights { _: entangle }")
    assert set(seen) == {1, 2}
    assert len(b.finish().blocks) == 2


EXCLUSIVE = """
space t() {{
  input x: [B, 8]
  choose wide in {{false, true}}
  when wide {{ choose r in {first}  x = linear(linear(x, r) as a, 8) as b }}
  else {{ choose r in {{2, 4}}  x = linear(linear(x, r) as c, 8) as d }}
  output x
  weights {{ _: entangle }}
}}
"""


def test_one_decision_in_parts_that_exclude_each_other() -> None:
    graph = load(Source("<t>", EXCLUSIVE.format(first="{2, 4}")))
    assert graph.decisions["r"].live == TRUE
    for other in ("{2, 8}", "{2, 4, 8}", "{2, 4} within {2, 4, 8}"):
        with pytest.raises(SpaceError) as failed:
            load(Source("<t>", EXCLUSIVE.format(first=other)))
        assert {d.code for d in failed.value.diagnostics} == {"SP203"}
        assert "of other candidates here" in str(failed.value)


def test_an_instance_keeps_what_a_symbol_is() -> None:
    block = BlockBuilder("b").finish([])
    instance = Instance(block, "a", "a", "a", (), {}, ())
    for symbol in (Symbol("%r", rate=True), Symbol("w", (2, 4)), Symbol("n")):
        found = instance.symbol(symbol)
        assert isinstance(found, Symbol)
        assert (found.name, found.values, found.rate) == (
            f"a.{symbol.name}", symbol.values, symbol.rate,
        )  # fmt: skip
