"""Diagnostics as text with excerpts, and as JSON data.

    error[SP304]: these two sizes must be equal
      --> autoformer.space:23:11
       |
    23 |     x = x + drop_path(linear(a, heads * head))
       |           ^ left is [B, 197, width], right is [B, 197, 64*heads]
       |
       = first disagreement: width = 192, encoder[0].heads = 4
    help: project back to the width: linear(a, width)

Nothing of a text reaches the screen raw: control and direction characters are shown by number.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from spacelang.diagnostics import NOWHERE, Diagnostic, Label, Source, Span

TAB = 4
# Of a longer line only a window around the place is shown.
WIDTH = 160
MESSAGE = 2_000

_COLORS = {"error": "1;31", "warning": "1;33", "place": "1;34", "help": "1;36", "bold": "1"}
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def text(diagnostics: Iterable[Diagnostic], color: bool = False) -> str:
    """The diagnostics for a person, a blank line between them."""
    return "\n\n".join("\n".join(_lines(found, _Paint(color))) for found in diagnostics)


def as_json(diagnostics: Iterable[Diagnostic]) -> list[dict[str, Any]]:
    """The diagnostics for a program. Lines and columns count from 1, in characters; `end` is the
    place after the last character; a finding without a place has null there."""
    return [
        {
            "code": found.code,
            "severity": found.severity,
            "headline": visible(found.headline),
            **_place(found.primary),
            "labels": [_place(label) for label in found.secondary],
            "notes": [visible(note) for note in found.notes],
            "help": visible(found.help),
        }
        for found in diagnostics
    ]


def visible(text: str) -> str:
    """The text with every character that a screen would obey or hide written as its number."""
    shown = text if len(text) <= MESSAGE else text[:MESSAGE] + " ..."
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(c if c == "\n" else _cell(c) for c in shown)


def _cell(character: str) -> str:
    """How one character is shown."""
    if unicodedata.category(character) not in _HIDDEN:
        return character
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{{{number:04x}}}"


def _place(label: Label) -> dict[str, Any]:
    span = label.span
    if span == NOWHERE:
        return {"file": None, "line": None, "column": None, "end": None, "label": label.text}
    line, column = span.position
    last = span.source.position(span.end)
    return {
        "file": visible(span.source.name),
        "line": line,
        "column": column,
        "end": {"line": last[0], "column": last[1]},
        "label": visible(label.text),
    }


@dataclass(frozen=True, slots=True)
class _Paint:
    on: bool

    def __call__(self, style: str, text: str) -> str:
        return f"\x1b[{_COLORS[style]}m{text}\x1b[0m" if self.on and text else text


@dataclass(frozen=True, slots=True)
class _Mark:
    """A label on a line of a source, from column to before `end`, both from 0."""

    line: int
    column: int
    end: int
    text: str
    primary: bool


def _lines(found: Diagnostic, paint: _Paint) -> Iterator[str]:
    yield (
        paint(found.severity, f"{found.severity}[{found.code}]")
        + paint("bold", f": {visible(found.headline)}")
    )
    labels = [found.primary, *found.secondary]
    places = [(label, index == 0) for index, label in enumerate(labels) if label.span != NOWHERE]
    marks: dict[tuple[str, int], list[_Mark]] = {}
    sources: dict[tuple[str, int], Source] = {}
    for label, primary in places:
        source = label.span.source
        key = (source.name, len(source.text))
        sources[key] = source
        marks.setdefault(key, []).append(_mark(label, primary))
    last = max((mark.line for group in marks.values() for mark in group), default=1)
    margin = " " * len(str(last))
    for index, (key, group) in enumerate(marks.items()):
        source = sources[key]
        arrow = "-->" if index == 0 else ":::"
        where = f" {visible(source.name)}"
        if source.text:
            where += f":{group[0].line}:{group[0].column + 1}"
        yield paint("place", f"{margin}{arrow}") + where
        if source.text:
            yield from _excerpt(source, group, len(margin), paint)
    edge = paint("place", f"{margin} |")
    if any(source.text for source in sources.values()) and (found.notes or found.help):
        yield edge
    for note in found.notes:
        first, *more = visible(note).split("\n")
        yield paint("place", f"{margin} = ") + first
        yield from (f"{margin}   {line}" for line in more)
    if found.help:
        first, *more = visible(found.help).split("\n")
        yield paint("help", "help") + f": {first}"
        yield from (f"      {line}" for line in more)


def _mark(label: Label, primary: bool) -> _Mark:
    """Where a label stands; of a span over several lines its first line is marked."""
    span: Span = label.span
    line, column = span.position
    ends_on, end = span.source.position(span.end)
    if ends_on != line:
        end = len(span.source.line(line)) + 1
    return _Mark(line, column - 1, max(end - 1, column), label.text, primary)


def _excerpt(source: Source, marks: list[_Mark], width: int, paint: _Paint) -> Iterator[str]:
    edge = paint("place", " " * width + " |")
    yield edge
    shown = 0
    lines = {mark.line for mark in marks}
    # A single line between two that are shown costs no more room than the dots would.
    lines |= {line + 1 for line in lines if line + 2 in lines}
    for line in sorted(lines):
        if shown and line > shown + 1:
            yield paint("place", "...")
        shown = line
        here = [mark for mark in marks if mark.line == line]
        here.sort(key=lambda mark: (not mark.primary, mark.column))
        cells, first = _window(source.line(line), here[0].column if here else 0)
        yield paint("place", f"{line:>{width}} |") + f" {''.join(cells)}".rstrip()
        for mark in here:
            start = min(max(mark.column - first, 0), len(cells))
            stop = min(max(mark.end - first, start), len(cells))
            indent = sum(map(_columns, cells[:start]))
            length = max(sum(map(_columns, cells[start:stop])), 1)
            sign = ("^" if mark.primary else "-") * length
            message = f"{sign} {visible(mark.text)}".replace("\n", " ").rstrip()
            style = "error" if mark.primary else "place"
            yield f"{edge} {' ' * indent}{paint(style, message)}"


def _window(line: str, column: int) -> tuple[list[str], int]:
    """What is shown of a line, a cell a character, and which character comes first."""
    first = 0 if len(line) <= WIDTH else max(0, min(column - WIDTH // 3, len(line) - WIDTH))
    cells: list[str] = []
    place = 0
    for character in line[first : first + WIDTH]:
        cell = " " * (TAB - place % TAB) if character == "\t" else _cell(character)
        place += _columns(cell)
        cells.append(cell)
    if first:
        cells[0] = "..."
    if first + WIDTH < len(line):
        cells[-1] = "..."
    return cells, first


def _columns(cell: str) -> int:
    """How many columns of a screen a cell takes."""
    if cell.isascii():
        return len(cell)
    if unicodedata.combining(cell):
        return 0
    return 2 if unicodedata.east_asian_width(cell) in "WF" else 1
