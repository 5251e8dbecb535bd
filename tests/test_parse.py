"""The text side of the front end: tables, tokens, trees, places, limits, and what errors say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from counting import calls_at_most
from hypothesis import given
from hypothesis import strategies as st

from spacelang.diagnostics import CODES, Diagnostic, Report, Source, SpaceError
from spacelang.grammars import build, loader
from spacelang.syntax import tree
from spacelang.syntax.build import number
from spacelang.syntax.machine import HEIGHT, Machine
from spacelang.syntax.mistakes import MISTAKES, Mistake
from spacelang.syntax.parse import expression, parse
from spacelang.syntax.tokens import BRACKETS, TOKENS, scan
from spacelang.syntax.tree import (
    Argument,
    Binary,
    CallOf,
    ChooseHere,
    ChoosePath,
    Draw,
    Each,
    Either,
    Field,
    Full,
    Hop,
    Item,
    Labelled,
    Leading,
    List,
    Name,
    Number,
    Option,
    Pipe,
    Range,
    Rest,
    Set,
    String,
    Unary,
)
from spacelang.syntax.tree import (
    Path as TreePath,
)

SPACES = sorted((Path(__file__).parent.parent / "spaces").rglob("*.space"))
shipped = pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)


def file(text: str) -> tree.File:
    return parse(Source("test.space", text))


def expr(text: str) -> tree.Expr:
    return expression(Source("test", text))


def errors(text: str, parser: Callable[[Source], object] = parse) -> tuple[Diagnostic, ...]:
    with pytest.raises(SpaceError) as caught:
        parser(Source("test.space", text))
    assert all(found.code in CODES for found in caught.value.diagnostics)
    return caught.value.diagnostics


def nodes(value: Any) -> Iterator[tree.Tree]:
    """Every node below and with a value."""
    if isinstance(value, tuple):
        for child in value:
            yield from nodes(child)
    elif isinstance(value, tree.Tree):
        yield value
        yield from nodes(value.children())


n = Name


def num(value: int) -> Number:
    return Number(Fraction(value))


def call(name: str, *arguments: Any) -> CallOf:
    return CallOf(n(name), tuple(Argument(None, a) for a in arguments))


# The grammar and its tables.
def test_stored_tables_are_those_of_the_grammar() -> None:
    stored = json.loads(Path(loader.__file__).with_name("space.json").read_text("utf-8"))
    assert stored == build.build("space"), "python -m spacelang.grammars.build"


def test_tables_do_not_hang_on_the_order_of_sets(fresh_python: Callable[..., str]) -> None:
    code = (
        "import json\nfrom spacelang.grammars.build import build\nprint(json.dumps(build('space')))"
    )
    assert json.loads(fresh_python("-c", code)) == build.build("space")


def test_a_changed_grammar_is_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    text = loader.grammar("space").replace('"space" NAME', '"network" NAME')
    monkeypatch.setattr(loader, "grammar", lambda name: text)
    monkeypatch.setattr(build, "grammar", lambda name: text)
    assert "network" in loader.tables.__wrapped__("space").literals


def test_the_grammar_is_strict_lalr() -> None:
    from lark import Lark

    pytest.importorskip("interegular")
    strict = Lark(loader.grammar("space"), parser="lalr", strict=True, start=["start", "expr"])
    assert strict.rules


def test_parsing_imports_no_parser_generator(fresh_python: Callable[..., str]) -> None:
    code = (
        "import sys\nfrom spacelang.syntax.parse import parse\n"
        "from spacelang.diagnostics import Source\n"
        "parse(Source('a', open('spaces/autoformer.space').read()))\n"
        "print([m for m in ('lark', 'torch', 'numpy', 'networkx') if m in sys.modules])"
    )
    assert fresh_python("-c", code).strip() == "[]"


@shipped
def test_the_machine_agrees_with_lark(path: Path) -> None:
    """The same tokens and the same tree as lark's own lexer, parser and tree builder."""
    from lark import Lark, Token, Tree

    text = path.read_text("utf-8")
    parser = Lark(loader.grammar("space"), parser="lalr", maybe_placeholders=True)
    tables = loader.tables("space")
    tokens = scan(Source("x", text), tables, Report()).tokens
    assert [(t.kind, t.text) for t in tokens[:-1]] == [
        (t.type, str(t)) for t in parser.parse_interactive(text).iter_parse()
    ]

    def plain(value: object) -> object:
        if isinstance(value, Tree):
            return (value.data, [plain(child) for child in value.children])
        return (value.type, str(value)) if isinstance(value, Token) else value

    def made(rule: str, children: list[Any], start: int, end: int) -> object:
        return (rule, [(c.kind, c.text) if hasattr(c, "kind") else c for c in children])

    machine = Machine(tables, made)
    assert machine.run(tokens) == len(tokens)
    assert machine.values[0] == plain(parser.parse(text))


