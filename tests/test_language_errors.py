"""Programs broken on purpose: each refused with its code, at its place, with its counter-example.

The first fourteen are shipped spaces with one mistake; every message speaks of the whole space, not of
one network. The others are short texts, among them all that one mistake must not drag along.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import pytest

from spacelang.checking import examine
from spacelang.diagnostics import Diagnostic, Source, SpaceError
from spacelang.loader import from_scope, load
from spacelang.syntax.parse import parse
from spacelang.syntax.scope import Library

SPACES = Path(__file__).parent.parent / "spaces"


@dataclass(frozen=True)
class Broken:
    """A mistake in a shipped file: what is replaced, and what is to be said about it."""

    file: str
    space: str
    edits: tuple[tuple[str, str], ...]
    code: str
    place: str
    example: str
    also: str = ""
    sizes: str = ""


MISTAKES = {
    "attention without projection": Broken(
        "autoformer",
        "autoformer_t",
        (("linear(o, C, axes: 2) as proj", 'rearrange(o, "b n h d -> b n (h d)")'),),
        "SP303",
        'rearrange(o, "b n h d -> b n (h d)")',
        "encoder[0].heads = 4, width = 240",
        "choose width in widths",
        "64*heads is 192 or 256; width is 192, 216 or 240",
    ),
    "a ratio that leaves a width open": Broken(
        "autoformer",
        "autoformer_t",
        (("{3, 3.5, 4}, stored: 256", "{3, 3.3, 4}, stored: 256"),),
        "SP302",
        "linear(width * ratio)",
        "encoder[0].ratio = 3.3, width = 216",
        sizes="width*ratio is 576, 633.6, .. or 960",
    ),
    "the width of another decision": Broken(
        "s3",
        "s3_start",
        (
            ("    choose depth[s]", "    choose other[s] in widths[s]\n    choose depth[s]"),
            ("as layers[s].blocks[i]\n", "as layers[s].blocks[i] + linear(x, other) as o[s][i]\n"),
        ),
        "SP304",
        "layer(x, head_counts[s]",
        "other[0] = 96, width[0] = 128",
        "choose other[s] in widths[s]",
    ),
    "a window that does not divide its map": Broken(
        "s3",
        "s3_start",
        (("choose window in {7, 14} within {7, 14, 28}", "choose window in {7, 10}"),),
        "SP302",
        'rearrange("b (y p) (x q) c -> b (y x) (p q) c", p: window, q: window)',
        "layers[0].blocks[0].window = 10",
        sizes="56/window is 5.6 or 8",
    ),
    "a width that is no number of heads": Broken(
        "tinyvit",
        "tinyvit_contraction",
        (("choose {96..192 by 32}", "choose {96..192 by 48}"),),
        "SP302",
        "linear([heads, 3, dim])",
        "widths[1] = 144",
        "C / dim",
        "widths[1]/32 is 3, 4.5 or 6",
    ),
    "heads that do not divide a width": Broken(
        "efficientvit",
        "efficientvit_search",
        (("when C % heads == 0 {", "when C % 2 == 0 {"),),
        "SP302",
        "split(x, heads, axis: 1)",
        "heads[0] = 3, widths[0] = 128",
        "efficientvit([",
    ),
    "one path of another stride": Broken(
        "cream",
        "cream",
        (("mbconv(x, out, 7, 6, stride) as _", "mbconv(x, out, 7, 6, 2) as _"),),
        "SP205",
        "k7e6: mbconv(x, out, 7, 6, 2) as _",
        "blocks[1][1].op = k7e6",
    ),
    "one path that is wider": Broken(
        "cream",
        "cream",
        (("mbconv(x, out, 5, 4, stride) as _", "mbconv(x, out + 8, 5, 4, stride) as _"),),
        "SP205",
        "k5e4: mbconv(x, out + 8, 5, 4, stride) as _",
        "blocks[1][0].op = k5e4",
        "mbconv(x, out, 3, 4, stride)",
    ),
    "a zero without its stride": Broken(
        "cdarts",
        "cifar10",
        (("none:     zero(x, stride: stride)", "none:     zero(x)"),),
        "SP205",
        "none:     zero(x)",
        "reduction.dag[0][0].op = none",
        "max_pool(x, 3, stride: stride)",
    ),
    "an edge that ignores its source": Broken(
        "cdarts",
        "cifar10",
        (("edge(s, stride if source < 2 else 1,", "edge(s, stride,"),),
        "SP205",
        "total(inputs)",
        "reduction.inputs[1] = [2, 0]",
    ),
    "an optional layer that widens": Broken(
        "autoformer",
        "autoformer_t",
        (
            ("  x = layer_norm(x) as norm\n",
             "  for i in 12..<depth { x = linear(x, 2 * width) as wide[i] }\n"),
        ),
        "SP205",
        "linear(x, 2 * width)",
        "depth = 14, width = 240",
        "choose width in widths",
        "2*width is 384, 432 or 480; width is 192, 216 or 240",
    ),
    "an even kernel": Broken(
        "efficientvit",
        "efficientvit_search",
        (("kernels: [choose {3, 5, 7},", "kernels: [choose {3, 5, 6},"),),
        "SP304",
        "s + bias",
        "heads[0] = 2, kernels[0] = 6",
        sizes="the size is 36 or 49",
    ),
    "a crop by the window instead of the map": Broken(
        "tinyvit",
        "tinyvit_contraction",
        (("h[:, 0..<H, 0..<W]", "h[:, 0..<window, 0..<window]"),),
        "SP304",
        "x + drop_path(h[:, 0..<window, 0..<window], drop)",
        "windows[0] = 14",
        "choose {7, 14}",
    ),
    "keys of another number of heads": Broken(
        "autoformer",
        "autoformer_t",
        (("unstack(axis: 2)\n", "unstack(axis: 2)\n  k = linear(x, [3, dim]) as keys\n"),),
        "SP303",
        "scores(q, k)",
        "encoder[0].heads = 4",
        "choose heads in head_counts",
    ),
}  # fmt: skip


def refused(name: str, mistake: Broken) -> tuple[Diagnostic, ...]:
    text = (SPACES / f"{mistake.file}.space").read_text("utf-8")
    # What only CDARTS uses is edited with it, as one text.
    text = text.replace("use cells\n", (SPACES / "lib" / "cells.space").read_text("utf-8"))
    for old, new in mistake.edits:
        assert text.count(old) >= 1, f"{mistake.file} has no {old}"
        text = text.replace(old, new, 1)
    source = Source(f"{name}.space", text)
    library = Library(SPACES)
    scope = library.scope(parse(source), SPACES)
    with pytest.raises(SpaceError) as failed:
        from_scope(scope, mistake.space, source, library, {})
    return failed.value.diagnostics


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_shipped_spaces(name: str) -> None:
    mistake = MISTAKES[name]
    first = refused(name, mistake)[0]
    assert first.code == mistake.code, str(first)
    assert mistake.place in first.primary.span.text
    assert first.notes[-1].startswith("first disagreement: ")
    assert mistake.example in first.notes[-1]
    assert mistake.sizes in first.notes[0]
    if mistake.also:
        assert any(mistake.also in label.span.text for label in first.secondary)


TEXTS: dict[str, tuple[str, list[tuple[str, int, str]]]] = {
    "a type at the border of a parameter": (
        """\
