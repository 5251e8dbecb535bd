"""From `.spaceir` text to pieces: tokens and the parse, under limits (SP603)."""

from __future__ import annotations

import re
from functools import cache

from spacelang.diagnostics import Source, SpaceError, Span, error
from spacelang.grammars.loader import END, Tables, tables
from spacelang.manifest import MAX_GRAPH
from spacelang.syntax.ir_sizes import Piece
from spacelang.syntax.machine import HEIGHT, Machine, TooHigh
from spacelang.syntax.tokens import Token

TOKENS = MAX_GRAPH // 2  # what is written has at least 2.3 characters for each
SHOWN = 6


def parse(source: Source) -> Piece:
    """The pieces of a text. Raises SpaceError (SP603) at the first place that does not fit."""
    grammar = tables("ir")
    tokens = scan(source, grammar)
    machine = Machine(grammar, Piece)
    try:
        position = machine.run(tokens)
    except TooHigh as high:
        start, end = high.args
        raise SpaceError(
            error("SP603", f"more than {HEIGHT} levels in each other", Span(source, start, end))
        ) from high
    if position < len(tokens):
        token = tokens[position]
        expected = sorted(machine.expected())
        found = error("SP603", "this does not fit here", Span(source, token.start, token.end))
        if len(expected) <= SHOWN:
            signs = {kind: f"`{text}`" for text, kind in grammar.literals.items()}
            words = [WORDS.get(kind) or signs.get(kind, kind.lower()) for kind in expected]
            found = found.note(f"expected {' or '.join(words)}")
        raise SpaceError(found)
    return machine.values[0]


WORDS = {
    END: "the end",
    "NAME": "a name",
    "QUOTED": "a quoted name",
    "VALUE": "a value such as %3",
    "NUMBER": "a whole number",
    "STRING": "a text",
}


def scan(source: Source, grammar: Tables) -> list[Token]:
    """The tokens of a text, the last of them its end."""
    text, literals = source.text, grammar.literals
    if len(text) > MAX_GRAPH:
        span = Span(source, 0, 1)
        raise SpaceError(error("SP603", f"the text is larger than {MAX_GRAPH >> 20} MiB", span))
    tokens: list[Token] = []
    position = 0
    match = _expression(grammar).match
    while position < len(text):
        found = match(text, position)
        if found is None:
            raise SpaceError(
                error("SP603", "a sign that means nothing", Span(source, position, position + 1))
            )
        start, position = position, found.end()
        kind = found.lastgroup or ""
        if kind == "SPACE":
            continue
        word = found[0]
        if kind == "SIGN":
            kind = literals[word]
        elif kind == "NAME" and word in literals:
            kind = (
                "NAME" if _is_name(tokens, word, text[position : position + 2]) else literals[word]
            )
        tokens.append(Token(kind, word, start, position, 0))
        if len(tokens) > TOKENS:
            span = Span(source, start, position)
            raise SpaceError(error("SP603", f"more than {TOKENS:,} words and signs", span))
    tokens.append(Token(END, "", len(text), len(text), 0))
    return tokens


def _is_name(tokens: list[Token], word: str, following: str) -> bool:
    """A reserved word is a name after `as`, before `=` without a space, and after `is` if it is no
    boolean."""
    if following[:1] == "=" and following != "==":
        return True
    before = tokens[-1].kind if tokens else ""
    return before == "AS" or (before == "IS" and word not in ("true", "false"))


@cache
def _expression(grammar: Tables) -> re.Pattern[str]:
    """One expression for all tokens; of signs the longest comes first."""
    signs = sorted((text for text in grammar.literals if not text[0].isalpha()), key=len)
    parts = {
        "SPACE": rf"(?:[ \t\r\n]|{grammar.patterns['COMMENT']})+",
        "VALUE": grammar.patterns["VALUE"],
        "NAME": grammar.patterns["NAME"],
        "FLOAT": grammar.patterns["FLOAT"],
        "NUMBER": grammar.patterns["NUMBER"] + r"(?![A-Za-z_])",
        "QUOTED": grammar.patterns["QUOTED"],
        "STRING": grammar.patterns["STRING"],
        "SIGN": "|".join(map(re.escape, reversed(signs))),
    }
    # Groups inside the grammar's patterns must not hide the name of the token.
    plain = {name: re.sub(r"(?<!\\)\((?!\?)", "(?:", part) for name, part in parts.items()}
    return re.compile("|".join(f"(?P<{name}>{part})" for name, part in plain.items()))
