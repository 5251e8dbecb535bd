"""The formatter: nothing but the layout changes, once is enough, and the layout is this one."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacelang.diagnostics import Report, Source
from spacelang.grammars.loader import tables
from spacelang.syntax import tree
from spacelang.syntax.format import WIDTH, format
from spacelang.syntax.layout import Align, Break, Choice, Fill, Noted, concat, render
from spacelang.syntax.parse import parse
from spacelang.syntax.phrase import spell
from spacelang.syntax.tokens import scan

SPACES = sorted((Path(__file__).parent.parent / "spaces").rglob("*.space"))
RESERVED = frozenset(word for word in tables("space").literals if word.isalpha())


def file(text: str) -> tree.File:
    return parse(Source("test.space", text))


def formatted(text: str) -> str:
    return format(file(text))


def check(text: str) -> str:
    """Format a text, with all that must hold of the result."""
    before = file(text)
    result = format(before)
    after = file(result)
    assert after == before
    assert format(after) == result
    assert sorted(c.text.strip() for c in after.comments) == sorted(
        c.text.strip() for c in before.comments
    )
    return result


# Layout.
SAME = (
    # Braces stay on one line if they were and fit, and open if they were.
    "block b(x) { return x }\n",
    "block b(x) {\n  return x\n}\n",
    "space a(b = 1) = c(2, d: 3)\n",
    "subnet a of b like c\n",
    "space a from b(1) { rewrite { c()  d(e, f: 2) } }\n",
    # At most one empty line, none at the edges of braces.
    "let a = 1\n\nlet b = 2\nlet c = 3\n",
    # Comments: of their own, after a statement in one column, after an opening brace, last.
    "# first\n\nlet a = 1   # one\nlet bb = 2  # two\n# last\n",
    "space a {  # why\n  let b = 1\n  # end\n}\n",
    "block b(x) {\n  # nothing yet\n  return x\n}\n",
    # Rows of entries are the author's.
    "space s {\n  weights {\n    a: entangle  b: entangle\n    c: separate\n  }\n}\n",
    # Alternatives are aligned.
    "block b(x) {\n  return choose op {\n    k3:   conv(x, C, 3)\n    skip: x\n  }\n}\n",
    # Conditions: on one line, a line for each, or open.
    "block b(x) {\n  when a { return x } else { return y }\n}\n",
    "block b(x) {\n  when a { return x }\n  else { return y }\n}\n",
    "block b(x) {\n  when a {\n    return x\n  } else when b {\n    return y\n  } else {\n"
    "    return z\n  }\n}\n",
    # Regions.
    "block b(xs) {\n  y = total(xs) |x, i| {\n    z = f(x)\n    return z\n  }\n  return y\n}\n",
    "block b(xs) { return total(xs) |x| { return f(x) } |> g }\n",
)


@pytest.mark.parametrize("text", SAME)
def test_canonical_texts_stay(text: str) -> None:
    assert check(text) == text


CHANGED = {
    "let a=1": "let a = 1\n",
    "\n\n\nlet a = 1\n\n\n\nlet b = 2": "let a = 1\n\nlet b = 2\n",
    "let a = ((1)+(2*3))": "let a = 1 + 2 * 3\n",
    "let a = (1+2)*3 - (4 - 5)": "let a = (1 + 2) * 3 - (4 - 5)\n",
    "let a = -(b+c) .. (d if e else f)": "let a = -(b + c)..(d if e else f)\n",
    "let a = (not b) == c": "let a = (not b) == c\n",
    "let a = not (b == c)": "let a = not b == c\n",
    "let a = (b or c) and d": "let a = (b or c) and d\n",
    "let a = (x |> f) |> g + (y |> h)": "let a = x |> f |> g + (y |> h)\n",
    "let a = (x + h) as mid": "let a = (x + h) as mid\n",
    "let a = (f(x) as b).c": "let a = (f(x) as b).c\n",
    "let a = x[ : , 1 .. , .. ,0 ..< h]": "let a = x[:, 1.., .., 0..<h]\n",
    "let a = f( b , c : 1 , )": "let a = f(b, c: 1)\n",
    "let a = choose {1,2,}": "let a = choose {1, 2}\n",
    "let a = [f(x)for x in xs]": "let a = [f(x) for x in xs]\n",
    "block b(x:[..,C],y=1)->[C]{return x}": "block b(x: [.., C], y = 1) -> [C] { return x }\n",
    "subnet a of b { }": "subnet a of b\n",
    "subnet a of b {c=1 d[_]=[1]}": "subnet a of b { c = 1  d[_] = [1] }\n",
    "subnet a of b {c=1\n d=2 e=3}": "subnet a of b {\n  c = 1\n  d = 2  e = 3\n}\n",
    "let a = f(b, # why\n  c) # that": "# why\nlet a = f(b, c)  # that\n",
    "let a = 1 # b\r\n": "let a = 1  # b\n",
    "space s { weights { # c {\n } }": "space s {\n  weights {  # c {\n  }\n}\n",
    "space s { search e # {\n { a = 1 } }": "space s {\n  # {\n  search e { a = 1 }\n}\n",
}


@pytest.mark.parametrize("text", CHANGED)
def test_other_texts_become_canonical(text: str) -> None:
    assert check(text) == CHANGED[text]


def test_the_columns_of_same_have_two_spaces() -> None:
    assert check("let a = 1 # one\nlet bb = 2 # two\n") == "let a = 1   # one\nlet bb = 2  # two\n"


def test_long_lines_are_broken() -> None:
    name = "long_name_of_a_value"
    text = (
        f"block b(x) {{ y = {' |> '.join([f'{name}(1)'] * 6)} "
        f"return x * ({' + '.join([name] * 9)}) }}\n"
        f"let a = {name}([{', '.join([name] * 9)}], option: {name})\n"
        f"space s(width, heads) from {name}({', '.join(f'{name}{i}: 1' for i in range(6))}) {{ }}\n"
        f"let c = 1  # {'long comment ' * 9}\n"
    )
    assert check(text) == (
        "block b(x) {\n"
        f"  y = {name}(1) |> {name}(1) |> {name}(1) |> {name}(1)\n"
        f"   |> {name}(1) |> {name}(1)\n"
        f"  return x * ({name} + {name} + {name} + {name}\n"
        f"              + {name} + {name} + {name} + {name}\n"
        f"              + {name})\n"
        "}\n"
        f"let a = {name}([{name}, {name}, {name}, {name},\n"
        f"                              {name}, {name}, {name}, {name},\n"
        f"                              {name}], option: {name})\n"
        "space s(width, heads)\n"
        f"    from {name}({name}0: 1, {name}1: 1, {name}2: 1,\n"
        f"                              {name}3: 1, {name}4: 1, {name}5: 1) {{}}\n"
        f"# {('long comment ' * 9).strip()}\n"
        "let c = 1\n"
    )


def test_the_author_divides_a_chain_that_does_not_fit() -> None:
    stage = "conv(x, channels, 3, stride: 2) as some_label"
    text = (
        f"block b(x) {{\n  return {stage} |> relu\n      |> {stage} |> relu\n      |> {stage}\n}}\n"
    )
    assert check(text) == text
    joined = "block b(x) {\n  return a(x)\n      |> b\n}\n"
    assert check(joined) == "block b(x) {\n  return a(x) |> b\n}\n"


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_shipped_files_are_canonical(path: Path) -> None:
    text = path.read_text("utf-8")
    assert check(text) == text
    assert all(len(line) <= WIDTH for line in text.splitlines())


# Any layout, any tree.
@pytest.mark.parametrize("seed", range(40))
def test_any_layout_of_a_text_gives_its_tree(seed: int) -> None:
    """Shipped files with line ends, comments and spaces strewn in."""
    source = random.Random(seed)
    text = source.choice(SPACES).read_text("utf-8")
    often, comments = source.choice([0.02, 0.1, 0.3]), source.choice([0, 0.01, 0.05])
    parts: list[str] = []
    last = 0
    for token in scan(Source("x", text), tables("space"), Report()).tokens:
        gap, last = text[last : token.start], token.end
        if source.random() < often:
            gap += source.choice(["\n", "\n\n", "\n  ", "\n\n\n"])
        elif source.random() < often and "#" not in gap:
            gap = " "
        if source.random() < comments:
            gap += f" # c{len(parts)} {{ }} \n"
        parts.append(gap + token.text)
    check("".join(parts))


names = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True).filter(lambda n: n not in RESERVED)
numbers = st.one_of(
    st.integers(0, 10**6).map(Fraction),
    st.tuples(st.integers(0, 10**6), st.integers(0, 6)).map(lambda p: Fraction(p[0], 10 ** p[1])),
)


def _tuple(strategy: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[Any]:
    return st.lists(strategy, min_size=least, max_size=3).map(tuple)


hops = st.builds(tree.Hop, names, _tuple(st.builds(tree.Name, names)))
paths = st.builds(tree.Path, _tuple(hops, 1))
atoms = st.one_of(
    st.builds(tree.Number, numbers),
    st.builds(tree.Name, names),
    st.builds(tree.String, st.from_regex(r"[a-z #{}|>-]{0,8}", fullmatch=True)),
)


def _larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    index = st.one_of(
        inner, st.builds(tree.Full), st.builds(tree.Rest, inner), st.builds(tree.Leading)
    )
    argument = st.builds(tree.Argument, st.none() | names, inner)
    body = st.builds(tree.Body, _tuple(st.builds(tree.Return, inner), 1))
    region = st.builds(tree.Region, _tuple(names, 1), body)
    operators = ["+", "-", "*", "/", "//", "%", "and", "or", "in", "not in", "==", "<", ">="]
    return st.one_of(
        st.builds(tree.Unary, st.sampled_from(["-", "not"]), inner),
        st.builds(tree.Binary, st.sampled_from(operators), inner, inner),
        st.builds(tree.Either, inner, inner, inner),
        st.builds(tree.Pipe, inner, inner),
        st.builds(tree.Range, inner, inner, st.none() | inner, st.booleans()),
        st.builds(tree.Labelled, inner, paths),
        st.builds(tree.Item, inner, _tuple(index, 1)),
        st.builds(tree.Field, inner, names | st.sampled_from(["in", "block"])),
        st.builds(tree.CallOf, inner, _tuple(argument), st.none() | region),
        st.builds(tree.List, _tuple(inner)),
        st.builds(tree.Each, inner, _tuple(names, 1), inner),
        st.builds(tree.Set, _tuple(inner, 1)),
        st.builds(tree.ChoosePath, paths, _tuple(st.builds(tree.Option, names, inner | body), 1)),
        st.builds(tree.ChooseHere, _tuple(inner, 1)),
    )


expressions = st.recursive(atoms, _larger, max_leaves=12)


@settings(max_examples=300)
@given(expressions)
def test_any_expression_without_a_text_is_read_back(value: Any) -> None:
    made = tree.File((tree.Let(("x",), value),))
    text = format(made)
    assert parse(Source("made", text)) == made
    assert format(parse(Source("made", text))) == text


def test_a_file_without_a_text() -> None:
    body = tree.Body((tree.Input("x", tree.TypeOf((tree.Name("B"),))),))
    made = tree.File(
        (
            tree.Use(("vit",)),
            tree.SpaceOf("a", (), None, body),
            tree.Subnet(
                "b",
                tree.SourceOf("a"),
                None,
                (tree.DecisionOf(tree.Path((tree.Hop("c"),)), tree.Number(Fraction(7, 2))),),
            ),
        )
    )
    text = format(made)
    assert text == "use vit\nspace a {\n  input x: [B]\n}\nsubnet b of a {\n  c = 3.5\n}\n"
    assert parse(Source("made", text)) == made


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(3), "3"),
        (Fraction(-7, 2), "-3.5"),
        (Fraction(1, 3), "1 / 3"),
        (Fraction(1, 1000), "0.001"),
    ],
)
def test_numbers_are_spelled_exactly(value: Fraction, text: str) -> None:
    assert spell(value) == text


def test_a_text_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(ValueError, match='no `"`'):
        format(tree.File((tree.Let(("x",), tree.String('a"b')),)))


# The layout engine.
def lines(doc: Any, width: int) -> list[str]:
    return [f"{line.text}  {line.remark}".rstrip() for line in render(doc, width)]


def test_fill_breaks_where_the_next_part_does_not_fit() -> None:
    doc = concat("f(", Align(Fill(("aaa,", "bbb,", "ccc"))), ") {")
    assert lines(doc, 20) == ["f(aaa, bbb, ccc) {"]
    assert lines(doc, 17) == ["f(aaa, bbb,", "  ccc) {"]
    assert lines(doc, 8) == ["f(aaa,", "  bbb,", "  ccc) {"]


def test_choice_takes_the_first_form_of_which_every_line_fits() -> None:
    doc = concat(Choice((concat("aaaa", Break(0), "bbbbbb"), "c")), "d")
    assert lines(doc, 7) == ["aaaa", "bbbbbbd"]
    assert lines(doc, 6) == ["cd"]


def test_a_remark_without_room_goes_before() -> None:
    doc = Noted(Fill(("aaaa", "bbbb")), "# why")
    assert lines(doc, 16) == ["aaaa bbbb  # why"]
    assert lines(doc, 15) == ["# why", "aaaa bbbb"]