# Trees.
EXPRESSIONS: dict[str, tree.Expr] = {
    "a.b[0].c": Field(Item(Field(n("a"), "b"), (num(0),)), "c"),
    "x[:, 1.., .., 0..<h]": Item(
        n("x"), (Full(), Rest(num(1)), Leading(), Range(num(0), n("h"), open=True))
    ),
    "1 + 2 * 3 - a": Binary("-", Binary("+", num(1), Binary("*", num(2), num(3))), n("a")),
    "a // b % c": Binary("%", Binary("//", n("a"), n("b")), n("c")),
    "-a * b": Binary("*", Unary("-", n("a")), n("b")),
    "not a and b or c": Binary("or", Binary("and", Unary("not", n("a")), n("b")), n("c")),
    "a not in {1, 2,}": Binary("not in", n("a"), Set((num(1), num(2)))),
    "not a in b": Unary("not", Binary("in", n("a"), n("b"))),
    "a == b + 1": Binary("==", n("a"), Binary("+", n("b"), num(1))),
    "a if b else c if d else e": Either(n("a"), n("b"), Either(n("c"), n("d"), n("e"))),
    "1..8 by 0.5": Range(num(1), num(8), Number(Fraction(1, 2))),
    "0..<2 * d by 2": Range(num(0), Binary("*", num(2), n("d")), num(2), open=True),
    "x |> f(1) as g |> h": Pipe(
        Pipe(n("x"), Labelled(call("f", num(1)), TreePath((Hop("g"),)))), n("h")
    ),
    "a + b as c": Binary("+", n("a"), Labelled(n("b"), TreePath((Hop("c"),)))),
    "x as p[s + 1].block[i][j]": Labelled(
        n("x"),
        TreePath((Hop("p", (Binary("+", n("s"), num(1)),)), Hop("block", (n("i"), n("j"))))),
    ),
    "f(a, in_: 1,)": CallOf(n("f"), (Argument(None, n("a")), Argument("in_", num(1)))),
    "[]": List(()),
    "[f(x) for x in xs]": Each(call("f", n("x")), ("x",), n("xs")),
    "choose {3, 4}": ChooseHere((num(3), num(4))),
    "choose op[n] { a: 1 b: x }": ChoosePath(
        tree.Path((Hop("op", (n("n"),)),)), (Option("a", num(1)), Option("b", n("x")))
    ),
    "choose a.op { b { return x } }": ChoosePath(
        tree.Path((Hop("a"), Hop("op"))), (Option("b", tree.Body((tree.Return(n("x")),))),)
    ),
    '"b c"': String("b c"),
    "1.3G": Number(Fraction(1_300_000_000)),
    "(a + b) * c": Binary("*", Binary("+", n("a"), n("b")), n("c")),
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expressions(text: str) -> None:
    assert expr(text) == EXPRESSIONS[text]


STATEMENTS: dict[str, Any] = {
    "use vit.block": tree.Use(("vit", "block")),
    "default conv(init: fan_out)": tree.Default("conv", (Argument("init", n("fan_out")),)),
    "let a, b = c": tree.Let(("a", "b"), n("c")),
    "space a = b": tree.Instance("a", (), tree.SourceOf("b")),
    "space a(c) = b()": tree.Instance("a", (tree.Param("c"),), tree.SourceOf("b", ())),
    "subnet a of b like c": tree.Subnet("a", tree.SourceOf("b"), "c", ()),
    "subnet a of b(1) { x[_] = 2 }": tree.Subnet(
        "a",
        tree.SourceOf("b", (Argument(None, num(1)),)),
        None,
        (tree.DecisionOf(TreePath((Hop("x", (n("_"),)),)), num(2)),),
    ),
    "cell c(x: [.., C], y = 1) -> [C] { return x }": tree.BlockOf(
        "cell",
        "c",
        (
            tree.Param("x", tree.TypeOf((Leading(), n("C")))),
            tree.Param("y", None, num(1)),
        ),
        tree.TypeOf((n("C"),)),
        tree.Body((tree.Return(n("x")),)),
    ),
}
INSIDE: dict[str, Any] = {
    "input x: [B, t] in 0..<v": tree.Input(
        "x", tree.TypeOf((n("B"), n("t"))), Range(num(0), n("v"), open=True)
    ),
    "output near: x": tree.Output("near", n("x")),
    "output x": tree.Output(None, n("x")),
    "a, b = b, a": tree.Assign(("a", "b"), (n("b"), n("a"))),
    "choose w[s] in ws within 1..2": tree.Choose(
        tree.Path((Hop("w", (n("s"),)),)), n("ws"), Range(num(1), num(2))
    ),
    "choose i in 2 of states": tree.Choose(tree.Path((Hop("i"),)), Draw(num(2), n("states"))),
    "for i, m in e { }": tree.For(("i", "m"), n("e"), tree.Body(())),
    "when a { } else when b { } else { }": tree.When(
        n("a"), tree.Body(()), tree.When(n("b"), tree.Body(()), tree.Body(()))
    ),
    "require a in b": tree.Require(Binary("in", n("a"), n("b"))),
    "weights { _: entangle w.x: s(1) }": tree.Weights(
        (
            tree.Rule(TreePath((Hop("_"),)), n("entangle")),
            tree.Rule(TreePath((Hop("w"), Hop("x"))), call("s", num(1))),
        )
    ),
    "rewrite { a() b(c) }": tree.Rewrite(
        (tree.Step("a", ()), tree.Step("b", (Argument(None, n("c")),)))
    ),
    "names t { a: b.in in order(c) d: e }": tree.Names(
        "t",
        (
            tree.Rename(
                TreePath((Hop("a"),)), TreePath((Hop("b"), Hop("in"))), call("order", n("c"))
            ),
            tree.Rename(TreePath((Hop("d"),)), TreePath((Hop("e"),))),
        ),
    ),
    "search e { a = 1 b = c }": tree.Search(
        "e", (tree.Setting("a", num(1)), tree.Setting("b", n("c")))
    ),
    "y = total(xs) |x, i| { return x }": tree.Assign(
        ("y",),
        (
            CallOf(
                n("total"),
                (Argument(None, n("xs")),),
                tree.Region(("x", "i"), tree.Body((tree.Return(n("x")),))),
            ),
        ),
    ),
}


@pytest.mark.parametrize("text", STATEMENTS)
def test_declarations(text: str) -> None:
    assert file(text).items == (STATEMENTS[text],)


@pytest.mark.parametrize("text", [*STATEMENTS, *INSIDE])
def test_statements(text: str) -> None:
    (space,) = file(f"space s {{ {text} }}").items
    assert isinstance(space, tree.SpaceOf)
    assert space.body.statements == ((STATEMENTS | INSIDE)[text],)


def test_a_derived_space() -> None:
    (space,) = file("space a(b = 1) from c(2) { }").items
    base = tree.SourceOf("c", (Argument(None, num(2)),))
    assert space == tree.SpaceOf("a", (tree.Param("b", None, num(1)),), base, tree.Body(()))


@pytest.mark.parametrize(
    "text", ["", " \n", "# only a comment", "\ufefflet a = 1", "let a = 1\r\n"]
)
def test_small_files(text: str) -> None:
    assert len(file(text).items) == text.count("let")


def test_comments_are_kept_by_place() -> None:
    text = "# one\nlet a = 1 # two\r\n#three"
    assert [c.text for c in file(text).comments] == ["# one", "# two", "#three"]


# Places.
@shipped
def test_every_node_has_its_place(path: Path) -> None:
    source = Source(str(path), path.read_text("utf-8"))
    parsed = parse(source)
    for node in nodes(parsed):
        span = node.span
        assert span.source == source
        assert 0 <= span.start <= span.end <= len(source.text)
        assert span.text == span.text.strip() or node is parsed
        if isinstance(node, Number):
            assert node.text == span.text
        if isinstance(node, Name):
            assert node.name == span.text
        if isinstance(node, Hop | Option | tree.Param | tree.Setting):
            assert span.text.startswith(node.name)
        for child in nodes(node.children()):
            assert span.start <= child.span.start <= child.span.end <= span.end


def test_parentheses_belong_to_what_is_around_them() -> None:
    product = expr(" (a + b) * c ")
    assert isinstance(product, Binary)
    assert product.span.text == "(a + b) * c"
    assert product.left.span.text == "a + b"


# Numbers.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", Fraction(0)),
        ("9223372036854775807", Fraction(2**63 - 1)),
        ("9223372036854775808", None),
        ("3.5", Fraction(7, 2)),
        ("1e-5", Fraction(1, 10**5)),
        ("1E+18", Fraction(10**18)),
        ("1e19", None),
        ("1e-19", None),
        ("1e999999999999", None),
        ("2.5G", Fraction(2_500_000_000)),
        ("9223372036854775K", Fraction(9223372036854775000)),
        ("9223372036854775.808K", None),
        ("0" * 50, None),
        ("0E50", Fraction(0)),
        ("0.0e-999", Fraction(0)),
    ],
)
def test_numbers_are_exact_within_63_bits(text: str, value: Fraction | None) -> None:
    assert number(text) == value


