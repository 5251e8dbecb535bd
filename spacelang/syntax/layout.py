"""Documents and their layout on lines of a bounded width.

    render(concat("f(", Align(Fill(("a,", "b"))), ")"), 120)

A document is a text or one of the classes here. `Fill` puts as many parts on a line as fit;
`Choice` takes the first of its forms whose every line fits. All of it runs on one stack.
"""

from __future__ import annotations

from dataclasses import dataclass

# Alignment further to the right than this leaves too little room: it becomes an indent instead.
DEEPEST = 72
INDENT = 4


@dataclass(frozen=True, slots=True)
class Concat:
    parts: tuple[Doc, ...]


@dataclass(frozen=True, slots=True)
class Fill:
    """Parts with a space between two that stand on one line, and a new line where they do not fit.

    With `hug` a part that is too long even for a line of its own begins on the line under way.
    """

    parts: tuple[Doc, ...]
    hug: bool = False


@dataclass(frozen=True, slots=True)
class Stack:
    """Parts below each other."""

    parts: tuple[Doc, ...]


@dataclass(frozen=True, slots=True)
class Align:
    """New lines begin in the column where the document begins, moved by `shift`."""

    doc: Doc
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Indent:
    """New lines begin `INDENT` further than those around."""

    doc: Doc


@dataclass(frozen=True, slots=True)
class At:
    """New lines begin in a column counted from the left margin."""

    column: int
    doc: Doc


@dataclass(frozen=True, slots=True)
class Break:
    """A new line, always; `blank` leaves one empty before it."""

    column: int
    blank: bool = False


@dataclass(frozen=True, slots=True)
class Remark:
    """A comment at the end of a line; it moves no line break."""

    text: str


@dataclass(frozen=True, slots=True)
class Noted:
    """A document that begins a line, and its comment: after its last line, or where there is no
    room, before its first."""

    doc: Doc
    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Each form but the last is taken only if it fits without a break of its own."""

    forms: tuple[Doc, ...]


Doc = str | Concat | Fill | Stack | Align | Indent | At | Break | Remark | Noted | Choice


@dataclass(frozen=True, slots=True)
class _Rest:
    """A Fill of which the parts from a position on are still to come."""

    fill: Fill
    position: int


@dataclass(frozen=True, slots=True)
class _Note:
    """The end of a Noted that began at a line."""

    text: str
    line: int


# What is still to do: the indent of new lines, whether all is on one line, and the document.
_Entry = tuple[int, bool, Doc | _Rest | _Note]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the result: its indent is part of `text`."""

    text: str
    remark: str = ""


def concat(*parts: Doc) -> Concat:
    return Concat(parts)


def render(doc: Doc, width: int) -> list[Line]:
    """The lines of a document; a line is longer than `width` only where nothing may break it."""
    lines: list[Line] = []
    pieces: list[str] = []
    remark = ""
    column = 0
    stack: list[_Entry] = [(0, False, doc)]

    def new_line(indent: int) -> None:
        nonlocal column, remark
        lines.append(Line("".join(pieces).rstrip(), remark))
        pieces[:] = [" " * indent]
        column, remark = indent, ""

    while stack:
        indent, flat, part = stack.pop()
        match part:
            case str():
                pieces.append(part)
                column += len(part)
            case Concat():
                stack += [(indent, flat, child) for child in reversed(part.parts)]
            case Align():
                start = column if column <= DEEPEST else indent + INDENT
                stack.append((max(start + part.shift, 0), flat, part.doc))
            case Indent():
                stack.append((indent + INDENT, flat, part.doc))
            case At():
                stack.append((part.column, flat, part.doc))
            case Break():
                new_line(part.column)
                if part.blank:
                    new_line(part.column)
            case Remark():
                remark = part.text
            case Noted():
                stack.append((indent, flat, _Note(part.text, len(lines))))
                stack.append((indent, flat, part.doc))
            case _Note():
                if column + 2 + len(part.text) <= width:
                    remark = part.text
                else:
                    lines.insert(part.line, Line(" " * indent + part.text))
            case Stack():
                for child in reversed(part.parts[1:]):
                    stack += [(indent, flat, child), (0, flat, Break(indent))]
                stack.append((indent, flat, part.parts[0]))
            case Fill():
                stack.append((indent, flat, _Rest(part, 0)))
            case Choice():
                chosen = part.forms[-1]
                for form in part.forms[:-1]:
                    if flat or _fits(form, indent, column, stack, width):
                        chosen, flat = form, True
                        break
                stack.append((indent, flat, chosen))
            case _Rest(fill, position):
                child = fill.parts[position]
                if position + 1 < len(fill.parts):
                    stack.append((indent, flat, _Rest(fill, position + 1)))
                fits = flat or _fits(child, indent, column + bool(position), stack, width)
                if not fits and position:
                    fits = _fits(child, indent, indent, stack, width)
                    if fits or not fill.hug:
                        new_line(indent)
                        position = 0
                if position:
                    pieces.append(" ")
                    column += 1
                stack.append((indent, fits, child))
    lines.append(Line("".join(pieces).rstrip(), remark))
    return lines


def _fits(doc: Doc, indent: int, column: int, rest: list[_Entry], width: int) -> bool:
    """Whether a document fits on one line (on several, where it has breaks of its own), together
    with what follows it up to the next place that may break."""
    stack: list[_Entry] = [(indent, True, doc)]
    below = len(rest)
    own = True
    while column <= width:
        if not stack:
            if not below:
                return True
            own = False
            below -= 1
            stack.append(rest[below])
        indent, flat, part = stack.pop()
        match part:
            case str():
                column += len(part)
            case Concat():
                stack += [(indent, flat, child) for child in reversed(part.parts)]
            case Align() | Indent() | At():
                stack.append((indent, flat, part.doc))
            case Break():
                if not own:
                    return True
                column = part.column
            case Remark() | _Note():
                return True
            case Noted():
                stack.append((indent, flat, part.doc))
            case Stack():
                stack += [(indent, flat, part.parts[0]), (0, flat, Break(0))][::-1]
            case Fill():
                stack.append((indent, flat, _Rest(part, 0)))
            case Choice():
                stack.append((indent, flat, part.forms[0] if flat else part.forms[-1]))
            case _Rest(fill, position):
                if position and not flat:
                    return True
                column += bool(position)
                if position + 1 < len(fill.parts):
                    stack.append((indent, flat, _Rest(fill, position + 1)))
                stack.append((indent, flat, fill.parts[position]))
    return False
