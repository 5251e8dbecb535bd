"""From a text to its tree, with every error of the text at once.

    parse(Source("a.space", text))              -> tree.File
    expression(Source("--where", "macs <= 1G")) -> tree.Expr

After an error the parse goes on at the next statement of the same body, so that one mistake hides
no other. Whatever the text, the outcome is a tree or a SpaceError.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from spacelang.collector import collector_paused
from spacelang.diagnostics import Report, Source, SpaceError, Span, error
from spacelang.grammars.loader import END, tables
from spacelang.syntax import tree
from spacelang.syntax.build import Builder
from spacelang.syntax.machine import HEIGHT, Machine, TooHigh
from spacelang.syntax.tokens import Scan, Token, scan


@lru_cache(maxsize=8)
@collector_paused()
def parse(source: Source) -> tree.File:
    """The tree of a file, kept for the next who reads the same libraries. Raises SpaceError (SP101
    to SP103) with all that is wrong."""
    items, found = _parse(source, "start")
    span = Span(source, 0, len(source.text))
    return tree.File(tuple(items), found.comments, span=span)


def expression(source: Source, times: bool = False) -> tree.Expr:
    """The tree of a single expression, as in `--where`; with `times` numbers may have units of
    time. Raises SpaceError (SP101 to SP103)."""
    return _parse(source, "expr", times)[0]


def _parse(source: Source, start: str, times: bool = False) -> tuple[Any, Scan]:
    report = Report()
    grammar = tables("space")
    found = scan(source, grammar, report, times)
    machine = Machine(grammar, Builder(source, report), start)
    tokens, position = found.tokens, 0
    try:
        while (position := machine.run(tokens, position)) < len(tokens):
            token = tokens[position]
            if not any(first <= token.start <= last for first, last in found.doubtful):
                # Imported where something is wrong only: a right text starts 5 ms sooner.
                from spacelang.syntax.describe import describe

                report.add(describe(source, machine, tokens, position))
            position = _resume(source, machine, tokens, position)
    except TooHigh as high:
        first, last = high.args
        headline = f"an expression or body of more than {HEIGHT} levels"
        deep = error("SP102", headline, Span(source, first, last), "too deep")
        report.add(deep.hint("give parts a name of their own, by `let` or as a block"))
    if report.errors:
        raise SpaceError(sorted(report, key=lambda found: found.primary.span.start))
    return machine.values[0], found


def _resume(source: Source, machine: Machine, tokens: list[Token], position: int) -> int:
    """Go back to the innermost body that is open, and on to its next statement or its end; past
    the last token where there is none."""
    while not machine.begins_statement(machine.states[-1]):
        if not machine.values:
            return len(tokens)
        machine.unwind(len(machine.values) - 1)
    depth = sum(isinstance(value, Token) and value.kind == "LBRACE" for value in machine.values)
    begins = machine.tables.actions[machine.states[-1]]
    while (token := tokens[position]).kind != END:
        if token.depth == depth - 1 and token.kind == "RBRACE":
            return position
        if (
            token.depth == depth
            and token.kind in begins
            and _first_of_line(source, tokens, position)
            and (token.kind != "NAME" or tokens[position + 1].kind in ("EQUAL", "COMMA"))
        ):
            return position
        position += 1
    return len(tokens)


def _first_of_line(source: Source, tokens: list[Token], position: int) -> bool:
    before = tokens[position - 1].end if position else 0
    return position == 0 or "\n" in source.text[before : tokens[position].start]