@given(st.from_regex(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3}|[KMG])?", fullmatch=True))
def test_numbers_against_python(text: str) -> None:
    suffix = {"K": "e3", "M": "e6", "G": "e9"}.get(text[-1], "")
    exact = Fraction(text.rstrip("KMG") + suffix)
    value = number(text)
    if value is None:
        assert max(exact.numerator, exact.denominator) >= 2**63 or len(text) > 40
    else:
        assert value == exact
        assert max(exact.numerator, exact.denominator) < 2**63


def test_a_number_out_of_range_is_shown() -> None:
    (found,) = errors("let a = 1 + 1e30")
    assert (found.code, found.primary.span.text) == ("SP103", "1e30")


# Errors.
HIDDEN = "a character that cannot be seen"
LETTER = "a letter that no name may have"


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.headline)
def test_each_example_of_a_mistake_is_recognised(mistake: Mistake) -> None:
    for text in mistake.examples:
        assert mistake.headline in [found.headline for found in errors(text)], text


def test_all_errors_of_a_text_at_once() -> None:
    text = """space a(b) {
  choose width {192, 240}
  let x = 1
  weights { width = entangle }
  when x { let in = 3  choose y in {1} }
  return linear(x, bias = false)
}
let z 3
block c(x) { x = 1 + ; return x }
block d(x) {
  y = f(x y)
  return y
}
let w = 1
"""
    found = errors(text)
    assert [(d.primary.span.position[0], d.code) for d in found] == [
        (line, "SP101") for line in (2, 4, 5, 6, 8, 9, 9, 11)
    ]
    assert [d.headline for d in found] == [
        "`choose` needs `in` before a set",
        "a rule is written with `:`",
        "`in` is a reserved word",
        "an option is written with `:`",
        "`let` needs a name and `=`",
        "`;` is no sign of the language",
        "expected a value, found `return`",
        "a comma is missing",
    ]


