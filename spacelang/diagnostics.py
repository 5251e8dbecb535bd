"""Diagnostics as data: where in which text, what is wrong, and what to do about it.

    report = Report()
    report.error("SP304", "these two sizes must be equal", span, "left is [B, 197, width]")
    report.check()                       # raises SpaceError if anything was an error

Phases add to a `Report` and go on; nobody stops at the first mistake. Rendering is apart
(`render.py`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, cast

Severity = Literal["error", "warning"]

CODES: dict[str, str] = {
    "SP101": "the text is not a statement of the language",
    "SP102": "the text is larger or deeper than the limits allow",
    "SP103": "a number is out of range",
    "SP104": "the file cannot be read",
    "SP201": "an unknown name",
    "SP202": "a name with two owners",
    "SP203": "two parameters or decisions of one path",
    "SP204": "a missing, unknown or repeated argument",
    "SP205": "a value that leaves a `when` with two shapes",
    "SP206": "a block that calls itself",
    "SP207": "a label on something that is no tensor",
    "SP208": "a statement out of its place",
    "SP209": "a value of the wrong kind",
    "SP210": "a number that no arithmetic gives",
    "SP211": "a file that uses itself, or lies outside the project",
    "SP212": "a parameter that no label names",
    "SP301": "a tensor of the wrong rank",
    "SP302": "a size that is not whole",
    "SP303": "a type that does not fit at a border",
    "SP304": "operands whose sizes differ",
    "SP305": "a pattern that does not fit its operands",
    "SP306": "lists of different lengths",
    "SP307": "an index or a slice outside its axis",
    "SP308": "shapes that cannot be settled for the whole space",
    "SP401": "a size by decision without a storage rule",
    "SP402": "tied parameters of different shapes",
    "SP403": "a storage rule that touches nothing",
    "SP404": "two storage rules for one factor",
    "SP405": "an elastic part in front of others",
    "SP501": "a value that is no candidate",
    "SP502": "no architecture meets the requirement",
    "SP503": "a candidate that stands twice, or none",
    "SP504": "a path that matches nothing",
    "SP505": "a list of another length than the places it is for",
    "SP506": "a decision that is not taken",
    "SP507": "a space beyond its limits",
    "SP508": "a requirement that cannot be solved exactly",
    "SP509": "an assignment that cannot be read",
    "SP510": "a decision that nothing reads",
    "SP511": "a requirement that excludes nothing",
    "SP512": "a latency that is not known",
    "SP601": "a pass that does not fit",
    "SP602": "a graph that breaks an invariant",
    "SP603": "IR text that cannot be read",
    "SP604": "an unknown pass, backend, engine or rule",
    "SP605": "a network that cannot be lowered",
    "SP606": "weights of another network",
    "SP701": "an engine that does not fit the space",
    "SP702": "a run folder or artifact that cannot be used",
    "SP703": "a run that cannot go on",
    "SP704": "a data set that cannot be used",
    "SP705": "a teacher that cannot teach the student",
    "SP708": "processes that cannot share a run",
}


@dataclass(frozen=True)
class Source:
    """A text and the name it is shown under."""

    name: str
    text: str = field(repr=False)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The offset of the first character of each line."""
        return (0, *(i + 1 for i, c in enumerate(self.text) if c == "\n"))

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1, of a character offset."""
        line = bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a line, numbered from 1, without its end."""
        start = self.starts[number - 1]
        end = self.starts[number] - 1 if number < len(self.starts) else len(self.text)
        return self.text[start:end].rstrip("\r")


@dataclass(frozen=True)
class Span:
    """A stretch of a source, from `start` to before `end`."""

    source: Source
    start: int
    end: int

    @property
    def text(self) -> str:
        """The text that it covers."""
        return self.source.text[self.start : self.end]

    @property
    def position(self) -> tuple[int, int]:
        """Line and column of its start, each from 1."""
        return self.source.position(self.start)

    def to(self, other: Span) -> Span:
        """From the start of this span to the end of the other."""
        return Span(self.source, self.start, max(self.end, other.end))

    def __repr__(self) -> str:
        line, column = self.position
        return f"{self.source.name}:{line}:{column}"