block f(x: [B, N, 8]) -> [B, N, 8] { return x }
space s {
  input x: [B, 4, 4]
  output f(x)
}
""",
        [("SP303", 4, "x of f is not of its declared type")],
    ),
    "sizes that silent rounding would hide": (
        """\
space s {
  input x: [B, 8]
  choose width in {192, 240}
  choose heads in {4, 5}
  output linear(x, [heads, width / heads]) as fc
  weights { _: entangle }
}
""",
        [("SP302", 5, "the width of linear must be whole")],
    ),
    "a division by zero in one architecture": (
        """\
space s {
  input x: [B, 8]
  choose depth in 1..3
  for i in 0..<depth { x = drop_path(linear(x, 8) as fc[i], i / (depth - 1)) }
  output x
  weights { _: entangle }
}
""",
        [("SP210", 4, "i / (depth - 1) divides by zero")],
    ),
    "a size that may be none": (
        """\
space s {
  input x: [B, 8]
  choose width in {8, 16}
  output linear(x, width - 8) as fc
  weights { _: entangle }
}
""",
        [("SP302", 4, "a size of linear must be at least 1")],
    ),
    "a label in a loop without its index": (
        """\
space s {
  input x: [B, 8]
  for i in 0..1 { x = linear(x, 8) as fc }
  output x
}
""",
        [("SP203", 3, "two parameters called fc.weight")],
    ),
    "a parameter called like a layer": (
        """\