@pytest.mark.parametrize(
    ("text", "headline", "at"),
    [
        ("let block = 1", "`block` is a reserved word", "block"),
        ("let a = f(of: 1)", "`of` is a reserved word", "of"),
        ("let a = f(x) as in", "`in` is a reserved word", "in"),
        ("space s { input = 3 }", "`input` is a reserved word", "input"),
        ("let a = 'b'", 'a text stands between `"` signs', "'b'"),
        ('let a = "b\nlet c = 1', "a text without its end", '"b'),
        ("let a = 3x", "`3x` is neither a number nor a name", "3x"),
        ("let a = 1_000", "`1_000` is neither a number nor a name", "1_000"),
        ("let a = b ** 2", "`**` is no sign of the language", "**"),
        ("let a = b && c", "`&&` is no sign of the language", "&&"),
        ("let w\u03b1 = 1", f"{LETTER}: U+03B1, greek small letter alpha", "w\u03b1"),
        ("let a = 1 \u2212 2", "a character out of its place: U+2212, minus sign", "\u2212"),
        ("let a = 1 # \u2066", f"{HIDDEN}: U+2066, left-to-right isolate", "\u2066"),
        ("let a\x00= 1", f"{HIDDEN}: U+0000", "\x00"),
        ("let a = 1\rlet b = 2", f"{HIDDEN}: U+000D", "\r"),
        ("let a = (1", "nothing closes this `(`", "("),
        ("let a = [1)", "`[` is closed by `)`", ")"),
        ("let a = 1)", "this `)` closes nothing", ")"),
        ("space s { let a = f(1 }", "nothing closes this `(`", "("),
        ("space s {\n  block b(x) {\n    return x\n\n}\n", "nothing closes this `{`", "{"),
        ("let a = 1 if b", "`if` inside a value needs its `else`", "b"),
        ("space s { x = 1\n  if c { x = 2 } }", "`if` inside a value needs its `else`", "{"),
        ("let a =", "expected a value, found the end of the text", "="),
        ("x = 1", "expected a statement, found `x`", "x"),
        ("let a = b.3", "expected a name, found `3`", "3"),
    ],
)  # fmt: skip
def test_what_an_error_says(text: str, headline: str, at: str) -> None:
    found = errors(text)[0]
    assert (found.headline, found.primary.span.text) == (headline, at)
    assert found.code == "SP101"


