"""Diagnostics as drawings and as data; nothing of a text reaches the screen raw."""

from __future__ import annotations

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from spacelang.diagnostics import Diagnostic, Source, SpaceError, Span, error, warning
from spacelang.render import MESSAGE, WIDTH, as_json, text, visible

SPACE = Source(
    "autoformer.space",
    "space a {\n"
    "  let head = 64\n"
    "  let a = 1\n"
    "  let b = 2\n"
    "  x = x + drop_path(linear(a, heads * head))\n"
    "}\n",
)


def span(source: Source, part: str) -> Span:
    start = source.text.index(part)
    return Span(source, start, start + len(part))


def drawn(*found: Diagnostic) -> str:
    return "\n" + text(found) + "\n"


def test_the_whole_form() -> None:
    found = (
        error("SP304", "these two sizes must be equal", span(SPACE, "+"), "left is [B, width]")
        .also(span(SPACE, "head"), "from here")
        .note("width takes 192, 216", "first disagreement:\nwidth = 192")
        .hint("project back:\nlinear(a, width)")
    )
    assert (
        drawn(found)
        == """
error[SP304]: these two sizes must be equal
 --> autoformer.space:5:9
  |
2 |   let head = 64
  |       ---- from here
...
5 |   x = x + drop_path(linear(a, heads * head))
  |         ^ left is [B, width]
  |
  = width takes 192, 216
  = first disagreement:
    width = 192
help: project back:
      linear(a, width)
"""
    )


def test_lines_that_lie_close_are_shown_whole() -> None:
    found = error("SP202", "twice", span(SPACE, "let b"), "again").also(
        span(SPACE, "head"), "first"
    )
    assert (
        drawn(found)
        == """
error[SP202]: twice
 --> autoformer.space:4:3
  |
2 |   let head = 64
  |       ---- first
3 |   let a = 1
4 |   let b = 2
  |   ^^^^^ again
"""
    )


def test_several_places_of_one_line() -> None:
    found = error("SP304", "differ", span(SPACE, "linear"), "this").also(
        span(SPACE, "heads"), "that"
    )
    assert (
        drawn(found)
        == """
error[SP304]: differ
 --> autoformer.space:5:21
  |
5 |   x = x + drop_path(linear(a, heads * head))
  |                     ^^^^^^ this
  |                               ----- that
"""
    )


def test_places_in_another_file() -> None:
    library = Source("lib/vit.space", "\n" * 11 + "block mlp(x) { return x }\n")
    found = error("SP202", "mlp has two owners", span(SPACE, "space"), "here")
    assert (
        drawn(found.also(span(library, "mlp"), "and here").hint("write vit.mlp"))
        == """
error[SP202]: mlp has two owners
  --> autoformer.space:1:1
   |
 1 | space a {
   | ^^^^^ here
  ::: lib/vit.space:12:7
   |
12 | block mlp(x) { return x }
   |       --- and here
   |
help: write vit.mlp
"""
    )


def test_findings_without_a_place() -> None:
    assert (
        drawn(error("SP604", "no engine is called x").hint("try y"))
        == """
error[SP604]: no engine is called x
help: try y
"""
    )
    missing = Span(Source("a.space", ""), 0, 0)
    assert (
        drawn(error("SP104", "the file cannot be read", missing).note("no such file"))
        == """
error[SP104]: the file cannot be read
 --> a.space
  = no such file
"""
    )


def test_warnings_and_several_findings() -> None:
    first = warning("SP510", "a decision that nothing reads", span(SPACE, "let b"))
    second = error("SP201", "nothing is called b")
    assert (
        drawn(first, second)
        == """
warning[SP510]: a decision that nothing reads
 --> autoformer.space:4:3
  |
4 |   let b = 2
  |   ^^^^^

error[SP201]: nothing is called b
"""
    )
    assert str(SpaceError([first, second])) == text([first, second])


def test_a_place_over_several_lines_is_marked_on_its_first() -> None:
    found = error("SP503", "dead", Span(SPACE, 12, 30), "from here on")
    assert "2 |   let head = 64\n  |   ^^^^^^^^^^^^^ from here on" in text([found])