NOWHERE = Span(Source("<python>", ""), 0, 0)


@dataclass(frozen=True)
class Label:
    """A place and what is to be seen there, in at most eight words."""

    span: Span
    text: str = ""


@dataclass(frozen=True)
class Diagnostic:
    """One finding. `notes` are facts (among them the counter-example), `help` is what to do."""

    code: str
    headline: str
    primary: Label
    severity: Severity = "error"
    secondary: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    help: str = ""

    def also(self, span: Span, text: str = "") -> Diagnostic:
        """With a second place, and what is to be seen there."""
        return replace(self, secondary=(*self.secondary, Label(span, text)))

    def note(self, *notes: str) -> Diagnostic:
        """With further facts, a line each."""
        return replace(self, notes=(*self.notes, *notes))

    def hint(self, text: str) -> Diagnostic:
        """With what to do about it, in place of what was said before."""
        return replace(self, help=text)


def error(code: str, headline: str, span: Span = NOWHERE, label: str = "") -> Diagnostic:
    """An error; `code` is a key of `CODES`."""
    if code not in CODES:
        raise KeyError(f"no diagnostic has the code {code}")
    return Diagnostic(code, headline, Label(span, label))


def warning(code: str, headline: str, span: Span = NOWHERE, label: str = "") -> Diagnostic:
    """A warning: what is legal, and hardly meant."""
    return replace(error(code, headline, span, label), severity="warning")


def placed(diagnostic: Diagnostic, span: Span) -> Diagnostic:
    """The diagnostic at a place, if it has none."""
    if diagnostic.primary.span is not NOWHERE:
        return diagnostic
    return replace(diagnostic, primary=Label(span, diagnostic.primary.text))


IRREGULAR = {"axis": "axes", "entry": "entries", "index": "indices"}


def counted(number: int, noun: str) -> str:
    """A number of things, as messages say it: `no decisions`, `1 decision`, `2,000 decisions`."""
    shown = f"{number:,}" if number else "no"
    return f"{shown} {noun if number == 1 else IRREGULAR.get(noun, f'{noun}s')}"


def spelt(value: object) -> str:
    """A plain value as the language writes it: `"product"`, `["q", "k"]`, `true`, `none`, 0.5."""
    match value:
        case str():
            return f'"{value}"'
        case bool() | None:
            return str(value).lower()
        case tuple() | list():
            return f"[{', '.join(map(spelt, cast('Sequence[object]', value)))}]"
        case _:
            return str(value)


class SpaceError(Exception):
    """What every mistake of a user ends in: the diagnostics of the phase that found it.

    `code` is the exit code of a command that ends in it.
    """

    code = 2

    def __init__(self, diagnostics: Diagnostic | Iterable[Diagnostic]) -> None:
        found = [diagnostics] if isinstance(diagnostics, Diagnostic) else diagnostics
        self.diagnostics = tuple(found)
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        from spacelang.render import text

        return text(self.diagnostics)


class VerificationError(SpaceError):
    """Something is not what its record says: a hash, a proof of equality, a published figure."""

    code = 5


class Report:
    """The findings of a phase, in the order they were made, each place and code once."""

    LIMIT = 100

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, int, str], Diagnostic] = {}

    def add(self, diagnostic: Diagnostic) -> None:
        """Add a finding, once for each code, place and headline; beyond 100 none."""
        span = diagnostic.primary.span
        key = (diagnostic.code, span.source.name, span.start, diagnostic.headline)
        if len(self._found) < self.LIMIT:
            self._found.setdefault(key, diagnostic)

    def extend(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Add several findings."""
        for diagnostic in diagnostics:
            self.add(diagnostic)

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(self._found.values())

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """What forbids to go on."""
        return tuple(d for d in self if d.severity == "error")

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """What does not."""
        return tuple(d for d in self if d.severity == "warning")

    def check(self) -> None:
        """Raise what was found, if any of it is an error."""
        if self.errors:
            raise SpaceError(self)


__all__ = [
    "CODES",
    "NOWHERE",
    "Diagnostic",
    "Label",
    "Report",
    "Severity",
    "Source",
    "SpaceError",
    "Span",
    "VerificationError",
    "error",
    "placed",
    "warning",
]