def test_layout_tells_which_brace_is_open() -> None:
    (found,) = errors("space s {\n  block b(x) {\n    return x\n  let a = 1\n}\nlet c = 2\n")
    assert found.primary.span.position == (2, 14)


def test_expressions_alone() -> None:
    assert expr("params in 5M..6M and macs <= 1.3G") == Binary(
        "and",
        Binary("in", n("params"), Range(num(5_000_000), num(6_000_000))),
        Binary("<=", n("macs"), num(1_300_000_000)),
    )
    for text in ("", "a b", "a <", "let a = 1", "1 < 2 < 3", "("):
        errors(text, expression)


# Limits.
@pytest.mark.parametrize("pair", ["()", "[]", "{}"])
@pytest.mark.parametrize("count", [BRACKETS + 1, 1_000, 100_000, 500_000])
def test_deep_brackets_are_refused_at_once(pair: str, count: int) -> None:
    with calls_at_most(5_000):
        (found,) = errors(f"let a = {pair[0] * count}1{pair[1] * count}")
    assert found.code == "SP102"
    file(f"let a = {pair[0] * BRACKETS}1{pair[1] * BRACKETS}")


@pytest.mark.parametrize(
    "text",
    [
        "let a = " + "-" * 100_000 + "1",
        "let a = " + "not " * 100_000 + "b",
        "let a = " + " + ".join(["b"] * 70_000),
        "let a = b" + " |> c" * 70_000,
        "let a = b" + ".c" * 70_000,
        "let a = " + "1 if b else " * 30_000 + "2",
        "space s { " + "when a { } else " * 30_000 + "{ } }",
        "space s { " + "when a { " * 1_000 + "} " * 1_000 + "}",
        "let a = 1\n" * 60_000,
        "let a = 1 #" + "a" * (1 << 20),
        "let a = [" + "1, " * 120_000 + "]",
        "# \u00e4" * (1 << 18) + " ",
    ],
    ids=range(12),
)  # fmt: skip
def test_bombs_are_refused(text: str) -> None:
    assert errors(text)[-1].code == "SP102"


@pytest.mark.parametrize(
    "text",
    [
        "let a = " + " + ".join(["b"] * (HEIGHT - 5)),
        "let a = " + "-" * (HEIGHT - 5) + "1",
        "let a = [" + "1, " * (TOKENS // 2 - 10) + "]",
        "let a = b\n" * (TOKENS // 4 - 1),
        "#" * (1 << 20),
        "#\n" * (1 << 19),
        "let " + "a" * 1_000_000 + " = 1",
    ],
    ids=range(7),
)
def test_large_texts_are_read(text: str) -> None:
    assert file(text)


def test_lines_take_a_bounded_number_of_calls_each() -> None:
    line = "  x = linear(x, width * ratio) as fc1 |> gelu |> linear(width) as fc2\n"
    for count in (100, 500):
        with calls_at_most(2_500 * count):
            file("space a {\n" + line * count + "}\n")


@pytest.mark.parametrize("text", [")" * 500_000, "$ " * 400_000, "let a 3\n" * 30_000, "{ " * 64])
def test_many_errors_are_cut_off(text: str) -> None:
    assert 1 <= len(errors(text)) <= Report.LIMIT


def test_the_highest_tree_can_be_compared_and_shown() -> None:
    text = "let a = " + "-" * (HEIGHT - 5) + "1"
    assert file(text) == file(text)
    assert hash(file(text).items) == hash(file(text).items)
    assert repr(file(text))