def test_the_end_of_a_text() -> None:
    end = Span(SPACE, len(SPACE.text), len(SPACE.text))
    assert "7 |\n  | ^ here" in text([error("SP101", "unfinished", end, "here")])


def test_columns_count_characters_and_marks_stand_below() -> None:
    source = Source("t", "\tlet a\t= \u4e2d\u0301 + b")
    found = error("SP201", "b", span(source, "b"), "here")
    assert (
        drawn(found)
        == """
error[SP201]: b
 --> t:1:15
  |
1 |     let a   = \u4e2d\u0301 + b
  |                    ^ here
"""
    )


def test_what_a_screen_would_obey_is_shown_by_number() -> None:
    source = Source("a\x1b[2J.space", 'let a = "\x1b[31m\u202e" + b\x9b')
    found = (
        error("SP201", "no \x07name", span(source, "b"), "h\u2066ere")
        .note("a\rb")
        .hint("c\x00")
        .also(span(source, "let"), "\x85")
    )
    assert (
        drawn(found)
        == """
error[SP201]: no \\x07name
 --> a\\x1b[2J.space:1:20
  |
1 | let a = "\\x1b[31m\\u{202e}" + b\\x9b
  |                              ^ h\\u{2066}ere
  | --- \\x85
  |
  = a\\x0db
help: c\\x00
"""
    )


@given(st.text(max_size=60), st.text(max_size=30), st.data())
def test_no_raw_control_whatever_the_text(body: str, name: str, data: st.DataObject) -> None:
    source = Source(name, body)
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, len(body)))
    found = error("SP101", body, Span(source, start, end), name).also(Span(source, 0, 0), body)
    found = found.note(body).hint(name)
    for shown in (text([found]), *(s for s in _strings(as_json([found])))):
        categories = {unicodedata.category(c) for c in shown if c != "\n"}
        assert not categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}
        shown.encode()


def _strings(value: object) -> list[str]:
    if isinstance(value, dict):
        return [s for child in value.values() for s in _strings(child)]
    if isinstance(value, list):
        return [s for child in value for s in _strings(child)]
    return [value] if isinstance(value, str) else []


def test_long_lines_and_messages_are_cut() -> None:
    source = Source("t", "let a = " + "x + " * 1000 + "here" + " + x" * 1000)
    shown = text([error("SP201", "y" * 10_000, span(source, "here"), "this")])
    assert max(map(len, shown.splitlines()[1:])) < WIDTH + 20
    assert len(shown.splitlines()[0]) < MESSAGE + 40
    line, marks = shown.splitlines()[3:5]
    assert line[marks.index("^") : marks.rindex("^") + 1] == "here"
    assert line.endswith("...")
    assert " ..." in line[:8]


def test_color_changes_nothing_but_the_color() -> None:
    found = error("SP304", "differ", span(SPACE, "+"), "here").note("a").hint("b")
    colored = text([found], color=True)
    assert "\x1b[1;31merror[SP304]\x1b[0m" in colored
    plain = colored
    for code in ("1;31", "1;33", "1;34", "1;36", "1", "0"):
        plain = plain.replace(f"\x1b[{code}m", "")
    assert plain == text([found])


def test_json() -> None:
    found = (
        error("SP304", "differ", span(SPACE, "+"), "here")
        .also(span(SPACE, "head"), "there")
        .note("a", "b")
        .hint("c")
    )
    (data,) = as_json([found])
    assert data == {
        "code": "SP304",
        "severity": "error",
        "headline": "differ",
        "file": "autoformer.space",
        "line": 5,
        "column": 9,
        "end": {"line": 5, "column": 10},
        "label": "here",
        "labels": [
            {
                "file": "autoformer.space",
                "line": 2,
                "column": 7,
                "end": {"line": 2, "column": 11},
                "label": "there",
            }
        ],
        "notes": ["a", "b"],
        "help": "c",
    }
    assert json.loads(json.dumps(data)) == data
    (data,) = as_json([warning("SP604", "no place")])
    assert (data["severity"], data["file"], data["line"]) == ("warning", None, None)


def test_visible_keeps_what_can_be_seen() -> None:
    assert visible("a\nb \u00e9 \u4e2d") == "a\nb \u00e9 \u4e2d"
    assert visible("\ud800\u200d\ue000") == "\\u{d800}\\u{200d}\\u{e000}"
