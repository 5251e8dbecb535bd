"""What to say of a token that does not fit: by example, else by what could have come.

Each row of `MISTAKES` holds texts that make the mistake. Where a parse stops in the same state at
the same kind of token as one of them, the row speaks; so a grammar that changes takes the rows
along, and a test sees each of them speak.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from spacelang.diagnostics import Diagnostic, Report, Source, Span, error
from spacelang.grammars.loader import END, tables
from spacelang.syntax.machine import Machine
from spacelang.syntax.tokens import Token, scan


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

# Of what could come, these are said; operators could come nearly always.
STRUCTURE = (
    "=",
    ":",
    ",",
    ")",
    "]",
    "}",
    "{",
    "(",
    "[",
    "|",
    "->",
    "in",
    "of",
    "else",
    "from",
    "like",
)
STARTS_VALUE = frozenset({"NAME", "NUMBER", "STRING", "CHOOSE", "LSQB"})


# Of the words that begin a statement, those that people take for names.
NOUNS = FORMS.keys() - {"LET", "CHOOSE", "FOR", "WHEN", "RETURN", "REQUIRE"}

CONDITION = (
    "`if` inside a value needs its `else`",
    "write: 2 if large else 3; over statements: when large { .. }",
)


def describe(source: Source, machine: Machine, tokens: list[Token], position: int) -> Diagnostic:
    """The finding for the token at a position, at which the machine stopped."""
    token = tokens[position]
    expected = machine.expected()
    span = Span(source, token.start, token.end)
    if token.kind == END and position:
        span = Span(source, tokens[position - 1].start, tokens[position - 1].end)
    if word := _reserved(tokens, position, expected):
        span = Span(source, word.start, word.end)
        found = error("SP101", f"`{word.text}` is a reserved word", span, "cannot be a name")
        return found.hint(f"take another name, such as {word.text}_1")
    stop = _stop(machine, token)
    known = _known().get(stop) or _known().get((*stop[:2], ANYWHERE))
    if known:
        return error("SP101", known.headline, span, f"{_shown(token)} here").hint(known.help)
    condition = _last(machine, "IF")
    if condition and "ELSE" in expected:
        found = error("SP101", CONDITION[0], span, "expected `else`").hint(CONDITION[1])
        return found.also(Span(source, condition.start, condition.end), "of this `if`")
    bracket = _last(machine, "LPAR", "LSQB", "LBRACE")
    if bracket and "COMMA" in expected and token.kind in STARTS_VALUE:
        found = error("SP101", "a comma is missing", span, "expected `,` before this")
        return found.also(Span(source, bracket.start, bracket.end), "between the parts of this")
    found = error("SP101", f"expected {_wanted(expected)}, found {_shown(token)}", span)
    if statement := _last(machine, *FORMS):
        form = FORMS[statement.kind]
        found = found.also(
            Span(source, statement.start, statement.end), f"in this `{statement.text}`"
        )
        found = found.hint(f"the statement reads: {form}")
    return found


def _shown(token: Token) -> str:
    return "the end of the text" if token.kind == END else f"`{token.text}`"


def _reserved(tokens: list[Token], position: int, expected: set[str]) -> Token | None:
    """The reserved word, here or before, that was meant as a name."""
    token = tokens[position]
    if token.kind == "EQUAL" and position and tokens[position - 1].kind in NOUNS:
        return tokens[position - 1]
    if not token.text.isalpha() or token.kind in ("NAME", "WORD", END):
        return None
    if "NAME" not in expected or expected & {"LET", "PLUS"}:
        return None
    is_name = "NUMBER" not in expected or tokens[position + 1].kind in ("COLON", "EQUAL")
    return token if is_name else None


def _last(machine: Machine, *kinds: str) -> Token | None:
    """The last token of some kinds that belongs to the statement under way."""
    for state, value in zip(reversed(machine.states[:-1]), reversed(machine.values), strict=True):
        if isinstance(value, Token) and value.kind in kinds:
            return value
        if machine.begins_statement(state):
            return None
    return None


def _wanted(expected: set[str]) -> str:
    """What could come, in words."""
    literals = tables("space").literals
    wanted = ["a statement"] * ("LET" in expected)
    if "NUMBER" in expected:
        wanted.append("a value")
    elif expected & {"NAME", "WORD"} and "LET" not in expected:
        wanted.append("a name")
    wanted += [f"`{text}`" for text in STRUCTURE if literals[text] in expected]
    if "NUMBER" in expected:
        wanted = [text for text in wanted if text not in ("`(`", "`[`", "`{`")]
    if "PLUS" in expected:
        wanted = [text for text in wanted if text not in ("`(`", "`[`", "`|`", "`in`")]
    if END in expected and "LET" not in expected:
        wanted.append("the end of the text")
    if not wanted:
        wanted = sorted(f"`{text}`" for text, kind in literals.items() if kind in expected)
    return " or ".join([", ".join(wanted[:-1]), wanted[-1]] if len(wanted) > 1 else wanted)


# The state of the machine, the kind of token, and the statement under way.
_Stop = tuple[int, str, str]
ANYWHERE = "*"


def _stop(machine: Machine, token: Token) -> _Stop:
    statement = _last(machine, *FORMS)
    return machine.states[-1], token.kind, statement.kind if statement else ""


@cache
def _known() -> Mapping[_Stop, Mistake]:
    """The rows by where their examples stop."""
    grammar = tables("space")
    rows: dict[_Stop, Mistake] = {}
    for mistake in MISTAKES:
        for example in mistake.examples:
            # An example may leave brackets open; only the parse is asked.
            tokens = scan(Source("", example), grammar, Report()).tokens
            machine = Machine(grammar, _nothing)
            position = machine.run(tokens)
            state, kind, statement = _stop(machine, tokens[position])
            rows.setdefault((state, kind, ANYWHERE if mistake.anywhere else statement), mistake)
    return rows


def _nothing(rule: str, children: list[Any], start: int, end: int) -> None:
    """Builds no tree."""
