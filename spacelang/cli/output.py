"""What commands print: JSON for programs, text and tables for people, progress on stderr.

Names from files reach the screen through `visible`, so that none can move a cursor. Colours are for
terminals only, and NO_COLOR turns them off.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO, TypeVar

from spacelang.render import visible

if TYPE_CHECKING:
    from rich.console import Console

Item = TypeVar("Item")
# Where the output is no terminal, tables are as wide as their content asks for, up to this.
WIDE = 200
_STYLES = {"error": "1;31", "warning": "1;33", "good": "1;32", "bold": "1", "dim": "2"}


def dumps(data: object, indent: int | None = None) -> str:
    """JSON of plain values; all ASCII, so that it survives any terminal and pipe."""
    return json.dumps(data, indent=indent, allow_nan=False)


def emit(data: object) -> None:
    """A JSON document on stdout."""
    print(dumps(data, 2))


def say(text: str = "") -> None:
    """Lines on stdout, for people."""
    print("\n".join(visible(line) for line in text.split("\n")))


def complain(text: str, before: str = "") -> None:
    """Lines on stderr."""
    print(before + "\n".join(visible(line) for line in text.split("\n")), file=sys.stderr)


def in_color(stream: TextIO) -> bool:
    """Whether a stream shows colours."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def colored(style: str, text: str, stream: TextIO) -> str:
    """The text in a style of the table above, where the stream shows colours."""
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if in_color(stream) else text


def console(stream: TextIO) -> Console:
    """A rich console that takes no markup from the text it prints."""
    from rich.console import Console

    class Piped(Console):
        """A console that leaves the end of a pipe to `errors.run`; rich would exit with 1."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Piped(
        file=stream,
        width=None if stream.isatty() else WIDE,
        no_color=not in_color(stream),
        force_terminal=None if stream.isatty() else False,
        markup=False,
        emoji=False,
        highlight=False,
    )


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", right: str = ""
) -> None:
    """A table on stdout. `right` has an `r` for each column of figures, anything else for words."""
    from rich.box import SIMPLE
    from rich.table import Table

    drawn = Table(
        box=SIMPLE, title=visible(title) or None, title_justify="left", pad_edge=False, expand=False
    )
    drawn.title_style = "bold"
    for index, column in enumerate(columns):
        figures = right[index : index + 1] == "r"
        drawn.add_column(visible(column), justify="right" if figures else "left", no_wrap=figures)
    for row in rows:
        drawn.add_row(*map(visible, row))
    console(sys.stdout).print(drawn)


def pairs(rows: Iterable[tuple[str, str]]) -> None:
    """Names and values, side by side."""
    kept = [(visible(name), visible(value)) for name, value in rows]
    width = max((len(name) for name, _ in kept), default=0)
    for name, value in kept:
        print(f"{name:<{width}}  {value}")


def many(number: int, noun: str) -> str:
    """1 error, 2 errors."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def exact(number: int) -> str:
    """11669224 -> 11,669,224."""
    return f"{number:,}"


def millions(number: int) -> str:
    """11669224 -> 11.669 M, three decimals always."""
    return f"{number / 1e6:,.3f} M"


def both(number: int) -> str:
    """11669224 -> 11.669 M (11,669,224); small numbers alone."""
    if abs(number) < 10_000:
        return exact(number)
    return f"{millions(number)} ({exact(number)})"


def count_of(number: int) -> str:
    """A number of any length, and its power of ten where that helps: 280,804,921,344 (2.81e11)."""
    digits = decimal(number)
    if len(digits) <= 6:
        return exact(number)
    short = f"{digits[0]}.{digits[1:3]}e{len(digits) - 1}"
    return f"{exact(number)} ({short})" if len(digits) <= 60 else short


def decimal(number: int) -> str:
    """All digits of a number of any length; Python by itself stops at 4,300."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return str(number)
    finally:
        sys.set_int_max_str_digits(limit)


def tracked(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """The items, with a bar on stderr while they are worked on; where that is no terminal none."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console(sys.stderr),
        transient=True,
    )
    with bar:
        yield from bar.track(items, total, description=what)
