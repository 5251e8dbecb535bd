"""Mistakes by example, and how each statement reads.

A row of `MISTAKES` holds texts that make the mistake. Where a parse stops in the same state at the
same kind of token as in one of them, the row speaks (`describe.py`); so a grammar that changes
takes the rows along, and a test sees each of them speak.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mistake:
    """Headline and help of a diagnostic, and texts that deserve them; `anywhere` if the mistake is
    the same in whatever statement it stands."""

    headline: str
    help: str
    examples: tuple[str, ...]
    anywhere: bool = False


def _inside(*statements: str) -> tuple[str, ...]:
    return tuple(f"space s() {{ {statement}" for statement in statements)


MISTAKES: tuple[Mistake, ...] = (
    Mistake(
        "`choose` needs `in` before a set",
        "write: choose width in {192, 240}; alternatives are a value: y = choose op { k3: .. }",
        _inside(
            *(f"choose w {value}" for value in ("= {1}", ": {1}", "1", '"a"', "(1, 2)", "from")),
            "choose w {1, 2}",
            "choose w {a: f(x)}",
        ),
    ),
    Mistake(
        "an alternative needs its name",
        "write: choose op { k3: conv(x, C, 3)  skip: x }",
        _inside(
            "return choose op { k3 = 3 }",
            "return choose op { conv(x) }",
            "return choose op { k3, skip }",
            "return choose op { k3 }",
            "return choose op { 3, 5 }",
            'return choose op { "a" }',
            "return choose op { [1] }",
        ),
        anywhere=True,
    ),
    Mistake(
        "candidates stand in a set or a range",
        "write: choose width in {192, 240}, or choose depth in 12..14",
        _inside("choose w in 1, 2", "choose w in a, b"),
    ),
    Mistake(
        "an option is written with `:`",
        "write: linear(x, bias: false)",
        (
            *_inside("x = f(a = 1)", "x = f(a, b = 1)", "rewrite { irpe(on = 1) }"),
            "default linear(bias = false)",
            "space a = b(c = 1)",
        ),
        anywhere=True,
    ),
    Mistake(
        "a default is written with `=`",
        "write: image = 224; after `:` comes the type of a tensor, [B, N, C]",
        ("space s(image: 224) {", "block b(image: 224) {", "block b(x: C) {", 'block b(x: "a") {'),
    ),
    Mistake(
        "`let` needs a name and `=`",
        "write: let dim = C / heads",
        (
            "let x: 3",
            "let x == 3",
            "let x 3",
            "let 3 = x",
            "let x[0] = 3",
            "let x.y = 3",
            "let x += 1",
            "let x",
        ),
    ),
    Mistake(
        "the statements of a `for` stand in braces",
        "write: for i in 0..<depth { x = encoder(x) }",
        _inside("for i in a: x = 1", "for i in 0..3: x = 1", "for i in f(x) x = 1"),
    ),
    Mistake(
        "`for` needs names, `in` and a list",
        "write: for i in 0..<depth { x = encoder(x) }, or for i, n in enumerate(depths) { .. }",
        _inside(
            "for (i, j) in x {", "for i = 0", "for i of x {", "for i : x {", "for i {", "for {"
        ),
    ),
    Mistake(
        "the statements of a `when` stand in braces",
        "write: when s > 0 { x = merge(x) } else { x = embed(x) }",
        _inside("when a: x = 1", "when a == 1: x = 1", "when a { } else: x", "when a { } else x"),
    ),
    Mistake(
        "a further condition is written `else when`",
        "write: when s == 0 { .. } else when s < 3 { .. } else { .. }",
        _inside("when a { } else if b { }"),
    ),
    Mistake(
        "a condition over statements is written `when`",
        "write: when s > 0 { x = merge(x) }; `if` stands inside a value: 2 if large else 3",
        (*_inside("if a { }", "when a { if b { } }"), "if a { }"),
    ),
    Mistake(
        "`else` without its `when`",
        "write: when s > 0 { .. } else { .. }",
        _inside("else { }"),
    ),
    Mistake(
        "comparisons do not follow one another",
        "join them: 1 <= a and a <= 4, or test for a range: a in 1..4",
        ("let x = a < b < c", "let x = 1 <= a < 4", "let x = a == b == c", "let x = a in b in c"),
        anywhere=True,
    ),
    Mistake(
        "a list takes all: there is no filter",
        "write the condition into the value: [f(x) if c else g(x) for x in xs]",
        ("let x = [a for a in b if c]",),
        anywhere=True,
    ),
    Mistake(
        "`return` needs a value",
        "write: return x",
        _inside("return }", "when a { return }"),
    ),
    Mistake(
        "`output` needs a value",
        "write: output linear(x, classes) as head",
        _inside("output }"),
    ),
    Mistake(
        "`input` needs a name and a type",
        "write: input pixels: [B, 3, image, image]",
        _inside("input x }", "input x = 3", "input [B, 3]", "input x: 3", "input x: B"),
    ),
    Mistake(
        "a rule is written with `:`",
        "write: width: entangle",
        _inside(
            "weights { width = entangle }",
            "weights { a[0].b = entangle }",
            "names timm { a = b }",
            "names timm { a[i] = b }",
        ),
    ),
    Mistake(
        "a decision is taken with `=`",
        "write: subnet tiny of deit { width = 192 }",
        ("subnet a of b { width: 192 }", "subnet a of b { c[0].d: 192 }", "subnet a of b { c 1 }"),
    ),
    Mistake(
        "a setting is written with `=`",
        "write: search evolution { population = 50 }",
        _inside("search evolution { population: 50 }"),
    ),
    Mistake(
        "a pass is written with its options",
        "write: rewrite { multiplex(blocks, every: 2) }",
        _inside("rewrite { irpe }", "rewrite { irpe: 3 }", "rewrite { irpe = 3 }", "rewrite { a b"),
    ),
    Mistake(
        "a call alone is no statement",
        "give its value a name: x = linear(x, C), or `return` it, or make it an `output`",
        _inside("linear(x)", "x |> linear", "x.y(1)", "conv(x, 3) as c"),
    ),
    Mistake(
        "a part of a value cannot be changed",
        "an assignment makes a new value: x = concat([a, x[:, 1..]], axis: 1)",
        _inside("x[0] = 1"),
    ),
    Mistake(
        "a set has at least one element",
        "write: {192, 240}",
        ("let x = {}", "let x = f({})", "let x = f(choose {})"),
        anywhere=True,
    ),
    Mistake(
        "a file is used by its name",
        "write: use vit",
        ('use "vit"', 'use "lib/vit.space"', "use ./vit", "use {vit}"),
    ),
    Mistake(
        "`default` needs an op and its options",
        "write: default layer_norm(eps: 1e-6)",
        ("default linear", "default linear {", "default linear()", "default linear = 3"),
    ),
    Mistake(
        "`subnet` needs the space it belongs to",
        "write: subnet tiny of deit { width = 192 }",
        ("subnet a {", "subnet a = b", "subnet a from b", "subnet a(b)", "subnet a in b"),
    ),
    Mistake(
        "an instance has no body",
        "derive a space instead: space mine from deit(192) { .. }",
        ("space a = b {", "space a = b(c) {"),
    ),
    Mistake(
        "a space needs a body or a source",
        "write: space tiny = deit(192), or space mine(width) { .. }, or space mine from b { .. }",
        (
            "space a",
            "space a(b)",
            "space a(b) space",
            "space a: b",
            "space a of b",
            "space a from b",
        ),
    ),
    Mistake(
        "a block needs its parameters and a body",
        "write: block mlp(x: [.., C], hidden) -> [.., C] { .. }",
        (
            "block a {",
            "block a = b",
            "block a(x)",
            "block a(x) block",
            "block a(x) = b",
            "block a(x): b",
            "block a(x) return",
        ),
    ),
    Mistake(
        "a type stands in square brackets",
        "write: [B, N, C]",
        ("block a(x) -> C {", "block a(x) -> (B, C) {", "block a(x: (B, C)) {"),
    ),
    Mistake(
        "a label is a name",
        "write: linear(x, C) as fc1, or as blocks[i].fc1",
        ('let x = f(a) as "fc"', "let x = f(a) as 1", "let x = f(a) as (b)", "let x = f(a) as [b]"),
        anywhere=True,
    ),
    Mistake(
        "a region needs its names and a body",
        "write: cascade(parts, axis: 1) |i, part| { return head(part) }",
        (
            "let x = f(a) |b| c",
            "let x = f(a) |b| return",
            "let x = f(a) | b + c",
        ),
        anywhere=True,
    ),
)

# How each statement reads, by the terminal it begins with.
FORMS: Mapping[str, str] = {
    "USE": "use vit",
    "DEFAULT": "default layer_norm(eps: 1e-6)",
    "SPACE": "space deit(width, heads) { .. }, or space deit_ti = deit(192, heads: 3)",
    "SUBNET": "subnet tiny of deit { width = 192  depth = 12 }",
    "PROGRAM": "program pair { network a = big  network b = small  share stem }",
    "KIND": "block mlp(x: [.., C], hidden) -> [.., C] { .. }",
    "INPUT": "input pixels: [B, 3, image, image]",
    "OUTPUT": "output linear(x, classes) as head",
    "LET": "let dim = C / heads",
    "CHOOSE": "choose width in {192, 240}, or choose op { k3: conv(x, C, 3)  skip: x }",
    "FOR": "for i in 0..<depth { x = encoder(x) }",
    "WHEN": "when s > 0 { .. } else { .. }",
    "RETURN": "return x",
    "REQUIRE": "require macs in 4G..5G",
    "WEIGHTS": "weights { _: entangle  width: store(256) }",
    "REWRITE": 'rewrite { irpe(on: ["k"])  multiplex(blocks, every: 2) }',
    "NAMES": "names timm { layers[s].downsample: layers[s + 1].downsample }",
    "SEARCH": "search evolution { population = 50 }",
}
