"""The text as tokens, under limits, before anything is built of it.

    choose width in {64, 96K}   ->   CHOOSE NAME IN LBRACE NUMBER COMMA NUMBER RBRACE $END

Terminals come from the tables of the grammar. Two rules stand in for a context: after a dot every
word is a WORD; elsewhere a reserved word is itself and any other word a NAME.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import NamedTuple

from spacelang.diagnostics import Diagnostic, Report, Source, Span, error
from spacelang.grammars.loader import END, Tables

BYTES = 1 << 20
TOKENS = 200_000
BRACKETS = 64

CLOSERS = {"(": ")", "[": "]", "{": "}"}

TIMES: Mapping[str, int] = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
"""Units of time, which budgets may have; a number with one is so many nanoseconds."""

# Characters that a reader cannot see, or that turn the text around on the screen.
HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff"
    "\ud800-\udfff]|\r(?!\n)"
)

# Signs of other languages, and what this one says.
FOREIGN: Mapping[str, str] = {
    "...": "write `..` for any leading axes",
    "..=": "write `..`: a range holds its end, `..<` does not",
    "&&": "write `and`",
    "||": "write `or`",
    "**": "write `power(x, 2)`",
    "=>": "write `->` before the type of a result, `:` before a value",
    "+=": "write `x = x + y`: an assignment makes a new value",
    "-=": "write `x = x - y`: an assignment makes a new value",
    "*=": "write `x = x * y`: an assignment makes a new value",
    "/=": "write `x = x / y`: an assignment makes a new value",
    "/*": "a comment begins with `#` and ends with its line",
    ";": "statements need no sign between them",
    "&": "write `and`",
    "!": "write `not`",
    "^": "write `power(x, 2)`",
    "@": "write `einsum` for a product of tensors",
    "?": "write `value if condition else other`",
    "~": "write `not`",
    "\\": "a statement goes on over the end of a line by itself",
}


class Token(NamedTuple):
    """A terminal of the grammar at a place; `depth` is the number of brackets around it."""

    kind: str
    text: str
    start: int
    end: int
    depth: int


@dataclass(frozen=True, slots=True)
class Scan:
    """The tokens of a text, the last of them its end, and its comments.

    `doubtful` are stretches in which a bracket that nothing closes explains any further error.
    """

    tokens: list[Token]
    comments: tuple[Span, ...]
    doubtful: tuple[tuple[int, int], ...]


def scan(source: Source, tables: Tables, report: Report, times: bool = False) -> Scan:
    """Cut a text into tokens; signs that are none are reported and left out.

    With `times` a number may have a unit of time: `4.5ms` is 4500000.
    Raises SpaceError (SP102) at once where the text is larger or deeper than the limits.
    """
    _check_characters(source, report)
    literals = tables.literals
    tokens: list[Token] = []
    comments: list[Span] = []
    brackets = _Brackets(source, report)
    add, opened = tokens.append, brackets.opened
    kind = ""
    for match in _expression(tables, times).finditer(source.text, source.text.startswith("\ufeff")):
        previous, kind = kind, match.lastgroup or ""
        if kind == "WS":
            kind = previous
            continue
        start, end = match.span()
        text = match[0]
        depth = len(opened)
        if kind == "NAME":
            kind = "WORD" if previous == "DOT" else literals.get(text, kind)
        elif kind == "SIGN":
            kind = literals[text]
            if text in CLOSERS:
                brackets.open(text, start)
            elif text in ")]}":
                text = brackets.close(text, start)
                if not text:
                    kind = previous
                    continue
                kind = literals[text]
                depth = len(opened)
        elif kind == "COMMENT":
            comments.append(Span(source, start, end - text.endswith("\r")))
            kind = previous
            continue
        elif kind == "TIME":
            kind, text = "NUMBER", nanoseconds(text)
        elif kind in REFUSED:
            found, kind, text = REFUSED[kind](Span(source, start, end))
            report.add(found)
            if not kind:
                kind = previous
                continue
        add(Token(kind, text, start, end, depth))
        if len(tokens) > TOKENS:
            headline = f"the text has more than {TOKENS:,} words and signs"
            _refuse(report, headline, Span(source, start, end))
    brackets.finish()
    length = len(source.text)
    add(Token(END, "", length, length, 0))
    return Scan(tokens, tuple(comments), tuple(brackets.doubtful))


def is_time(text: str) -> bool:
    """Whether a number is written with a unit of time."""
    return text.lstrip("0123456789.") in TIMES


def nanoseconds(text: str) -> str:
    """4.5ms -> 4500000"""
    unit = text.lstrip("0123456789.")
    return format(Decimal(text.removesuffix(unit)) * TIMES[unit], "f")


@cache
def _expression(tables: Tables, times: bool) -> re.Pattern[str]:
    """One expression for all tokens; of signs the longest comes first."""
    signs = sorted((text for text in tables.literals if not text[0].isalpha()), key=len)
    foreign = sorted(FOREIGN, key=len)
    longer = [text for text in reversed(foreign) if len(text) > 1]
    parts = {
        "WS": r"[ \t\f\r\n]+",
        "NAME": rf"{tables.patterns['WORD']}(?!\w)",
        "TIME": rf"[0-9]+(?:\.[0-9]+)?(?:{'|'.join(TIMES)})(?!\w)" if times else r"(?!)",
        "NUMBER": rf"(?:{tables.patterns['NUMBER']})(?![A-Za-z0-9_])",
        "FOREIGN": "|".join(map(re.escape, longer)),
        "SIGN": "|".join(map(re.escape, reversed(signs))),
        "COMMENT": tables.patterns["COMMENT"],
        "STRING": tables.patterns["STRING"],
        "FIGURE": r"[0-9][A-Za-z0-9_]*(?:\.[0-9][A-Za-z0-9_]*)?",
        "QUOTED": r"'[^'\n]*'|`[^`\n]*`",
        "UNCLOSED": r"\"[^\"\n]*",
        "LETTERS": r"[^\W\d]\w*",
        "STRAY": r"[^\x00-\x7f]+|.",
    }
    # Groups inside the grammar's patterns must not hide the name of the token.
    plain = {name: re.sub(r"(?<!\\)\((?!\?)", "(?:", part) for name, part in parts.items()}
    return re.compile("|".join(f"(?P<{name}>{part})" for name, part in plain.items()))


def _check_characters(source: Source, report: Report) -> None:
    text = source.text
    if len(text) > BYTES or len(text.encode("utf-8", "surrogatepass")) > BYTES:
        _refuse(report, f"the text is larger than {BYTES >> 20} MiB", Span(source, 0, 1))
    for match in HIDDEN.finditer(text, text.startswith("\ufeff")):
        span = Span(source, *match.span())
        headline = f"a character that cannot be seen: {_character(match[0])}"
        report.add(error("SP101", headline, span, "here").hint("remove it"))
    report.check()


def _refuse(report: Report, headline: str, span: Span) -> None:
    report.add(error("SP102", headline, span).hint("divide it into several files and `use` them"))
    report.check()


@dataclass(slots=True)
class _Brackets:
    """The brackets that are open, and what is wrong with those that were."""

    source: Source
    report: Report
    opened: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    doubtful: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    suspect: int | None = None

    def open(self, text: str, start: int) -> None:
        self.opened.append((text, start))
        if len(self.opened) > BRACKETS:
            span = Span(self.source, start, start + 1)
            headline = f"brackets are nested deeper than {BRACKETS}"
            self.report.add(
                error("SP102", headline, span, "one too many").hint(
                    "give parts a name of their own, by `let` or as a block"
                )
            )
            self.report.check()

    def close(self, text: str, start: int) -> str:
        """The bracket as it should be; empty where nothing is open."""
        span = Span(self.source, start, start + 1)
        if not self.opened:
            self.report.add(
                error("SP101", f"this `{text}` closes nothing", span, "nothing is open")
            )
            return ""
        if text not in (CLOSERS[opener] for opener, _ in self.opened):
            opener, place = self.opened.pop()
            right = CLOSERS[opener]
            found = error("SP101", f"`{opener}` is closed by `{text}`", span, f"expected `{right}`")
            self.report.add(found.also(Span(self.source, place, place + 1), "opened here"))
            return right
        while CLOSERS[(entry := self.opened.pop())[0]] != text:
            opener, place = entry
            here = Span(self.source, place, place + 1)
            found = error("SP101", f"nothing closes this `{opener}`", here, "opened here")
            self.report.add(found.also(span, f"still open at this `{text}`"))
            self.doubtful.append((place, start))
        if text == "}" and self.suspect is None and self._stands_apart(entry[1], start):
            self.suspect = entry[1]
        return text

    def finish(self) -> None:
        """Report what is still open at the end: where the layout tells which, that one."""
        if not self.opened:
            return
        opener, place = self.opened[-1]
        if opener == "{" and self.suspect is not None:
            place = self.suspect
        span = Span(self.source, place, place + 1)
        self.report.add(error("SP101", f"nothing closes this `{opener}`", span, "opened here"))
        end = len(self.source.text)
        self.doubtful.append((end if opener == "{" else place, end))

    def _stands_apart(self, opener: int, closer: int) -> bool:
        """Whether a closing bracket begins a line with another indent than its opener's line."""
        line = self.source.line(self.source.position(closer)[0])
        if not line.lstrip().startswith("}"):
            return False
        above = self.source.line(self.source.position(opener)[0])
        return _indent(line) != _indent(above)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _character(text: str) -> str:
    name = unicodedata.name(text[0], "")
    return f"U+{ord(text[0]):04X}" + (f", {name.lower()}" if name else "")