space s {
  input x: [B, 8]
  x = x + parameter([8]) as a
  output linear(x, 8) as a
}
""",
        [("SP203", 3, "a parameter and a layer called a")],
    ),
    "a parameter of a block called like layers beside it": (
        """\
block shifted(x) { return x + parameter([8]) as layers }
space s {
  input x: [B, 8]
  for i in 0..2 { x = linear(x, 8) as layers[i].up }
  x = shifted(x) as _
  output x
}
""",
        [("SP203", 5, "a parameter and a layer called layers")],
    ),
    "a decision in a loop without its index": (
        """\
space s {
  input x: [B, 8]
  for i in 0..1 {
    choose width in {8, 16}
    x = linear(x, width) as fc[i] |> linear(8) as up[i]
  }
  output x
  weights { _: entangle }
}
""",
        [("SP203", 4, "two decisions of the path width")],
    ),
    "a block that calls itself through another": (
        """\
block f(x) { return g(x) }
block g(x) { return f(x) }
space s {
  input x: [B, 8]
  output f(x)
}
""",
        [("SP206", 2, "f calls itself")],
    ),
    "no storage rule": (
        """\
space s {
  input x: [B, 8]
  choose width in {8, 16}
  output linear(x, width) as fc
}
""",
        [("SP401", 4, "no storage rule for width")],
    ),
    "two rules for one factor": (
        """\
space s {
  input x: [B, 8]
  choose a in {8, 16}
  choose b in {2, 4}
  output linear(x, a * b) as fc
  weights { a: entangle  b: separate }
}
""",
        [
            ("SP404", 6, "a and b size one factor of fc.weight by different rules"),
            ("SP404", 6, "a and b size one factor of fc.bias by different rules"),
        ],
    ),
    "lists of two lengths": (
        """\
space s {
  input x: [B, 8]
  for a, b in zip([1, 2], [1, 2, 3]) { x = linear(x, a * b) as fc[a] }
  output x
}
""",
        [("SP306", 3, "zip of lists of 2, 3 entries")],
    ),
    "a value that some architectures lack": (
        """\
space s {
  input x: [B, 8]
  choose tail in {true, false}
  when tail { y = linear(x, 8) as fc }
  output y
}
""",
        [("SP205", 5, "y has a value only in some architectures")],
    ),
    "a pattern that does not fit": (
        """\
space s {
  input x: [B, 6, 4]
  choose p in {2, 4}
  output rearrange(x, "b (h p) c -> b h (p c)", p: p)
}
""",
        [("SP302", 4, 'h in "b (h p) c -> b h (p c)" must be whole')],
    ),
    "the value of a decision outside of a block": (
        """\
space s {
  input x: [B, 8]
  choose parts in {2, 4}
  xs = split(x, parts, axis: 1)
  output total(xs)
}
""",
        [("SP308", 4, "the value of parts must be known here")],
    ),
    "a list that grows in an optional turn": (
        """\
space s {
  input x: [B, 8]
  choose depth in 1..2
  xs = [x]
  for i in 0..<depth { xs = xs + [x] }
  output total(xs)
}
""",
        [("SP205", 5, "the list xs leaves with 3 or 2 entries")],
    ),
    "a subnet with two mistakes": (
        """\
space s {
  input x: [B, 8]
  for i in 0..2 {
    choose width[i] in {8, 16}
    x = linear(x, width) as fc[i] |> linear(8) as up[i]
  }
  output x
  weights { _: entangle }
}
subnet t of s { width[_] = [8, 16]  width[0] = 9  depth = 3 }
""",
        [
            ("SP501", 10, "9 is no candidate of width[0]"),
            ("SP504", 10, "no decision has the path depth"),
            ("SP505", 10, "2 values for 3 decisions"),
        ],
    ),
    "an assignment of a plain name that `as` names": (
        """\
space s {
  input x: [B, 8]
  y = linear(x, 8) as fc
  output x + y as sum
}
""",
        [("SP207", 4, "this names y, not the result of +")],
    ),
    # One mistake drags no other along, and hides none.
    "all errors of a block and its space at once": (
        """\