# What is refused: the finding, and the kind and text of the token to go on with, if any.
_Refused = tuple[Diagnostic, str, str]


def _foreign(span: Span) -> _Refused:
    found = error("SP101", f"`{span.text}` is no sign of the language", span, "not known here")
    return found.hint(FOREIGN[span.text]), "", ""


def _stray(span: Span) -> _Refused:
    if span.text in FOREIGN:
        return _foreign(span)
    if span.text.isascii():
        return error("SP101", f"`{span.text}` is no sign of the language", span), "", ""
    return error("SP101", f"a character out of its place: {_character(span.text)}", span), "", ""


def _letters(span: Span) -> _Refused:
    letter = next(character for character in span.text if not character.isascii())
    found = error("SP101", f"a letter that no name may have: {_character(letter)}", span)
    return found.hint("names are made of a-z, A-Z, 0-9 and `_`"), "NAME", span.text


def _figure(span: Span) -> _Refused:
    found = error("SP101", f"`{span.text}` is neither a number nor a name", span)
    hint = "numbers read 197, 0.5, 1e-5, 4K, 5M, 1.3G; names begin with a letter or `_`"
    return found.hint(hint), "NUMBER", "0"


def _quoted(span: Span) -> _Refused:
    text = f'"{span.text[1:-1]}"'
    found = error("SP101", 'a text stands between `"` signs', span, "other signs here")
    return found.hint(f"write {text}"), "STRING", text


def _unclosed(span: Span) -> _Refused:
    found = error("SP101", "a text without its end", span, "runs to the end of the line")
    return found.hint('a text ends with `"` on the line where it began'), "STRING", '""'


REFUSED = {
    "FOREIGN": _foreign,
    "STRAY": _stray,
    "FIGURE": _figure,
    "QUOTED": _quoted,
    "UNCLOSED": _unclosed,
    "LETTERS": _letters,
}