block f(x: [B, C], k) -> [B, C] {
  y = linear(x, C + 1) as a
  z = linear(y, wrong) as b
  w = [relu(z), z] + [z]
  return y + x
}
block g(x: [B, C]) { return conv(x, 3) }
space s {
  input x: [B, 8]
  a = f(x, 3) as one
  b = g(a) as two
  c = linear(total([b, b]), 4) as c
  for i in 0..3 { c = c + linear(b, nope) as d[i] }
  e = linear(a, 4, bais: false) + (linear(c, 4) as e)
  output linear(a, 9) + e
}
""",
        [
            ("SP201", 3, "nothing is called wrong here"),
            ("SP304", 5, "these two sizes must be equal"),
            ("SP301", 7, "conv reads [B, C, H, W], not a tensor of 2 axes"),
            ("SP201", 13, "nothing is called nope here"),
            ("SP204", 14, "linear has no option bais"),
        ],
    ),
    "a branch by decision with a mistake on each side": (
        """\
space s {
  input x: [B, 8]
  choose tail in {true, false}
  when tail { x = linear(x, first) as a } else { x = linear(x, second) as b }
  output linear(x, 4) as head
}
""",
        [
            ("SP201", 4, "nothing is called first here"),
            ("SP201", 4, "nothing is called second here"),
        ],
    ),
    "mistakes in several alternatives": (
        """\
space s {
  input x: [B, 8]
  x = choose op { a: linear(x)  b: conv(x, 8)  c: x }
  output linear(x, four) as head
}
""",
        [
            ("SP204", 3, "linear needs out"),
            ("SP301", 3, "conv reads [B, C, H, W], not a tensor of 2 axes"),
            ("SP201", 4, "nothing is called four here"),
        ],
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_short_texts(name: str, tmp_path: Path) -> None:
    text, expected = TEXTS[name]
    path = tmp_path / "example.space"
    path.write_text(text, "utf-8")
    subnet = next((line.split()[1] for line in text.splitlines() if line.startswith("subnet")), "")
    with pytest.raises(SpaceError) as failed:
        load(f"{path}:{subnet}" if subnet else path)
    found = failed.value.diagnostics
    assert [(d.code, d.primary.span.position[0], d.headline) for d in found] == expected


def test_very_many_failures_end_soon() -> None:
    text = "block f(x: [B, C]) { for i in 0..49999 { y = x + linear(x, 3) as fc } return x }"
    with pytest.raises(SpaceError) as failed:
        load(Source("<many>", f"{text}\nspace s {{ input x: [B, 8] output f(x) }}"))
    codes = [found.code for found in failed.value.diagnostics]
    assert codes == ["SP304", "SP203"]


def test_a_chain_of_calls_is_limited() -> None:
    blocks = [f"block b{i}(x) {{ return b{i - 1}(x) }}" for i in range(1, 200)]
    text = "\n".join(("block b0(x) { return linear(x, 8) as fc }", *blocks))
    with pytest.raises(SpaceError) as failed:
        load(Source("<deep>", f"{text}\nspace s {{ input x: [B, 8] output b199(x) }}"))
    (found,) = failed.value.diagnostics
    assert found.code == "SP507"
    assert found.headline == "calls of blocks more than 32 deep"
    assert found.notes == ("b199 calls b198 calls b197 calls .. calls b167",)


@pytest.mark.parametrize(
    "text",
    [
        "block f(x) { for i in 0..<3 { x = linear(x, 8) as a[i] } return x }",
        "let n = " + "-" * 60 + "1\nblock f(x) { return linear(x, 8) as a }",
        "let n = " + "1 + " * 100 + "1\nblock f(x) { return linear(x, 8) as a }",
        "block f(x) { return x" + " |> relu" * 100 + " }",
        "block f(x) { let a = " + "(" * 60 + "1" + ")" * 60 + " return relu(x) }",
    ],
)
def test_long_texts_need_no_stack(text: str) -> None:
    assert load(Source("<long>", text + "\nspace s { input x: [B, 8] output f(x) }")).blocks


def test_a_decision_of_all_alternatives_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spacelang.syntax.session.MAX_TOGETHER", 400)
    body = "choose w in 1..300  y = linear(x, w) as a |> linear(8) as b"
    block = f"block f(x, n) {{ {body}  return concat(split(x, n, axis: 1), axis: 1) + y }}"
    text = "input x: [B, 8] choose n in {1, 2, 4} output f(x, n) as f weights { _: entangle }"
    graph = load(Source("<together>", f"{block} space s {{ {text} }}"))
    assert {path: len(c.values) for path, c in graph.decisions.items()} == {"n": 3, "f.w": 300}
    with pytest.raises(SpaceError, match="more than 400 candidates together"):
        load(Source("<together>", f"{block} space s {{ {text.replace('as f', '+ f(x, 2)')} }}"))


def test_a_space_takes_as_much_whatever_was_made_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spacelang.syntax.session.MAX_NODES", 40)
    inner = "block f(x) { for i in 0..19 { x = relu(x) } return x }"
    outer = "block g(x) { x = f(x) for i in 0..9 { x = gelu(x) } return f(x) }"
    small = "space a { input x: [B, 8] output g(x) }"
    large = "space b { input x: [B, 8] y = g(f(x)) for i in 0..9 { y = tanh(y) } output y }"
    source = Source("t.space", "\n".join((inner, outer, small, large)))
    alone = examine("t.space", source, Path(), "b").report
    assert [found.headline for found in alone.errors] == ["the graph has more than 40 nodes"]
    both = examine("t.space", source, Path())
    assert [found.headline for found in both.report.errors] == [alone.errors[0].headline]
    assert list(both.spaces) == ["a"]


def test_candidates_count_as_much_whatever_was_made_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alternatives of one block each use another variant of a second, of which a space uses one."""
    monkeypatch.setattr("spacelang.syntax.session.MAX_TOGETHER", 602)
    blocks = """
    block g(x, m) { choose w in 1..300  y = linear(x, w) as a |> linear(8) as b  return y + m }
    block h(x, k) { x = concat(split(x, k, axis: 1), axis: 1)  return g(x, [0, 3, 6][k]) as q }
    block wrap(x) { return g(x, 6) as q }
    """
    bodies = {
        "parted": "choose n in {1, 2} output h(x, n) as f",
        "plain": "output wrap(x) as f",
        "full": "choose z in 1..302 output wrap(linear(x, z) as p |> linear(8) as r) as f",
        "over": "choose z in 1..303 output wrap(linear(x, z) as p |> linear(8) as r) as f",
        "least": "choose n in {1, 2} choose z in {1, 2} output h(x, n) + z as f",
    }
    spaces = {
        name: f"space {name} {{ input x: [B, 8] {body} weights {{ _: entangle }} }}"
        for name, body in bodies.items()
    }
    for first, second in permutations(spaces, 2):
        text = "\n".join((blocks, spaces[first], spaces[second]))
        found = examine("t.space", Source("t.space", text), Path())
        assert set(found.spaces) == {first, second} - {"over", "least"}, (first, second)


@pytest.mark.parametrize(
    ("statement", "headline"),
    [
        ("for i in 0..1000000000 { x = relu(x) }", "loops take more than 2,000 turns"),
        ("for i in 0..999 { for j in 0..999 { let k = i } }", "loops take more than 2,000 turns"),
        ("let k = power(9, 100000)", "a power of more than 63 bits"),
        ("let k = 4611686018427387904 * 4611686018427387904", "a number of more than 63 bits"),
        ("choose k in 1..1000000", "decisions of more than 100,000 candidates together"),
        ("choose k in 1..50000", "k has more than 10,000 candidates"),
        ("for i in 0..1999 { x = x + 1 }", "the graph has more than 1,000 nodes"),
        ("choose k in 8 of [relu(x) for i in 0..15]", "k has more than 10,000 orders"),
    ],
)
def test_bombs_are_refused(statement: str, headline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spacelang.syntax.session.MAX_TURNS", 2_000)
    monkeypatch.setattr("spacelang.syntax.session.MAX_NODES", 1_000)
    with pytest.raises(SpaceError) as failed:
        load(Source("<bomb>", f"space s {{ input x: [B, 8] {statement} output x + 0 }}"))
    assert [found.headline for found in failed.value.diagnostics] == [headline]
